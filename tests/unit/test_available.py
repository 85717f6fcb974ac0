"""An ELF core of what is there: every byte is the source's at its own address, nothing is there that was not."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpvault.errors import Incomplete
from dumpvault.formats import elf
from dumpvault.formats.available import AvailableCore
from dumpvault.formats.image import Absent, open_image
from dumpvault.ranges import Ranges
from kit import reader
from support.crashed import elf_file, note
from support.logged import logged_core
from support.vmcore import core, memory

INFO = b"OSRELEASE=5.10.0\nPAGESIZE=4096\n"


def partly(data: bytes, available: Ranges) -> elf.Read:
    """Reads ``data``; ``Incomplete`` where it is not available."""

    def read(offset: int, length: int) -> bytes:
        end = min(offset + length, len(data))
        if offset < end and sum(b - a for a, b in Ranges([(offset, end)]) & available) != end - offset:
            raise Incomplete(f"byte {offset:#x} is not there")
        return data[offset:end]

    return read


def whole(core_: AvailableCore) -> bytes:
    data = core_.read(0, core_.size + 100)
    assert len(data) == core_.size
    return data


ranges = st.lists(st.tuples(st.integers(0, 40_000), st.integers(1, 20_000)), max_size=5).map(
    lambda parts: Ranges((a, a + n) for a, n in parts)
)


@settings(max_examples=120)
@given(ranges, st.sampled_from([32, 64]), st.sampled_from(["little", "big"]), st.integers(0, 9))
def test_what_is_there_is_there_and_nothing_else(available: Ranges, bits: Any, endian: Any, seed: int) -> None:
    """Any part of any core: each physical byte reads as in the source, or is absent because the source has it not."""
    rng = random.Random(seed)
    notes = note(b"CORE", bytes(77), endian) + note(b"VMCOREINFO", INFO, endian)
    high = 0xC0000000 if bits == 32 else 0xC000000000000000
    runs = [(rng.choice((0, high)), 0x10000 * (n + 1), rng.randbytes(rng.randint(1, 9000))) for n in range(5)]
    rng.shuffle(runs)
    data = elf_file(40 if bits == 32 else 21, endian, bits, notes, runs)
    head = (52 + 32 * 6) if bits == 32 else (64 + 56 * 6)
    available = Ranges([*available, (0, head)])
    made = AvailableCore(partly(data, available), available)
    image = open_image(made.read, made.size)
    parsed = elf.parse(made.read)
    assert parsed is not None
    assert (parsed.bits, parsed.endian, parsed.machine) == (bits, endian, 40 if bits == 32 else 21)
    assert parsed.end <= made.size
    notes_at = Ranges([(head, head + len(notes))])
    assert image.vmcoreinfo == (INFO if (notes_at & available) == notes_at else b"")
    at = head + len(notes)
    for virtual, physical, content in runs:
        expected = Ranges([(at, at + len(content))]) & available
        held = [(physical + a - at, b - a) for a, b in expected]
        for address, length in held:
            assert image.physical(address, length) == content[address - physical :][:length]
            found = [s for s in image.segments if s.physical == address and s.length == length]
            assert [s.virtual for s in found] == [virtual + address - physical if virtual else None]
        there = {address + i for address, length in held for i in range(length)}
        for missing in {physical, physical + len(content) - 1, physical + len(content) // 2} - there:
            with pytest.raises(Absent):
                image.physical(missing, 1)
        at += len(content)
    assert sum(s.length for s in image.segments) == sum(
        b - a for a, b in Ranges([(head + len(notes), len(data))]) & available
    )


@settings(max_examples=60)
@given(ranges, st.data())
def test_any_read_is_a_slice(available: Ranges, data: st.DataObject) -> None:
    """Reads at any offset and length equal slices of the whole, past the end too; pages of the source stay pages."""
    source = core(random.Random(1).randbytes(8 * 4096))
    available = Ranges([*available, (0, 4096)])
    made = AvailableCore(partly(source, available), available)
    all_of_it = whole(made)
    offset, length = data.draw(st.integers(0, made.size + 5000)), data.draw(st.integers(0, 50_000))
    assert made.read(offset, length) == all_of_it[offset : offset + length]
    parsed = elf.parse(reader(all_of_it))
    assert parsed is not None
    for _, at, _, _, length in elf.segments(parsed, reader(all_of_it)):
        if length > 64:
            assert (source.index(all_of_it[at : at + length]) - at) % 4096 == 0


def test_all_of_a_core_is_the_same_memory() -> None:
    """With nothing missing, the same segments at the same addresses."""
    data = logged_core()
    made = AvailableCore(reader(data), Ranges([(0, len(data))]))
    ours, theirs = open_image(made.read, made.size), open_image(reader(data), len(data))
    assert ours.segments == theirs.segments
    assert ours.vmcoreinfo == theirs.vmcoreinfo


def test_readelf_takes_it(tmp_path: Path) -> None:
    """binutils reads its headers and notes without a warning."""
    readelf = shutil.which("readelf") or pytest.skip("NOT TESTED: no readelf here")
    data = logged_core()
    available = Ranges([(0, 30_000), (70_000, 71_000), (200_000, 1 << 30)])
    (tmp_path / "core").write_bytes(whole(AvailableCore(partly(data, available), available)))
    done = subprocess.run([readelf, "-hln", tmp_path / "core"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "CORE (Core file)" in done.stdout
    assert "VMCOREINFO" in done.stdout


def test_headers_that_are_not_there() -> None:
    """Without its own headers, or with part of them, there is no core: what reading says passes through."""
    data = core(memory(8))
    for available in (Ranges([]), Ranges([(64, len(data))]), Ranges([(0, 100)])):
        with pytest.raises(Incomplete):
            AvailableCore(partly(data, available), available)
    for text in (b"", bytes(5000), b"KDUMP   " + bytes(5000), b"\x7fELF"):
        with pytest.raises(elf.MalformedElf):
            AvailableCore(reader(text), Ranges([(0, len(text))]))


def test_a_table_of_more_than_65534_segments() -> None:
    """Every other page of a large core: more segments than e_phnum can say, and each still found."""
    pages = 70_000
    table = elf.write_headers([(elf.PT_LOAD, 0, 0, 0)])
    data = elf.write_headers([(elf.PT_LOAD, 4096, 0x100000, pages * 2 * 512)]).ljust(4096, b"\0")
    content = b"".join(i.to_bytes(4, "little") * 128 for i in range(pages * 2))
    data += content
    available = Ranges([(0, len(table)), *((4096 + 1024 * i, 4096 + 1024 * i + 512) for i in range(pages))])
    made = AvailableCore(partly(data, Ranges([(0, len(data))])), available)
    parsed = elf.parse(made.read)
    assert parsed is not None
    assert parsed.phnum == pages
    for i, (_, offset, _, address, length) in enumerate(elf.segments(parsed, made.read)):
        if i % 9973 == 0:
            assert (address, length) == (0x100000 + 1024 * i, 512)
            assert made.read(offset, 4) == (2 * i).to_bytes(4, "little")
