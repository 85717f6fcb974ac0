"""Make, import, export, rotate and revoke keys.

A public half goes to the trust directory of the same home, a signer with its role.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from dumpvault.errors import BadInput, NoKey, Usage
from dumpvault.flows.site import Site
from dumpvault.formats import jcs
from dumpvault.formats.allowed_signers import ROLES, TrustedKey, end_validity, line_for, namespace
from dumpvault.formats.kem import SUITES
from dumpvault.formats.pkcs11_uri import Pkcs11Uri
from dumpvault.formats.private_key import (
    KeyringKey,
    LockedKey,
    PassphraseKey,
    PrivateKey,
    Purpose,
    TokenKey,
    elsewhere,
    lock,
    renamed,
    unprotected,
)
from dumpvault.formats.recipient import NAME, Recipient
from dumpvault.formats.signature import ALGORITHMS
from dumpvault.formats.sshkey import KEY_TYPES, Signer
from dumpvault.stages.token import Pin
from dumpvault.stages.trust import Folder, read_text

__all__ = [
    "InKeyring",
    "Keep",
    "KeyFacts",
    "OnToken",
    "export_key",
    "import_key",
    "key_facts",
    "list_keys",
    "new_recipient",
    "new_signer",
    "revoke",
    "role_names",
    "rotate",
]


@dataclass(frozen=True, slots=True)
class InKeyring:
    """Keep the private half in the keyring of the user's session."""


@dataclass(frozen=True, slots=True)
class OnToken:
    """Keep it in a token, where it is made, or ``existing`` already."""

    uri: Pkcs11Uri
    pin: Pin
    existing: bool = False


#: Where a private half is kept: bytes are the passphrase that locks its file, None leaves the file unprotected.
Keep = bytes | None | InKeyring | OnToken


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What may be shown of a key. ``public_line`` is shareable.

    ``private`` is ``none``, ``locked``, ``unprotected``, ``keyring`` or ``token``; ``status`` is ``current``, ``retired``
    (opens, but nothing is sealed to it), ``revoked``, ``expired`` or ``not yet``.
    """

    name: str
    purpose: Literal["recipient", "custodian", "signer"]
    algorithm: str
    fingerprint: str
    private: str
    roles: tuple[str, ...]
    public_line: str
    status: Literal["current", "retired", "revoked", "expired", "not yet"] = "current"
    valid_before: datetime | None = None


def new_recipient(site: Site, name: str, suite: str, keep: Keep, folder: Folder = "recipients") -> KeyFacts:
    """A fresh recipient, or custodian. Raises ``BadInput``, ``NoKey`` or ``StoreFailed``."""
    _check_free(site, name)
    with _private_half(name, "recipient", suite, keep) as (data, public):
        path = site.trust.add_private(name, data)
        try:
            site.trust.add_recipient(Recipient(name, SUITES[suite], public), folder)
        except BaseException:
            site.trust.remove(path)
            raise
    return _facts(site, name)


def new_signer(
    site: Site, name: str, role: str, keep: Keep, valid_before: datetime | None = None, algorithm: str = "ed25519"
) -> KeyFacts:
    """A fresh signer of ``algorithm`` with ``role``, listed in ``allowed_signers``.

    Raises ``BadInput``, ``NoKey`` or ``StoreFailed``.
    """
    _check_free(site, name)
    with _private_half(name, "signer", algorithm, keep) as (data, public):
        path = site.trust.add_private(name, data)
        try:
            site.trust.add_signer(line_for(name, Signer(public, algorithm), role, valid_before), name)
        except BaseException:
            site.trust.remove(path)
            raise
    return _facts(site, name)


@contextmanager
def _private_half(name: str, purpose: Purpose, algorithm: str, keep: Keep) -> Iterator[tuple[bytes, bytes]]:
    """Make a key: its file's bytes and its public half. What the keyring took is taken back if the block fails."""
    if isinstance(keep, OnToken):
        from dumpvault.stages import token

        if algorithm not in token.ALGORITHMS[purpose]:
            raise Usage(f"a token cannot hold a {algorithm} key", "A recipient in a token is made with --kem p384.")
        if keep.existing:
            handle = token.find(keep.uri, algorithm, keep.pin)
        else:
            handle = token.generate(keep.uri, purpose, algorithm, keep.pin)
        yield elsewhere(TokenKey("", name, purpose, algorithm, handle.public, keep.uri)), handle.public
        return
    secret = ALGORITHMS[algorithm].new_secret() if purpose == "signer" else SUITES[algorithm].generate()[0]
    key = PrivateKey(name, purpose, algorithm, secret)
    if not isinstance(keep, InKeyring):
        yield unprotected(key) if keep is None else lock(key, keep), key.public
        return
    from dumpvault.stages import os_keyring

    entry = KeyringKey("", name, purpose, algorithm, key.public)
    os_keyring.keep(entry.account, jcs.b64encode(secret))
    try:
        yield elsewhere(entry), key.public
    except BaseException:
        with suppress(Exception):
            os_keyring.delete(entry.account)
        raise


