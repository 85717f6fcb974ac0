"""Sources: files, pipes, files that shrink, malformed cores, and how the end is known."""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dumpvault.errors import BadInput, Interrupted
from dumpvault.formats.elf import PT_LOAD, PT_NOTE, write_headers
from dumpvault.formats.flattened import END_RECORD, Index
from dumpvault.model import PAGE, Range
from dumpvault.stages.source import Source, open_source
from support import flat


def never() -> bool:
    return False


def read_all(source: Source, length: int, step: int = 1 << 20) -> tuple[bytes, list[Range]]:
    """Everything up to ``length``, in reads of ``step``."""
    out, holes, view = bytearray(), [], memoryview(bytearray(step))
    while len(out) < length:
        want = min(step, length - len(out))
        got, bad = source.read(len(out), view[:want], never)
        out += view[:got]
        holes += bad
        if got < want:
            break
    return bytes(out), holes


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    source = open_source(str(path))
    try:
        yield source
    finally:
        source.close()


@contextmanager
def piped(data: bytes, *, close: bool = True) -> Iterator[Source]:
    """A source over a real pipe that a thread fills; the bytes must all be read."""
    reading, writing = os.pipe()

    def fill() -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(writing, left) :]
        if close:
            os.close(writing)

    filler = threading.Thread(target=fill, daemon=True)
    filler.start()
    source = Source(reading, "pipe", None, None)
    try:
        yield source
        filler.join()
    finally:
        source.close()
        if not close:
            os.close(writing)


@pytest.mark.parametrize("length", [1, PAGE - 1, PAGE, PAGE + 1, (1 << 20) + 5])
def test_a_file_is_read_in_any_order(tmp_path: Path, length: int) -> None:
    """Any slice of a file is filled; fewer bytes come only at its end, none behind it."""
    data = os.urandom(length)
    (tmp_path / "f").write_bytes(data)
    with opened(tmp_path / "f") as source:
        assert (source.size, source.seekable, source.kind, source.warning) == (length, True, "opaque", "")
        assert source.mtime == (tmp_path / "f").stat().st_mtime_ns
        assert read_all(source, length + 100) == (data, [])
        view = memoryview(bytearray(PAGE))
        assert source.read(length - 1, view, never) == (1, [])
        assert source.read(length, view, never) == (0, [])
        assert source.read(length + PAGE, view, never) == (0, [])
        assert source.conclude(length) == ("size", False)


def test_a_file_that_shrinks_is_cut_short(tmp_path: Path) -> None:
    """Bytes that were there at opening and are gone when they are read: fewer are given, and the source is truncated."""
    path = tmp_path / "f"
    path.write_bytes(os.urandom(5 * PAGE))
    with opened(path) as source:
        os.truncate(path, 2 * PAGE + 7)
        data, holes = read_all(source, 5 * PAGE)
        assert (len(data), holes) == (2 * PAGE + 7, [])
        assert source.conclude(len(data)) == ("size", True)


def test_a_file_that_grows_ends_at_its_first_size(tmp_path: Path) -> None:
    """Bytes added after opening belong to no region."""
    path = tmp_path / "f"
    path.write_bytes(b"a" * 100)
    with opened(path) as source:
        path.write_bytes(b"b" * 200)
        assert read_all(source, 1000)[0] == b"b" * 100


def core(memory: int = 3 * PAGE) -> bytes:
    head = write_headers([(PT_NOTE, PAGE, 0, 64), (PT_LOAD, 2 * PAGE, 0, memory)])
    return head.ljust(2 * PAGE, b"\0") + os.urandom(memory)


@pytest.mark.parametrize(("extra", "cut", "truncated"), [(0, 0, False), (500, 0, False), (0, 1, True), (0, PAGE, True)])
def test_the_end_of_a_core_is_that_of_its_segments(tmp_path: Path, extra: int, cut: int, truncated: bool) -> None:
    """A core ends with its last segment's byte; shorter is truncated, on files and on pipes alike."""
    data = core() + bytes(extra)
    data = data[: len(data) - cut]
    (tmp_path / "f").write_bytes(data)
    with opened(tmp_path / "f") as source:
        assert source.kind == "elf"
        assert source.core is not None
        assert source.core.end == 5 * PAGE
        assert source.conclude(len(read_all(source, len(data))[0])) == ("elf", truncated)
    with piped(data) as source:
        assert (source.kind, source.size, source.seekable) == ("elf", None, False)
        assert source.conclude(len(read_all(source, 1 << 30)[0])) == ("elf", truncated)


def flat_records(source: Source, step: int) -> list[Index]:
    """Read to the end in regions of 16 pages, as a capture does; the indexes."""
    indexes, view, at = [], memoryview(bytearray(step)), 0
    while True:
        records = source.records(at)
        assert records is not None
        begun = at
        while at < begun + 16 * PAGE:
            got, _ = source.read(at, view[: begun + 16 * PAGE - at], never)
            records.feed(view[:got])
            at += got
            if not got:
                break
        if at > begun:
            indexes.append(records.index())
        if at < begun + 16 * PAGE:
            return indexes


