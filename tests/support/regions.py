"""Sealed regions and the store that holds them, in memory: made by the real sealer, watched and changed by tests."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from dumpvault.formats import sealed
from dumpvault.model import Range, Region, RegionRecord, body_path
from dumpvault.stages.reader import Reader
from dumpvault.stages.seal import Sealer
from kit import VAULT


@dataclass(frozen=True)
class Held:
    """A region with what opens it."""

    record: RegionRecord
    key: bytes

    @property
    def name(self) -> str:
        return body_path(1, self.record.index)

    @property
    def path(self) -> str:
        return f"store/{self.name}"

    @property
    def context(self) -> bytes:
        r = self.record
        return sealed.context(VAULT, 1, r.index, r.kind, r.offset, r.codec)

    def dek(self) -> bytes:
        return self.key


@dataclass
class Objects:
    """Objects by path; ``fetches`` are the reads as (path, offset, bytes given)."""

    objects: dict[str, bytearray] = field(default_factory=dict)
    fetches: list[tuple[str, int, int]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, path: str, offset: int, length: int) -> bytes:
        data = bytes(self.objects[path][offset : offset + length])
        with self._lock:
            self.fetches.append((path, offset, len(data)))
        return data


@dataclass
class _Kept:
    data: bytearray = field(default_factory=bytearray)

    def write(self, data: bytes | memoryview) -> None:
        self.data += data

    def finish(self) -> None: ...

    def abort(self) -> None: ...


@dataclass
class Sealed:
    """A source cut into regions, sealed."""

    data: bytes
    frame_size: int
    regions: list[Held]
    store: Objects

    def reader(self, cache: int = 1 << 20, ahead: int = 0) -> Reader:
        return Reader(self.store.get, self.regions, len(self.data), self.frame_size, cache, ahead)

    def object(self, number: int) -> bytearray:
        return self.store.objects[self.regions[number].path]

    def without(self, numbers: Iterable[int]) -> Sealed:
        gone = set(numbers)
        return Sealed(self.data, self.frame_size, [r for i, r in enumerate(self.regions) if i not in gone], self.store)

    def lies_in(self, numbers: Iterable[int], offset: int, length: int) -> bool:
        """Whether the source's bytes from ``offset`` touch one of the regions ``numbers``."""
        end = min(offset + length, len(self.data))
        return (
            any(offset < self.regions[n].record.end and self.regions[n].record.offset < end for n in numbers)
            and end > offset
        )


def seal(data: bytes, cuts: Iterable[int], mode: str = "zstd", frame_size: int = 65536) -> Sealed:
    """``data`` sealed in regions that end at ``cuts`` and at its end."""
    sealer = Sealer(VAULT, 1, frame_size, mode, 1)
    edges = sorted({0, len(data), *cuts})
    store, regions = Objects(), []

    def read(offset: int, view: memoryview) -> tuple[int, list[Range]]:
        piece = data[offset : offset + len(view)]
        view[: len(piece)] = piece
        return len(piece), []

    for index, (start, end) in enumerate(itertools.pairwise(edges)):
        upload = _Kept()
        done = sealer.seal(Region(index, start, end - start, "memory"), read, upload, lambda: False)
        assert done is not None
        record = RegionRecord(index, start, done.length, "memory", done.codec, done.message, done.blocks, "")
        regions.append(Held(record, done.dek))
        store.objects[regions[-1].path] = upload.data
    return Sealed(data, frame_size, regions, store)
