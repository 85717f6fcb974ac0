"""The zstd seekable format inside a region: frames made and checked, seek table written and read (spec, section 9.1).

A frame may hold raw or RLE blocks (RFC 8878 section 3.1.1.2), so a zero frame or one that would not shrink is made
here without a compressor. Both readers, sequential and ranged, come through ``SeekTable`` and ``decode_frame``.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from dumpvault.errors import Forged
from dumpvault.model import RegionRecord

if TYPE_CHECKING or sys.version_info < (3, 14):
    from backports import zstd
else:
    from compression import zstd

__all__ = [
    "BadStream",
    "SeekTable",
    "TableWriter",
    "as_allowed",
    "decode_frame",
    "raw_frame_prefix",
    "rle_frame",
    "zstd",
]

_FRAME_MAGIC = b"\x28\xb5\x2f\xfd"
_TABLE_MAGIC = 0x184D2A5E
_FOOTER_MAGIC = 0x8F92EAB1
_MAX_BLOCK = 128 << 10
_FRAME_SLACK = 4096
_BLOCK_RAW, _BLOCK_RLE = 0, 1


class BadStream(ValueError):
    """The plaintext is authentic but is no stream that the spec allows; says why."""


def _frame_header(length: int) -> bytes:
    """A single-segment frame header that declares ``length`` bytes of content."""
    if length < 256:
        return _FRAME_MAGIC + bytes([0x20, length])
    if length < 65792:
        return _FRAME_MAGIC + b"\x60" + struct.pack("<H", length - 256)
    return _FRAME_MAGIC + b"\xa0" + struct.pack("<I", length)


def _block_header(length: int, kind: int, last: bool) -> bytes:
    return struct.pack("<I", length << 3 | kind << 1 | last)[:3]


@lru_cache(maxsize=8)
def rle_frame(length: int, byte: int = 0) -> bytes:
    """A whole frame of ``length`` times ``byte``."""
    out = bytearray(_frame_header(length))
    for start in range(0, length, _MAX_BLOCK):
        size = min(_MAX_BLOCK, length - start)
        out += _block_header(size, _BLOCK_RLE, start + size == length) + bytes([byte])
    return bytes(out)


@lru_cache(maxsize=8)
def raw_frame_prefix(length: int) -> tuple[tuple[bytes, int], ...]:
    """How to store ``length`` bytes as they are: pairs of (bytes to write first, content bytes that follow)."""
    parts = []
    for start in range(0, length, _MAX_BLOCK):
        size = min(_MAX_BLOCK, length - start)
        head = _frame_header(length) if start == 0 else b""
        parts.append((head + _block_header(size, _BLOCK_RAW, start + size == length), size))
    return tuple(parts)


@contextmanager
def as_allowed(name: str) -> Iterator[None]:
    """What ``name``, an authentic object, holds against the format is its collector's doing: raise it as ``Forged``."""
    try:
        yield
    except BadStream as error:
        raise Forged(
            f"{name}: sealed by a listed key, but not as the format allows: {error}",
            "Its collector may be faulty or hostile. Other regions are unharmed.",
        ) from None


class Plaintext(Protocol):
    """A message's plaintext by range; ``length`` in bytes."""

    length: int

    def read(self, start: int, length: int) -> bytes: ...


class TableWriter:
    """Collects frame sizes; 8 bytes a frame."""

    def __init__(self) -> None:
        self._entries = array("I")

    def add(self, compressed: int, decompressed: int) -> None:
        self._entries.append(compressed)
        self._entries.append(decompressed)

    def finish(self) -> bytes:
        entries = self._entries
        if sys.byteorder == "big":
            entries = array("I", entries)
            entries.byteswap()
        frames = len(entries) // 2
        return (
            struct.pack("<II", _TABLE_MAGIC, 8 * frames + 9)
            + entries.tobytes()
            + struct.pack("<IBI", frames, 0, _FOOTER_MAGIC)
        )


