"""OpenSSH's ``allowed_signers`` (ssh-keygen(1)): who may sign what, for whom, and when (spec, section 5.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from dumpvault.formats.sshkey import KEY_TYPES, Signer

__all__ = ["ROLES", "AllowedSigners", "TrustedKey", "line_for", "namespace"]

_STATEMENTS = {
    "collector": ("header", "commit", "manifest", "release"),
    "analyst": ("request",),
    "custodian": ("approval",),
    "officer": ("rewrap", "grant", "shred"),
    "auditor": ("audit",),
    "log": ("checkpoint",),
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
    """One line of the file."""

    principal: str
    signer: Signer
    namespaces: frozenset[str]
    valid_after: datetime | None = None
    valid_before: datetime | None = None

    @property
    def host(self) -> str:
        """The host it is bound to; empty if to none."""
        return self.principal.partition("@")[2]

    def has_role(self, role: str, host: str | None, moment: datetime) -> bool:
        """Whether the key may sign statements of the namespace ``role`` about ``host`` at ``moment``."""
        return not self.objection(role, host, moment)

    def objection(self, role: str, host: str | None, moment: datetime | None) -> str:
        """Why it may not; empty if it may. ``moment`` None leaves its validity in time out."""
        if role not in self.namespaces:
            return f"may not sign {role}"
        if self.host and host is not None and self.host != host:
            return f"is bound to host {self.host}, and this is host {host}"
        if moment is None:
            return ""
        if self.valid_after is not None and moment < self.valid_after:
            return f"is valid only from {self.valid_after:%Y-%m-%d %H:%MZ} on"
        if self.valid_before is not None and moment >= self.valid_before:
            return f"was valid only before {self.valid_before:%Y-%m-%d %H:%MZ}"
        return ""


class AllowedSigners:
    """The parsed file. A line that cannot be read gives nothing; ``problems`` names it, for people to be told."""

    def __init__(self, text: str, name: str = "allowed_signers") -> None:
        self.name = name
        self.keys: list[TrustedKey] = []
        self.problems: list[str] = []
        # Lines end with a newline and nothing else, as OpenSSH has it: no other character can begin one.
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip() and not line.lstrip().startswith("#"):
                try:
                    self.keys.extend(_parse(line.strip()))
                except ValueError as error:
                    self.problems.append(f"{name}, line {number} gives nothing: {error}")

    def by_keyid(self, keyid: str) -> list[TrustedKey]:
        return [key for key in self.keys if key.signer.keyid == keyid]

    def principal(self, keyid: str) -> str:
        """The name of a listed key, for messages."""
        return next((key.principal for key in self.by_keyid(keyid)), keyid)


def line_for(principal: str, signer: Signer, role: str) -> str:
    """The line that gives ``role`` (a key of ``ROLES``) to ``signer``."""
    return f'{principal} namespaces="{",".join(ROLES[role])}" {signer.line}\n'


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
    spaces = frozenset(filter(None, (options.get("namespaces") or "").split(",")))
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
