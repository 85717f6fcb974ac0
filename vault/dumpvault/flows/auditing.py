"""Verify a whole ledger: its tree, every entry and checkpoint, and what others saw of it (docs/spec/ledger.md, section 9).

Entries and checkpoints are read and their signatures verified by processes side by side, in chunks; what depends on other
entries, the tree, the times and the repetitions, is judged here in their order, and of each entry little is kept.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from dumpvault.errors import Forged, Incomplete, VaultError
from dumpvault.flows.anchors import cosigned, stamped
from dumpvault.flows.custody import Custody
from dumpvault.flows.ledger_rows import CHECKPOINT, Chunks, Row, read_all
from dumpvault.flows.ledger_times import Column, judge_times
from dumpvault.formats import merkle, tiles
from dumpvault.formats.checkpoint import Checkpoint

__all__ = ["Audit", "Seen", "Step", "audit"]

_VOUCHED = ("cosignatures", "timestamps")
_CHANGED = (
    "The store was changed, or an older copy put in its place. Keep what you have of it, and ask who can write there."
)

State = Literal["held", "failed", "missing", "skipped"]
Kind = Literal["rewritten", "truncated", "rolled back", "forked", "another ledger"]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of section 9, by its number there."""

    number: int
    title: str
    state: State
    note: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """A checkpoint that somebody kept, and who: this home, or an auditor's file."""

    by: str
    checkpoint: Checkpoint


