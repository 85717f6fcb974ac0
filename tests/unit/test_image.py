"""Dumps as physical memory: ELF cores of both widths and byte orders, kdump-compressed dumps, and what is neither."""

from __future__ import annotations

import random
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpvault.errors import BadInput, StoreFailed
from dumpvault.formats.image import Absent, Image, Segment, open_image
from dumpvault.formats.seekable import zstd
from kit import reader
from support.crashed import elf_file, kdump_file, note

INFO = b"OSRELEASE=5.10.0\nPAGESIZE=4096\nNUMBER(phys_base)=-4096\n"
PAGE = 4096


def opened(data: bytes) -> Image:
    return open_image(reader(data), len(data))


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("endian", ["little", "big"])
def test_an_elf_core(bits: int, endian: Any) -> None:
    """What it says of itself; reads across segments that meet; segments as they are in the table."""
    high = 0xC0000000 if bits == 32 else 0xC000000000000000
    notes = note(b"CORE", bytes(77), endian) + note(b"VMCOREINFO", INFO, endian) + note(b"CORE", b"x", endian)
    runs = [(0, 0x9000, b"c" * 10), (high, 0x1000, b"a" * 0x1000), (0x2000, 0x2000, b"b" * 0x1000)]
    image = opened(elf_file(40 if bits == 32 else 21, endian, bits, notes, runs))
    assert (image.bits, image.endian, image.release) == (bits, endian, "5.10.0")
    assert image.arch == ("arm" if bits == 32 else "ppc64le" if endian == "little" else "ppc64")
    assert image.vmcoreinfo == INFO
    assert image.info["NUMBER(phys_base)"] == "-4096"
    assert image.segments == [Segment(0x9000, 10, None), Segment(0x1000, 0x1000, high), Segment(0x2000, 0x1000, None)]
    assert image.physical(0x1FFF, 2) == b"ab"
    assert image.physical(0x9000, 10) == b"c" * 10
    assert image.physical(0x9000, 0) == b""
    for at, first in ((0xFFF, 0xFFF), (0x2FFF, 0x3000), (0x9009, 0x900A), (0, 0), (1 << 64, 1 << 64)):
        with pytest.raises(Absent) as caught:
            image.physical(at, 2)
        assert caught.value.address == first


@given(st.data())
def test_segments_in_any_order_that_overlap(data: st.DataObject) -> None:
    """Every byte is the one that the first segment in the table gives, or absent."""
    runs = data.draw(
        st.lists(st.tuples(st.just(0), st.integers(0, 60), st.binary(min_size=1, max_size=30)), max_size=12)
    )
    image = opened(elf_file(62, "little", 64, b"", runs))
    expected: dict[int, int] = {}
    for _, physical, content in reversed(runs):
        expected |= {physical + i: byte for i, byte in enumerate(content)}
    start, length = data.draw(st.integers(0, 100)), data.draw(st.integers(0, 40))
    wanted = [expected.get(at) for at in range(start, start + length)]
    if None in wanted:
        with pytest.raises(Absent) as caught:
            image.physical(start, length)
        assert caught.value.address == start + wanted.index(None)
    else:
        assert image.physical(start, length) == bytes(byte for byte in wanted if byte is not None)


def test_an_elf_core_that_ends_early() -> None:
    """What is behind the end is absent, not an error of the file; no VMCOREINFO is no error of the image."""
    data = elf_file(62, "little", 64, b"", [(0, 0x1000, b"a" * 0x1000)])
    image = opened(data[:-1])
    assert image.physical(0x1000, 0xFFF) == b"a" * 0xFFF
    with pytest.raises(Absent, match="the file ends") as caught:
        image.physical(0x1F00, 0x100)
    assert caught.value.address == 0x1FFF
    assert image.info == {}
    assert image.release is None


def test_memory_that_the_file_does_not_hold_is_no_zeros() -> None:
    """p_memsz beyond p_filesz marks what makedumpfile -E left out: absent."""
    data = bytearray(elf_file(62, "little", 64, b"", [(0, 0x1000, b"a" * 0x1000)]))
    struct.pack_into("<Q", data, 64 + 56 + 40, 0x3000)
    image = opened(bytes(data))
    assert image.physical(0x1000, 0x1000) == b"a" * 0x1000
    with pytest.raises(Absent):
        image.physical(0x2000, 8)


