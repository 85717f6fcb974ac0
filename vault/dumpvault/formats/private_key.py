"""A private key at rest: a file locked by a passphrase, or one that says it is not (docs/spec/keys.md).

PyNaCl is imported only where a passphrase is used: no password KDF runs on the capture side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dumpvault.errors import BadInput, Forged, NoKey
from dumpvault.formats import jcs
from dumpvault.formats.kem import SUITES
from dumpvault.formats.signature import ALGORITHMS
from dumpvault.formats.sshkey import KEY_TYPES, SigningKey

__all__ = ["LockedKey", "PrivateKey", "lock", "parse", "unprotected"]

_FORMAT = "dumpvault-private@v1"
_LIMIT = 65536
# A file that asks for more than this is hostile, not careful.
_MAX_MEMLIMIT = 1 << 30
_MAX_OPSLIMIT = 16


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A private key in the clear. ``algorithm`` is a suite of section 4.1, or an algorithm of 4.3."""

    name: str
    purpose: Literal["recipient", "signer"]
    algorithm: str
    secret: bytes

    @property
    def public(self) -> bytes:
        if self.purpose == "signer":
            return SigningKey(self.secret, self.algorithm).signer.public
        return SUITES[self.algorithm].public_of(self.secret)

    def __repr__(self) -> str:
        return f"PrivateKey({self.name!r}, {self.purpose!r}, {self.algorithm!r}, …)"


@dataclass(frozen=True, slots=True)
class LockedKey:
    """A private key that a passphrase opens."""

    where: str
    name: str
    purpose: Literal["recipient", "signer"]
    algorithm: str
    public: bytes
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


def _stretch(passphrase: bytes, salt: bytes, opslimit: int, memlimit: int) -> bytes:
    from nacl.pwhash import argon2id

    return bytes(argon2id.kdf(32, passphrase, salt, opslimit=opslimit, memlimit=memlimit))


def _file(key: PrivateKey, protection: dict[str, object], secret: bytes) -> bytes:
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
    return _file(key, {"kind": "none"}, key.secret)


def lock(key: PrivateKey, passphrase: bytes) -> bytes:
    """The file of a key under argon2id (256 MiB, 3 passes) and SecretBox."""
    from nacl.pwhash import argon2id
    from nacl.secret import SecretBox
    from nacl.utils import random

    salt = random(argon2id.SALTBYTES)
    ops, mem = argon2id.OPSLIMIT_MODERATE, argon2id.MEMLIMIT_MODERATE
    box = bytes(SecretBox(_stretch(passphrase, salt, ops, mem)).encrypt(key.secret))
    protection: dict[str, object] = {
        "kind": "argon2id", "memlimit": jcs.quantity(mem), "opslimit": ops, "salt": jcs.b64encode(salt),
    }  # fmt: skip
    return _file(key, protection, box)


def parse(data: bytes, where: str) -> PrivateKey | LockedKey:
    """Read a private key file; ``where`` names it. Raises ``BadInput`` if it is none, or is damaged."""
    if data.startswith((b"dumpvault-", *(kind.encode() + b" " for kind in KEY_TYPES))):
        raise BadInput(f"{where} is a public key where a private one belongs", "Name the private key's file.")
    try:
        return _parse(data, where)
    except Forged as error:
        raise BadInput(error.message, "Not a dumpvault private key, or damaged; restore it from a copy.") from None


def _parse(data: bytes, where: str) -> PrivateKey | LockedKey:
    fields = jcs.Fields(jcs.decode(data, where, _LIMIT), where)
    fields.exactly("format", _FORMAT)
    name = fields.text("name")
    purpose: Literal["recipient", "signer"] = (
        "signer" if fields.text("purpose", "recipient|signer") == "signer" else "recipient"
    )
    algorithm = fields.text("algorithm", "|".join(ALGORITHMS if purpose == "signer" else SUITES))
    public, secret = fields.base64("public"), fields.base64("secret")
    protection = fields.object("protection")
    fields.done()
    if protection.text("kind", "none|argon2id") == "none":
        protection.done()
        return _checked(PrivateKey(name, purpose, algorithm, secret), public, where)
    salt, ops, mem = protection.base64("salt"), protection.number("opslimit"), protection.quantity("memlimit")
    protection.done()
    if len(salt) != 16 or not 1 <= ops <= _MAX_OPSLIMIT or not 8192 <= mem <= _MAX_MEMLIMIT:
        fields.refuse("asks for argon2id parameters that no dumpvault writes")
    return LockedKey(where, name, purpose, algorithm, public, salt, ops, mem, secret)


def _checked(key: PrivateKey, public: bytes, where: str) -> PrivateKey:
    try:
        matches = key.public == public
    except ValueError:
        matches = False
    if not matches:
        raise BadInput(f"{where}: the private half does not fit the public half", "Restore the file from a copy.")
    return key
