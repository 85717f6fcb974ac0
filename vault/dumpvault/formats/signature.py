"""The kinds of signature: Ed25519, ECDSA on P-384, ML-DSA-65 and ML-DSA-87 (spec, section 4.3).

Each library module is imported when a key of its kind is loaded, and not before: a crash kernel pays for each.
"""

from __future__ import annotations

import os
from typing import Protocol

from dumpvault.formats.ecdsa import P384

__all__ = ["ALGORITHMS", "Algorithm", "Private", "Public"]


class Public(Protocol):
    """A loaded public key."""

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether ``signature`` is the one spelling of a good one over ``data``. Never raises for bad bytes."""


class Private(Protocol):
    """A loaded private key."""

    #: The public key's bytes, as the spec's section 4.3 has them.
    public: bytes

    def sign(self, data: bytes) -> bytes: ...


class Algorithm(Protocol):
    """One kind. ``stock`` says whether OpenSSH's ssh-keygen can check it; lengths are in bytes."""

    name: str
    key_type: str
    stock: bool
    public_length: int
    secret_length: int
    signature_length: int

    def new_secret(self) -> bytes:
        """Fresh, from the system's generator."""

    def load_public(self, public: bytes) -> Public:
        """Raises ``ValueError``."""

    def load_private(self, secret: bytes) -> Private:
        """Raises ``ValueError``."""


class _Loaded:
    """A key of ``cryptography`` whose sign and verify need no more than the data."""

    def __init__(self, key: object, public: bytes = b"") -> None:
        self._key = key
        self.public = public

    def sign(self, data: bytes) -> bytes:
        signature: bytes = self._key.sign(data)  # type: ignore[attr-defined]
        return signature

    def verifies(self, signature: bytes, data: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, data)  # type: ignore[attr-defined]
        except InvalidSignature:
            return False
        return True


class Ed25519:
    """RFC 8032; the secret is its 32-byte seed."""

    name, key_type, stock = "ed25519", "ssh-ed25519", True
    public_length, secret_length, signature_length = 32, 32, 64

    def new_secret(self) -> bytes:
        return os.urandom(32)

    def load_public(self, public: bytes) -> Public:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        return _Loaded(Ed25519PublicKey.from_public_bytes(public))

    def load_private(self, secret: bytes) -> Private:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key = Ed25519PrivateKey.from_private_bytes(secret)
        return _Loaded(key, key.public_key().public_bytes_raw())


class MLDSA:
    """FIPS 204, pure, with an empty context string; the secret is the 32-byte seed ξ."""

    stock, secret_length = False, 32

    def __init__(self, level: int, public_length: int, signature_length: int) -> None:
        self.name = f"mldsa{level}"
        self.key_type = f"mldsa{level}@dumpvault"
        self.public_length, self.signature_length = public_length, signature_length
        self._level = level

    def new_secret(self) -> bytes:
        return os.urandom(32)

    def load_public(self, public: bytes) -> Public:
        from cryptography.hazmat.primitives.asymmetric import mldsa

        kind = mldsa.MLDSA65PublicKey if self._level == 65 else mldsa.MLDSA87PublicKey
        return _Loaded(kind.from_public_bytes(public))

    def load_private(self, secret: bytes) -> Private:
        from cryptography.hazmat.primitives.asymmetric import mldsa

        kind = mldsa.MLDSA65PrivateKey if self._level == 65 else mldsa.MLDSA87PrivateKey
        key = kind.from_seed_bytes(secret)
        return _Loaded(key, key.public_key().public_bytes_raw())


_KINDS: tuple[Algorithm, ...] = (Ed25519(), P384(), MLDSA(65, 1952, 3309), MLDSA(87, 2592, 4627))
#: By the name that key files and the command line use.
ALGORITHMS = {kind.name: kind for kind in _KINDS}
