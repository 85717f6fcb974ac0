"""Where everything that is downloaded or built is kept, keyed by what went into it; and what it means that it cannot be had."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import mkdtemp

__all__ = ["ROOT", "Missing", "digest_of", "folder", "kept", "run", "tool"]

ROOT = Path(__file__).parents[2]


class Missing(Exception):
    """Something this machine lacks, or that could not be downloaded: the reason for a loud skip."""


def folder() -> Path:
    """The cache: ``DUMPVAULT_REAL_CACHE``, else ``build/real`` in the checkout, which git ignores."""
    path = Path(os.environ.get("DUMPVAULT_REAL_CACHE") or ROOT / "build" / "real").absolute()
    path.mkdir(parents=True, exist_ok=True)
    return path


def kept(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder ``name`` made by ``make`` from what ``key`` says; made once, whole, in place of one with another key."""
    path = folder() / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if not path.is_dir():
        fresh = Path(mkdtemp(prefix=f".{name}-", dir=folder()))
        try:
            fresh.chmod(0o755)
            make(fresh)
            for old in folder().glob(f"{name}-*"):
                shutil.rmtree(old)
            fresh.rename(path)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return path


def digest_of(paths: Iterable[Path]) -> str:
    """SHA-256 over the names and bytes of files, and of the files in folders."""
    digest = hashlib.sha256()
    for top in paths:
        files = sorted(p for p in top.rglob("*") if p.is_file() and p.suffix != ".pyc") if top.is_dir() else [top]
        for path in files:
            digest.update(f"{path.relative_to(top.parent)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def tool(name: str, package: str) -> str:
    """The path of a program. Raises ``Missing`` with the Debian package that has it."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if not path:
        raise Missing(f"no {name} here: install Debian's {package}")
    return path


def run(*command: object, cwd: Path | None = None, stdin: bytes | None = None) -> bytes:
    """A program's standard output. Raises ``CalledProcessError``, its standard error in the message, if it fails."""
    done = subprocess.run([*map(str, command)], cwd=cwd, input=stdin, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-1000:]
        raise subprocess.CalledProcessError(done.returncode, " ".join(map(str, command))[:300] + f": {said}")
    return done.stdout
