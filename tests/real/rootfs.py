"""What the guests boot: Debian's kernel, busybox and Python, the dumpvault wheel of this checkout, and images of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from real.cache import ROOT, Missing, digest_of, kept, run, tool
from real.debian import Packages

__all__ = ["PACKAGES", "PYTHON", "Platform", "ext4"]

PYTHON = "3.11"
#: Parts of Python's library that no collector has a use for.
_UNUSED = (
    "usr/share", "usr/lib/valgrind", "usr/lib/perl5",
    *(f"usr/lib/python{PYTHON}/{name}" for name in ("test", "idlelib", "lib2to3", "pydoc_data", "ensurepip", "tkinter")),
)  # fmt: skip
_MODULES = (
    "virtio_blk", "virtio_pci", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "ext4", "crc32c_generic", "crc32c_intel",
)  # fmt: skip
PACKAGES = Path("usr/lib/python3/dist-packages")


@dataclass(frozen=True)
class Platform:
    """One kind of guest: its Debian architecture, kernel package, and the platform tag of its wheels."""

    architecture: str
    kernel_package: str
    tag: str
    #: Dependencies without a wheel for this platform that a capture never imports (tests/packaging holds it to that).
    lacking: tuple[str, ...] = ()

    @cached_property
    def _debian(self) -> Packages:
        return Packages(self.architecture)

    @cached_property
    def kernel_version(self) -> str:
        return self._debian.depends(self.kernel_package, "linux-image-").removeprefix("linux-image-")

    @cached_property
    def kernel(self) -> Path:
        """The bootable kernel."""
        found = [*(self._kernel_tree / "boot").glob("vmlinu[xz]-*")]
        return found[0]

    @cached_property
    def debug_kernel(self) -> Path:
        """vmlinux with debug information, for crash and drgn."""
        debs = self._debian.fetch([f"linux-image-{self.kernel_version}-dbg"])

        def make(path: Path) -> None:
            # The kernel comes before its modules, and tar stops there: the rest of the archive is ten times as long.
            script = (
                'dpkg-deb --fsys-tarfile "$1" 2>/dev/null | tar -x -C "$2" --strip-components=5 --occurrence=1 "$3"'
            )
            name = f"./usr/lib/debug/boot/vmlinux-{self.kernel_version}"
            run("sh", "-ec", script, "sh", debs[0], path, name)

        return kept(f"debug-{self.architecture}", debs[0].name, make) / f"vmlinux-{self.kernel_version}"

    @cached_property
    def _kernel_tree(self) -> Path:
        debs = self._debian.fetch([f"linux-image-{self.kernel_version}"])
        return kept(f"kernel-{self.architecture}", debs[0].name, lambda path: _unpack(debs, path))

    @cached_property
    def small(self) -> Path:
        """busybox, the drivers and the init of both kernels: the tree of an initramfs."""
        debs = self._debian.fetch(["busybox-static"])
        init = Path(__file__).parent / "guest" / "init"

        def make(path: Path) -> None:
            _unpack(debs, path)
            shutil.rmtree(path / "usr", ignore_errors=True)
            for name in ("proc", "sys", "dev", "run", "tmp", "root", "crash", "srv/dumpvault", "etc", "modules"):
                (path / name).mkdir(parents=True, exist_ok=True)
            shutil.copy2(init, path / "init")
            self._copy_modules(path / "modules")

        return kept(f"small-{self.architecture}", digest_of([init, *debs]) + self.kernel_version, make)

    @cached_property
    def kexec(self) -> Path:
        """kexec and what it needs: what the first kernel's initramfs has more than the other."""
        debs = self._debian.fetch(self._debian.with_libraries(["kexec-tools"]))

        def make(path: Path) -> None:
            _unpack(debs, path)
            for name in ("usr/share", "usr/bin", "etc", "var"):
                shutil.rmtree(path / name, ignore_errors=True)

        return kept(f"kexec-{self.architecture}", digest_of([*debs, Path(__file__)]), make)

    @cached_property
    def root(self) -> Path:
        """Python, makedumpfile and the installed wheel of this checkout: the tree of a root on a disk."""
        base = self._python
        included = _project()["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
        sources = [ROOT / name for name in ("pyproject.toml", "vault", *included)]

        def make(path: Path) -> None:
            shutil.copytree(base, path, symlinks=True, copy_function=os.link, dirs_exist_ok=True)
            wheels = path / "wheels"
            run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", wheels, ROOT)
            self._install(path, list(wheels.glob("*.whl")))
            shutil.rmtree(wheels)
            _compile(path, PACKAGES / "dumpvault")
            command = path / "usr/bin/dumpvault"
            # pip's own has the path of the Python that ran pip.
            command.write_text("#!/usr/bin/python3\nimport sys\nfrom dumpvault.cli import main\nsys.exit(main())\n")
            command.chmod(0o755)

        return kept(f"root-{self.architecture}", f"{base.name} {digest_of(sources)}", make)

    @cached_property
    def _python(self) -> Path:
        debs = self._debian.fetch(
            self._debian.with_libraries(["python3.11", "python3.11-minimal", "makedumpfile", "time"])
        )
        wheels = self._wheels

        def make(path: Path) -> None:
            _unpack(debs, path)
            for name in _UNUSED:
                shutil.rmtree(path / name, ignore_errors=True)
            self._install(path, wheels)
            for name in ("proc", "sys", "dev", "run", "tmp", "srv/dumpvault", "etc/dumpvault"):
                (path / name).mkdir(parents=True, exist_ok=True)
            (path / "usr/bin/python3").symlink_to(f"python{PYTHON}")
            _compile(path, Path(f"usr/lib/python{PYTHON}"), PACKAGES)

        return kept(f"python-{self.architecture}", digest_of([*debs, *wheels, Path(__file__)]), make)

    @cached_property
    def _wheels(self) -> list[Path]:
        """The wheels of the project's dependencies, for the guest."""
        wanted = [d for d in _project()["project"]["dependencies"] if not d.lower().startswith(self.lacking)]

        def make(path: Path) -> None:
            try:
                run(*_pip("download"), "--dest", path, *self._target(), *wanted)
            except subprocess.CalledProcessError as error:
                raise Missing(f"wheels for {self.tag} cannot be downloaded: {error.cmd}") from None

        return sorted(kept(f"wheels-{self.architecture}", f"{PYTHON} {self.tag} {wanted}", make).iterdir())

    def _install(self, root: Path, wheels: list[Path]) -> None:
        run(
            *_pip("install"),
            "--no-deps",
            "--no-index",
            "--no-compile",
            "--target",
            root / PACKAGES,
            *self._target(),
            *wheels,
        )

    def _target(self) -> list[str]:
        words = ["--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON]
        for glibc in ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014"):
            words += ["--platform", f"{glibc}_{self.tag}"]
        return words

    def _copy_modules(self, into: Path) -> None:
        """The drivers and what they depend on, in loading order; one that is built in has no file."""
        files = {p.name.partition(".ko")[0].replace("-", "_"): p for p in self._kernel_tree.rglob("*.ko*")}
        order: list[str] = []

        def add(name: str) -> None:
            path = files.get(name)
            if path is None or path.name in order:
                return
            depends = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
            for one in depends[1].decode().split(",") if depends else ():
                add(one.replace("-", "_"))
            order.append(path.name)
            shutil.copy2(path, into / path.name)

        for name in _MODULES:
            add(name)
        (into / "order").write_text("\n".join(order) + "\n")


def ext4(path: Path, size_mib: int, tree: Path | None = None) -> None:
    """An ext4 image at ``path``, empty or with the files of ``tree``."""
    path.unlink(missing_ok=True)
    content = ["-d", tree] if tree else []
    run(tool("mke2fs", "e2fsprogs"), "-q", "-t", "ext4", "-E", "root_owner=0:0", *content, path, f"{size_mib}M")


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def _unpack(debs: list[Path], into: Path) -> None:
    for deb in debs:
        run(tool("dpkg-deb", "dpkg"), "-x", deb, into)


def _pip(command: str) -> list[str]:
    return [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", command]


def _compile(root: Path, *folders: Path) -> None:
    """What installing a package does: byte code for the guest's Python, if the host's is the same one."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" != PYTHON:
        return
    options = ["-q", "--invalidation-mode", "unchecked-hash", "-s", root, "-p", "/"]
    run(sys.executable, "-m", "compileall", *options, *(root / path for path in folders))
