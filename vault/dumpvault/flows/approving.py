"""The custodian's side of dual control: read a request, see who asks for what and why, answer with one share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from dumpvault.errors import Forged, Incomplete, NoKey, Usage
from dumpvault.flows.verified import Report
from dumpvault.flows.verify import verify
from dumpvault.formats import dsse, jcs
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.kem import SUITES, recipient_digest
from dumpvault.formats.private_key import LockedKey, PrivateKey
from dumpvault.formats.request import Approval, Request, share_info
from dumpvault.formats.sshkey import SigningKey
from dumpvault.model import Store, is_vault_id
from dumpvault.stages.unlock import choose_key, unlock_share

__all__ = ["Asked", "approve", "read_asked"]

#: Clocks that differ by more than this are told of.
_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request whose signatures, by ``keyids``, are good, and what its vault says of itself. ``digest`` is the request's."""

    request: Request
    keyids: tuple[str, ...]
    digest: str
    report: Report
    warnings: tuple[str, ...]

    @property
    def requester(self) -> str:
        """Whom this home knows the requester's key as."""
        return self.report.examiner.trust.principal(self.request.requester)


def read_asked(store: Store, data: bytes, name: str, trust: AllowedSigners) -> Asked:
    """Check a request file against its vault in ``store`` and against ``trust``. Raises ``VaultError``."""
    envelope = dsse.parse(data, name)
    request = Request.read(envelope)
    if not is_vault_id(request.vault) or store.size(f"vaults/{request.vault}/vault.dsse.json") is None:
        raise Incomplete(
            f"{name}: vault {request.vault} is not in {store.url}",
            "Name its store with --store. Header, commits and keybag are enough.",
        )
    report = verify(store, request.vault, trust, bodies=False)
    examiner, moment = report.examiner, report.moment
    if not report.header_read:
        raise report.findings[0]
    header = examiner.header
    keyids = envelope.check("request", trust, moment, host=header.host)
    if request.requester not in keyids:
        raise Forged(f"{name}: not signed by the requester that it names", "Nothing was approved.")
    if request.header != examiner.header_digest:
        raise Forged(
            f"{name}: the header of vault {request.vault} is not the one that was asked for",
            "One of the two was exchanged. Nothing was approved.",
        )
    if header.quorum is None:
        raise Usage(f"vault {request.vault} is not under dual control", "There is nothing to approve.")
    if request.rewrap != examiner.last_rewrap:
        raise NoKey(
            f"{name}: asks for the vault key of before, or after, the last event that this copy of the vault has",
            "Nothing was approved. Bring the copy up to date, or have the request made anew.",
        )
    if request.expired(moment):
        raise NoKey(f"{name}: the request expired at {request.expires}", "Nothing was approved. It must be made anew.")
    if lacking := [attempt for attempt in request.attempts if attempt not in report.keybags]:
        raise report.worst() or Forged(
            f"{name}: asks for attempt {lacking[0]}, which holds nothing", "Nothing was approved."
        )
    warnings = []
    made = jcs.from_time(request.time)
    if made > moment + _SKEW:
        warnings.append(
            f"the request was made at {request.time}, in the future of this clock: one of two clocks is wrong"
        )
    return Asked(request, keyids, hashlib.sha256(data).hexdigest(), report, tuple(warnings))


def approve(
    asked: Asked,
    keys: Sequence[PrivateKey | LockedKey],
    signer: SigningKey,
    valid: timedelta | None,
    unlock: Callable[[LockedKey], PrivateKey],
    begin: Callable[[], None] = lambda: None,
) -> tuple[Approval, bytes]:
    """The approval by the first of ``keys`` that is a custodian's, and its signed file.

    It lasts for ``valid``, by default and at most as long as the request. ``begin`` is called before a share
    is unwrapped; what it raises ends it. Raises ``VaultError``.
    """
    request, examiner = asked.request, asked.report.examiner
    header = examiner.header_now
    chosen = choose_key(header, keys)
    key = unlock(chosen) if isinstance(chosen, LockedKey) else chosen
    if signer.signer.keyid in asked.keyids:
        raise NoKey("this key made the request", "Nobody approves what they ask for. Sign with another key.")
    now = datetime.now(UTC).replace(microsecond=0)
    end = jcs.from_time(request.expires)
    custodian = recipient_digest(key.public)
    bare = Approval(
        vault=request.vault,
        header=request.header,
        request=asked.digest,
        requester=request.requester,
        custodian=custodian,
        time=jcs.to_time(now),
        expires=jcs.to_time(min(end, now + valid) if valid else end),
        shares=(),
    )
    public = dict(request.keys).get(key.algorithm)
    if public is None:
        raise Forged(f"the request has no one-time key of suite {key.algorithm}", "Nothing was approved.")
    begin()
    shares = []
    for attempt in request.attempts:
        bag, committed = asked.report.keybags[attempt], examiner.committed_shares(attempt)
        share = unlock_share(bag, key, header, examiner.header_digest, committed)
        shares.append((attempt, SUITES[key.algorithm].seal(public, share, share_info(key.algorithm, attempt, bare))))
    approval = replace(bare, shares=tuple(shares))
    return approval, dsse.sign(approval.statement(), [signer])
