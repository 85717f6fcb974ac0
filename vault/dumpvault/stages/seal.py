"""Region in, sealed object out: frames, Cobblestone-256, block digests, one pass (spec, section 9).

A sealer owns its buffers and reuses them for every region, so memory does not grow with the dump. All work on bytes
happens in calls that release the interpreter's lock; Python runs a few lines per 64 KiB frame.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter

from cryptography.cobblestone import Cobblestone256Encryptor

from dumpvault.errors import Interrupted
from dumpvault.formats import sealed, seekable
from dumpvault.formats.flattened import Records
from dumpvault.model import BLOCK, Codec, Range, Region, Upload

__all__ = ["Chooser", "SealedRegion", "Sealer"]

STEP = 1 << 20
_SAMPLE = 4096

Read = Callable[[int, memoryview], tuple[int, list[Range]]]


@dataclass(frozen=True, slots=True)
class SealedRegion:
    """What sealing a region produced, for its commit record. ``length`` is what the source gave."""

    region: Region
    length: int
    codec: Codec
    message: int
    blocks: str
    dek: bytes = field(repr=False)
    unreadable: tuple[Range, ...]


class Chooser:
    """Decides frame by frame whether compressing is worth it, from what the last frames and writes cost.

    In ``auto`` a frame is compressed if a sample of it shrinks and the time this takes is less than the time that its
    smaller output saves in encrypting, hashing and writing. A disk that falls behind makes writing dear, and so turns
    compression on; a fast one turns it off.
    """

    #: Weight of the newest measurement.
    GAIN = 0.1

    def __init__(self, mode: str) -> None:
        self.mode = mode
        # Seconds per byte; the first guesses are replaced within a few frames.
        self.compress_cost = 1.5e-9
        self.output_cost = 2e-9

    def worth(self, sample: Callable[[], float]) -> bool:
        """Whether to compress a frame; ``sample()`` tries a piece of it and returns its compressed share (0 to 1)."""
        if self.mode == "zstd":
            return True
        if self.compress_cost >= self.output_cost:
            # Even a frame that vanished would not pay, so it is not sampled. Costs are smoothed and written output is
            # measured all along, so this ends as soon as the disk falls behind.
            return False
        return self.compress_cost < self.output_cost * (1 - sample())

    def compressed(self, length: int, seconds: float) -> None:
        self.compress_cost += self.GAIN * (seconds / length - self.compress_cost)

    def emitted(self, length: int, seconds: float) -> None:
        self.output_cost += self.GAIN * (seconds / length - self.output_cost)


class Sealer:
    """Seals one region at a time; one per thread. ``compress`` is ``auto``, ``zstd`` or ``none``."""

    def __init__(self, vault: str, attempt: int, frame_size: int, compress: str, level: int) -> None:
        self._vault = vault
        self._attempt = attempt
        self._frame_size = frame_size
        self.codec: Codec = "raw" if compress == "none" else "zstd"
        self._chooser = Chooser(compress)
        self._compressor = seekable.zstd.ZstdCompressor(level=level) if self.codec == "zstd" else None
        self._zeros = bytes(frame_size)
        self._input = bytearray(STEP)
        # Frames of one step, each with a few bytes of headers; the seek table goes past it in pieces.
        self._staged = bytearray(STEP + STEP // 64)
        # Page-aligned, so that a store can write it past the page cache.
        self._output = mmap.mmap(-1, 3 * STEP)

    def seal(
        self,
        region: Region,
        read: Read,
        upload: Upload,
        stop: Callable[[], bool],
        records: Records | None = None,
    ) -> SealedRegion | None:
        """Seal ``region`` into ``upload``, which is left for the caller to finish.

        ``read(offset, view)`` fills the view and returns the bytes it filled and what it could not read; ``records``
        makes the index of a flattened region. Returns None if the source ended before the region. Raises
        ``Interrupted`` once ``stop()`` is true.
        """
        dek = os.urandom(32)
        bound = sealed.context(self._vault, self._attempt, region.index, region.kind, region.offset, self.codec)
        writer = _Writer(Cobblestone256Encryptor(dek, bound), self._output, upload, self._chooser)
        table = seekable.TableWriter()
        holes: list[Range] = []
        done = 0
        view = memoryview(self._input)
        while done < region.length:
            if stop():
                raise Interrupted(f"stopped inside region {region.index}")
            want = min(STEP, region.length - done)
            got, bad = read(region.offset + done, view[:want])
            holes += bad
            if got:
                if records:
                    records.feed(view[:got])
                if self._compressor:
                    writer.add(self._stage(got, table))
                else:
                    writer.add(view[:got])
            done += got
            if got < want:
                break
        if done == 0:
            return None
        tail = records.index().encode() if records else b""
        if self._compressor:
            tail += table.finish()
        for start in range(0, len(tail), STEP):
            writer.add(memoryview(tail)[start : start + STEP])
        message, blocks = writer.finish()
        return SealedRegion(region, done, self.codec, message, blocks, dek, tuple(holes))

    def _stage(self, length: int, table: seekable.TableWriter) -> memoryview:
        """Turn ``length`` bytes of input into frames, in the staging buffer."""
        size, staged, data = self._frame_size, self._staged, memoryview(self._input)
        at = 0
        for start in range(0, length, size):
            n = min(size, length - start)
            begin = at
            if n == size and self._input.startswith(self._zeros, start, start + size):
                frame = seekable.rle_frame(n)
                staged[at : at + len(frame)] = frame
                at += len(frame)
            else:
                piece = data[start : start + n]
                frame = self._compress(piece) if self._chooser.worth(partial(self._share, piece)) else b""
                if frame and len(frame) < n:
                    staged[at : at + len(frame)] = frame
                    at += len(frame)
                else:
                    for head, content in seekable.raw_frame_prefix(n):
                        staged[at : at + len(head)] = head
                        at += len(head)
                        staged[at : at + content] = piece[:content]
                        piece = piece[content:]
                        at += content
            table.add(at - begin, n)
        return memoryview(staged)[:at]

    def _compress(self, data: memoryview) -> bytes:
        assert self._compressor is not None
        began = perf_counter()
        frame = self._compressor.compress(data, seekable.zstd.ZstdCompressor.FLUSH_FRAME)
        self._chooser.compressed(len(data), perf_counter() - began)
        return frame

    def _share(self, data: memoryview) -> float:
        """Compressed share of a sample from the middle of a frame."""
        if len(data) <= _SAMPLE:
            return 0.0
        middle = (len(data) - _SAMPLE) // 2
        return len(self._compress(data[middle : middle + _SAMPLE])) / _SAMPLE


class _Writer:
    """Encrypts, digests each 256 KiB block and hands whole megabytes to the upload."""

    def __init__(self, encryptor: Cobblestone256Encryptor, output: mmap.mmap, upload: Upload, chooser: Chooser) -> None:
        self._encryptor = encryptor
        self._view = memoryview(output)
        self._upload = upload
        self._chooser = chooser
        self._filled = 0
        self._message = 0
        self._digests = bytearray()

    def add(self, data: memoryview) -> None:
        """Take up to 1 MiB and a little of plaintext."""
        began = perf_counter()
        self._filled += self._encryptor.update_into(data, self._view[self._filled :])
        while self._filled >= STEP:
            self._emit(STEP)
        self._chooser.emitted(len(data), perf_counter() - began)

    def finish(self) -> tuple[int, str]:
        """Write the rest and the block list; returns the message's bytes and the list's digest."""
        tail = self._encryptor.finalize()
        self._view[self._filled : self._filled + len(tail)] = tail
        self._filled += len(tail)
        while self._filled > STEP:
            self._emit(STEP)
        last = self._filled
        self._digest(last)
        self._message += last
        # The block list goes out with the message's end: at most 32 KiB for the largest region.
        digests = bytes(self._digests)
        self._view[last : last + len(digests)] = digests
        self._upload.write(self._view[: last + len(digests)])
        return self._message, hashlib.sha256(digests).hexdigest()

    def _emit(self, length: int) -> None:
        self._digest(length)
        self._upload.write(self._view[:length])
        self._message += length
        self._filled -= length
        self._view[: self._filled] = self._view[length : length + self._filled]

    def _digest(self, length: int) -> None:
        for start in range(0, length, BLOCK):
            self._digests += hashlib.sha256(self._view[start : min(start + BLOCK, length)]).digest()
