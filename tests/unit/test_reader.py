"""Random access to sealed regions: equal to the source, nothing decrypted unchecked, little fetched, and no more kept."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpvault.errors import Forged, Incomplete, StoreFailed, VaultError
from dumpvault.formats import sealed as sealed_format
from dumpvault.model import BLOCK, CHUNK
from dumpvault.stages.reader import Cache, Reader
from support.regions import Held, Sealed, seal
from support.vmcore import memory

MODES = ["zstd", "auto", "none"]
FRAMES = [4096, 65536, 1 << 20]
KIB = 1024


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@st.composite
def sources(draw: st.DrawFn) -> Sealed:
    """A source of up to 1.5 MB, of memory-like data, cut anywhere, in any codec and frame size."""
    size = draw(st.sampled_from([1, 4095, 4096, 65536, 65537, 300_000, 1_100_000]) | st.integers(1, 1_500_000))
    data = memory(-(-size // 4096), draw(st.integers(0, 50)))[:size]
    cuts = draw(st.lists(st.integers(1, size), max_size=6))
    return seal(data, cuts, draw(st.sampled_from(MODES)), draw(st.sampled_from(FRAMES)))


def places(source: Sealed) -> st.SearchStrategy[int]:
    """Offsets anywhere, and around where regions, frames, chunks and blocks end; past the end, too."""
    size = len(source.data)
    edges = {0, size, size + 4096, CHUNK, BLOCK, source.frame_size, *(r.record.end for r in source.regions)}
    return st.integers(0, size + 5000) | st.sampled_from(
        sorted({max(0, e + d) for e in edges for d in (-4096, -1, 0, 1)})
    )


lengths = st.sampled_from([0, 1, 4096, 65536, 70_000, BLOCK + 1]) | st.integers(0, 600_000)


@settings(max_examples=60)
@given(st.data(), sources(), st.sampled_from([1, 300 * KIB, 64 << 20]), st.sampled_from([0, 2]))
def test_every_read_equals_the_slice(data: st.DataObject, source: Sealed, cache: int, ahead: int) -> None:
    """Any reads in any order give what slicing the source gives, with any cache, with and without read-ahead."""
    reader = source.reader(cache, ahead)
    for _ in range(8):
        offset, length = data.draw(places(source)), data.draw(lengths)
        assert reader.read(offset, length) == source.data[offset : offset + length]
    reader.close()
    assert reader.available == source.without([]).reader().available


@settings(max_examples=30)
@given(st.data(), sources())
def test_gaps_are_incomplete_and_the_rest_stays(data: st.DataObject, source: Sealed) -> None:
    """A read that touches a region that is missing is ``Incomplete``, at its first missing byte; all others are served."""
    gone = data.draw(st.sets(st.integers(0, len(source.regions) - 1)))
    reader = source.without(gone).reader()
    for _ in range(8):
        offset, length = data.draw(places(source)), data.draw(lengths)
        if source.lies_in(gone, offset, length):
            first = min(
                max(offset, source.regions[n].record.offset) for n in gone if source.lies_in([n], offset, length)
            )
            with pytest.raises(Incomplete, match=f"byte {first:#x} "):
                reader.read(offset, length)
        else:
            assert reader.read(offset, length) == source.data[offset : offset + length]


def test_sequential_reading_of_a_whole_source() -> None:
    """As ``cp`` reads, through read-ahead, in requests of odd sizes: the source, and no object's block fetched twice."""
    source = seal(memory(800) + noise(2 << 20), [1 << 20, (2 << 20) + 4096], "zstd")
    reader = source.reader(64 << 20, ahead=2)
    out, at = bytearray(), 0
    while piece := reader.read(at, 131_072 - 7):
        out += piece
        at += len(piece)
    reader.close()
    assert out == source.data
    blocks = [(path, offset) for path, offset, length in source.store.fetches if length > 4096]
    assert len(blocks) == len(set(blocks))
    assert reader.fetched <= sum(map(len, source.store.objects.values())) + 100 * len(source.regions)


