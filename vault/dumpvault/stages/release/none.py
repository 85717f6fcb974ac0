"""No release: memory stays as it is until the next boot."""

from __future__ import annotations

from collections.abc import Sequence

from dumpvault.formats.commit import Release
from dumpvault.ranges import Ranges
from dumpvault.stages.release import Method

__all__ = ["NoRelease"]


class NoRelease:
    method: Method = "none"
    refused: Sequence[str] = ()
    at_end = False

    def due(self, durable: Ranges) -> list[Release]:
        return []

    def already(self, releases: Sequence[Release]) -> None:
        """Nothing is ever authorised here."""

    def perform(self, release: Release) -> str:
        raise AssertionError("nothing is ever authorised here")
