"""ELF core headers of both widths and byte orders, honest, unusual and hostile."""

from __future__ import annotations

import struct
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpvault.formats import elf
from dumpvault.formats.elf import PT_LOAD, PT_NOTE, Load, MalformedElf, parse, write_headers
from dumpvault.model import Range
from kit import limited, reader

Bits = Literal[32, 64]
Endian = Literal["little", "big"]
both = pytest.mark.parametrize(("bits", "endian"), [(b, e) for b in (32, 64) for e in ("little", "big")])
SEGMENTS = [(PT_NOTE, 0x1000, 0, 0x200), (PT_LOAD, 0x2000, 0x100000, 0x3000), (PT_LOAD, 0x5000, 0x800000, 0x1000)]
HEADER = {32: 52, 64: 64}
ENTRY = {32: 32, 64: 56}


@both
def test_a_core_is_read_as_it_was_written(bits: Bits, endian: Endian) -> None:
    """Width, byte order, machine, header ranges, notes, end and memory of a plain core."""
    core = parse(reader(write_headers(SEGMENTS, bits=bits, endian=endian, machine=21)))
    assert core is not None
    assert (core.bits, core.endian, core.machine, core.phnum) == (bits, endian, 21, 3)
    assert core.headers == [Range(0, HEADER[bits]), Range(HEADER[bits], 3 * ENTRY[bits])]
    assert core.notes == [Range(0x1000, 0x200)]
    assert core.memory == [Load(0x2000, 0x100000, 0x3000), Load(0x5000, 0x800000, 0x1000)]
    assert core.end == 0x6000


@both
@pytest.mark.parametrize("phoff", [0x40, 0x1234, 0x7000, 0x7001])
def test_program_headers_may_stand_anywhere(bits: Bits, endian: Endian, phoff: int) -> None:
    """e_phoff is trusted: before the segments, unaligned, or behind them, where it moves the end."""
    core = parse(reader(write_headers(SEGMENTS, bits=bits, endian=endian, phoff=phoff)))
    assert core is not None
    assert core.headers[1] == Range(phoff, 3 * ENTRY[bits])
    assert core.end == max(0x6000, phoff + 3 * ENTRY[bits])
    assert len(core.memory) == 2


@both
def test_more_segments_than_sixteen_bits_are_counted_in_section_0(bits: Bits, endian: Endian) -> None:
    """PN_XNUM: 65 534 segments are counted in the header, 65 535 and more in sh_info of section 0."""
    for count in (0xFFFE, 0xFFFF, 0x10001):
        segments = [(PT_LOAD, 4096 * i, 8192 * i, 1) for i in range(count)]
        data = write_headers(segments, bits=bits, endian=endian)
        core = parse(reader(data))
        assert core is not None
        assert core.phnum == count
        assert core.end >= 4096 * (count - 1) + 1
        assert core.memory == []


