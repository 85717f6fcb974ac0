"""Unlock a vault: verify what is signed, choose the key that opens it, and pair every region with what opens it.

What approvals and grants take is imported where there are some: most vaults open by a key, and a session should start at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dumpvault.errors import Forged, Incomplete, NoKey, Usage
from dumpvault.flows.judging import Judge
from dumpvault.flows.verified import Report
from dumpvault.flows.verify import verify
from dumpvault.formats import sealed
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.commit import Commit
from dumpvault.formats.dsse import Envelope
from dumpvault.formats.event import expand
from dumpvault.formats.kem import recipient_digest
from dumpvault.formats.keybag import WrappedKeys
from dumpvault.formats.private_key import LockedKey, PrivateKey
from dumpvault.model import RegionRecord, Store, body_path, vault_prefix
from dumpvault.stages.unlock import choose_key, unlock_attempt, unwrap_key

if TYPE_CHECKING:
    from dumpvault.flows.combining import Approvals
    from dumpvault.formats.grant import Grant

__all__ = ["KeyedRegion", "Unlock", "Unlocked", "unlock_vault"]

#: Turns a locked key into a usable one, or raises ``NoKey``.
Unlock = Callable[[LockedKey], PrivateKey]


@dataclass(frozen=True, slots=True)
class KeyedRegion:
    """One region, and the wrapped key that its commit signed for it.

    ``kek`` None: ``wrapped`` is the data key itself, out of a grant.
    """

    vault: str
    attempt: int
    record: RegionRecord
    wrapped: bytes
    kek: bytes | None = field(repr=False)

    @property
    def name(self) -> str:
        """The object's name in its vault."""
        return body_path(self.attempt, self.record.index)

    @property
    def path(self) -> str:
        """The object's name in the store."""
        return f"{vault_prefix(self.vault)}/{self.name}"

    @property
    def context(self) -> bytes:
        """What its message is bound to (spec, section 9)."""
        r = self.record
        return sealed.context(self.vault, self.attempt, r.index, r.kind, r.offset, r.codec)

    def dek(self) -> bytes:
        """The data key. Raises ``Forged``."""
        return self.wrapped if self.kek is None else unwrap_key(self.kek, self.wrapped, self.name)


@dataclass(frozen=True, slots=True)
class Unlocked:
    """``regions`` are those whose object and keys are there, by offset."""

    report: Report
    regions: list[KeyedRegion]


def unlock_vault(
    store: Store,
    vault: str,
    keys: Sequence[PrivateKey | LockedKey],
    trust: AllowedSigners,
    unlock: Unlock,
    accept: Callable[[Report], None],
    approvals: Approvals | None = None,
    judge: Judge | None = None,
    grant: Envelope | None = None,
    begin: Callable[[Report], None] = lambda report: None,
) -> Unlocked:
    """Verify all but the bodies, then unlock: with the first of ``keys`` that is a recipient, by ``approvals``, or by what
    ``grant`` gives.

    ``judge`` says what policy the vault must obey, ``accept`` raises what stands against going on; it is asked before any
    key is touched. ``begin`` is called once all is judged, a key is at hand, and nothing of the vault has been unwrapped: what
    it records is durable before anything can be read. What it raises ends the opening. Raises ``VaultError``.
    """
    report = verify(store, vault, trust, judge=judge, bodies=False, keys=grant is None)
    examiner = report.examiner
    if grant is not None and report.header_read:
        given = _believed(report, grant)
        report.granted = sum(region not in examiner.current.shredded for region in expand(given.regions))
        accept(report)
        key = _granted_key(grant.name, given, keys, unlock)
        begin(report)
        return Unlocked(report, sorted(_granted_regions(store, report, grant.name, given, key), key=_offset))
    accept(report)
    if examiner.header.quorum is not None:
        from dumpvault.flows.combining import agree

        agreement = agree(report, approvals)
        begin(report)
        keks = agreement.open()
    elif approvals:
        raise Usage(
            f"vault {vault} is not under dual control, so approvals do not open it", "A recipient's key alone does."
        )
    else:
        chosen = choose_key(examiner.header_now, keys)
        key = unlock(chosen) if isinstance(chosen, LockedKey) else chosen
        begin(report)
        keks = {a: unlock_attempt(bag, key, examiner.header_digest) for a, bag in report.keybags.items()}
    return Unlocked(report, sorted(_keyed_regions(store, report, keks), key=_offset))


