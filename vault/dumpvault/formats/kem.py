"""The five HPKE suites of the spec's section 4.1: key encodings, sealing and opening (RFC 9180 base mode).

The code points and drafts are those that ``cryptography`` 50 implements; the spec lists them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke, serialization
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519

from dumpvault.formats import dhkem
from dumpvault.model import TokenHandle

__all__ = ["SUITES", "KemSuite", "recipient_digest"]

_RAW = serialization.Encoding.Raw
_RAW_PUBLIC = serialization.PublicFormat.Raw
_POINT = 97
_SCALAR = 48


@dataclass(frozen=True, slots=True)
class KemSuite:
    """One suite: sizes in bytes and how its keys are built from bytes."""

    name: str
    public_bytes: int
    private_bytes: int
    post_quantum: bool
    _hpke: hpke.Suite
    _load_public: Callable[[bytes], Any]
    _load_private: Callable[[bytes], Any]
    _public_of: Callable[[bytes], bytes]

    def generate(self) -> tuple[bytes, bytes]:
        """A fresh key pair: (private bytes, public bytes), from the operating system's generator."""
        if self.name in ("p384", "mlkem1024-p384"):
            scalar = ec.generate_private_key(ec.SECP384R1()).private_numbers().private_value.to_bytes(_SCALAR)
            private = os.urandom(self.private_bytes - _SCALAR) + scalar
        else:
            private = os.urandom(self.private_bytes)
        return private, self._public_of(private)

    def public_of(self, private: bytes) -> bytes:
        """The public bytes that belong to ``private``; ``ValueError`` if it is no private key of this suite."""
        if len(private) != self.private_bytes:
            raise ValueError(f"a private {self.name} key has {self.private_bytes} bytes, not {len(private)}")
        return self._public_of(private)

    def check_public(self, public: bytes) -> None:
        """Raise ``ValueError`` unless ``public`` is a public key of this suite."""
        try:
            self.seal(public, b"", b"")  # a point of low order, say, shows only when it is used
        except ValueError as error:
            raise ValueError(str(error) or "it cannot be sealed to") from None

    def seal(self, public: bytes, secret: bytes, info: bytes) -> bytes:
        """``enc ‖ ciphertext`` (RFC 9180 section 6.1, empty aad)."""
        return self._hpke.encrypt(secret, self._public(public), info=info)

    def open(self, private: bytes | TokenHandle, sealed: bytes, info: bytes) -> bytes:
        """The secret; ``ValueError`` if ``sealed`` is not for this key or for another ``info``."""
        if not isinstance(private, bytes):
            if self.name != "p384":
                raise ValueError(f"a {self.name} key cannot be in a token")
            return dhkem.P384.open(private.public, private.ecdh, sealed, info)
        if len(private) != self.private_bytes:
            raise ValueError(f"a private {self.name} key has {self.private_bytes} bytes, not {len(private)}")
        try:
            return self._hpke.decrypt(sealed, self._load_private(private), info=info)
        except InvalidTag:
            raise ValueError("the HPKE message does not open with this key") from None

    def _public(self, public: bytes) -> Any:
        if len(public) != self.public_bytes:
            raise ValueError(f"a public {self.name} key has {self.public_bytes} bytes, not {len(public)}")
        return self._load_public(public)


def recipient_digest(public: bytes) -> str:
    """The recipient digest: hexadecimal SHA-256 of the public key's bytes."""
    return hashlib.sha256(public).hexdigest()


def _p384(scalar: bytes) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(scalar), ec.SECP384R1())


def _p384_public(point: bytes) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), point)


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def _raw(key: Any) -> bytes:
    data: bytes = key.public_bytes(_RAW, _RAW_PUBLIC)
    return data


def _xwing_parts(seed: bytes) -> tuple[mlkem.MLKEM768PrivateKey, x25519.X25519PrivateKey]:
    expanded = hashlib.shake_256(seed).digest(96)
    return (
        mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:64]),
        x25519.X25519PrivateKey.from_private_bytes(expanded[64:]),
    )


def _xwing_public_of(seed: bytes) -> bytes:
    pq, classical = _xwing_parts(seed)
    return _raw(pq.public_key()) + _raw(classical.public_key())


def _hybrid1024_public_of(private: bytes) -> bytes:
    pq = mlkem.MLKEM1024PrivateKey.from_seed_bytes(private[:64])
    return _raw(pq.public_key()) + _point(_p384(private[64:]).public_key())


def _hpke(kem: hpke.KEM, kdf: hpke.KDF) -> hpke.Suite:
    return hpke.Suite(kem, kdf, hpke.AEAD.AES_256_GCM)


SUITES: dict[str, KemSuite] = {
    suite.name: suite
    for suite in (
        KemSuite(
            "xwing", 1216, 32, True,
            _hpke(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256),
            lambda b: hpke.MLKEM768X25519PublicKey(
                mlkem.MLKEM768PublicKey.from_public_bytes(b[:1184]), x25519.X25519PublicKey.from_public_bytes(b[1184:])
            ),
            lambda b: hpke.MLKEM768X25519PrivateKey(*_xwing_parts(b)),
            _xwing_public_of,
        ),
        KemSuite(
            "mlkem1024", 1568, 64, True,
            _hpke(hpke.KEM.MLKEM1024, hpke.KDF.HKDF_SHA384),
            mlkem.MLKEM1024PublicKey.from_public_bytes,
            mlkem.MLKEM1024PrivateKey.from_seed_bytes,
            lambda b: _raw(mlkem.MLKEM1024PrivateKey.from_seed_bytes(b).public_key()),
        ),
        KemSuite(
            "mlkem1024-p384", 1568 + _POINT, 64 + _SCALAR, True,
            _hpke(hpke.KEM.MLKEM1024_P384, hpke.KDF.HKDF_SHA384),
            lambda b: hpke.MLKEM1024P384PublicKey(
                mlkem.MLKEM1024PublicKey.from_public_bytes(b[:1568]), _p384_public(b[1568:])
            ),
            lambda b: hpke.MLKEM1024P384PrivateKey(
                mlkem.MLKEM1024PrivateKey.from_seed_bytes(b[:64]), _p384(b[64:])
            ),
            _hybrid1024_public_of,
        ),
        KemSuite(
            "p384", _POINT, _SCALAR, False,
            _hpke(hpke.KEM.P384, hpke.KDF.HKDF_SHA384),
            _p384_public,
            _p384,
            lambda b: _point(_p384(b).public_key()),
        ),
        KemSuite(
            "x25519", 32, 32, False,
            _hpke(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256),
            x25519.X25519PublicKey.from_public_bytes,
            x25519.X25519PrivateKey.from_private_bytes,
            lambda b: _raw(x25519.X25519PrivateKey.from_private_bytes(b).public_key()),
        ),
    )
}  # fmt: skip
