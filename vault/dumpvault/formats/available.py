"""An ELF core of what is there: the notes of an incomplete one, and its PT_LOADs cut to the ranges that can be read.

Analysis programs refuse a core that is shorter than its headers say, and take what they cannot read for damage. Here
the headers speak of nothing else than what is at hand; addresses are the originals', file offsets are not.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from dumpvault.formats import elf
from dumpvault.model import PAGE
from dumpvault.ranges import Ranges

__all__ = ["AvailableCore"]


@dataclass(frozen=True, slots=True)
class _Piece:
    start: int
    length: int
    source: int


class AvailableCore:
    """``read(offset, length)`` reads the incomplete core, of which ``available`` has the file ranges; all in bytes.

    Raises ``MalformedElf`` if it is no ELF core, and passes on what ``read`` raises for its headers.
    """

    def __init__(self, read: elf.Read, available: Ranges) -> None:
        core = elf.parse(read)
        if core is None:
            raise elf.MalformedElf("it is no ELF core")
        self._read = read
        segments, virtual, sources = [], [], []
        for type_, offset, where, address, length in elf.segments(core, read):
            if type_ not in (elf.PT_LOAD, elf.PT_NOTE):
                continue
            for start, end in Ranges([(offset, offset + length)]) & available:
                if type_ == elf.PT_NOTE and end - start < length:
                    continue  # notes make sense from their first byte to their last
                segments.append((type_, start, address + start - offset, end - start))
                virtual.append(where + start - offset)
                sources.append(start)
        at = len(self._headers(core, segments, virtual))
        placed = []
        self._pieces = []
        for (type_, _, address, length), source in zip(segments, sources, strict=True):
            at += (source - at) % PAGE  # a page of the source stays a page here
            placed.append((type_, at, address, length))
            self._pieces.append(_Piece(at, length, source))
            at += length
        #: Bytes of the core.
        self.size = at
        self._head = self._headers(core, placed, virtual)
        self._starts = [piece.start for piece in self._pieces]

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``; fewer only at the end. Passes on what reading the source raises."""
        end = min(offset + length, self.size)
        parts = []
        while offset < end:
            i = bisect_right(self._starts, offset) - 1
            piece = self._pieces[i] if i >= 0 else _Piece(0, 0, 0)
            inside = offset - piece.start
            if offset < len(self._head):
                part = self._head[offset:end]
            elif inside < piece.length:
                part = self._read(piece.source + inside, min(end - offset, piece.length - inside))
            else:
                until = self._starts[i + 1] if i + 1 < len(self._starts) else self.size
                part = bytes(min(end, until) - offset)
            if not part:
                break  # the source is shorter than was said
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    @staticmethod
    def _headers(core: elf.ElfCore, segments: list[tuple[int, int, int, int]], virtual: list[int]) -> bytes:
        return elf.write_headers(
            segments, bits=core.bits, endian=core.endian, machine=core.machine, flags=core.flags, virtual=virtual
        )
