"""HPKE opened with a Diffie-Hellman that is done elsewhere: a private key that its token does not give away.

RFC 9180, base mode, single shot: section 4 (labels), 4.1 (DHKEM's Decap), 5.1 (the key schedule), 6.1 (Open), with HKDF,
ECDH and AES-256-GCM from ``cryptography``. Keys that are in memory are opened by ``cryptography``'s own HPKE (``kem.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

__all__ = ["P384", "Dhkem"]

_MODE_BASE = b"\x00"
_AES_256_GCM = 0x0002
_KEY, _NONCE = 32, 12


@dataclass(frozen=True, slots=True)
class Dhkem:
    """DHKEM over a NIST curve with the HKDF of the same hash, and AES-256-GCM.

    ``kem`` and ``kdf`` are the code points of RFC 9180 section 7; ``point`` is the length in bytes of an uncompressed point.
    """

    kem: int
    kdf: int
    curve: ec.EllipticCurve
    hash: hashes.HashAlgorithm
    point: int

    def open(self, public: bytes, ecdh: Callable[[bytes], bytes], sealed: bytes, info: bytes) -> bytes:
        """The plaintext of ``sealed`` = enc ‖ ciphertext (empty aad).

        ``public`` is the recipient's uncompressed point; ``ecdh`` gives the x-coordinate of its private key times the
        point it is given, which is on the curve. Raises ``ValueError`` if ``sealed`` is not for this key and ``info``.
        """
        enc, ciphertext = sealed[: self.point], sealed[self.point :]
        ec.EllipticCurvePublicKey.from_encoded_point(
            self.curve, enc
        )  # DeserializePublicKey: on the curve, not infinity
        if len(enc) != self.point or enc[:1] != b"\x04":
            raise ValueError("the encapsulated key is not an uncompressed point")
        shared = self.decap(ecdh(enc), enc + public)
        key, nonce = self.key_schedule(shared, info)
        try:
            return AESGCM(key).decrypt(nonce, ciphertext, b"")
        except InvalidTag:
            raise ValueError("the HPKE message does not open with this key") from None

    def decap(self, dh: bytes, kem_context: bytes) -> bytes:
        """ExtractAndExpand of section 4.1; Nsecret is the hash's length (table 2)."""
        suite = b"KEM" + self.kem.to_bytes(2)
        return self._expand(
            suite, self._extract(suite, b"", b"eae_prk", dh), b"shared_secret", kem_context, self.hash.digest_size
        )

    def key_schedule(self, shared: bytes, info: bytes) -> tuple[bytes, bytes]:
        """KeyScheduleR of section 5.1 without a PSK: key and base nonce."""
        suite = b"HPKE" + self.kem.to_bytes(2) + self.kdf.to_bytes(2) + _AES_256_GCM.to_bytes(2)
        context = (
            _MODE_BASE + self._extract(suite, b"", b"psk_id_hash", b"") + self._extract(suite, b"", b"info_hash", info)
        )
        secret = self._extract(suite, shared, b"secret", b"")
        return (
            self._expand(suite, secret, b"key", context, _KEY),
            self._expand(suite, secret, b"base_nonce", context, _NONCE),
        )

    def _extract(self, suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
        """LabeledExtract."""
        return HKDF.extract(self.hash, salt, b"HPKE-v1" + suite + label + ikm)

    def _expand(self, suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
        """LabeledExpand."""
        return HKDFExpand(self.hash, length, length.to_bytes(2) + b"HPKE-v1" + suite + label + info).derive(prk)


#: The suite ``p384`` of the spec's section 4.1.
P384 = Dhkem(0x0011, 0x0002, ec.SECP384R1(), hashes.SHA384(), 97)
