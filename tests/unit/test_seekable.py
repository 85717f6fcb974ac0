"""The zstd seekable format of the spec's section 9.1: frames made without a compressor, tables, and hostile frames."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpvault.formats import seekable
from dumpvault.formats.seekable import BadStream, SeekTable, TableWriter, decode_frame, zstd
from kit import limited

LENGTHS = [1, 2, 255, 256, 257, 4095, 4096, 65535, 65536, 65791, 65792, 131071, 131072, 131073, 262145, 1 << 20]
F = 65536
MAGIC = b"\x28\xb5\x2f\xfd"


def raw_frame(data: bytes) -> bytes:
    out, at = b"", 0
    for head, content in seekable.raw_frame_prefix(len(data)):
        out += head + data[at : at + content]
        at += content
    assert at == len(data)
    return out


def header(length: int, *, window: int | None = None, flags: int = 0) -> bytes:
    """A frame header with an 8-byte content size; ``window`` is the window descriptor's byte."""
    if window is None:
        return MAGIC + bytes([0xE0 | flags]) + struct.pack("<Q", length)
    return MAGIC + bytes([0xC0 | flags, window]) + struct.pack("<Q", length)


def block(kind: int, size: int, content: bytes, *, last: bool = True) -> bytes:
    return struct.pack("<I", size << 3 | kind << 1 | last)[:3] + content


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("byte", [0, 0xAA])
def test_rle_frames_decode(length: int, byte: int) -> None:
    """A frame of one repeated byte, made without a compressor, decodes in the library and in our own check."""
    frame = seekable.rle_frame(length, byte)
    assert zstd.decompress(frame) == bytes([byte]) * length
    assert zstd.get_frame_info(frame).decompressed_size == length
    assert decode_frame(frame, length, 1 << 20) == bytes([byte]) * length
    assert len(frame) <= 9 + 4 * (length // 131072 + 1)


@pytest.mark.parametrize("length", LENGTHS)
def test_raw_frames_decode(length: int) -> None:
    """A frame of stored bytes decodes in the library and in our own check, and costs at most 13 bytes a block."""
    data = random.Random(length).randbytes(length)
    frame = raw_frame(data)
    assert zstd.decompress(frame) == data
    assert zstd.get_frame_info(frame).decompressed_size == length
    assert decode_frame(frame, length, 1 << 20) == data
    assert len(frame) <= length + 9 + 3 * -(-length // 131072)


def test_the_zstd_tool_decodes_them_all() -> None:
    """The command line tool reads a stream of such frames with its seek table, and skips the table."""
    tool = shutil.which("zstd")
    if not tool:
        pytest.skip("NOT TESTED: no zstd tool here")
    stream, plain, table = b"", b"", TableWriter()
    for length in LENGTHS:
        data = random.Random(length).randbytes(length)
        for frame, content in ((raw_frame(data), data), (seekable.rle_frame(length, 7), b"\x07" * length)):
            stream, plain = stream + frame, plain + content
            table.add(len(frame), length)
    done = subprocess.run([tool, "-d", "-c"], input=stream + table.finish(), capture_output=True, check=True)
    assert done.stdout == plain


def make_table(length: int, frame_size: int, sizes: list[int]) -> bytes:
    table = TableWriter()
    for i, size in enumerate(sizes):
        table.add(size, min(frame_size, length - i * frame_size))
    return table.finish()


@pytest.mark.parametrize("length", [1, F - 1, F, F + 1, 2 * F - 1, 2 * F, 2 * F + 1, 1 << 28])
def test_tables_are_read_as_written(length: int) -> None:
    """Frame count, frame lengths and starts of a table come back at every boundary of the region's length."""
    frames = -(-length // F)
    sizes = [10 + i % 7 for i in range(frames)]
    table = make_table(length, F, sizes)
    assert len(table) == SeekTable.size(length, F) == 8 * frames + 17
    read = SeekTable(table, length=length, frame_size=F, stream=sum(sizes) + len(table))
    assert read.frames == frames
    assert list(read.starts) == [sum(sizes[:i]) for i in range(min(frames, 50) + 1)] + list(read.starts)[51:]
    assert sum(read.frame_length(i) for i in range(frames)) == length
    assert read.starts[frames] == sum(sizes)


def test_table_bytes_are_those_of_the_format() -> None:
    """The bytes of a table, as the spec's section 9.1 lists them."""
    assert make_table(F + 5, F, [20, 14]) == bytes.fromhex(
        "5e2a4d18 19000000 14000000 00000100 0e000000 05000000 02000000 00 b1ea928f"
    )


LENGTH, SIZES = 2 * F + 9, [30, 40, 50]
GOOD = make_table(LENGTH, F, SIZES)
STREAM = sum(SIZES) + len(GOOD)


@pytest.mark.parametrize("at", range(len(GOOD)))
def test_every_byte_of_a_table_has_meaning(at: int) -> None:
    """A table with any one bit changed is refused."""
    for bit in range(8):
        lie = bytearray(GOOD)
        lie[at] ^= 1 << bit
        with pytest.raises(BadStream):
            SeekTable(bytes(lie), length=LENGTH, frame_size=F, stream=STREAM)


@pytest.mark.parametrize(
    "sizes",
    [[0, 70, 50], [F + 4097, 40, 50], [0xFFFFFFFF, 40, 50], [31, 40, 50], [29, 40, 50], [30, 40], [30, 40, 50, 1]],
    ids=str,
)
def test_tables_that_lie_about_sizes_are_refused(sizes: list[int]) -> None:
    """Empty and oversized frames, a wrong sum, and another number of frames are refused."""
    table = TableWriter()
    for i, size in enumerate(sizes):
        table.add(size, (F, F, 9, 1)[i])
    with pytest.raises(BadStream):
        SeekTable(table.finish(), length=LENGTH, frame_size=F, stream=STREAM)


def test_a_frame_may_occupy_4096_bytes_more_than_it_decodes_to() -> None:
    """The greatest frame that the spec allows is accepted, one byte more is not."""
    for size, fits in ((F + 4096, True), (F + 4097, False)):
        table = make_table(F, F, [size])
        if fits:
            assert SeekTable(table, length=F, frame_size=F, stream=size + len(table)).starts[1] == size
        else:
            with pytest.raises(BadStream, match="compressed bytes"):
                SeekTable(table, length=F, frame_size=F, stream=size + len(table))


@pytest.mark.parametrize("table", [b"", GOOD[:-1], GOOD[1:], GOOD + b"\0", GOOD[:16]], ids=len)
def test_tables_of_another_length_are_refused(table: bytes) -> None:
    """Only the exact bytes of the expected table are looked at."""
    with pytest.raises(BadStream, match="too short"):
        SeekTable(table, length=LENGTH, frame_size=F, stream=STREAM)


@pytest.mark.parametrize("stream", [0, len(GOOD) - 1, len(GOOD), STREAM - 1, STREAM + 1])
def test_tables_must_account_for_the_whole_stream(stream: int) -> None:
    """Bytes between frames and table, or frames that reach into the table, are refused."""
    with pytest.raises(BadStream):
        SeekTable(GOOD, length=LENGTH, frame_size=F, stream=stream)


@given(st.binary(max_size=200), st.integers(1, 1 << 28), st.sampled_from([4096, F, 1 << 20]), st.integers(0, 1 << 30))
def test_random_tables_raise_nothing_else(table: bytes, length: int, frame_size: int, stream: int) -> None:
    """Random bytes in a table's place are refused with BadStream whatever the length asked for."""
    with pytest.raises(BadStream):
        SeekTable(table, length=length, frame_size=frame_size, stream=stream)


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), min_size=1, max_size=4))
def test_random_entries_raise_nothing_else(entries: list[tuple[int, int]]) -> None:
    """A well-formed table with random entries is accepted only if each entry and the sum are right."""
    table = TableWriter()
    for compressed, decompressed in entries:
        table.add(compressed, decompressed)
    length = F * len(entries)
    stream = sum(c for c, _ in entries) + 8 * len(entries) + 17
    right = all(0 < c <= F + 4096 and d == F for c, d in entries)
    if right:
        assert SeekTable(table.finish(), length=length, frame_size=F, stream=stream).frames == len(entries)
    else:
        with pytest.raises(BadStream):
            SeekTable(table.finish(), length=length, frame_size=F, stream=stream)


