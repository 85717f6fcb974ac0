"""Proof 1: what a recorded capture leaves at each of its steps, in every way it may be lost, and what resuming makes of it."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest import mock

from dumpvault.errors import VaultError
from dumpvault.flows import attempt, capture
from dumpvault.flows.capture import CaptureResult
from support.calls import Moment, World
from support.disk import Disk, File
from support.machine import Machine
from support.rehearsal import Judge, Rehearsal, noted

__all__ = ["Proof", "Tally", "rebooted", "torn"]


@dataclass
class Tally:
    """What was tried, and what came of it. ``refusals`` are resumed captures that would not go on, by reason."""

    operations: int = 0
    releases: int = 0
    states: int = 0
    sampled: int = 0
    distinct: int = 0
    resumed: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        count = {kind: sum(v.startswith(f"{kind}: ") for v in self.violations) for kind in ("A", "B", "order")}
        rest = len(self.violations) - sum(count.values())
        return (
            f"{self.operations} operations with {self.releases} releases, "
            + (f"{self.states} crash states ({self.distinct} distinct disks), " if self.states else "")
            + (f"not all states at {self.sampled} operations, " if self.sampled else "")
            + (f"{self.resumed} resumed ({self.refusals.total()} refused to go on), " if self.resumed else "")
            + f"{count['A']} violations of A, {count['B']} of B, {count['order']} of the order, {rest} others"
        )


class Proof:
    """One capture of ``machine``, recorded. ``bound`` is the most states tried at one step; ``seed`` chooses samples."""

    def __init__(self, rehearsal: Rehearsal, machine: Machine, bound: int, seed: int = 1) -> None:
        self.rehearsal = rehearsal
        self.bound = bound
        self.rng = random.Random(seed)
        self.judge = Judge(rehearsal, machine.pristine)
        self.calls = rehearsal.calls(rehearsal.world(machine))
        self.result = rehearsal.capture(self.calls)
        self.moments = self.calls.moments
        self.final = self.calls.world.disk.tree()
        self.tally = self.start()

    def start(self) -> Tally:
        """Count anew."""
        self.tally = Tally(len(self.moments), sum(moment.step.startswith("release") for moment in self.moments))
        return self.tally

    def check_end(self) -> None:
        """The capture succeeded and holds everything, also when the power goes at once."""
        if not isinstance(self.result, CaptureResult):
            self._bad("end", [f"end: {self.result!r}"])
            return
        for disk in (self.calls.world.disk, self.calls.world.disk.power_lost()):
            self._bad("end", self.judge.finished(self.calls.world, disk=disk))

    def check_states(self) -> Tally:
        """Every step, every state within the bound: A, B and the order hold, and no object is there in part."""
        for moment in self.moments:
            self.tally.sampled += moment.world.disk.tries() > self.bound
            for state in moment.world.disk.crash_states(self.rng, self.bound):
                self.tally.states += 1
                self._bad(moment.step, self.check(state, moment.world))
        self.tally.distinct = self.judge.distinct
        return self.tally

    def check(self, state: Disk, world: World) -> list[str]:
        found = self.judge.released(state, world.machine, world.run) + self.judge.look(state).violations
        for path, data in state.tree().items():
            if "/." not in path and self.final.get(path, data) != data:
                found.append(f"order: {path} has its name and not its bytes")
        if noted(world.run)[0] > self.judge.look(state).tip:
            found.append(f"order: /run names commit {noted(world.run)[0]}, which is not there")
        return found

    # Resuming

    def killed(self, moment: Moment) -> World:
        """The collector was killed: all is there, durable or not, and /run and the machine live on."""
        return moment.world.copy()

    def cache_lost(self, moment: Moment) -> World:
        """The store came back from a failure without its cache, under a machine that lives on."""
        states = list(moment.world.disk.crash_states(self.rng, 32))
        return moment.world.copy(self.rng.choice(states))

    def copied(self, moment: Moment) -> World:
        """The store was copied here, under a machine that lives on, and nothing of it was ever synced."""
        return moment.world.copy(moment.world.disk.unsynced())

    def rolled_back(self, moment: Moment, to: Moment) -> World:
        """The store came back as it was at an earlier moment, under a machine that lives on."""
        return moment.world.copy(to.world.disk.settled())

    def resume(self, world: World, what: str, *, copied: bool = False) -> list[Moment]:
        """Run the collector again in ``world``. It goes on and ends well, or refuses and leaves everything as it is.

        Returns its moments. A and B are asked again right after its last release and another one, of the barest state
        that the power could leave. In a store that was ``copied`` here, an object that no commit names may stay torn.
        """
        judge, machine = self.judge, world.machine
        before = list(machine.kernel.writes)
        calls = self.rehearsal.calls(world)
        result = self.rehearsal.capture(calls)
        self.tally.resumed += 1
        released = [moment.world for moment in calls.moments if moment.step.startswith("release")]
        for twin in {id(t): t for t in (*released[-1:], *self.rng.sample(released, min(1, len(released))))}.values():
            self._bad(what, judge.released(twin.disk.power_lost(), twin.machine, twin.run))
        if isinstance(result, CaptureResult):
            found = judge.finished(world) + judge.finished(world, disk=world.disk.power_lost())
            self._bad(what, [v for v in found if not (copied and v.startswith("order"))])
        elif isinstance(result, VaultError):
            self.tally.refusals[_reason(str(result))] += 1
            self._bad(what, [v for v in judge.look(world.disk).violations if v.startswith("genuine")])
            if machine.kernel.writes != before:
                self._bad(what, ["B: memory was released by a capture that then refused"])
        else:
            self._bad(what, [f"end: {result!r}"])
        return calls.moments

    # Failing

    def fail(self, number: int, error: int) -> tuple[list[str], str, World] | None:
        """A capture whose step ``number`` fails, once: what C, A and B have against it, the step, the world it leaves."""
        twin = Machine(self.calls.world.machine.layout, bad_pages=self.calls.world.machine.bad_pages)
        calls = self.rehearsal.calls(self.rehearsal.world(twin))
        failed: list[tuple[World, str, int]] = []

        def before(step: str) -> None:
            if not failed and len(calls.moments) >= number and not step.startswith("release"):
                failed.append((calls.moments[-1].world, step, len(calls.moments)))
                raise OSError(error, os.strerror(error))

        calls.before = before
        result = self.rehearsal.capture(calls)
        if not failed:
            return None  # this run took fewer steps: threads and clocks decide when it commits
        world, (then, step, at) = calls.world, failed[0]
        found = self.judge.released(world.disk.power_lost(), world.machine, world.run)
        if not isinstance(result, CaptureResult):
            # What the committing thread had under way when a sealing thread's call failed may end: one put, one release.
            authorised = self.judge.look(world.disk).authorised
            later = authorised.keys() - self.judge.look(then.disk).authorised
            if len({commit for commit, _ in later}) > 1:
                found.append(f"C: commits {sorted(later)} authorised releases after a failed {step}")
            found += [
                f"C: {key} was released after a failed {step}"
                for key in later
                if authorised[key] in world.machine.kernel.writes
            ]
            if sum(moment.step.startswith("release") for moment in calls.moments[at:]) > 1:
                found.append(f"C: releases went on after a failed {step}")
        elif not step.startswith("unlink") and ".reserve" not in step:
            # Only giving up a temporary file, or the room that is kept free, may fail unnoticed.
            found.append(f"C: success in spite of a failed {step}")
        return found, step, world.copy()

    def _bad(self, what: str, found: list[str]) -> None:
        self.tally.violations += [f"{violation} [{what}]" for violation in found]

    def sample(self, every: int) -> Iterator[Moment]:
        """Every so many moments, from a random first one; each release and what stands right before and after it too."""
        first = self.rng.randrange(every)
        for i, moment in enumerate(self.moments):
            near = self.moments[max(0, i - 1) : i + 2]
            if i % every == first or any(m.step.startswith("release") for m in near):
                yield moment


def torn(world: World, step: str, cut: int) -> World:
    """The collector was killed inside the write to /run that ``step`` recorded, after ``cut`` of its bytes."""
    twin = world.copy()
    length = len(step.removeprefix("note ").encode())
    for number, node in twin.run.nodes.items():
        if isinstance(node, File) and node.writes and len(node.writes[-1][1]) == length:
            data = node.seen[: len(node.seen) - length + cut]
            twin.run.nodes[number] = File(b"", data, ((0, data),))
    return twin


@contextmanager
def rebooted(world: World, boot: str) -> Iterator[None]:
    """The power was lost: /run is empty and this is another boot. To be entered around a resume."""
    world.run = Disk()
    with mock.patch.object(attempt, "boot_id", lambda: boot), mock.patch.object(capture, "boot_id", lambda: boot):
        yield


def _reason(text: str) -> str:
    words = [word for word in text.split() if len(word) < 20 and not any(c.isdigit() for c in word)]
    return " ".join(words)[:70]
