"""The ledger in a store: appended to, cut off at every call, by many at once, and after somebody changed it."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from dumpvault.errors import Forged, StoreFailed
from dumpvault.formats import merkle, tiles
from dumpvault.formats.checkpoint import Checkpoint
from dumpvault.formats.note import Note
from dumpvault.stages.ledger import Ledger
from dumpvault.stages.store.local import LocalStore
from kit import KEY, OTHER

ORIGIN = "ledger-" + "1" * 32
LOGS = [KEY.signer]
ANY = lambda data, name: True  # noqa: E731


def ledger(path: Path) -> Ledger:
    return Ledger.create(LocalStore(str(path), create=True), ORIGIN, LOGS)


def entries(made: Ledger) -> list[bytes]:
    return [made.entry(i) for i in range(made.tip())]


def whole(made: Ledger) -> list[bytes]:
    """Every entry; every checkpoint is of their tree, and every full tile and bundle is what they make."""
    found = entries(made)
    edges, edge = {0: merkle.EMPTY}, tiles.Edge()
    cached: dict[str, bytes] = {}
    for data in found:
        cached |= dict(edge.add(merkle.leaf_hash(data)))
        cached |= dict(edge.partial())
        edges[edge.size] = edge.root
    for size in map(int, made.store.children("ledger/checkpoints")):
        checkpoint, _ = Checkpoint.verified(made.store.get(f"ledger/checkpoints/{size}"), ORIGIN, LOGS, "c")
        assert (checkpoint.size, checkpoint.root) == (size, edges[size])
    for name in made.store.list("ledger/tile"):
        name = name.removeprefix("ledger/")  # noqa: PLW2901
        if name.startswith("tile/entries"):
            first = 256 * int(name.rpartition("/")[2])
            assert made.store.get(f"ledger/{name}") == tiles.bundle(found[first : first + 256])
        else:
            assert made.store.get(f"ledger/{name}") == cached[name], name
    return found


def test_entries_are_appended(tmp_path: Path) -> None:
    """In order, over the end of a tile; each append gives the checkpoint that covers it, and remembers by that."""
    made, known = ledger(tmp_path), None
    for i in range(260):
        done = made.append(b"%d" % i, KEY, known, ANY)
        assert (done.index, done.checkpoint and done.checkpoint.size) == (i, i + 1)
        known = done.checkpoint
    assert whole(made) == [b"%d" % i for i in range(260)]
    assert made.append(b"259", KEY, None, ANY).index == 260, "who forgets what is covered may say a thing twice"
    assert Ledger.of(LocalStore(str(tmp_path)), LOGS) is not None
    assert [made.tip(known) for known in (0, 1, 100, 261)] == [261] * 4


def test_the_inbox_goes_first_and_once(tmp_path: Path) -> None:
    made = ledger(tmp_path)
    names = []
    for data in (b"waits", b"junk"):
        names.append(hashlib.sha256(data).hexdigest())
        made.store.put(f"ledger/inbox/{names[-1]}", data)
    made.store.put(f"ledger/inbox/{'0' * 64}", b"under another's name")
    good = lambda data, name: data != b"junk"  # noqa: E731
    assert made.append(b"one", KEY, None, good).index == 1
    assert made.append(b"two", KEY, None, good).index == 2
    assert whole(made) == [b"waits", b"one", b"two"]
    assert made.store.get(f"ledger/sequenced/{names[0]}") == b"0"


def test_without_a_logs_key_somebody_else_finishes(tmp_path: Path) -> None:
    made = ledger(tmp_path)
    assert made.append(b"a", None, None, ANY).checkpoint is None
    assert made.append(b"b", KEY, None, ANY).checkpoint is not None
    assert whole(made) == [b"a", b"b"]
    assert list(made.store.children("ledger/checkpoints")) == ["2"]


@pytest.mark.parametrize("fault", ["killed before", "killed after", "failed"])
def test_every_crash_point(tmp_path: Path, fault: str) -> None:
    """Cut off around each put of an append that ends a tile and takes the inbox in: the next one finishes it, once."""
    base = ledger(tmp_path / "base")
    for i in range(254):
        base.append(b"%d" % i, KEY, None, ANY) if i % 64 == 63 else base.append(b"%d" % i, None, None, ANY)
    waits = b"waits"
    base.store.put(f"ledger/inbox/{hashlib.sha256(waits).hexdigest()}", waits)

    class Stopped(BaseException):
        pass

    real, at = LocalStore.put, 0
    while True:
        folder = tmp_path / f"{at}"
        shutil.copytree(tmp_path / "base", folder)
        made, count = ledger(folder), iter(range(1 << 20))

        def put(store: LocalStore, name: str, data: bytes, at: int = at, count: object = count) -> None:
            n = next(count)  # type: ignore[call-overload]
            if n == at and fault == "killed before":
                raise Stopped
            if n == at and fault == "failed":
                raise StoreFailed("no", "no")
            real(store, name, data)
            if n == at:
                raise Stopped

        try:
            with mock.patch.object(LocalStore, "put", put):
                made.append(b"mine", KEY, None, ANY)
            break
        except (Stopped, StoreFailed):
            pass
        assert made.append(b"mine", KEY, None, ANY).checkpoint
        found = whole(made)
        assert found[:254] == [b"%d" % i for i in range(254)]
        assert found[254] == waits
        assert found.count(waits) == 1
        assert 1 <= found.count(b"mine") <= 2, "an entry whose put was not reported may be there already"
        assert {f"ledger/{name}" for name in ("tile/0/000", "tile/entries/000")} <= set(made.store.list("ledger/tile"))
        shutil.rmtree(folder)
        at += 1
    assert at > 5


#: What a writer dies at: the how manieth of its puts of a kind, and whether that put has been made.
Death = tuple[str, int, bool]


def _write(path: str, writer: int, count: int, reported: str, death: Death | None) -> None:
    """Append what this writer has not reported yet; die by SIGKILL where it is told to."""
    made, known = Ledger.create(LocalStore(path), ORIGIN, LOGS), None
    real, puts = LocalStore.put, Counter[str]()

    def put(store: LocalStore, name: str, data: bytes) -> None:
        kind = name.split("/")[1]
        puts[kind] += 1
        now = death is not None and (kind, puts[kind]) == death[:2]
        if now and death and not death[2]:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            real(store, name, data)
        finally:  # also where another writer had the number
            if now:
                os.kill(os.getpid(), signal.SIGKILL)

    with mock.patch.object(LocalStore, "put", put), Path(reported).open("ab", buffering=0) as log:
        for i in range(len(Path(reported).read_bytes().splitlines()), count):
            data = b"%d %d" % (writer, i)
            done = made.append(data, KEY, known, ANY)
            known = done.checkpoint
            log.write(b"%d %s\n" % (done.index, data))


def test_many_writers_killed_lose_and_fork_nothing(tmp_path: Path, record_proof: Callable[[str], None]) -> None:
    """Writers at once, each killed at an entry, a tile and a checkpoint, before and after it in turn: what was reported
    stands at its number, and one tree stands.

    DUMPVAULT_LEDGER_WRITERS and DUMPVAULT_LEDGER_APPENDS ask for more of them.
    """
    writers = int(os.environ.get("DUMPVAULT_LEDGER_WRITERS", "4"))
    count = int(os.environ.get("DUMPVAULT_LEDGER_APPENDS", "25"))
    store = tmp_path / "store"
    ledger(store)
    fork, rng = multiprocessing.get_context("fork"), random.Random("ledger")
    steps = ("entries", "tile", "checkpoints")
    # A writer puts each of these about once for an append, so that it meets all of its deaths.
    deaths = {
        writer: [(step, rng.randrange(1, count // 4), (writer + n) % 2 == 0) for n, step in enumerate(steps)]
        for writer in range(writers)
    }
    died = Counter((step, after) for all_ in deaths.values() for step, _, after in all_)

    def start(writer: int) -> multiprocessing.process.BaseProcess:
        at = deaths[writer].pop() if deaths[writer] else None
        process = fork.Process(target=_write, args=(str(store), writer, count, str(tmp_path / f"{writer}.log"), at))
        process.start()
        return process

    running, kills = {writer: start(writer) for writer in range(writers)}, 0
    while running:
        for writer, process in list(running.items()):
            process.join(0.05)
            if process.exitcode == 0:
                del running[writer]
            elif process.exitcode is not None:
                assert process.exitcode == -signal.SIGKILL
                kills += 1
                running[writer] = start(writer)
    found = whole(ledger(store))
    told = [line.split(b" ", 1) for path in tmp_path.glob("*.log") for line in path.read_bytes().splitlines()]
    assert len(told) == writers * count
    for number, data in told:
        assert found[int(number)] == data
    assert kills == 3 * writers
    wanted = {b"%d %d" % (w, i) for w in range(writers) for i in range(count)}
    assert set(found) == wanted
    told_of = ", ".join(f"{n} {'after' if after else 'before'} {step}" for (step, after), n in sorted(died.items()))
    record_proof(
        f"ledger: {writers} writers x {count} appends, {kills} kills ({told_of}): {len(wanted - set(found))} lost, 0 forked"
    )


def forged(made: Ledger, size: int) -> None:
    """A checkpoint that the log's key signed for another tree."""
    path = Path(made.store.url) / f"ledger/checkpoints/{size}"
    path.write_bytes(Checkpoint(ORIGIN, size, bytes(32)).sign(KEY))


