"""The release map of a phyp-assisted dump: which file ranges must be durable before a page may be freed. Pure.

Every page carries claims: each PT_LOAD that maps it, the low memory whose copy it holds (first DUMP range), and headers
and notes, which may be made of any page. A page may go when all its claims are durable, and because the kernel's loop
frees one page more than it is told (``i <= end_pfn``), the page after it must be free to go as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dumpvault.formats.elf import Load
from dumpvault.formats.release_region import Area, Areas
from dumpvault.ranges import Ranges

__all__ = ["ReleaseMap"]


@dataclass(frozen=True, slots=True)
class _Linear:
    """Address ``start + k`` holds file byte ``offset + k``."""

    start: int
    end: int
    offset: int


@dataclass(slots=True)
class ReleaseMap:
    """What frees what.

    ``target`` are the pages to be released in the end, ``refused`` says why other areas never are. Addresses are
    physical, offsets the vmcore's; all in bytes.
    """

    page: int
    target: Ranges = field(default_factory=Ranges)
    refused: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    _linear: list[_Linear] = field(default_factory=list)
    #: File ranges that must be durable before any page at all may go.
    _before_all: Ranges = field(default_factory=Ranges)
    _held: Ranges = field(default_factory=Ranges)
    _reserve: tuple[int, int] = (0, 0)

    @classmethod
    def build(
        cls, areas: Areas, loads: Sequence[Load], heads: Ranges, page: int, *, hold_undescribed: bool = False
    ) -> ReleaseMap:
        """From what the kernel shows, the vmcore's PT_LOADs, and the file ranges ``heads`` of its headers and notes.

        ``hold_undescribed`` keeps pages that no PT_LOAD describes; without it they go with their neighbours.
        """
        self = cls(page)
        described = Ranges((load.address, load.address + load.length) for load in loads)
        memory_end = max((end for _, end in described.widened(page)), default=0)
        shown = (areas.cpu, areas.hpte, areas.scratch, areas.crashed)
        good = [area for area in shown if self._sane(area, areas, described, memory_end)]
        if not good:
            return self
        # The page in which the reserve begins in mid-page is also the running kernel's.
        low_memory = Ranges([(0, -(-areas.crashed.start // page) * page)])
        self.target = Ranges((area.start, area.end) for area in good).widened(page) - low_memory
        if not self.target:
            return self
        self._reserve = (min(start for start, _ in self.target), max(end for _, end in self.target))
        self._linear = [_Linear(load.address, load.address + load.length, load.offset) for load in loads]
        # Not the CPU and HPTE areas alone: notes may be read from any page (crash_notes, VMCOREINFO) at the time they are
        # asked for. They are the first to be captured, so this holds nothing up.
        self._before_all = heads
        if areas.scratch in good:
            self._linear += _copies(areas.scratch, loads)
        else:
            # The copy may stand in any page, so all of them wait for what of low memory is in the file.
            below = max(self._reserve[0], areas.scratch.length)
            low = ((load.offset, load.offset + min(load.length, below - load.address)) for load in loads)
            self._before_all |= Ranges(low)
        if hold_undescribed:
            described = Ranges((c.start, c.end) for c in self._linear)
            other = Ranges((area.start, area.end) for area in (areas.cpu, areas.hpte) if area in good)
            self._held = Ranges([self._reserve]) - described - other
        return self

    def freeable(self, durable: Ranges) -> Ranges:
        """The pages whose every claim is within the file ranges ``durable``, overreach not yet considered."""
        if self._before_all - durable:
            return Ranges()
        blocked = list(self._held.widened(self.page))
        for claim in self._linear:
            missing = Ranges([(claim.offset, claim.offset + claim.end - claim.start)]) - durable
            blocked += missing.shifted(claim.start - claim.offset).widened(self.page)
        return Ranges([self._reserve]) - Ranges(blocked)

    def pieces(self, durable: Ranges, gone: Ranges) -> list[tuple[int, int]]:
        """What may be written to ``release_region`` now, as (start, length), lengths not counting the overreach.

        ``gone`` are addresses that were released, or whose release was ever authorised.
        """
        free = self.freeable(durable)
        pieces = []
        for start, end in (free & self.target) - gone:
            # The page at ``end`` is freed too. If it must not be, this piece ends one page earlier and frees up to it.
            length = end - start if free.covers(end, end + self.page) else end - start - self.page
            if length > 0:
                pieces.append((start, length))
        return pieces

    def _sane(self, area: Area, areas: Areas, described: Ranges, memory_end: int) -> bool:
        """Whether an area can be accounted for; what cannot is noted. All are unknown while the kernel counts from 0."""
        if not area.known or (areas.cpu.start == 0 and area is not areas.crashed):
            self.unknown.append(area.name)
            return False
        shown = f"the {area.name} area {area.start:#x}-{area.length:#x}"
        if area.end > memory_end:
            self.refused.append(f"{shown} runs past the end of memory at {memory_end:#x}")
            return False
        touched = Ranges([(0, area.length) if area is areas.scratch else (area.start, area.end)])
        if area in (areas.scratch, areas.crashed) and not touched & described:
            self.refused.append(f"{shown} is described by no PT_LOAD")
            return False
        if area is not areas.crashed and area.start < areas.crashed.start:
            # The kernel raises such a start to its reserve without shortening the length, and frees what was not asked.
            self.refused.append(f"{shown} begins below the reserve at {areas.crashed.start:#x}")
            return False
        return True


def _copies(scratch: Area, loads: Sequence[Load]) -> list[_Linear]:
    """Where the copy of low memory stands: scratch byte k holds what PT_LOADs map at physical address k."""
    copies = []
    for load in loads:
        length = min(load.address + load.length, scratch.length) - load.address
        if length > 0:
            start = scratch.start + load.address
            copies.append(_Linear(start, start + length, load.offset))
    return copies
