"""The five HPKE suites of the spec's section 4.1, against their own round trips and published HPKE vectors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives import hpke
from hypothesis import given
from hypothesis import strategies as st

from dumpvault.formats.kem import SUITES, recipient_digest

SIZES = {
    # suite: public, private, enc, post-quantum; spec section 4.1, enc from the KEM's document
    "xwing": (1216, 32, 1120, True),
    "mlkem1024": (1568, 64, 1568, True),
    "mlkem1024-p384": (1665, 112, 1665, True),
    "p384": (97, 48, 97, False),
    "x25519": (32, 32, 32, False),
}
KEYS = {name: suite.generate() for name, suite in SUITES.items()}
VK, INFO = bytes(range(32)), b"info"
SEALED = {name: suite.seal(KEYS[name][1], VK, INFO) for name, suite in SUITES.items()}
every_suite = pytest.mark.parametrize("name", SIZES)


def test_the_suites_are_those_of_the_spec() -> None:
    """Exactly the suites of section 4.1's table exist."""
    assert set(SUITES) == set(SIZES)


@every_suite
def test_sizes_are_those_of_the_table(name: str) -> None:
    """Public key, private key and sealed vault key have the sizes that the table gives."""
    public, private, enc, post_quantum = SIZES[name]
    suite = SUITES[name]
    assert (suite.public_bytes, suite.private_bytes, suite.post_quantum) == (public, private, post_quantum)
    assert (len(KEYS[name][1]), len(KEYS[name][0])) == (public, private)
    assert len(SEALED[name]) == enc + 32 + 16


@every_suite
def test_what_is_sealed_opens(name: str) -> None:
    """A vault key sealed to a generated key opens with its private half, and differs each time it is sealed."""
    private, public = KEYS[name]
    assert SUITES[name].open(private, SEALED[name], INFO) == VK
    assert SUITES[name].seal(public, VK, INFO) != SEALED[name]


@every_suite
def test_the_public_half_follows_from_the_private_one(name: str) -> None:
    """public_of gives what generate gave, two generated keys differ, and the recipient digest is plain SHA-256."""
    private, public = KEYS[name]
    assert SUITES[name].public_of(private) == public
    SUITES[name].check_public(public)
    assert SUITES[name].generate()[0] != private
    assert recipient_digest(public) == hashlib.sha256(public).hexdigest()


@every_suite
def test_another_info_or_key_is_refused(name: str) -> None:
    """Another info, another private key and another suite's message are refused with ValueError."""
    suite, private = SUITES[name], KEYS[name][0]
    for key, sealed, info in (
        (private, SEALED[name], INFO + b"\n"),
        (private, SEALED[name], b""),
        (suite.generate()[0], SEALED[name], INFO),
        *((private, sealed, INFO) for other, sealed in SEALED.items() if other != name),
    ):
        with pytest.raises(ValueError, match="does not open"):
            suite.open(key, sealed, info)


@every_suite
def test_keys_of_another_length_are_refused(name: str) -> None:
    """Keys one byte too short or too long are refused by every operation, naming the suite."""
    suite, (private, public) = SUITES[name], KEYS[name]
    for cut in (slice(-1), slice(1, None), slice(0, 0)):
        with pytest.raises(ValueError, match=f"private {name} key has"):
            suite.public_of(private[cut])
        with pytest.raises(ValueError, match=f"private {name} key has"):
            suite.open(private[cut], SEALED[name], INFO)
        with pytest.raises(ValueError, match=f"public {name} key has"):
            suite.check_public(public[cut])
        with pytest.raises(ValueError, match=f"public {name} key has"):
            suite.seal(public[cut], VK, INFO)
    with pytest.raises(ValueError, match="private"):
        suite.public_of(private + b"\0")
    with pytest.raises(ValueError, match="public"):
        suite.check_public(public + b"\0")


@every_suite
@given(data=st.data())
def test_a_changed_message_raises_nothing_but_value_error(name: str, data: st.DataObject) -> None:
    """A message with one byte changed, cut off or replaced by random bytes is refused with ValueError only."""
    sealed = bytearray(SEALED[name])
    way = data.draw(st.sampled_from(["flip", "cut", "random", "fill"]))
    if way == "flip":
        sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    elif way == "cut":
        del sealed[data.draw(st.integers(0, len(sealed) - 1)) :]
    elif way == "random":
        sealed[:] = data.draw(st.binary(max_size=300))
    else:  # low-order points and points at infinity among them
        sealed[:-48] = bytes([data.draw(st.sampled_from([0, 1, 4, 255]))]) * (len(sealed) - 48)
    # X25519 ignores the highest bit of a point (RFC 7748), but the KEMs bind enc as it was sent.
    with pytest.raises(ValueError):
        SUITES[name].open(KEYS[name][0], bytes(sealed), INFO)


