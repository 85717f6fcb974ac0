"""Open a vault bit for bit: verify what is signed, unlock, unseal each region, and only then give the result its name."""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dumpvault.errors import BadInput, Forged, Incomplete, Interrupted, StoreFailed, VaultError
from dumpvault.flows.judging import Judge
from dumpvault.flows.recording import Opening
from dumpvault.flows.unlocking import KeyedRegion, Unlock, unlock_vault
from dumpvault.flows.verified import Report, require_structure
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.dsse import Envelope
from dumpvault.formats.private_key import LockedKey, PrivateKey
from dumpvault.model import RegionRecord, Sink, Store
from dumpvault.stages.unseal import unseal

if TYPE_CHECKING:
    from dumpvault.flows.combining import Approvals

__all__ = ["OpenRequest", "Opened", "open_vault", "shortfall"]

_ZEROS = bytes(1 << 20)
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """``output`` is a path, or ``-`` for standard output. ``keys`` are tried in order, or that which
    ``grant`` is for; ``approvals`` are for dual control.

    ``judge`` says what policy the vault must obey; None asks for none. ``opening`` is the
    ledger's record of it.
    """

    vault: str
    output: str
    keys: Sequence[PrivateKey | LockedKey]
    force: bool = False
    partial: bool = False
    jobs: int | None = None
    approvals: Approvals | None = None
    judge: Judge | None = None
    grant: Envelope | None = None
    opening: Opening | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """What was written: ``size`` bytes of source, of which ``written`` were opened and ``unreadable`` never captured.

    ``problems`` is what was missing or not good, which only ``partial`` lets pass.
    """

    report: Report
    size: int
    written: int
    unreadable: int
    problems: list[VaultError]


def open_vault(store: Store, request: OpenRequest, trust: AllowedSigners, unlock: Unlock, progress: Progress) -> Opened:
    """Open into ``request.output``, which appears only once every byte of it is authenticated.

    ``unlock`` turns a locked key into a usable one. Raises ``VaultError``; then no output file exists.
    """
    if request.output != "-":
        _check_output(request)
    accept = lambda report: require_structure(report, partial=request.partial)  # noqa: E731
    record = request.opening
    touched: list[tuple[int, RegionRecord]] = []
    try:
        unlocked = unlock_vault(
            store, request.vault, request.keys, trust, unlock, accept, request.approvals, request.judge, request.grant,
            record.begin if record else lambda report: None,
        )  # fmt: skip
        report, regions = unlocked.report, unlocked.regions
        examiner = report.examiner
        size = examiner.totals.size
        opening = _Opening(store, report, progress, request.partial)
        touched = opening.touched
        if request.output == "-":
            opening.stream(regions, size)
        else:
            with _output_file(request, size) as fd:
                opening.fill(fd, regions, request.jobs or os.cpu_count() or 1)
    finally:
        if record:
            record.end(sum(region.object_bytes for _, region in touched), touched)
    missing = report.findings + ([report.closed] if report.closed else [])
    return Opened(report, size, opening.done, examiner.totals.unreadable, missing + opening.problems)


class _Opening:
    """Regions into a file by many threads, or in order into a stream."""

    def __init__(self, store: Store, report: Report, progress: Progress, partial: bool) -> None:
        self.problems: list[VaultError] = []
        #: The regions that were begun, whatever came of them.
        self.touched: list[tuple[int, RegionRecord]] = []
        self._partial = partial
        self._store = store
        self._report = report
        self._progress = progress
        self._lock = threading.Lock()
        self._total = report.examiner.totals.size
        self.done = 0

    def fill(self, fd: int, regions: Sequence[KeyedRegion], jobs: int) -> None:
        sink = _FileSink(fd)
        stop = threading.Event()

        def work(item: KeyedRegion) -> None:
            if not stop.is_set():
                self._try(item, sink)

        with ThreadPoolExecutor(jobs) as pool:
            try:
                futures = [pool.submit(work, item) for item in regions]
                finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in finished:
                    future.result()
            finally:
                stop.set()

    def stream(self, regions: Sequence[KeyedRegion], size: int) -> None:
        sink = _StreamSink()
        for item in regions:
            self._try(item, sink)
        sink.reach(size)

    def _try(self, item: KeyedRegion, sink: Sink) -> None:
        """A region that is not good ends everything, or under ``partial`` is left out from where it stops being good."""
        try:
            self._unseal(item, sink)
        except (Forged, Incomplete) as error:
            if not self._partial:
                raise
            known = {problem.message for problem in self._report.findings}
            if error.message not in known:
                self.problems.append(error)

    def _unseal(self, item: KeyedRegion, sink: Sink) -> None:
        self.touched.append((item.attempt, item.record))
        unseal(
            lambda offset, length: self._store.get(item.path, offset, length),
            item.record, item.dek(), item.context, self._report.examiner.header.frame_size, item.name, sink,
        )  # fmt: skip
        with self._lock:
            self.done += item.record.length
            self._progress(self.done, self._total)


