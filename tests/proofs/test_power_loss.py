"""Proof 1: power loss. A capture is recorded step by step; what a crash may leave of it is made, judged and gone on with.

Steps are mkdir, create, write, fsync of a file or directory, link and unlink on the store's file system (the ancestors
of the store included, which somebody made and did not sync), each line of the /run journal, and each release. The bound
of the enumeration: at each step every legal state, if that takes no more than ``DUMPVAULT_PROOF_BOUND`` tries, else
everything lost, everything kept, each one thing lost, each one thing kept, and seeded random ones up to the bound.
Things are, per file, the variants that ``support.disk.File.variants`` lists (prefixes, single writes lost or kept,
sectors torn off either end), and per directory each entry that was not synced. A file system that reports an error and
loses what was synced before is not modelled.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator

import pytest

from support.calls import Moment
from support.machine import Machine, standard_layout
from support.power import Proof, Tally, rebooted, torn
from support.rehearsal import Rehearsal

BOUND = int(os.environ.get("DUMPVAULT_PROOF_BOUND", "256"))
#: One of so many steps is resumed from; releases, notes and their neighbours always are.
EVERY = int(os.environ.get("DUMPVAULT_PROOF_EVERY", "24"))
Record = Callable[[str], None]

SCENARIOS = {
    "phyp, one thread": {},
    "phyp, two threads": {"jobs": 2},
    "phyp, unreadable pages, read back": {"read_back": "all", "bad_pages": {20, 37}},
    "fadump": {"release": "fadump"},
    "a file, no release": {"release": "none", "own": False},
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Proof]:
    """One recording for each scenario, made when it is first asked for."""
    home = tmp_path_factory.mktemp("power") / "site"
    found: dict[str, Proof] = {}

    def get(name: str) -> Proof:
        if name not in found:
            options = dict(SCENARIOS[name])
            machine = Machine(standard_layout(48), bad_pages=options.pop("bad_pages", ()))  # type: ignore[arg-type]
            rehearsal = Rehearsal(home, region_size=16 << 10, commit_regions=3, **options)  # type: ignore[arg-type]
            found[name] = Proof(rehearsal, machine, BOUND)
        found[name].start()
        return found[name]

    return get


def none_found(tally: Tally, record: Record, what: str) -> None:
    record(f"{what}: {tally}")
    for reason, count in tally.refusals.most_common():
        record(f"    refused {count} times: {reason} …")
    assert not tally.violations, "\n".join(tally.violations[:20])


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_released_byte_opens_from_every_crash_state(
    recorded: Callable[[str], Proof], name: str, record_proof: Record
) -> None:
    """At each step, from what any crash may leave: all that was released opens to the bytes that were there, under a
    collector's signature; a durable commit and /run know of each release; nothing was released twice; and whatever has
    its name is whole, as is all that had to be durable before it."""
    proof = recorded(name)
    proof.check_end()
    tally = proof.check_states()
    assert tally.states > 500
    assert (tally.releases >= 4) == name.startswith("phyp")
    none_found(tally, record_proof, f"power loss, {name} (bound {BOUND} states at a step)")


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name.startswith("phyp")])
def test_resuming_after_a_kill_or_a_lost_cache(
    recorded: Callable[[str], Proof], name: str, record_proof: Record
) -> None:
    """A collector that was killed, or whose store lost its cache or is a copy that nobody synced, is started again, and
    sometimes killed again: it ends with a vault that opens bit for bit, releases nothing twice, and relies on nothing
    that was not made durable."""
    proof = recorded(name)
    for i, moment in enumerate(proof.sample(EVERY)):
        for world in (proof.killed(moment), proof.cache_lost(moment)):
            again = proof.resume(world, f"resumed after {moment.step!r}")
            if again and i % 4 == 0:
                second = proof.rng.choice(again)
                proof.resume(proof.cache_lost(second), f"resumed twice, after {moment.step!r} and {second.step!r}")
        if i % 3 == 0:
            proof.resume(proof.copied(moment), f"resumed on a copy, after {moment.step!r}", copied=True)
    assert set(proof.tally.refusals) <= {"the memory of this dump was handed back under vault which is finished"}
    none_found(proof.tally, record_proof, f"power loss, {name}, killed or cache lost")


def commits(proof: Proof) -> Iterator[Moment]:
    yield from (moment for moment in proof.moments if moment.step.startswith("link") and ".dsse.json" in moment.step)


@pytest.mark.parametrize("name", ["phyp, one thread", "phyp, two threads"])
def test_a_store_that_was_rolled_back(recorded: Callable[[str], Proof], name: str, record_proof: Record) -> None:
    """The store is as it was before, the machine is not: if the store does not know of what was released, the collector
    refuses and releases and seals nothing; else it goes on and ends well. Each release against each earlier commit."""
    proof = recorded(name)
    order = {id(moment): i for i, moment in enumerate(proof.moments)}
    for moment in proof.moments:
        if moment.step.startswith("release"):
            tops = [to for to in commits(proof) if order[id(to)] < order[id(moment)]]
            tops.append(proof.moments[proof.rng.randrange(order[id(moment)])])
            for to in tops:
                proof.resume(proof.rolled_back(moment, to), f"after {moment.step!r} rolled back to {to.step!r}")
    assert proof.tally.refusals.total() > proof.tally.releases
    none_found(proof.tally, record_proof, f"power loss, {name}, store rolled back")


def test_a_torn_note_hides_nothing(recorded: Callable[[str], Proof], record_proof: Record) -> None:
    """Killed while it writes to /run: the next collector ends well, and what it notes itself is found by the one after,
    which refuses to go on when the store is rolled back to where the first one was killed."""
    proof = recorded("phyp, one thread")
    for moment in [m for m in proof.moments if m.step.startswith("note")]:
        length = len(moment.step.removeprefix("note ").encode())
        for cut in (0, 1, length // 2, length - 1):
            world = torn(moment.world, moment.step, cut)
            again = proof.resume(world, f"torn after {cut} bytes: {moment.step!r}")
            for second in [m for m in again if m.step.startswith("release")][:1]:
                back = second.world.copy(moment.world.disk.settled())
                proof.resume(back, f"torn, resumed, rolled back: {moment.step!r}")
    none_found(proof.tally, record_proof, "power loss, torn notes in /run")


def test_a_file_is_gone_on_with_after_a_reboot(recorded: Callable[[str], Proof], record_proof: Record) -> None:
    """Nothing was released, the power was lost: from any crash state the capture of a file ends with a whole vault."""
    proof = recorded("a file, no release")
    rng = random.Random(2)
    for moment in proof.sample(max(1, EVERY // 3)):
        world = moment.world.copy(rng.choice(list(moment.world.disk.crash_states(rng, 32))))
        with rebooted(world, "another boot"):
            proof.resume(world, f"rebooted after {moment.step!r}")
    assert not proof.tally.refusals
    none_found(proof.tally, record_proof, "power loss, a file, rebooted")


def test_fadump_is_released_once(recorded: Callable[[str], Proof], record_proof: Record) -> None:
    """Around the one release of a firmware-assisted dump, killed or rolled back: never a second one, nothing lost."""
    proof = recorded("fadump")
    late = proof.moments[next(i for i, m in enumerate(proof.moments) if m.step.startswith("link manifest")) - 8 :]
    for i, moment in enumerate(late):
        lost = proof.cache_lost if i % 2 else proof.killed
        proof.resume(lost(moment), f"{'cache lost' if i % 2 else 'killed'} after {moment.step!r}")
        proof.resume(proof.rolled_back(moment, proof.rng.choice(proof.moments)), f"rolled back at {moment.step!r}")
    none_found(proof.tally, record_proof, "power loss, fadump")


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_failed_writer_stays_failed(recorded: Callable[[str], Proof], error: int, record_proof: Record) -> None:
    """Invariant C: one step fails, and works ever after. No commit after it authorises a release, all that was released
    opens from what is durable, and a new collector goes on and ends well."""
    proof = recorded("phyp, one thread")
    tried = 0
    for number in range(6, len(proof.moments), max(2, EVERY // 2)):
        for _ in range(3):  # a worker may fail in the moment in which a sound commit is under way; not three times
            outcome = proof.fail(number, error)
            if not outcome or not outcome[0]:
                break
        if not outcome:
            continue
        found, step, world = outcome
        proof.tally.violations += [f"{violation} [failed {step!r}]" for violation in found]
        proof.resume(world, f"resumed after a failed {step!r}")
        tried += 1
    assert tried > 10
    name = errno.errorcode[error]
    none_found(proof.tally, record_proof, f"failed writer, {name} at {tried} steps")
