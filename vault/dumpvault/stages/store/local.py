"""A store in a directory: temporary file, fsync, link without overwriting, fsync of the directory (contract.py).

The first use of a directory also syncs every directory above it up to the mount point, even those that existed: an
earlier run may have made them and died before they were durable.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress

from dumpvault.errors import StoreFailed
from dumpvault.stages.store.contract import ObjectExists, ObjectMissing, check_deletable, check_name

__all__ = ["LocalStore"]

_ALIGN = 4096
#: Where the page cache cannot be passed, no more than this many bytes of an object stay dirty in it.
_DIRTY = 16 << 20
_COMPARE = 1 << 20
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def _failed(name: str, what: str, error: OSError) -> StoreFailed:
    hints = {
        errno.ENOSPC: "The store is full. What was written before is unharmed; make room or name another store.",
        errno.EDQUOT: "The quota is used up. What was written before is unharmed; raise it or name another store.",
        errno.EROFS: "The store is mounted read-only. Remount it or name another store.",
        errno.EACCES: "No permission. Run as the store's owner or name another store.",
        errno.EFBIG: "A file size limit was reached (ulimit -f, or the file system's). Raise it.",
    }
    return StoreFailed(
        f"{name}: {what} failed: {error.strerror}",
        hints.get(error.errno or 0, "What was written before is unharmed. Check the disk before trying again."),
    )


class LocalStore:
    """Objects as files below ``root``."""

    def __init__(self, root: str, *, create: bool = False) -> None:
        self.root = os.path.abspath(root)
        self.url = self.root
        self._known: set[str] = set()
        self._lock = threading.Lock()
        try:
            if create:
                self._make_directory(self.root)
            if not stat.S_ISDIR(os.stat(self.root).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        except OSError as error:
            raise _failed(self.root, "opening the store", error) from None

    def create(self, name: str) -> LocalUpload:
        check_name(name)
        path = os.path.join(self.root, name)
        directory = os.path.dirname(path)
        try:
            self._use_directory(directory)
            return LocalUpload(name, directory, os.path.basename(path))
        except OSError as error:
            raise _failed(name, "creating it", error) from None

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
            raise _failed(name, f"reading at byte {offset:#x}", error) from None
        finally:
            os.close(fd)

    def size(self, name: str) -> int | None:
        check_name(name)
        try:
            facts = os.lstat(os.path.join(self.root, name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _failed(name, "looking it up", error) from None
        return facts.st_size if stat.S_ISREG(facts.st_mode) else None

    def children(self, prefix: str) -> Iterator[str]:
        check_name(prefix)
        for entry in self._scan(prefix):
            yield entry.name

    def list(self, prefix: str) -> Iterator[str]:
        check_name(prefix)
        for entry in self._scan(prefix):
            name = f"{prefix}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from self.list(name)
            else:
                yield name

    def delete(self, name: str) -> None:
        check_deletable(name)
        path = os.path.join(self.root, name)
        try:
            os.unlink(path)
            _sync_directory(os.path.dirname(path))
        except FileNotFoundError:
            return
        except OSError as error:
            raise _failed(name, "deleting it", error) from None

    def _scan(self, prefix: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(os.path.join(self.root, prefix)) as entries:
                # A leading dot marks an unfinished write; check_name lets no object have one.
                yield from (entry for entry in entries if not entry.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise _failed(prefix, "listing it", error) from None

    def _open(self, name: str) -> int:
        check_name(name)
        try:
            fd = os.open(os.path.join(self.root, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            raise ObjectMissing(
                f"{name}: no such object in {self.root}", "Restore it from a copy, if there is one."
            ) from None
        except OSError as error:
            raise _failed(name, "opening it", error) from None
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
            try:
                _sync_directory(here)
            except PermissionError:
                if os.access(here, os.W_OK):
                    raise
                # What we may not write we did not change.
            parent = os.path.dirname(here)
            if parent == here or os.stat(parent).st_dev != os.stat(here).st_dev:
                return
            here = parent


class LocalUpload:
    """One object being written, under a temporary name beside its final one."""

    def __init__(self, name: str, directory: str, final: str) -> None:
        self._name = name
        self._final = final
        self._temporary = f".{final}.{secrets.token_hex(8)}.tmp"
        self._written = 0
        self._dirty = 0
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            try:
                self._fd = os.open(self._temporary, flags | os.O_DIRECT, 0o440, dir_fd=self._directory)
                self._direct = True
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._fd = os.open(self._temporary, flags, 0o440, dir_fd=self._directory)
                self._direct = False
        except OSError:
            os.close(self._directory)
            raise

    def write(self, data: bytes | memoryview) -> None:
        """Append. Page-aligned whole pages pass the page cache; after the first other piece, nothing does."""
        view = memoryview(data)
        try:
            if self._direct:
                aligned = len(view) // _ALIGN * _ALIGN
                if aligned and not self._write_direct(view[:aligned]):
                    aligned = 0
                view = view[aligned:]
                if len(view):
                    self._leave_direct()
            while len(view):
                count = os.write(self._fd, view)
                view = view[count:]
                self._written += count
                self._dirty += count
            if self._dirty >= _DIRTY:
                os.fdatasync(self._fd)
                os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
                self._dirty = 0
        except OSError as error:
            raise _failed(self._name, f"writing at byte {self._written:#x}", error) from None

    def finish(self) -> None:
        try:
            # A failed fsync may have thrown the pages away; there is no second try on this file.
            os.fsync(self._fd)
            taken = not self._publish()
        except OSError as error:
            self.abort()
            raise _failed(self._name, "making it durable", error) from None
        try:
            if taken:
                self._compare()
            os.fsync(self._directory)
        except OSError as error:
            raise _failed(self._name, "making its name durable", error) from None
        finally:
            self.abort()

    def abort(self) -> None:
        """Remove the temporary file; nothing happens to a finished object."""
        if self._fd < 0:
            return
        with suppress(OSError):
            os.unlink(self._temporary, dir_fd=self._directory)
        os.close(self._fd)
        os.close(self._directory)
        self._fd = -1

    def _write_direct(self, view: memoryview) -> bool:
        """Write whole pages past the page cache; False if the file system will not have this buffer."""
        while len(view):
            try:
                count = os.write(self._fd, view)
            except OSError as error:
                if error.errno != errno.EINVAL or self._written:
                    raise
                return False
            self._written += count
            if count % _ALIGN:
                raise OSError(errno.EIO, f"a short write of {count} bytes")
            view = view[count:]
        return True

    def _leave_direct(self) -> None:
        import fcntl

        flags = fcntl.fcntl(self._fd, fcntl.F_GETFL)
        fcntl.fcntl(self._fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)
        self._direct = False

    def _publish(self) -> bool:
        """Give the file its final name unless the name is taken; False if it is."""
        here = self._directory
        try:
            os.link(self._temporary, self._final, src_dir_fd=here, dst_dir_fd=here, follow_symlinks=False)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _rename_noreplace(here, self._temporary, self._final)
        os.unlink(self._temporary, dir_fd=here)
        return True

    def _compare(self) -> None:
        """The name is taken: fine if its bytes are ours (NFS may say so after success), once they are synced."""
        if self._direct:
            self._leave_direct()
        try:
            other = os.open(self._final, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._directory)
        except FileNotFoundError:
            raise ObjectExists(f"{self._name}: its name was taken and given up while writing", "Try again.") from None
        try:
            at = 0
            while True:
                mine, theirs = os.pread(self._fd, _COMPARE, at), os.pread(other, _COMPARE, at)
                if mine != theirs:
                    raise ObjectExists(
                        f"{self._name}: another object with other bytes has this name",
                        "Objects are never overwritten. Another collector may be at work on this vault.",
                    )
                if not mine:
                    break
                at += len(mine)
            os.fsync(other)
        finally:
            os.close(other)


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _rename_noreplace(directory: int, old: str, new: str) -> bool:
    """renameat2(RENAME_NOREPLACE), for file systems without hard links; OSError if there is neither."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(directory, old.encode(), directory, new.encode(), 1) == 0:
        return True
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        return False
    raise OSError(
        number, f"{os.strerror(number)} (neither link nor renameat2 works here, so objects would not be safe)"
    )
