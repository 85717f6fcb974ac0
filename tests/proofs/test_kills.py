"""Collectors killed with SIGKILL at any moment, and resumed until the dump is whole: nothing is lost or released twice."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import pytest

from support.collector import World
from support.command import Home
from support.outcome import check_end, check_openable, commits_of, finished, make_home, make_world, only_vault
from support.watched import CHANGES

KILLS = 300
KILLS_EACH = 8
Proof = Callable[[str], None]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: a killed process loses nothing that it wrote, synced or not. What a sync
    that fails does is for test_faulty_disks."""
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        yield tmp_path
        return
    with TemporaryDirectory(prefix="dumpvault-kills-", dir=shm) as name:
        yield Path(name)


def world(keys: Home, folder: Path, seed: int) -> World:
    """A machine of which a capture makes some 25 regions in a dozen commits."""
    options = ("--region-size", "32K", "--jobs", "2")
    return make_world(keys, folder, seed, 160, *options, commit_bytes=64 << 10, commit_seconds=1.0)


def small_world(keys: Home, folder: Path) -> World:
    """A machine of which a capture makes few calls."""
    options = ("--region-size", "128K", "--jobs", "1")
    return make_world(keys, folder, 5, 72, *options, commit_bytes=128 << 10, commit_seconds=1.0)


def attempts(vault: Path | None) -> int:
    return sum(commit["kind"] == "takeover" for commit in commits_of(vault)) if vault else 0


def phase(vault: Path | None, attempts_before: int) -> str:
    """How far a capture had come when it was killed, by what stands in the store."""
    if finished(vault):
        return "after the manifest"
    commits = commits_of(vault) if vault else []
    if attempts_before and attempts(vault) == attempts_before:
        return "while adopting"
    last = max((n for n, commit in enumerate(commits) if commit["kind"] == "takeover"), default=-1)
    if not any(commit["kind"] == "regions" for commit in commits[last + 1 :]):
        return "before the first commit"
    return "between commits"


def finish(world: World) -> None:
    """One more run, not killed. A dump that went back under a finished vault is refused, and that is the end too."""
    child = world.start()
    code = world.run(child)
    assert code in (0, 14), child.text
    assert code == 0 or "which is finished" in child.text, child.text


def undisturbed(keys: Home, folder: Path) -> tuple[set[int], float]:
    """The pages that a capture frees, and the seconds it takes, when nothing happens to it."""
    whole, seconds = set(), 0.0
    for name in ("warm", "measured"):
        w = world(keys, folder / name, 1)
        child, began = w.start(), monotonic()
        assert w.run(child) == 0, child.text
        seconds, whole = monotonic() - began, w.machine.kernel.freed
        assert not check_end(w)["unknown"]
    return whole, seconds


def told(sums: Counter[str]) -> str:
    return (
        f"{sums['attempts']} attempts, {sums['commits']} commits, {sums['releases']} releases, of which {sums['unknown']} "
        f"reported as unknown ({sums['happened']} had happened, {sums['never_begun']} were never begun), "
        f"{sums['kept']} pages kept for that"
    )


def test_killed_at_random_moments(keys: Home, place: Path, record_proof: Proof) -> None:
    """Killed at 300 uniformly random moments and resumed, every dump opens bit for bit, and no page is freed too early,
    twice, or never without being reported."""
    whole, seconds = undisturbed(keys, place)
    rng = random.Random(os.environ.get("DUMPVAULT_SEED", "kills"))
    phases: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    machines = 0
    while phases.total() < KILLS:
        machines += 1
        w = world(keys, place / str(machines), 1 + machines % 7)
        for _ in range(KILLS_EACH):
            before = attempts(only_vault(w))
            child = w.start()
            # A run that goes on with a vault first reads all of it again.
            if w.run(child, rng.uniform(0, seconds * (2 if before else 1))) is None and w.kill(child, rng):
                vault = only_vault(w)
                phases[phase(vault, before)] += 1
                if vault:
                    check_openable(w, vault)
            if finished(only_vault(w)):
                break
        finish(w)
        sums += check_end(w, whole)
    assert sums["attempts"] > machines
    record_proof(
        f"random kills: {phases.total()} on {machines} machines ("
        + ", ".join(f"{count} {name}" for name, count in sorted(phases.items()))
        + f"); {told(sums)}"
    )


def test_killed_before_each_change_in_turn(keys: Home, place: Path, record_proof: Proof) -> None:
    """Killed before each call in turn that changes the store, the journal or memory, one resumed run makes it whole."""
    w = small_world(keys, place / "undisturbed")
    assert w.run(w.start()) == 0
    whole = w.machine.kernel.freed
    sums: Counter[str] = Counter()
    at = 0
    while True:
        w = small_world(keys, place / str(at))
        child = w.start(hook=fatal(at))
        if w.run(child) == 0:
            break
        assert child.code == -signal.SIGKILL, child.text
        if vault := only_vault(w):
            check_openable(w, vault)
        finish(w)
        sums += check_end(w, whole)
        at += 1
    assert at > 50
    record_proof(f"killed before each of {at} changes in turn; {told(sums)}")


def fatal(at: int) -> Callable[[str, object], None]:
    """A hook that kills its own process before change number ``at``, counted from 0."""
    count = 0

    def hook(what: str, which: object) -> None:
        nonlocal count
        if what in CHANGES:
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

    return hook
