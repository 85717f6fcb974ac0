"""Signers in OpenSSH's forms: public key blobs, fingerprints and SSHSIG (RFC 8709, RFC 5656, PROTOCOL.sshsig).

OpenSSH has no name for ML-DSA by itself, so those keys have names of our own in the same form (spec, section 4.3).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from typing import Protocol

from dumpvault.formats import ecdsa
from dumpvault.formats.signature import ALGORITHMS
from dumpvault.model import TokenHandle

__all__ = ["KEY_TYPES", "CanSign", "Signer", "SigningKey", "sshsig", "verify_sshsig"]

#: Algorithms by the first word of a public key's line.
KEY_TYPES = {algorithm.key_type: algorithm for algorithm in ALGORITHMS.values()}
_STOCK = " or ".join(kind for kind, algorithm in KEY_TYPES.items() if algorithm.stock)
_CURVE = b"nistp384"
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


def _mpint(value: int) -> bytes:
    """RFC 4251's ``mpint`` of a positive number: no byte more than its sign bit needs."""
    return _string(value.to_bytes(value.bit_length() // 8 + 1))


class Signer:
    """A public key of an algorithm of section 4.3. Raises ``ValueError`` if the bytes are none."""

    def __init__(self, public: bytes, algorithm: str = "ed25519") -> None:
        self.algorithm = ALGORITHMS[algorithm]
        self.public = public
        if len(public) != self.algorithm.public_length:
            raise ValueError(f"a public key of {algorithm} has {self.algorithm.public_length} bytes, not {len(public)}")
        # Of the other kinds any bytes of that length are a key. They are loaded when they are asked to verify: a crash
        # kernel reads a list of trust and does not pay for the kinds in it.
        self._key = self.algorithm.load_public(public) if algorithm == "p384" else None
        curve = _string(_CURVE) if algorithm == "p384" else b""
        self.blob = _string(self.algorithm.key_type.encode()) + curve + _string(public)
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")
        self.keyid = f"SHA256:{digest}"

    @classmethod
    def from_line(cls, line: str) -> Signer:
        """Parse ``<type> <base64> [comment]``; raises ``ValueError``."""
        words = line.split()
        if len(words) < 2 or words[0] not in KEY_TYPES:
            raise ValueError(f"not a public key of type {', '.join(KEY_TYPES)}")
        try:
            signer = cls.from_blob(base64.b64decode(words[1], validate=True))
        except binascii.Error:
            raise ValueError("the key is not base64") from None
        if signer.algorithm.key_type != words[0] or signer.line.split()[1] != words[1]:
            raise ValueError(f"the key blob is not that of an {words[0]} key")
        return signer

    @classmethod
    def from_blob(cls, blob: bytes) -> Signer:
        """Parse an RFC 4253 public key blob; raises ``ValueError``."""
        parts = _strings(blob)
        algorithm = KEY_TYPES.get(parts[0].decode("ascii", "replace")) if parts else None
        if algorithm is None:
            raise ValueError(f"not a key blob of type {', '.join(KEY_TYPES)}")
        curve = [_CURVE] if algorithm.name == "p384" else []
        if len(parts) != 2 + len(curve) or parts[1:-1] != curve or len(parts[-1]) != algorithm.public_length:
            raise ValueError(f"the key blob is not that of an {algorithm.key_type} key")
        return cls(parts[-1], algorithm.name)

    @property
    def line(self) -> str:
        return f"{self.algorithm.key_type} {base64.b64encode(self.blob).decode()}"

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether ``signature`` is a good one over ``data``, in its one spelling; False for bad bytes of any kind."""
        self._key = self._key or self.algorithm.load_public(self.public)
        return self._key.verifies(signature, data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signer) and other.blob == self.blob

    def __hash__(self) -> int:
        return hash(self.blob)


class CanSign(Protocol):
    """A private key, wherever it is kept."""

    @property
    def signer(self) -> Signer: ...

    def sign(self, data: bytes) -> bytes:
        """A signature as the spec's section 4.3 spells it."""


class SigningKey:
    """A private key from its bytes as section 4.3 has them, or in a token. Raises ``ValueError`` if they are none."""

    def __init__(self, secret: bytes | TokenHandle, algorithm: str = "ed25519") -> None:
        self._key = ALGORITHMS[algorithm].load_private(secret) if isinstance(secret, bytes) else secret
        self.signer = Signer(self._key.public, algorithm)

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)


def _signed_data(namespace: str, message: bytes) -> bytes:
    digest = hashlib.sha512(message).digest()
    return _MAGIC + _string(namespace.encode()) + _string(b"") + _string(b"sha512") + _string(digest)


def sshsig(key: CanSign, namespace: str, message: bytes) -> bytes:
    """An armored SSHSIG over ``message``, as ``ssh-keygen -Y sign`` writes it. Raises ``ValueError`` for ML-DSA."""
    algorithm = key.signer.algorithm
    if not algorithm.stock:
        raise ValueError(f"OpenSSH has no signature of type {algorithm.key_type}")
    raw = key.sign(_signed_data(namespace, message))
    if algorithm.name == "p384":
        raw = b"".join(map(_mpint, ecdsa.split(raw)))
    blob = (
        _MAGIC
        + struct.pack(">I", 1)
        + _string(key.signer.blob)
        + _string(namespace.encode())
        + _string(b"")
        + _string(b"sha512")
        + _string(_string(algorithm.key_type.encode()) + _string(raw))
    )
    return _armor(blob)


def _armor(blob: bytes) -> bytes:
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
    try:
        signer = Signer.from_blob(parts[0])
    except ValueError:
        raise ValueError(f"not made by an {_STOCK} key") from None
    kind = signer.algorithm.key_type
    signature = _strings(parts[4])
    if not signer.algorithm.stock or len(signature) != 2 or signature[0] != kind.encode():
        raise ValueError(f"not an {_STOCK} signature")
    raw = _ecdsa(signature[1]) if signer.algorithm.name == "p384" else signature[1]
    if not signer.verifies(raw, _signed_data(namespace, message)):
        raise ValueError("the signature does not verify")
    if _armor(blob) != armored:
        raise ValueError("the armor is not in its canonical form")
    return signer


def _ecdsa(signature: bytes) -> bytes:
    """r ‖ s of RFC 5656's two mpints, s in the lower half."""
    parts = _strings(signature)
    numbers = [int.from_bytes(part) for part in parts]
    if len(numbers) != 2 or b"".join(map(_mpint, numbers)) != signature or max(numbers) >= ecdsa.ORDER:
        raise ValueError("not two numbers of P-384 in their shortest form")
    raw = numbers[0].to_bytes(48) + numbers[1].to_bytes(48)
    ecdsa.split(raw)
    return raw
