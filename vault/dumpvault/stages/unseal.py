"""Sealed object in, region out, in one pass: block, then chunk, then frame; nothing is handed on before all three held."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.cobblestone import Cobblestone256Decryptor
from cryptography.exceptions import InvalidTag

from dumpvault.errors import Forged
from dumpvault.formats import sealed, seekable
from dumpvault.model import RegionRecord, Sink, block_count

__all__ = ["unseal"]

_GROUP = 4  # blocks read at a time: 1 MiB

Get = Callable[[int, int], bytes]


def unseal(get: Get, record: RegionRecord, dek: bytes, context: bytes, frame_size: int, name: str, sink: Sink) -> None:
    """Open one region into ``sink``. ``get(offset, length)`` reads the object that ``name`` names. Raises ``Forged``."""
    blocks = sealed.Blocks.signed(get, record, name)
    message = sealed.Message(dek, context, blocks)
    with seekable.as_allowed(name):
        try:
            table = seekable.region_table(message, record, frame_size)
            records = _Records(record, message, table, sink) if record.kind == "flattened" else None
            sink = records or sink
            frames = _Raw(record, sink) if table is None else _Frames(record, table, sink)
            decryptor = Cobblestone256Decryptor(dek, context)
            count = block_count(record.message)
            for first in range(0, count, _GROUP):
                frames.take(decryptor.update(blocks.blocks(first, min(_GROUP, count - first))))
            frames.take(decryptor.finalize())
            frames.finish()
            if records:
                records.finish()
        except InvalidTag:
            raise Forged(f"{name}: a chunk fails authentication", "Restore the object from a copy.") from None


class _Records:
    """Between the decoder and the sink of a flattened region: its index must be the one that its bytes give."""

    def __init__(
        self, record: RegionRecord, message: sealed.Message, table: seekable.SeekTable | None, sink: Sink
    ) -> None:
        from dumpvault.formats import flattened

        self._index = flattened.Index.of_region(message, record, table)
        self._seen = flattened.Records.within(record.offset, self._index)
        self._sink = sink

    def write(self, offset: int, data: bytes | memoryview) -> None:
        if self._seen:
            self._seen.feed(data)
        self._sink.write(offset, data)

    def zeros(self, offset: int, length: int) -> None:
        if self._seen:
            self._seen.feed(bytes(length))
        self._sink.zeros(offset, length)

    def finish(self) -> None:
        if self._seen and self._seen.index() != self._index:
            raise seekable.BadStream("its index of records is not that of its bytes")


class _Raw:
    """Codec ``raw``; an index may stand behind the region's bytes."""

    def __init__(self, record: RegionRecord, sink: Sink) -> None:
        self._at, self._end = record.offset, record.end
        self._sink = sink

    def take(self, data: bytes) -> None:
        data = data[: self._end - self._at]
        if data:
            self._sink.write(self._at, data)
            self._at += len(data)

    def finish(self) -> None:
        pass


class _Frames:
    """Codec ``zstd``: cuts the stream where the checked seek table says, decodes frame by frame."""

    def __init__(self, record: RegionRecord, table: seekable.SeekTable, sink: Sink) -> None:
        self._table = table
        self._record = record
        self._sink = sink
        self._left = b""
        self._frame = 0

    def take(self, data: bytes) -> None:
        table, offset = self._table, self._record.offset
        if self._left:
            data = self._left + data
        view = memoryview(data)
        base = table.starts[self._frame]
        while self._frame < table.frames:
            start, end = table.starts[self._frame] - base, table.starts[self._frame + 1] - base
            if end > len(view):
                break
            n = table.frame_length(self._frame)
            at = offset + self._frame * table.frame_size
            frame = view[start:end]
            if frame == seekable.rle_frame(n):
                self._sink.zeros(at, n)
            else:
                self._sink.write(at, seekable.decode_frame(frame, n, table.frame_size))
            self._frame += 1
        self._left = data[table.starts[self._frame] - base :] if self._frame < table.frames else b""

    def finish(self) -> None:
        if self._frame != self._table.frames:
            raise seekable.BadStream(f"it ends inside frame {self._frame}")
