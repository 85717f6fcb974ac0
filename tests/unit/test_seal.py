"""Sealing and opening one region: the round trip, what frames are made of, and the choice to compress."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from cryptography.cobblestone import Cobblestone256Decryptor
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpvault.errors import Forged, Interrupted
from dumpvault.formats import sealed, seekable
from dumpvault.formats.seekable import SeekTable
from dumpvault.model import BLOCK, CHUNK, Range, Region, RegionRecord, block_count
from dumpvault.stages.seal import STEP, Chooser, SealedRegion, Sealer
from dumpvault.stages.unseal import unseal
from kit import VAULT, Collected, reader

OFFSET = 7 * 4096
MODES = ["auto", "zstd", "none"]


@dataclass
class Kept:
    """An upload that keeps its bytes."""

    data: bytearray = field(default_factory=bytearray)
    longest: int = 0

    def write(self, data: bytes | memoryview) -> None:
        self.data += data
        self.longest = max(self.longest, len(data))

    def finish(self) -> None: ...

    def abort(self) -> None: ...


def source(data: bytes) -> Callable[[int, memoryview], tuple[int, list[Range]]]:
    def read(offset: int, view: memoryview) -> tuple[int, list[Range]]:
        piece = data[offset - OFFSET : offset - OFFSET + len(view)]
        view[: len(piece)] = piece
        return len(piece), []

    return read


def sealer(mode: str, frame_size: int = 65536, level: int = 1) -> Sealer:
    return Sealer(VAULT, 1, frame_size, mode, level)


@dataclass
class Sealed:
    """A region's object and what its commit would say."""

    result: SealedRegion
    object: bytes
    record: RegionRecord

    @property
    def context(self) -> bytes:
        return sealed.context(VAULT, 1, self.record.index, self.record.kind, self.record.offset, self.record.codec)

    def plaintext(self) -> bytes:
        decryptor = Cobblestone256Decryptor(self.result.dek, self.context)
        return decryptor.update(self.object[: self.result.message]) + decryptor.finalize()

    def open(self, frame_size: int = 65536) -> Collected:
        sink = Collected(self.record.offset)
        unseal(reader(self.object), self.record, self.result.dek, self.context, frame_size, "regions/1/3.sealed", sink)
        return sink


def seal(
    data: bytes, mode: str, frame_size: int = 65536, using: Sealer | None = None, wish: int | None = None
) -> Sealed:
    region, upload = Region(3, OFFSET, wish or len(data), "memory"), Kept()
    result = (using or sealer(mode, frame_size)).seal(region, source(data), upload, lambda: False)
    assert result is not None
    record = RegionRecord(
        3, OFFSET, result.length, "memory", result.codec, result.message, result.blocks, "", result.unreadable
    )
    return Sealed(result, bytes(upload.data), record)


