"""OpenSSH's ``allowed_signers`` (ssh-keygen(1)): who may sign what, for whom, and when (spec, section 5.2)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from dumpvault.formats.sshkey import KEY_TYPES, Signer

__all__ = ["ROLES", "AllowedSigners", "TrustedKey", "end_validity", "line_for", "namespace", "revoked_keyids"]

_STATEMENTS = {
    "collector": ("header", "commit", "manifest", "release", "entry-collector"),
    "analyst": ("request",),
    "custodian": ("approval",),
    "officer": ("rewrap", "grant", "shred"),
    "auditor": ("audit",),
    "log": ("checkpoint",),
    "witness": ("cosignature",),
    # One key for whatever people do: each home has one (docs/spec/ledger.md, section 2).
    "actor": ("entry-analyst", "entry-custodian", "entry-officer", "entry-auditor"),
}


def namespace(statement: str) -> str:
    """The role that a statement type asks for, which is also its SSHSIG namespace."""
    return f"dumpvault-{statement}@v1"


#: Role names of the command line, and the namespaces that each stands for.
ROLES: dict[str, tuple[str, ...]] = {role: tuple(map(namespace, types)) for role, types in _STATEMENTS.items()}

# One option: a bare word, or word="value" where \" stands for a quote.
_OPTION = re.compile(r'([A-Za-z-]+)(?:="((?:[^"\\]|\\.)*)")?(,|\s+|$)')
_STAMP = re.compile(r"(\d{8})(?:(\d{4})(\d{2})?)?(Z?)")
# How the word begins that ends the options: OpenSSH's key types, and ours.
_KEY = ("ssh-", "ecdsa-", "sk-", *KEY_TYPES)
_KNOWN = {"namespaces", "valid-after", "valid-before", "cert-authority"}


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """One line of the file, for one of its principals."""

    principal: str
    signer: Signer
    namespaces: Collection[str]
    valid_after: datetime | None = None
    valid_before: datetime | None = None
    revoked: bool = False

    @property
    def line(self) -> str:
        """The line that says this, as it is written here; times are in UTC."""
        options = [f'namespaces="{",".join(self.namespaces)}"'] if self.namespaces else []
        for word, moment in (("valid-after", self.valid_after), ("valid-before", self.valid_before)):
            if moment:
                options.append(f'{word}="{moment:%Y%m%d%H%M%SZ}"')
        return " ".join(filter(None, (self.principal, ",".join(options), self.signer.line))) + "\n"

    @property
    def host(self) -> str:
        """The host it is bound to; empty if to none."""
        return self.principal.partition("@")[2]

    def has_role(self, role: str, host: str | None, moment: datetime) -> bool:
        """Whether the key may sign statements of the namespace ``role`` about ``host`` at ``moment``."""
        return not self.objection(role, host, moment)

    def objection(self, role: str, host: str | None, moment: datetime | None) -> str:
        """Why it may not; empty if it may. ``moment`` None leaves its validity in time out, but not its revocation."""
        if self.revoked or role not in self.namespaces:
            return "is revoked" if self.revoked else f"may not sign {role}"
        if self.host and host is not None and self.host != host:
            return f"is bound to host {self.host}, and this is host {host}"
        return "" if moment is None else self.outside(moment)

    def outside(self, moment: datetime) -> str:
        """Why ``moment`` is not in its time; empty if it is. Revocation is another matter."""
        if self.valid_after is not None and moment < self.valid_after:
            return f"is valid only from {self.valid_after:%Y-%m-%d %H:%MZ} on"
        if self.valid_before is not None and moment >= self.valid_before:
            return f"was valid only before {self.valid_before:%Y-%m-%d %H:%MZ}; --at judges at another moment"
        return ""


class AllowedSigners:
    """The parsed file. A line that cannot be read gives nothing; ``problems`` names it, for people to be told."""

    def __init__(self, text: str, name: str = "allowed_signers") -> None:
        self.name = name
        #: The moment that its keys' validity is judged at; None is now.
        self.at: datetime | None = None
        #: Certificates of trusted timestamp authorities, PEM.
        self.authorities: list[bytes] = []
        self.keys: list[TrustedKey] = []
        self.problems: list[str] = []
        # Lines end with a newline and nothing else, as OpenSSH has it: no other character can begin one.
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip() and not line.lstrip().startswith("#"):
                try:
                    self.keys.extend(_parse(line.strip()))
                except ValueError as error:
                    self.problems.append(f"{name}, line {number} gives nothing: {error}")

    def revoke(self, keyids: Collection[str]) -> None:
        """From now on the keys with these ids may sign nothing, whatever the moment they are judged at."""
        self.keys = [replace(key, revoked=True) if key.signer.keyid in keyids else key for key in self.keys]

    def by_keyid(self, keyid: str) -> list[TrustedKey]:
        return [key for key in self.keys if key.signer.keyid == keyid]

    def principal(self, keyid: str) -> str:
        """The name of a listed key, for messages."""
        return next((key.principal for key in self.by_keyid(keyid)), keyid)


def line_for(principal: str, signer: Signer, role: str, valid_before: datetime | None = None) -> str:
    """The line that gives ``role`` (a key of ``ROLES``) to ``signer``, up to ``valid_before`` if there is an end."""
    return TrustedKey(principal, signer, ROLES[role], valid_before=valid_before).line


def end_validity(text: str, principal: str, keyid: str, moment: datetime) -> str:
    """The file with that key's validity under that principal ended at ``moment``, unless it ends before."""

    def ended(key: TrustedKey) -> TrustedKey:
        if (key.principal, key.signer.keyid) != (principal, keyid):
            return key
        return replace(key, valid_before=min(key.valid_before or moment, moment))

    lines = []
    for line in text.splitlines(keepends=True):
        try:
            keys = _parse(line.strip()) if not line.lstrip().startswith("#") else []
        except ValueError:
            keys = []
        changed = [ended(key) for key in keys]
        lines += [line] if changed == keys else [key.line for key in changed]
    return "".join(lines)