class _FileSink:
    """Writes at offsets of a file that reads as zeros wherever nothing is written."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data)
        try:
            while view:
                count = os.pwrite(self._fd, view, offset)
                view = view[count:]
                offset += count
        except OSError as error:
            raise StoreFailed(
                f"the output: writing at byte {offset:#x} failed: {error.strerror}", "No file was made."
            ) from None

    def zeros(self, offset: int, length: int) -> None:
        """Nothing to do: the file was made this long, and holes read as zeros."""


class _StreamSink:
    """Writes to standard output in order; a gap in an incomplete vault is filled with zeros."""

    def __init__(self) -> None:
        self._at = 0

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self.reach(offset)
        self._put(data)

    def zeros(self, offset: int, length: int) -> None:
        self.reach(offset + length)

    def reach(self, offset: int) -> None:
        while self._at < offset:
            self._put(_ZEROS[: offset - self._at])

    def _put(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        try:
            while view:
                count = os.write(1, view)
                view = view[count:]
                self._at += count
        except BrokenPipeError:
            raise Interrupted(f"the reader of standard output went away at byte {self._at:#x}") from None
        except OSError as error:
            raise StoreFailed(f"standard output: {error.strerror} at byte {self._at:#x}", "") from None


def _check_output(request: OpenRequest) -> None:
    path = request.output
    directory = os.path.dirname(os.path.abspath(path))
    if not path or path.endswith("/") or os.path.isdir(path):
        raise BadInput(f"{path!r} is a directory, or names no file", "Name a file with -o.")
    if not os.path.isdir(directory):
        raise BadInput(f"{directory} is no directory", "Make it, or name another place with -o.")
    if len(os.fsencode(os.path.basename(path))) > 255:
        raise BadInput(f"{path}: the name is too long", "Name another file with -o.")
    if os.path.islink(path) or (os.path.exists(path) and not os.path.isfile(path)):
        raise BadInput(
            f"{path} is no regular file; it is left as it is",
            "Name a file, or write to standard output with -o -.",
        )
    if os.path.exists(path) and not request.force:
        raise BadInput(f"{path} exists and is kept", "Name another file, or replace it with --force.")


@contextmanager
def _output_file(request: OpenRequest, size: int) -> Iterator[int]:
    """A file of ``size`` zero bytes without a name, or a temporary one; it gets its name when the block succeeds.

    Where the file system has O_TMPFILE, even a killed process leaves no plaintext behind.
    """
    directory, final = os.path.split(os.path.abspath(request.output))
    temporary = os.path.join(directory, f".dumpvault.{secrets.token_hex(8)}.tmp")
    named = False
    try:
        try:
            fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
                raise
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            named = True
    except OSError as error:
        raise StoreFailed(f"{request.output}: {error.strerror}", "No file was made.") from None
    try:
        os.ftruncate(fd, size)
        yield fd
        os.fsync(fd)
        if not named:
            here = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                # linkat with AT_SYMLINK_FOLLOW, open(2) on O_TMPFILE; a directory descriptor makes Python use linkat.
                os.link(f"/proc/self/fd/{fd}", os.path.basename(temporary), dst_dir_fd=here, follow_symlinks=True)
            finally:
                os.close(here)
            named = True
        if request.force:
            os.replace(temporary, os.path.join(directory, final))
        else:
            _rename_unless_taken(temporary, os.path.join(directory, final))
        named = False
    except FileExistsError:
        raise BadInput(
            f"{request.output} exists and is kept", "It appeared while opening. Name another file."
        ) from None
    except OSError as error:
        raise StoreFailed(f"{request.output}: {error.strerror}", "No file was made.") from None
    finally:
        os.close(fd)
        if named:
            with suppress(OSError):
                os.unlink(temporary)


def _rename_unless_taken(old: str, new: str) -> None:
    try:
        os.link(old, new)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
            raise
        if os.path.lexists(new):
            raise FileExistsError from None
        os.rename(old, new)  # a file system without hard links
    else:
        os.unlink(old)


def shortfall(opened: Opened) -> VaultError | None:
    """What to tell after ``--partial``: the worst of what was missing or not good, or None."""
    if not opened.problems:
        return None
    worst = next((p for p in opened.problems if isinstance(p, Forged)), opened.problems[0])
    more = f" (and {len(opened.problems) - 1} more)" if len(opened.problems) > 1 else ""
    return type(worst)(
        f"{worst.message}{more}",
        f"{opened.written} of at least {opened.size} bytes were opened, all of them authenticated; the rest reads as zeros.",
    )
