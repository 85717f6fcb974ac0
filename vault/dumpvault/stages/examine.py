"""Verification without I/O: bytes, trust and time in, facts or ``Forged`` out. Step numbers are the spec's section 13."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from dumpvault.errors import Forged, Incomplete
from dumpvault.formats import dsse
from dumpvault.formats.allowed_signers import AllowedSigners, namespace
from dumpvault.formats.commit import LIMIT as COMMIT_LIMIT
from dumpvault.formats.commit import Adopt, Commit, Ended, Regions, Takeover
from dumpvault.formats.current import Current
from dumpvault.formats.event import LIMIT as EVENT_LIMIT
from dumpvault.formats.event import OFFICER, Event, Granted, Rewrap, Shred, kind_of
from dumpvault.formats.header import Header
from dumpvault.formats.keybag import Keybag, WrappedKeys
from dumpvault.formats.manifest import AttemptTotals, Manifest, Totals
from dumpvault.formats.sharing import Commitments, component_count
from dumpvault.formats.sshkey import Signer, verify_sshsig
from dumpvault.model import Range, RegionRecord, commit_path, event_path

__all__ = ["Examiner", "describe_gaps", "gaps"]


class Examiner:
    """What has been believed of one vault so far. Feed it in the spec's order; each method is one of its steps."""

    def __init__(self, vault: str, trust: AllowedSigners, moment: datetime) -> None:
        self.vault = vault
        self.trust = trust
        self.moment = moment
        #: What header, chain and manifest are judged at: an anchor over the manifest covers all of them, and no event.
        self.sealed_by = moment
        self.header: Header
        self.header_digest = ""
        self.header_signers: tuple[str, ...] = ()
        #: Each signature of each signed object that was read, by the object's name.
        self.signatures: dict[str, tuple[dsse.Assessed, ...]] = {}
        self.sidecar_signer: Signer | None = None
        self.commits: list[Commit] = []
        #: The key ids whose signatures counted, of each of ``commits``.
        self.commit_signers: list[tuple[str, ...]] = []
        self.tip = ""
        self.attempts: dict[int, tuple[Takeover, AttemptTotals]] = {}
        self.totals = Totals()
        self.manifest: Manifest | None = None
        self.manifest_payload = b""
        self.manifest_digest = ""
        self.manifest_signers: tuple[str, ...] = ()
        self.events: list[Event] = []
        #: For each event its digest and the keys that signed it.
        self.event_digests: list[str] = []
        self.event_signers: list[tuple[str, ...]] = []
        self.current = Current(())
        self._signed_by: tuple[str, ...] = ()
        self._seen: set[tuple[int, int]] = set()

    def read_header(self, data: bytes) -> None:
        """Step 1."""
        envelope = dsse.parse(data, "vault.dsse.json")
        # Signed by somebody trusted before a word of it is read; then by somebody for this host, whom it pins itself.
        envelope.check("header", self.trust, self.sealed_by)
        header = Header.read(envelope, self.vault)
        self.header_signers = self._judge("header", envelope, header)
        self.header = header
        self.header_digest = self.tip = hashlib.sha256(data).hexdigest()

    def commit_envelope(self, data: bytes) -> dsse.Envelope:
        """Step 2, first half: whether the next commit is good for its role, whatever it says."""
        envelope = dsse.parse(data, commit_path(len(self.commits)), COMMIT_LIMIT)
        self._signed_by = self._check("commit", envelope)
        return envelope

    def read_commit(self, data: bytes, envelope: dsse.Envelope) -> None:
        """Step 2, second half: the next commit's place in the chain."""
        number = len(self.commits)
        name = commit_path(number)
        commit = Commit.read(envelope, self.vault, number, self.tip, self.header_digest)
        body = commit.body
        current = next(reversed(self.attempts), 0)
        if self.commits and isinstance(self.commits[-1].body, Ended) and not isinstance(body, Takeover):
            raise _against_rules(name, "continues an attempt that had ended")
        if isinstance(body, Takeover):
            if commit.attempt <= current:
                raise _against_rules(name, f"begins attempt {commit.attempt} after attempt {current}")
            self._check_shares(name, body)
            self.attempts[commit.attempt] = (body, AttemptTotals(commit.attempt, body.boot_id))
        elif commit.attempt != current:
            raise _against_rules(name, f"is of attempt {commit.attempt}; the chain is in attempt {current}")
        if isinstance(body, Adopt) and body.through >= number:
            raise _against_rules(name, f"adopts commit {body.through}, which is not before it")
        if isinstance(body, Regions):
            self._check_outcomes(name, body)
            self._count(name, commit.attempt, body.regions)
        self.commits.append(commit)
        self.commit_signers.append(self._signed_by)
        self.tip = hashlib.sha256(data).hexdigest()

    def read_manifest(self, data: bytes) -> None:
        """Step 3, first half: what the manifest says, before the chain is known."""
        envelope = dsse.parse(data, "manifest.dsse.json")
        self.manifest_signers = self._check("manifest", envelope)
        self.manifest = Manifest.read(envelope, self.vault)
        self.manifest_payload = envelope.payload
        self.manifest_digest = hashlib.sha256(data).hexdigest()

    def check_manifest(self) -> None:
        """Step 3, second half: the manifest against the chain that ends at its head."""
        manifest = self.manifest
        assert manifest is not None
        if manifest.head_digest != self.tip or manifest.head != len(self.commits) - 1:
            raise Forged(
                f"manifest.dsse.json: its head is not commit {len(self.commits) - 1} of this chain",
                "The chain or the manifest belongs to another vault. Restore both from a copy.",
            )
        if manifest.totals != self.totals or manifest.attempts != tuple(t for _, t in self.attempts.values()):
            raise Forged(
                "manifest.dsse.json: its totals are not those of the chain", "Do not trust what this vault claims."
            )

    @property
    def has_sidecar(self) -> bool:
        """Whether the vault must have ``manifest.json.sig``: a signer of its is of a kind that OpenSSH knows."""
        return any(signer.algorithm.stock for signer in self.header.signers)

    def check_sidecar(self, payload: bytes, signature: bytes) -> str:
        """Step 4. ``signature`` is looked at only if the vault has one. Returns what a stock tool cannot tell, if anything."""
        if payload != self.manifest_payload:
            raise Forged(
                "manifest.json is not the payload of manifest.dsse.json",
                "Stock tools would be shown another manifest. Restore it from a copy; the vault itself opens without it.",
            )
        if not self.has_sidecar:
            return "no signer is of a kind that ssh-keygen can check, so there is no manifest.json.sig"
        try:
            signer = verify_sshsig(signature, namespace("manifest"), payload)
        except ValueError as error:
            raise Forged(
                f"manifest.json.sig: {error}", "Restore it from a copy; the vault itself opens without it."
            ) from None
        signed = {one.keyid for one in self.signatures["manifest.dsse.json"]}
        if signer.keyid not in signed & self.header.keyids:
            raise Forged(
                f"manifest.json.sig: made by {self.trust.principal(signer.keyid)}, who did not sign the manifest",
                "Restore it from a copy; the vault itself opens without it.",
            )
        if signer.keyid not in self.manifest_signers:
            who = self.trust.principal(signer.keyid)
            return f"made by {who}, a signer of this vault whose signature does not count here"
        self.sidecar_signer = signer
        return ""

    def end_of_chain(self) -> None:
        """Between steps 2 and 8: the commits are all read, so that events can say what became of their keys."""
        self.current = Current(self.commits)

    @property
    def header_now(self) -> Header:
        """The header with the recipients, or the custodians and how many must agree, that the last rewrap names."""
        now = self.current
        return (
            self.header
            if now.recipients is None
            else replace(self.header, recipients=now.recipients, quorum=now.quorum)
        )

    @property
    def last_rewrap(self) -> str | None:
        """The digest of the last rewrap event, if there was one: what a request for the keys of now names."""
        return None if self.current.rewrap is None else self.event_digests[self.current.rewrap]

    def committed_shares(self, attempt: int) -> Commitments:
        """What is committed to of an attempt's vault key and its shares, under dual control."""
        shares = self.current.keybags[attempt].shares
        assert shares is not None
        return shares

    @property
    def event_tip(self) -> str:
        """What the next event must bind as the one before."""
        return self.event_digests[-1] if self.events else self.manifest_digest

    def read_event(self, data: bytes) -> None:
        """Step 8, for the next event. Which role it needs is read from it before that is checked, and believed after it."""
        number = len(self.events)
        name = event_path(number)
        envelope = dsse.parse(data, name, EVENT_LIMIT)
        kind = kind_of(envelope)
        pinned = None if kind in OFFICER else self.header.keyids
        signers = envelope.check(kind, self.trust, self.moment, host=self.header.host, pinned=pinned)
        event = Event.read(envelope, kind, self.vault, number, self.event_tip, self.manifest_digest)
        try:
            self.current.apply(event, self.header)
        except ValueError as error:
            raise _against_rules(name, str(error)) from None
        self.events.append(event)
        self.event_digests.append(hashlib.sha256(data).hexdigest())
        self.event_signers.append(signers)

    def vouches_for_event(self, name: str, data: bytes) -> bool:
        """Whether ``data``, under a number that the events do not reach, is a trusted signer's event of this vault."""
        try:
            envelope = dsse.parse(data, name, EVENT_LIMIT)
            kind = kind_of(envelope)
            pinned = None if kind in OFFICER else self.header.keyids
            envelope.check(kind, self.trust, self.moment, host=self.header.host, pinned=pinned)
            predicate = envelope.statement(kind).predicate
            return isinstance(predicate, dict) and predicate.get("vault") == self.vault
        except Forged:
            return False  # anybody can put junk under any name

    def check_keybag(self, attempt: int, data: bytes) -> Keybag:
        """Step 5, for one attempt that has regions with keys left."""
        name, digest = (held := self.current.keybags[attempt]).name, held.sha256
        if hashlib.sha256(data).hexdigest() != digest:
            raise Forged(
                f"{name}: not the keybag that attempt {attempt} was signed with",
                "It was exchanged or damaged. Restore it from a copy; nothing opens without it.",
            )
        bag = Keybag.read(data, self.vault, attempt, name)
        if bag.mode != ("direct" if self.header.quorum is None else "shares"):
            raise _against_rules(name, f"is of mode {bag.mode}, against the header")
        listed = sorted((r.digest, r.suite) for r in self.header_now.recipients)
        if [(e.recipient, e.suite) for e in bag.entries] != listed:
            raise _against_rules(
                name, "is not sealed to exactly the recipients that the header, or the last rewrap, names"
            )
        return bag

    def check_keys(self, commit: Commit, data: bytes) -> WrappedKeys:
        """Step 5, for one ``regions`` commit of which some region has a key left."""
        held, left = self.current.keys[commit.number], self.current.regions(commit)
        if held.sha256 not in (None, hashlib.sha256(data).hexdigest()):
            raise Forged(
                f"{held.name}: not the key object that event {held.name.split('.')[-2].split('-')[0]} names",
                "It was exchanged or damaged. Restore it from a copy.",
            )
        keys = WrappedKeys.read(data, self.vault, commit.attempt, commit.number, held.name)
        if held.rewrapped:
            # What each opens is shown by the body's commitment alone; that these are the keys, by the event's digest.
            if [index for index, _ in keys.keys] != [r.index for r in left]:
                raise _against_rules(held.name, "does not name the regions of its commit that have keys left")
        else:
            keys.check([(r.index, r.key) for r in left], held.name)
        return keys

    def changes(self) -> list[str]:
        """For people: what officers did to the keys, who and why."""
        told = []
        for event, signers in zip(self.events, self.event_signers, strict=True):
            body = event.body
            if isinstance(body, Shred):
                count = sum(number == event.number for number in self.current.shredded.values())
                what, why = f"{count} regions shredded", f": {body.reason}"
            elif isinstance(body, Rewrap):
                what = f"sealed to {', '.join(r.name for r in body.recipients)}"
                why = ", with new vault keys" if body.keys else ""
                if body.reshared:
                    what = f"shared anew, any {body.reshared.quorum} of {', '.join(r.name for r in body.recipients)},"
            elif isinstance(body, Granted):
                count = sum(run.last - run.first + 1 for run in body.regions)
                what, why = f"{count} regions granted to {body.recipient.name}", f", file {body.file[:16]}"
            else:
                continue
            told.append(
                f"event {event.number}: {what} by {', '.join(map(self.trust.principal, signers))}, {event.time}{why}"
            )
        return told

    def release_bytes(self) -> dict[str, int]:
        """Bytes of memory that commits authorised to be handed back, in all and by outcome (untold ones are unknown)."""
        lengths = {
            (commit.number, i): release.length
            for commit in self.commits
            if isinstance(commit.body, Regions)
            for i, release in enumerate(commit.body.releases)
        }
        told = {
            (o.commit, o.release): o.result
            for c in self.commits
            if isinstance(c.body, Regions)
            for o in c.body.outcomes
        }
        totals = {"authorised": sum(lengths.values()), "released": 0, "failed": 0, "unknown": 0}
        for key, length in lengths.items():
            totals[told.get(key, "unknown")] += length
        return totals

    def records(self) -> Iterable[tuple[int, RegionRecord]]:
        """Every committed region with its attempt."""
        for commit in self.commits:
            if isinstance(commit.body, Regions):
                for record in commit.body.regions:
                    yield commit.attempt, record

    def _check(self, statement: str, envelope: dsse.Envelope) -> tuple[str, ...]:
        return self._judge(statement, envelope, self.header)

    def _judge(self, statement: str, envelope: dsse.Envelope, header: Header) -> tuple[str, ...]:
        assessed = envelope.assess(statement, self.trust, self.sealed_by, host=header.host, pinned=header.keyids)
        self.signatures[envelope.name] = assessed
        return envelope.good(assessed)

    def _check_shares(self, name: str, body: Takeover) -> None:
        """Commitments stand there exactly under dual control, one for each component."""
        quorum = self.header.quorum
        expected = 0 if quorum is None else component_count(quorum, len(self.header.recipients))
        found = len(body.shares.components) if body.shares else 0
        if found != expected:
            raise _against_rules(name, f"commits to {found} components of shares; its header asks for {expected}")

    def _check_outcomes(self, name: str, body: Regions) -> None:
        for outcome in body.outcomes:
            of = self.commits[outcome.commit].body if outcome.commit < len(self.commits) else None
            if not isinstance(of, Regions) or outcome.release >= len(of.releases):
                raise _against_rules(
                    name, f"gives the outcome of a release that commit {outcome.commit} did not authorise"
                )

    def _count(self, name: str, attempt: int, records: Sequence[RegionRecord]) -> None:
        _, attempt_totals = self.attempts[attempt]
        for record in records:
            if (attempt, record.index) in self._seen:
                raise _against_rules(name, f"names region {record.index} of attempt {attempt} a second time")
            if record.length > self.header.region_size:
                raise _against_rules(
                    name, f"has a region of {record.length} bytes; {self.header.region_size} is the most"
                )
            self._seen.add((attempt, record.index))
            self.totals.add(record)
            attempt_totals.regions += 1
            attempt_totals.bytes += record.length


