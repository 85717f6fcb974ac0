"""The sealing line: workers seal regions into the store; the committing thread signs what is durable and releases it.

Steps of one commit, in their order (the numbers of docs/spec/durability.md): bodies durable (2, the workers), wrapped
keys durable (3), commit durable (4), each release noted and performed (5), its outcome in the next commit (6).
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import monotonic

from dumpvault.errors import Interrupted, StoreFailed
from dumpvault.formats import keybag as key_objects
from dumpvault.formats import sealed
from dumpvault.formats.commit import MAX_REGIONS, Outcome
from dumpvault.formats.flattened import Records
from dumpvault.formats.policy import Policy
from dumpvault.model import Region, RegionRecord, Store, block_count, body_path, vault_prefix
from dumpvault.ranges import Ranges
from dumpvault.stages.chain import Chain
from dumpvault.stages.journal import Journal
from dumpvault.stages.release import Releaser
from dumpvault.stages.seal import SealedRegion, Sealer
from dumpvault.stages.source import Source

__all__ = ["Committer", "Line", "Stop"]

_MAX_HOLES = 16384
_SAMPLE = 16  # of so many blocks, one is read back under read_back = "sample"
Progress = Callable[[int, int | None], None]


class Stop:
    """Whether the capture was asked to stop, by what, and when its time is up."""

    def __init__(self, deadline: float | None = None) -> None:
        self._event = threading.Event()
        self._deadline = None if deadline is None else monotonic() + deadline
        self.reason = ""

    def ask(self, reason: str = "") -> None:
        self.reason = self.reason or reason
        self._event.set()

    def asked(self) -> bool:
        if self._deadline is not None and monotonic() >= self._deadline:
            self.ask("the deadline")
        return self._event.is_set()


@dataclass(frozen=True, slots=True)
class Line:
    """What the workers share. ``compress`` is mode and level."""

    source: Source
    store: Store
    vault: str
    attempt: int
    frame_size: int
    kek: bytes = field(repr=False)
    compress: tuple[str, int]
    read_back: str
    stop: Stop

    def seal(self, sealer: Sealer, region: Region, records: Records | None) -> tuple[RegionRecord, bytes] | None:
        """Seal one region, durable on return: its record and wrapped key, or None past the source's end."""
        name = f"{vault_prefix(self.vault)}/{body_path(self.attempt, region.index)}"
        upload = self.store.create(name)
        asked = self.stop.asked
        try:
            read = lambda offset, view: self.source.read(offset, view, asked)  # noqa: E731
            done = sealer.seal(region, read, upload, asked, records)
            if done is None:
                return None
            upload.finish()
        finally:
            upload.abort()
        record, wrapped = self._record(done)
        if self.read_back != "none":
            self._read_back(name, record)
        return record, wrapped

    def _record(self, done: SealedRegion) -> tuple[RegionRecord, bytes]:
        wrapped = key_objects.wrap(self.kek, done.dek)
        record = RegionRecord(
            index=done.region.index,
            offset=done.region.offset,
            length=done.length,
            kind=done.region.kind,
            codec=done.codec,
            message=done.message,
            blocks=done.blocks,
            key=hashlib.sha256(wrapped).hexdigest(),
            unreadable=done.unreadable,
        )
        return record, wrapped

    def _read_back(self, name: str, record: RegionRecord) -> None:
        """Ask the medium for what was just written to it. Raises ``Forged`` where it gives other bytes."""
        self.store.settle(name)
        blocks = sealed.Blocks.signed(lambda at, n: self.store.get(name, at, n), record, name)
        count = block_count(record.message)
        step = 1 if self.read_back == "all" else _SAMPLE
        for first in {*range(0, count, step), count - 1}:
            blocks.blocks(first, 1)


