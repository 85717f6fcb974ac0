"""Two collectors of one dump, one that sleeps while another takes over, a second crash, clocks that jump, a rolled-back
store, a torn journal, pages that cannot be read: nothing is released twice, and nothing freed is sealed as genuine."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta, tzinfo
from itertools import count
from pathlib import Path
from unittest import mock

import pytest

from dumpvault.flows import attempt, capture
from support.collector import World
from support.command import Home
from support.machine import Machine, standard_layout
from support.outcome import check_end, check_openable, commits_of, finished, make_world, only_vault
from support.watched import CHANGES, Hook

Proof = Callable[[str], None]
Small = Callable[[str], World]


@pytest.fixture(autouse=True)
def no_survivors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No collector outlives its test, also when that fails."""
    worlds: list[World] = []
    begin = World.__init__

    def remembered(world: World, *arguments: object, **bounds: object) -> None:
        worlds.append(world)
        begin(world, *arguments, **bounds)  # type: ignore[arg-type]

    monkeypatch.setattr(World, "__init__", remembered)
    yield
    for world in worlds:
        world.end()


def at_change(number: int, act: Callable[[], object], kinds: Collection[str] = CHANGES) -> Hook:
    """A hook that acts before change ``number``, counted from 0, or change of certain kinds."""
    changes = count()

    def hook(what: str, which: object) -> None:
        if what in kinds and next(changes) == number:
            act()

    return hook


def fail() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def failing(number: int) -> Hook:
    """A hook that fails a write, counted from 0."""
    return at_change(number, fail, ("write",))


def sleep() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def test_two_at_once_are_one_too_many(small: Small) -> None:
    """While one collector is at work, another on the same machine is refused with 13 and told why; it writes nothing,
    and the first one's capture is not disturbed."""
    world = small("locked")
    first = world.start()
    while not world.machine.kernel.writes:
        world.turn()
    before = len(list(world.home.vaults.rglob("*")))
    second = world.start()
    first.signal(signal.SIGSTOP)
    assert world.run(second) == 13
    assert "another collector is at work on this dump" in second.text
    assert len(list(world.home.vaults.rglob("*"))) >= before
    first.signal(signal.SIGCONT)
    assert world.run(first) == 0, first.text
    assert check_end(world)["attempts"] == 1


def test_two_that_do_not_see_each_other(keys: Home, place: Path, record_proof: Proof) -> None:
    """Two collectors with journals of their own, as on two hosts: one loses a put and ends with 13, the other one or a
    later run makes the dump whole, and nothing is released twice."""
    rng = random.Random("rivals")
    codes: Counter[str] = Counter()
    for number in range(40):
        world = make_world(
            keys, place / str(number), number, 128, "--region-size", "32K", "--jobs", "2", commit_bytes=64 << 10
        )
        first = world.start()
        moment = rng.randrange(20)
        while only_vault(world) is None or first.requests < moment:
            world.turn(0.001)
        first.signal(signal.SIGSTOP)  # a slow one
        second = world.start(DUMPVAULT_RUN=str(world.folder / "other-run"))
        world.run(second, rng.uniform(0, 0.1))
        first.signal(signal.SIGCONT)
        for child in (first, second):
            world.run(child)
        ended = {first.code, second.code}
        assert ended in ({0, 13}, {0, 14}), first.text + second.text
        codes["first" if second.code else "second"] += 1
        codes["too late"] += second.code == 14
        if 13 in ended:
            loser = first if first.code else second
            assert "Another collector may be at work" in loser.text or "Is another collector at work" in loser.text
        codes["unknown"] += check_end(world)["unknown"]
    record_proof(f"two collectors at once, 40 times: {dict(codes)} (who ended with 0; releases unknown to the other)")


def test_one_that_wakes_after_another_took_over(small: Small, whole: set[int], record_proof: Proof) -> None:
    """A collector stopped before any of its changes, and continued when another has made the dump whole, loses its next
    put. It releases nothing more than what its own durable commits had authorised, which the other does not repeat."""
    codes: Counter[str] = Counter()
    for number in count(0, 2):
        world = small(str(number))
        sleeper = world.start(hook=at_change(number, sleep))
        if not world.run_until_stopped(sleeper):
            assert sleeper.code == 0, sleeper.text
            break
        if only_vault(world) is None:
            continue  # it has no vault yet that another could take over; the lock in /run is for that
        authorised = len(commits_of(only_vault(world) or Path()))
        other = world.start(DUMPVAULT_RUN=str(world.folder / "other-run"))
        assert world.run(other) in (0, 14), other.text
        writes = list(world.machine.kernel.writes)
        sleeper.signal(signal.SIGCONT)
        world.run(sleeper)
        late = world.machine.kernel.writes[len(writes) :]
        commits = commits_of(only_vault(world) or Path())[:authorised]
        known = [(int(r["start"], 16), int(r["length"], 16)) for c in commits for r in c["body"].get("releases", ())]
        assert set(late) <= set(known), "it released what it had not authorised before it slept"
        assert sleeper.code == (0 if finished_by(world, other.code) else 13), sleeper.text
        if sleeper.code:
            assert "another object with other bytes" in sleeper.text
        codes[f"woke to {sleeper.code}"] += 1
        codes["late releases"] += len(late)
        check_end(world, whole)
    assert codes["woke to 13"] > 20
    record_proof(f"stopped before every second change, continued after a takeover: {dict(codes)}")


def finished_by(world: World, other: int | None) -> bool:
    """Whether the sleeper had put the manifest already when the other one came, which then was refused."""
    return finished(only_vault(world)) and other == 14