def test_what_is_no_dump_is_refused() -> None:
    """Anything else, a flattened stream, broken headers, too many segments: each by its name."""
    for data, match in (
        (b"", "neither"),
        (bytes(5000), "neither"),
        (b"makedumpfile\0\0\0\0" + struct.pack(">qq", 1, 1), "flattened"),
        (b"\x7fELF" + bytes(3), "ends inside"),
        (elf_file(62, "little", 64, b"", [(0, 2**64 - 1, b"aa")]), "end of the address space"),
        (b"KDUMP   " + bytes(20), "ends inside its header"),
        (b"KDUMP   " + bytes(8000), "no sense"),
    ):
        with pytest.raises(BadInput, match=match) as caught:
            opened(data)
        assert caught.value.hint


def test_notes_are_passed_over_unread() -> None:
    """VMCOREINFO behind a device dump of 20 MB costs a few small reads."""
    notes = note(b"LINUX", bytes(20_000_000), "little", 0x700) + note(b"VMCOREINFO", INFO, "little")
    data = elf_file(62, "little", 64, notes, [])
    got = 0

    def read(offset: int, length: int) -> bytes:
        nonlocal got
        got += length
        return data[offset : offset + length]

    assert open_image(read, len(data)).vmcoreinfo == INFO
    assert got < 10_000


def test_a_note_that_runs_past_the_notes_is_none() -> None:
    """Its text would be whatever memory follows."""
    whole = note(b"VMCOREINFO", INFO, "little")
    for cut in (8, 20, len(whole) - 13, len(whole) - 5):
        data = elf_file(62, "little", 64, whole[:-cut], [(0, 0x1000, b"a" * 0x1000)])
        assert opened(data).vmcoreinfo == b""


