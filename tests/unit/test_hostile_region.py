"""Regions by a collector that holds the key and lies inside: every block and chunk is right, the stream is not.

Both readers, the sequential and the one at random, refuse the same."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

import pytest
from cryptography.cobblestone import Cobblestone256Encryptor

from dumpvault.errors import Forged
from dumpvault.formats import sealed, seekable
from dumpvault.formats.seekable import SeekTable, TableWriter
from dumpvault.model import BLOCK, Codec, RegionRecord
from dumpvault.stages.reader import Reader
from dumpvault.stages.unseal import unseal
from kit import VAULT, Collected, limited, reader
from support.regions import Held

Open = Callable[[bytes, Codec, int], Collected]
F = 65536
DEK = bytes(range(32))
NAME = "regions/1/3.sealed"
ZERO = seekable.rle_frame(F)


def craft(plaintext: bytes, codec: Codec, length: int) -> tuple[bytes, RegionRecord, bytes]:
    """An object of exactly ``plaintext``, with the record of an honest region of ``length`` bytes."""
    context = sealed.context(VAULT, 1, 3, "memory", 4096, codec)
    encryptor = Cobblestone256Encryptor(DEK, context)
    message = encryptor.update(plaintext) + encryptor.finalize()
    digests = b"".join(hashlib.sha256(message[i : i + BLOCK]).digest() for i in range(0, len(message), BLOCK))
    blocks = hashlib.sha256(digests).hexdigest()
    return message + digests, RegionRecord(3, 4096, length, "memory", codec, len(message), blocks, ""), context


def open_it(plaintext: bytes, codec: Codec, length: int) -> Collected:
    data, record, context = craft(plaintext, codec, length)
    sink = Collected(4096)
    try:
        unseal(reader(data), record, DEK, context, F, NAME, sink)
    finally:
        assert len(sink.data) <= length
    return sink


def open_at_random(plaintext: bytes, codec: Codec, length: int) -> Collected:
    """The same page by page through ``Reader``, to its end: a page that fails does not keep the next from being read."""
    data, record, _ = craft(plaintext, codec, length)
    ranged = Reader(lambda path, o, n: data[o : o + n], [Held(record, DEK)], record.end, F)
    sink, failure = Collected(4096), None
    for at in range(record.offset, record.end, 4096):
        try:
            page = ranged.read(at, 4096)
        except Forged as error:
            failure = failure or error
            continue
        assert len(page) == min(4096, record.end - at)
        if failure is None:
            sink.write(at, page)
    if failure:
        raise failure
    return sink


READERS = pytest.mark.parametrize("open_all", [open_it, open_at_random])


def stream(*frames: tuple[bytes, int]) -> bytes:
    """Frames with a table that says of each the size it has and the length it is given here."""
    table = TableWriter()
    for frame, length in frames:
        table.add(len(frame), length)
    return b"".join(frame for frame, _ in frames) + table.finish()


def bomb(declared: int) -> bytes:
    """A tiny frame of 16 RLE blocks of 128 KiB that declares what it is told to."""
    blocks = b"".join(struct.pack("<I", 131072 << 3 | 1 << 1 | (i == 15))[:3] + b"\0" for i in range(16))
    return b"\x28\xb5\x2f\xfd\xc0\x30" + struct.pack("<Q", declared) + blocks


HONEST = stream((ZERO, F), (seekable.rle_frame(F, 7), F), (seekable.rle_frame(9, 1), 9))
LENGTH = 2 * F + 9


@READERS
def test_the_honest_region_opens(open_all: Open) -> None:
    """What the tests below change opens when it is not changed."""
    assert open_all(HONEST, "zstd", LENGTH).data == bytes(F) + b"\x07" * F + b"\x01" * 9
    assert open_all(b"abc", "raw", 3).data == b"abc"


STORED = seekable.zstd.compress(bytes(range(256)) * 256)
LIES = {
    "no table": ZERO * 2,
    "nothing": b"",
    "a table of fewer frames": stream((ZERO, F), (ZERO, F)),
    "a table of more frames": stream((ZERO, F), (ZERO, F), (seekable.rle_frame(9), 9), (ZERO, F)),
    "bytes after the table": HONEST + b"\0",
    "bytes before the frames": b"\0" + HONEST,
    "bytes between frames and table": HONEST[: -SeekTable.size(LENGTH, F)]
    + b"\0"
    + HONEST[-SeekTable.size(LENGTH, F) :],
    "lengths that are not the frames'": stream((ZERO, F - 1), (ZERO, F), (seekable.rle_frame(9), 10)),
    "an empty frame": stream((b"", F), (ZERO, F), (seekable.rle_frame(9), 9)),
    "an oversized frame": stream((ZERO + bytes(F + 4096), F), (ZERO, F), (seekable.rle_frame(9), 9)),
    "two frames in one slot": stream((ZERO + ZERO, F), (ZERO, F), (seekable.rle_frame(9), 9)),
    "a frame of another length": stream((seekable.rle_frame(F - 1), F), (ZERO, F), (seekable.rle_frame(9), 9)),
    "a bomb that tells its size": stream((bomb(16 * 131072), F), (ZERO, F), (seekable.rle_frame(9), 9)),
    "a bomb that hides its size": stream((bomb(F), F), (ZERO, F), (seekable.rle_frame(9), 9)),
    "a bomb in the last frame": stream((ZERO, F), (ZERO, F), (bomb(9), 9)),
    "random bytes for a frame": stream((ZERO, F), (hashlib.sha512(b"").digest(), F), (seekable.rle_frame(9), 9)),
    "a skippable frame": stream((ZERO, F), (b"\x50\x2a\x4d\x18\0\0\0\0" + ZERO, F), (seekable.rle_frame(9), 9)),
    "a frame cut off": stream((ZERO, F), (STORED[:-1], F), (seekable.rle_frame(9), 9)),
    "raw bytes": bytes(LENGTH),
}


@READERS
@pytest.mark.parametrize("lie", LIES)
def test_a_stream_that_is_not_as_the_format_allows_is_refused(lie: str, open_all: Open) -> None:
    """Sealed under the right key with the right digests, but no stream of section 9.1: refused by the object's name."""
    with pytest.raises(Forged, match=r"^regions/1/3\.sealed: sealed by a listed key, but not as the format allows: "):
        open_all(LIES[lie], "zstd", LENGTH)


