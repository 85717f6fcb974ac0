"""Requests and approvals: the files that travel under dual control (spec, section 14.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, cast

from dumpvault.formats import jcs
from dumpvault.formats.dsse import Envelope, Statement
from dumpvault.formats.kem import SUITES
from dumpvault.model import FORMAT, VAULT_ID

__all__ = ["LONGEST", "Approval", "Purpose", "Request", "share_info"]

#: What the vault key that custodians put together may be used for.
Purpose = Literal["open", "grant", "reshare"]

#: The longest that a request may be open.
LONGEST = timedelta(days=31)
_MOST_ATTEMPTS = 65536


@dataclass(frozen=True, slots=True)
class Request:
    """Who wants to open which vault, and why. ``keys`` are pairs of suite and one-time public key, by suite.

    ``header`` is the digest of the vault's header, ``requester`` the key id of the signer, ``rewrap`` the digest of the
    vault's last rewrap event, if there is one: shares of before do not open what is there now.
    """

    vault: str
    header: str
    time: str
    expires: str
    requester: str
    reason: str
    ticket: str | None
    attempts: tuple[int, ...]
    keys: tuple[tuple[str, bytes], ...]
    purpose: Purpose = "open"
    rewrap: str | None = None

    def expired(self, moment: datetime) -> bool:
        return moment >= jcs.from_time(self.expires)

    def statement(self) -> Statement:
        predicate: dict[str, Any] = {
            "attempts": list(self.attempts),
            "expires": self.expires,
            "format": FORMAT,
            "keys": [{"public": jcs.b64encode(public), "suite": suite} for suite, public in self.keys],
            "reason": self.reason,
            "requester": self.requester,
            "ticket": self.ticket,
            "time": self.time,
            "vault": self.vault,
        }
        if self.purpose != "open":
            predicate["purpose"] = self.purpose
        if self.rewrap is not None:
            predicate["rewrap"] = self.rewrap
        return Statement("request", "vault.dsse.json", self.header, predicate)

    @classmethod
    def read(cls, envelope: Envelope) -> Request:
        """Read a request; what it says is the caller's to compare, and signatures to check. Raises ``Forged``."""
        statement = envelope.statement("request")
        fields = jcs.Fields(statement.predicate, envelope.name)
        fields.format(FORMAT)
        if statement.subject != "vault.dsse.json":
            fields.refuse("is about no vault's header")
        keys = []
        for entry in fields.objects("keys", len(SUITES), 1):
            suite, public = entry.text("suite", "|".join(SUITES)), entry.base64("public")
            entry.done()
            try:
                SUITES[suite].check_public(public)
            except ValueError as error:
                entry.refuse(f"is no one-time key: {error}")
            keys.append((suite, public))
        request = cls(
            vault=fields.text("vault", VAULT_ID),
            header=statement.digest,
            time=fields.time("time"),
            expires=fields.time("expires"),
            requester=fields.text("requester"),
            reason=fields.text("reason", r".*\S.*", 4096),
            ticket=None if fields.is_null("ticket") else fields.text("ticket", r".+", 256),
            attempts=_attempts(fields),
            keys=tuple(keys),
            purpose=cast("Purpose", fields.text("purpose", "grant|reshare")) if fields.has("purpose") else "open",
            rewrap=fields.digest("rewrap") if fields.has("rewrap") else None,
        )
        fields.done()
        if [suite for suite, _ in keys] != sorted({suite for suite, _ in keys}):
            fields.refuse("does not list its keys once each, in order")
        made, expires = jcs.from_time(request.time), jcs.from_time(request.expires)
        if not made < expires <= made + LONGEST:
            fields.refuse(
                f"is made at {request.time} and void from {request.expires} on; {LONGEST.days} days is the most"
            )
        return request


@dataclass(frozen=True, slots=True)
class Approval:
    """One custodian's answer. ``request`` is the digest of the request's file, ``custodian`` a recipient digest.

    ``shares`` are pairs of attempt and HPKE message, sealed to the request's one-time key of the custodian's suite.
    """

    vault: str
    header: str
    request: str
    requester: str
    custodian: str
    time: str
    expires: str
    shares: tuple[tuple[int, bytes], ...]

    def expired(self, moment: datetime) -> bool:
        return moment >= jcs.from_time(self.expires)

    def statement(self) -> Statement:
        predicate = {
            "custodian": self.custodian,
            "expires": self.expires,
            "format": FORMAT,
            "header": self.header,
            "requester": self.requester,
            "shares": [{"attempt": attempt, "sealed": jcs.b64encode(sealed)} for attempt, sealed in self.shares],
            "time": self.time,
            "vault": self.vault,
        }
        return Statement("approval", "request", self.request, predicate)

    @classmethod
    def read(cls, envelope: Envelope) -> Approval:
        """Read an approval; what it says is the caller's to compare, and signatures to check. Raises ``Forged``."""
        statement = envelope.statement("approval")
        fields = jcs.Fields(statement.predicate, envelope.name)
        fields.format(FORMAT)
        if statement.subject != "request":
            fields.refuse("answers no request")
        shares = []
        for entry in fields.objects("shares", _MOST_ATTEMPTS, 1):
            shares.append((entry.number("attempt"), entry.base64("sealed")))
            entry.done()
        approval = cls(
            vault=fields.text("vault", VAULT_ID),
            header=fields.digest("header"),
            request=statement.digest,
            requester=fields.text("requester"),
            custodian=fields.digest("custodian"),
            time=fields.time("time"),
            expires=fields.time("expires"),
            shares=tuple(shares),
        )
        fields.done()
        if jcs.from_time(approval.expires) <= jcs.from_time(approval.time):
            fields.refuse("is void from before it was made")
        return approval


def share_info(suite: str, attempt: int, approval: Approval) -> bytes:
    """HPKE ``info`` of a share in an approval: everything it is bound to."""
    a = approval
    return (
        f"dumpvault-approval@v1\n{suite}\n{a.vault}\n{attempt}\n{a.header}\n{a.request}\n{a.custodian}\n{a.expires}\n"
    ).encode()


def _attempts(fields: jcs.Fields) -> tuple[int, ...]:
    values: Sequence[object] = fields.array("attempts", _MOST_ATTEMPTS, 1)
    numbers = tuple(v for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0)
    if len(numbers) != len(values) or list(numbers) != sorted(set(numbers)):
        fields.refuse("has bad 'attempts': not the numbers of attempts, once each, in order")
    return numbers
