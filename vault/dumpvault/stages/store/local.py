"""A store in a directory: temporary file, fsync, link without overwriting, fsync of the directory (contract.py).

The first use of a directory also syncs every directory above it up to the mount point, even those that existed: an
earlier run may have made them and died before they were durable.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress

from dumpvault.errors import StoreFailed
from dumpvault.stages.store.contract import ObjectMissing, check_deletable, check_name
from dumpvault.stages.store.local_upload import LocalUpload, failed, sync_directory, unsound

__all__ = ["LocalStore"]

_RESERVE = ".reserve"
_RESERVED_FILES = 4  # signing off takes room in the file table as well
_VOLATILE = ("tmpfs", "ramfs", "rootfs")


class LocalStore:
    """Objects as files below ``root``."""

    def __init__(self, root: str, *, create: bool = False) -> None:
        self.root = os.path.abspath(root)
        self.url = self.root
        self.volatile = _volatile(os.path.realpath(self.root))
        self._known: set[str] = set()
        self._lock = threading.Lock()
        try:
            if create:
                self._make_directory(self.root)
            if not stat.S_ISDIR(os.stat(self.root).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        except OSError as error:
            raise StoreFailed(
                f"{self.root}: opening the store failed: {error.strerror}",
                "Is the path right, and its disk mounted? Nothing was read or written.",
            ) from None

    def create(self, name: str) -> LocalUpload:
        check_name(name)
        path = os.path.join(self.root, name)
        directory = os.path.dirname(path)
        try:
            self._use_directory(directory)
            return LocalUpload(name, directory, os.path.basename(path))
        except OSError as error:
            raise failed(name, "creating it", error) from None

    def put(self, name: str, data: bytes) -> None:
        upload = self.create(name)
        try:
            upload.write(data)
        except BaseException:
            upload.abort()
            raise
        upload.finish()

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        fd = self._open(name)
        try:
            if length is None:
                length = max(0, os.fstat(fd).st_size - offset)
            data = os.pread(fd, length, offset)
            while len(data) < length:
                more = os.pread(fd, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
            return data
        except OSError as error:
            raise failed(name, f"reading at byte {offset:#x}", error) from None
        finally:
            os.close(fd)

    def size(self, name: str) -> int | None:
        check_name(name)
        try:
            facts = os.lstat(os.path.join(self.root, name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise failed(name, "looking it up", error) from None
        return facts.st_size if stat.S_ISREG(facts.st_mode) else None

    def children(self, prefix: str) -> Iterator[str]:
        check_name(prefix)
        for entry in self._scan(prefix):
            yield entry.name

    def list(self, prefix: str) -> Iterator[str]:
        check_name(prefix)
        # Not recursive, and without check_name: what others have put here may have any name and depth.
        folders = [prefix]
        while folders:
            folder = folders.pop()
            for entry in self._scan(folder):
                name = f"{folder}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    folders.append(name)
                else:
                    yield name

    def delete(self, name: str) -> None:
        check_deletable(name)
        path = os.path.join(self.root, name)
        try:
            with suppress(FileNotFoundError):
                os.unlink(path)
            # Also where it was gone already: an earlier delete may have died before this.
            sync_directory(os.path.dirname(path))
        except FileNotFoundError:
            return
        except OSError as error:
            raise failed(name, "deleting it", error) from None

    def settle(self, name: str) -> None:
        fd = self._open(name)
        try:
            os.fsync(fd)
            directory = os.path.dirname(os.path.join(self.root, name))
            self._use_directory(directory)
            self._sync(directory)  # again: the name may be younger than this object's first use of the directory
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise failed(name, "making it durable", error) from None
        finally:
            os.close(fd)

    def reserve(self, length: int) -> None:
        try:
            for i in range(_RESERVED_FILES):
                fd = os.open(f"{self.root}/{_RESERVE}.{i}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    os.posix_fallocate(fd, 0, length // _RESERVED_FILES)
                finally:
                    os.close(fd)
        except OSError as error:
            self.unreserve()
            raise failed(_RESERVE, f"keeping {length} bytes for signing off", error) from None

    def unreserve(self) -> None:
        for i in range(_RESERVED_FILES):
            with suppress(OSError):
                os.unlink(f"{self.root}/{_RESERVE}.{i}")

    def _scan(self, prefix: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(os.path.join(self.root, prefix)) as entries:
                # A leading dot marks an unfinished write; check_name lets no object have one.
                yield from (entry for entry in entries if not entry.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise failed(prefix, "listing it", error) from None

    def _open(self, name: str) -> int:
        check_name(name)
        try:
            fd = os.open(os.path.join(self.root, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            raise ObjectMissing(
                f"{name}: no such object in {self.root}", "Restore it from a copy, if there is one."
            ) from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise ObjectMissing(f"{name}: not a regular file in {self.root}", "Restore it from a copy.") from None
            raise failed(name, "opening it", error) from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ObjectMissing(f"{name}: not a regular file in {self.root}", "Restore the object from a copy.")
        return fd

    def _use_directory(self, directory: str) -> None:
        """Make ``directory`` and everything above it durable, once in the life of this store object."""
        with self._lock:
            if directory in self._known:
                return
            self._make_directory(directory)
            self._known.add(directory)

    def _make_directory(self, directory: str) -> None:
        os.makedirs(directory, exist_ok=True)
        here = directory
        while True:
            self._sync(here)
            parent = os.path.dirname(here)
            if parent == here or os.stat(parent).st_dev != os.stat(here).st_dev:
                return
            here = parent

    @staticmethod
    def _sync(directory: str) -> None:
        try:
            sync_directory(directory)
        except PermissionError:
            if os.access(directory, os.W_OK):
                raise
            # What we may not write we did not change.
        except OSError as error:
            raise unsound(directory, "making it durable", error) from None


def _volatile(root: str) -> str:
    """Why nothing below ``root`` survives a reboot, from /proc/self/mountinfo (proc(5)); empty if it would."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            mounts = [line.split(" - ", 1) for line in file]
    except OSError:
        return ""
    best, kind, options = "", "", ""
    for left, right in mounts:
        point = left.split()[4].encode().decode("unicode_escape")
        if (root == point or root.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind, options = point, right.split()[0], right
    if kind in _VOLATILE:
        return f"{best} is a {kind}: it lives in memory"
    if kind == "overlay" and (upper := options.partition("upperdir=")[2].partition(",")[0].split(" ")[0]):
        below = _volatile(upper) if not root.startswith(upper) else ""
        return below and f"{best} is an overlay whose {below}"
    return ""