def pages(rng: random.Random, count: int, page_size: int = PAGE) -> dict[int, bytes]:
    """Some of the first ``count`` pages, in runs: noise, text, zeros."""
    out: dict[int, bytes] = {}
    page = 0
    while page < count:
        held, run = rng.random() < 0.6, rng.choice((1, 1, 3, 9, 40))
        for i in range(page, min(page + run, count)):
            if held:
                out[i] = rng.choice((rng.randbytes(page_size), b"%8d" % i * (page_size // 8), bytes(page_size)))
        page += run
    return out


@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 200),
    endian=st.sampled_from(("little", "big")),
    version=st.integers(3, 6),
    page_size=st.sampled_from((4096, 16384)),
)
def test_kdump_compressed(seed: int, count: int, endian: Any, version: int, page_size: int) -> None:
    """Pages of all compressions, byte orders and versions; zero pages that share one; what was left out is absent."""
    rng = random.Random(seed)
    held = pages(rng, count, page_size)
    memory = [page for page in range(count) if rng.random() < 0.5]
    image = opened(
        kdump_file(
            held, machine="aarch64", endian=endian, page_size=page_size, count=count, info=INFO, version=version,
            memory=memory, phys_base=-8192,
        )
    )  # fmt: skip
    assert (image.arch, image.endian, image.vmcoreinfo, image.phys_base) == (
        "aarch64",
        endian,
        INFO.rstrip(b"\0"),
        -8192,
    )
    assert image.segments == [Segment(0, count * page_size, None)]
    for _ in range(20):
        start = rng.randrange((count + 1) * page_size)
        length = rng.choice((0, 8, page_size, rng.randrange(5 * page_size)))
        wanted = range(start // page_size, (start + length - 1) // page_size + 1) if length else range(0)
        missing = next((page for page in wanted if page not in held), None)
        if missing is None:
            data = b"".join(held[page] for page in wanted)
            assert image.physical(start, length) == data[start % page_size :][:length]
        else:
            with pytest.raises(Absent) as caught:
                image.physical(start, length)
            assert caught.value.address == missing * page_size


def test_kdump_compressed_notes_without_the_offset_of_vmcoreinfo() -> None:
    """A dump whose sub-header has only the notes."""
    data = bytearray(kdump_file({0: bytes(PAGE)}, count=1, info=INFO))
    struct.pack_into("<qQ", data, PAGE + 32, 0, 0)
    image = opened(bytes(data))
    assert image.vmcoreinfo == INFO
    assert image.release == "5.10.0"
    data = bytearray(kdump_file({0: bytes(PAGE)}, count=1))
    assert opened(bytes(data)).vmcoreinfo == b""
    assert opened(bytes(data)).release == "6.1.0-test"


def test_kdump_compressed_with_one_bitmap() -> None:
    """Nothing was left out and only one bitmap written, as diskdump did: it serves as both."""
    held = {page: b"%8d" % page * 512 for page in range(PAGE * 8 + 3)}
    two = kdump_file({p: held[p] for p in (0, 3, 5)}, count=PAGE * 8 + 3)
    blocks = struct.unpack_from("<I", two, 436)[0]
    assert blocks == 4
    start = two.index(b"KDUMP") + 2 * PAGE
    one = bytearray(two[:start] + two[start + 2 * PAGE :])
    struct.pack_into("<I", one, 436, 2)
    for i in range(3):
        at = start + 2 * PAGE + 24 * i
        (offset,) = struct.unpack_from("<q", one, at)
        struct.pack_into("<q", one, at, offset - 2 * PAGE)
    image = opened(bytes(one))
    assert image.physical(3 * PAGE, PAGE) == held[3]
    with pytest.raises(Absent):
        image.physical(4 * PAGE, 1)


def test_bad_kdump_compressed_dumps() -> None:
    """Compressions that are not read, split dumps, 32-bit machines, cuts and damage: each is named, nothing is zeros."""
    held = {0: b"0" * PAGE, 1: random.Random(1).randbytes(PAGE)}
    good = kdump_file(held, count=2, info=INFO)
    table = 4 * PAGE

    def changed(at: int, value: bytes, source: bytes = good) -> bytes:
        return source[:at] + value + source[at + len(value) :]

    for data, match in (
        (kdump_file(held, count=2, status=2), "LZO"),
        (kdump_file(held, count=2, status=4), "snappy"),
        (kdump_file(held, count=2, split=1), "split"),
        (good[: PAGE + 50], "sub-header"),
        (good[: 2 * PAGE + 50], "bitmaps"),
        (changed(PAGE + 96, struct.pack("<Q", 2**60)), "do not fit"),
        (changed(432, struct.pack("<i", 2**31 - 1)), "no sense"),
    ):
        with pytest.raises(BadInput, match=match) as caught:
            opened(data)
        assert caught.value.hint
    narrow = bytearray(good)
    narrow[412:436] = narrow[424:448]
    narrow[424 + 4 : 424 + 8] = bytes(4)
    with pytest.raises(BadInput, match="32-bit machine"):
        opened(bytes(narrow))
    for data, address, match in (
        (changed(table + 12, struct.pack("<I", 2)), 0, "LZO"),
        (changed(table + 12, struct.pack("<I", 0)), 0, "not 4096 bytes"),
        (changed(table + 12, struct.pack("<I", 0x20)), 0, "does not decompress"),
        (changed(table + 24 + 12, struct.pack("<I", 1)), PAGE, "does not decompress"),
        (changed(table + 8, struct.pack("<I", 0)), 0, "stored in 0 bytes"),
        (changed(table + 8, struct.pack("<I", 2**32 - 1)), 0, "stored in"),
        (changed(table, struct.pack("<Q", 0)), 0, "no place"),
        (changed(table, struct.pack("<Q", 2**63)), 0, "ends inside the page"),
        (good[:-1], PAGE, "ends inside the page"),
        (good[: table + 30], PAGE, "descriptors"),
    ):
        image = opened(data)
        with pytest.raises(BadInput, match=match):
            image.physical(address, 8)
    for data in (good[:-1], changed(table + 24, struct.pack("<Q", 0))):
        image = opened(changed(424, struct.pack("<I", 8), data))
        assert image.physical(0, PAGE) == held[0]
        with pytest.raises(Absent, match="cut short"):
            image.physical(PAGE, 8)


def test_a_page_that_grows_without_end_is_cut_off() -> None:
    """A megabyte of zeros in the place of a page is damage, whatever compressed it."""
    for bomb, flag in ((zlib.compress(bytes(1 << 20)), 1), (zstd.compress(bytes(1 << 20)), 0x20)):
        good = bytearray(kdump_file({0: random.Random(1).randbytes(PAGE)}, count=1))
        table = len(good) - PAGE - 24
        struct.pack_into("<II", good, table + 8, len(bomb), flag)
        good[table + 24 : table + 24 + len(bomb)] = bomb
        with pytest.raises(BadInput, match=r"not 4096 bytes|does not decompress"):
            opened(bytes(good)).physical(0, 8)


def test_pages_in_a_row_are_read_at_once() -> None:
    """64 KiB of 16 pages: bitmap, descriptors, and one read for all their data."""
    held = {page: random.Random(page).randbytes(PAGE) for page in range(64)}
    data = kdump_file(held, count=64)
    calls: list[tuple[int, int]] = []

    def read(offset: int, length: int) -> bytes:
        calls.append((offset, length))
        return data[offset : offset + length]

    image = open_image(read, len(data))
    image.physical(0, 8)
    calls.clear()
    assert image.physical(16 * PAGE, 16 * PAGE) == b"".join(held[page] for page in range(16, 32))
    assert [length for _, length in calls] == [16 * 24, 16 * PAGE]


class Sparse:
    """A kdump-compressed dump of 12 TiB, made up as it is read: one page in 64 is there, all pages hold their number."""

    def __init__(self) -> None:
        self.count = 12 << 40 >> 12
        small = bytearray(kdump_file({}, count=1))
        self.bitmap = self.count // 8
        struct.pack_into("<I", small, 436, 2 * self.bitmap // PAGE)
        struct.pack_into("<Q", small, PAGE + 96, self.count)
        self.head = bytes(small[: 2 * PAGE])
        self.table = len(self.head) + 2 * self.bitmap
        self.size = self.table + self.count // 64 * 24 + (1 << 40)
        self.touched: dict[str, int] = {}

    def read(self, offset: int, length: int) -> bytes:
        if offset < len(self.head):
            return self.head[offset : offset + length]
        if offset < self.table:
            self.touched["bitmap"] = self.touched.get("bitmap", 0) + length
            assert offset >= len(self.head) + self.bitmap, "bitmap 1 is of no interest"
            start = (offset - len(self.head)) % 8
            return ((b"\x01" + bytes(7)) * (length // 8 + 2))[start : start + length]
        if offset < self.table + self.count // 64 * 24:
            self.touched["table"] = self.touched.get("table", 0) + length
            rank, skip = divmod(offset - self.table, 24)
            assert skip == 0
            assert length % 24 == 0
            return b"".join(
                struct.pack("<QIIQ", (1 << 62) + (rank + i) * PAGE, PAGE, 0, 0) for i in range(length // 24)
            )
        return struct.pack("<Q", (offset - (1 << 62)) // PAGE) * (length // 8)


def test_twelve_terabytes_are_read_by_range() -> None:
    """Only as much of the bitmap as lies below is counted, once; then a page costs one descriptor."""
    sparse = Sparse()
    image = open_image(sparse.read, sparse.size)
    low = 64 * 1000
    assert image.physical(low * PAGE, 8) == struct.pack("<Q", 1000)
    assert sparse.touched["bitmap"] <= 3 * 32768
    top = sparse.count - 64
    assert image.physical(top * PAGE, 8) == struct.pack("<Q", top // 64)
    counted = sparse.touched["bitmap"]
    assert counted <= sparse.bitmap + 5 * 32768
    rng = random.Random(1)
    for _ in range(100):
        page = rng.randrange(sparse.count // 64)
        assert image.physical(page * 64 * PAGE + 16, 8) == struct.pack("<Q", page)
    assert sparse.touched["bitmap"] - counted <= 100 * 32768
    assert sparse.touched["table"] == 24 * 102


def test_many_threads_read_one_image() -> None:
    """The same pages, in any order, from several threads."""
    rng = random.Random(3)
    held = pages(rng, 3000)
    image = opened(kdump_file(held, count=3000))
    wanted = [rng.choice(sorted(held)) for _ in range(2000)]
    with ThreadPoolExecutor(8) as pool:
        for page, data in zip(wanted, pool.map(lambda p: image.physical(p * PAGE, PAGE), wanted), strict=True):
            assert data == held[page]


def test_errors_of_the_reader_pass_through() -> None:
    """A store that fails is not a damaged dump."""
    for data in (kdump_file({0: bytes(PAGE)}, count=1), elf_file(62, "little", 64, b"", [(0, 0, bytes(PAGE))])):
        failing: list[bool] = []

        def read(offset: int, length: int, data: bytes = data, failing: list[bool] = failing) -> bytes:
            if failing:
                raise StoreFailed("gone")
            return data[offset : offset + length]

        image = open_image(read, len(data))
        failing.append(True)
        with pytest.raises(StoreFailed):
            image.physical(0, 8)