class SeekTable:
    """A checked table: where each frame stands in the stream.

    ``length`` is the region's, ``frame_size`` the header's, ``stream`` the stream's, all in bytes. With ``indexed``
    (kind ``flattened``) an index stands between the last frame and the table. Raises ``BadStream``.
    """

    def __init__(self, table: bytes, *, length: int, frame_size: int, stream: int, indexed: bool = False) -> None:
        frames = -(-length // frame_size)
        size = self.size(length, frame_size)
        if len(table) != size or stream < size:
            raise BadStream(f"too short for the seek table of {frames} frames")
        magic, payload = struct.unpack_from("<II", table)
        count, descriptor, footer = struct.unpack_from("<IBI", table, size - 9)
        if (magic, payload, count, descriptor, footer) != (_TABLE_MAGIC, size - 8, frames, 0, _FOOTER_MAGIC):
            raise BadStream(f"no seek table of {frames} frames at its end")
        self.frame_size = frame_size
        self.length = length
        self.bytes = size
        self.starts = array("Q", [0])
        at = 0
        for i, (compressed, decompressed) in enumerate(struct.iter_unpack("<II", table[8 : size - 9])):
            if decompressed != self.frame_length(i):
                raise BadStream(f"frame {i}: the seek table says {decompressed} bytes, not {self.frame_length(i)}")
            if not 0 < compressed <= frame_size + _FRAME_SLACK:
                raise BadStream(f"frame {i}: {compressed} compressed bytes for a frame of {frame_size}")
            at += compressed
            self.starts.append(at)
        if at != stream - size and not (indexed and at < stream - size):
            raise BadStream(f"the seek table accounts for {at} bytes of {stream - size}")

    @staticmethod
    def size(length: int, frame_size: int) -> int:
        """Bytes of the table of a region of ``length`` bytes."""
        return 8 * -(-length // frame_size) + 17

    @property
    def frames(self) -> int:
        return len(self.starts) - 1

    def frame_length(self, i: int) -> int:
        """Decompressed bytes of frame ``i``."""
        return min(self.frame_size, self.length - i * self.frame_size)


def region_table(plaintext: Plaintext, record: RegionRecord, frame_size: int) -> SeekTable | None:
    """The checked seek table at the end of a region's plaintext, None for codec ``raw``. Raises ``BadStream``.

    In a region of kind ``flattened`` an index stands between the last frame, or the bytes, and the end.
    """
    indexed = record.kind == "flattened"
    if record.codec == "raw":
        if plaintext.length != record.length and not indexed:
            raise BadStream(f"it holds {plaintext.length} bytes where {record.length} must stand")
        return None
    size = SeekTable.size(record.length, frame_size)
    tail = plaintext.read(plaintext.length - size, size) if size <= plaintext.length else b""
    return SeekTable(tail, length=record.length, frame_size=frame_size, stream=plaintext.length, indexed=indexed)


def decode_frame(data: bytes | memoryview, length: int, frame_size: int) -> bytes:
    """The ``length`` bytes of one frame, which must fill ``data`` exactly. Raises ``BadStream``."""
    _check_header(bytes(data[:18]), length, frame_size)
    decoder = zstd.ZstdDecompressor()
    try:
        out = decoder.decompress(data, max_length=length)
        if not decoder.eof and len(out) == length:
            out += decoder.decompress(b"", max_length=1)
    except zstd.ZstdError as error:
        raise BadStream(f"zstd: {error}") from None
    if not decoder.eof or decoder.unused_data or len(out) != length:
        raise BadStream(f"a frame does not decode to its {length} bytes")
    return out


def _check_header(head: bytes, length: int, frame_size: int) -> None:
    """RFC 8878 section 3.1.1.1: content size declared, window within a frame, no dictionary."""
    if head[:4] != _FRAME_MAGIC or len(head) < 6:
        raise BadStream("not a zstd frame")
    descriptor = head[4]
    single = bool(descriptor & 0x20)
    if descriptor & 0x0B:  # reserved bit, dictionary id
        raise BadStream("a frame uses a dictionary or a reserved bit")
    at = 5
    window = 0
    if not single:
        exponent, mantissa = head[at] >> 3, head[at] & 7
        base = 1 << (10 + exponent)
        window = base + (base >> 3) * mantissa
        at += 1
    size = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    field = head[at : at + size]
    if size == 0 or len(field) < size:
        raise BadStream("a frame does not declare its content size")
    declared = int.from_bytes(field, "little") + (256 if size == 2 else 0)
    if declared != length:
        raise BadStream(f"a frame declares {declared} bytes where {length} must stand")
    if window > frame_size:
        raise BadStream(f"a frame asks for a window of {window} bytes; {frame_size} is the most")
