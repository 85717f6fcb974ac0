"""Entries of the custody ledger: who did what with which vault, and why (docs/spec/ledger.md, section 2).

A collector makes one in a crash kernel: nothing of trees and notes is imported here.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from dumpvault import __version__
from dumpvault.errors import Forged, VaultError
from dumpvault.formats import dsse, jcs
from dumpvault.formats.allowed_signers import AllowedSigners, TrustedKey, namespace
from dumpvault.formats.sshkey import CanSign
from dumpvault.model import FORMAT, VAULT_ID

__all__ = ["EVENTS", "LIMIT", "ROLES", "SIGNATURES", "Entry", "Judged", "Seen", "judge", "sign"]

#: Bytes of an entry: what a bundle's 16-bit length can say.
LIMIT = 65535
SIGNATURES = 4
#: How many entries a ledger can have.
ENTRIES = 1 << 40
_NOT_COLLECTOR = ("analyst", "custodian", "officer", "auditor")
ROLES = ("collector", *_NOT_COLLECTOR)
#: Which roles an event may be by.
EVENTS: dict[str, tuple[str, ...]] = {
    "collected": ("collector",),
    "received": _NOT_COLLECTOR,
    "moved": _NOT_COLLECTOR,
    "verified": _NOT_COLLECTOR,
    "requested": ("analyst",),
    "approved": ("custodian",),
    "opened": ("analyst",),
    "closed": ("analyst",),
    "granted": ("officer",),
    "rewrapped": ("officer",),
    "reshared": ("officer",),
    "shredded": ("officer",),
    "exported": _NOT_COLLECTOR,
    "audited": ("auditor",),
}
_TYPE = "entry"
_NAME = re.compile(r"[a-z_]{1,32}")
_SUBJECT = rf"vaults/{VAULT_ID}/(manifest|vault)\.dsse\.json|checkpoint"


@dataclass(frozen=True, slots=True)
class Seen:
    """The checkpoint that an actor had last verified: entries, and hexadecimal root."""

    size: int
    root: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. ``subject`` and ``digest`` are what it is about; ``from_`` and ``to`` of what changes hands."""

    event: str
    role: str
    vault: str | None
    subject: str
    digest: str
    actor: str
    host: str
    time: str
    ledger: str | None
    purpose: str | None = None
    ticket: str | None = None
    from_: str | None = None
    to: str | None = None
    detail: Mapping[str, str] | None = None
    sha384: str | None = None
    seen: Seen | None = None
    serial: str = ""
    tool: str = "dumpvault"
    version: str = __version__

    def statement(self) -> dsse.Statement:
        seen = self.seen and {"root": self.seen.root, "size": jcs.quantity(self.seen.size)}
        predicate = {
            "actor": self.actor, "detail": dict(self.detail or {}), "event": self.event, "format": FORMAT,
            "from": self.from_, "host": self.host, "ledger": self.ledger, "purpose": self.purpose, "role": self.role,
            "seen": seen, "serial": self.serial or secrets.token_hex(16), "sha384": self.sha384, "ticket": self.ticket,
            "time": self.time, "to": self.to, "tool": self.tool, "vault": self.vault, "version": self.version,
        }  # fmt: skip
        return dsse.Statement(_TYPE, self.subject, self.digest, predicate)

    @classmethod
    def read(cls, envelope: dsse.Envelope) -> Entry:
        """What an envelope says, well formed; signatures are the caller's to check. Raises ``Forged``."""
        statement = envelope.statement(_TYPE)
        f = jcs.Fields(statement.predicate, envelope.name)
        f.format(FORMAT)

        def text(field: str, longest: int) -> str | None:
            return None if f.is_null(field) else f.text(field, r".+", longest)

        if not re.fullmatch(_SUBJECT, statement.subject):
            f.refuse(f"is about {statement.subject[:80]!r}, which no entry is about")
        details = f.take("detail")
        if not isinstance(details, dict) or len(details) > 32:
            f.refuse("has a bad 'detail': not an object of at most 32 members")
        for key, value in details.items():
            if not _NAME.fullmatch(key) or not isinstance(value, str) or len(value) > 4096:
                f.refuse(f"has a bad 'detail': {key[:40]!r}")
        seen = None
        if not f.is_null("seen"):
            inner = f.object("seen")
            seen = Seen(inner.quantity("size"), inner.digest("root"))
            if seen.size > ENTRIES:
                f.refuse(f"has seen more than {ENTRIES} entries, which no ledger has")
            inner.done()
        entry = cls(
            event=f.text("event", "|".join(EVENTS)),
            role=f.text("role", "|".join(ROLES)),
            vault=None if f.is_null("vault") else f.text("vault", VAULT_ID),
            subject=statement.subject,
            digest=statement.digest,
            actor=f.text("actor", r".+", 256),
            host=f.text("host", r".*", 256),
            time=f.time("time"),
            ledger=text("ledger", 200),
            purpose=text("purpose", 4096),
            ticket=text("ticket", 256),
            from_=text("from", 256),
            to=text("to", 256),
            detail=details,
            sha384=None if f.is_null("sha384") else f.text("sha384", "[0-9a-f]{96}"),
            seen=seen,
            serial=f.text("serial", "[0-9a-f]{32}"),
            tool=f.text("tool", r".+", 64),
            version=f.text("version", r".+", 64),
        )
        f.done()
        if (entry.vault is None) != (entry.event == "audited"):
            f.refuse(f"names {'no' if entry.vault is None else 'a'} vault, and is {entry.event!r}")
        wanted = f"vaults/{entry.vault}/" if entry.vault else "checkpoint"
        if not entry.subject.startswith(wanted):
            f.refuse(f"is about {entry.subject}, and not about {wanted}")
        return entry


