"""One object on its way into a directory: written past the page cache where it can be, synced, then named."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress

from dumpvault.errors import StoreFailed
from dumpvault.stages.store.contract import ObjectExists, StoreFull

__all__ = ["LocalUpload", "failed", "sync_directory", "unsound"]

_ALIGN = 4096
#: Where the page cache cannot be passed, no more than this many bytes of an object stay dirty in it.
_DIRTY = 16 << 20
_COMPARE = 1 << 20
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def failed(name: str, what: str, error: OSError) -> StoreFailed:
    """The store error for an ``OSError``."""
    hints = {
        errno.ENOSPC: "The store is full. What was written before is unharmed; make room or name another store.",
        errno.EDQUOT: "The quota is used up. What was written before is unharmed; raise it or name another store.",
        errno.EROFS: "The store is mounted read-only. Remount it or name another store.",
        errno.EACCES: "No permission. Run as the store's owner or name another store.",
        errno.EFBIG: "A file size limit was reached (ulimit -f, or the file system's). Raise it.",
    }
    kind = StoreFull if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else StoreFailed
    return kind(
        f"{name}: {what} failed: {error.strerror}",
        hints.get(error.errno or 0, "What was written before is unharmed. Check the disk before trying again."),
    )


def unsound(name: str, what: str, error: OSError) -> StoreFailed:
    """Of a failed sync, even for want of room: what it has written is not known, so the medium is not sound."""
    full = failed(name, what, error)
    return StoreFailed(full.message, full.hint)


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
                view = view[self._write_direct(view[: len(view) // _ALIGN * _ALIGN]) :]
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
            raise failed(self._name, f"writing at byte {self._written:#x}", error) from None

    def finish(self) -> None:
        try:
            # A failed fsync may have thrown the pages away; there is no second try on this file.
            self._sync(self._fd, "making it durable")
            if not self._publish():
                self._compare()
            self._sync(self._directory, "making its name durable")
        except OSError as error:
            raise failed(self._name, "making it durable", error) from None
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

    def _sync(self, fd: int, what: str) -> None:
        try:
            os.fsync(fd)
        except OSError as error:
            raise unsound(self._name, what, error) from None

    def _write_direct(self, view: memoryview) -> int:
        """Write whole pages past the page cache; how many bytes the file system would have from this memory."""
        written = 0
        while len(view):
            try:
                count = os.write(self._fd, view)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                return written
            self._written += count
            written += count
            if count % _ALIGN:
                raise OSError(errno.EIO, f"a short write of {count} bytes")
            view = view[count:]
        return written

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
            self._sync(other, "making it durable")
        finally:
            os.close(other)


def sync_directory(path: str) -> None:
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