@pytest.mark.parametrize("name", ["p384", "mlkem1024-p384"])
@pytest.mark.parametrize("scalar", [0, 2**384 - 1, 2**384 - 2**128 - 2**96 + 2**32 - 1])
def test_scalars_outside_the_group_order_are_refused(name: str, scalar: int) -> None:
    """A P-384 scalar of zero, or not below the group's order, is no private key."""
    private = KEYS[name][0][:-48] + scalar.to_bytes(48)
    with pytest.raises(ValueError):
        SUITES[name].public_of(private)


@pytest.mark.parametrize("name", ["p384", "mlkem1024-p384"])
def test_points_off_the_curve_are_refused(name: str) -> None:
    """A P-384 public key that is not an uncompressed point of the curve is refused when it is read."""
    public = KEYS[name][1]
    point = public[-97:]
    for wrong in (point[:-1] + bytes([point[-1] ^ 1]), b"\x02" + point[1:], b"\x00" + point[1:], bytes(97)):
        with pytest.raises(ValueError):
            SUITES[name].check_public(public[:-97] + wrong)


@pytest.mark.parametrize("name", ["xwing", "mlkem1024", "mlkem1024-p384"])
def test_lattice_keys_out_of_range_are_refused(name: str) -> None:
    """FIPS 203 section 7.2: an encapsulation key with a coefficient of q or more is refused."""
    public = KEYS[name][1]
    with pytest.raises(ValueError):
        SUITES[name].check_public(b"\xff\xff\xff" + public[3:])


@pytest.mark.parametrize("name", ["xwing", "x25519"])
def test_low_order_points_are_refused_when_sealing(name: str) -> None:
    """Sealing to an X25519 key of low order, whose shared secret anyone knows, is refused."""
    public = KEYS[name][1]
    for point in (bytes(32), b"\x01" + bytes(31)):
        with pytest.raises(ValueError):
            SUITES[name].seal(public[:-32] + point, VK, INFO)


# What hpke.json holds, by KEM code point. Only some entries have the KDF and AEAD of our suites; see its comment.
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "hpke.json").read_text())["vectors"]
BY_KEM = {0x0020: "x25519", 0x0011: "p384", 0x0042: "mlkem1024", 0x0051: "mlkem1024-p384", 0x647A: "xwing"}
KDF = {1: hpke.KDF.HKDF_SHA256, 2: hpke.KDF.HKDF_SHA384, 0x11: hpke.KDF.SHAKE256}
AEAD = {2: hpke.AEAD.AES_256_GCM, 3: hpke.AEAD.CHACHA20_POLY1305}
KEM = {0x0011: hpke.KEM.P384, 0x647A: hpke.KEM.MLKEM768_X25519}
OURS = {(0x0020, 1, 2), (0x0042, 2, 2), (0x0051, 2, 2)}
every_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['kem']:#06x}-{v['kdf']}-{v['aead']}")


def private_of(vector: dict[str, Any]) -> bytes:
    """The private key in the form that the spec stores.

    The draft's private key of 0x0051 is a 32-byte seed; SHAKE256 expands it to the ML-KEM seed (64) and candidates for
    the P-384 scalar (48 each, the first below the order counts). The spec stores the expanded parts.
    """
    private = bytes.fromhex(vector["skRm"])
    return hashlib.shake_256(private).digest(112) if vector["kem"] == 0x0051 else private


@every_vector
def test_published_private_keys_give_the_published_public_keys(vector: dict[str, Any]) -> None:
    """Key loading of every suite agrees with the published key pairs."""
    public = bytes.fromhex(vector["pkRm"])
    suite = SUITES[BY_KEM[vector["kem"]]]
    assert suite.public_of(private_of(vector)) == public
    suite.check_public(public)


@every_vector
def test_published_messages_open_with_the_loaded_keys(vector: dict[str, Any]) -> None:
    """The published first ciphertexts open with our loaded keys, under our suite where the entry is of its KDF and AEAD.

    The vectors carry an aad, which the public interface does not take; the library's own vector test opens them so.
    """
    suite = SUITES[BY_KEM[vector["kem"]]]
    used = suite._hpke
    if (vector["kem"], vector["kdf"], vector["aead"]) not in OURS:
        used = hpke.Suite(KEM[vector["kem"]], KDF[vector["kdf"]], AEAD[vector["aead"]])
    first = vector["encryptions"][0]
    plaintext = openssl.hpke._decrypt_with_aad(
        used,
        bytes.fromhex(vector["enc"] + first["ct"]),
        suite._load_private(private_of(vector)),
        info=bytes.fromhex(vector["info"]),
        aad=bytes.fromhex(first["aad"]),
    )
    assert plaintext == bytes.fromhex(first["pt"])


def test_the_vectors_cover_the_suites_that_were_published() -> None:
    """hpke.json holds our very suite for three of the five, and the KEM of each of the five."""
    assert {(v["kem"], v["kdf"], v["aead"]) for v in VECTORS} >= OURS
    assert {v["kem"] for v in VECTORS} == set(BY_KEM)
