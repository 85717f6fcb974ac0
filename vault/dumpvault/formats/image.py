"""A dump as the physical memory of the machine that crashed, whatever its container.

``open_image`` takes a random-access read function and gives an ``Image``: an ELF core (elf(5), kernel
fs/proc/vmcore.c) is read here, a kdump-compressed dump in ``kdump_compressed``. Nothing is read before it is asked for,
and a byte that is not in the dump is ``Absent``, never a zero.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import pairwise

from dumpvault.errors import BadInput
from dumpvault.formats import elf, vmcoreinfo
from dumpvault.formats.memory import Absent, Image, Memory, Read, Segment

__all__ = ["Absent", "Image", "Memory", "Read", "Segment", "open_image"]

_MAX_PIECES = 1 << 17


def open_image(read: Read, size: int) -> Image:
    """The image in a dump of ``size`` bytes. ``read(offset, length)`` returns fewer bytes only at the end.

    Raises ``BadInput`` for anything but an ELF core or a kdump-compressed dump, with what to do about it.
    """
    start = read(0, 24)
    if start.startswith(b"makedumpfile\0"):
        raise BadInput(
            "this is a flattened stream, not a dump that can be read at random",
            "Read it through its record index, or put it together with makedumpfile -R.",
        )
    if start.startswith(b"KDUMP   "):
        from dumpvault.formats import kdump_compressed

        return kdump_compressed.open_image(read, size)
    try:
        core = elf.parse(read)
        if core is None:
            raise BadInput(
                "neither an ELF core nor a kdump-compressed dump",
                "The kernel log and memory are read from these two kinds of dump only.",
            )
        return _elf_image(core, read, size)
    except elf.MalformedElf as error:
        raise BadInput(f"the dump's ELF headers cannot be used: {error}", "Nothing in it was changed.") from error


def _elf_image(core: elf.ElfCore, read: Read, size: int) -> Image:
    segments: list[Segment] = []
    pieces: list[tuple[int, int, int]] = []  # physical start, length, file offset
    for kind, offset, virtual, address, length in elf.segments(core, read):
        if kind != elf.PT_LOAD or not length:
            continue
        if address + length > 1 << core.bits:
            raise elf.MalformedElf(
                f"a segment of {length:#x} bytes at {address:#x} runs past the end of the address space"
            )
        segments.append(Segment(address, length, virtual if _is_kernel(virtual, core.bits) else None))
        last = pieces[-1] if pieces else (0, 0, 0)
        if pieces and last[0] + last[1] == address and last[2] + last[1] == offset:
            pieces[-1] = (last[0], last[1] + length, last[2])
        else:
            pieces.append((address, length, offset))
        if len(segments) > _MAX_PIECES:
            raise elf.MalformedElf(f"more than {_MAX_PIECES} memory segments; no machine has so many")
    text = None
    for part in core.notes:
        text = vmcoreinfo.locate(read, part.offset, part.length, core.endian)
        if text is not None:
            break
    return Image(
        machine=core.machine,
        endian=core.endian,
        bits=core.bits,
        vmcoreinfo=text or b"",
        segments=segments,
        memory=_ElfMemory(read, pieces, size),
    )


def _is_kernel(virtual: int, bits: int) -> bool:
    """Whether a p_vaddr says anything: QEMU and some kernels write 0, or the physical address, for "not known"."""
    return bool(virtual >> (bits - 1))


class _ElfMemory:
    """PT_LOADs that may overlap and stand in any order: made disjoint once, the earlier in the table wins."""

    def __init__(self, read: Read, pieces: Sequence[tuple[int, int, int]], size: int) -> None:
        self._read = read
        self._size = size
        self._pieces = _disjoint(pieces)
        self._starts = [piece[0] for piece in self._pieces]

    def physical(self, address: int, length: int) -> bytes:
        at, end, parts = address, address + length, []
        while at < end:
            index = bisect_right(self._starts, at) - 1
            start, held, offset = self._pieces[index] if index >= 0 else (0, 0, 0)
            if at >= start + held:
                raise Absent(at, "no segment of it covers this address")
            take = min(end, start + held) - at
            data = self._read(offset + at - start, take)
            if len(data) < take:
                raise Absent(at + len(data), f"the file ends at {self._size:#x}, inside this segment")
            parts.append(data)
            at += take
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _disjoint(pieces: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """The same mapping with no address in two pieces, sorted by address; where two claim one, the earlier keeps it.

    A sweep over the starts and ends; the pieces that are open at each point wait in a heap by their place in the table.
    """
    edges = sorted({edge for start, length, _ in pieces for edge in (start, start + length)})
    order = sorted(range(len(pieces)), key=lambda i: pieces[i][0])
    waiting: list[int] = []
    out: list[tuple[int, int, int]] = []
    following = 0
    for left, right in pairwise(edges):
        while following < len(order) and pieces[order[following]][0] <= left:
            heappush(waiting, order[following])
            following += 1
        while waiting and sum(pieces[waiting[0]][:2]) <= left:
            heappop(waiting)
        if not waiting:
            continue
        start, _, offset = pieces[waiting[0]]
        if out and sum(out[-1][:2]) == left and out[-1][2] + out[-1][1] == offset + left - start:
            out[-1] = (out[-1][0], right - out[-1][0], out[-1][2])
        else:
            out.append((left, right - left, offset + left - start))
    return out
