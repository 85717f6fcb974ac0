"""``/sys/kernel/release_region`` of a phyp-assisted dump: what it shows, and what is written to it.

The kernel (arch/powerpc/platforms/pseries/phyp_dump.c) shows one line, its documentation wraps it with ``/``:

    CPU:0x177fee000-0x10000: HPTE:0x177ffe020-0x1000: DUMP:0x177fff020-0x10000000, 0x10000000-0x16F1D370A:

Pairs are start and length. On a dump boot the first three may be shown as zeros: not known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Area", "Areas", "command", "parse"]

_PAIR = r"(?:0x)?([0-9a-f]{1,16})-(?:0x)?([0-9a-f]{1,16})"
_GAP = r"[/\s]*"  # between words only: a number that is cut in two is no number
_LINE = re.compile(
    rf"{_GAP}CPU:{_GAP}{_PAIR}{_GAP}:{_GAP}HPTE:{_GAP}{_PAIR}{_GAP}:{_GAP}"
    rf"DUMP:{_GAP}{_PAIR}{_GAP},{_GAP}{_PAIR}{_GAP}(?::{_GAP})?",
    re.IGNORECASE,
)
_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class Area:
    """``length`` bytes from physical address ``start``."""

    name: str
    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def known(self) -> bool:
        """False for the zeros that a dump boot shows."""
        return self.start > 0 and self.length > 0


@dataclass(frozen=True, slots=True)
class Areas:
    """``scratch`` is the first DUMP range, the copy of low memory: its byte k holds physical address k.
    ``crashed`` is the second, the crashed memory in place."""

    cpu: Area
    hpte: Area
    scratch: Area
    crashed: Area


def parse(text: str) -> Areas:
    """Read either written form; ``ValueError`` says what is wrong."""
    if len(text) > _LIMIT:
        raise ValueError("longer than any kernel writes it")
    match = _LINE.fullmatch(text)
    if match is None:
        raise ValueError(f"not of the form CPU:…: HPTE:…: DUMP:…, …: but {text.strip()[:80]!r}")
    numbers = [int(digits, 16) for digits in match.groups()]
    names = ("CPU", "HPTE", "first DUMP", "second DUMP")
    areas = [Area(name, *numbers[2 * i : 2 * i + 2]) for i, name in enumerate(names)]
    for area in areas:
        if area.end >= 2**64:
            raise ValueError(f"the {area.name} area runs past the end of the address space")
    return Areas(*areas)


def command(start: int, length: int) -> bytes:
    """What is written to release ``length`` bytes from ``start``: both hexadecimal, as the kernel reads them always."""
    return f"{start:#x} {length:#x}\n".encode()
