"""A capture reduced to reading, declaring durable and releasing: it drives the release map against a ``Machine``."""

from __future__ import annotations

from collections.abc import Iterable

from dumpvault.formats import elf, release_region
from dumpvault.ranges import Ranges
from dumpvault.stages.release.release_map import ReleaseMap
from support.machine import Machine

__all__ = ["Collector"]


class Collector:
    """``durable`` are file ranges, ``gone`` the addresses whose release was ever authorised.

    ``copy`` is what was read, each range when it became durable. With ``checked`` every write is judged at once.
    """

    def __init__(self, machine: Machine, text: str | None = None, *, hold: bool = False, checked: bool = True) -> None:
        core = elf.parse(machine.read)
        assert core is not None
        self.machine = machine
        self.checked = checked
        self.areas = release_region.parse(text or machine.release_region_text())
        self.loads = core.memory
        self.heads = Ranges((part.offset, part.end) for part in core.headers + core.notes)
        self.map = ReleaseMap.build(self.areas, self.loads, self.heads, machine.layout.page, hold_undescribed=hold)
        self.durable = Ranges()
        self.gone = Ranges()
        self.copy = bytearray(machine.size)
        self.lost: set[int] = set()

    def step(self, *more: tuple[int, int], perform: bool = True) -> list[tuple[int, int]]:
        """Read ``more`` file ranges and make them durable, then release what may go; returns (start, length) pieces.

        Without ``perform`` the releases are authorised and never made, as when a collector is cut off there.
        """
        for start, end in Ranges(more) - self.durable:
            self.copy[start:end] = self.machine.read(start, end - start)
        self.durable |= Ranges(more)
        pieces = self.map.pieces(self.durable, self.gone)
        self.gone |= Ranges((start, start + length) for start, length in pieces)
        for start, length in pieces if perform else []:
            before = set(self.machine.kernel.freed)
            self.machine.write_release(release_region.command(start, length))
            self.lost.update(self.machine.lost(self.durable))
            if self.checked:
                self._check(
                    self.machine.kernel.freed - before
                    <= self.pages(Ranges([(start, start + length + self.map.page)]).widened(self.map.page))
                )
        return pieces

    def _check(self, as_foretold: bool) -> None:
        """Invariants A and B, and that the kernel did what it was asked to and no more."""
        kernel = self.machine.kernel
        assert self.lost == set()
        assert as_foretold
        assert not kernel.double_released
        assert not kernel.runaway
        assert kernel.below == []
        assert kernel.beyond == []

    def in_steps(self, grain: int, order: Iterable[int] | None = None) -> None:
        """Slices of ``grain`` bytes of the whole file become durable one by one, in file order or in ``order``."""
        count = -(-self.machine.size // grain)
        for i in range(count) if order is None else order:
            self.step((i * grain, min((i + 1) * grain, self.machine.size)))

    def pages(self, addresses: Iterable[tuple[int, int]]) -> set[int]:
        """The numbers of the pages that address ranges touch."""
        page = self.machine.layout.page
        return {number for start, end in addresses for number in range(start // page, -(-end // page))}

    @property
    def freed(self) -> set[int]:
        return self.machine.kernel.freed

    @property
    def left(self) -> set[int]:
        """Target pages that are still reserved."""
        return self.pages(self.map.target) - self.freed