def rotate(site: Site, name: str, keep: Keep, now: datetime, valid_before: datetime | None = None) -> KeyFacts:
    """A new key in the place of ``name``'s.

    A recipient's or custodian's old key stays, under a name with the date, to open what was sealed to it; nothing more
    is sealed to it.
    A signer's old line ends ``now``, and its old private half is destroyed: what it signed from now on would not count.
    Raises ``Usage`` if the private half is not here.
    """
    old = _facts(site, name)
    held = site.trust.private_key(name) if name in site.trust.private_names() else None
    if held is None or site.trust.credential(f"{name}.key"):
        raise Usage(
            f"the private half of {name} is not in {site.trust.private}", "Rotate a key where its private half is kept."
        )
    kept = _stamped(name, now)
    if old.purpose != "signer":
        site.trust.add_private(kept, renamed(held, kept))
    # The private half first, then what others use: what is sealed or signed meanwhile opens, or is refused at a capture.
    with _private_half(name, held.purpose, old.algorithm, keep) as (data, public):
        site.trust.replace_private(name, data)
    if old.purpose != "signer":
        suite = SUITES[old.algorithm]
        site.trust.replace_recipient(Recipient(name, suite, public), _folder(old))
        site.trust.retire(Recipient(kept, suite, _public_bytes(old)))
        return _facts(site, name)
    path = site.trust.allowed_signers_path
    current = next(
        k for k in site.trust.allowed_signers().keys if (k.principal, k.signer.keyid) == (name, old.fingerprint)
    )
    text = end_validity(read_text(path, "an allowed_signers list"), name, old.fingerprint, now)
    line = TrustedKey(name, Signer(public, old.algorithm), current.namespaces, valid_before=valid_before).line
    site.trust.write_signers(text + ("" if text.endswith("\n") else "\n") + line)
    if isinstance(held, KeyringKey):
        from dumpvault.stages import os_keyring

        with suppress(NoKey):  # it is of no use to anybody
            os_keyring.delete(held.account)
    return _facts(site, name)


def revoke(site: Site, wanted: str, reason: str, now: datetime) -> KeyFacts:
    """Revoke the key of that name or fingerprint, for good; the facts are those from before.

    A signer is listed in ``revoked_keys``, and nothing that it ever signed is good any more; a recipient is retired, and
    the list says why. Raises ``Usage`` if the name is not one key's, or ``reason`` not one line.
    """
    if not reason.strip() or not reason.isprintable():
        raise Usage("a reason is one line of text", "It is kept beside the key for those who ask later.")
    keys = [facts for facts in list_keys(site) if wanted in (facts.name, facts.fingerprint)]
    open_ones = [facts for facts in keys if facts.status not in ("revoked", "retired")]
    if not keys:
        raise Usage(f"no key {wanted!r} in {site.home}", "'dumpvault keys list' shows what is there.")
    if len(open_ones) != 1:
        of = ", ".join(facts.fingerprint for facts in open_ones)
        raise Usage(
            f"{len(open_ones)} keys named {wanted!r} can be revoked"
            if open_ones
            else f"{wanted!r} is {keys[0].status} already",
            f"Name one by its fingerprint: {of}" if open_ones else "Nothing was changed.",
        )
    (facts,) = open_ones
    note = f"# {now:%Y-%m-%dT%H:%M:%SZ} {facts.purpose} {facts.name} {facts.fingerprint}: {reason.strip()}\n"
    if facts.purpose == "signer":
        site.trust.revoke(note + facts.public_line)
        return facts
    site.trust.revoke(note)
    kept = _stamped(facts.name, now)
    site.trust.retire(Recipient(kept, SUITES[facts.algorithm], _public_bytes(facts)))
    site.trust.remove_recipient(facts.name, _folder(facts))
    if facts.private != "none" and not site.trust.credential(f"{facts.name}.key"):
        site.trust.add_private(kept, renamed(site.trust.private_key(facts.name), kept))
        site.trust.remove(site.trust.private_path(facts.name))
    return facts


def _folder(facts: KeyFacts) -> Folder:
    return "custodians" if facts.purpose == "custodian" else "recipients"


