"""Unreadable memory: exactly the bad pages are lost, recorded, and stand as zeros (spec, section 9.2)."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpvault.model import PAGE, Range
from dumpvault.stages.source import Source
from kit import injected

PAGES = 40


def never() -> bool:
    return False


class BadMemory:
    """Own memory with pages that cannot be read, seen through /proc/self/mem as a source at byte ``base``.

    A bad page is a mapping of an empty file: the kernel answers EIO, as it does for memory that is gone.
    """

    def __init__(self, folder: Path) -> None:
        self.map = mmap.mmap(-1, PAGES * PAGE)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self.content = os.urandom(PAGES * PAGE)
        self.map[:] = self.content
        (folder / "small").write_bytes(b"x")
        (folder / "empty").write_bytes(b"")
        fd = os.open(folder / "small", os.O_RDONLY)
        self.source = Source(fd, "memory", self.base + PAGES * PAGE, None)
        mem = os.open("/proc/self/mem", os.O_RDONLY)
        os.dup2(mem, fd)
        os.close(mem)
        self.empty = os.open(folder / "empty", os.O_RDWR)
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.mmap.restype = ctypes.c_void_p
        self.libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]

    def spoil(self, pages: set[int]) -> None:
        """Make exactly these pages bad, the others good again."""
        for page in range(PAGES):
            at, fixed = self.base + page * PAGE, 0x10
            if page in pages:
                flags, fd = fixed | mmap.MAP_SHARED, self.empty
            else:
                flags, fd = fixed | mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1
            assert self.libc.mmap(at, PAGE, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, 0) == at
            if page not in pages:
                ctypes.memmove(at, self.content[page * PAGE : (page + 1) * PAGE], PAGE)

    def expected(self, pages: set[int], start: int, length: int) -> tuple[bytes, list[Range]]:
        """What reading ``length`` bytes from ``start`` of this memory must give."""
        data, holes = bytearray(self.content), []
        for page in pages:
            data[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
        at = start
        while at < start + length:
            step = min(PAGE - at % PAGE, start + length - at)
            if at // PAGE in pages:
                if holes and holes[-1].end == self.base + at:
                    holes[-1] = Range(holes[-1].offset, holes[-1].length + step)
                else:
                    holes.append(Range(self.base + at, step))
            at += step
        return bytes(data[start : start + length]), holes


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BadMemory]:
    bad = BadMemory(tmp_path_factory.mktemp("memory"))
    yield bad
    bad.source.close()
    os.close(bad.empty)


@settings(max_examples=80)
@given(pages=st.sets(st.integers(0, PAGES - 1), max_size=PAGES), first=st.integers(0, PAGES - 1), data=st.data())
def test_exactly_the_bad_pages_are_lost(memory: BadMemory, pages: set[int], first: int, data: st.DataObject) -> None:
    """Whatever pages are unreadable, all others are read, those are zeros, and each hole is listed once, in order."""
    length = data.draw(st.integers(1, (PAGES - first) * PAGE))
    memory.spoil(pages)
    view = memoryview(bytearray(b"\xcc" * length))
    got, holes = memory.source.read(memory.base + first * PAGE, view, never)
    assert got == length
    assert (bytes(view), holes) == memory.expected(pages, first * PAGE, length)


@pytest.mark.parametrize(
    "pages", [{0}, {PAGES - 1}, set(range(PAGES)), set(range(0, PAGES, 2)), {0, 1, 7, 8, 9}], ids=str
)
def test_bad_pages_at_edges_and_in_runs(memory: BadMemory, pages: set[int]) -> None:
    """First, last, all, every second, and neighbouring bad pages."""
    memory.spoil(pages)
    view = memoryview(bytearray(PAGES * PAGE))
    got, holes = memory.source.read(memory.base, view, never)
    assert (bytes(view), holes) == memory.expected(pages, 0, PAGES * PAGE)
    assert got == PAGES * PAGE


READ_ONCE = """
from dumpvault.stages.source import open_source
source = open_source({path!r})
view = memoryview(bytearray({length}))
try: print(source.read(0, view, lambda: False))
except Exception as error: print(type(error).__name__, error)
print(__import__("hashlib").sha256(view).hexdigest())
"""


def program(folder: Path) -> str:
    (folder / "core").write_bytes(os.urandom(16 * PAGE))
    return READ_ONCE.format(path=str(folder / "core"), length=16 * PAGE)


@pytest.mark.parametrize("error", ["EFAULT", "EIO"])
def test_a_read_that_fails_whole_is_halved(tmp_path: Path, error: str) -> None:
    """As /proc/vmcore fails, without a count: a failed read is halved down to the page, and nothing readable is lost."""
    child = program(tmp_path)
    plain = injected(f"preadv,preadv2:error={error}:when=1000", tmp_path, child)
    assert plain.startswith(b"(65536, [])")
    assert injected(f"preadv,preadv2:error={error}:when=1..2", tmp_path, child) == plain
    # 16 pages, halves of 8, 4, 2 and 1: the fifth failure is that of one page, which alone is lost.
    lost = injected(f"preadv,preadv2:error={error}:when=1..5", tmp_path, child)
    assert lost.startswith(b"(65536, [Range(offset=0, length=4096)])")
    everything = injected(f"preadv,preadv2:error={error}", tmp_path, child)
    assert everything.startswith(b"(65536, [Range(offset=0, length=65536)])")


def test_other_errors_are_not_holes(tmp_path: Path) -> None:
    """An error that is not a bad page stops the capture with its place and reason."""
    printed = injected("preadv,preadv2:error=ESTALE:when=1", tmp_path, program(tmp_path))
    assert b"BadInput" in printed
    assert b"reading at byte 0x0 failed: Stale file handle" in printed