TEXT = b"the quick brown fox jumps over the lazy dog " * 100
PACKED = zstd.compress(TEXT)


def test_a_compressor_frame_decodes() -> None:
    """A frame as the compressor writes it is accepted, with and without a checksum."""
    assert decode_frame(PACKED, len(TEXT), F) == TEXT
    checked = zstd.compress(TEXT, options={zstd.CompressionParameter.checksum_flag: 1})
    assert decode_frame(memoryview(checked), len(TEXT), F) == TEXT


@pytest.mark.parametrize("cut", range(len(PACKED)))
def test_truncated_frames_are_refused(cut: int) -> None:
    """A frame cut at any byte is refused."""
    with pytest.raises(BadStream):
        decode_frame(PACKED[:cut], len(TEXT), F)


@pytest.mark.parametrize(
    "frame",
    [
        PACKED + b"\0",
        PACKED + PACKED,
        PACKED + seekable.rle_frame(1),
        PACKED + b"\x50\x2a\x4d\x18\0\0\0\0",
        b"\x50\x2a\x4d\x18\0\0\0\0" + PACKED,
        b"\x5e\x2a\x4d\x18\x09\0\0\0" + bytes(9),
        b"\x27\xb5\x2f\xfd" + PACKED[4:],
        b"",
    ],
    ids=range(8),
)
def test_a_slot_holds_exactly_one_frame(frame: bytes) -> None:
    """Trailing bytes, a second frame, skippable frames and no frame are refused."""
    with pytest.raises(BadStream):
        decode_frame(frame, len(TEXT), F)