def sign(entry: Entry, keys: Sequence[CanSign]) -> bytes:
    """The entry's bytes, signed by every one of ``keys`` (1 to 4). Raises ``VaultError`` if they are too many."""
    data = dsse.sign(entry.statement(), keys)
    if len(data) > LIMIT or not 1 <= len(keys) <= SIGNATURES:
        raise VaultError(
            f"entry {entry.event!r}: {len(data)} bytes of at most {LIMIT}, {len(keys)} signatures of at most {SIGNATURES}",
            "Nothing was done. Give a shorter purpose.",
        )
    return data


@dataclass(frozen=True, slots=True)
class Judged:
    """What one entry is by itself: ``flag`` says why it does not count, if it does not.

    ``keys`` are those among its signers' that may sign it, first come first, whenever that may be.
    """

    digest: str
    entry: Entry | None
    flag: str = ""
    keys: tuple[TrustedKey, ...] = ()

    @property
    def principal(self) -> str:
        return self.keys[0].principal if self.keys else ""

    @property
    def keyid(self) -> str:
        return self.keys[0].signer.keyid if self.keys else ""

    @property
    def bounded(self) -> bool:
        """Whether it depends on the moment which of its keys count."""
        return any(key.valid_after or key.valid_before for key in self.keys)

    def expired(self, moment: datetime) -> str:
        """Why none of its keys was valid at ``moment``; empty if one was."""
        found = [key.outside(moment) for key in self.keys]
        return f"{self.principal} {found[0]}" if found and all(found) else ""


def judge(data: bytes, name: str, origin: str, trust: AllowedSigners) -> Judged:
    """Section 2's conditions, but for those that ask for other entries or for a time. Never raises for bad bytes."""
    digest = hashlib.sha256(data).hexdigest()
    try:
        envelope = dsse.parse(data, name, LIMIT)
        if len(envelope.signatures) > SIGNATURES:
            raise Forged(f"{name}: {len(envelope.signatures)} signatures")
        entry = Entry.read(envelope)
    except Forged as error:
        return Judged(digest, None, error.message)
    if entry.ledger != origin and not (entry.ledger is None and entry.event == "collected"):
        return Judged(digest, entry, f"{name}: an entry of another ledger, {entry.ledger!r}")
    if entry.role not in EVENTS[entry.event]:
        return Judged(digest, entry, f"{name}: {entry.event!r} is no event of role {entry.role}")
    signed, may, objections = dsse.pae(envelope.payload), [], []
    for keyid, signature in envelope.signatures:
        if not (listed := trust.by_keyid(keyid)):
            continue
        if not listed[0].signer.verifies(signature, signed):
            return Judged(digest, entry, f"{name}: the signature of {listed[0].principal} ({keyid}) does not verify")
        for key in listed:
            if why := key.objection(namespace(f"entry-{entry.role}"), entry.host, None):
                objections.append(f"{key.principal} ({keyid}) {why}")
            else:
                may.append(key)
    flag = "" if may else f"{name}: {'; '.join(objections) or 'no listed key signed it'}"
    return Judged(digest, entry, flag, tuple(may))
