"""The instruments of the release tests, checked before they are believed: the machine and the kernel's arithmetic."""

from __future__ import annotations

import errno
import json
import re
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpvault.formats import elf
from dumpvault.ranges import Ranges
from support.layouts import layouts
from support.machine import Layout, Machine, standard_layout
from support.phyp_kernel import PhypKernel, scan

PAGE = 4096


def _kernel() -> PhypKernel:
    """64 pages, the reserve from page 16 to the end, the scratch area from page 48."""
    return PhypKernel(PAGE, 64, 16 * PAGE, 48 * PAGE, 48 * PAGE, 16 * PAGE)


@settings(deadline=None, max_examples=60)
@given(layouts(), st.randoms(use_true_random=False))
def test_which_bytes_stand_in_a_page_by_changing_it(layout: Layout, random: Random) -> None:
    """``from_page`` names exactly the vmcore bytes that change when every byte of that page is changed."""
    machine = Machine(layout, random.randrange(100))
    notes = elf.parse(machine.read).notes[0]
    for number in range(layout.pages):
        page = slice(number * layout.page, (number + 1) * layout.page)
        kept = machine.memory[page]
        machine.memory[page] = bytes(byte ^ 0xFF for byte in kept)
        after = machine.read(0, machine.size)
        machine.memory[page] = kept
        difference = int.from_bytes(after) ^ int.from_bytes(machine.pristine)
        changed = Ranges(m.span() for m in re.finditer(rb"[^\0]+", difference.to_bytes(machine.size)))
        named = machine.from_page(number)
        # Notes are a digest of the saved state: now and then a byte of it stays the same.
        assert not changed - named
        assert not named - changed - Ranges([(notes.offset, notes.end)])


def test_vmcore_is_what_it_was_at_the_crash() -> None:
    """Low memory is read from its copy, not from what the running kernel made of it; overlapping loads agree."""
    machine = Machine(standard_layout(64))
    core = elf.parse(machine.read)
    assert (core.bits, core.endian, core.end) == (64, "big", machine.size)
    scratch = machine.layout.scratch[0]
    for load in core.memory:
        seen = machine.read(load.offset, load.length)
        start = scratch + load.address if load.address < machine.layout.reserve else load.address
        assert seen == machine.memory[start : start + load.length]
    assert b"CRASHTIME=" in machine.read(core.notes[0].offset, core.notes[0].length)
    assert b"SYMBOL(_stext)=" in machine.pristine
    assert b"SECRET-MARKER" in machine.pristine


def test_freed_pages_are_overwritten_at_once_and_the_hook_comes_before() -> None:
    """The hook still sees the page; the next read of the vmcore sees noise there and nowhere else."""
    seen = []
    machine = Machine(standard_layout(64))
    machine.on_release = lambda start, length, pages: seen.append(
        (start, length, pages, machine.read(0, machine.size) == machine.pristine)
    )
    start = 20 * PAGE
    machine.write_release(f"{start:#x} {PAGE:x}\n".encode())
    assert seen == [(start, PAGE, [20, 21], True)]
    expected = machine.from_page(20) | machine.from_page(21)
    after = machine.read(0, machine.size)
    for offset in range(0, machine.size, 256):
        same = after[offset : offset + 256] == machine.pristine[offset : offset + 256]
        assert same is not bool(expected & Ranges([(offset, offset + 256)]))
    assert machine.lost([]) == [20, 21]
    assert machine.lost(machine.from_page(20)) == [21]
    assert machine.lost(expected) == []


def test_freed_cpu_area_spoils_the_notes() -> None:
    """The saved registers stand in the CPU area, so the notes are lost with it."""
    machine = Machine(standard_layout(64))
    machine.write_release(b"%x 1000" % machine.layout.cpu[0])
    notes = elf.parse(machine.read).notes[0]
    assert machine.read(notes.offset, notes.length) != machine.pristine[notes.offset : notes.end]


def test_bad_page_fails_the_whole_read() -> None:
    """EFAULT and no count, also when the bad page is the last of many; reads beside it succeed."""
    machine = Machine(standard_layout(64), bad_pages={40})
    ((start, end),) = machine.unreadable
    with pytest.raises(OSError) as raised:
        machine.read(0, end)
    assert raised.value.errno == errno.EFAULT
    assert len(machine.read(0, start)) == start
    assert machine.read(end, machine.size) == machine.pristine[end:]