@pytest.mark.parametrize("length", [len(TEXT) - 1, len(TEXT) + 1, 1, F])
def test_a_frame_must_declare_what_the_table_says(length: int) -> None:
    """A frame whose declared content size is not the slot's is refused before it is decoded."""
    with pytest.raises(BadStream, match="declares"):
        decode_frame(PACKED, length, F)


def test_a_frame_without_content_size_is_refused() -> None:
    """A streamed frame that does not say its size is refused, though it decodes."""
    options = {zstd.CompressionParameter.content_size_flag: 0}
    frame = zstd.compress(TEXT, options=options)
    assert zstd.decompress(frame) == TEXT
    with pytest.raises(BadStream, match="does not declare"):
        decode_frame(frame, len(TEXT), F)


def test_a_frame_with_a_dictionary_is_refused() -> None:
    """A dictionary id in the header is refused whatever its width, and so is the reserved bit."""
    body = block(1, 1000, b"x")
    assert decode_frame(header(1000) + body, 1000, F) == b"x" * 1000
    for flags, field in ((1, b"\x01"), (2, b"\x01\0"), (3, b"\x01\0\0\0"), (8, b"")):
        frame = MAGIC + bytes([0xE0 | flags]) + field + struct.pack("<Q", 1000) + body
        with pytest.raises(BadStream, match="dictionary or a reserved"):
            decode_frame(frame, 1000, F)


