"""Unlock a vault: verify what is signed, choose the key that opens it, and pair every region with what opens it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dumpvault.errors import Forged, Incomplete
from dumpvault.flows.verify import Report, verify
from dumpvault.formats import sealed
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.commit import Commit
from dumpvault.formats.keybag import WrappedKeys
from dumpvault.formats.private_key import LockedKey, PrivateKey
from dumpvault.model import RegionRecord, Store, body_path, vault_prefix
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
    kek: bytes

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
) -> Unlocked:
    """Verify all but the bodies, then unlock with the first of ``keys`` that is a recipient.

    ``accept`` raises what stands against going on; it is asked before any key is touched. Raises ``VaultError``.
    """
    report = verify(store, vault, trust, bodies=False)
    accept(report)
    chosen = choose_key(report.examiner.header_now, keys)
    key = unlock(chosen) if isinstance(chosen, LockedKey) else chosen
    regions = sorted(_keyed_regions(store, report, key), key=lambda region: region.record.offset)
    return Unlocked(report, regions)


def _keyed_regions(store: Store, report: Report, key: PrivateKey) -> Iterator[KeyedRegion]:
    examiner = report.examiner
    keks = {a: unlock_attempt(bag, key, examiner.header_digest) for a, bag in report.keybags.items()}
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


def _wrapped(store: Store, report: Report, commit: Commit) -> WrappedKeys | None:
    """None where they are missing or not good, which verification has found and the caller has let pass."""
    name = f"{vault_prefix(report.vault)}/{report.examiner.current.keys[commit.number].name}"
    try:
        return report.examiner.check_keys(commit, store.get(name))
    except (Forged, Incomplete):
        return None
