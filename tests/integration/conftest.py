"""A small Debian with kdump-tools, initramfs-tools and dracut, for images that the real tools build."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.roots import SIGNER, Root

TREE = Path(__file__).parents[2]
KERNEL = "6.1.0-test"
_PACKAGES = "initramfs-tools,kdump-tools,dracut-core,python3,busybox-static,zstd"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Debian:
    """A root that programs can be run in."""

    root: Root

    @property
    def path(self) -> Path:
        return self.root.path

    def run(self, *arguments: str, good: bool = True) -> subprocess.CompletedProcess[str]:
        return chroot(self.path, *arguments, good=good)


def chroot(path: Path, *arguments: str, good: bool = True) -> subprocess.CompletedProcess[str]:
    env = {"PATH": _PATH, "LC_ALL": "C"}
    done = subprocess.run(
        ["chroot", str(path), *arguments], env=env, capture_output=True, text=True, check=False, errors="replace"
    )
    assert not good or done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Debian]:
    """Debian's own packages, this checkout installed into their Python, and a site with this host's signer."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    if os.geteuid() or not shutil.which("mmdebstrap"):
        pytest.skip("NOT TESTED: real crash images need root and the package mmdebstrap")
    place = tmp_path_factory.mktemp("debian")
    # In memory, where that is allowed: thousands of small files, all of them thrown away.
    in_memory = not subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", place], check=False).returncode
    path = place / "root"
    try:
        yield _make(path, release["VERSION_CODENAME"])
    finally:
        if in_memory:
            subprocess.run(["umount", place], check=True)
        else:
            shutil.rmtree(path, ignore_errors=True)


#: Where this machine has its own packages from; mmdebstrap reads either form (sources.list(5)).
_SOURCES = [
    path
    for path in (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
    if path.is_file() and path.read_text().strip()
]


def _make(path: Path, suite: str) -> Debian:
    made = subprocess.run(
        [
            "mmdebstrap", "--quiet", "--variant=apt", "--mode=root", "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=force-unsafe-io",
            f"--include={_PACKAGES}", suite, str(path), *map(str, _SOURCES),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip(f"NOT TESTED: Debian's packages cannot be had here: {made.stderr[-300:]}")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not (path / f"usr/bin/python{version}").exists():
        pytest.skip(f"NOT TESTED: the tests' Python {version} is not Debian's")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-warn-conflicts"]
    subprocess.run(
        [*install, "--target", path / f"usr/local/lib/python{version}/dist-packages", TREE],
        check=True, capture_output=True,
    )  # fmt: skip
    root = Root(path)
    command = root.write("usr/local/bin/dumpvault", "#!/usr/bin/python3\nfrom dumpvault.cli import main\nmain()\n")
    command.chmod(0o755)
    root.write("etc/hostname", "db1\n")
    root.write("etc/initramfs-tools/conf.d/modules", "MODULES=list\n")  # there is no device to look for
    for name in ("modules.order", "modules.builtin", "modules.dep"):
        root.write(f"usr/lib/modules/{KERNEL}/{name}")
    root.write(f"boot/vmlinuz-{KERNEL}")
    root.write(f"boot/config-{KERNEL}", "CONFIG_RD_GZIP=y\nCONFIG_RD_ZSTD=y\n")
    machine = Debian(root)
    machine.run("dumpvault", "init")
    machine.run("dumpvault", "keys", "new", "recipient", "analyst", "--unprotected")
    machine.run("dumpvault", "keys", "new", "recipient", "other", "--kem", "p384", "--unprotected")
    machine.run("dumpvault", "keys", "new", "signer", SIGNER, "--unprotected")
    machine.run("dumpvault", "keys", "new", "signer", "officer", "--role", "officer", "--unprotected")
    return machine
