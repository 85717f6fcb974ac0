"""A read-only FUSE file system over a view: for crash, gdb, makedumpfile and everything else that wants a file.

mfusepy hands libfuse's calls on (libfuse's fuse.h); the choice is explained in docs/adr/0018.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

from dumpvault.errors import BadInput, VaultError
from dumpvault.flows.view import View, VirtualFile

__all__ = ["check_fuse", "check_mount_point", "mount"]

_TYPE = "fuse.dumpvault"
_ENDED = 8


def mount(
    view: View,
    directory: str,
    warn: Callable[[str], None],
    ready: Callable[[list[str]], None],
    *,
    page_cache: bool = True,
) -> None:
    """Serve ``view`` at ``directory`` until it is unmounted or SIGINT, SIGTERM or SIGHUP arrives.

    ``ready`` is called with the files' names once they can be read. A read that fails authentication, or whose bytes
    are not there, is EIO, and ``warn`` is told why, once for each reason. Without ``page_cache`` no opened page stays in
    the kernel's page cache; then it cannot be mapped shared, which crash does with kdump-compressed dumps. Call it in
    the main thread.

    Raises ``BadInput`` where it cannot be mounted, ``VaultError`` where FUSE is missing.
    """
    fuse = _binding()
    check_mount_point(directory)
    operations = _operations(fuse, view, warn, ready)
    # libfuse installs its own handlers, which unmount, only where the default ones stand.
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        fuse.FUSE(
            operations, directory, foreground=True, ro=True, nodev=True, nosuid=True, noexec=True, fsname="dumpvault",
            subtype="dumpvault", default_permissions=True, attr_timeout=3600, entry_timeout=3600, max_idle_threads=4,
            **({"kernel_cache": True} if page_cache else {"direct_io": True}),
        )  # fmt: skip
    except RuntimeError as error:
        # libfuse's fuse_main(3): 8 is the end of a mounted file system, by a signal as well.
        if error.args != (_ENDED,) or os.path.ismount(directory):
            raise BadInput(f"{directory}: not mounted", f"libfuse says why above (status {error}).") from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def check_mount_point(directory: str) -> None:
    """Raise ``BadInput`` unless ``directory`` is an empty one; what a killed mount left there is cleared."""
    try:
        names = os.listdir(directory)
    except OSError as error:
        if error.errno != errno.ENOTCONN or not _clear(directory):
            raise BadInput(
                f"{directory}: {error.strerror}", "Name an empty directory of yours. Nothing was mounted."
            ) from None
        names = os.listdir(directory)
    if os.path.ismount(directory):
        raise BadInput(f"{directory}: something is mounted there already", "Name another directory, or unmount it.")
    if names:
        raise BadInput(f"{directory} is not empty", "What is in it would be hidden. Name an empty directory.")


def _clear(directory: str) -> bool:
    """Unmount what a killed dumpvault left behind; False if it is another's."""
    path = os.path.realpath(directory)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        ours = any(
            line.split()[4].encode().decode("unicode_escape") == path and line.partition(" - ")[2].startswith(_TYPE)
            for line in file
        )
    if not ours:
        return False
    command = ["umount", "--lazy", path] if os.geteuid() == 0 else ["fusermount3", "-u", "-z", path]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603


def check_fuse() -> None:
    """Raise ``VaultError`` if nothing can be mounted here: before a vault is opened, since an approval opens it only once."""
    _binding()


def _binding() -> ModuleType:
    hint = "Install them: pip install 'dumpvault[mount]', and libfuse 3 (Debian: apt install fuse3; Fedora: dnf install fuse3)."
    try:
        import mfusepy  # type: ignore[import-untyped]
    except ImportError:
        raise VaultError("mounting needs the package mfusepy and libfuse 3", hint) from None
    except OSError as error:
        raise VaultError(f"mounting needs libfuse 3: {error}", hint) from None
    if not os.path.exists("/dev/fuse"):
        raise VaultError("mounting needs /dev/fuse, which is not here", "Load the kernel module: modprobe fuse.")
    return mfusepy  # type: ignore[no-any-return]


def _operations(
    fuse: ModuleType, view: View, warn: Callable[[str], None], ready: Callable[[list[str]], None]
) -> object:
    """The file system's calls; a class made here, because its base is an optional package's."""
    files: Mapping[str, VirtualFile] = {f"/{name}": file for name, file in view.files(warn).items()}
    made = datetime.fromisoformat(view.report.examiner.header.created).replace(tzinfo=UTC).timestamp()
    owner = {"st_uid": os.geteuid(), "st_gid": os.getegid(), "st_mtime": int(made * 1e9), "st_ctime": int(made * 1e9)}
    told: set[str] = set()

    class Operations(fuse.Operations):  # type: ignore[misc,name-defined]
        use_ns = True

        def init_with_config(self, connection: object, config: object) -> None:
            ready([name[1:] for name in files])

        def getattr(self, path: str, handle: int | None = None) -> dict[str, Any]:
            if path == "/":
                return owner | {"st_mode": stat.S_IFDIR | 0o500, "st_nlink": 2}
            file = self._file(path)
            return owner | {"st_mode": stat.S_IFREG | 0o400, "st_nlink": 1, "st_size": file.size}

        def readdir(self, path: str, handle: int) -> list[str]:
            return [".", "..", *(name[1:] for name in files)]

        def open(self, path: str, flags: int) -> int:
            self._file(path)
            return 0

        def read(self, path: str, size: int, offset: int, handle: int) -> bytes:
            try:
                return self._file(path).read(offset, size)
            except VaultError as error:
                if error.message not in told and len(told) < 1000:
                    told.add(error.message)
                    warn(f"{path[1:]}, byte {offset:#x}: {error.message}")
                raise fuse.FuseOSError(errno.EIO) from None

        def _file(self, path: str) -> VirtualFile:
            try:
                return files[path]
            except KeyError:
                raise fuse.FuseOSError(errno.ENOENT) from None

    return Operations()
