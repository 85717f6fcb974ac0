"""Unlock a vault: verify what is signed, choose the key that opens it, and pair every region with what opens it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dumpvault.errors import Forged, Incomplete, Usage
from dumpvault.flows.combining import Approvals, agree
from dumpvault.flows.judging import Judge
from dumpvault.flows.verify import Report, verify
from dumpvault.formats import sealed
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.commit import Commit, Regions
from dumpvault.formats.keybag import WrappedKeys
from dumpvault.formats.private_key import LockedKey, PrivateKey
from dumpvault.model import RegionRecord, Store, body_path, keys_path, vault_prefix
from dumpvault.stages.unlock import choose_key, unlock_attempt, unwrap_key

__all__ = ["KeyedRegion", "Unlock", "Unlocked", "unlock_vault"]

#: Turns a locked key into a usable one, or raises ``NoKey``.
Unlock = Callable[[LockedKey], PrivateKey]


@dataclass(frozen=True, slots=True)
class KeyedRegion:
    """One region, and the wrapped key that its commit signed for it."""

    vault: str
    attempt: int
    record: RegionRecord
    wrapped: bytes
    kek: bytes = field(repr=False)

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
        return unwrap_key(self.kek, self.wrapped, self.name)


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
) -> Unlocked:
    """Verify all but the bodies, then unlock: with the first of ``keys`` that is a recipient, or by ``approvals``.

    ``judge`` says what policy the vault must obey, ``accept`` raises what stands against going on; it is asked before any
    key is touched. Raises ``VaultError``.
    """
    report = verify(store, vault, trust, judge=judge, bodies=False)
    accept(report)
    examiner = report.examiner
    if examiner.header.quorum is not None:
        keks = agree(report, approvals).open()
    elif approvals:
        raise Usage(
            f"vault {vault} is not under dual control, so approvals do not open it", "A recipient's key alone does."
        )
    else:
        chosen = choose_key(examiner.header, keys)
        key = unlock(chosen) if isinstance(chosen, LockedKey) else chosen
        keks = {a: unlock_attempt(bag, key, examiner.header_digest) for a, bag in report.keybags.items()}
    regions = sorted(_keyed_regions(store, report, keks), key=lambda region: region.record.offset)
    return Unlocked(report, regions)


def _keyed_regions(store: Store, report: Report, keks: Mapping[int, bytes]) -> Iterator[KeyedRegion]:
    for commit in report.examiner.commits:
        if not isinstance(commit.body, Regions) or not commit.body.regions or commit.attempt not in keks:
            continue
        keys = _wrapped(store, report, commit)
        if keys is None:
            continue
        for record, (_, wrapped) in zip(commit.body.regions, keys.keys, strict=True):
            region = KeyedRegion(report.vault, commit.attempt, record, wrapped, keks[commit.attempt])
            if store.size(region.path) is not None:
                yield region


def _wrapped(store: Store, report: Report, commit: Commit) -> WrappedKeys | None:
    """None where they are missing or not good, which verification has found and the caller has let pass."""
    name = f"{vault_prefix(report.vault)}/{keys_path(commit.attempt, commit.number)}"
    try:
        return report.examiner.check_keys(commit, store.get(name))
    except (Forged, Incomplete):
        return None
