"""A root that fits into an initramfs: filled as a distribution's hook fills it, by ``dumpvault integrate --image``."""

from __future__ import annotations

import os
import platform as host
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from backports import zstd

from real.cache import Missing, digest_of, kept, run, tool
from real.rootfs import Platform

__all__ = ["archive", "collector_root"]


def collector_root(platform: Platform, site: Path, name: str) -> Path:
    """The tree for host ``name``, whose etc/dumpvault is below ``site``; without its keys, for each run has its own.

    Raises ``Missing`` on a host that cannot run the guest's programs.
    """
    if host.machine() != platform.tag or os.geteuid():
        raise Missing(
            f"an initramfs root for {platform.tag} is filled by root of such a machine; this is {host.machine()}"
        )

    def make(path: Path) -> None:
        with TemporaryDirectory(prefix=".filling-", dir=path.parent) as folder:
            root = Path(folder)
            shutil.copytree(platform.root, root, symlinks=True, copy_function=os.link, dirs_exist_ok=True)
            shutil.copytree(site, root, dirs_exist_ok=True)
            (root / "image").mkdir()
            words = ["--host", name, "--signer", f"collector@{name}", "--recipient", "analyst"]
            filled = run("chroot", root, "/usr/bin/dumpvault", "integrate", "--image", "/image", *words)
            for keys in ("keys", "private"):
                shutil.rmtree(root / "image" / "etc" / "dumpvault" / keys)
            shutil.copytree(root / "image", path, symlinks=True, dirs_exist_ok=True)
            binaries = [*filled.decode().split(), "/usr/bin/time"]
            for file in {*binaries, *_libraries(root, binaries)}:
                (path / file[1:]).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(_behind_links(root, file), path / file[1:])

    return kept(f"collector-{platform.architecture}", platform.root.name + digest_of([Path(__file__)]), make)


def _libraries(root: Path, binaries: Iterable[str]) -> set[str]:
    """What ``binaries`` are linked with, the loader included, as initramfs-tools' copy_exec finds it."""
    loader = re.search(rb"/lib\S*/ld-linux\S*?\.so\.\d", _behind_links(root, next(iter(binaries))).read_bytes())
    assert loader
    interpreter = loader[0].decode()
    found = {interpreter}
    for binary in binaries:
        listed = run("chroot", root, interpreter, "--list", binary).decode()
        found |= set(re.findall(r"(?:=> |^\t)(/\S+) \(0x", listed, re.MULTILINE))
    return found


def _behind_links(root: Path, name: str) -> Path:
    """The file of that name inside ``root``, where an absolute link is meant inside, too."""
    path = root / name[1:]
    while path.is_symlink():
        target = os.readlink(path)
        path = root / target[1:] if target[0] == "/" else path.parent / target
    return path


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
