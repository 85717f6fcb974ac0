"""Ask a vault's custodians to open it: a signed request with one-time keys, whose private halves stay here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from dumpvault.errors import Incomplete, Usage, VaultError
from dumpvault.flows.verified import Report
from dumpvault.formats import dsse, jcs
from dumpvault.formats.kem import SUITES
from dumpvault.formats.private_key import PrivateKey
from dumpvault.formats.request import LONGEST, Purpose, Request
from dumpvault.formats.sshkey import SigningKey
from dumpvault.stages.onetime import OneTimeKeys

__all__ = ["Requested", "check_asked", "make_request", "parse_duration", "sweep"]


@dataclass(frozen=True, slots=True)
class Requested:
    """A request as it was signed: ``data`` is its file."""

    request: Request
    digest: str
    data: bytes


def parse_duration(text: str, where: str) -> timedelta:
    """``90s``, ``30m``, ``8h`` or ``7d``; raises ``Usage`` naming ``where``."""
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    number, unit = text[:-1], units.get(text[-1:])
    if not (number.isascii() and number.isdigit() and unit and len(number) < 8 and int(number) > 0):
        raise Usage(f"{where}: {text!r} is no duration", "Write 30m, 8h or 7d.")
    return timedelta(**{unit: int(number)})


def check_asked(reason: str, ticket: str | None, valid: timedelta) -> None:
    """Refuse what no custodian could judge, before any vault is read. Raises ``Usage``."""
    if not reason.strip() or len(reason) > 4096:
        raise Usage("--reason must say why, in at most 4096 characters", "Custodians decide by it.")
    if ticket is not None and not 0 < len(ticket) <= 256:
        raise Usage("--ticket has 1 to 256 characters", "Leave it out if there is none.")
    if valid > LONGEST:
        raise Usage(f"a request lasts {LONGEST.days} days at most", "Give a shorter --valid.")


def make_request(
    report: Report,
    signer: SigningKey,
    onetime: OneTimeKeys,
    reason: str,
    ticket: str | None,
    valid: timedelta,
    purpose: Purpose = "open",
) -> Requested:
    """Sign a request for the whole of the vault that ``report`` is of, and keep its one-time keys. Raises ``VaultError``."""
    header = report.examiner.header_now
    if header.quorum is None:
        raise Usage(
            f"vault {report.vault} is not under dual control",
            f"Each of its recipients opens it alone: {', '.join(r.name for r in header.recipients)}.",
        )
    if not report.keybags:
        raise report.worst() or Incomplete(f"vault {report.vault} holds no regions", "There is nothing to ask for.")
    now = datetime.now(UTC).replace(microsecond=0)
    keys = []
    for suite in sorted({r.suite for r in header.recipients}):
        private, public = SUITES[suite].generate()
        keys.append((PrivateKey("request", "recipient", suite, private), public))
    request = Request(
        vault=report.vault,
        header=report.examiner.header_digest,
        time=jcs.to_time(now),
        expires=jcs.to_time(now + valid),
        requester=signer.signer.keyid,
        reason=reason,
        ticket=ticket,
        attempts=tuple(sorted(report.keybags)),
        keys=tuple((key.algorithm, public) for key, public in keys),
        purpose=purpose,
        rewrap=report.examiner.last_rewrap,
    )
    data = dsse.sign(request.statement(), [signer])
    digest = hashlib.sha256(data).hexdigest()
    onetime.add(digest, data, [key for key, _ in keys])
    return Requested(request, digest, data)


def sweep(onetime: OneTimeKeys) -> None:
    """Delete the one-time keys of requests that have expired."""
    now = datetime.now(UTC)
    for digest in list(onetime.digests()):
        data = onetime.request(digest)
        try:
            expired = data is not None and Request.read(dsse.parse(data, "the request")).expired(now)
        except VaultError:
            expired = True  # nothing can come of it any more
        if expired:
            onetime.use_up(digest)