def test_fadump_takes_one_one() -> None:
    """Only ``1`` is accepted, once; the vmcore is gone and the reserve free."""
    machine = Machine(standard_layout(64))
    for wrong in (b"", b"0", b"2", b"11", b"1\n\n"):
        with pytest.raises(OSError) as raised:
            machine.write_fadump(wrong)
        assert raised.value.errno == errno.EINVAL
    assert machine.read(0, machine.size) == machine.pristine
    machine.write_fadump(b"1\n")
    with pytest.raises(OSError):
        machine.read(0, 1)
    assert machine.kernel.freed == set(range(16, 64))
    with pytest.raises(OSError):
        machine.write_fadump(b"1")


def test_state_travels_as_json() -> None:
    """A twin replays what was done and comes to the same memory."""
    machine = Machine(standard_layout(64), seed=7)
    machine.write_release(b"14000 3000")
    machine.write_release(b"20000 1000")
    twin = Machine(standard_layout(64), seed=7)
    twin.replay(json.loads(json.dumps(machine.state)))
    assert twin.memory == machine.memory
    assert twin.state == machine.state


@pytest.mark.parametrize(
    ("data", "numbers"),
    [
        (b"0x40000000 0x10000000\n", [0x40000000, 0x10000000]),
        (b"40000000 10000000", [0x40000000, 0x10000000]),
        (b"  0XaB\n\tCd", [0xAB, 0xCD]),
        (b"10 20 30", [0x10, 0x20]),
        (b"0x 0x10", [0, 0x10]),
        (b"1", [1]),
        (b"", []),
        (b"10,20", [0x10]),
        (b"-10 20", []),
        (b"start length", []),
        (b"1\0 2", [1]),
        (b"1g 2", [1]),
        (b"10000000000000002 1", [2, 1]),
    ],
)
def test_scan_is_the_kernels(data: bytes, numbers: list[int]) -> None:
    """Hexadecimal with or without 0x, white space of any kind between, what follows ignored, digits too many wrap."""
    assert scan(data) == numbers


@pytest.mark.parametrize("data", [b"", b"100\n", b"x 1", b"1,2"])
def test_kernel_refuses_less_than_two_numbers(data: bytes) -> None:
    """EINVAL, and nothing is freed."""
    kernel = _kernel()
    with pytest.raises(OSError) as raised:
        kernel.store(data)
    assert raised.value.errno == errno.EINVAL
    assert (kernel.freed, kernel.writes, kernel.rejected) == (set(), [], [data])


@pytest.mark.parametrize(
    ("write", "freed", "flags"),
    [
        ((20, 2), range(20, 23), ""),  # one page more than asked
        ((20, 0), range(20, 21), ""),
        ((10, 4), range(16, 21), "below"),  # raised, not shortened
        ((60, 4), range(60, 64), "beyond"),  # the page after the end is touched
        ((60, 3), range(60, 64), ""),
        ((60, 400), range(60, 64), "beyond"),  # clamped
        ((64, 0), range(0), "beyond"),
        ((65, 1), range(0), "beyond runaway"),  # end - start underflows
        ((20, 2**52 - 4), range(20, 64), "beyond runaway"),  # start + length wraps and is not clamped
    ],
)
def test_kernel_frees(write: tuple[int, int], freed: range, flags: str) -> None:
    """The handler's arithmetic, case by case; numbers are pages."""
    kernel = _kernel()
    got = kernel.store(b"%x %x" % (write[0] * PAGE, write[1] * PAGE))
    assert got == list(freed)
    assert flags == " ".join(
        name
        for name, value in (("below", kernel.below), ("beyond", kernel.beyond), ("runaway", kernel.runaway))
        if value
    )


def test_kernel_registers_again_only_at_the_exact_sum() -> None:
    """Lengths are summed as written: the whole reserve in pieces registers once, a page twice spoils it for good."""
    whole = [(16, 32), (48, 16)]
    for extra, registrations in (([], 1), ([(20, 1)], 0)):
        kernel = _kernel()
        for start, length in [*extra, *whole]:
            kernel.store(b"%x %x" % (start * PAGE, length * PAGE))
        assert kernel.registrations == registrations
        assert list(kernel.double_released) == ([(20 * PAGE, 21 * PAGE)] if extra else [])