def test_what_was_done_to_it_is_named(tmp_path: Path) -> None:
    """Rolled back, truncated, forked, another ledger: refused before anything is written; junk in the cache is not."""
    made, known = ledger(tmp_path / "a"), None
    for i in range(12):
        known = made.append(b"%d" % i, KEY, known, ANY).checkpoint
    assert known

    def tampered(name: str) -> tuple[Ledger, Path]:
        folder = Path(shutil.copytree(tmp_path / "a", tmp_path / name))
        return ledger(folder), folder / "ledger"

    other, root = tampered("rolled back")
    for size in range(8, 13):
        (root / f"checkpoints/{size}").unlink()
        (root / f"entries/{size - 1}").unlink()
    with pytest.raises(Forged, match="rolled back: entry 11 is gone, and this home has verified 12"):
        other.append(b"x", KEY, known, ANY)
    other, root = tampered("checkpoints gone")
    shutil.rmtree(root / "checkpoints")
    (root / "checkpoints").mkdir()
    (root / "checkpoints/13").write_bytes(b"junk")
    assert other.append(b"x", KEY, known, ANY).index == 12, "no entry is gone, and an entry's checkpoint may be junk"
    assert list(other.store.children("ledger/checkpoints")) == ["13"]
    done = other.append(b"y", KEY, known, ANY)
    assert (done.index, done.checkpoint and done.checkpoint.size) == (13, 14)
    other, root = tampered("forked")
    shutil.rmtree(root / "checkpoints")
    shutil.rmtree(root / "tile")
    (root / "entries/3").write_bytes(b"another")
    (root / "checkpoints").mkdir()
    other.append(b"x", KEY, None, ANY)
    with pytest.raises(Forged, match="forked: its first 12 entries"):
        other.append(b"y", KEY, known, ANY)
    other, root = tampered("signed twice")
    forged(other, 13)
    with pytest.raises(Forged, match="forked: a log's key signed another tree of 13 entries"):
        other.append(b"x", KEY, known, ANY)
    other, root = tampered("an entry exchanged")
    (root / "entries/3").write_bytes(b"another")
    shutil.rmtree(root / "tile")
    with pytest.raises(Forged, match="not those that ledger/checkpoints/12 was signed for"):
        other.append(b"x", KEY, known, ANY)
    other, root = tampered("another ledger")
    (root / "ledger.json").write_bytes((root / "ledger.json").read_bytes().replace(b"111", b"222"))
    other = Ledger.create(LocalStore(str(root.parent)), ORIGIN, LOGS)
    with pytest.raises(Forged, match="and was ledger-"):
        other.append(b"x", KEY, known, ANY)
    other, root = tampered("junk")
    for path in (root / "tile").rglob("*"):
        if path.is_file():
            path.write_bytes(bytes(32))
    (root / "checkpoints/12").write_bytes(Note("no\n", ()).encode() + b"x")
    (root / "checkpoints/13").write_bytes(Checkpoint(ORIGIN, 13, bytes(32)).sign(OTHER))
    assert other.append(b"x", None, None, ANY).index == 12
