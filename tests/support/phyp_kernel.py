"""What a kernel does with a write to ``release_region``, in its own arithmetic: unsigned 64-bit, one page too many.

After arch/powerpc/platforms/pseries/phyp_dump.c (Linux 2.6.25 to 3.3): ``store_release_region``,
``release_memory_range``, ``track_freed_range``, ``show_release_region``.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass, field

from dumpvault.ranges import Ranges

__all__ = ["PhypKernel", "scan"]

_MASK = 2**64 - 1
_NUMBER = re.compile(rb"[ \t\n\v\f\r\xa0]*(?=[0-9a-fA-F])(?:0[xX])?([0-9a-fA-F]*)")


def scan(data: bytes) -> list[int]:
    """``sscanf(data, "%lx %lx")``: the numbers that it converts; too many digits wrap around, as the kernel's do."""
    numbers: list[int] = []
    at = 0
    data = data.split(b"\0")[0]
    while len(numbers) < 2 and (match := _NUMBER.match(data, at)):
        numbers.append(int(match[1] or b"0", 16) & _MASK)
        at = match.end()
    return numbers


@dataclass
class PhypKernel:
    """The reserve of a dump boot and what was done to it. Addresses and lengths in bytes, pages by number.

    ``scratch`` and ``scratch_size`` are of CPU, HPTE and first DUMP area together, as the kernel counts them.
    """

    page: int
    pages: int
    reserve: int
    reserve_size: int
    scratch: int
    scratch_size: int

    writes: list[tuple[int, int]] = field(default_factory=list)
    """Each write that was accepted, as (start, length), as written."""
    rejected: list[bytes] = field(default_factory=list)
    freed: set[int] = field(default_factory=set)
    double_released: Ranges = field(default_factory=Ranges)
    """Addresses that two writes named."""
    below: list[tuple[int, int]] = field(default_factory=list)
    """Writes that began below the reserve."""
    beyond: list[tuple[int, int]] = field(default_factory=list)
    """Writes whose loop touched a page past the reserve."""
    runaway: bool = False
    """The loop ran on through the page structures until something broke."""
    registrations: int = 0
    """How often the sums matched and the dump area was registered again."""

    def __post_init__(self) -> None:
        self._named = Ranges()
        self._reserved_sum = 0
        self._scratch_sum = 0

    @property
    def reserve_end(self) -> int:
        return self.reserve + self.reserve_size

    @property
    def reserved(self) -> range:
        """The numbers of the pages that the reserve touches."""
        return range(self.reserve // self.page, -(-self.reserve_end // self.page))

    def store(self, data: bytes) -> list[int]:
        """``store_release_region``; the pages that this write freed. ``OSError`` EINVAL unless there are two numbers."""
        numbers = scan(data)
        if len(numbers) != 2:
            self.rejected.append(data)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        start, length = numbers
        self._record(start, length)
        self._track(start, length)
        # Raised, but not shortened.
        start = max(start, self.reserve)
        if (start + length) & _MASK > self.reserve_end:
            length = (self.reserve_end - start) & _MASK
        return self._free(start // self.page, length // self.page, (start, length))

    def _free(self, first: int, count: int, write: tuple[int, int]) -> list[int]:
        """``release_memory_range``: ``for (i = start_pfn; i <= end_pfn; i++)``, reserved pages only."""
        last = first + count
        if last >= self.reserved.stop:
            self.beyond.append(self.writes[-1])
        if last > max(self.pages, self.reserved.stop):
            self.runaway = True
        candidates = range(max(first, self.reserved.start), min(last + 1, self.reserved.stop))
        freed = [number for number in candidates if number not in self.freed]
        self.freed.update(freed)
        return freed

    def _track(self, start: int, length: int) -> None:
        """``track_freed_range``: raw lengths summed, both borders inclusive; equal sums register the dump area again."""
        if start < self.reserve:
            return
        if start <= self.reserve_end:
            self._reserved_sum = (self._reserved_sum + length) & _MASK
        if self.scratch <= start <= self.scratch + self.scratch_size:
            self._scratch_sum = (self._scratch_sum + length) & _MASK
        if (self._reserved_sum, self._scratch_sum) == (self.reserve_size, self.scratch_size):
            self.registrations += 1

    def _record(self, start: int, length: int) -> None:
        named = Ranges([(start, start + length)])
        self.writes.append((start, length))
        self.double_released |= self._named & named
        self._named |= named
        if start < self.reserve:
            self.below.append((start, length))
