"""Verify a vault without any secret: the steps of the spec's section 13, and openability where a key is given."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from dumpvault.errors import Forged, Incomplete, NoKey, VaultError
from dumpvault.flows.anchors import manifest_stamps, manifest_witnessed
from dumpvault.flows.judging import Judge
from dumpvault.flows.verified import STEPS, Report, Step
from dumpvault.formats import sealed
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.commit import Commit
from dumpvault.formats.event import LIMIT as EVENT_LIMIT
from dumpvault.formats.header import Header
from dumpvault.formats.keybag import WrappedKeys
from dumpvault.formats.private_key import PrivateKey
from dumpvault.model import (
    RegionRecord,
    Store,
    block_count,
    body_path,
    commit_path,
    event_path,
    keybag_path,
    vault_prefix,
)
from dumpvault.stages.examine import Examiner, describe_gaps, gaps
from dumpvault.stages.unlock import unlock_attempt, unlock_share, unwrap_key

__all__ = ["verify"]

_READ = 16  # blocks read at a time: 4 MiB
_FINAL = ("manifest.dsse.json", "manifest.json", "manifest.json.sig")

Progress = Callable[[int, int | None], None]


def verify(
    store: Store,
    vault: str,
    trust: AllowedSigners,
    *,
    moment: datetime | None = None,
    jobs: int | None = None,
    key: PrivateKey | None = None,
    judge: Judge | None = None,
    bodies: bool = True,
    keys: bool = True,
    begin: Callable[[Report], None] = lambda report: None,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Carry out every step that can be; never raises for what is wrong with the vault, which the report says.

    ``judge`` says what policy the vault must obey; without one, step 10 is left out. ``bodies`` False leaves out reading
    the regions (step 6, of which the sizes are still checked), for ``open``, which checks every block as it decrypts, and
    for ``info``. ``begin`` is called before ``key`` unwraps anything, and what it raises ends it. ``keys`` False leaves
    out the key objects (step 5), which a grant does without.
    """
    moment = moment or trust.at or datetime.now(UTC)
    examiner = Examiner(vault, trust, moment)
    report = Report(vault, examiner, moment)
    flow = _Verification(store, report)
    flow.anchors()
    flow.header()
    if report.header_read:
        flow.manifest()
        flow.chain()
        flow.events()
        flow.sidecar()
        if keys:
            flow.keys()
        flow.regions(jobs or os.cpu_count() or 1, bodies, progress)
        flow.completeness()
        flow.foreign()
        if judge is not None:
            flow.policy(judge)
        if key is not None:
            begin(report)
            flow.openability(key)
    if report.header_read and report.steps[2].state != "held":
        for number in (5, 6, 7, 11):
            step = report.steps.get(number)
            if step and step.state == "held":
                step.state, step.note = "partly", f"only what {len(examiner.commits)} commits speak of"
    for number in STEPS:
        if number < 10 or (judge if number == 10 else key) is not None:
            report.steps.setdefault(number, Step(number))
    return report


