"""``release_region``: every form in which it is shown, nonsense of every kind, and the one form in which it is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpvault.formats import release_region
from support.machine import Machine, standard_layout
from support.phyp_kernel import scan

KERNEL = "CPU:0x177fee000-0x10000: HPTE:0x177ffe020-0x1000: DUMP:0x177fff020-0x10000000, 0x10000000-0x16F1D370A:\n"
NUMBERS = [(0x177FEE000, 0x10000), (0x177FFE020, 0x1000), (0x177FFF020, 0x10000000), (0x10000000, 0x16F1D370A)]


def _numbers(areas: release_region.Areas) -> list[tuple[int, int]]:
    return [(area.start, area.length) for area in (areas.cpu, areas.hpte, areas.scratch, areas.crashed)]


FORMS = {
    "kernel": KERNEL,
    "kernel documentation": (
        "   CPU:0x177fee000-0x10000: HPTE:0x177ffe020-0x1000: /\n"
        "   DUMP:0x177fff020-0x10000000, 0x10000000-0x16F1D370A\n"
    ),
    "wrapped": (
        "CPU:0x177fee000-0x10000: HPTE:0x177ffe020-0x1000:/\nDUMP:0x177fff020-0x10000000, 0x10000000-0x16F1D370A/\n"
    ),
    "without 0x": KERNEL.replace("0x", ""),
    "0X": KERNEL.replace("0x", "0X"),
    "upper case": KERNEL.upper(),
    "lower case": KERNEL.lower(),
    "no spaces": KERNEL.replace(" ", "").strip(),
    "no last colon": KERNEL.rstrip(":\n"),
    "wrapped everywhere": KERNEL.replace(": ", " :\t/\r\n").replace(", ", " ,/\n"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_reads_the_same(form: str) -> None:
    """One line or wrapped, 0x or not, in either case: pairs of start and length, always hexadecimal."""
    assert _numbers(release_region.parse(FORMS[form])) == NUMBERS


def test_documentations_second_range_runs_over_the_scratch_area() -> None:
    """Read as start and length, the documented example overlaps itself; it is read so, and the map copes with it."""
    areas = release_region.parse(FORMS["kernel documentation"])
    assert areas.crashed.start < areas.scratch.start < areas.crashed.end < areas.scratch.end


def test_dump_boot_shows_areas_that_are_not_known() -> None:
    """Counted from 0 and without lengths; only the second DUMP range is known."""
    areas = release_region.parse(Machine(standard_layout(64)).release_region_text("dump-boot"))
    assert _numbers(areas) == [(0, 0), (0x2000, 0), (0x3000, 0), (0x10000, 0x1C000)]
    assert [a.known for a in (areas.cpu, areas.hpte, areas.scratch, areas.crashed)] == [False, False, False, True]


@pytest.mark.parametrize("form", ["one-line", "wrapped"])
def test_machine_shows_what_is_parsed(form: str) -> None:
    """The emulated machine and the parser agree on where everything is."""
    layout = standard_layout(64)
    areas = release_region.parse(Machine(layout).release_region_text(form))  # type: ignore[arg-type]
    assert _numbers(areas) == [layout.cpu, layout.hpte, layout.scratch, layout.crashed]


NONSENSE = {
    "empty": "",
    "newline": "\n",
    "slashes": "/" * 4000,
    "words": "no dump\n",
    "html": "<html>404</html>",
    "three areas": KERNEL.replace("HPTE:0x177ffe020-0x1000: ", ""),
    "one DUMP range": KERNEL.replace(", 0x10000000-0x16F1D370A", ""),
    "three DUMP ranges": KERNEL.replace("370A:", "370A, 0x1-0x1:"),
    "other order": KERNEL.replace("CPU", "X").replace("HPTE", "CPU").replace("X", "HPTE"),
    "no colon between": KERNEL.replace("0x10000: HPTE", "0x10000 HPTE"),
    "no comma": KERNEL.replace("0x10000000, ", "0x10000000 "),
    "no length": KERNEL.replace("-0x1000:", ":"),
    "empty number": KERNEL.replace("-0x1000:", "-:"),
    "0x alone": KERNEL.replace("-0x1000:", "-0x:"),
    "0x twice": KERNEL.replace("-0x1000:", "-0x0x1000:"),
    "minus": KERNEL.replace("-0x1000:", "--0x1000:"),
    "not hexadecimal": KERNEL.replace("177fee000", "177gee000"),
    "other digits": KERNEL.replace("0x1000:", "0x१000:"),
    "a number in two": KERNEL.replace("177fee000", "177 fee000"),
    "a number wrapped": KERNEL.replace("177fee000", "177/\nfee000"),
    "a pair in two": KERNEL.replace("177fee000-0x", "177fee000 - 0x"),
    "17 digits": KERNEL.replace("0x1000:", "0x00000000000001000:"),
    "past 64 bits": KERNEL.replace("0x1000:", "0xffffffffffffffff:"),
    "up to 2**64": KERNEL.replace("0x177ffe020-0x1000", "0xfffffffffffff000-0x1000"),
    "something before": "x" + KERNEL,
    "something after": KERNEL + "x",
    "twice": KERNEL * 2,
    "NUL": KERNEL + "\0",
    "not ASCII": KERNEL.replace("CPU", "CPU\ufffd"),
    "too long": KERNEL + " " * 4096,
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_refused_with_a_reason(kind: str) -> None:
    """Nothing is guessed: ``ValueError``, with words of bounded length."""
    with pytest.raises(ValueError, match=r".") as raised:
        release_region.parse(NONSENSE[kind])
    assert len(str(raised.value)) < 500


@given(st.text(alphabet="CPUHTEDM:0x19aF-, /\n", max_size=120) | st.text(st.characters(codec="latin-1"), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No other exception than ``ValueError`` leaves the parser."""
    try:
        areas = release_region.parse(text)
    except ValueError:
        return
    assert all(number >= 0 for pair in _numbers(areas) for number in pair)


@given(st.data())
def test_any_numbers_come_back(data: st.DataObject) -> None:
    """Whatever the numbers, the case, the prefix and the wrapping: they are read as they were shown."""
    numbers = data.draw(
        st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), min_size=4, max_size=4)
    )

    def shown(number: int) -> str:
        return data.draw(st.sampled_from([f"{number:#x}", f"{number:x}", f"{number:016x}", f"0x{number:X}"]))

    cpu, hpte, scratch, crashed = (f"{shown(start)}-{shown(length)}" for start, length in numbers)
    gap = st.sampled_from(["", " ", "/\n", " /\n   "])
    text = f"CPU:{cpu}:{data.draw(gap)}HPTE:{hpte}:{data.draw(gap)}DUMP:{scratch},{data.draw(gap)}{crashed}:\n"
    if any(start + length >= 2**64 for start, length in numbers):
        with pytest.raises(ValueError, match="end of the address space"):
            release_region.parse(text)
    else:
        assert _numbers(release_region.parse(text)) == numbers


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_what_is_written_is_what_the_kernel_reads(start: int, length: int) -> None:
    """``0x… 0x…`` and a newline, through the kernel's own scan."""
    data = release_region.command(start, length)
    assert scan(data) == [start, length]
    assert data == f"0x{start:x} 0x{length:x}\n".encode()
