"""Small root file systems: what integrate looks for, a site of their own, and a kernel's interfaces in files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from support.command import Home, Ran

HOST = "db1"
SIGNER = f"collector@{HOST}"
KDUMP_CONF = """\
# the administrator's
auto_reset_crashkernel yes
path /var/crash
core_collector makedumpfile -l --message-level 7 -d 31
dracut_args --omit-drivers "cfg80211 snd"
"""
_PARTS = {
    "kdump-tools": ("usr/sbin/kdump-config",),
    "kdump-utils": ("usr/lib/dracut/dracut-functions.sh",),
    "systemd": ("usr/lib/systemd/systemd",),
}


@dataclass(frozen=True)
class Root:
    path: Path

    @property
    def site(self) -> Home:
        """Root's own site in it, as a site that commands can be run on."""
        return Home(self.path / "etc/dumpvault")

    def run(self, *arguments: object) -> Ran:
        return self.site.call(*arguments, "--root", self.path)

    def integrate(self, name: str, *more: object) -> Ran:
        return self.run("integrate", name, "--signer", SIGNER, "--recipient", "analyst", *more)

    def read(self, path: str) -> str:
        return (self.path / path.lstrip("/")).read_text()

    def write(self, path: str, text: str = "") -> Path:
        file = self.path / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def files(self) -> dict[str, bytes]:
        """Everything in it."""
        found = (Path(where) / name for where, _, names in os.walk(self.path) for name in names)
        return {str(path.relative_to(self.path)): path.read_bytes() for path in found}


def make_root(path: Path) -> Root:
    """A root with every dump mechanism, and a site with a recipient and this host's signer."""
    root = Root(path)
    for parts in _PARTS.values():
        for part in parts:
            root.write(part)
    root.write("etc/hostname", f"{HOST}\n")
    root.write("etc/kdump.conf", KDUMP_CONF)
    root.write("usr/local/bin/dumpvault", "#!/bin/sh\n")
    root.write("proc/meminfo", "MemTotal:        1024 kB\n")
    for arguments in (
        ("keys", "new", "recipient", "analyst", "--unprotected"),
        ("keys", "new", "signer", SIGNER, "--unprotected"),
    ):
        ran = root.site.call(*arguments)
        assert ran.code == 0, ran.err
    (path / "var/lib/dumpvault/store").mkdir(parents=True)
    return root


def make_sysfs(path: Path, *, crash_mib: int = 256, loaded: int = 1, **more: str) -> Path:
    """A kernel with kdump; ``more`` are other files, ``__`` for a slash."""
    files = {"kexec_crash_size": str(crash_mib << 20), "kexec_crash_loaded": str(loaded)}
    files |= {name.replace("__", "/"): text for name, text in more.items()}
    for name, text in files.items():
        file = path / "kernel" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return path