def _keyed_regions(store: Store, report: Report, keks: Mapping[int, bytes]) -> Iterator[KeyedRegion]:
    examiner = report.examiner
    for commit in examiner.commits:
        if commit.number not in examiner.current.keys or commit.attempt not in keks:
            continue
        keys = _wrapped(store, report, commit)
        if keys is None:
            continue
        for record, (_, wrapped) in zip(examiner.current.regions(commit), keys.keys, strict=True):
            region = KeyedRegion(report.vault, commit.attempt, record, wrapped, keks[commit.attempt])
            if store.size(region.path) is not None:
                yield region


def _offset(region: KeyedRegion) -> int:
    return region.record.offset


def _believed(report: Report, envelope: Envelope) -> Grant:
    """A grant that an officer signed for this very vault. Raises ``Forged``."""
    from dumpvault.formats.grant import Grant

    examiner = report.examiner
    if examiner.manifest is None:
        raise Incomplete(
            "manifest.dsse.json: missing, and a grant is bound to it", "Restore it from a copy of the vault."
        )
    envelope.check("grant", examiner.trust, report.moment, host=examiner.header.host)
    grant = Grant.read(envelope)
    bound = (report.vault, examiner.header_digest, examiner.manifest_digest)
    if (grant.vault, grant.header, grant.manifest) != bound:
        raise Forged(
            f"{envelope.name}: a grant for another vault, {grant.vault}", "Name the vault that it was made for."
        )
    try:
        known = set(expand(grant.regions)) <= set(examiner.current.all_regions())
    except ValueError:
        known = False
    if not known:
        raise Forged(f"{envelope.name}: names regions that the vault has not", "No dumpvault writes this.")
    if grant.event >= len(examiner.events):
        # A copy of the vault is often older than a grant, or made without events.
        report.grant_note = f"event {grant.event}, which records {envelope.name}, is not in this copy of the vault"
    elif examiner.events[grant.event].body != grant.record(envelope.encode()):
        raise Forged(
            f"{envelope.name}: not the grant that event {grant.event} of the vault records",
            "Officers signed both: it was never handed out by the rules, or events were rewritten. Ask who sent it.",
        )
    return grant


def _granted_key(name: str, grant: Grant, keys: Sequence[PrivateKey | LockedKey], unlock: Unlock) -> PrivateKey:
    to = grant.recipient
    held = [key for key in keys if key.purpose == "recipient" and recipient_digest(key.public) == to.digest]
    if not held:
        raise NoKey(f"{name}: made for {to.name} ({to.suite}), whose private key is not at hand", "Name it with --key.")
    return unlock(held[0]) if isinstance(held[0], LockedKey) else held[0]


def _granted_regions(store: Store, report: Report, name: str, grant: Grant, key: PrivateKey) -> Iterator[KeyedRegion]:
    records = {(attempt, record.index): record for attempt, record in report.examiner.records()}
    for (attempt, index), dek in grant.open(key.secret, name):
        region = KeyedRegion(report.vault, attempt, records[attempt, index], dek, None)
        # What was shredded since is not opened, though the grant still could.
        if (attempt, index) not in report.examiner.current.shredded and store.size(region.path) is not None:
            yield region


def _wrapped(store: Store, report: Report, commit: Commit) -> WrappedKeys | None:
    """None where they are missing or not good, which verification has found and the caller has let pass."""
    name = f"{vault_prefix(report.vault)}/{report.examiner.current.keys[commit.number].name}"
    try:
        return report.examiner.check_keys(commit, store.get(name))
    except (Forged, Incomplete):
        return None
