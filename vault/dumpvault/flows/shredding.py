"""Shred: destroy wrapped keys by a signed order, prove that what they opened no longer opens, and certify it.

The order: what replaces the keys is durable, then the event, then the deletions. Until the event the vault is what it
was; from the event on no reader uses the old keys, and running it again finishes what was interrupted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from dumpvault.errors import Forged, Usage, VaultError
from dumpvault.flows.judging import Judge
from dumpvault.flows.officer import Change, begin, delete_superseded, key_objects, now, put_event, refuse_empty
from dumpvault.flows.verified import Report
from dumpvault.formats import jcs, sealed
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.certificate import Certificate
from dumpvault.formats.current import holders
from dumpvault.formats.event import KeysObject, Run, Shred, expand, runs
from dumpvault.formats.kem import recipient_digest
from dumpvault.formats.keybag import Keybag, WrappedKeys, derive_kek, unwrap
from dumpvault.formats.private_key import PrivateKey
from dumpvault.formats.sshkey import SigningKey
from dumpvault.model import RegionRecord, Store, body_path, keys_path, vault_prefix

__all__ = ["ShredRequest", "Shredded", "parse_regions", "shred"]

_Region = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ShredRequest:
    """``regions`` as ``parse_regions`` reads it; None means all. ``held`` are the keys with which opening is tried.

    ``judge`` says what policy holds for the vault: how long it must be kept. None asks for none.
    """

    vault: str
    regions: str | None
    reason: str
    held: Sequence[PrivateKey]
    judge: Judge | None = None


@dataclass(frozen=True, slots=True)
class Shredded:
    """``event`` is the last that destroyed any of the regions; ``already`` says that none had to be added.

    ``payload`` and ``signature`` are the certificate's two files.
    """

    event: int
    already: bool
    certificate: Certificate
    payload: bytes
    signature: bytes


def parse_regions(text: str, attempts: Collection[int]) -> tuple[Run, ...]:
    """``0-3,17``, or ``2/0-3`` where several attempts hold regions. Raises ``Usage``."""
    found: set[_Region] = set()
    for part in text.split(","):
        attempt, slash, span = part.strip().rpartition("/")
        first, dash, last = span.partition("-")
        words = [word for word, given in ((attempt, slash), (first, True), (last, dash)) if given]
        if not all(word.isascii() and word.isdigit() and len(word) <= 8 for word in words):
            raise Usage(f"{part.strip()!r} names no regions", "Write them as 0-3,17; or 2/0-3 for those of attempt 2.")
        if not slash and len(attempts) != 1:
            raise Usage(
                f"{part.strip()!r} is not certain: attempts {', '.join(map(str, attempts))} hold regions",
                "Write the attempt before the regions: 2/0-3.",
            )
        low, high = int(first), int(last) if dash else int(first)
        if low > high or high - low > 1 << 20:
            raise Usage(f"{part.strip()!r} does not ascend, or is too long", "Write them as 0-3,17.")
        found |= {(int(attempt) if slash else next(iter(attempts)), index) for index in range(low, high + 1)}
    return runs(found)


def shred(
    store: Store,
    request: ShredRequest,
    trust: AllowedSigners,
    signer: Callable[[str], SigningKey],
    record: Callable[[Report], None] = lambda report: None,
) -> Shredded:
    """Destroy the keys of ``request.regions``; ``signer`` gives the officer's key for a host.

    ``record`` is called before anything is put; what it raises ends it. Raises ``VaultError``.
    """
    refuse_empty(request.reason)
    change = begin(store, request.vault, trust)
    examiner = change.report.examiner
    key = signer(examiner.header.host)
    records = {(attempt, record.index): record for attempt, record in examiner.records()}
    wanted = (
        None if request.regions is None else parse_regions(request.regions, sorted({attempt for attempt, _ in records}))
    )
    chosen = set(records) if wanted is None else set(expand(wanted))
    if unknown := sorted(chosen - records.keys()):
        raise Usage(
            f"vault {request.vault} has no region {unknown[0][1]} in attempt {unknown[0][0]}", "Nothing was changed."
        )
    left = chosen - examiner.current.shredded.keys()
    if left:
        if request.judge:
            policy, _ = request.judge.chosen(examiner.header)
            policy.check_destruction(jcs.from_time(examiner.header.created), datetime.now(UTC))
        record(change.report)
        put_event(change, _order(change, left, wanted is None, request.reason), key)
    deleted = delete_superseded(change)
    _prove_closed(change, chosen, records, request.held)
    numbers = sorted({examiner.current.shredded[region] for region in chosen})
    bodies = [event.body for event in examiner.events if event.number in numbers]
    certificate = Certificate(
        vault=request.vault,
        host=examiner.header.host,
        header=examiner.header_digest,
        manifest=examiner.manifest_digest,
        event=numbers[-1],
        sha256=examiner.event_digests[numbers[-1]],
        time=now(),
        reasons=[body.reason for body in bodies if isinstance(body, Shred)],
        regions=runs(chosen),
        length=sum(records[region].length for region in chosen),
        deleted=deleted,
        tried=[recipient_digest(held.public) for held in request.held],
    )
    return Shredded(numbers[-1], not left, certificate, *certificate.sign(key))


def _order(change: Change, regions: Collection[_Region], everything: bool, reason: str) -> Shred:
    """The event; where a commit keeps some of its keys, the object that will hold them is durable when this returns."""
    if everything:
        return Shred(reason, None, ())
    examiner = change.report.examiner
    keys = []
    for commit in examiner.commits:
        if commit.number not in examiner.current.keys or holders(commit).isdisjoint(regions):
            continue
        stay = [r.index for r in examiner.current.regions(commit) if (commit.attempt, r.index) not in regions]
        digest = None
        if stay:
            held = examiner.check_keys(commit, change.get(examiner.current.keys[commit.number].name))
            kept = [(index, wrapped) for index, wrapped in held.keys if index in set(stay)]
            data = WrappedKeys(change.vault, commit.attempt, commit.number, kept).encode()
            digest = hashlib.sha256(data).hexdigest()
            change.put(keys_path(commit.attempt, commit.number), data, digest)
        keys.append(KeysObject(commit.attempt, commit.number, digest))
    return Shred(reason, runs(regions), tuple(keys))


def _prove_closed(
    change: Change, regions: Collection[_Region], records: dict[_Region, RegionRecord], held: Sequence[PrivateKey]
) -> None:
    """Raise ``Forged`` if anything that still stands among the key objects gives a key that opens one of ``regions``.

    Nothing here goes by which objects count: each keybag is tried with each private key, what comes out with each keys
    object, whatever their names are.
    """
    bags, wrapped = [], []
    for name in key_objects(change):
        try:
            _, attempt, *rest = name.replace(".", "/").split("/")
            data = change.get(name)
            if name.startswith("keybag/"):
                bags.append((name, Keybag.read(data, change.vault, int(attempt), name)))
            else:
                wrapped.append((name, WrappedKeys.read(data, change.vault, int(attempt), int(rest[0]), name)))
        except (Forged, ValueError):
            continue  # no key object of this vault, whatever else it is
    heads = {
        (a, i): change.store.get(f"{vault_prefix(change.vault)}/{body_path(a, i)}", 0, sealed.HEAD)
        for a, i in regions
        if change.store.size(f"{vault_prefix(change.vault)}/{body_path(a, i)}") is not None
    }
    for name, keys in wrapped:
        for index, _ in keys.keys:
            if (keys.attempt, index) in regions:
                raise Forged(
                    f"{name}: still holds the key of region {index}", "Delete it, and run the same command again."
                )
    for name, bag in bags:
        for kek in _keks(bag, name, held, change.report.examiner.header_digest):
            for other, keys in wrapped:
                for _, one in keys.keys:
                    _must_not_open(change.vault, kek, one, other, keys.attempt, heads, records)


def _keks(bag: Keybag, name: str, held: Sequence[PrivateKey], header: str) -> list[bytes]:
    found = []
    for key in held:
        try:
            vk = bag.open(recipient_digest(key.public), key.secret, header, name)
        except (KeyError, VaultError):
            continue
        found.append(derive_kek(vk, bag.vault, bag.attempt))
    return found


def _must_not_open(
    vault: str, kek: bytes, wrapped: bytes, name: str, attempt: int,
    heads: dict[_Region, bytes], records: dict[_Region, RegionRecord],
) -> None:  # fmt: skip
    try:
        dek = unwrap(kek, wrapped, name)
    except Forged:
        return
    for (of, index), head in heads.items():
        record = records[of, index]
        bound = sealed.context(vault, of, index, record.kind, record.offset, record.codec)
        if of == attempt and sealed.opens(dek, bound, head):
            raise Forged(f"{name}: still opens region {index} of attempt {of}", "Nothing was certified.")
