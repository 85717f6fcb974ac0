"""Firmware-assisted dumps (fadump): one write gives everything back, after it has taken /proc/vmcore away.

Documentation/arch/powerpc/firmware-assisted-dump.rst: only ``1`` is accepted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from dumpvault.errors import ReleaseFailed
from dumpvault.formats.commit import Release
from dumpvault.ranges import Ranges
from dumpvault.stages.release import Method

__all__ = ["PATHS", "FadumpRelease", "present"]

PATHS = ("kernel/fadump/release_mem", "kernel/fadump_release_mem")


def _path(sysfs: str) -> str | None:
    return next((path for name in PATHS if os.path.exists(path := os.path.join(sysfs, name))), None)


def present(sysfs: str) -> bool:
    return _path(sysfs) is not None


class FadumpRelease:
    """Releases once, after the manifest; its outcome is the vault's first event."""

    method: Method = "fadump"
    refused: Sequence[str] = ()
    at_end = True

    def __init__(self, sysfs: str) -> None:
        path = _path(sysfs)
        if path is None:
            raise ReleaseFailed(
                f"{os.path.join(sysfs, PATHS[0])} does not exist: this boot has no firmware-assisted dump",
                "Nothing was captured; leave --release out to capture without releasing.",
            )
        self._path = path

    def due(self, durable: Ranges) -> list[Release]:
        return []

    def already(self, releases: Sequence[Release]) -> None:
        """Commits never authorise a fadump release; the manifest does."""

    def perform(self, release: Release) -> str:
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"1")
            finally:
                os.close(fd)
        except OSError:
            return "failed"
        return "released"