def _public_bytes(facts: KeyFacts) -> bytes:
    """A recipient's public key."""
    return Recipient.parse(facts.public_line, facts.name).public


def _stamped(name: str, now: datetime) -> str:
    kept = f"{name}.{now:%Y%m%dT%H%M%SZ}"
    if not NAME.fullmatch(kept):
        raise Usage(f"{name} is too long a name to keep with a date", "Make a key with a shorter name instead.")
    return kept


def _check_free(site: Site, name: str, allowed: str = "") -> None:
    """``allowed`` is a public line that may stand there already."""
    for facts in list_keys(site):
        if facts.name == name and facts.public_line.split()[:2] != allowed.split()[:2]:
            hint = "Nothing is overwritten. Choose another name"
            raise BadInput(
                f"there is a key {name!r} already",
                f"{hint}, or replace it: 'dumpvault keys rotate {name}'." if facts.private != "none" else f"{hint}.",
            )


def import_key(site: Site, path: str, name: str | None, role: str | None, folder: Folder = "recipients") -> KeyFacts:
    """Add somebody's public half: a recipient's line, or a signer's line with the ``role`` it shall have.

    A recipient's line goes to ``folder``, which makes it a recipient or a custodian.
    """
    text = read_text(path, "a public key")
    if len(text.strip().splitlines()) != 1:
        raise BadInput(f"{path} holds no single line", "Import one public key at a time.")
    if text.split(maxsplit=1)[0] in KEY_TYPES:
        if folder == "custodians":
            raise Usage(
                f"{path} is a signer", "Shares are sealed to encryption keys; import this one with --role custodian."
            )
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
        site.trust.add_recipient(recipient, folder)
    return _facts(site, name)


def export_key(site: Site, name: str) -> str:
    """The public half as one line that ``import_key`` takes."""
    return _facts(site, name).public_line


def key_facts(site: Site, name: str) -> KeyFacts:
    """Facts of one key. Raises ``Usage`` if there is none."""
    return _facts(site, name)


def list_keys(site: Site) -> list[KeyFacts]:
    """All keys of the home, recipients first; of several keys with one name those in use first."""
    trust = site.trust
    held = {key.name: key for key in trust.private_keys()}
    by_public = {key.public: key for key in held.values()}
    found: list[KeyFacts] = []

    def state(public: bytes) -> str:
        return _state(by_public.get(public))

    for r in trust.recipients():
        found.append(KeyFacts(r.name, "recipient", r.suite.name, r.digest, state(r.public), (), r.line))
    for r in trust.recipients("custodians"):
        found.append(KeyFacts(r.name, "custodian", r.suite.name, r.digest, state(r.public), (), r.line))
    for r in trust.retired():
        found.append(KeyFacts(r.name, "recipient", r.suite.name, r.digest, state(r.public), (), r.line, "retired"))
    if os.path.exists(trust.allowed_signers_path):
        for entry in trust.allowed_signers().keys:
            signer = entry.signer
            found.append(
                KeyFacts(
                    entry.principal, "signer", signer.algorithm.name, signer.keyid, state(signer.public),
                    tuple(sorted(entry.namespaces)), f"{signer.line} {entry.principal}\n", _status(entry), entry.valid_before,
                )
            )  # fmt: skip
    listed = {facts.name for facts in found}
    found += [_unlisted(name, key) for name, key in held.items() if name not in listed]
    return sorted(found, key=lambda f: (f.purpose, f.name, f.status != "current"))


def _state(key: PrivateKey | LockedKey | None) -> str:
    match key:
        case None:
            return "none"
        case PassphraseKey():
            return "locked"
        case KeyringKey():
            return "keyring"
        case TokenKey():
            return "token"
    return "unprotected"


def _status(entry: TrustedKey) -> Literal["current", "revoked", "expired", "not yet"]:
    now = datetime.now(UTC)
    if entry.revoked:
        return "revoked"
    if entry.valid_before and now >= entry.valid_before:
        return "expired"
    return "not yet" if entry.valid_after and now < entry.valid_after else "current"


def role_names(facts: KeyFacts) -> list[str]:
    """Roles of the command line whose every namespace the key has; else the bare namespaces."""
    # A collector of before the ledger lacks its namespace for entries, and is one all the same.
    later = {namespace("entry-collector")}
    whole = [role for role, spaces in ROLES.items() if set(spaces) - later <= set(facts.roles)]
    rest = set(facts.roles) - {space for role in whole for space in ROLES[role]}
    return whole + sorted(rest)


def _unlisted(name: str, key: PrivateKey | LockedKey) -> KeyFacts:
    """A private half whose public half the trust directory lacks."""
    state = _state(key)
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
