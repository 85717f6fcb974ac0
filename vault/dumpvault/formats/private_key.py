"""A private key at rest (docs/spec/keys.md): in its file, locked by a passphrase or not, or where the file says it is.

PyNaCl is imported only where a passphrase is used: no password KDF runs on the capture side.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from dumpvault.errors import BadInput, Forged, NoKey
from dumpvault.formats import jcs
from dumpvault.formats.kem import SUITES, recipient_digest
from dumpvault.formats.signature import ALGORITHMS
from dumpvault.formats.sshkey import KEY_TYPES, SigningKey
from dumpvault.model import TokenHandle

if TYPE_CHECKING:
    from dumpvault.formats.pkcs11_uri import Pkcs11Uri

__all__ = [
    "KeyringKey",
    "LockedKey",
    "PassphraseKey",
    "PrivateKey",
    "TokenKey",
    "elsewhere",
    "lock",
    "parse",
    "renamed",
    "unprotected",
]

_FORMAT = "dumpvault-private@v1"
_LIMIT = 65536
# A file that asks for more than this is hostile, not careful.
_MAX_MEMLIMIT = 1 << 30
_MAX_OPSLIMIT = 16

Purpose = Literal["recipient", "signer"]


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A private key ready for use. ``algorithm`` is a suite of section 4.1, or an algorithm of 4.3.

    ``secret`` is the key's bytes, or a handle on a key that never leaves its token.
    """

    name: str
    purpose: Purpose
    algorithm: str
    secret: bytes | TokenHandle = field(repr=False)

    @property
    def public(self) -> bytes:
        if not isinstance(self.secret, bytes):
            return self.secret.public
        if self.purpose == "signer":
            return SigningKey(self.secret, self.algorithm).signer.public
        return SUITES[self.algorithm].public_of(self.secret)


@dataclass(frozen=True, slots=True)
class LockedKey:
    """A private key that is not at hand yet: what is known of it without its secret. ``where`` is the file's path."""

    where: str
    name: str
    purpose: Purpose
    algorithm: str
    public: bytes


@dataclass(frozen=True, slots=True)
class PassphraseKey(LockedKey):
    """Its secret is in a box that a passphrase opens."""

    salt: bytes
    opslimit: int
    memlimit: int
    box: bytes

    def unlock(self, passphrase: bytes) -> PrivateKey:
        """Raises ``NoKey`` for a wrong passphrase."""
        from nacl.exceptions import CryptoError
        from nacl.secret import SecretBox

        key = _stretch(passphrase, self.salt, self.opslimit, self.memlimit)
        try:
            secret = SecretBox(key).decrypt(self.box)
        except CryptoError:
            raise NoKey(
                f"{self.where}: wrong passphrase, or the file was changed", "Nothing was changed; try again."
            ) from None
        return _checked(PrivateKey(self.name, self.purpose, self.algorithm, secret), self.public, self.where)


@dataclass(frozen=True, slots=True)
class KeyringKey(LockedKey):
    """Its secret is in the keyring of the user's session, under ``account``."""

    @property
    def account(self) -> str:
        """The same under any name that the key is given."""
        return f"{self.purpose} {recipient_digest(self.public)}"

    def unlock(self, entry: str) -> PrivateKey:
        """``entry`` is what the keyring holds. Raises ``BadInput`` if it is not this key."""
        try:
            secret = jcs.b64decode(entry)
        except ValueError:
            raise BadInput(
                f"{self.where}: the keyring's entry {self.account!r} is no private key", "Restore it from a copy."
            ) from None
        return _checked(PrivateKey(self.name, self.purpose, self.algorithm, secret), self.public, self.where)


@dataclass(frozen=True, slots=True)
class TokenKey(LockedKey):
    """It stays in a PKCS#11 token; ``uri`` says which and how it is reached."""

    uri: Pkcs11Uri


def _stretch(passphrase: bytes, salt: bytes, opslimit: int, memlimit: int) -> bytes:
    from nacl.pwhash import argon2id

    return bytes(argon2id.kdf(32, passphrase, salt, opslimit=opslimit, memlimit=memlimit))


def _file(key: PrivateKey | LockedKey, protection: dict[str, object], secret: bytes) -> bytes:
    return jcs.encode(
        {
            "algorithm": key.algorithm,
            "format": _FORMAT,
            "name": key.name,
            "protection": protection,
            "public": jcs.b64encode(key.public),
            "purpose": key.purpose,
            "secret": jcs.b64encode(secret),
        }
    ) + b"\n"  # fmt: skip


