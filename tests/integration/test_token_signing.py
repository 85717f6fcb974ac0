"""ECDSA P-384 and Ed25519 signers in a token, checked by ``cryptography`` from the public half that the token shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.token import make_token

# A process of its own: a PKCS#11 module reads its configuration once.
PROGRAM = """
import sys
sys.path[:0] = sys.argv[1].split(":")
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from dumpvault.formats.pkcs11_uri import Pkcs11Uri
from dumpvault.formats.sshkey import SigningKey
from dumpvault.stages import token
uri, algorithm, pin = Pkcs11Uri.parse(sys.argv[2], "test"), sys.argv[3], token.Pin(sys.argv[4].encode(), True)
made = token.generate(uri, "signer", algorithm, pin)
handle = token.find(uri, algorithm, pin)
assert handle.public == made.public
for number in range(12):
    data = b"x" * number * 1000
    signature = handle.sign(data)
    if algorithm == "ed25519":
        assert SigningKey(handle).signer.verifies(signature, data)
        assert not SigningKey(handle).signer.verifies(signature, data + b"!")
        continue
    r, s = int.from_bytes(signature[:48]), int.from_bytes(signature[48:])
    assert len(signature) == 96 and s <= token._ORDER // 2
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), handle.public)
    key.verify(utils.encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA384()))
"""


@pytest.mark.parametrize("algorithm", ["ed25519", "p384"])
def test_signatures_of_a_token(tmp_path: Path, algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signatures over data of any length verify, in the one spelling; the key is made for signing alone."""
    token = make_token(tmp_path / "softhsm")
    monkeypatch.setenv("SOFTHSM2_CONF", str(token.config))
    path = ":".join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, path, token.uri("signer"), algorithm, token.pin.read_text().strip()],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    listed = token.tool("--list-objects", "--type", "privkey")
    assert "sign" in listed.split("Usage:")[1].splitlines()[0]
    assert "derive" not in listed.split("Usage:")[1].splitlines()[0]