@pytest.mark.parametrize("frame_size", [4096, F, 1 << 20])
def test_windows_up_to_the_frame_size_are_accepted(frame_size: int) -> None:
    """A window equal to F is accepted, the next greater one is refused."""
    exponent = frame_size.bit_length() - 11
    body = block(1, 1000, b"x")
    assert decode_frame(header(1000, window=exponent << 3) + body, 1000, frame_size) == b"x" * 1000
    for descriptor in (exponent << 3 | 1, (exponent + 1) << 3, 0xFF):
        with pytest.raises(BadStream, match="window"):
            decode_frame(header(1000, window=descriptor) + body, 1000, frame_size)


def peak_of_refusing(frame: bytes, length: int) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(BadStream):
            decode_frame(frame, length, F)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("declared", [1 << 31, 1 << 40, (1 << 64) - 1])
def test_a_frame_that_declares_gigabytes_is_not_allocated_for(declared: int) -> None:
    """A tiny frame that declares gigabytes is refused with no more memory than a frame's."""
    frame = header(declared) + block(1, 131072, b"\0")
    assert peak_of_refusing(frame, F) < 4 * F


@pytest.mark.parametrize("blocks", [2, 40_000])
def test_a_frame_that_decodes_to_gigabytes_stops_at_its_length(blocks: int) -> None:
    """A frame that declares F but whose 4-byte blocks go on for 5 GB is refused after about F bytes of output."""
    bomb = header(F, window=6 << 3) + block(1, F, b"\0", last=False) * blocks + block(1, F, b"\0")
    assert peak_of_refusing(bomb, F) < 8 * F


def test_bombs_are_refused_in_little_memory() -> None:
    """Both kinds of bomb are refused inside 300 MB of address space, what the zstd library itself takes included."""
    done = limited(
        "from dumpvault.formats.seekable import BadStream, decode_frame\n"
        f"for frame in ({header(1 << 40) + block(1, 131072, b'0')!r}, {header(F, window=0x30)!r}\n"
        f"        + {block(1, F, b'0', last=False)!r} * 40_000 + {block(1, F, b'0')!r}, {header(F, window=0xF8)!r}):\n"
        f"    try: decode_frame(frame, {F}, {F})\n"
        "    except BadStream: continue\n"
        "    raise SystemExit(1)\n"
        "raise SystemExit(7)",
        memory=300 << 20,
    )
    assert done.returncode == 7, done.stderr[-300:]


def test_blocks_that_stop_short_of_the_declared_size_are_refused() -> None:
    """A frame that declares more than its blocks hold is refused, and so is one whose last block never comes."""
    for frame in (header(1000) + block(1, 999, b"x"), header(1000) + block(1, 1000, b"x", last=False)):
        with pytest.raises(BadStream):
            decode_frame(frame, 1000, F)


def test_an_empty_last_block_is_accepted() -> None:
    """A frame may end with an empty block after all its bytes are out."""
    frame = header(1000) + block(1, 1000, b"x", last=False) + block(0, 0, b"")
    assert decode_frame(frame, 1000, F) == b"x" * 1000


@given(st.binary(max_size=300), st.integers(1, F), st.sampled_from([0, 1, 2, 3]))
def test_random_bytes_raise_nothing_but_bad_stream(data: bytes, length: int, shape: int) -> None:
    """Random bytes, with and without a frame's beginning before them, are decoded to ``length`` bytes or refused."""
    prefix = (b"", MAGIC, header(length), header(length, window=0) + block(2, len(data), b""))[shape]
    try:
        out = decode_frame(prefix + data, length, F)
    except BadStream:
        return
    assert len(out) == length


@given(st.integers(0, len(PACKED) - 1), st.integers(1, 255))
def test_a_changed_frame_raises_nothing_but_bad_stream(at: int, change: int) -> None:
    """A frame with one byte changed is refused, or decodes to exactly its length."""
    frame = bytearray(PACKED)
    frame[at] ^= change
    try:
        out = decode_frame(bytes(frame), len(TEXT), F)
    except BadStream:
        return
    assert len(out) == len(TEXT)