class _Verification:
    """The steps over a store; what they find goes to the report."""

    def __init__(self, store: Store, report: Report) -> None:
        self._store = store
        self._report = report
        self._examiner = report.examiner
        self._prefix = vault_prefix(report.vault)
        self._keys: dict[int, WrappedKeys] = {}

    def anchors(self) -> None:
        """Before step 1: what says when the manifest existed decides the moment that its signers are judged at."""
        report, examiner = self._report, self._examiner
        try:
            if not self._exists("manifest.dsse.json"):
                return
            data = self._get("manifest.dsse.json")
            for name, told in manifest_stamps(self._store, report.vault, data, examiner.trust):
                if isinstance(told, VaultError):
                    report.unproved[name] = told
                else:
                    report.anchors[name] = told
            # The ledger is looked through where it can decide something: that takes a while.
            if any(key.valid_before for key in examiner.trust.keys):
                digest = hashlib.sha256(data).hexdigest()
                report.witnessed = manifest_witnessed(self._store, report.vault, digest, examiner.trust)
        except VaultError:
            pass  # the steps say what is wrong
        times = [anchor.time for anchor in (*report.anchors.values(), report.witnessed) if anchor]
        if times and examiner.trust.at is None:
            examiner.sealed_by = min(times)

    def header(self) -> None:
        with self._step(1):
            self._examiner.read_header(self._get("vault.dsse.json"))
            self._report.header_read = True

    def manifest(self) -> None:
        """Read before the chain, because its head says how far the chain must reach."""
        with self._step(3):
            if not self._exists("manifest.dsse.json"):
                left = [name for name in _FINAL[1:] if self._exists(name)]
                raise Incomplete(
                    "manifest.dsse.json: missing" + (f", though {left[0]} is there" if left else ""),
                    "The capture did not end, or the object was lost: what follows holds at least up to the last commit.",
                )
            self._examiner.read_manifest(self._get("manifest.dsse.json"))

    def chain(self) -> None:
        examiner, report = self._examiner, self._report
        head = examiner.manifest.head if examiner.manifest else None
        with self._step(2):
            while head is None or len(examiner.commits) <= head:
                name = commit_path(len(examiner.commits))
                if head is None and not self._exists(name):
                    break
                data = self._get(name)
                try:
                    envelope = examiner.commit_envelope(data)
                except Forged as error:
                    number = len(examiner.commits)
                    if head is not None or number == 0 or self._exists(commit_path(number + 1)):
                        raise
                    # Junk at the tip of an unfinished chain must not condemn what is signed before it.
                    report.steps[2].note = f"ends before {name}, which is not good: {error.message}"
                    break
                examiner.read_commit(data, envelope)
            if not examiner.commits:
                raise Incomplete(
                    f"{commit_path(0)}: missing", "Restore it from a copy; nothing can be checked without it."
                )
        if examiner.manifest and report.steps[2].state == "held":
            with self._step(3):
                examiner.check_manifest()
        examiner.end_of_chain()

    def sidecar(self) -> None:
        if self._examiner.manifest is None:
            return
        with self._step(4):
            payload = self._get("manifest.json")
            signature = self._get("manifest.json.sig") if self._examiner.has_sidecar else b""
            self._report.steps[4].note = self._examiner.check_sidecar(payload, signature)

    def keys(self) -> None:
        examiner, report = self._examiner, self._report
        with self._step(5):
            for attempt, keybag in examiner.current.keybags.items():
                with self._part(5):
                    report.keybags[attempt] = examiner.check_keybag(attempt, self._get(keybag.name))
            for commit in self._keyed_commits():
                with self._part(5):
                    self.wrapped_keys(commit)
        if examiner.current.shredded:
            report.steps[5].note = f"{len(examiner.current.shredded)} regions were shredded"

    def wrapped_keys(self, commit: Commit) -> WrappedKeys:
        return self._examiner.check_keys(commit, self._get(self._examiner.current.keys[commit.number].name))

    def regions(self, jobs: int, bodies: bool, progress: Progress) -> None:
        total = self._examiner.totals.sealed
        done = 0
        from concurrent.futures import ThreadPoolExecutor

        with self._step(6), ThreadPoolExecutor(jobs) as pool:
            records = list(self._examiner.records())
            checks = pool.map(lambda item: self._region(item[0], item[1], bodies), records)
            for (attempt, record), (size, error) in zip(records, checks, strict=True):
                if error:
                    self._report.bad_regions.add((attempt, record.index))
                    self._find(6, error)
                done += size
                if bodies:
                    progress(done, total)

    def completeness(self) -> None:
        examiner = self._examiner
        with self._step(7):
            missing = gaps((record for _, record in examiner.records()), examiner.totals.size)
            if missing:
                raise describe_gaps(missing)
            if examiner.manifest is None:
                # Step 3 has said that the manifest is missing; this says what it means for the source.
                raise Incomplete(
                    f"commits: at least {examiner.totals.size} bytes, up to commit {len(examiner.commits) - 1}; "
                    "whether the source was longer is not known",
                    "'dumpvault open --partial' writes what is there.",
                )
            if examiner.manifest.truncated:
                raise Incomplete(
                    f"manifest.dsse.json: the source ended after {examiner.totals.size} bytes, before its own headers say",
                    "All that the collector could read is there; 'dumpvault open --partial' writes it.",
                )

    def events(self) -> None:
        with self._step(8):
            while self._exists(name := event_path(len(self._examiner.events))):
                if self._examiner.manifest is None:
                    raise Forged(f"{name}: an event without a manifest", "Restore the manifest from a copy.")
                self._examiner.read_event(self._get(name))
            later = [other for other in self._list() if _number(other) > len(self._examiner.events)]
            if lost := [other for other in later if self._is_event(other)]:
                raise Incomplete(
                    f"{event_path(len(self._examiner.events))}: missing, though {min(lost)} is there",
                    "What became of keys is not known. Restore it from a copy.",
                )

    def _is_event(self, name: str) -> bool:
        """Whether an event of this vault stands there, where anybody can put anything, of any size."""
        if (self._store.size(f"{self._prefix}/{name}") or 0) > EVENT_LIMIT:
            return False
        return self._examiner.vouches_for_event(name, self._get(name))

    def foreign(self) -> None:
        """Step 9: whatever nothing signed speaks of."""
        examiner = self._examiner
        known = {"vault.dsse.json"}
        if examiner.manifest:
            known.update(_FINAL if examiner.has_sidecar else _FINAL[:2])
        known.update(commit_path(commit.number) for commit in examiner.commits)
        known.update(event_path(event.number) for event in examiner.events)
        known.update(held.name for held in [*examiner.current.keybags.values(), *examiner.current.keys.values()])
        # A keybag that no region needs is vouched for by its takeover all the same.
        known.update(keybag_path(attempt) for attempt, (_, totals) in examiner.attempts.items() if not totals.regions)
        known.update(body_path(attempt, record.index) for attempt, record in examiner.records())
        # One that cannot be checked here is not known to be junk.
        known.update(self._report.anchors)
        known.update(name for name, error in self._report.unproved.items() if isinstance(error, NoKey))
        with self._step(9):
            left = sorted(name for name in self._list() if name not in known)
            self._report.superseded = [name for name in left if name in examiner.current.superseded]
            self._report.foreign = [name for name in left if name not in examiner.current.superseded]
            lost = commit_path(len(examiner.commits))
            if examiner.manifest is None and not self._exists(lost):
                later = [name for name in self._report.foreign if name.startswith("commits/")]
                if later:
                    raise Incomplete(
                        f"{lost}: missing, though {later[0]} is there", "The chain ends early. Restore it from a copy."
                    )

    def policy(self, judge: Judge) -> None:
        """Step 10: what the policy that the verifier trusts for this host says of all that was believed."""
        report = self._report
        with self._step(10):
            try:
                report.judgement = judge.judge(report)
            except VaultError as error:
                report.refused = error
                raise
            report.steps[10].note = report.judgement.note
            if report.judgement.broken:
                report.refused = report.judgement.refusal
                for refusal in report.judgement.refusals:
                    self._find(10, refusal)

    def openability(self, key: PrivateKey) -> None:
        """Step 11, with a key: its vault keys open, and each region commits to the data key that they unwrap.

        A custodian's key shows of a vault under dual control that its shares open, and are those that were committed to.
        """
        examiner = self._examiner
        if examiner.header.quorum is not None:
            self._share_opens(key, examiner.header_now)
            return
        with self._step(11):
            keks: dict[int, bytes] = {}
            for attempt, bag in self._report.keybags.items():
                with self._part(11):
                    keks[attempt] = unlock_attempt(bag, key, examiner.header_digest)
            for commit in self._keyed_commits():
                if commit.attempt in keks:
                    with self._part(11):
                        self._commit_opens(commit, keks[commit.attempt])

    def _share_opens(self, key: PrivateKey, header: Header) -> None:
        examiner = self._examiner
        with self._step(11):
            for attempt, bag in self._report.keybags.items():
                with self._part(11):
                    shares = examiner.committed_shares(attempt)
                    unlock_share(bag, key, examiner.header_now, examiner.header_digest, shares)
        step = self._report.steps[11]
        if step.state == "held":
            step.state = "partly"
            step.note = f"the share of {key.name} is good; {header.quorum} of {len(header.recipients)} open the regions"

    def _commit_opens(self, commit: Commit, kek: bytes) -> None:
        keys = self.wrapped_keys(commit)
        name = self._examiner.current.keys[commit.number].name
        for record, (_, wrapped) in zip(self._examiner.current.regions(commit), keys.keys, strict=True):
            body = body_path(commit.attempt, record.index)
            dek = unwrap_key(kek, wrapped, name)
            bound = sealed.context(
                self._report.vault, commit.attempt, record.index, record.kind, record.offset, record.codec
            )
            if not sealed.opens(dek, bound, self._store.get(f"{self._prefix}/{body}", 0, sealed.HEAD)):
                raise Forged(
                    f"{body}: does not open with the data key that was wrapped for it", "It cannot be recovered."
                )

    def _region(self, attempt: int, record: RegionRecord, bodies: bool) -> tuple[int, VaultError | None]:
        """Check one object; returns the bytes it should have, and what is wrong."""
        name = body_path(attempt, record.index)
        path = f"{self._prefix}/{name}"
        try:
            size = self._store.size(path)
            if size is None:
                raise Incomplete(f"{name}: missing", "Restore it from a copy; the other regions are unharmed.")
            if size != record.object_bytes:
                raise Forged(
                    f"{name}: {size} bytes where {record.object_bytes} were sealed",
                    "It was cut off, extended or exchanged. Restore it from a copy; other regions are unharmed.",
                )
            if bodies:
                get = lambda offset, length: self._store.get(path, offset, length)  # noqa: E731
                blocks = sealed.Blocks.signed(get, record, name)
                for first in range(0, block_count(record.message), _READ):
                    blocks.blocks(first, min(_READ, block_count(record.message) - first))
        except VaultError as error:
            return record.object_bytes, error
        return record.object_bytes, None

    def _keyed_commits(self) -> Iterator[Commit]:
        """The commits that have regions with keys left."""
        return (commit for commit in self._examiner.commits if commit.number in self._examiner.current.keys)

    def _list(self) -> Iterator[str]:
        start = len(self._prefix) + 1
        return (name[start:] for name in self._store.list(self._prefix))

    def _exists(self, name: str) -> bool:
        return self._store.size(f"{self._prefix}/{name}") is not None

    def _get(self, name: str) -> bytes:
        path = f"{self._prefix}/{name}"
        size = self._store.size(path)
        if size is None:
            raise Incomplete(f"{name}: missing", "Restore it from a copy, if there is one.")
        # No signed or key object is larger; what is, is refused before it fills memory.
        if size > (8 << 20):
            raise Forged(f"{name}: {size} bytes are more than the format allows", "Restore it from a copy.")
        return self._store.get(path)

    @contextmanager
    def _step(self, number: int) -> Iterator[None]:
        """Carry out a step: held unless something is found. A second visit does not undo the first's findings."""
        step = self._report.steps.setdefault(number, Step(number))
        if step.state == "skipped":
            step.state = "held"
        with self._part(number):
            yield

    @contextmanager
    def _part(self, number: int) -> Iterator[None]:
        try:
            yield
        except VaultError as error:
            self._find(number, error)

    def _find(self, number: int, error: VaultError) -> None:
        step = self._report.steps[number]
        if not isinstance(error, Incomplete):
            step.state = "failed"
        elif step.state != "failed":
            step.state = "missing"
        self._report.by_step.append((number, error))


def _number(name: str) -> int:
    """The number of an event, by its object's name; -1 if it is no event's."""
    number = name.removeprefix("events/").removesuffix(".dsse.json")
    return int(number) if number.isascii() and number.isdigit() and event_path(int(number)) == name else -1
