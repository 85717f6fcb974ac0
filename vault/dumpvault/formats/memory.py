"""The words for a dump as physical memory: ``Image``, its ``Segment``s, and ``Absent`` for what it does not hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

from dumpvault.errors import BadInput
from dumpvault.formats import vmcoreinfo

__all__ = ["ARCHITECTURES", "Absent", "Image", "Memory", "Read", "Segment"]

Read = Callable[[int, int], bytes]

#: Names as uname(2) gives them, by ELF ``e_machine`` (elf-em.h).
ARCHITECTURES = {
    3: "i386",
    8: "mips",
    20: "ppc",
    21: "ppc64",
    22: "s390x",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv64",
    258: "loongarch64",
}


class Absent(BadInput):
    """The dump does not hold the byte at physical ``address``: it was left out, or there is no memory there."""

    kind = "not in the dump"

    def __init__(self, address: int, why: str) -> None:
        super().__init__(
            f"physical address {address:#x} is not in the dump: {why}",
            "What the dump does hold is unharmed. makedumpfile leaves pages out by its -d option.",
        )
        self.address = address


@dataclass(frozen=True, slots=True)
class Segment:
    """``length`` bytes of physical memory from ``physical``; ``virtual`` where the kernel had them mapped, if known."""

    physical: int
    length: int
    virtual: int | None


class Memory(Protocol):
    """Random access to physical memory, from any thread."""

    def physical(self, address: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``address``; raises ``Absent``, ``BadInput`` or what the read function raises."""


@dataclass(frozen=True)
class Image:
    """What a dump says of its machine, and its memory.

    ``arch`` is the name that uname(2) gives, or ``machine N`` for an unknown one. ``vmcoreinfo`` is the note's raw text,
    empty if the dump has none. ``phys_base`` (bytes) is known from a kdump-compressed header only. A kdump-compressed
    dump has one segment that spans all of memory, holes included.
    """

    machine: int
    endian: Literal["little", "big"]
    bits: Literal[32, 64]
    vmcoreinfo: bytes
    segments: Sequence[Segment]
    memory: Memory
    release_hint: str | None = None
    phys_base: int | None = None

    @property
    def arch(self) -> str:
        name = ARCHITECTURES.get(self.machine, f"machine {self.machine}")
        return name + "le" if name == "ppc64" and self.endian == "little" else name

    @property
    def release(self) -> str | None:
        """The kernel's release, if the dump says so."""
        return self.info.get("OSRELEASE") or self.release_hint

    @cached_property
    def info(self) -> dict[str, str]:
        """VMCOREINFO's entries; empty if the dump has none."""
        return vmcoreinfo.parse(self.vmcoreinfo)

    def physical(self, address: int, length: int) -> bytes:
        """Exactly ``length`` bytes from physical ``address``. Safe to call from several threads if the read function is.

        Raises ``Absent`` with the first address that the dump does not hold, ``BadInput`` for a damaged dump, and passes
        on whatever the read function raises.
        """
        if address < 0 or length < 0:
            raise Absent(address, "no such address")
        return self.memory.physical(address, length)
