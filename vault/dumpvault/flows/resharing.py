"""Reshare: under dual control, new vault keys and new shares, to the same custodians or to others, when a quorum agrees.

The order is that of a rewrap: the new keybags and keys objects are durable and tried on every body; then the event, which
makes them count; then the request is used up and the old ones are deleted. Until the event the same approvals serve again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dumpvault.errors import Forged, Usage
from dumpvault.flows.combining import Approvals, agree
from dumpvault.flows.officer import Change, begin, delete_superseded, put_event
from dumpvault.flows.rewrapping import rewrap_keys
from dumpvault.flows.verified import Report
from dumpvault.formats import dsse
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.event import Reshared, Rewrap
from dumpvault.formats.header import Header, Listed
from dumpvault.formats.keybag import Keybag
from dumpvault.formats.policy import Policy
from dumpvault.formats.recipient import Recipient
from dumpvault.formats.request import Approval
from dumpvault.formats.sshkey import SigningKey
from dumpvault.model import Store, keybag_path

__all__ = ["ReshareRequest", "Sharing", "reshare"]


@dataclass(frozen=True, slots=True)
class ReshareRequest:
    """``sharing`` gives, for the vault's header as it is now, its custodians-to-be and how many of them must agree.

    ``policies`` gives the policies that the new sharing must obey; ``known`` are the site's key names with their digests.
    """

    vault: str
    approvals: Approvals | None
    sharing: Callable[[Header], tuple[Sequence[Recipient], int]]
    policies: Callable[[Header], Sequence[Policy]]
    known: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Sharing:
    """What came of it; ``finished`` says that the event was there already, and only its end was missing."""

    event: int
    quorum: int
    custodians: Sequence[Listed]
    agreed: Sequence[str]
    deleted: Sequence[str]
    finished: bool


def reshare(
    store: Store,
    request: ReshareRequest,
    trust: AllowedSigners,
    signer: Callable[[str], SigningKey],
    record: Callable[[Report], None] = lambda report: None,
) -> Sharing:
    """Carry it out; ``signer`` gives the officer's key for a host.

    ``record`` is called before the first share is opened; what it raises ends it. Raises ``VaultError``.
    """
    change = begin(store, request.vault, trust)
    examiner = change.report.examiner
    if examiner.header.quorum is None:
        raise Usage(
            f"vault {request.vault} is not under dual control",
            "Nothing was changed. 'dumpvault rewrap' changes its recipients.",
        )
    if done := _finished(change, request.approvals):
        return done
    for finding in change.report.of_steps(5):
        raise finding
    if not examiner.current.keybags:
        raise Usage(f"vault {request.vault} has no keys left", "There is nothing to share.")
    agreement = agree(change.report, request.approvals)
    header = examiner.header_now
    custodians, quorum = request.sharing(header)
    for policy in request.policies(header):
        policy.check_recipients(custodians, request.known, quorum)
    key = signer(header.host)
    record(change.report)
    keks = agreement.combine()
    keybags, keys, committed = [], [], []
    for attempt in change.report.keybags:
        vk = os.urandom(32)
        bag, shares = Keybag.seal_shares(vk, custodians, quorum, change.vault, attempt, examiner.header_digest)
        keybags.append((attempt, _put(change, bag)))
        committed.append(shares)
        keys += rewrap_keys(change, attempt, keks[attempt], vk)
    body = Rewrap(
        tuple(Listed(r.name, r.suite.name, r.digest) for r in custodians),
        tuple(keybags),
        tuple(sorted(keys, key=lambda k: k.commit)),
        Reshared(quorum, agreement.digest, tuple(committed)),
    )
    number = change.number
    put_event(change, body, key)
    agreement.use_up()
    return Sharing(number, quorum, body.recipients, agreement.custodians, delete_superseded(change), finished=False)


def _put(change: Change, bag: Keybag) -> str:
    """Put a new keybag, read back; returns its digest. Raises ``Forged`` where other bytes come back."""
    data = bag.encode()
    digest = hashlib.sha256(data).hexdigest()
    name = change.put(keybag_path(bag.attempt), data, digest)
    if change.get(name) != data:
        raise Forged(f"{name}: does not read back as it was written", "Nothing was changed that counts.")
    return digest


def _finished(change: Change, approvals: Approvals | None) -> Sharing | None:
    """Where the last reshare was made of these approvals and then cut off: what was left of it is done."""
    current = change.report.examiner.current
    if approvals is None or not approvals.files or current.rewrap is None:
        return None
    body = change.report.examiner.events[current.rewrap].body
    assert isinstance(body, Rewrap)
    name, data = approvals.files[0]
    asked = Approval.read(dsse.parse(data, name)).request
    if body.reshared is None or body.reshared.request != asked:
        return None
    approvals.onetime.use_up(asked)
    return Sharing(current.rewrap, body.reshared.quorum, body.recipients, (), delete_superseded(change), finished=True)
