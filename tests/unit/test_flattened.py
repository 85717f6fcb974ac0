"""Flattened streams: the index of each slice, what is refused of one, and the dump reassembled from them (section 9.3)."""

from __future__ import annotations

import hashlib
import random
import shutil
import struct
import subprocess
import tracemalloc
from array import array

import pytest
from cryptography.cobblestone import Cobblestone256Encryptor
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpvault.errors import Forged, Incomplete
from dumpvault.formats import flattened, sealed, seekable
from dumpvault.formats.flattened import END_RECORD, Index, Reassembled, Records
from dumpvault.formats.seekable import BadStream, TableWriter
from dumpvault.model import BLOCK, Codec, RegionRecord
from dumpvault.stages.unseal import unseal
from kit import VAULT, Collected, reader
from support import flat

PAGE = 4096
DEK = bytes(range(32))
NAME = "regions/1/3.sealed"
Regions = list[tuple[int, int, Index]]


def cut(data: bytes, sizes: list[int], step: int) -> Regions:
    """The indexes of a stream cut into regions of ``sizes`` pages in turn, fed ``step`` bytes at a time."""
    records, found, at = Records(), [], 0
    while at < len(data):
        end = min(len(data), at + PAGE * sizes[len(found) % len(sizes)])
        if at:
            records.begin()
        for start in range(at, end, step):
            records.feed(memoryview(data)[start : min(start + step, end)])
        found.append((at, end - at, records.index()))
        at = end
    return found


def looked_at(data: bytes, regions: Regions) -> Regions:
    """The same from a stream that can be read anywhere: each region followed on its own."""
    scout, found = Records(), []
    for offset, length, _ in regions:
        records = scout.ahead(offset, lambda n, at: data[at : at + n])
        records.feed(data[offset : offset + length])
        found.append((offset, length, records.index()))
    return found


def reference(data: bytes, offset: int, length: int) -> Index:
    """The index of one slice, from the whole stream, as section 9.3 says it."""
    at, state, entries = flattened.HEADER, 0, []
    while at + 16 <= offset + length:
        target, n = struct.unpack_from(">QQ", data, at)
        if n == 0 or target + n >= 1 << 63:
            state = 1 if data[at : at + 16] == END_RECORD else 2
            break
        start, end = max(at + 16, offset), min(at + 16 + n, offset + length)
        if start < end:
            entries.append((start - offset, target + start - at - 16, end - start))
        at += 16 + n
    first = entries[0][0] if entries else 0
    return Index(state, first, array("Q", [t for _, t, _ in entries]), array("I", [n for _, _, n in entries]))


def pages_around(n: int) -> st.SearchStrategy[int]:
    return st.sampled_from([max(1, PAGE * i + d) for i in range(1, n) for d in (-33, -32, -17, -16, -15, -1, 0, 1)])


pieces = st.lists(
    st.tuples(st.integers(0, 60_000) | st.sampled_from([0, 1 << 24, (1 << 24) - 5]), st.integers(1, 300) | pages_around(4)),
    max_size=12,
)  # fmt: skip
ends = st.sampled_from(
    [END_RECORD, b"", END_RECORD[:9], END_RECORD + b"more" * 2000, bytes(16) + b"zz" * 3000, b"\x80" + bytes(15) + END_RECORD]
)  # fmt: skip
sizes = st.lists(st.integers(1, 5), min_size=1, max_size=3)


def built(pieces: list[tuple[int, int]], end: bytes) -> bytes:
    rng = random.Random(len(pieces))
    return flat.stream([(target, rng.randbytes(n)) for target, n in pieces], end)


@settings(max_examples=150)
@given(pieces, ends, sizes, st.sampled_from([11, 700, PAGE, 1 << 20]), st.integers(0, 40))
def test_indexes_are_what_the_spec_says(
    pieces: list[tuple[int, int]], end: bytes, sizes: list[int], step: int, short: int
) -> None:
    """However a stream is made, cut off, broken, sliced and fed: each index is the spec's, from a pipe and from a file;
    it is read as it was written, and the bytes of its slice confirm it."""
    data = built(pieces, end)
    data = data[: len(data) - short]
    regions = cut(data, sizes, step)
    assert regions == [(offset, length, reference(data, offset, length)) for offset, length, _ in regions]
    assert looked_at(data, regions) == regions
    for offset, length, index in regions:
        assert Index.read(index.encode(), offset, length) == index
        records = Records.within(offset, index)
        assert (records is None) == (bool(offset) and not index.targets)
        if records:
            records.feed(data[offset : offset + length])
            assert records.index() == index


