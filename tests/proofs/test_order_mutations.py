"""Proof 4: the order matters. Any two steps of it swapped, one pair at a time, and proof 1's checks find it.

What is swapped is the earlier step: it is taken right after the next of the later ones, and its caller is told at once
that it was done. What must be found:

- A keybag, body, key object or commit after a release: A, the released bytes do not open (or B, no commit knows of it).
- A note in /run, or a commit, after a release: B, after a crash nobody would know that it happened. A release after the
  commit or the manifest that tells its outcome: B, what is told did not happen.
- The rest cannot touch A or B, because both swapped steps still come before the release, or after all of them. What
  they break is the order itself, read off the objects (``Judge._order``): a body whose keybag or a key object whose
  body is missing; a commit that names what is not there, so that what it holds does not open and no attempt can adopt
  it; a note of a commit that is not there, for which every later attempt would refuse; a manifest without its head.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from dumpvault.flows import resuming
from dumpvault.flows.capture import CaptureResult
from dumpvault.stages.journal import Journal
from dumpvault.stages.release.phyp import PhypRelease
from dumpvault.stages.store.local import LocalStore
from support.machine import Machine, standard_layout
from support.mutants import STEPS, late, store_mutants
from support.power import Proof
from support.rehearsal import Rehearsal

BOUND = 24
Record = Callable[[str], None]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutations") / "site"


def prove(home: Path) -> Proof:
    return Proof(Rehearsal(home, region_size=32 << 10, commit_regions=2), Machine(standard_layout(32)), BOUND)


def kinds(proof: Proof, wanted: str) -> Iterator[str]:
    """The violations of the crash states, up to the first of the ``wanted`` kind; of A and B from the first release on."""
    begun = wanted == "order"
    for moment in proof.moments:
        begun = begun or moment.step.startswith("release")
        for state in moment.world.disk.crash_states(proof.rng, BOUND) if begun else ():
            for violation in proof.check(state, moment.world):
                yield violation.partition(":")[0]
                if violation.startswith(wanted):
                    return


def expected(first: str, second: str) -> str:
    if STEPS.index(second) < STEPS.index("release") or first == "outcome":
        return "order"
    return "A" if first in ("keybag", "bodies", "keys", "commit") else "B"


def test_the_order_as_it_is_passes(home: Path) -> None:
    """The same small proof, with nothing swapped, finds nothing; so it is the swap that is found below."""
    proof = prove(home)
    proof.check_end()
    assert not proof.check_states().violations
    assert proof.tally.releases >= 2


@pytest.mark.parametrize(("first", "second"), list(combinations(STEPS, 2)))
def test_two_steps_swapped(home: Path, first: str, second: str, record_proof: Record) -> None:
    """One step after another that it must come before: found, as what it is."""
    with late(first, second):
        proof = prove(home)
    wanted = expected(first, second)
    found = list(kinds(proof, wanted))
    assert wanted in found, (first, second, set(found), proof.result)
    record_proof(f"order mutation: {first} after {second}: found, violates {' and '.join(sorted(set(found)))}")


WRONG_STORES = {
    "named before its bytes are synced": "order",
    "directory synced before the name is in it": "A",
    "reported before the directory is synced": "A",
    "bytes never synced": "A",
    "ancestors never synced": "A",
    "ancestors above the store never synced": "A",
}


@pytest.mark.parametrize("name", WRONG_STORES)
def test_a_store_with_its_steps_swapped(home: Path, name: str, record_proof: Record) -> None:
    """The steps of one put swapped or left out: A fails. Naming first cannot break A, for nothing is reported before
    the bytes and the name are synced; but a crash leaves an object that has its name and not its bytes."""
    with store_mutants()[name]():
        proof = prove(home)
    assert isinstance(proof.result, CaptureResult)
    found = list(kinds(proof, WRONG_STORES[name]))
    assert WRONG_STORES[name] in found
    record_proof(f"order mutation: {name}: found, violates {' and '.join(sorted(set(found)))}")


def test_a_store_that_ignores_errors(home: Path) -> None:
    """C: a writer that goes on after a failed sync is found by failing one step."""
    proof = prove(home)
    syncs = [i for i, moment in enumerate(proof.moments) if moment.step.startswith("fsync .")]
    with store_mutants()["errors of syncing ignored"]():
        found = [violation for i in syncs for violation in proof.fail(i, errno.EIO)[0]]
    assert any(violation.startswith("C: ") for violation in found)
    assert any(violation.startswith("A: ") for violation in found)


def _nothing(*_: Any) -> None:
    """In the place of what must be done."""


WRONG_RESUMES = {
    "what was released before is forgotten": (PhypRelease, "already", _nothing, "killed", "B"),
    "the tip is not compared with /run": (resuming, "_reaches", lambda report, noted: True, "rolled back", "A"),
    "the tip is not noted in /run": (Journal, "tip", _nothing, "rolled back", "A"),
    "what is adopted is not synced": (LocalStore, "settle", _nothing, "copied", "A"),
}


@pytest.mark.parametrize("name", WRONG_RESUMES)
def test_a_resume_with_a_step_left_out(home: Path, name: str, record_proof: Record) -> None:
    """Section 5's rules of resuming, one left out at a time, and the resumes of proof 1 find it. Which kind of harm is
    found first depends on where the collector was stopped; the one named here is always among them."""
    owner, attribute, double, how, wanted = WRONG_RESUMES[name]
    with mock.patch.object(owner, attribute, double):
        proof = prove(home)
        releases = [i for i, moment in enumerate(proof.moments) if moment.step.startswith("release")]
        for i in releases:
            moment = proof.moments[i]
            back = proof.moments[next(n for n in range(i, 0, -1) if proof.moments[n].step == "link 1.dsse.json") - 1]
            world = {
                "killed": proof.killed, "copied": proof.copied, "rolled back": lambda m, to=back: proof.rolled_back(m, to),
            }[how](moment)  # fmt: skip
            proof.resume(world, how)
    found = {violation.partition(":")[0] for violation in proof.tally.violations}
    assert wanted in found, proof.tally
    record_proof(f"order mutation: {name}: found, violates {', '.join(sorted(found))}")
