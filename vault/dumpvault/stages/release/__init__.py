"""Handing captured memory back: what frees what (``release_map``), and one small file for each way of doing it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, Protocol

from dumpvault.errors import ReleaseFailed
from dumpvault.formats.commit import Release
from dumpvault.formats.elf import Load
from dumpvault.ranges import Ranges

__all__ = ["Method", "Releaser", "choose_releaser"]

Method = Literal["none", "phyp", "fadump"]


class Releaser(Protocol):
    """One way of handing memory back. Nothing here decides *that* a range is durable: callers say so, after its commit."""

    method: Method
    #: What cannot be accounted for and is therefore never released, in words. Makes the capture exit with 14.
    refused: Sequence[str]
    #: True if everything goes at once, after the manifest.
    at_end: bool

    def due(self, durable: Ranges) -> list[Release]:
        """What a commit that makes the file ranges ``durable`` may authorise and no earlier one has."""
        ...

    def already(self, releases: Sequence[Release]) -> None:
        """Releases that an earlier attempt authorised: they are never authorised again."""
        ...

    def perform(self, release: Release) -> str:
        """Hand back what a durable commit authorised; ``released`` or ``failed``."""
        ...


def choose_releaser(
    wanted: str, sysfs: str, loads: Sequence[Load], heads: Ranges, *, own_vmcore: bool, pipe: bool, hold: bool
) -> Releaser:
    """``wanted`` is auto, none, phyp or fadump. ``own_vmcore``: the source is this boot's /proc/vmcore.

    Raises ``ReleaseFailed`` where a method that was named cannot be used; auto then means none.
    """
    from dumpvault.stages.release import fadump, phyp
    from dumpvault.stages.release.none import NoRelease

    found: str = wanted
    if wanted == "auto":
        found = "none"
        if own_vmcore:
            found = "phyp" if phyp.present(sysfs) else "fadump" if fadump.present(sysfs) else "none"
    if found == "none":
        return NoRelease()
    if not own_vmcore and not (pipe and found == "fadump"):
        raise ReleaseFailed(
            f"--release {found}: the source is not this boot's /proc/vmcore",
            "Releasing would free memory that this dump does not hold. Nothing was captured; leave --release out.",
        )
    if found == "phyp":
        return phyp.PhypRelease(os.path.join(sysfs, phyp.PATH), loads, heads, hold=hold)
    return fadump.FadumpRelease(sysfs)
