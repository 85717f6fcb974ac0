"""Grant: the data keys of some regions, sealed to one recipient; the event that records it goes before the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from dumpvault.errors import BadInput, Usage
from dumpvault.flows.combining import Approvals
from dumpvault.flows.officer import begin, now, put_event
from dumpvault.flows.shredding import parse_regions
from dumpvault.flows.unlocking import KeyedRegion, Unlock, Unlocked, unlock_vault
from dumpvault.flows.verified import Report
from dumpvault.flows.view import view_of
from dumpvault.formats import dsse
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.event import LIMIT, expand, runs
from dumpvault.formats.grant import Grant
from dumpvault.formats.private_key import LockedKey, PrivateKey
from dumpvault.formats.recipient import Recipient
from dumpvault.formats.sshkey import SigningKey
from dumpvault.model import Store

__all__ = ["GrantRequest", "grant"]


@dataclass(frozen=True, slots=True)
class GrantRequest:
    """``regions`` as ``parse_regions`` reads it, if ``what`` is that."""

    vault: str
    what: Literal["regions", "dmesg", "notes"]
    regions: str
    to: Recipient
    keys: Sequence[PrivateKey | LockedKey]
    approvals: Approvals | None = None


def grant(
    store: Store,
    request: GrantRequest,
    trust: AllowedSigners,
    signer: Callable[[str], SigningKey],
    unlock: Unlock,
    record: Callable[[Report], None] = lambda report: None,
) -> tuple[Grant, bytes]:
    """The grant and its file's bytes.

    ``record`` is called before the first key is unwrapped; what it raises ends it. Raises ``VaultError``.
    """
    change = begin(store, request.vault, trust)
    examiner = change.report.examiner
    key = signer(examiner.header.host)
    unlocked = unlock_vault(store, request.vault, request.keys, trust, unlock, _accept, request.approvals, begin=record)
    held = {(region.attempt, region.record.index): region for region in unlocked.regions}
    wanted = _wanted(store, request, unlocked)
    if lost := sorted(wanted - held.keys()):
        raise Usage(
            f"region {lost[0][1]} of attempt {lost[0][0]} is not there, or was shredded",
            "Nothing was granted. 'dumpvault info' shows what the vault has.",
        )
    chosen = runs(wanted)
    # In the order of the runs, as a reader of the grant counts them.
    deks = [held[region].dek() for region in sorted(wanted)]
    bound = (request.vault, examiner.header_digest, examiner.manifest_digest)
    made = Grant.seal(deks, chosen, request.to, *bound, now(), change.number)
    data = dsse.sign(made.statement(), [key])
    if len(data) > LIMIT:
        raise BadInput(f"a grant of {made.count} regions is too large", "Nothing was granted. Name fewer regions.")
    put_event(change, made.record(data), key)
    return made, data


def _accept(report: Report) -> None:
    """What an event builds on was checked; regions that are missing are refused by name."""


def _wanted(store: Store, request: GrantRequest, unlocked: Unlocked) -> set[tuple[int, int]]:
    regions = unlocked.regions
    if request.what == "regions":
        return set(expand(parse_regions(request.regions, sorted({region.attempt for region in regions}))))
    found = {(r.attempt, r.record.index) for r in regions if r.record.kind in ("headers", "notes")}
    if request.what == "dmesg":
        view = view_of(store, unlocked)
        try:
            for _ in view.kernel_log(lambda text: None):
                pass
            read = view.reader.touched_regions()
            found |= {(r.attempt, r.record.index) for r in read if isinstance(r, KeyedRegion)}
        finally:
            view.close()
    if not found:
        raise Usage(f"vault {request.vault} has no headers and notes of their own", "Name regions with --regions.")
    return found
