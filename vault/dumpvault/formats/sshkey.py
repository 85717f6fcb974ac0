"""Ed25519 signers in OpenSSH's forms: public key blobs, fingerprints and SSHSIG (RFC 8709, PROTOCOL.sshsig)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dumpvault.model import TokenHandle

__all__ = ["Signer", "SigningKey", "sshsig", "verify_sshsig"]

ED25519 = b"ssh-ed25519"
_MAGIC = b"SSHSIG"
_BEGIN = "-----BEGIN SSH SIGNATURE-----"
_END = "-----END SSH SIGNATURE-----"


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _strings(data: bytes) -> list[bytes]:
    """Split concatenated RFC 4251 strings; ``ValueError`` unless they fill ``data`` exactly."""
    parts = []
    while data:
        if len(data) < 4:
            raise ValueError("cut off inside a length")
        (length,) = struct.unpack_from(">I", data)
        if len(data) < 4 + length:
            raise ValueError("cut off inside a string")
        parts.append(data[4 : 4 + length])
        data = data[4 + length :]
    return parts


class Signer:
    """A public Ed25519 key."""

    def __init__(self, public: bytes) -> None:
        self._key = Ed25519PublicKey.from_public_bytes(public)
        self.public = public
        self.blob = _string(ED25519) + _string(public)
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")
        self.keyid = f"SHA256:{digest}"

    @classmethod
    def from_line(cls, line: str) -> Signer:
        """Parse ``ssh-ed25519 <base64> [comment]``; raises ``ValueError``."""
        words = line.split()
        if len(words) < 2 or words[0] != ED25519.decode():
            raise ValueError("not an ssh-ed25519 public key")
        try:
            parts = _strings(base64.b64decode(words[1], validate=True))
        except binascii.Error:
            raise ValueError("the key is not base64") from None
        if len(parts) != 2 or parts[0] != ED25519 or len(parts[1]) != 32:
            raise ValueError("the key blob is not that of an ssh-ed25519 key")
        return cls(parts[1])

    @property
    def line(self) -> str:
        return f"{ED25519.decode()} {base64.b64encode(self.blob).decode()}"

    def verifies(self, signature: bytes, data: bytes) -> bool:
        try:
            self._key.verify(signature, data)
        except InvalidSignature:
            return False
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signer) and other.public == self.public

    def __hash__(self) -> int:
        return hash(self.public)


class SigningKey:
    """A private Ed25519 key, from its 32-byte RFC 8032 seed, or in a token."""

    def __init__(self, seed: bytes | TokenHandle) -> None:
        self._key: Ed25519PrivateKey | TokenHandle
        if not isinstance(seed, bytes):
            self._key, self.signer = seed, Signer(seed.public)
            return
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        raw = self._key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.signer = Signer(raw)

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)


def _signed_data(namespace: str, message: bytes) -> bytes:
    digest = hashlib.sha512(message).digest()
    return _MAGIC + _string(namespace.encode()) + _string(b"") + _string(b"sha512") + _string(digest)


def sshsig(key: SigningKey, namespace: str, message: bytes) -> bytes:
    """An armored SSHSIG over ``message``, as ``ssh-keygen -Y sign`` writes it."""
    signature = _string(ED25519) + _string(key.sign(_signed_data(namespace, message)))
    blob = (
        _MAGIC
        + struct.pack(">I", 1)
        + _string(key.signer.blob)
        + _string(namespace.encode())
        + _string(b"")
        + _string(b"sha512")
        + _string(signature)
    )
    text = base64.b64encode(blob).decode()
    lines = [text[i : i + 70] for i in range(0, len(text), 70)]
    return "\n".join([_BEGIN, *lines, _END, ""]).encode()


def verify_sshsig(armored: bytes, namespace: str, message: bytes) -> Signer:
    """The key that made ``armored`` over ``message``; ``ValueError`` says why it is not accepted.

    Only the spelling that ``sshsig`` writes is accepted, so that no byte of it is without meaning.
    """
    try:
        lines = armored.decode("ascii").split("\n")
        if lines[0] != _BEGIN or lines[-2:] != [_END, ""]:
            raise ValueError("no SSH SIGNATURE armor")
        blob = base64.b64decode("".join(lines[1:-2]), validate=True)
    except (UnicodeDecodeError, binascii.Error):
        raise ValueError("the armor is not base64") from None
    if blob[:10] != _MAGIC + struct.pack(">I", 1):
        raise ValueError("not a version 1 SSHSIG")
    parts = _strings(blob[10:])
    if len(parts) != 5 or parts[1:4] != [namespace.encode(), b"", b"sha512"]:
        raise ValueError(f"not made in the namespace {namespace} with sha512")
    public = _strings(parts[0])
    signature = _strings(parts[4])
    if len(public) != 2 or public[0] != ED25519 or len(public[1]) != 32:
        raise ValueError("not made by an ssh-ed25519 key")
    if len(signature) != 2 or signature[0] != ED25519:
        raise ValueError("not an ssh-ed25519 signature")
    signer = Signer(public[1])
    if not signer.verifies(signature[1], _signed_data(namespace, message)):
        raise ValueError("the signature does not verify")
    canonical = base64.b64encode(blob).decode()
    if "\n".join([_BEGIN, *(canonical[i : i + 70] for i in range(0, len(canonical), 70)), _END, ""]) != "\n".join(
        lines
    ):
        raise ValueError("the armor is not in its canonical form")
    return signer