def content(runs: list[tuple[str, int]], seed: int) -> bytes:
    rng = random.Random(seed)
    make = {
        "zero": bytes,
        "text": lambda n: (b"the quick brown fox jumps over the lazy dog\n" * (n // 44 + 1))[:n],
        "random": rng.randbytes,
        "same": lambda n: b"\xaa" * n,
    }
    return b"".join(make[kind](n) for kind, n in runs)


EDGES = sorted({
    max(1, base + d) for base in (1, 4096, CHUNK, 65536, BLOCK, STEP, STEP + 65536, STEP + BLOCK) for d in (-1, 0, 1)
})  # fmt: skip
lengths = st.sampled_from(EDGES) | st.integers(1, 200_000)
kinds = st.sampled_from(["zero", "text", "random", "same"])


@settings(max_examples=50)
@given(
    runs=st.lists(st.tuples(kinds, lengths), min_size=1, max_size=4),
    mode=st.sampled_from(MODES),
    frame_size=st.sampled_from([4096, 65536, 1 << 20]),
    seed=st.integers(0, 2**32),
)
def test_what_is_sealed_opens(runs: list[tuple[str, int]], mode: str, frame_size: int, seed: int) -> None:
    """Any mix of runs, in every mode and frame size, comes back whole, in an object of the recorded shape."""
    data = content(runs, seed)
    one = seal(data, mode, frame_size)
    assert one.record.length == len(data)
    assert len(one.object) == one.record.object_bytes == one.record.message + 32 * block_count(one.record.message)
    digests = one.object[one.record.message :]
    assert hashlib.sha256(digests).hexdigest() == one.record.blocks
    sink = one.open(frame_size)
    assert sink.data == data


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", EDGES)
def test_every_length_at_a_boundary_opens(length: int, mode: str) -> None:
    """Regions that end around a frame, a chunk, a block and a step come back whole, and no stream grows past its bound."""
    data = content([("random", length)], length)
    one = seal(data, mode)
    assert one.open().data == data
    frames = -(-length // 65536)
    extra = 0 if mode == "none" else 13 * frames + SeekTable.size(length, 65536)
    assert len(one.plaintext()) <= length + extra


def test_a_sealer_is_used_again() -> None:
    """One sealer seals region after region; nothing of one shows in the next, and every data key is another."""
    using = sealer("zstd")
    pieces = [
        content([(kind, n)], n) for kind, n in (("random", STEP + 5), ("zero", 9), ("text", 70_000), ("random", 1))
    ]
    done = [seal(data, "zstd", using=using) for data in pieces]
    assert [one.open().data for one in done] == pieces
    assert len({one.result.dek for one in done}) == len(done)
    assert len({one.object[:24] for one in done}) == len(done)


def test_zero_frames_use_no_compressor() -> None:
    """Whole frames of zeros are RLE frames byte for byte, and are opened as zeros, not as bytes to write."""
    data = bytes(3 * 65536) + b"x" * 10
    one = seal(data, "zstd")
    stream = one.plaintext()
    frame = seekable.rle_frame(65536)
    assert stream.startswith(frame * 3)
    assert len(frame) == 11
    assert one.open().calls[:3] == [("zeros", OFFSET + i * 65536, 65536) for i in range(3)]
    assert seal(bytes(1 << 20), "auto").plaintext()[: 16 * 11] == frame * 16


@pytest.mark.parametrize("mode", ["zstd", "auto"])
@pytest.mark.parametrize("frame_size", [4096, 65536, 1 << 20])
def test_incompressible_frames_are_stored(mode: str, frame_size: int) -> None:
    """Random bytes are stored, not inflated: the input, a frame's few header bytes, and the table."""
    data = random.Random(5).randbytes(3 * STEP + 77)
    one = seal(data, mode, frame_size)
    frames = -(-len(data) // frame_size)
    blocks = sum(-(-min(frame_size, len(data) - i * frame_size) // 131072) for i in range(frames))
    assert len(one.plaintext()) <= len(data) + 10 * frames + 3 * blocks + SeekTable.size(len(data), frame_size)
    assert one.open(frame_size).data == data


def test_compressible_frames_shrink() -> None:
    """In mode zstd text takes a small part of its size."""
    assert len(seal(content([("text", STEP)], 0), "zstd").plaintext()) < STEP // 50


@pytest.mark.parametrize("mode", ["zstd", "auto"])
def test_the_zstd_tool_reads_the_decrypted_stream(mode: str) -> None:
    """`zstd -d` of the decrypted stream gives the region back: no tool of ours is needed for it."""
    tool = shutil.which("zstd")
    if not tool:
        pytest.skip("NOT TESTED: no zstd tool here")
    data = content([("random", 100_000), ("zero", 300_000), ("text", STEP), ("same", 65536), ("random", 7)], 1)
    stream = seal(data, mode).plaintext()
    assert subprocess.run([tool, "-d", "-c"], input=stream, capture_output=True, check=True).stdout == data


def test_a_source_that_ends_early_gives_a_shorter_region() -> None:
    """A region longer than the source is sealed with what there was; nothing at all gives no region."""
    for length in (1, 65536, STEP, STEP + 1):
        data = content([("text", length)], 0)
        one = seal(data, "zstd", wish=4 * STEP)
        assert one.record.length == length
        assert one.open().data == data
    upload = Kept()
    assert sealer("zstd").seal(Region(0, OFFSET, 4096, "memory"), source(b""), upload, lambda: False) is None


def test_stopping_is_seen_between_steps() -> None:
    """Once stop() is true, sealing raises Interrupted and names the region."""
    with pytest.raises(Interrupted, match="stopped inside region 3"):
        sealer("none").seal(Region(3, OFFSET, 4096, "memory"), source(b"x" * 4096), Kept(), lambda: True)


def test_holes_are_recorded_as_the_source_gives_them() -> None:
    """What could not be read is passed on in order, over several steps."""
    holes = [Range(OFFSET, 4096), Range(OFFSET + STEP, 8192)]

    def read(offset: int, view: memoryview) -> tuple[int, list[Range]]:
        view[:] = bytes(len(view))
        return len(view), [hole for hole in holes if offset <= hole.offset < offset + len(view)]

    region = Region(3, OFFSET, 2 * STEP, "memory")
    result = sealer("zstd").seal(region, read, Kept(), lambda: False)
    assert result is not None
    assert result.unreadable == tuple(holes)


def test_uploads_get_whole_megabytes() -> None:
    """Every piece handed to the upload but the last is one step, so a store can write it past the page cache."""
    upload = Kept()
    data = random.Random(1).randbytes(5 * STEP + 3)
    sealer("none").seal(Region(3, OFFSET, len(data), "memory"), source(data), upload, lambda: False)
    assert STEP <= upload.longest <= STEP + 32 * block_count(len(upload.data))


def test_an_end_that_crosses_a_megabyte_is_two_pieces() -> None:
    """Where the final chunk takes the message just past a step, the step goes out alone, then the rest with the list."""
    upload = Kept()
    length = next(n for n in range(STEP) if sealed.message_bytes(n) == STEP + 100)
    data = random.Random(1).randbytes(length)
    sealer("none").seal(Region(3, OFFSET, length, "memory"), source(data), upload, lambda: False)
    assert upload.longest == STEP


@pytest.mark.parametrize(
    ("mode", "compress", "output", "share", "expected"),
    [
        ("zstd", 9e-9, 1e-9, 1.0, True),
        ("auto", 1e-9, 2e-9, 0.4, True),
        ("auto", 1e-9, 2e-9, 0.5, False),
        ("auto", 1e-9, 2e-9, 0.9, False),
        ("auto", 1.9e-9, 2e-9, 0.0, True),
        ("auto", 2e-9, 2e-9, 0.0, False),
        ("auto", 3e-9, 2e-9, 0.0, False),
        ("auto", 1e-9, 1e-6, 0.99, True),
    ],
)
def test_compressing_is_worth_what_it_saves(
    mode: str, compress: float, output: float, share: float, expected: bool
) -> None:
    """A frame is compressed if that costs less than the output it saves; in mode zstd always."""
    chooser = Chooser(mode)
    chooser.compress_cost, chooser.output_cost = compress, output
    assert chooser.worth(lambda: share) is expected


def test_a_frame_is_not_sampled_when_nothing_could_pay() -> None:
    """No sample is taken where even a frame that vanished would not pay, nor in mode zstd."""
    chooser = Chooser("auto")
    chooser.compress_cost, chooser.output_cost = 3e-9, 2e-9

    def sample() -> float:
        raise AssertionError("sampled")

    assert chooser.worth(sample) is False
    assert Chooser("zstd").worth(sample) is True


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 1 << 20), st.floats(0, 10)), max_size=30))
def test_costs_are_smoothed_means(measured: list[tuple[bool, int, float]]) -> None:
    """Costs are exponential means of seconds per byte: between the least and the greatest measured, the first included."""
    chooser = Chooser("auto")
    compress, output = [chooser.compress_cost], [chooser.output_cost]
    for is_output, length, seconds in measured:
        (chooser.emitted if is_output else chooser.compressed)(length, seconds)
        (output if is_output else compress).append(seconds / length)
    for now, seen in ((chooser.compress_cost, compress), (chooser.output_cost, output)):
        assert min(seen) * (1 - 1e-9) <= now <= max(seen) * (1 + 1e-9)


def test_a_slow_disk_turns_compression_on() -> None:
    """Writes that become dear make compressing worth it within a few frames, and cheap ones make it not."""
    chooser = Chooser("auto")
    for _ in range(100):
        chooser.emitted(65536, 65536 * 1e-10)
    assert not chooser.worth(lambda: 0.1)
    for _ in range(100):
        chooser.emitted(65536, 65536 * 1e-7)
    assert chooser.worth(lambda: 0.1)


def test_a_changed_object_is_refused() -> None:
    """One byte changed anywhere in the object, message or list, is refused, and nothing of its block is handed on."""
    data = content([("random", 3 * BLOCK)], 0)
    one = seal(data, "none")
    for at in (0, 55, 60, BLOCK, 2 * BLOCK + 1, one.record.message - 1, one.record.message, len(one.object) - 1):
        changed = bytearray(one.object)
        changed[at] ^= 1
        sink = Collected(OFFSET)
        with pytest.raises(Forged, match=r"^regions/1/3\.sealed: "):
            unseal(reader(bytes(changed)), one.record, one.result.dek, one.context, 65536, "regions/1/3.sealed", sink)
        assert data.startswith(sink.data)
        assert len(sink.data) <= at