def outcomes(source: Sealed, reader: Reader, step: int = 4096) -> list[str]:
    """What each page of the source reads as: ``same``, or the kind of its error; anything else fails."""
    out = []
    for at in range(0, len(source.data), step):
        try:
            assert reader.read(at, step) == source.data[at : at + step], f"wrong bytes at {at:#x}"
            out.append("same")
        except VaultError as error:
            out.append(error.kind)
    return out


@pytest.mark.parametrize("mode", ["none", "zstd"])
def test_a_changed_byte_spoils_what_it_is_part_of(mode: str) -> None:
    """A bit flipped anywhere: the pages of its block are Forged, all others read; in head, table or list, the region."""
    source = seal(noise(6 * BLOCK), [3 * BLOCK], mode)
    victim, record = source.object(0), source.regions[0].record
    rng = random.Random(mode)
    pages, in_region = len(source.data) // 4096, record.length // 4096
    ends = [0, 23, 24, 55, 56, BLOCK - 1, BLOCK, record.message - 1, record.message, len(victim) - 1]
    for at in ends + [rng.randrange(len(victim)) for _ in range(10)]:
        original = victim[at]
        victim[at] ^= 1 << rng.randrange(8)
        found = outcomes(source, source.reader())
        assert set(found) == {"same", "authentication failed"}
        assert found[in_region:] == ["same"] * (pages - in_region), "the other region stays readable"
        spoiled = found.count("authentication failed")
        if 56 <= at < 3 * BLOCK:  # past the head, before the short last block, which holds the seek table
            assert spoiled <= (BLOCK + 2 * source.frame_size) // 4096 + 1
            hit = (at - 56) // (CHUNK + 16) * CHUNK // 4096
            assert found[min(hit + 1, in_region - 1)] == "authentication failed"
        elif at < 56 or at >= record.message or mode == "zstd":
            assert spoiled == in_region
        victim[at] = original
    assert set(outcomes(source, source.reader())) == {"same"}


class Spy:
    """In the place of AESGCM: remembers every chunk that is handed to decryption."""

    def __init__(self) -> None:
        self.real = sealed_format.AESGCM
        self.chunks: list[bytes] = []

    def __call__(self, key: bytes) -> Spy._Watched:
        return Spy._Watched(self, self.real(key))

    class _Watched:
        def __init__(self, spy: Spy, aead: AESGCM) -> None:
            self.spy, self.aead = spy, aead

        def decrypt(self, nonce: bytes, data: bytes, aad: None) -> bytes:
            self.spy.chunks.append(bytes(data))
            return self.aead.decrypt(nonce, data, aad)


def forge(source: Sealed, number: int, chunk: int) -> tuple[bytes, int]:
    """Re-encrypt a chunk under its own key, as a holder of the data key can; the object before, and the chunk's place."""
    region, victim = source.regions[number], source.object(number)
    before = bytes(victim)
    key, nonce, _ = sealed_format._derive(region.key, region.context, before[:24])
    at, length = 56 + chunk * (CHUNK + 16), min(CHUNK + 16, region.record.message - 56 - chunk * (CHUNK + 16))
    once = (int.from_bytes(nonce) ^ chunk).to_bytes(12)
    plain = bytearray(AESGCM(key).decrypt(once, before[at : at + length], None))
    plain[:4] = b"evil"
    victim[at : at + length] = AESGCM(key).encrypt(once, bytes(plain), None)
    assert bytes(victim) != before
    return before, at


