"""Wycheproof vectors on the code that wraps keys, derives them, loads them and verifies signatures."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from dumpvault.errors import Forged
from dumpvault.formats import ecdsa, keybag
from dumpvault.formats.kem import SUITES
from dumpvault.formats.signature import ALGORITHMS
from dumpvault.formats.sshkey import Signer
from dumpvault.stages.unlock import unwrap_key
from kit import VAULT, wycheproof


@pytest.mark.shared
def test_aes_256_key_wrap(shared: Path) -> None:
    """Valid AES-256-KW vectors wrap and unwrap, invalid ones are refused naming the object, and only DEKs of 32 bytes count."""
    seen = {"valid": 0, "invalid": 0, "acceptable": 0}
    for group, test in wycheproof(shared, "aes_wrap_test.json"):
        if group["keySize"] != 256:
            continue
        seen[test["result"]] += 1
        kek, message, wrapped = (bytes.fromhex(test[k]) for k in ("key", "msg", "ct"))
        if test["result"] == "valid":
            assert keybag.wrap(kek, message) == wrapped
            assert keybag.unwrap(kek, wrapped, "keys/1/1.json") == message
        else:
            with pytest.raises(Forged, match=r"keys/1/1\.json: "):
                keybag.unwrap(kek, wrapped, "keys/1/1.json")
        if test["result"] == "valid" and len(message) == 32:
            assert unwrap_key(kek, wrapped, "keys/1/1.json") == message
        else:
            with pytest.raises(Forged, match=r"keys/1/1\.json: "):
                unwrap_key(kek, wrapped, "keys/1/1.json")
    assert seen == {"valid": 13, "invalid": 54, "acceptable": 1}


@pytest.mark.shared
def test_hkdf_sha_512(shared: Path) -> None:
    """The HKDF that derives KEK and region keys gives the published output, whole and by its expand step alone."""
    seen = 0
    for _, test in wycheproof(shared, "hkdf_sha512_test.json"):
        ikm, salt, info = (bytes.fromhex(test[k]) for k in ("ikm", "salt", "info"))
        if test["result"] == "invalid":
            with pytest.raises(ValueError, match="derive"):
                HKDF(SHA512(), test["size"], salt, info)
            continue
        seen += 1
        okm = bytes.fromhex(test["okm"])
        assert HKDF(SHA512(), test["size"], salt or None, info).derive(ikm) == okm
        assert HKDFExpand(SHA512(), test["size"], info).derive(HKDF.extract(SHA512(), salt or None, ikm)) == okm
    assert seen == 80


def test_kek_is_the_hkdf_of_the_spec() -> None:
    """KEK = HKDF-SHA-512 with the info of section 4.2, and differs by vault key, vault and attempt."""
    vk = bytes(range(32))
    info = f"dumpvault-kek@v1\n{VAULT}\n3\n".encode()
    prk = HKDF.extract(SHA512(), bytes(64), vk)
    assert keybag.derive_kek(vk, VAULT, 3) == HKDFExpand(SHA512(), 32, info).derive(prk)
    others = {
        keybag.derive_kek(*args)
        for args in ((vk, VAULT, 3), (vk, VAULT, 31), (vk, VAULT[::-1], 3), (vk[::-1], VAULT, 3))
    }
    assert len(others) == 4


@pytest.mark.shared
def test_ed25519(shared: Path) -> None:
    """Signer accepts exactly the valid signatures: no malleable, truncated, stretched or badly encoded one."""
    seen = 0
    for group, test in wycheproof(shared, "ed25519_test.json"):
        seen += 1
        signer = Signer(bytes.fromhex(group["publicKey"]["pk"]))
        verified = signer.verifies(bytes.fromhex(test["sig"]), bytes.fromhex(test["msg"]))
        assert verified == (test["result"] == "valid"), test["tcId"]
    assert seen == 151


@pytest.mark.shared
def test_x25519(shared: Path) -> None:
    """Keys loaded by the x25519 suite agree on the published secret, and an all-zero secret is refused."""
    suite = SUITES["x25519"]
    zero = 0
    for _, test in wycheproof(shared, "x25519_test.json"):
        private = suite._load_private(bytes.fromhex(test["private"]))
        public = suite._load_public(bytes.fromhex(test["public"]))
        if "ZeroSharedSecret" in test["flags"]:
            zero += 1
            with pytest.raises(ValueError, match="shared"):
                private.exchange(public)
            sealed = bytes.fromhex(test["public"]) + bytes(48)
            with pytest.raises(ValueError, match="does not open"):
                suite.open(bytes.fromhex(test["private"]), sealed, b"")
        else:
            assert private.exchange(public).hex() == test["shared"], test["tcId"]
    assert zero > 0


@pytest.mark.shared
def test_ml_kem_1024(shared: Path) -> None:
    """Seeds of the mlkem1024 suite expand to the published keys and decapsulate to the published secrets."""
    suite = SUITES["mlkem1024"]
    seen = {"valid": 0, "invalid": 0}
    for _, test in wycheproof(shared, "mlkem_1024_test.json"):
        seen[test["result"]] += 1
        seed, sealed = bytes.fromhex(test["seed"]), bytes.fromhex(test["c"])
        if test["result"] == "valid":
            assert suite.public_of(seed).hex() == test["ek"]
            assert suite._load_private(seed).decapsulate(sealed).hex() == test["K"]
        elif len(seed) != suite.private_bytes:
            with pytest.raises(ValueError, match="private mlkem1024 key has"):
                suite.public_of(seed)
        else:
            assert len(sealed) != 1568
            with pytest.raises(ValueError, match="ciphertext"):
                suite._load_private(seed).decapsulate(sealed)
    assert seen == {"valid": 153, "invalid": 40}


@pytest.mark.shared
def test_ecdsa_p384(shared: Path) -> None:
    """Signer accepts exactly the valid signatures, given as r ‖ s in the one spelling, and no s of the upper half."""
    seen = {"valid": 0, "high s": 0, "invalid": 0, "not DER": 0}
    for group, test in wycheproof(shared, "ecdsa_secp384r1_sha384_test.json"):
        signer = Signer(bytes.fromhex(group["publicKey"]["uncompressed"]), "p384")
        message, valid = bytes.fromhex(test["msg"]), test["result"] == "valid"
        try:
            r, s = decode_dss_signature(bytes.fromhex(test["sig"]))
            raw = r.to_bytes(48) + s.to_bytes(48)
        except (ValueError, OverflowError):
            assert not valid
            seen["not DER"] += 1  # a vault has no DER, and no place for such numbers
            continue
        high = valid and s > ecdsa.ORDER // 2
        seen["high s" if high else test["result"]] += 1
        assert signer.verifies(raw, message) == (valid and not high), test["tcId"]
        if high:
            assert signer.verifies(ecdsa.lower(r, s), message), test["tcId"]
    assert min(seen.values()) > 10
    assert sum(seen.values()) == 504


@pytest.mark.shared
@pytest.mark.parametrize(("algorithm", "count"), [("mldsa65", 210), ("mldsa87", 241)])
def test_ml_dsa(shared: Path, algorithm: str, count: int) -> None:
    """Signer accepts exactly the valid signatures made with the empty context string."""
    seen = {"valid": 0, "invalid": 0, "context": 0, "key": 0}
    for group, test in wycheproof(shared, f"mldsa_{algorithm[-2:]}_verify_test.json"):
        public = bytes.fromhex(group["publicKey"])
        if len(public) != ALGORITHMS[algorithm].public_length:
            seen["key"] += 1
            with pytest.raises(ValueError, match="public key"):
                Signer(public, algorithm)
            continue
        valid = test["result"] == "valid" and not test.get("ctx")
        seen["context" if test.get("ctx") else test["result"]] += 1
        verified = Signer(public, algorithm).verifies(bytes.fromhex(test["sig"]), bytes.fromhex(test["msg"]))
        assert verified == valid, test["tcId"]
    assert min(seen.values()) > 0
    assert sum(seen.values()) == count
