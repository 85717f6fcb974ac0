"""Hypervisor-assisted dumps (phyp): memory goes back piece by piece through ``release_region``."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dumpvault.errors import ReleaseFailed
from dumpvault.formats import release_region
from dumpvault.formats.commit import Release
from dumpvault.formats.elf import Load
from dumpvault.ranges import Ranges
from dumpvault.stages.release import Method
from dumpvault.stages.release.release_map import ReleaseMap

__all__ = ["PATH", "PhypRelease", "present"]

PATH = "kernel/release_region"


def present(sysfs: str) -> bool:
    return os.path.exists(os.path.join(sysfs, PATH))


class PhypRelease:
    """Releases as early as the map allows. ``path`` is release_region's; ``heads`` the headers' and notes' file ranges."""

    method: Method = "phyp"
    at_end = False

    def __init__(self, path: str, loads: Sequence[Load], heads: Ranges, *, hold: bool) -> None:
        self._path = path
        self._gone = Ranges()
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                text = file.read(8192)
        except OSError as error:
            raise ReleaseFailed(f"{path}: {error.strerror}", "Nothing was captured; --release none captures.") from None
        self._map = ReleaseMap(os.sysconf("SC_PAGE_SIZE"))
        self.refused: Sequence[str]
        try:
            areas = release_region.parse(text)
        except ValueError as error:
            self.refused = [f"{path}: {error}"]
            return
        self._map = ReleaseMap.build(areas, loads, heads, self._map.page, hold_undescribed=hold)
        self.refused = [f"{path}: {why}" for why in self._map.refused]

    def due(self, durable: Ranges) -> list[Release]:
        pieces = self._map.pieces(durable, self._gone)
        self._gone |= Ranges((start, start + length) for start, length in pieces)
        return [Release("phyp", start, length) for start, length in pieces]

    def already(self, releases: Sequence[Release]) -> None:
        self._gone |= Ranges((r.start, r.start + r.length) for r in releases)

    def perform(self, release: Release) -> str:
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, release_region.command(release.start, release.length))
            finally:
                os.close(fd)
        except OSError:
            return "failed"
        return "released"