def forged_chunks_are_never_decrypted() -> int:
    """Try every chunk of a region; the number of chunks tried. Any byte of a changed block that is decrypted fails."""
    source = seal(noise(2 * BLOCK + 100), [], "none")
    count = -(-source.regions[0].record.message // (CHUNK + 16))
    for chunk in range(count):
        before, at = forge(source, 0, chunk)
        length = min(CHUNK + 16, source.regions[0].record.message - at)
        changed = set(range(at // BLOCK, (at + length - 1) // BLOCK + 1))
        bad = {
            before[56 + k * (CHUNK + 16) :][: CHUNK + 16]
            for k in range(count)
            if changed & {(56 + k * (CHUNK + 16)) // BLOCK, min(55 + (k + 1) * (CHUNK + 16), len(before) - 1) // BLOCK}
        }
        spy = Spy()
        with mock.patch.object(sealed_format, "AESGCM", spy):
            found = outcomes(source, source.reader())
        assert "authentication failed" in found
        for data in spy.chunks:
            assert data in before, "a forged chunk was decrypted"
            assert data not in bad, "a chunk was decrypted out of a block that does not match the signed list"
        source.object(0)[:] = before
    return count


def test_no_byte_is_decrypted_before_its_block_matched_the_signed_list(record_proof: Callable[[str], None]) -> None:
    """A chunk re-encrypted under its own key passes AES-GCM and the commitment; only the signed list tells."""
    record_proof(
        f"reader: {forged_chunks_are_never_decrypted()} chunks re-encrypted under their own key, none decrypted"
    )


def unchecked(self: sealed_format.Blocks, first: int, data: bytes) -> None:
    """A mutant of ``Blocks.check``."""


def late(self: sealed_format.Blocks, first: int, count: int) -> bytes:
    """A mutant of ``Blocks.blocks`` that hands bytes on and checks them afterwards, if at all."""
    start = first * BLOCK
    return self._get(start, min(count * BLOCK, self.message - start))


@pytest.mark.parametrize(("name", "mutant"), [("check", unchecked), ("blocks", late)])
def test_the_test_above_finds_a_reader_that_does_not_check(name: str, mutant: Callable[..., object]) -> None:
    with mock.patch.object(sealed_format.Blocks, name, mutant), pytest.raises(AssertionError):
        forged_chunks_are_never_decrypted()


def test_regions_cannot_be_exchanged() -> None:
    """Two good objects in each other's place are both Forged; so is one under another region's key."""
    source = seal(noise(2 * BLOCK), [BLOCK], "none")
    first, second = (region.path for region in source.regions)
    objects = source.store.objects
    objects[first], objects[second] = objects[second], objects[first]
    assert set(outcomes(source, source.reader())) == {"authentication failed"}
    objects[first], objects[second] = objects[second], objects[first]
    source.regions[1] = Held(source.regions[1].record, source.regions[0].key)
    with pytest.raises(Forged, match=r"regions/1/1\.sealed: the data key is not the one"):
        source.reader().read(BLOCK, 1)
    assert source.reader().read(0, BLOCK) == source.data[:BLOCK]


@pytest.mark.parametrize("cut", [1, 32, 33, BLOCK, 2 * BLOCK])
def test_an_object_cut_while_it_is_open(cut: int) -> None:
    """What is opened stays served from memory, what is behind the cut is Forged, other regions go on."""
    source = seal(noise(4 * BLOCK), [3 * BLOCK], "none")
    reader = source.reader()
    assert reader.read(0, 4096) == source.data[:4096]
    del source.object(0)[-cut:]
    found = outcomes(source, reader)
    assert found[0] == "same"
    assert found[3 * BLOCK // 4096 :] == ["same"] * (BLOCK // 4096)
    if cut > BLOCK:
        assert "authentication failed" in found
    assert "authentication failed" in outcomes(source, source.reader())[: 3 * BLOCK // 4096]


def test_an_object_lost_and_found_again() -> None:
    """A store's error is the read's error, is not remembered, and touches no other region."""
    source = seal(noise(2 * BLOCK), [BLOCK], "none")
    lost = {source.regions[0].path}

    def get(path: str, offset: int, length: int) -> bytes:
        if path in lost:
            raise StoreFailed(f"{path}: no such object")
        return source.store.get(path, offset, length)

    reader = Reader(get, source.regions, len(source.data), source.frame_size)
    for _ in range(2):
        with pytest.raises(StoreFailed):
            reader.read(0, 1)
        assert reader.read(BLOCK, 10) == source.data[BLOCK : BLOCK + 10]
    with pytest.raises(StoreFailed):
        reader.read(BLOCK - 1, 2)
    lost.clear()
    assert reader.read(0, len(source.data)) == source.data


@pytest.mark.parametrize("mode", ["none", "zstd"])
def test_one_page_costs_one_or_two_blocks(mode: str, record_proof: Callable[[str], None]) -> None:
    """A cold read of 4 KiB from a 16 MiB region fetches its head, its list, its table's block and what holds the frame."""
    source = seal(noise(16 << 20), [], mode)
    extra = 56 + 32 * 65 + 1
    most = 0
    for at in random.Random(1).sample(range(0, len(source.data), 4096), 40):
        reader = source.reader()
        assert reader.read(at, 4096) == source.data[at : at + 4096]
        most = max(most, reader.fetched)
        assert reader.touched == {0}
    assert most <= extra + (2 if mode == "none" else 3) * BLOCK
    reader = source.reader()
    reader.read(0, 4096)
    before = reader.fetched
    reader.read(4096, 4096)
    assert reader.fetched == before, "the next page of the frame costs nothing"
    record_proof(f"reader: a cold 4 KiB read of a 16 MiB region ({mode}) fetches at most {most} bytes")


@pytest.mark.parametrize("cache", [1 << 20, 3 << 20])
def test_memory_stays_in_its_bound(cache: int) -> None:
    """Both caches together hold no more than asked for, and one entry each, whatever is read."""
    source = seal(noise(8 << 20), [3 << 20], "zstd", 65536)
    reader = source.reader(cache)
    rng = random.Random(1)
    for _ in range(400):
        at = rng.randrange(len(source.data))
        assert reader.read(at, 9000) == source.data[at : at + 9000]
        assert reader._blocks.held + reader._frames.held <= cache + BLOCK + source.frame_size + 2048


def test_zeros_cost_no_memory() -> None:
    """A sparse dump does not push out what is not zero."""
    source = seal(bytes(8 << 20) + noise(65536), [], "zstd")
    reader = source.reader(1 << 20)
    for at in range(0, len(source.data), 65536):
        assert reader.read(at, 65536) == source.data[at : at + 65536]
    assert reader._frames.held < 300 * KIB


def test_many_threads_read_the_same(record_proof: Callable[[str], None]) -> None:
    """Eight threads at once, a small cache, one region damaged: each gets the right bytes or the right error."""
    source = seal(memory(1000) + noise(1 << 20), [1 << 20, 2 << 20, 3 << 20], "zstd")
    source.object(2)[100_000] ^= 1
    reader = source.reader(600 * KIB, ahead=2)

    def work(seed: int) -> list[int]:
        rng, served = random.Random(seed), [0, 0]
        for _ in range(120):
            at, length = rng.randrange(len(source.data)), rng.choice((1, 4096, 131072))
            try:
                assert reader.read(at, length) == source.data[at : at + length]
                served[0] += 1
            except Forged:
                assert source.lies_in([2], at, length)
                served[1] += 1
        return served

    with ThreadPoolExecutor(8) as pool:
        served = list(pool.map(work, range(8)))
    reader.close()
    good, refused = (sum(column) for column in zip(*served, strict=True))
    assert good > 500
    assert refused > 20
    record_proof(f"reader: 8 threads, {good} reads right, {refused} of a damaged block refused")


# --- the cache -------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3000)), max_size=60), st.integers(0, 8000))
def test_the_cache_keeps_the_last_used_within_its_limit(wishes: list[tuple[int, int]], limit: int) -> None:
    """Against a plain model: what was made is kept, the least recently used goes first, the newest always stays."""
    cache, model = Cache(limit), dict[int, int]()
    for key, size in wishes:
        made = []
        value = cache.obtain(key, lambda key=key, size=size, made=made: made.append(1) or (key, size))  # type: ignore[misc, func-returns-value]
        assert value == key
        assert bool(made) == (key not in model)
        model[key] = model.pop(key, size + 512)
        while sum(model.values()) > limit and len(model) > 1:
            del model[next(iter(model))]
        assert cache.held == sum(model.values())


def test_a_value_is_made_once() -> None:
    """Twenty threads want one value at once: it is made once, and all get it."""
    cache, made, barrier = Cache(1 << 20), [], threading.Barrier(20)
    slow = threading.Event()

    def make() -> tuple[object, int]:
        made.append(1)
        slow.wait(0.05)
        return object(), 10

    def want(_: int) -> object:
        barrier.wait()
        return cache.obtain("key", make)

    with ThreadPoolExecutor(20) as pool:
        values = list(pool.map(want, range(20)))
    assert len(made) == 1
    assert len(set(map(id, values))) == 1


def test_an_error_neither_blocks_nor_poisons() -> None:
    """Whoever waited for a value whose making failed makes it anew; other keys never waited; nothing is accounted for."""
    cache, barrier, lock = Cache(1 << 20), threading.Barrier(10), threading.Lock()
    tries = 0

    def make() -> tuple[str, int]:
        nonlocal tries
        with lock:
            tries += 1
            mine = tries
        if mine <= 3:
            raise StoreFailed("lost")
        return "value", 5

    def want(_: int) -> str:
        barrier.wait()
        try:
            return cache.obtain("key", make)
        except StoreFailed:
            return "failed"

    with ThreadPoolExecutor(10) as pool:
        results = list(pool.map(want, range(10)))
    assert sorted(results) == ["failed"] * 3 + ["value"] * 7
    assert cache.held == 5 + 512
    assert cache._making == {}


def test_another_key_is_not_waited_for() -> None:
    """While one value is being made, others are made and served."""
    cache, go, begun = Cache(1 << 20), threading.Event(), threading.Event()

    def slow() -> tuple[str, int]:
        begun.set()
        assert go.wait(30)
        return "slow", 1

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cache.obtain, "slow", slow)
        assert begun.wait(30)
        assert cache.obtain("other", lambda: ("quick", 1)) == "quick"
        go.set()
        assert waiting.result() == "slow"


def test_a_value_may_need_others() -> None:
    """``make`` obtains from the same cache; a limit of nothing still serves."""
    cache = Cache(0)
    assert cache.obtain("a", lambda: (cache.obtain("b", lambda: (1, 100)) + 1, 100)) == 2
    assert cache.held <= 2 * 612


# --- read-ahead ------------------------------------------------------------------------------------------------------


def test_reading_ahead_raises_nothing_and_changes_nothing() -> None:
    """Behind a sequential reader's next page lie a gap, a forged block and the end: only who reads them is told."""
    source = seal(noise(12 * BLOCK), [BLOCK * n for n in range(1, 12)], "zstd").without([5])
    source.store.objects["store/regions/1/8.sealed"][1000] ^= 1
    plain, ahead = source.reader(64 << 20), source.reader(64 << 20, ahead=3)
    assert outcomes(source, ahead) == outcomes(source, plain)
    ahead.close()
    assert ahead.fetched >= plain.fetched


def test_reading_ahead_reads_ahead() -> None:
    """A sequential reader finds what follows opened already; a random one causes nothing."""
    source = seal(noise(4 << 20), [], "zstd")
    reader = source.reader(64 << 20, ahead=1)
    reader.read(0, 131072)
    reader.close()  # running work is waited for
    assert reader.fetched > 2 * BLOCK
    scattered = source.reader(64 << 20, ahead=1)
    scattered.read(3 << 20, 4096)
    scattered.close()
    assert scattered.fetched <= 56 + 32 * 20 + 3 * BLOCK
