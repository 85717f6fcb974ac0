"""Make, import and export keys; a public half goes to the trust directory of the same home, a signer with its role."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from dumpvault.errors import BadInput, Usage
from dumpvault.flows.site import Site
from dumpvault.formats.allowed_signers import ROLES, line_for
from dumpvault.formats.kem import SUITES
from dumpvault.formats.private_key import LockedKey, PrivateKey
from dumpvault.formats.recipient import NAME, Recipient
from dumpvault.formats.signature import ALGORITHMS
from dumpvault.formats.sshkey import KEY_TYPES, Signer, SigningKey
from dumpvault.stages.trust import read_text

__all__ = [
    "KeyFacts",
    "export_key",
    "import_key",
    "key_facts",
    "list_keys",
    "new_recipient",
    "new_signer",
    "role_names",
]


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What may be shown of a key. ``private`` is ``none``, ``locked`` or ``unprotected``; ``public_line`` is shareable."""

    name: str
    purpose: Literal["recipient", "signer"]
    algorithm: str
    fingerprint: str
    private: str
    roles: tuple[str, ...]
    public_line: str


def new_recipient(site: Site, name: str, suite: str, passphrase: bytes | None) -> KeyFacts:
    """A fresh recipient. ``passphrase`` None leaves its private half unprotected. Raises ``BadInput``."""
    private, public = SUITES[suite].generate()
    recipient = Recipient(name, SUITES[suite], public)
    with _private_half(site, PrivateKey(name, "recipient", suite, private), passphrase):
        site.trust.add_recipient(recipient)
    return _facts(site, name)


def new_signer(site: Site, name: str, role: str, passphrase: bytes | None, algorithm: str = "ed25519") -> KeyFacts:
    """A fresh signer of ``algorithm`` with ``role``, listed in ``allowed_signers``. Raises ``BadInput``."""
    secret = ALGORITHMS[algorithm].new_secret()
    with _private_half(site, PrivateKey(name, "signer", algorithm, secret), passphrase):
        site.trust.add_signer(line_for(name, SigningKey(secret, algorithm).signer, role), name)
    return _facts(site, name)


@contextmanager
def _private_half(site: Site, key: PrivateKey, passphrase: bytes | None) -> Iterator[None]:
    """Write it, and take it back if its public half cannot be written."""
    _check_free(site, key.name)
    path = site.trust.add_private(key, passphrase)
    try:
        yield
    except BaseException:
        site.trust.remove(path)
        raise


def _check_free(site: Site, name: str, allowed: str = "") -> None:
    """``allowed`` is a public line that may stand there already."""
    for facts in list_keys(site):
        if facts.name == name and facts.public_line.split()[:2] != allowed.split()[:2]:
            raise BadInput(f"there is a key {name!r} already", "Nothing is overwritten. Choose another name.")


def import_key(site: Site, path: str, name: str | None, role: str | None) -> KeyFacts:
    """Add somebody's public half: a recipient's line, or a signer's line with the ``role`` it shall have."""
    text = read_text(path, "a public key")
    if len(text.strip().splitlines()) != 1:
        raise BadInput(f"{path} holds no single line", "Import one public key at a time.")
    if text.split(maxsplit=1)[0] in KEY_TYPES:
        if role is None:
            raise Usage(f"{path} is a signer", f"Say what it may sign, with --role: {', '.join(ROLES)}.")
        try:
            signer = Signer.from_line(text)
        except ValueError as error:
            raise BadInput(f"{path}: {error}", "Fetch it again.") from None
        words = text.split()
        name = name or (words[2] if len(words) > 2 else os.path.basename(path).removesuffix(".pub"))
        _check_name(name)
        _check_free(site, name, text)
        site.trust.add_signer(line_for(name, signer, role), name)
    else:
        recipient = Recipient.parse(text, path)
        if name:
            _check_name(name)
            recipient = Recipient(name, recipient.suite, recipient.public)
        name = recipient.name
        _check_free(site, name, recipient.line)
        site.trust.add_recipient(recipient)
    return _facts(site, name)


def export_key(site: Site, name: str) -> str:
    """The public half as one line that ``import_key`` takes."""
    return _facts(site, name).public_line


def key_facts(site: Site, name: str) -> KeyFacts:
    """Facts of one key. Raises ``Usage`` if there is none."""
    return _facts(site, name)


def list_keys(site: Site) -> list[KeyFacts]:
    """All keys of the home, recipients first."""
    trust = site.trust
    held = {key.name: key for key in trust.private_keys()}
    found: dict[str, KeyFacts] = {}

    def private(name: str, public: bytes) -> str:
        key = held.get(name)
        if key is None or key.public != public:
            return "none"
        return "locked" if isinstance(key, LockedKey) else "unprotected"

    for r in trust.recipients():
        found[r.name] = KeyFacts(r.name, "recipient", r.suite.name, r.digest, private(r.name, r.public), (), r.line)
    if os.path.exists(trust.allowed_signers_path):
        for entry in trust.allowed_signers().keys:
            name, signer = entry.principal, entry.signer
            found[name] = KeyFacts(
                name, "signer", signer.algorithm.name, signer.keyid, private(name, signer.public),
                tuple(sorted(entry.namespaces)), f"{signer.line} {name}\n",
            )  # fmt: skip
    for name, key in held.items():
        if name not in found:
            found[name] = _unlisted(name, key)
    return sorted(found.values(), key=lambda f: (f.purpose, f.name))


def role_names(facts: KeyFacts) -> list[str]:
    """Roles of the command line whose every namespace the key has; else the bare namespaces."""
    whole = [role for role, spaces in ROLES.items() if set(spaces) <= set(facts.roles)]
    rest = set(facts.roles) - {space for role in whole for space in ROLES[role]}
    return whole + sorted(rest)


def _unlisted(name: str, key: PrivateKey | LockedKey) -> KeyFacts:
    """A private half whose public half the trust directory lacks."""
    state = "locked" if isinstance(key, LockedKey) else "unprotected"
    if key.purpose == "signer":
        signer = Signer(key.public, key.algorithm)
        return KeyFacts(name, "signer", key.algorithm, signer.keyid, state, (), f"{signer.line} {name}\n")
    recipient = Recipient(name, SUITES[key.algorithm], key.public)
    return KeyFacts(name, "recipient", key.algorithm, recipient.digest, state, (), recipient.line)


def _facts(site: Site, name: str) -> KeyFacts:
    for facts in list_keys(site):
        if facts.name == name:
            return facts
    raise Usage(f"no key {name!r} in {site.home}", "'dumpvault keys list' shows what is there.")


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise BadInput(f"{name!r} is no key name", "Letters, digits, '.', '_', '-' and '@', at most 64.")