def unprotected(key: PrivateKey) -> bytes:
    """The file of a key that nothing locks but its permissions."""
    assert isinstance(key.secret, bytes)
    return _file(key, {"kind": "none"}, key.secret)


def lock(key: PrivateKey, passphrase: bytes) -> bytes:
    """The file of a key under argon2id (256 MiB, 3 passes) and SecretBox."""
    from nacl.pwhash import argon2id
    from nacl.secret import SecretBox
    from nacl.utils import random

    assert isinstance(key.secret, bytes)
    salt = random(argon2id.SALTBYTES)
    ops, mem = argon2id.OPSLIMIT_MODERATE, argon2id.MEMLIMIT_MODERATE
    box = bytes(SecretBox(_stretch(passphrase, salt, ops, mem)).encrypt(key.secret))
    return _encode_locked(PassphraseKey("", key.name, key.purpose, key.algorithm, key.public, salt, ops, mem, box))


def _encode_locked(key: LockedKey) -> bytes:
    match key:
        case PassphraseKey():
            protection: dict[str, object] = {
                "kind": "argon2id", "memlimit": jcs.quantity(key.memlimit), "opslimit": key.opslimit,
                "salt": jcs.b64encode(key.salt),
            }  # fmt: skip
            return _file(key, protection, key.box)
        case TokenKey():
            return _file(key, {"kind": "pkcs11", "uri": str(key.uri)}, b"")
        case KeyringKey():
            return _file(key, {"kind": "keyring"}, b"")
    raise AssertionError(type(key))


def elsewhere(key: KeyringKey | TokenKey) -> bytes:
    """The file of a key whose secret the file does not hold."""
    return _encode_locked(key)


def renamed(key: PrivateKey | LockedKey, name: str) -> bytes:
    """The file of the same key, as locked as it was, under another name."""
    if isinstance(key, PrivateKey):
        return unprotected(replace(key, name=name))
    return _encode_locked(replace(key, name=name))


def parse(data: bytes, where: str) -> PrivateKey | LockedKey:
    """Read a private key file; ``where`` names it. Raises ``BadInput`` if it is none, or is damaged."""
    if data.startswith((b"dumpvault-", *(kind.encode() + b" " for kind in KEY_TYPES))):
        raise BadInput(f"{where} is a public key where a private one belongs", "Name the private key's file.")
    if data.startswith(b"-----BEGIN"):
        raise BadInput(
            f"{where} is a key of another program (PEM)", "dumpvault makes its own: 'dumpvault keys new', or --token."
        )
    try:
        return _parse(data, where)
    except Forged as error:
        raise BadInput(error.message, "Not a dumpvault private key, or damaged; restore it from a copy.") from None


def _parse(data: bytes, where: str) -> PrivateKey | LockedKey:
    fields = jcs.Fields(jcs.decode(data, where, _LIMIT), where)
    fields.exactly("format", _FORMAT)
    name = fields.text("name")
    purpose: Purpose = "signer" if fields.text("purpose", "recipient|signer") == "signer" else "recipient"
    algorithm = fields.text("algorithm", "|".join(ALGORITHMS if purpose == "signer" else SUITES))
    public, secret = fields.base64("public"), fields.base64("secret")
    protection = fields.object("protection")
    fields.done()
    known = (where, name, purpose, algorithm, public)
    kind = protection.text("kind", "none|argon2id|keyring|pkcs11")
    if kind == "argon2id":
        salt, ops, mem = protection.base64("salt"), protection.number("opslimit"), protection.quantity("memlimit")
        protection.done()
        if len(salt) != 16 or not 1 <= ops <= _MAX_OPSLIMIT or not 8192 <= mem <= _MAX_MEMLIMIT:
            fields.refuse("asks for argon2id parameters that no dumpvault writes")
        return PassphraseKey(*known, salt, ops, mem, secret)
    uri = protection.text("uri") if kind == "pkcs11" else ""
    protection.done()
    if kind == "none":
        return _checked(PrivateKey(name, purpose, algorithm, secret), public, where)
    if secret:
        fields.refuse(f"says that its secret is elsewhere ({kind}), and holds one")
    if kind == "keyring":
        return KeyringKey(*known)
    from dumpvault.formats.pkcs11_uri import Pkcs11Uri

    return TokenKey(*known, Pkcs11Uri.parse(uri, where))


def _checked(key: PrivateKey, public: bytes, where: str) -> PrivateKey:
    try:
        matches = key.public == public
    except ValueError:
        matches = False
    if not matches:
        raise BadInput(f"{where}: the private half does not fit the public half", "Restore the file from a copy.")
    return key
