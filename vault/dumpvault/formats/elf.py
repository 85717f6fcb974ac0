"""ELF core headers: which file ranges are headers and notes, where the last segment ends, what memory is where.

Trusts ``e_phoff`` wherever it points, takes PT_LOADs unsorted and overlapping, reads PN_XNUM counts from section 0
(elf(5), kernel fs/proc/vmcore.c) and allocates nothing by a count that the file claims.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from dumpvault.model import Range

__all__ = ["ElfCore", "Load", "MalformedElf", "parse", "segments", "write_headers"]

MAGIC = b"\x7fELF"
PT_LOAD = 1
PT_NOTE = 4
ET_CORE = 4
PN_XNUM = 0xFFFF

MAX_SEGMENTS = 1 << 20
MAX_NOTES = 4096
MAX_MEMORY = 1024

Read = Callable[[int, int], bytes]


class MalformedElf(ValueError):
    """It begins as an ELF core and cannot be one; says why."""


@dataclass(frozen=True, slots=True)
class Load:
    """``length`` bytes of physical memory from ``address``, at ``offset`` of the file."""

    offset: int
    address: int
    length: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """Field formats that differ between ELF32 and ELF64."""

    order: str
    wide: bool

    @property
    def header(self) -> struct.Struct:  # from e_type on
        return struct.Struct(self.order + ("HHIQQQIHHHHHH" if self.wide else "HHIIIIIHHHHHH"))

    @property
    def segment(self) -> struct.Struct:
        return struct.Struct(self.order + ("IIQQQQQQ" if self.wide else "IIIIIIII"))


@dataclass(slots=True)
class ElfCore:
    """What a capture needs to know of an ELF core. Offsets and lengths in bytes."""

    bits: Literal[32, 64]
    endian: Literal["little", "big"]
    machine: int
    phoff: int
    phnum: int
    flags: int = 0
    end: int = 0
    headers: list[Range] = field(default_factory=list)
    notes: list[Range] = field(default_factory=list)
    memory: list[Load] = field(default_factory=list)
    #: File ranges by virtual address: (virtual address, file offset, bytes), as many as ``memory`` may have.
    virtual: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def layout(self) -> _Layout:
        return _Layout("<" if self.endian == "little" else ">", self.bits == 64)


def parse(read: Read) -> ElfCore | None:
    """The core's layout; None if it is no ELF core. ``read(offset, length)`` returns fewer bytes only at the end.

    Raises ``MalformedElf``.
    """
    ident = read(0, 64)
    if ident[:4] != MAGIC:
        return None
    if len(ident) < 20:
        raise MalformedElf("it ends inside the ELF header")
    if ident[4] not in (1, 2) or ident[5] not in (1, 2):
        return None
    layout = _Layout("<" if ident[5] == 1 else ">", ident[4] == 2)
    size = 16 + layout.header.size
    if len(ident) < size:
        raise MalformedElf("it ends inside the ELF header")
    kind, machine, _, _, phoff, shoff, flags, _, phentsize, phnum, _, _, _ = layout.header.unpack_from(ident, 16)
    if kind != ET_CORE:
        return None
    if phentsize != layout.segment.size:
        raise MalformedElf(f"program headers of {phentsize} bytes where {layout.segment.size} must stand")
    if phnum == PN_XNUM:
        phnum = _section_count(read, layout, shoff)
    if phnum > MAX_SEGMENTS:
        raise MalformedElf(f"{phnum} program headers; no more than {MAX_SEGMENTS} are believed")
    core = ElfCore(64 if layout.wide else 32, "little" if ident[5] == 1 else "big", machine, phoff, phnum, flags)
    core.headers = [Range(0, size), Range(phoff, phnum * phentsize)]
    core.end = max(part.end for part in core.headers)
    _survey(core, read)
    return core


def _survey(core: ElfCore, read: Read) -> None:
    """Go through the program headers once, keeping no more of them than is of use."""
    crowded = False
    for type_, offset, virtual, address, length in segments(core, read):
        end = offset + length
        if end >= 2**63:
            raise MalformedElf(f"a segment at offset {offset:#x} with {length:#x} bytes")
        core.end = max(core.end, end)
        if type_ == PT_NOTE and length and len(core.notes) < MAX_NOTES:
            core.notes.append(Range(offset, length))
        if type_ == PT_LOAD and length and not crowded:
            crowded = not _add_load(core.memory, Load(offset, address, length))
            if len(core.virtual) < MAX_MEMORY:
                core.virtual.append((virtual, offset, length))
    if crowded:
        core.memory.clear()


def segments(core: ElfCore, read: Read) -> Iterator[tuple[int, int, int, int, int]]:
    """Each program header as (type, file offset, virtual address, physical address, file bytes)."""
    entry = core.layout.segment
    per_read = 65536 // entry.size
    for first in range(0, core.phnum, per_read):
        count = min(per_read, core.phnum - first)
        table = read(core.phoff + first * entry.size, count * entry.size)
        if len(table) < count * entry.size:
            raise MalformedElf(f"the file ends inside its {core.phnum} program headers at {core.phoff:#x}")
        for values in entry.iter_unpack(table):
            if core.bits == 64:
                type_, _, offset, virtual, address, length, _, _ = values
            else:
                type_, offset, virtual, address, length, _, _, _ = values
            yield type_, offset, virtual, address, length


def _section_count(read: Read, layout: _Layout, shoff: int) -> int:
    """``sh_info`` of section 0, which holds the number of program headers when it does not fit 16 bits."""
    at = shoff + (44 if layout.wide else 28)
    data = read(at, 4) if shoff else b""
    if len(data) < 4:
        raise MalformedElf("PN_XNUM without the section header that holds the count")
    (count,) = struct.unpack(layout.order + "I", data)
    return int(count)


def _add_load(memory: list[Load], load: Load) -> bool:
    """Append, joining what continues in file and memory; False when there are more than are kept."""
    if memory:
        last = memory[-1]
        if last.offset + last.length == load.offset and last.address + last.length == load.address:
            memory[-1] = Load(last.offset, last.address, last.length + load.length)
            return True
    if len(memory) == MAX_MEMORY:
        return False
    memory.append(load)
    return True


def write_headers(
    segments: Sequence[tuple[int, int, int, int]],
    *,
    bits: Literal[32, 64] = 64,
    endian: Literal["little", "big"] = "little",
    machine: int = 62,
    phoff: int | None = None,
    flags: int = 0,
    virtual: Sequence[int] = (),
) -> bytes:
    """ELF header and program headers of a core with ``segments`` (type, file offset, physical address, bytes).

    More than 65 534 segments are counted in section 0 (PN_XNUM). ``phoff`` moves the program headers; the gap is zeros.
    ``flags`` is e_flags; ``virtual`` has the segments' virtual addresses, where they are not the physical ones.
    """
    layout = _Layout("<" if endian == "little" else ">", bits == 64)
    header_size = 16 + layout.header.size
    section_size = 64 if layout.wide else 40
    extended = len(segments) >= PN_XNUM
    shoff = header_size if extended else 0
    if phoff is None:
        phoff = header_size + (section_size if extended else 0)
    ident = MAGIC + bytes([2 if layout.wide else 1, 1 if endian == "little" else 2, 1]) + bytes(9)
    phnum = PN_XNUM if extended else len(segments)
    out = bytearray(ident)
    out += layout.header.pack(
        ET_CORE,
        machine,
        1,
        0,
        phoff,
        shoff,
        flags,
        header_size,
        layout.segment.size,
        phnum,
        section_size,
        int(extended),
        0,
    )
    if extended:
        section = bytearray(section_size)
        struct.pack_into(layout.order + "I", section, 44 if layout.wide else 28, len(segments))
        out += section
    out += bytes(phoff - len(out))
    for i, (type_, offset, address, length) in enumerate(segments):
        where = virtual[i] if virtual else address
        if layout.wide:
            out += layout.segment.pack(type_, 7, offset, where, address, length, length, 0)
        else:
            out += layout.segment.pack(type_, offset, where, address, length, length, 7, 0)
    return bytes(out)