@dataclass(slots=True)
class Audit:
    """What was found. ``flags`` are entries that do not count, ``doubts`` those that count at a time not to be believed.

    ``others`` are objects that nobody needs to believe: checkpoints and cosignatures that are not good, junk in caches.
    """

    origin: str
    size: int
    #: The latest good checkpoint, and the bytes of its note.
    checkpoint: Checkpoint | None = None
    note: bytes = b""
    steps: list[Step] = field(default_factory=list)
    findings: list[VaultError] = field(default_factory=list)
    flags: dict[int, str] = field(default_factory=dict)
    doubts: dict[int, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    #: Entries that wait for a number.
    waiting: int = 0
    #: By size of a checkpoint: who cosigned it, and when.
    cosigned: dict[int, list[tuple[str, datetime]]] = field(default_factory=dict)
    #: Seconds since 1970 by which somebody else had seen each entry, -1 where nobody had.
    anchors: array[int] = field(default_factory=lambda: array("q"), repr=False)

    @property
    def uncovered(self) -> int:
        """How many entries no checkpoint covers yet."""
        return self.size - (self.checkpoint.size if self.checkpoint else 0)

    @property
    def verdict(self) -> Literal["intact", "incomplete", "failed"]:
        if not self.findings:
            return "intact"
        return "failed" if any(isinstance(finding, Forged) for finding in self.findings) else "incomplete"

    @property
    def exit_code(self) -> int:
        return {"intact": 0, "incomplete": 3, "failed": 10}[self.verdict]

    def anchor(self, number: int) -> datetime | None:
        """A time by which somebody else had seen the entry (section 6)."""
        at = self.anchors[number]
        return datetime.fromtimestamp(at, UTC) if at >= 0 else None


def audit(
    custody: Custody,
    kept: list[Seen],
    moment: datetime,
    jobs: int | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Audit:
    """Carry out section 9; ``kept`` are the checkpoints that the ledger must continue. Raises only where the store fails."""
    return _Audit(custody, kept, moment).carry_out(jobs or os.cpu_count() or 1, progress)


class _Audit:
    """One audit at work."""

    def __init__(self, custody: Custody, kept: list[Seen], moment: datetime) -> None:
        self._custody = custody
        self._ledger = custody.ledger
        self._store = custody.ledger.store
        self._kept = kept
        self._moment = moment
        children = self._store.children
        # In this order: what a checkpoint covers is there before it, also while others append.
        self._sizes = {int(name) for name in children("ledger/checkpoints") if _is_number(name)}
        self._numbers = {int(name) for name in children("ledger/entries") if _is_number(name)}
        self._there = 0
        while self._there in self._numbers or self._store.size(f"ledger/entries/{self._there}") is not None:
            self._there += 1
        self._roots = bytearray(merkle.EMPTY)
        self._good: dict[int, bytes] = {}
        self._column = Column()
        self._bounded: set[int] = set()
        self._serials: set[int] = set()
        self._forked: list[str] = []
        self._kinds: set[Kind] = set()
        self.found = Audit(self._ledger.origin, self._there)

    def carry_out(self, jobs: int, progress: Callable[[int, int | None], None]) -> Audit:
        found, edge, peaks = self.found, tiles.Edge(), _Peaks()
        self._step(1, "ledger.json", "held", found.origin)
        for rows, checkpoints, junk in read_all(Chunks(self._custody, self._sizes), self._there, jobs):
            for row in rows:
                if row is None:
                    self._there = found.size = edge.size
                    break
                self._take(edge.size, row)
                for name, data in edge.add(row.leaf):
                    self._cache(name, data)
                self._roots += peaks.add(row.leaf)
            found.others += [f"{name}: junk: not what the entries make" for name in junk]
            for size, root in checkpoints.items():
                if size > edge.size:
                    continue
                if isinstance(root, str):
                    found.others.append(root)
                else:
                    self._good[size] = root
            progress(edge.size, self._there)
            if edge.size == self._there:
                break
        self._checkpoints()
        self._complete()
        self._tree()
        self._entries()
        self._continued()
        self._witnessed()
        self._caches(edge)
        return found

    def _step(self, number: int, title: str, state: State, note: str = "") -> None:
        self.found.steps.append(Step(number, title, state, note))

    def _finding(self, kind: Kind, why: str) -> None:
        self._kinds.add(kind)
        self.found.findings.append(Forged(f"{kind}: {why}", _CHANGED))

    def _root(self, size: int) -> bytes:
        return bytes(self._roots[32 * size : 32 * size + 32])

    def _take(self, number: int, row: Row) -> None:
        """What an entry says by itself, and whether it repeats another."""
        flag = row.flag
        if not flag and row.serial in self._serials:
            flag = f"ledger/entries/{number}: it is there already, under a smaller number"
        seen = row.seen[0] if row.seen else 0
        self._column.add(row.time, seen, row.keys, collected=row.collected, flagged=bool(flag))
        if flag:
            self.found.flags[number] = flag
            return
        self._serials.add(row.serial)
        if row.bounded:
            self._bounded.add(number)
        if row.seen and (seen > number or self._root(seen) != row.seen[1]):
            self._forked.append(f"ledger/entries/{number}: its actor had verified another tree of {seen} entries")

    def _checkpoints(self) -> None:
        found = self.found
        beyond = sorted(size for size in self._sizes if size > self._there)
        for size in beyond:
            name = f"ledger/checkpoints/{size}"
            try:
                checkpoint, _ = Checkpoint.verified(
                    self._store.get(name, 0, CHECKPOINT), found.origin, self._ledger.logs, name
                )
            except VaultError as error:
                found.others.append(error.message)
                continue
            if checkpoint.size != size:
                found.others.append(f"{name}: it is of {checkpoint.size} entries")
                continue
            self._finding("truncated", f"a log's key signed {name}, and entry {self._there} is not there")
        wrong = sorted(size for size, root in self._good.items() if root != self._root(size))
        if wrong:
            right = max((size for size, root in self._good.items() if root == self._root(size)), default=0)
            first = next((size for size in wrong if size > right), wrong[0])
            which = "one of its entries is"
            if first > right:
                which = f"entry {right} is" if first == right + 1 else f"one of the entries {right} to {first - 1} is"
            self._finding("rewritten", f"{which} not what a log's key signed, by ledger/checkpoints/{first}")
        held = [size for size, root in self._good.items() if root == self._root(size)]
        if held:
            size = max(held)
            found.checkpoint = Checkpoint(found.origin, size, self._root(size))
            found.note = self._store.get(f"ledger/checkpoints/{size}", 0, CHECKPOINT)
            self._step(
                2,
                "checkpoints",
                "failed" if wrong or found.findings else "held",
                f"{len(held)}, the latest of {size} entries",
            )
        elif not self._there and not found.findings:
            self._step(2, "checkpoints", "held", "none, and no entries")
        elif not found.findings:
            found.findings.append(
                Incomplete(
                    f"ledger {found.origin}: no checkpoint by a log's key that is trusted here",
                    "Its entries prove no order. Import the log's key with role log, or let 'dumpvault custody sequence' sign.",
                )
            )
            self._step(2, "checkpoints", "missing")
        else:
            self._step(2, "checkpoints", "failed")

    def _complete(self) -> None:
        behind = [number for number in self._numbers if number >= self._there]
        if behind:
            # Not a finding: whoever may write to the store can put some there. What was covered, a checkpoint tells.
            self.found.others.append(
                f"ledger/entries/{min(behind)}: {len(behind)} objects behind the end, at {self._there}, are no entries"
            )
        note = f"{self._there}" + (f", {self.found.uncovered} not covered yet" if self.found.uncovered else "")
        self._step(3, "all entries", "missing" if "truncated" in self._kinds else "held", note)

    def _tree(self) -> None:
        state: State = "failed" if "rewritten" in self._kinds else "held" if self.found.checkpoint else "skipped"
        self._step(4, "tree", state, self._root(self._there).hex()[:16])

    def _entries(self) -> None:
        found, keys = self.found, self._custody.trust.keys
        now = int(self._moment.timestamp())

        def ended(number: int, at: int) -> str:
            if number not in self._bounded:
                return ""
            moment = datetime.fromtimestamp(at, UTC)
            why = [keys[k].outside(moment) for k in self._column.keys[number]]
            who = keys[self._column.keys[number][0]].principal
            return f"ledger/entries/{number}: {who} {why[0]}" if all(why) else ""

        told = judge_times(self._column, list(self._vouched()), ended, now)
        found.anchors, found.doubts = told.anchors, dict(sorted(told.doubts.items()))
        found.flags = dict(sorted((found.flags | told.ended).items()))
        for why in self._forked:
            self._finding("forked", why)
        words = [f"{self._there - len(found.flags)} count"]
        words += [f"{len(found.flags)} flagged"] if found.flags else []
        words += [f"{len(found.doubts)} of doubtful time"] if found.doubts else []
        self._step(5, "every entry", "failed" if self._forked else "held", ", ".join(words))

    def _vouched(self) -> Iterator[tuple[int, int]]:
        """Checkpoints that witnesses or authorities have seen, and when: size and seconds."""
        trust = self._custody.trust
        names = {name for kind in _VOUCHED for name in self._store.children(f"ledger/{kind}")}
        for size, root in self._good.items():
            if root == self._root(size) and str(size) in names:
                checkpoint = Checkpoint(self.found.origin, size, root)
                told = cosigned(self._ledger, trust, checkpoint) + stamped(self._ledger, trust, checkpoint)
                if told:
                    self.found.cosigned[size] = told
                    yield size, min(int(at.timestamp()) for _, at in told)

    def _continued(self) -> None:
        state: State = "held" if self._kept else "skipped"
        for seen in self._kept:
            known, count = seen.checkpoint, len(self.found.findings)
            if known.origin != self.found.origin:
                self._finding("another ledger", f"{seen.by} is of {known.origin}")
            elif known.size > self._there:
                self._finding("rolled back", f"{seen.by} is of {known.size} entries, and {self._there} are here")
            elif self._root(known.size) != known.root:
                self._finding("forked", f"{seen.by} is of other {known.size} entries than are here")
            if len(self.found.findings) > count:
                state = "failed"
        self._step(6, "continues", state, ", ".join(f"{seen.by} of {seen.checkpoint.size}" for seen in self._kept))

    def _witnessed(self) -> None:
        found = self.found
        there: Counter[str] = Counter()
        for kind in _VOUCHED:
            for size in self._store.children(f"ledger/{kind}"):
                there[size] += sum(1 for _ in self._store.children(f"ledger/{kind}/{size}"))
        for size, count in sorted(there.items()):
            good = len(found.cosigned.get(int(size), ())) if _is_number(size) else 0
            if good < count:
                found.others.append(
                    f"ledger/checkpoints/{size}: {count - good} of {count} that vouch for it prove nothing here"
                )
        told = [f"{who} up to {size}" for size, both in sorted(found.cosigned.items())[-4:] for who, _ in both]
        self._step(7, "witnesses", "held" if told else "skipped", ", ".join(told))

    def _cache(self, name: str, data: bytes) -> None:
        size = self._store.size(f"ledger/{name}")
        if size is not None and (size != len(data) or self._store.get(f"ledger/{name}") != data):
            self.found.others.append(f"ledger/{name}: junk: not what the entries make")

    def _caches(self, edge: tiles.Edge) -> None:
        if self.found.checkpoint and self.found.checkpoint.size == edge.size:
            for name, data in edge.partial():
                self._cache(name, data)
        done = set(self._store.children("ledger/sequenced"))
        self.found.waiting = sum(name not in done for name in self._store.children("ledger/inbox"))
        junk = sum(": junk: " in other for other in self.found.others)
        self._step(8, "caches", "held", f"{junk} junk, as a cache may be" if junk else "")


class _Peaks:
    """The root of a tree as it grows, from its perfect subtrees alone."""

    def __init__(self) -> None:
        self._peaks: list[tuple[int, bytes]] = []

    def add(self, leaf: bytes) -> bytes:
        """The root with one more leaf."""
        peaks, height = self._peaks, 0
        while peaks and peaks[-1][0] == height:
            leaf = merkle.node_hash(peaks.pop()[1], leaf)
            height += 1
        peaks.append((height, leaf))
        root = leaf
        for _, peak in reversed(peaks[:-1]):
            root = merkle.node_hash(peak, root)
        return root


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and (name == "0" or name[0] != "0") and len(name) < 14
