"""Rewrap: change who can open a vault. One more recipient gets the same vault keys; a removal makes new ones.

The order: the new key objects are durable, and read back and tried on every body; then the event, which makes them count;
then the old ones are deleted. Until the event the vault is what it was; running it again finishes what was interrupted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dumpvault.errors import Forged, NoKey, Usage
from dumpvault.flows.officer import Change, begin, delete_superseded, put_event
from dumpvault.flows.unlocking import Unlock
from dumpvault.flows.verified import Report
from dumpvault.formats import sealed
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.commit import Commit
from dumpvault.formats.event import KeysObject, Rewrap
from dumpvault.formats.header import Listed
from dumpvault.formats.kem import SUITES, recipient_digest
from dumpvault.formats.keybag import Keybag, WrappedKeys, derive_kek, wrap
from dumpvault.formats.policy import Policy
from dumpvault.formats.private_key import LockedKey, PrivateKey
from dumpvault.formats.recipient import Recipient
from dumpvault.formats.sshkey import SigningKey
from dumpvault.model import Store, body_path, keybag_path, keys_path, vault_prefix
from dumpvault.stages.unlock import choose_key, unwrap_key

__all__ = ["RewrapRequest", "Rewrapped", "rewrap", "rewrap_keys"]


@dataclass(frozen=True, slots=True)
class RewrapRequest:
    """``add`` are whole public keys, ``remove`` names or recipient digests; ``known`` are public keys of those who stay."""

    vault: str
    keys: Sequence[PrivateKey | LockedKey]
    add: Sequence[Recipient]
    remove: Sequence[str]
    known: Sequence[Recipient]


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """``event`` is None where all was so already, and only what was out of use had to go."""

    event: int | None
    recipients: Sequence[Listed]
    renewed: bool
    deleted: Sequence[str]


def rewrap(
    store: Store,
    request: RewrapRequest,
    trust: AllowedSigners,
    signer: Callable[[str], SigningKey],
    unlock: Unlock,
    record: Callable[[Report], None] = lambda report: None,
) -> Rewrapped:
    """Carry it out; ``signer`` gives the officer's key for a host.

    ``record`` is called before the first key is unwrapped; what it raises ends it. Raises ``VaultError``.
    """
    change = begin(store, request.vault, trust)
    examiner = change.report.examiner
    if examiner.header.quorum is not None:
        raise Usage(
            f"vault {request.vault} is under dual control: no recipient opens it alone",
            "Nothing was changed. 'dumpvault reshare' changes who its custodians are, when a quorum of them agrees.",
        )
    for finding in change.report.of_steps(5):
        raise finding
    before = examiner.header_now.recipients
    after = _recipients(before, request)
    removed = {r.digest for r in before} - {r.digest for r in after}
    added = [r for r in request.add if r.digest not in {old.digest for old in before}]
    if not removed and not added:
        return Rewrapped(None, before, False, delete_superseded(change))
    if not examiner.current.keybags:
        raise Usage(f"vault {request.vault} has no keys left", "There is nothing to rewrap.")
    policy = examiner.header.policy
    # Rules are about how many there are and of which kinds; the key's bytes only tell one from another.
    stand_ins = [Recipient(r.name, SUITES[r.suite], bytes.fromhex(r.digest)) for r in after]
    Policy.parse(policy.name, policy.text).check_recipients(stand_ins)
    key = signer(examiner.header.host)
    chosen = choose_key(examiner.header_now, request.keys)
    opener = unlock(chosen) if isinstance(chosen, LockedKey) else chosen
    record(change.report)
    body = _renewed(change, opener, after, request) if removed else _extended(change, opener, after, added)
    number = change.number
    put_event(change, body, key)
    return Rewrapped(number, after, bool(removed), delete_superseded(change))


def _recipients(before: Sequence[Listed], request: RewrapRequest) -> list[Listed]:
    """Who can open afterwards. Raises ``Usage``."""
    added = [Listed(r.name, r.suite.name, r.digest) for r in request.add]
    gone = {r.digest for r in before for word in request.remove if word in (r.name, r.digest)}
    if again := gone & {r.digest for r in added}:
        raise Usage(f"recipient {min(again)[:16]}… is to be added and removed", "Nothing was changed.")
    for one in added:
        if any(one.name == r.name and one.digest != r.digest for r in before if r.digest not in gone):
            raise Usage(f"another key is called {one.name} in this vault", "Give the new one another name.")
    held = {r.digest for r in before}
    after = [r for r in before if r.digest not in gone] + [r for r in added if r.digest not in held]
    if not after:
        raise Usage("nobody would be left who can open the vault", "Destroying its keys is what 'shred' is for.")
    if len(after) > 128:
        raise Usage(f"{len(after)} recipients are more than 128", "Nothing was changed.")
    return after


def _vault_key(bag: Keybag, key: PrivateKey, header: str, name: str) -> bytes:
    try:
        return bag.open(recipient_digest(key.public), key.secret, header, name)
    except KeyError:
        raise NoKey(f"{name}: not sealed to {key.name}", "Name another key with --key.") from None


def _extended(change: Change, key: PrivateKey, after: Sequence[Listed], added: Sequence[Recipient]) -> Rewrap:
    """The same vault keys, sealed to ``added`` as well; every region is tried before it counts."""
    examiner = change.report.examiner
    keybags = []
    for attempt, bag in change.report.keybags.items():
        vk = _vault_key(bag, key, examiner.header_digest, examiner.current.keybags[attempt].name)
        kek = derive_kek(vk, change.vault, attempt)
        for recipient in added:
            bag = bag.with_recipient(vk, recipient, examiner.header_digest)  # noqa: PLW2901
        for commit in examiner.commits:
            if commit.attempt == attempt and commit.number in examiner.current.keys:
                _try(change, commit, kek, change.get(examiner.current.keys[commit.number].name))
        keybags.append((attempt, _put_keybag(change, bag, key, vk)))
    return Rewrap(tuple(after), tuple(keybags), ())


def _renewed(change: Change, key: PrivateKey, after: Sequence[Listed], request: RewrapRequest) -> Rewrap:
    """New vault keys for those who stay, every data key under them; all of it is tried before it counts."""
    examiner = change.report.examiner
    public = {r.digest: r for r in [*request.known, *request.add]}
    for one in after:
        if one.digest not in public:
            raise NoKey(
                f"the public key of recipient {one.name} ({one.suite}) is not in this home",
                "New vault keys are sealed to all who stay: import their public keys first (dumpvault keys import).",
            )
    recipients = [public[one.digest] for one in after]
    keybags, keys = [], []
    for attempt, old in change.report.keybags.items():
        was = _vault_key(old, key, examiner.header_digest, examiner.current.keybags[attempt].name)
        vk = os.urandom(32)
        bag = Keybag.seal(vk, recipients, change.vault, attempt, examiner.header_digest)
        keybags.append((attempt, _put_keybag(change, bag, key, vk)))
        keys += rewrap_keys(change, attempt, derive_kek(was, change.vault, attempt), vk)
    return Rewrap(tuple(after), tuple(keybags), tuple(sorted(keys, key=lambda k: k.commit)))


def rewrap_keys(change: Change, attempt: int, old: bytes, vk: bytes) -> list[KeysObject]:
    """Every data key of an attempt from the KEK ``old`` under the new vault key ``vk``; tried, and durable on return."""
    examiner = change.report.examiner
    new = derive_kek(vk, change.vault, attempt)
    return [
        _rewrapped(change, commit, old, new)
        for commit in examiner.commits
        if commit.attempt == attempt and commit.number in examiner.current.keys
    ]


def _put_keybag(change: Change, bag: Keybag, key: PrivateKey, vk: bytes) -> str:
    data = bag.encode()
    digest = hashlib.sha256(data).hexdigest()
    name = change.put(keybag_path(bag.attempt), data, digest)
    read = Keybag.read(change.get(name), change.vault, bag.attempt, name)
    if recipient_digest(key.public) in {e.recipient for e in read.entries}:
        again = _vault_key(read, key, change.report.examiner.header_digest, name)
    else:
        again = vk if read == bag else b""
    if again != vk:
        raise Forged(f"{name}: does not read back as it was written", "Nothing was changed that counts.")
    return digest


def _rewrapped(change: Change, commit: Commit, old: bytes, new: bytes) -> KeysObject:
    examiner = change.report.examiner
    was = examiner.current.keys[commit.number].name
    held = examiner.check_keys(commit, change.get(was))
    wrapped = [(index, wrap(new, unwrap_key(old, one, was))) for index, one in held.keys]
    data = WrappedKeys(change.vault, commit.attempt, commit.number, wrapped).encode()
    digest = hashlib.sha256(data).hexdigest()
    name = change.put(keys_path(commit.attempt, commit.number), data, digest)
    _try(change, commit, new, change.get(name))
    return KeysObject(commit.attempt, commit.number, digest)


def _try(change: Change, commit: Commit, kek: bytes, data: bytes) -> None:
    """Raise ``Forged`` unless each wrapped key of ``data`` opens its region's body, as far as that is there."""
    examiner = change.report.examiner
    name = keys_path(commit.attempt, commit.number)
    keys = dict(WrappedKeys.read(data, change.vault, commit.attempt, commit.number, name).keys)
    for record in examiner.current.regions(commit):
        body = body_path(commit.attempt, record.index)
        path = f"{vault_prefix(change.vault)}/{body}"
        if change.store.size(path) is None:
            continue
        dek = unwrap_key(kek, keys[record.index], name)
        bound = sealed.context(change.vault, commit.attempt, record.index, record.kind, record.offset, record.codec)
        if not sealed.opens(dek, bound, change.store.get(path, 0, sealed.HEAD)):
            raise Forged(
                f"{body}: does not open with the data key that was wrapped for it",
                "Nothing was changed that counts. Restore the region from a copy first.",
            )