def gaps(records: Iterable[RegionRecord], size: int) -> list[Range]:
    """Step 7: what of 0 to ``size`` no region covers. Raises ``Forged`` where two overlap."""
    missing: list[Range] = []
    at = 0
    for record in sorted(records, key=lambda r: r.offset):
        if record.offset < at:
            raise Forged(
                f"commits: two regions hold byte {record.offset:#x} of the source",
                "Do not trust what this vault claims.",
            )
        if record.offset > at:
            missing.append(Range(at, record.offset - at))
        at = record.end
    if at < size:
        missing.append(Range(at, size - at))
    return missing


def describe_gaps(missing: Sequence[Range]) -> Incomplete:
    """The error that names what is missing."""
    shown = ", ".join(f"{r.offset:#x} to {r.end:#x}" for r in missing[:3])
    more = f" and {len(missing) - 3} more ranges" if len(missing) > 3 else ""
    total = sum(r.length for r in missing)
    return Incomplete(
        f"commits: {total} bytes of the source are in no region: bytes {shown}{more}",
        "What is there is unharmed; 'dumpvault open --partial' writes it.",
    )


def _against_rules(name: str, why: str) -> Forged:
    return Forged(f"{name}: {why}", "No dumpvault writes this. Do not trust what this vault claims.")