@pytest.mark.parametrize(
    ("tail", "truncated"),
    [
        (END_RECORD, False),
        (b"", True),
        (END_RECORD[:-1], True),
        (END_RECORD + b"behind it", False),
        (flat.record(5, b"\xff" * 100), True),
        (flat.record(1 << 63, b"") + END_RECORD, True),
        (bytes(16) + END_RECORD, True),
    ],
)
@pytest.mark.parametrize("length", [0, 9, 4072, 3 * PAGE, (1 << 20) + 11])
def test_a_flattened_stream_ends_with_its_end_record(tmp_path: Path, tail: bytes, truncated: bool, length: int) -> None:
    """Only an end record where a record must begin tells a whole flattened stream, on files and on pipes, however it is
    cut; data that look like one do not. Both give the same index of every region."""
    pieces = [(4096 * i, b"\x55" * min(40000, length - start)) for i, start in enumerate(range(0, length, 40000))]
    data = flat.stream(pieces, tail)
    (tmp_path / "f").write_bytes(data)
    with opened(tmp_path / "f") as source:
        assert source.kind == "flattened"
        indexes = flat_records(source, 1 << 20)
        assert source.conclude(len(data)) == ("flattened", truncated)
    for step in (16, 4096) if length < 1 << 20 else (4096, 1 << 20):
        with piped(data) as source:
            assert source.kind == "flattened"
            assert flat_records(source, step) == indexes
            assert source.conclude(len(data)) == ("flattened", truncated)


def test_the_end_record_of_a_file_that_shrinks_is_gone(tmp_path: Path) -> None:
    """A flattened file that was cut while it was read is truncated."""
    path = tmp_path / "f"
    path.write_bytes(flat.stream([(0, bytes(100_000))]))
    with opened(path) as source:
        os.truncate(path, 50_000)
        assert sum(index.end for index in flat_records(source, 4096)) > 0
        assert source.conclude(50_000) == ("flattened", True)


@pytest.mark.parametrize("length", [1, PAGE, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_a_pipe_is_read_to_its_end(length: int) -> None:
    """A pipe gives the same bytes as were written, whatever part of them was looked at first; its end is only eof."""
    data = os.urandom(length)
    with piped(data) as source:
        assert read_all(source, 1 << 30, 70_000) == (data, [])
        assert source.conclude(length) == ("eof", False)


def test_a_pipe_is_read_in_order_only() -> None:
    """A pipe cannot be read again, or ahead."""
    with piped(b"x" * 100) as source:
        view = memoryview(bytearray(10))
        assert source.read(0, view, never) == (10, [])
        for offset in (0, 20):
            with pytest.raises(ValueError, match="a pipe at byte 10"):
                source.read(offset, view, never)
        assert source.read(10, view, never) == (10, [])


def test_a_silent_pipe_can_be_stopped() -> None:
    """While a pipe that stays open gives nothing, stop() ends the wait with the place."""
    with piped(b"x" * (1 << 20), close=False) as source:
        view = memoryview(bytearray((1 << 20) + 10))
        with pytest.raises(Interrupted, match="waiting for the pipe at byte 0x100000"):
            source.read(0, view, lambda: True)


def test_a_malformed_core_is_sealed_as_it_is(tmp_path: Path) -> None:
    """What begins as a core and cannot be one is opaque, with a warning, and counts as truncated."""
    data = core()[:80]
    (tmp_path / "f").write_bytes(data)
    with opened(tmp_path / "f") as source:
        assert (source.kind, source.core) == ("opaque", None)
        assert "begins as an ELF core but the file ends inside its 2 program headers" in source.warning
        assert read_all(source, 80)[0] == data
        assert source.conclude(80) == ("size", True)
    with piped(data) as source:
        assert read_all(source, 1000)[0] == data
        assert source.conclude(80) == ("eof", True)


HUGE = "source.py:91: pread takes no offset from 2^63 - 1 (EINVAL, BadInput) or 2^63 (OverflowError) on"


@pytest.mark.parametrize(
    ("field", "offset"),
    [("phoff", 2**63 - 1), ("phoff", 2**63), ("phoff", 2**64 - 1), ("shoff", 2**63 - 45), ("shoff", 2**64 - 64)],
)
def test_a_core_whose_headers_point_nowhere_is_sealed_as_it_is(tmp_path: Path, field: str, offset: int) -> None:
    """A corrupt e_phoff or e_shoff makes a core opaque, like any other malformed core; it does not stop the capture."""
    data = bytearray(core())
    struct.pack_into("<Q", data, 32 if field == "phoff" else 40, offset)
    if field == "shoff":
        struct.pack_into("<H", data, 56, 0xFFFF)
    (tmp_path / "f").write_bytes(data)
    with opened(tmp_path / "f") as source:
        assert source.kind == "opaque"
        assert source.warning


@pytest.mark.parametrize("what", ["missing", "directory", "empty"])
def test_sources_that_are_none_are_refused(tmp_path: Path, what: str) -> None:
    """No file, a directory and an empty file are refused, saying that nothing was captured."""
    path = tmp_path / what
    if what == "directory":
        path.mkdir()
    elif what == "empty":
        path.touch()
    with pytest.raises(BadInput, match=what) as caught:
        open_source(str(path))
    assert "Nothing was captured." in caught.value.hint


def test_headers_that_cannot_be_read_are_an_error() -> None:
    """A real EIO at byte 0 is refused as bad input, naming file, place and reason."""
    with pytest.raises(BadInput, match="/proc/self/mem: cannot be read at byte 0x0: " + os.strerror(errno.EIO)):
        open_source("/proc/self/mem")


def test_a_source_whose_headers_cannot_be_read_is_let_go() -> None:
    """Refusing a source leaves no descriptor open."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BadInput):
        open_source("/proc/self/mem")
    assert len(os.listdir("/proc/self/fd")) == before
