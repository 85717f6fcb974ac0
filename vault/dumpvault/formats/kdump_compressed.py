"""kdump-compressed dumps: headers, the bitmap of dumped pages, page descriptors (makedumpfile diskdump_mod.h).

    header block | sub-header blocks | bitmap 1 (memory) | bitmap 2 (dumped) | one descriptor per dumped page | pages

A page's descriptor is found by its rank: how many pages below it are in bitmap 2. Ranks are counted block by block and
only as far up as somebody asks; 8 bytes are kept per GiB of memory (4 KiB pages). Zero pages that makedumpfile
left out (-d 1) are in bitmap 2 and share one descriptor's data: real zeros. A page whose bit is clear is ``Absent``.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from threading import Lock
from typing import Literal

from dumpvault.errors import BadInput
from dumpvault.formats import vmcoreinfo
from dumpvault.formats.memory import ARCHITECTURES, Absent, Image, Read, Segment
from dumpvault.formats.seekable import zstd

__all__ = ["SIGNATURE", "open_image"]

SIGNATURE = b"KDUMP   "

_STATUS = "5I"  # status, block_size, sub_hdr_size, bitmap_blocks, max_mapnr
_STATUS_AT = {64: 424, 32: 412}  # where they stand, by the width of long
_SUB_HEADER = "QiiQQQQQQQQQQQ"
_DESCRIPTOR_SIZE = 24
_ZLIB, _LZO, _SNAPPY, _INCOMPLETE, _ZSTD = 0x1, 0x2, 0x4, 0x8, 0x20

_BLOCK = 32 << 10  # bytes of bitmap whose pages are counted together
_STEP = 256  # bytes of bitmap counted anew for each rank
_KEPT_BLOCKS = 16
_KEPT_BYTES = 4 << 20  # of decompressed pages
_AHEAD = 256 << 10  # bytes of stored pages read at once
_MAX_TEXT = 1 << 20
_WINDOW: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 20}

_UNREAD = {_LZO: ("LZO", "-l"), _SNAPPY: ("snappy", "-p")}


def open_image(read: Read, size: int) -> Image:
    """The image in a kdump-compressed dump of ``size`` bytes.

    Raises ``BadInput`` for a damaged one, one part of a split dump, and one of a 32-bit machine.
    """
    start = read(0, 512)
    endian, status, block_size, sub_blocks, bitmap_blocks, max_mapnr = _header(start)
    for flag in _UNREAD:
        if status & flag:
            raise _unread(flag)
    release, machine = (_text(start, 12 + 65 * i) for i in (2, 4))
    (version,) = struct.unpack_from(_order(endian) + "i", start, 8)
    sub = read(block_size, struct.calcsize("<" + _SUB_HEADER))
    if len(sub) < struct.calcsize("<" + _SUB_HEADER):
        raise _damaged("it ends inside its sub-header", block_size)
    phys_base, _, split, _, _, info_at, info_size, note_at, note_size, _, _, _, _, max_mapnr_64 = struct.unpack(
        _order(endian) + _SUB_HEADER, sub
    )
    if version >= 2 and split:
        raise BadInput(
            "this is one part of a split kdump-compressed dump",
            "Put the parts together with makedumpfile --reassemble, then read the result.",
        )
    pages = max_mapnr_64 if version >= 6 else max_mapnr
    bitmap_at = (1 + sub_blocks) * block_size
    bitmap = bitmap_blocks * block_size
    if bitmap_at + bitmap > size:
        raise _damaged(f"it ends at {size:#x}, inside its bitmaps", bitmap_at)
    two = bitmap_blocks >= 2 * -(-pages // (8 * block_size))  # dump_is_partial() in crash
    dumped_at, held = (bitmap_at + bitmap // 2, bitmap // 2) if two else (bitmap_at, bitmap)
    if pages > held * 8:
        raise _damaged(f"{pages} pages do not fit its bitmap of {held} bytes", dumped_at)
    text = b""
    if version >= 3 and info_size:
        text = read(info_at, min(info_size, _MAX_TEXT)).rstrip(b"\0")
    elif version >= 4 and note_size:
        text = vmcoreinfo.locate(read, note_at, note_size, endian) or b""
    numbers = {name: number for number, name in ARCHITECTURES.items()}
    return Image(
        machine=numbers.get("ppc64" if machine == "ppc64le" else machine, 0),
        endian=endian,
        bits=64,
        vmcoreinfo=text,
        segments=[Segment(0, pages * block_size, None)],
        memory=_Pages(read, endian, block_size, (bitmap_at + bitmap, dumped_at, pages), bool(status & _INCOMPLETE)),
        release_hint=release or None,
        phys_base=phys_base - (1 << 64) if phys_base >> 63 else phys_base,
    )


def _header(start: bytes) -> tuple[Literal["little", "big"], int, int, int, int, int]:
    """(byte order, status, block size, sub-header blocks, bitmap blocks, max_mapnr).

    The byte order and the width of ``long`` are those that make the version and the block size plausible.
    """
    if len(start) < 512:
        raise _damaged("it ends inside its header", 0)
    for endian in ("little", "big"):
        order = _order(endian)
        version, *_ = struct.unpack_from(order + "i", start, 8)
        for bits in (64, 32):
            found = struct.unpack_from(order + _STATUS, start, _STATUS_AT[bits])
            status, block_size, sub_blocks, bitmap_blocks, max_mapnr = found
            if not (0 <= version <= 64 and block_size in (1 << n for n in range(12, 17)) and 0 < sub_blocks < 1 << 20):
                continue
            if bits == 32:
                raise BadInput(
                    f"a kdump-compressed dump of a 32-bit machine ({_text(start, 12 + 65 * 4) or 'unnamed'})",
                    "These are not read. Use crash on the opened dump.",
                )
            return endian, status, block_size, sub_blocks, bitmap_blocks, max_mapnr
    raise _damaged("its header makes no sense in either byte order", 0)


def _text(start: bytes, at: int) -> str:
    return start[at : at + 65].split(b"\0", 1)[0].decode("ascii", errors="replace")


def _order(endian: str) -> str:
    return "<" if endian == "little" else ">"


def _damaged(why: str, at: int) -> BadInput:
    return BadInput(
        f"the kdump-compressed dump is damaged at offset {at:#x}: {why}",
        "What was sealed is what was captured: the dump was damaged before. Use crash on what can be opened.",
    )


def _unread(flag: int) -> BadInput:
    name, option = _UNREAD[flag]
    return BadInput(
        f"the pages of this dump are compressed with {name}, which is not read",
        f"It was made with makedumpfile {option}: -c makes one that is read. Open it, then use crash or makedumpfile.",
    )


class _Pages:
    """The dumped pages, decompressed as they are asked for; the last ones used are kept."""

    def __init__(
        self,
        read: Read,
        endian: Literal["little", "big"],
        page_size: int,
        layout: tuple[int, int, int],
        incomplete: bool,
    ) -> None:
        self._read = read
        self._descriptor = struct.Struct(_order(endian) + "QII8x")
        self._page_size = page_size
        self._descriptors_at, bitmap_at, self._count = layout
        self._ranks = _Ranks(read, bitmap_at, self._count)
        self._incomplete = incomplete
        self._kept: OrderedDict[int, bytes] = OrderedDict()  # by file offset: zero pages share one
        self._lock = Lock()

    def physical(self, address: int, length: int) -> bytes:
        if not length:
            return b""
        first, skip = divmod(address, self._page_size)
        last = (address + length - 1) // self._page_size
        parts = list(self._pages(first, last))
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        return data[skip : skip + length]

    def _pages(self, first: int, last: int) -> Iterator[bytes]:
        """Pages ``first`` to ``last``; their descriptors stand in a row, as there are none of pages between them."""
        rank = self._ranks.rank(first) if self._dumped(first) else 0
        for page in range(first, last + 1):
            if not self._dumped(page):
                why = "its page was left out, or is no memory" if page < self._count else "it is past the last page"
                raise Absent(page * self._page_size, why)
        most = (64 << 10) // _DESCRIPTOR_SIZE
        for start in range(first, last + 1, most):
            count = min(most, last + 1 - start)
            at = self._descriptors_at + (rank + start - first) * _DESCRIPTOR_SIZE
            table = self._read(at, count * _DESCRIPTOR_SIZE)
            if len(table) < count * _DESCRIPTOR_SIZE:
                raise _damaged("it ends inside its page descriptors", at)
            yield from self._run(start, list(self._descriptor.iter_unpack(table)))

    def _run(self, first: int, descriptors: list[tuple[int, int, int]]) -> Iterator[bytes]:
        """The pages of ``descriptors``; what stands in a row in the file is read at once."""
        begin, ahead = 0, b""
        for i, (offset, stored, flags) in enumerate(descriptors):
            address = (first + i) * self._page_size
            data = self._look(offset)
            if data is None:
                self._check(address, offset, stored)
                if offset < begin or offset + stored > begin + len(ahead):
                    begin, end = offset, offset + stored
                    for following, size, _ in descriptors[i + 1 :]:
                        if following != end or size > self._page_size or end - begin > _AHEAD:
                            break
                        end += size
                    ahead = self._read(begin, end - begin)
                raw = ahead[offset - begin : offset - begin + stored]
                if len(raw) < stored:
                    if self._incomplete:
                        raise Absent(address, "the dump was cut short while it was written")
                    raise _damaged(f"it ends inside the page at physical {address:#x}", offset)
                data = self._decompress(raw, flags, address, offset)
                self._keep(offset, data)
            yield data

    def _dumped(self, page: int) -> bool:
        return page < self._count and self._ranks.dumped(page)

    def _look(self, offset: int) -> bytes | None:
        with self._lock:
            data = self._kept.get(offset)
            if data is not None:
                self._kept.move_to_end(offset)
            return data

    def _keep(self, offset: int, data: bytes) -> None:
        with self._lock:
            self._kept[offset] = data
            while len(self._kept) * self._page_size > _KEPT_BYTES:
                self._kept.popitem(last=False)

    def _check(self, address: int, offset: int, stored: int) -> None:
        if offset == 0:
            if self._incomplete:
                raise Absent(address, "the dump was cut short while it was written")
            raise _damaged(f"the page at physical {address:#x} has no place in the file", offset)
        if not 0 < stored <= 2 * self._page_size:
            raise _damaged(f"the page at physical {address:#x} is stored in {stored} bytes", offset)

    def _decompress(self, raw: bytes, flags: int, address: int, offset: int) -> bytes:
        for flag in _UNREAD:
            if flags & flag:
                raise _unread(flag)
        try:
            if flags & _ZLIB:
                raw = zlib.decompressobj().decompress(raw, self._page_size + 1)
            elif flags & _ZSTD:
                raw = zstd.ZstdDecompressor(options=_WINDOW).decompress(raw, self._page_size + 1)
        except (zlib.error, zstd.ZstdError) as error:
            raise _damaged(f"the page at physical {address:#x} does not decompress: {error}", offset) from error
        if len(raw) != self._page_size:
            raise _damaged(f"the page at physical {address:#x} is not {self._page_size} bytes long", offset)
        return raw


class _Ranks:
    """How many pages below a page are dumped, from bitmap 2 at ``at`` with ``count`` bits, lowest bit of a byte first."""

    def __init__(self, read: Read, at: int, count: int) -> None:
        self._read = read
        self._at = at
        self._size = -(-count // 8)
        self._before = array("Q", [0])  # dumped pages before each block, as far as counted
        self._kept: OrderedDict[int, tuple[bytes, array[int]]] = OrderedDict()
        self._lock = Lock()

    def dumped(self, page: int) -> bool:
        block, byte = divmod(page >> 3, _BLOCK)
        return bool(self._block(block)[0][byte] >> (page & 7) & 1)

    def rank(self, page: int) -> int:
        block, byte = divmod(page >> 3, _BLOCK)
        data, counted = self._block(block)
        step = byte // _STEP
        below = int.from_bytes(data[step * _STEP : byte]).bit_count() + (data[byte] & (1 << (page & 7)) - 1).bit_count()
        return self._before_block(block) + counted[step] + below

    def _before_block(self, block: int) -> int:
        with self._lock:
            while len(self._before) <= block:
                done = len(self._before) - 1
                self._before.append(self._before[done] + int.from_bytes(self._load(done)).bit_count())
            return self._before[block]

    def _block(self, block: int) -> tuple[bytes, array[int]]:
        with self._lock:
            kept = self._kept.get(block)
            if kept is not None:
                self._kept.move_to_end(block)
                return kept
        data = self._load(block)
        counted = array("I", [0])
        for start in range(0, len(data), _STEP):
            counted.append(counted[-1] + int.from_bytes(data[start : start + _STEP]).bit_count())
        with self._lock:
            self._kept[block] = data, counted
            if len(self._kept) > _KEPT_BLOCKS:
                self._kept.popitem(last=False)
        return data, counted

    def _load(self, block: int) -> bytes:
        start = block * _BLOCK
        length = min(_BLOCK, self._size - start)
        data = self._read(self._at + start, length)
        if len(data) < length:
            raise _damaged("it ends inside its bitmap", self._at + start)
        return data