@both
def test_pn_xnum_without_its_section_is_malformed(bits: Bits, endian: Endian) -> None:
    """The extended count needs a section header, and all of its bytes."""
    data = bytearray(write_headers(SEGMENTS, bits=bits, endian=endian))
    at = {32: 44, 64: 56}[bits]
    struct.pack_into("<H" if endian == "little" else ">H", data, at, 0xFFFF)
    with pytest.raises(MalformedElf, match="PN_XNUM"):
        parse(reader(bytes(data)))
    shoff = len(data) - 10
    struct.pack_into(("<" if endian == "little" else ">") + "IQ"[bits // 64], data, {32: 32, 64: 40}[bits], shoff)
    with pytest.raises(MalformedElf, match="PN_XNUM"):
        parse(reader(bytes(data)))


@both
def test_unsorted_and_overlapping_segments_are_taken(bits: Bits, endian: Endian) -> None:
    """Segments in any order, overlapping in file and memory, are kept as they stand; the end is the greatest."""
    segments = [(PT_LOAD, 0x9000, 0x1000, 0x2000), (PT_LOAD, 0x1000, 0x5000, 0x4000), (PT_LOAD, 0x2000, 0x1000, 0x1000)]
    core = parse(reader(write_headers(segments, bits=bits, endian=endian)))
    assert core is not None
    assert core.memory == [Load(o, a, n) for _, o, a, n in segments]
    assert core.end == 0xB000


def test_segments_that_continue_each_other_are_joined() -> None:
    """Joined only where file and memory both continue, in the order of the program headers (spec, section 6)."""
    segments = [
        (PT_LOAD, 0x1000, 0x1000, 0x1000), (PT_LOAD, 0x2000, 0x2000, 0x1000), (PT_LOAD, 0x3000, 0x9000, 0x1000),
        (PT_LOAD, 0x5000, 0xA000, 0x1000), (PT_LOAD, 0x4000, 0x9000, 0x1000),
    ]  # fmt: skip
    core = parse(reader(write_headers(segments)))
    assert core is not None
    assert core.memory == [
        Load(0x1000, 0x1000, 0x2000), Load(0x3000, 0x9000, 0x1000), Load(0x5000, 0xA000, 0x1000), Load(0x4000, 0x9000, 0x1000),
    ]  # fmt: skip


@pytest.mark.parametrize(("count", "kept"), [(1024, 1024), (1025, 0)])
def test_more_than_1024_memory_ranges_are_given_up(count: int, kept: int) -> None:
    """1024 ranges are listed; with one more the list is empty, as the spec's section 6 says."""
    core = parse(reader(write_headers([(PT_LOAD, 4096 * i, 8192 * i, 4096) for i in range(count)])))
    assert core is not None
    assert len(core.memory) == kept
    assert core.end == max(4096 * count, 64 + 56 * count)


def test_memory_that_was_given_up_stays_given_up() -> None:
    """A range that continues the last one kept, after one too many, does not bring a list back that lacks some."""
    segments = [(PT_LOAD, 8192 * i, 8192 * i, 4096) for i in range(1025)]
    segments.append((PT_LOAD, 8192 * 1023 + 4096, 8192 * 1023 + 4096, 4096))
    core = parse(reader(write_headers(segments)))
    assert core is not None
    assert core.memory == []


def test_empty_segments_and_other_types_hold_nothing() -> None:
    """Segments without file bytes are no notes and no memory; other types move the end only."""
    core = parse(reader(write_headers([(PT_NOTE, 0x1000, 0, 0), (PT_LOAD, 0x2000, 0, 0), (7, 0x3000, 0, 0x100)])))
    assert core is not None
    assert (core.notes, core.memory, core.end) == ([], [], 0x3100)


@both
def test_a_core_without_segments_is_a_core(bits: Bits, endian: Endian) -> None:
    """No program headers at all: the end is that of the header."""
    core = parse(reader(write_headers([], bits=bits, endian=endian)))
    assert core is not None
    assert (core.end, core.notes, core.memory) == (HEADER[bits], [], [])


GOOD = write_headers(SEGMENTS)


@pytest.mark.parametrize(
    ("at", "value"), [(0, b"\x7eELF"), (4, b"\0"), (4, b"\3"), (5, b"\0"), (5, b"\3"), (16, b"\2\0")]
)
def test_other_files_are_no_cores(at: int, value: bytes) -> None:
    """Another magic, class, byte order or type is no ELF core, and not an error."""
    data = bytearray(GOOD)
    data[at : at + len(value)] = value
    assert parse(reader(bytes(data))) is None


@pytest.mark.parametrize("length", [0, 3])
def test_too_few_bytes_to_tell_are_no_core(length: int) -> None:
    """What ends before its magic is not an ELF core."""
    assert parse(reader(GOOD[:length])) is None


@pytest.mark.parametrize("length", [4, 19])
def test_a_cut_header_is_malformed(length: int) -> None:
    """What has the magic and ends before its type cannot be certified whole."""
    with pytest.raises(MalformedElf, match="ends inside the ELF header"):
        parse(reader(GOOD[:length]))


@both
def test_truncated_headers_are_malformed(bits: Bits, endian: Endian) -> None:
    """A file that ends anywhere inside its header or program headers is malformed, not a shorter core."""
    data = write_headers(SEGMENTS, bits=bits, endian=endian)
    for cut in range(20, len(data)):
        with pytest.raises(MalformedElf, match="ends inside"):
            parse(reader(data[:cut]))
    assert parse(reader(data)) is not None


@both
@pytest.mark.parametrize("size", [0, 31, 33, 55, 57, 64, 65535])
def test_program_headers_of_another_size_are_malformed(bits: Bits, endian: Endian, size: int) -> None:
    """e_phentsize must be that of the width."""
    data = bytearray(write_headers(SEGMENTS, bits=bits, endian=endian))
    struct.pack_into("<H" if endian == "little" else ">H", data, {32: 42, 64: 54}[bits], size)
    with pytest.raises(MalformedElf, match=f"program headers of {size} bytes"):
        parse(reader(bytes(data)))


@pytest.mark.parametrize(("offset", "length"), [(2**63 - 1, 1), (0, 2**63), (2**64 - 1, 2**64 - 1), (2**62, 2**62)])
def test_segments_beyond_any_file_are_malformed(offset: int, length: int) -> None:
    """A segment whose end does not fit a file offset is malformed."""
    with pytest.raises(MalformedElf, match="a segment at offset"):
        parse(reader(write_headers([(PT_LOAD, offset, 0, length)])))


def extended(count: int) -> bytes:
    """A header whose section 0 claims ``count`` program headers, and nothing behind it."""
    data = bytearray(write_headers([(PT_LOAD, 0, 0, 1)] * 0xFFFF))[:128]
    struct.pack_into("<I", data, 64 + 44, count)
    return bytes(data)


def test_more_than_a_million_segments_are_not_believed() -> None:
    """2^20 program headers are the most; more are refused without being read."""
    with pytest.raises(MalformedElf, match="no more than 1048576 are believed"):
        parse(reader(extended((1 << 20) + 1)))
    with pytest.raises(MalformedElf, match="ends inside its 1048576 program headers"):
        parse(reader(extended(1 << 20)))


def test_nothing_is_allocated_by_a_claimed_count() -> None:
    """A header that claims 2^32 - 1 or 2^20 segments is refused within 150 MB of address space."""
    done = limited(
        "from dumpvault.formats import elf\n"
        f"for data in ({extended(2**32 - 1)!r}, {extended(1 << 20)!r}):\n"
        "    try: elf.parse(lambda offset, length: data[offset:offset + length])\n"
        "    except elf.MalformedElf: continue\n"
        "    raise SystemExit(1)\n"
        "raise SystemExit(7)",
        memory=150 << 20,
    )
    assert done.returncode == 7, done.stderr[-300:]


def test_reads_are_of_bounded_size() -> None:
    """However many program headers there are, no read asks for more than 64 KiB."""
    data = write_headers([(PT_LOAD, 4096 * i, 8192 * i, 1) for i in range(70000)])
    longest = 0

    def read(offset: int, length: int) -> bytes:
        nonlocal longest
        longest = max(longest, length)
        return data[offset : offset + length]

    assert parse(read) is not None
    assert longest <= 65536


def test_notes_are_kept_up_to_a_bound() -> None:
    """No more than 4096 note ranges are kept, whatever the file lists."""
    core = parse(reader(write_headers([(PT_NOTE, 4096 * i, 0, 8) for i in range(5000)])))
    assert core is not None
    assert len(core.notes) == elf.MAX_NOTES == 4096


@given(st.binary(max_size=400), st.sampled_from([b"", elf.MAGIC, GOOD[:20], GOOD[:54] + b"\x38\0", GOOD[:64]]))
def test_any_bytes_are_a_core_or_not(data: bytes, prefix: bytes) -> None:
    """Random bytes behind the beginning of a core are parsed, refused as malformed, or are no core."""
    try:
        core = parse(reader(prefix + data))
    except MalformedElf:
        return
    if core is not None:
        assert all(load.length > 0 for load in core.memory)
        assert core.end >= HEADER[core.bits]


@given(st.lists(st.tuples(st.sampled_from([PT_LOAD, PT_NOTE, 6]), *[st.integers(0, 2**32 - 1)] * 3), max_size=6),
       st.sampled_from([32, 64]), st.sampled_from(["little", "big"]))  # fmt: skip
def test_any_segments_are_read_back(segments: list[tuple[int, int, int, int]], bits: Bits, endian: Endian) -> None:
    """Whatever segments are written, the same are found in the same order."""
    data = write_headers(segments, bits=bits, endian=endian)
    core = parse(reader(data))
    assert core is not None
    assert [(t, at, address, length) for t, at, _, address, length in elf.segments(core, reader(data))] == segments
