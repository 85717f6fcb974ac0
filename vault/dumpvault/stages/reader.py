"""Random access to a sealed source: a read fetches, checks and opens only the blocks, chunks and frames that it touches.

Each 256 KiB block is compared with the signed list before its bytes are decrypted, each chunk authenticated, each
frame decoded against the checked seek table (spec, section 14). What was opened is kept in one cache of bounded bytes.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from dumpvault.errors import Incomplete, VaultError
from dumpvault.formats import sealed, seekable
from dumpvault.model import BLOCK, CHUNK, RegionRecord
from dumpvault.ranges import Ranges

if TYPE_CHECKING:
    from dumpvault.formats import flattened

__all__ = ["CACHE", "Cache", "Openable", "Reader"]

#: Bytes of opened data, checked blocks and tables that a reader keeps unless told otherwise.
CACHE = 256 << 20
_AHEAD, _STEP = 4 << 20, 512 << 10  # how far a sequential reader is kept ahead of, and by what pieces, in bytes
_ENTRY = 512  # what an entry costs beside its bytes: key, list node, object headers

_Value = TypeVar("_Value")


class Openable(Protocol):
    """A region with what opens it."""

    @property
    def record(self) -> RegionRecord: ...
    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def context(self) -> bytes: ...
    def dek(self) -> bytes: ...


class Cache:
    """The most recently used values, ``limit`` bytes of them. Threads that want the same value make it once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._entries: OrderedDict[Hashable, tuple[object, int]] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes accounted for."""
        return self._held

    def obtain(self, key: Hashable, make: Callable[[], tuple[_Value, int]]) -> _Value:
        """The value of ``key``; ``make`` gives it with its bytes, and may obtain others. What it raises passes through."""
        while True:
            with self._lock:
                entry = self._entries.get(key)
                if entry is not None:
                    self._entries.move_to_end(key)
                    return entry[0]  # type: ignore[return-value]
                made = self._making.get(key)
                if made is None:
                    mine = self._making[key] = threading.Lock()
                    mine.acquire()
                    break
            with made:
                pass
        try:
            value, size = make()
            with self._lock:
                self._entries[key] = (value, size + _ENTRY)
                self._held += size + _ENTRY
                while self._held > self._limit and len(self._entries) > 1:
                    _, (_, freed) = self._entries.popitem(last=False)
                    self._held -= freed
            return value
        finally:
            with self._lock:
                del self._making[key]
            mine.release()


class Reader:
    """Reads the source's bytes out of sealed regions. Safe to use from many threads."""

    def __init__(
        self,
        get: Callable[[str, int, int], bytes],
        regions: Sequence[Openable],
        size: int,
        frame_size: int,
        cache: int = CACHE,
        ahead: int = 0,
    ) -> None:
        """``get(path, offset, length)`` reads an object; ``regions`` stand by offset, without overlap.

        ``size`` (bytes of the source), ``frame_size`` (the header's) and ``cache`` (the most to keep) are in bytes.
        ``ahead`` threads open what a sequential reader will ask for next.
        """
        self.size = size
        self._get = get
        self._regions = regions
        self._starts = [region.record.offset for region in regions]
        self._frame_size = frame_size
        # A checked block serves the few frames beside the one that was asked for; an opened frame is what reads come back to.
        self._blocks = Cache(cache // 4)
        self._frames = Cache(cache - cache // 4)
        self._zeros = bytes(frame_size)  # one for all frames of zeros
        self._ahead = ThreadPoolExecutor(ahead, "ahead") if ahead else None
        self._expected = self._warmed = 0
        self._count = threading.Lock()
        #: Bytes fetched from the store, and the regions that they came from, by position.
        self.fetched = 0
        self.touched: set[int] = set()

    @property
    def available(self) -> Ranges:
        """The ranges of the source that regions hold."""
        return Ranges((region.record.offset, region.record.end) for region in self._regions)

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``; fewer only at the end.

        Raises ``Incomplete`` where no region holds them, ``Forged`` where they fail authentication, ``StoreFailed``.
        """
        end = min(offset + length, self.size)
        if self._ahead and abs(offset - self._expected) <= _STEP:
            self._read_ahead(self._ahead, end)
        self._expected = end
        parts: list[bytes] = []
        while offset < end:
            part = self._piece(offset, end - offset)
            parts.append(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def indexes(self) -> Iterator[tuple[int, int, flattened.Index]]:
        """(offset, length, index) of every region of a flattened stream, in its order. Raises as ``read`` does."""
        for number, region in enumerate(self._regions):
            opened = self._frames.obtain(number, partial(self._opened, number))
            yield region.record.offset, region.record.length, opened.index()

    def touched_regions(self) -> list[Openable]:
        """The regions that reads have opened so far, by offset."""
        return [self._regions[number] for number in sorted(self.touched)]

    def close(self) -> None:
        """End the threads that read ahead."""
        if self._ahead:
            self._ahead.shutdown(cancel_futures=True)

    def _read_ahead(self, pool: ThreadPoolExecutor, offset: int) -> None:
        with self._count:
            start = self._warmed if offset - _STEP <= self._warmed <= offset + _AHEAD else offset
            pieces = range(start, min(offset + _AHEAD - _STEP, self.size), _STEP)
            if pieces:
                self._warmed = pieces[-1] + _STEP
        for at in pieces:
            pool.submit(self._warm, at)

    def _warm(self, offset: int) -> None:
        """What is not good is told to whoever asks for it."""
        with suppress(VaultError):
            for at in range(offset, min(offset + _STEP, self.size), self._frame_size):
                self._piece(at, 0)

    def _piece(self, offset: int, length: int) -> bytes:
        """At most ``length`` bytes from ``offset``, out of one frame."""
        number = bisect_right(self._starts, offset) - 1
        if number < 0 or offset >= self._regions[number].record.end:
            raise Incomplete(
                f"byte {offset:#x} of the source is in no region at hand",
                "The vault is incomplete. What it has stays readable.",
            )
        record = self._regions[number].record
        index, inside = divmod(offset - record.offset, self._unit(record))
        frame = self._frames.obtain((number, index), partial(self._frame, number, index))
        return frame[inside : inside + length]

    def _unit(self, record: RegionRecord) -> int:
        """What is opened at a time, in bytes: a frame, or as much of a raw region."""
        return self._frame_size if record.codec == "zstd" else max(self._frame_size, CHUNK)

    def _frame(self, number: int, index: int) -> tuple[bytes, int]:
        region = self._frames.obtain(number, partial(self._opened, number))
        frame = region.frame(index)
        if frame == self._zeros:
            return self._zeros, 0
        return frame, len(frame)

    def _opened(self, number: int) -> tuple[_Region, int]:
        self.touched.add(number)
        region = _Region(self._regions[number], self._fetch, self._blocks, number, self._frame_size)
        return region, region.size

    def _fetch(self, path: str, offset: int, length: int) -> bytes:
        data = self._get(path, offset, length)
        with self._count:
            self.fetched += len(data)
        return data


class _Blocks(sealed.Blocks):
    """Checked blocks, kept for the frames that follow."""

    cache: Cache
    number: int

    def blocks(self, first: int, count: int) -> bytes:
        if count == 1:
            return self.cache.obtain((self.number, "block", first), lambda: self._checked(first))
        return b"".join(self.blocks(i, 1) for i in range(first, first + count))

    def _checked(self, first: int) -> tuple[bytes, int]:
        return super().blocks(first, 1), BLOCK


class _Region:
    """One region, opened as far as its key, block list and seek table. ``size`` is what that holds, in bytes."""

    def __init__(
        self, region: Openable, fetch: Callable[[str, int, int], bytes], cache: Cache, number: int, frame_size: int
    ) -> None:
        record, path = region.record, region.path
        self._name = region.name
        self._record = record
        self._unit = max(frame_size, CHUNK)
        blocks = _Blocks.signed(lambda offset, length: fetch(path, offset, length), record, region.name)
        blocks.cache, blocks.number = cache, number
        self._message = sealed.Message(region.dek(), region.context, blocks)
        with seekable.as_allowed(region.name):
            self._table = seekable.region_table(self._message, record, frame_size)
        self.size = 4096 + record.object_bytes - record.message + (8 * self._table.frames if self._table else 0)

    def index(self) -> flattened.Index:
        """Of a region of kind ``flattened``, the records in it."""
        from dumpvault.formats import flattened

        with seekable.as_allowed(self._name):
            return flattened.Index.of_region(self._message, self._record, self._table)

    def frame(self, index: int) -> bytes:
        table = self._table
        if table is None:
            start = index * self._unit
            return self._message.read(start, min(self._unit, self._record.length - start))
        start, end = table.starts[index], table.starts[index + 1]
        length = table.frame_length(index)
        frame = self._message.read(start, end - start)
        with seekable.as_allowed(self._name):
            return seekable.decode_frame(frame, length, table.frame_size)