def test_moved_boundaries_are_refused() -> None:
    """A table whose entries add up but stand one byte off is refused at the first frame, with nothing handed on."""
    table = TableWriter()
    for size, length in ((len(ZERO) + 1, F), (len(ZERO) - 1, F), (len(seekable.rle_frame(9)), 9)):
        table.add(size, length)
    data, record, context = craft(ZERO * 2 + seekable.rle_frame(9) + table.finish(), "zstd", LENGTH)
    sink = Collected(4096)
    with pytest.raises(Forged, match="not as the format allows"):
        unseal(reader(data), record, DEK, context, F, NAME, sink)
    assert not sink.data


@READERS
@pytest.mark.parametrize("length", [0, 2, 4, 16384])
def test_a_raw_region_of_another_length_is_refused(length: int, open_all: Open) -> None:
    """Codec raw: the plaintext is exactly as long as the record says."""
    with pytest.raises(Forged, match=r"^regions/1/3\.sealed: .*it holds"):
        open_all(bytes(length), "raw", 3)


@pytest.mark.parametrize(
    "opening",
    [
        "unseal(get, record, dek, context, size, 'x', Collected(4096))",
        "Reader(lambda path, o, n: get(o, n), [Held(record, dek)], record.end, size).read(4096, size)",
    ],
)
def test_many_bombs_are_refused_in_little_memory(opening: str) -> None:
    """A region of 4096 frames that all declare F and decode to 2 MiB is refused within 400 MB of address space."""
    frames = 4096
    data, record, context = craft(stream(*[(bomb(F), F)] * frames), "zstd", F * frames)
    done = limited(
        "from dumpvault.errors import Forged\n"
        "from kit import Collected\n"
        "from dumpvault.model import RegionRecord\n"
        "from dumpvault.stages.reader import Reader\n"
        "from dumpvault.stages.unseal import unseal\n"
        "from support.regions import Held\n"
        f"data, dek, context = sys.stdin.buffer.read(), {DEK!r}, {context!r}\n"
        f"record, size = {record!r}, {F}\n"
        "get = lambda o, n: data[o:o + n]\n"
        f"try: {opening}\n"
        "except Forged: raise SystemExit(7)",
        stdin=data,
    )
    assert done.returncode == 7, done.stderr[-300:]


def test_a_data_key_of_another_length_is_refused() -> None:
    """A key of another length is refused by the object's name, like any other wrong key, even one that HMAC pads to it."""
    data, record, context = craft(HONEST, "zstd", LENGTH)
    for dek in (DEK[:31], DEK + b"\0", b""):
        with pytest.raises(Forged, match=r"^regions/1/3\.sealed: "):
            unseal(reader(data), record, dek, context, F, NAME, Collected(4096))


def test_an_object_that_lacks_its_list_is_refused() -> None:
    """An object cut off inside its message, at its list or inside it is refused by its name."""
    data, record, context = craft(HONEST, "zstd", LENGTH)
    for cut in (1, 31, 32, 33, len(data)):
        with pytest.raises(Forged, match=r"^regions/1/3\.sealed: "):
            unseal(reader(data[:-cut]), record, DEK, context, F, NAME, Collected(4096))