@settings(max_examples=200)
@given(pieces, ends, sizes, st.lists(st.tuples(st.integers(0, 80_000), st.integers(0, 30_000)), max_size=8), st.data())
def test_reads_are_those_of_the_dump(
    pieces: list[tuple[int, int]], end: bytes, sizes: list[int], reads: list[tuple[int, int]], draw: st.DataObject
) -> None:
    """Reads at any place give what writing the records in order gives. Where a region is missing or the end is, what is
    not known is an error and never zeros."""
    data = built(pieces, end)
    regions = cut(data, sizes, PAGE)
    lost = draw.draw(st.none() | st.integers(0, len(regions) - 1))
    gone = range(0) if lost is None else range(regions[lost][0], sum(regions[lost][:2]))
    dump = Reassembled((r for i, r in enumerate(regions) if i != lost), reader(data))
    expected, mask = flat.known(data, gone)
    ended = next(
        (offset for offset, _, index in regions if index.state == flattened.ENDED and offset not in gone), None
    )
    assert dump.whole == (ended is not None and (lost is None or gone.start > ended))
    assert dump.size == len(expected)
    for at, length in [
        *reads,
        (0, min(len(expected), 200_000)),
        (len(expected) - 1, 2),
        (len(expected), 5),
        ((1 << 24) - 9, 40),
    ]:
        if at < 0:
            continue
        if dump.whole or all(mask[at : at + length]):
            assert dump.read(at, length) == expected[at : at + length]
        else:
            with pytest.raises(Incomplete, match="is in no record that is there"):
                dump.read(at, length)


def test_later_records_win() -> None:
    """Records over, under, inside and across others; the order of the stream decides, not that of the targets."""
    rng = random.Random(7)
    for _ in range(200):
        spans = [(rng.randrange(60), rng.randint(1, 30)) for _ in range(rng.randint(1, 12))]
        many, base = [(target, rng.randbytes(n)) for target, n in spans], (1 << 24) - 40
        data = flat.stream((base + target, piece) for target, piece in many)
        dump = Reassembled(cut(data, [1], PAGE), reader(data))
        assert dump.read(base, 1000) == flat.dump(many)
        assert dump.read(dump.size - 5, 100) == flat.dump(many)[-5:]


@pytest.mark.parametrize("count", [65535, 65536, 65537, 131074])
@pytest.mark.parametrize("step", [PAGE, 1 << 20])
def test_an_index_is_bounded(count: int, step: int) -> None:
    """65 536 entries are written and read; of one more the index is left out, and the next region has one again."""
    size = PAGE * 1000
    data = flat.stream([(i, b"!") for i in range(count)] + [(9, b"?" * size), (4, b"last")])
    regions = cut(data, [1000], step)
    index = regions[0][2]
    assert index.state == (flattened.GOING if count < 65536 else flattened.LEFT_OUT)
    assert len(index.targets) == (count + 1 if count < 65536 else 0)
    assert Index.read(index.encode(), 0, size) == index
    assert regions[1][2] == reference(data, *regions[1][:2])
    if count == 65535:
        assert len(index.targets) == flattened.MAX_ENTRIES
        # A record whose 16 bytes end with the region has no data in it, and is not one too many.
        data = flat.stream(
            [(i, b"!") for i in range(65535)] + [(0, b"x" * (size - PAGE - 65535 * 17 - 32)), (3, b"y" * 99)]
        )
        assert cut(data, [1000], step)[0][2] == reference(data, 0, size)
    if index.state == flattened.LEFT_OUT:
        with pytest.raises(Incomplete, match="the region at byte 0x0 of the stream has too many records"):
            Reassembled(regions, reader(data))
    with pytest.raises(BadStream):
        Index.read(flat.frame(0, 0, [(1, 1)] * 65537), PAGE, 65537 * 17)


def test_a_record_takes_few_bytes_of_memory() -> None:
    """A reader of a great dump holds about 18 bytes a record, whatever was read: 580 MB for 1 TiB of stream."""
    count = 60_000
    targets = array("Q", (33_000 * i for i in range(count)))
    regions: Regions = []
    for i in range(0, count, 2000):
        index = Index(0, 16 if i else 4112, targets[i : i + 2000], array("I", [33_000]) * 2000)
        offset = 33_016 * i + (4096 if i else 0)
        regions.append((offset, index.end, index))
    tracemalloc.start()
    dump = Reassembled(regions, lambda at, n: bytes(n))
    for at in range(0, dump.size, 1 << 24):
        dump.read(at, 5)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert dump.size == 33_000 * count
    assert taken / count < 20, taken / count


