"""Collectors killed with SIGKILL at any moment, and resumed until the dump is whole: nothing is lost or released twice."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from support.collector import World
from support.command import Home
from support.outcome import check_end, check_openable, commits_of, finished, make_world, only_vault
from support.watched import CHANGES

KILLS = 300
KILLS_EACH = 8
Proof = Callable[[str], None]
Small = Callable[[str], World]


def world(keys: Home, folder: Path, seed: int) -> World:
    """A machine of which a capture makes some 25 regions in a dozen commits."""
    options = ("--region-size", "32K", "--jobs", "2")
    return make_world(keys, folder, seed, 160, *options, commit_bytes=64 << 10, commit_seconds=1.0)


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
    whole, seconds = set(), 60.0
    for name in ("first", "second", "third"):
        w = world(keys, folder / name, 1)
        child, began = w.start(), monotonic()
        assert w.run(child) == 0, child.text
        seconds, whole = min(seconds, monotonic() - began), w.machine.kernel.freed
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


def test_killed_before_each_change_in_turn(small: Small, whole: set[int], record_proof: Proof) -> None:
    """Killed before each call in turn that changes the store, the journal or memory, one resumed run makes it whole."""
    sums: Counter[str] = Counter()
    at = 0
    while True:
        w = small(str(at))
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
