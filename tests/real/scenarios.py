"""The machines that are crashed, and the site of the security team that opens their dumps."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from real.machine import PPC64LE, X86_64, Crash, Layout, Machine, boot
from support.command import Home

__all__ = ["HOST", "SCENARIOS", "Scenario", "make_site", "what_a_guest_gets"]

HOST = "crashbox"


@dataclass(frozen=True)
class Scenario:
    """A machine, where its crash kernel has its root, the memory set aside for it, and what it does."""

    machine: Machine
    layout: Layout
    reserved_mib: int
    steps: tuple[str, ...]

    def crash(self, guest_site: Path, folder: Path, limit: float = 600) -> Crash:
        return boot(self.machine, self.layout, self.reserved_mib, self.steps, guest_site, folder, HOST, limit)


SCENARIOS = {
    "ppc64le-disk": Scenario(PPC64LE, "disk", 256, ("plain", "capture", "filtered")),
    "x86_64-disk": Scenario(X86_64, "disk", 128, ("plain", "capture", "filtered")),
    "x86_64-initramfs": Scenario(X86_64, "initramfs", 192, ("plain", "capture")),
}


def make_site(path: Path) -> Home:
    """A site with a recipient and the host's own signer, made by the installed command."""
    home = Home(path)
    for arguments in (
        ("init",),
        ("keys", "new", "recipient", "analyst", "--unprotected"),
        ("keys", "new", "signer", f"collector@{HOST}", "--unprotected"),
    ):
        ran = home.run(*arguments)
        assert ran.code == 0, ran.err
    return home


def what_a_guest_gets(home: Home, path: Path) -> Path:
    """``path`` with etc/dumpvault of the machine that crashes: public halves and its own signer."""
    etc = path / "etc" / "dumpvault"
    shutil.copytree(home.path / "keys", etc / "keys")
    (etc / "private").mkdir(mode=0o700)
    shutil.copy2(home.path / "private" / f"collector@{HOST}.key", etc / "private")
    return path
