"""ECDSA on P-384 with SHA-384 (FIPS 186-5), in the one spelling that a vault allows (spec, section 4.3).

A signature is r ‖ s, each of 48 bytes, with s in the lower half: of the two that verify, (r, s) and (r, n − s), anyone
could make one from the other, and every byte of a vault is to have a meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

__all__ = ["ORDER", "P384", "lower", "split"]

#: The order of the curve's group (FIPS 186-5, SP 800-186 section 3.2.1.4).
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
_LENGTH = 48


def split(signature: bytes) -> tuple[int, int]:
    """r and s of r ‖ s. Raises ``ValueError`` unless it is the one spelling."""
    r, s = int.from_bytes(signature[:_LENGTH]), int.from_bytes(signature[_LENGTH:])
    if len(signature) != 2 * _LENGTH or not 0 < r < ORDER or not 0 < s <= ORDER // 2:
        raise ValueError("not r and s of 48 bytes, with s in the lower half")
    return r, s


def lower(r: int, s: int) -> bytes:
    """r ‖ s in the one spelling, whichever of the two s is given."""
    return r.to_bytes(_LENGTH) + min(s, ORDER - s).to_bytes(_LENGTH)


class P384:
    """A public key is its uncompressed point, a secret the scalar, big-endian."""

    name, key_type, stock = "p384", "ecdsa-sha2-nistp384", True
    public_length, secret_length, signature_length = 97, _LENGTH, 2 * _LENGTH

    def new_secret(self) -> bytes:
        from cryptography.hazmat.primitives.asymmetric import ec

        return ec.generate_private_key(ec.SECP384R1()).private_numbers().private_value.to_bytes(_LENGTH)

    def load_public(self, public: bytes) -> _Public:
        from cryptography.hazmat.primitives.asymmetric import ec

        if len(public) != self.public_length or public[0] != 4:
            raise ValueError("not an uncompressed point of P-384")
        return _Public(ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), public))

    def load_private(self, secret: bytes) -> _Private:
        from cryptography.hazmat.primitives.asymmetric import ec

        scalar = int.from_bytes(secret)
        if len(secret) != _LENGTH or not 0 < scalar < ORDER:
            raise ValueError("not a scalar of P-384")
        return _Private(ec.derive_private_key(scalar, ec.SECP384R1()))


class _Public:
    def __init__(self, key: EllipticCurvePublicKey) -> None:
        self._key = key

    def verifies(self, signature: bytes, data: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric import ec, utils
        from cryptography.hazmat.primitives.hashes import SHA384

        try:
            self._key.verify(utils.encode_dss_signature(*split(signature)), data, ec.ECDSA(SHA384()))
        except (InvalidSignature, ValueError):
            return False
        return True


class _Private:
    def __init__(self, key: EllipticCurvePrivateKey) -> None:
        numbers = key.public_key().public_numbers()
        self._key = key
        self.public = b"\x04" + numbers.x.to_bytes(_LENGTH) + numbers.y.to_bytes(_LENGTH)

    def sign(self, data: bytes) -> bytes:
        from cryptography.hazmat.primitives.asymmetric import ec, utils
        from cryptography.hazmat.primitives.hashes import SHA384

        # RFC 6979: no nonce that a freshly booted crash kernel's generator could get wrong, and a sidecar that is made
        # again is the same.
        der = self._key.sign(data, ec.ECDSA(SHA384(), deterministic_signing=True))
        return lower(*utils.decode_dss_signature(der))
