"""A root that fits into an initramfs: of a guest's root, the files that a capture uses, found by rehearsing one."""

from __future__ import annotations

import json
import os
import platform as host
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from backports import zstd

from real.cache import Missing, digest_of, kept, run, tool
from real.rootfs import PACKAGES, PYTHON, Platform
from support.command import make_home
from support.vmcore import write_core

__all__ = ["archive", "collector_root"]

_CAPTURE = """\
import json, sys
from dumpvault.cli import main
try:
    main(sys.argv[1:])
except SystemExit as done:
    assert not done.code, done.code
files = {getattr(m, "__file__", None) for m in [*sys.modules.values()]} - {None}
files |= {line.split()[5] for line in open("/proc/self/maps") if line.count("/") and line.split()[5].startswith("/")}
print(json.dumps(sorted(files)))
"""
#: Whole, because what only an error imports is in no rehearsal.
_WHOLE = (PACKAGES / "dumpvault", PACKAGES / "click")
_PROGRAMS = (f"usr/bin/python{PYTHON}", "usr/bin/python3", "usr/bin/dumpvault", "usr/bin/time")


def collector_root(platform: Platform) -> Path:
    """The tree, without the sources of what is compiled. Raises ``Missing`` on a host that cannot run its programs."""
    if host.machine() != platform.tag:
        raise Missing(
            f"an initramfs root for {platform.tag} is rehearsed on such a machine, and this is {host.machine()}"
        )
    root = platform.root

    def make(path: Path) -> None:
        used = {file for file in _rehearse(root, platform.tag) if file.is_relative_to(root)}
        used |= {file for folder in _WHOLE for file in (root / folder).rglob("*") if "__pycache__" not in file.parts}
        used |= {root / name for name in _PROGRAMS}
        used |= set(_names_of(used, root))
        for file in sorted(used):
            if not file.is_dir():
                _copy(file, path / file.relative_to(root))

    return kept(f"collector-{platform.architecture}", root.name + digest_of([Path(__file__)]), make)


def _rehearse(root: Path, machine: str) -> Iterator[Path]:
    """The files that captures of a file and of a pipe load, run by the guest's Python with the guest's libraries."""
    libraries = f"{root}/lib/{machine}-linux-gnu:{root}/usr/lib/{machine}-linux-gnu"
    # Not by its name in /lib64, which is an absolute link.
    loader = next((root / f"lib/{machine}-linux-gnu").glob("ld-linux*"))
    with TemporaryDirectory(prefix="dumpvault-rehearsal-") as name:
        home, core = make_home(Path(name) / "site"), Path(name) / "vmcore"
        write_core(core)
        environment = {
            "DUMPVAULT_HOME": str(home.path),
            "PYTHONHOME": str(root / "usr"),
            "PYTHONPATH": str(root / PACKAGES),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        for source, more in ((str(core), ["--vmcore", str(core)]), ("-", [])):
            command = [str(loader), "--library-path", libraries, str(root / f"usr/bin/python{PYTHON}"), "-c", _CAPTURE]
            command += ["capture", source, *more, "--recipient", "analyst", "--signer", "collector"]
            done = subprocess.run(command, env=environment, input=core.read_bytes(), capture_output=True, check=False)
            if done.returncode:
                raise RuntimeError(f"rehearsal in {root}: {done.stderr.decode(errors='replace')}")
            yield from map(Path, json.loads(done.stdout.splitlines()[-1]))


def _names_of(files: set[Path], root: Path) -> Iterator[Path]:
    """The symbolic links to ``files`` beside them: a library's other name, by which it is loaded."""
    for folder in {file.parent for file in files} | {root / "lib64"}:
        for entry in folder.iterdir():
            # An absolute link is meant inside the root.
            target = os.readlink(entry) if entry.is_symlink() else ""
            if target and (root / target[1:] if target[0] == "/" else folder / target).resolve() in files:
                yield entry


def _copy(file: Path, to: Path) -> None:
    """Compiled Python goes without its source, under the source's name and place, as ``compileall -b`` has it."""
    compiled = file.parent / "__pycache__" / f"{file.stem}.cpython-{PYTHON.replace('.', '')}.pyc"
    if file.suffix == ".py" and compiled.exists():
        file, to = compiled, to.with_suffix(".pyc")
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(file, to, follow_symlinks=False)


def archive(*trees: Path, compress: bool = False) -> bytes:
    """An initramfs: one cpio archive of each tree, one after the other, each as zstd if asked for (Debian's own choice)."""
    found = b""
    for tree in trees:
        names = sorted(str(p.relative_to(tree)) for p in tree.rglob("*"))
        listing = "\n".join([".", *names]).encode()
        made = run(tool("cpio", "cpio"), "-o", "-H", "newc", "-R", "0:0", "--quiet", "-D", tree, stdin=listing)
        found += zstd.compress(made, 9) if compress else made
        found += bytes(-len(found) % 4)
    return found