# --- What is refused ----------------------------------------------------------------------------------------------


def craft(data: bytes, index: bytes, offset: int, codec: Codec) -> tuple[bytes, RegionRecord, bytes]:
    """The object of a flattened region with this index, by a collector that holds the key."""
    plaintext = data + index
    if codec == "zstd":
        table = TableWriter()
        frames = []
        for i in range(0, len(data), PAGE):
            frames.append(seekable.zstd.compress(data[i : i + PAGE]))
            table.add(len(frames[-1]), len(data[i : i + PAGE]))
        plaintext = b"".join(frames) + index + table.finish()
    context = sealed.context(VAULT, 1, 3, "flattened", offset, codec)
    encryptor = Cobblestone256Encryptor(DEK, context)
    message = encryptor.update(plaintext) + encryptor.finalize()
    digests = b"".join(hashlib.sha256(message[i : i + BLOCK]).digest() for i in range(0, len(message), BLOCK))
    blocks = hashlib.sha256(digests).hexdigest()
    return message + digests, RegionRecord(3, offset, len(data), "flattened", codec, len(message), blocks, ""), context


def open_it(data: bytes, index: bytes, offset: int, codec: Codec) -> bytes:
    thing, record, context = craft(data, index, offset, codec)
    sink = Collected(offset)
    unseal(reader(thing), record, DEK, context, PAGE, NAME, sink)
    return bytes(sink.data)


both = pytest.mark.parametrize("codec", ["raw", "zstd"])


@both
@pytest.mark.parametrize("honest", flat.HONEST, ids=lambda case: f"{case[0]}-{case[2][8]}")
def test_honest_indexes_open(honest: tuple[int, bytes, bytes], codec: Codec) -> None:
    """What the lies below change opens when it is not changed."""
    offset, data, index = honest
    assert open_it(data, index, offset, codec) == data
    assert Index.read(index, offset, len(data)).encode() == index


@both
@pytest.mark.parametrize("lie", flat.LIES, ids=lambda lie: lie[0])
def test_lying_indexes_are_refused(lie: tuple[str, int, bytes, bytes], codec: Codec) -> None:
    """Sealed under the right key, but with an index that cannot be, or that the bytes contradict."""
    _, offset, data, index = lie
    with pytest.raises(Forged, match=r"^regions/1/3\.sealed: sealed by a listed key, but not as the format allows: "):
        open_it(data, index, offset, codec)


@pytest.mark.parametrize("lie", [lie for lie in flat.LIES if lie[0] not in flat.BYTES_TELL], ids=lambda lie: lie[0])
def test_impossible_indexes_are_refused_without_the_bytes(lie: tuple[str, int, bytes, bytes]) -> None:
    """What a reader by range must see, who does not read the slice."""
    _, offset, data, index = lie
    with pytest.raises(BadStream):
        Index.read(index, offset, len(data))


@pytest.mark.parametrize("at", range(len(flat.HONEST[0][2])))
def test_every_bit_of_an_index_has_meaning(at: int) -> None:
    """An index with any one bit changed is refused; of a later slice only what its first record's header said is not seen."""
    for offset, data, index in flat.HONEST[:2]:
        for bit in range(8):
            lie = bytearray(index)
            lie[at] ^= 1 << bit
            if offset and 16 <= at < 24 and not lie[23] & 0x80:
                continue  # the target of data whose record began in the slice before
            with pytest.raises(Forged):
                open_it(data, bytes(lie), offset, "raw")


@both
def test_a_region_without_its_index_is_refused(codec: Codec) -> None:
    """Kind flattened without an index, and an index in another kind."""
    with pytest.raises(Forged, match="0 bytes where its index of records must stand"):
        open_it(flat.MIDDLE, b"", flat.MIDDLE_OFFSET, codec)
    plaintext = flat.MIDDLE + flat.HONEST[1][2]
    if codec == "zstd":
        frame, table = seekable.zstd.compress(flat.MIDDLE), TableWriter()
        table.add(len(frame), len(flat.MIDDLE))
        plaintext = frame + flat.HONEST[1][2] + table.finish()
    context = sealed.context(VAULT, 1, 3, "opaque", 8192, codec)
    encryptor = Cobblestone256Encryptor(DEK, context)
    message = encryptor.update(plaintext) + encryptor.finalize()
    digests = hashlib.sha256(message).digest()
    record = RegionRecord(
        3, 8192, len(flat.MIDDLE), "opaque", codec, len(message), hashlib.sha256(digests).hexdigest(), ""
    )
    with pytest.raises(Forged, match="not as the format allows"):
        unseal(reader(message + digests), record, DEK, context, PAGE, NAME, Collected(8192))


