"""The memory that is captured: a vmcore file, ``/proc/vmcore``, any other file, or a pipe.

One bad page fails a whole read of ``/proc/vmcore`` with EFAULT and no count (kernel fs/proc/vmcore.c), so a failed
read is halved down to the page, which is recorded and stands as zeros.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable
from functools import partial
from typing import Literal

from dumpvault.errors import BadInput, Interrupted
from dumpvault.formats import elf, flattened
from dumpvault.formats.manifest import End
from dumpvault.model import PAGE, Range

__all__ = ["Source", "open_source"]

_PEEK = 1 << 20
#: No more of a pipe is held back to see its headers: 75 000 program headers.
_SIGHT = 4 << 20
_BAD_PAGE = (errno.EIO, errno.EFAULT)


class _OutOfSight(elf.MalformedElf):
    """Perhaps a good ELF core; a pipe does not show."""


class Source:
    """An open source. ``size`` in bytes, None for a pipe; ``warning`` says what is wrong with its headers, if anything."""

    def __init__(self, fd: int, name: str, size: int | None, mtime: int | None) -> None:
        self.name = name
        self.size = size
        self.mtime = mtime
        self.warning = ""
        self.core: elf.ElfCore | None = None
        self.kind: Literal["elf", "flattened", "opaque"] = "opaque"
        self._fd = fd
        self._position = 0
        self._peeked = bytearray()
        if size is None:
            self._peek()
        self._malformed = False
        try:
            self.core = elf.parse(self._look)
        except elf.MalformedElf as error:
            self._malformed = not isinstance(error, _OutOfSight)
            self.warning = f"{name} begins as an ELF core but {error}; it is sealed as it is, as opaque bytes"
        if self.core:
            self.kind = "elf"
        elif flattened.is_flattened(self._look(0, 24)):
            self.kind = "flattened"
            self._records = flattened.Records()

    @property
    def begun(self) -> bool:
        """Whether a pipe has given anything."""
        return bool(self._peeked)

    @property
    def seekable(self) -> bool:
        """Whether regions may be read in any order."""
        return self.size is not None

    def read(self, offset: int, view: memoryview, stop: Callable[[], bool]) -> tuple[int, list[Range]]:
        """Fill ``view`` from byte ``offset``; returns bytes filled (fewer only at the end) and unreadable ranges.

        A pipe must be read in order. Raises ``Interrupted`` when ``stop()`` becomes true while a pipe is silent.
        """
        holes: list[Range] = []
        if self.size is None:
            return self._read_pipe(offset, view, stop), holes
        view = view[: max(0, self.size - offset)]
        return self._read_file(offset, view, holes), holes

    def records(self, offset: int) -> flattened.Records | None:
        """What follows the records of the region at byte ``offset`` as it is fed with its bytes; None if not flattened.

        To be asked for region by region in the order of the stream, of a pipe when the region before has passed.
        """
        if self.kind != "flattened":
            return None
        if self.size is not None:
            return self._records.ahead(offset, partial(os.pread, self._fd))
        self._records.begin()
        return self._records

    def notes(self) -> bytes:
        """The bytes of the first PT_NOTEs, up to 1 MiB in all; empty for a source that is no ELF core."""
        found = b""
        for part in self.core.notes if self.core else ():
            found += self._look(part.offset, min(part.length, _PEEK - len(found)))
        return found

    def conclude(self, total: int) -> tuple[End, bool]:
        """After reading: how the end was known, and whether the source is cut short of what its headers say.

        ``total`` is the bytes that were read.
        """
        if self.core:
            return "elf", total < max(self.core.end, self.size or 0)
        if self.kind == "flattened":
            if self.size is not None:
                self._records.ahead(self.size, partial(os.pread, self._fd))
            return "flattened", self._records.state != flattened.ENDED
        if self.size is None:
            return "eof", self._malformed
        return "size", self._malformed or total < self.size

    def changed(self) -> bool:
        """Whether a file was written to since it was opened; a dump of it is of no single moment."""
        facts = os.fstat(self._fd)
        return self.mtime is not None and (facts.st_size, facts.st_mtime_ns) != (self.size, self.mtime)

    def close(self) -> None:
        os.close(self._fd)

    def _look(self, offset: int, length: int) -> bytes:
        if self.size is None:
            self._peek(offset + length)
            return bytes(self._peeked[offset : offset + length])
        if offset + length >= 1 << 63:
            return b""  # no file reaches there, whatever its headers say
        out = b""
        while len(out) < length:
            try:
                piece = os.pread(self._fd, length - len(out), offset + len(out))
            except OSError as error:
                raise BadInput(
                    f"{self.name}: cannot be read at byte {offset + len(out):#x}: {error.strerror}",
                    "Its headers are needed first. Nothing was captured.",
                ) from None
            if not piece:
                break
            out += piece
        return out

    def _peek(self, enough: int = _PEEK) -> None:
        """Hold back the first bytes of a pipe, so that its headers can be seen."""
        while len(self._peeked) < min(enough, _SIGHT):
            select.select([self._fd], [], [])  # the pipe may have been set not to block
            try:
                piece = os.read(self._fd, min(_PEEK, _SIGHT - len(self._peeked)))
            except OSError as error:
                raise BadInput(
                    f"{self.name}: cannot be read at byte {len(self._peeked):#x}: {error.strerror}",
                    "Its headers are needed first. Nothing was captured.",
                ) from None
            if not piece:
                return
            self._peeked += piece
        if enough > _SIGHT:
            raise _OutOfSight(f"what its header points at, {enough} bytes on, is not looked at on a pipe")

    def _read_file(self, offset: int, view: memoryview, holes: list[Range]) -> int:
        done = 0
        while done < len(view):
            try:
                count = os.preadv(self._fd, [view[done:]], offset + done)
            except OSError as error:
                if error.errno not in _BAD_PAGE:
                    raise BadInput(
                        f"{self.name}: reading at byte {offset + done:#x} failed: {error.strerror}",
                        "What was sealed before stays useful.",
                    ) from None
                left = len(view) - done
                if left <= PAGE:
                    _mark(holes, Range(offset + done, left))
                    view[done:] = bytes(left)
                    return len(view)
                half = max(PAGE, left // 2 // PAGE * PAGE)
                count = self._read_file(offset + done, view[done : done + half], holes)
                if count < half:
                    return done + count
            if count == 0:
                break
            done += count
        return done

    def _read_pipe(self, offset: int, view: memoryview, stop: Callable[[], bool]) -> int:
        if offset != self._position:
            raise ValueError(f"a pipe at byte {self._position} cannot be read at {offset}")
        done = min(len(view), len(self._peeked))
        view[:done] = self._peeked[:done]
        del self._peeked[:done]
        while done < len(view):
            while not select.select([self._fd], [], [], 0.2)[0]:
                if stop():
                    raise Interrupted(f"{self.name}: stopped while waiting for the pipe at byte {offset + done:#x}")
            count = os.readv(self._fd, [view[done:]])
            if count == 0:
                break
            done += count
        self._position += done
        return done


def _mark(holes: list[Range], hole: Range) -> None:
    """Append, joining neighbours."""
    if holes and holes[-1].end == hole.offset:
        holes[-1] = Range(holes[-1].offset, holes[-1].length + hole.length)
    else:
        holes.append(hole)


def open_source(path: str) -> Source:
    """Open a file, or standard input for ``-``. Raises ``BadInput``, also for an empty source."""
    try:
        fd = os.dup(0) if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}", "Nothing was captured.") from None
    try:
        source = _source(fd, path)
    except BaseException:
        os.close(fd)
        raise
    if source is None:
        os.close(fd)
        raise BadInput(
            f"{_shown(path)} is empty", "Nothing was captured. Is this the crash kernel, and is the dump there?"
        )
    return source


def _source(fd: int, path: str) -> Source | None:
    """None if there is nothing in it."""
    name, facts = _shown(path), os.fstat(fd)
    if stat.S_ISDIR(facts.st_mode):
        raise BadInput(f"{name} is a directory", "Name the vmcore in it. Nothing was captured.")
    size = 0
    if stat.S_ISREG(facts.st_mode):
        size = facts.st_size
    elif stat.S_ISBLK(facts.st_mode):
        size = os.lseek(fd, 0, os.SEEK_END)
    # A file that somebody has read from already, or one of /proc that states no size, is read on like a pipe.
    if size and not (path == "-" and stat.S_ISREG(facts.st_mode) and os.lseek(fd, 0, os.SEEK_CUR)):
        return Source(fd, name, size, facts.st_mtime_ns)
    source = Source(fd, name, None, None)
    return source if source.begun else None


def _shown(path: str) -> str:
    """A name that can be written down: bytes that are no UTF-8 are shown by their numbers."""
    return "standard input" if path == "-" else os.fsencode(path).decode(errors="backslashreplace")
