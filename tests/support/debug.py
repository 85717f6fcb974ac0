"""The real x86_64 dump and its kernel's debug symbols, which are large and do not travel with the project."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

__all__ = ["real_dump", "vmlinux"]

RELEASE = "6.1.0-56-cloud-amd64"


def real_dump(shared: Path, folder: Path) -> Path:
    """The dump, unpacked into ``folder``; skips loudly."""
    packed = shared / "cores" / "x86_64-proc-vmcore-256M.elf.zst"
    if not packed.is_file() or shutil.which("zstd") is None:
        pytest.skip(f"NOT TESTED: needs {packed} and zstd")
    subprocess.run(["zstd", "-dqf", packed, "-o", folder / "vmcore"], check=True)
    return folder / "vmcore"


def vmlinux(root: Path) -> Path:
    """Its vmlinux, in ``DUMPVAULT_DEBUG`` or under ``root``/build/debug, where Debian's package is unpacked; skips loudly."""
    name = f"vmlinux-{RELEASE}"
    if given := os.environ.get("DUMPVAULT_DEBUG"):
        for path in (Path(given) / name, Path(given) / "usr/lib/debug/boot" / name):
            if path.is_file():
                return path
        pytest.skip(f"NOT TESTED: no {name} in DUMPVAULT_DEBUG={given}")
    cache = root / "build" / "debug"
    path = cache / "usr/lib/debug/boot" / name
    if path.is_file():
        return path
    package = f"linux-image-{RELEASE}-dbg"
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip(f"NOT TESTED: needs {name} (Debian: {package}); name its directory in DUMPVAULT_DEBUG")
    cache.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["apt-get", "download", "-q", package], cwd=cache, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"NOT TESTED: Debian's {package} cannot be had: {done.stderr.strip()[-200:]}")
    (deb,) = cache.glob(f"{package}_*.deb")
    unpack = f"dpkg-deb --fsys-tarfile '{deb}' | tar -x -C '{cache}' ./usr/lib/debug/boot"
    subprocess.run(["sh", "-c", unpack], check=True)
    deb.unlink()
    return path