def test_neighbours_must_go_on() -> None:
    """Indexes that are each well-formed and do not follow on each other are refused; across a gap nothing is compared."""
    # A record's 16 bytes cross into region 2 and end with it; the data of the next go on from region 3 into region 4.
    data = flat.stream([(0, b"a" * 4072), (50_000, b"b" * 4072), (100, b"c" * 6000), (7, b"d" * 5000)])
    good = cut(data, [1], PAGE)
    assert [index.first for _, _, index in good[1:5]] == [16, 8, 0, 0]
    assert Reassembled(good, reader(data)).whole
    there, on = good[4][2].targets, good[4][2].lengths
    none: tuple[array[int], array[int]] = (array("Q"), array("I"))
    for number, lie in (
        (2, Index(0, 0, array("Q", [4072]), array("I", [4080]))),
        (2, Index(0, 9, array("Q", [1]), array("I", [4071]))),
        (3, Index(1, 0, *none)),
        (4, Index(0, 0, array("Q", [there[0] + 1, *there[1:]]), on)),
        (4, Index(0, 5, array("Q", [1]), array("I", [4091]))),
    ):
        offset, length, _ = good[number]
        assert Index.read(lie.encode(), offset, length) == lie
        with pytest.raises(Forged, match=f"the region at byte {offset:#x} of the stream do not go on"):
            Reassembled([*good[:number], (offset, length, lie), *good[number + 1 :]], reader(data))
        assert not Reassembled([*good[: number - 1], (offset, length, lie)], reader(data)).whole


def test_nothing_comes_behind_the_end() -> None:
    """After an end or a break, regions with entries or another state are refused."""
    for end, state in ((END_RECORD, flattened.ENDED), (bytes(16), flattened.BROKEN)):
        data = flat.stream([(0, b"a" * 5000)], end + b"z" * 20_000)
        good = cut(data, [1], PAGE)
        assert [index.state for _, _, index in good][-3:] == [state] * 3
        for lie in (
            Index(0, 0, array("Q", [1]), array("I", [PAGE])),
            Index(3 - state, 0, array("Q"), array("I")),
        ):
            with pytest.raises(Forged, match="do not go on"):
                Reassembled([*good[:4], (*good[4][:2], lie), *good[5:]], reader(data))


def test_a_stream_that_gives_less_is_an_error() -> None:
    """A reader of the stream that comes back short is told, not believed."""
    data = flat.stream([(0, b"a" * 5000)])
    dump = Reassembled(cut(data, [9], PAGE), reader(data[:6000]))
    with pytest.raises(Incomplete, match="the stream ends inside a record, at byte 0x1770"):
        dump.read(0, 5000)


def test_a_file_that_cannot_be_read_is_broken_there() -> None:
    """Where looking ahead fails, no record is made up, and nothing fails."""
    data = flat.stream([(0, b"a" * 5000), (5000, b"b" * 5000)])

    def look(length: int, offset: int) -> bytes:
        if offset > 6000:
            raise OSError("bad page")
        return data[offset : offset + length]

    scout = Records()
    assert scout.ahead(8192, look).state == flattened.GOING
    records = scout.ahead(12288, look)
    records.feed(data[12288:])
    assert records.index() == Index(flattened.BROKEN, 0, array("Q"), array("I"))


def test_the_zstd_tool_skips_the_index() -> None:
    """`zstd -d` of the decrypted stream gives the slice back: index and table are skippable frames."""
    tool = shutil.which("zstd")
    if not tool:
        pytest.skip("NOT TESTED: no zstd tool here")
    table, frame = TableWriter(), seekable.zstd.compress(flat.MIDDLE)
    table.add(len(frame), len(flat.MIDDLE))
    stream = frame + flat.HONEST[1][2] + table.finish()
    assert subprocess.run([tool, "-d", "-c"], input=stream, capture_output=True, check=True).stdout == flat.MIDDLE