@contextmanager
def boot(name: str) -> Iterator[None]:
    """Within, this is the boot of that name."""
    with mock.patch.object(attempt, "boot_id", lambda: name), mock.patch.object(capture, "boot_id", lambda: name):
        yield


def test_second_crash_before_the_first_dump_was_finished(small: Small, keys: Home, place: Path) -> None:
    """A host that crashes again begins a new vault for the new dump; what was sealed of the first still opens, and an
    interrupted capture of the second goes on with its own."""
    for number in (8, 11, 14):
        first = small(f"first-{number}")
        with boot("boot-one"):
            assert first.capture(hook=failing(number)).code == 13
        one = only_vault(first)
        assert one
        second = World(
            first.home, Machine(standard_layout(72), 6), place / f"second-{number}", *first.options, **first.bounds
        )
        with boot("boot-two"):
            assert second.capture(hook=failing(number)).code == 13
            assert second.capture().code == 0
        vaults = [path.parent for path in first.home.vaults.glob("*/vault.dsse.json")]
        assert len(vaults) == 2
        (two,) = (path for path in vaults if path != one)
        assert not second.machine.kernel.double_released
        check_openable(first, one)
        assert first.home.call("verify", one.name).code == 3
        output = place / f"opened-{number}"
        assert first.home.call("open", two.name, "-o", output).code == 0
        assert output.read_bytes() == second.machine.pristine


class Jumping(datetime):
    """A clock that goes to and fro over a century."""

    _ticks = count()

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        when = datetime(2026, 7, 1, tzinfo=tz)
        return when + (-1) ** next(cls._ticks) * timedelta(days=365 * random.Random(7).randrange(50))


def test_clock_jumps(small: Small, whole: set[int]) -> None:
    """Clocks that jump by decades between any two readings, and that stand at 1970 when a capture goes on, change nothing
    but the times that are claimed."""

    class Early(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime(1970, 1, 1, tzinfo=tz)

    for number in (4, 8, 11, 14):
        world = small(str(number))
        with mock.patch.object(attempt, "datetime", Jumping):
            assert world.capture(hook=failing(number)).code == 13
        with mock.patch.object(attempt, "datetime", Early):
            assert world.capture().code == 0
        times = [commit["time"] for vault in [only_vault(world)] if vault for commit in commits_of(vault)]
        assert times != sorted(times)
        check_end(world, whole)


@pytest.mark.parametrize("torn", ["", '{"boot_id": "5d0a', '\n{"boot_id": null, "commit": 1, "dig'])
def test_store_rolled_back(torn: str, small: Small, record_proof: Proof) -> None:
    """A store that was set back under a machine whose memory is partly freed is refused, from any earlier state of it,
    also when a killed collector had left a torn line in the journal."""
    refused = 0
    for number in count(0, 3):
        world = small(f"{number}")
        run, old = world.home.path / "run", world.folder / "old"
        run.mkdir()
        (run / "vmcore.journal").write_text(torn)
        (world.home.path / "store").mkdir()
        snapshot = at_change(number, lambda: shutil.copytree(world.home.path / "store", old, copy_function=copied))  # noqa: B023
        sleeper = world.start(hook=both(snapshot, at_release(2, lambda: os.kill(os.getpid(), signal.SIGKILL))))
        assert world.run(sleeper) == -signal.SIGKILL
        if not old.exists():
            break
        shutil.rmtree(world.home.path / "store")
        old.rename(world.home.path / "store")
        freed = set(world.machine.kernel.freed)
        assert freed
        world.machine.on_release = None
        ran = world.capture()
        if ran.code == 0:
            # Set back to no earlier than the commit that authorised what was freed: nothing is missing.
            check_openable(world, only_vault(world) or Path())
            check_end(world)
            continue
        refused += 1
        assert ran.code == 13, ran.err
        assert "Those pages are gone" in ran.err
        assert world.machine.kernel.freed == freed
    assert refused > 10
    record_proof(f"a store set back to {refused} earlier states is refused")


def copied(source: str, target: str) -> None:
    """What another thread has just renamed or taken back was not there."""
    with suppress(FileNotFoundError):
        shutil.copy2(source, target)


def both(one: Hook, other: Hook) -> Hook:
    def hook(what: str, which: object) -> None:
        one(what, which)
        other(what, which)

    return hook


def at_release(number: int, act: Callable[[], object]) -> Hook:
    """Before the second note of release ``number``, counted from 1: it has just happened."""
    seen: Counter[str] = Counter()

    def hook(what: str, which: object) -> None:
        seen[what] += 1
        if what == "note" and seen["release"] == number:
            act()

    return hook


def test_unreadable_pages_stay_held_across_attempts(keys: Home, place: Path) -> None:
    """A page that an earlier attempt could not read is not freed by a later one: somebody may yet read it."""
    for number in range(5, 25, 2):
        options = ("--region-size", "64K", "--jobs", "1")
        world = make_world(keys, place / str(number), 8, 72, *options, commit_bytes=64 << 10)
        with ExitStack() as stack:
            stack.callback(world.end)
            bad = world.machine.bad_pages = {30, 41}
            ran = world.capture(hook=failing(number))
            if ran.code:
                again = world.capture()
                assert again.code == 0, again.err
        kernel = world.machine.kernel
        assert not kernel.freed & bad
        assert kernel.freed and not kernel.double_released
        vault, output = only_vault(world), world.folder / "opened"
        assert vault and world.home.call("open", vault.name, "-o", output).code == 0
        expected = bytearray(world.machine.pristine)
        for start, end in world.machine.unreadable:
            expected[start:end] = bytes(end - start)
        assert output.read_bytes() == expected