def revoked_keyids(text: str, name: str) -> frozenset[str]:
    """The key ids of a revocation list: public keys, one to a line, as ``ssh-keygen -Q`` and ``-Y verify -r`` read it.

    Unlike in ``allowed_signers``, a line that cannot be read is an error: a key that somebody meant to revoke must not
    pass. Raises ``ValueError``.
    """
    if text.startswith("SSHKRL"):
        raise ValueError(f"{name} is a binary KRL; list the revoked public keys as text, one to a line")
    found = set()
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            blob = base64.b64decode(words[1], validate=True)
            length = int.from_bytes(blob[:4])
            if blob[4 : 4 + length] != words[0].encode():
                raise ValueError
        except (IndexError, binascii.Error, ValueError):
            raise ValueError(f"{name}, line {number} is no public key, so what it revokes is not known") from None
        found.add("SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("="))
    return frozenset(found)


def _parse(line: str) -> list[TrustedKey]:
    principals, _, rest = line.replace("\t", " ").partition(" ")
    options: dict[str, str | None] = {}
    rest = rest.strip()
    if '"' in principals:
        raise ValueError("quoted principals are not read")
    while rest and not rest.startswith(_KEY):
        match = _OPTION.match(rest)
        if match is None or match[1].lower() not in _KNOWN:
            raise ValueError(f"cannot be read at {rest[:30]!r}; options are {', '.join(sorted(_KNOWN))}")
        word, value = match[1].lower(), match[2]
        if word in options or (value is None and word != "cert-authority"):
            raise ValueError(f"{word} stands twice, or without a value")
        options[word] = value
        rest = rest[match.end() :]
    if "cert-authority" in options or rest.partition(" ")[0] not in KEY_TYPES:
        return []  # OpenSSH may use the line; dumpvault gives it no role
    signer = Signer.from_line(rest)
    spaces = tuple(filter(None, (options.get("namespaces") or "").split(",")))
    after, before = _moment(options.get("valid-after")), _moment(options.get("valid-before"))
    return [TrustedKey(p, signer, spaces, after, before) for p in principals.split(",") if p]


def _moment(stamp: str | None) -> datetime | None:
    if stamp is None:
        return None
    match = _STAMP.fullmatch(stamp)
    if match is None:
        raise ValueError(f"{stamp!r} is no time of the form YYYYMMDD[HHMM[SS]][Z]")
    moment = datetime.strptime(match[1] + (match[2] or "0000") + (match[3] or "00"), "%Y%m%d%H%M%S")
    return moment.replace(tzinfo=UTC) if match[4] else moment.astimezone().astimezone(UTC)