class Committer:
    """Runs the workers and commits what they report, until all of them have ended.

    ``durable`` are the source's file ranges that an earlier attempt committed; ``outcomes`` those it left untold.
    """

    def __init__(
        self,
        line: Line,
        chain: Chain,
        policy: Policy,
        releaser: Releaser,
        journal: Journal | None,
        now: Callable[[], str],
    ) -> None:
        self._line = line
        self._chain = chain
        self._policy = policy
        self._releaser = releaser
        self._journal = journal
        self._now = now
        self._done: queue.SimpleQueue[tuple[RegionRecord, bytes] | BaseException | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._ended = False
        self._broken = threading.Event()
        self.failure: BaseException | None = None
        self.durable = Ranges()
        self.outcomes: list[Outcome] = []
        self.results: list[str] = []
        self.pending: list[tuple[RegionRecord, bytes]] = []
        #: Where the source first gave less than was asked for, in bytes.
        self.short_at = 1 << 64

    def run(self, plan: Iterator[Region], jobs: int, progress: Progress) -> None:
        """Seal ``plan``. What went wrong is in ``failure``; what is durable but in no commit yet, in ``pending``."""
        stop = self._line.stop
        # Daemons: a thread stuck in a dead device's read must not keep the process from ending.
        workers = [
            threading.Thread(target=self._work, args=(plan,), name=f"seal-{i}", daemon=True) for i in range(jobs)
        ]
        for worker in workers:
            worker.start()
        try:
            self._collect(len(workers), progress)
        finally:
            stop.ask()
            for worker in workers:
                worker.join(timeout=5)

    def commit(self, *, release: bool = True) -> None:
        """Commit what is pending, with what it allows to be released and what became of earlier releases."""
        regions, outcomes = self.pending, self.outcomes
        self.durable |= Ranges((r.offset, r.end) for r, _ in regions) - self._unfit(regions)
        releases = self._releaser.due(self.durable) if release else []
        if not (regions or outcomes or releases):
            return
        number = self._chain.commit_regions(regions, self._now(), releases, outcomes, self._broken.is_set)
        self.pending, self.outcomes = [], []
        if releases:
            assert self._journal is not None
            self._journal.tip(self._chain.vault, number, self._chain.tip)
        for i, one in enumerate(releases):
            if self._broken.is_set():
                return  # a failed writer stays failed: what was authorised and not performed is reported as unknown
            assert self._journal is not None
            self._journal.state(number, i, "begun")
            result = self._releaser.perform(one)
            self._journal.state(number, i, result)
            self.outcomes.append(Outcome(number, i, result))
            self.results.append(result)

    def _unfit(self, regions: list[tuple[RegionRecord, bytes]]) -> Ranges:
        """Unreadable pages, which are not released unless the policy says so: somebody may yet read them."""
        if self._policy.release_unreadable:
            return Ranges()
        return Ranges((hole.offset, hole.end) for record, _ in regions for hole in record.unreadable)

    def _collect(self, running: int, progress: Progress) -> None:
        policy, total, held, holes = self._policy, 0, 0, 0
        due = monotonic() + policy.commit_seconds
        while running:
            try:
                item = self._done.get(timeout=max(0.0, min(0.5, due - monotonic())))
            except queue.Empty:
                self._line.stop.asked()
            else:
                if item is None:
                    running -= 1
                elif isinstance(item, BaseException):
                    self.failure = _worse(self.failure, item)
                else:
                    self.pending.append(item)
                    total += item[0].length
                    held += item[0].length
                    holes += len(item[0].unreadable)
                    progress(total, self._line.source.size)
            full = held >= policy.commit_bytes or len(self.pending) == MAX_REGIONS or holes >= _MAX_HOLES
            if full or monotonic() >= due:
                if not self._broken.is_set():
                    self.commit()
                    held = holes = 0
                due = monotonic() + policy.commit_seconds

    def _work(self, plan: Iterator[Region]) -> None:
        """One worker's life. Ends by reporting None, after an exception if there was one."""
        line = self._line
        try:
            sealer = Sealer(line.vault, line.attempt, line.frame_size, *line.compress)
            while (drawn := self._draw(plan)) is not None:
                region, records = drawn
                done = line.seal(sealer, region, records)
                length = done[0].length if done else 0
                if length < region.length:
                    with self._lock:
                        self._ended = True
                        self.short_at = min(self.short_at, region.offset + length)
                if done:
                    self._done.put(done)
        except BaseException as error:  # noqa: BLE001 - handed to the committing thread, which raises it
            if not isinstance(error, Interrupted):
                self._broken.set()
            line.stop.ask()
            self._done.put(error)
        finally:
            self._done.put(None)

    def _draw(self, plan: Iterator[Region]) -> tuple[Region, Records | None] | None:
        with self._lock:
            region = None if self._ended or self._line.stop.asked() else next(plan, None)
            return (region, self._line.source.records(region.offset)) if region else None


def _worse(one: BaseException | None, other: BaseException) -> BaseException:
    """Of two workers' errors the one to report: a store's first, an interruption last."""
    if one is None or (isinstance(one, Interrupted) and not isinstance(other, Interrupted)):
        return other
    return other if isinstance(other, StoreFailed) and not isinstance(one, StoreFailed) else one
