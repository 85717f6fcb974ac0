"""HPKE with a Diffie-Hellman done elsewhere: published vectors, and ``cryptography``'s own HPKE both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from dumpvault.formats.dhkem import P384, Dhkem
from dumpvault.formats.kem import SUITES

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "dhkem.json").read_text())["vectors"]
DHKEMS = {
    16: Dhkem(0x0010, 0x0001, ec.SECP256R1(), hashes.SHA256(), 65),
    18: Dhkem(0x0012, 0x0003, ec.SECP521R1(), hashes.SHA512(), 133),
}
SUITE = SUITES["p384"]


class InMemory:
    """A ``TokenHandle`` over a key in memory: ``ecdh`` is what a token's CKM_ECDH1_DERIVE gives."""

    def __init__(self, private: bytes) -> None:
        self._key = ec.derive_private_key(int.from_bytes(private), ec.SECP384R1())
        self.public = SUITE.public_of(private)

    def ecdh(self, point: bytes) -> bytes:
        return self._key.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), point))

    def sign(self, data: bytes) -> bytes:
        raise AssertionError("a recipient does not sign")


PRIVATE, PUBLIC = SUITE.generate()
HANDLE = InMemory(PRIVATE)
SEALED = SUITE.seal(PUBLIC, bytes(range(32)), b"info")


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"kem {v['kem']}")
def test_published_vectors(vector: dict[str, Any]) -> None:
    """Decap, key schedule and first message of the CFRG's vectors for P-256 and P-521 (none was published for P-384)."""
    dhkem = DHKEMS[vector["kem"]]
    private = ec.derive_private_key(int(vector["skRm"], 16), dhkem.curve)
    enc, public = bytes.fromhex(vector["enc"]), bytes.fromhex(vector["pkRm"])
    dh = private.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(dhkem.curve, enc))
    shared = dhkem.decap(dh, enc + public)
    assert shared.hex() == vector["shared_secret"]
    key, nonce = dhkem.key_schedule(shared, bytes.fromhex(vector["info"]))
    assert (key.hex(), nonce.hex()) == (vector["key"], vector["base_nonce"])
    (first,) = vector["encryptions"]
    opened = AESGCM(key).decrypt(nonce, bytes.fromhex(first["ct"]), bytes.fromhex(first["aad"]))
    assert opened.hex() == first["pt"]


@given(secret=st.binary(max_size=100), info=st.binary(max_size=200))
def test_opens_what_cryptography_seals(secret: bytes, info: bytes) -> None:
    """For any plaintext and info, and to the same result as cryptography's own opening."""
    sealed = SUITE.seal(PUBLIC, secret, info)
    assert SUITE.open(HANDLE, sealed, info) == secret == SUITE.open(PRIVATE, sealed, info)


@given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(index: int, flip: int) -> None:
    """No byte of enc or ciphertext can be another one."""
    changed = bytearray(SEALED)
    changed[index] ^= flip
    with pytest.raises(ValueError, match=r".*"):
        SUITE.open(HANDLE, bytes(changed), b"info")


@pytest.mark.parametrize("sealed", [
    b"", SEALED[:1], SEALED[:96], SEALED[:97], SEALED[:112], SEALED[:-1], SEALED + b"\0", b"\0" * len(SEALED),
    b"\2" + SEALED[1:49] + SEALED[97:],
])  # fmt: skip
def test_malformed_messages_are_refused(sealed: bytes) -> None:
    """Cut off, extended, the point at infinity, a compressed point: a ValueError, before the token is asked or after."""
    with pytest.raises(ValueError, match=r".*"):
        SUITE.open(HANDLE, sealed, b"info")


def test_a_point_off_the_curve_never_reaches_the_token() -> None:
    """An invalid-curve point could draw a token's key out of it bit by bit."""

    class Never(InMemory):
        def ecdh(self, point: bytes) -> bytes:
            raise AssertionError("the token was asked")

    off = bytearray(SEALED)
    off[60] ^= 1
    with pytest.raises(ValueError, match=r".*"):
        SUITE.open(Never(PRIVATE), bytes(off), b"info")


def test_other_info_or_key_is_refused() -> None:
    """What binds a message binds it here too."""
    with pytest.raises(ValueError, match="does not open"):
        SUITE.open(HANDLE, SEALED, b"other")
    with pytest.raises(ValueError, match="does not open"):
        SUITE.open(InMemory(SUITE.generate()[0]), SEALED, b"info")


def test_other_suites_are_not_for_tokens() -> None:
    """A handle stands for a P-384 key and nothing else."""
    for name in set(SUITES) - {"p384"}:
        with pytest.raises(ValueError, match="cannot be in a token"):
            SUITES[name].open(HANDLE, SEALED, b"info")


def test_the_spec_s_code_points() -> None:
    """Section 4.1's row."""
    assert (P384.kem, P384.kdf, P384.point) == (0x0011, 0x0002, SUITE.public_bytes)
