"""Signers of every algorithm: spellings, sizes, SSHSIG against ssh-keygen, mixed envelopes (spec, sections 4.3 and 5)."""

from __future__ import annotations

import base64
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, utils
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dumpvault.errors import BadInput, Forged
from dumpvault.formats import dsse, ecdsa, private_key
from dumpvault.formats.allowed_signers import AllowedSigners, line_for
from dumpvault.formats.dsse import Envelope, Statement, pae, parse, sign
from dumpvault.formats.header import Header, Listed, PolicyText, Source
from dumpvault.formats.private_key import PrivateKey
from dumpvault.formats.signature import ALGORITHMS
from dumpvault.formats.sshkey import Signer, SigningKey, sshsig, verify_sshsig
from kit import VAULT

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
NAMESPACE = "dumpvault-manifest@v1"
STATEMENT = Statement("commit", "vault.dsse.json", "ab" * 32, {"a": 1})
KEYS = {name: SigningKey(bytes(range(1, kind.secret_length + 1)), name) for name, kind in ALGORITHMS.items()}
each = pytest.mark.parametrize("name", list(ALGORITHMS))
stock = pytest.mark.parametrize("name", ["ed25519", "p384"])


def listing(*names: str, role: str = "collector") -> AllowedSigners:
    return AllowedSigners("".join(line_for(name, KEYS[name].signer, role) for name in names))


def keygen() -> str:
    tool = shutil.which("ssh-keygen")
    if not tool:
        pytest.skip("NOT TESTED: no ssh-keygen here")
    return tool


@each
def test_a_key_signs_and_its_line_is_read_back(name: str) -> None:
    """Signatures have the spec's length and verify under the key that its line and blob give, over nothing else."""
    key, kind = KEYS[name], ALGORITHMS[name]
    signature = key.sign(b"message")
    assert (len(signature), len(key.signer.public)) == (kind.signature_length, kind.public_length)
    for signer in (Signer.from_line(key.signer.line + " comment"), Signer.from_blob(key.signer.blob)):
        assert (signer, signer.keyid, signer.algorithm) == (key.signer, key.signer.keyid, kind)
        assert signer.verifies(signature, b"message")
        assert not signer.verifies(signature, b"messagf")
        for wrong in (b"", signature[:-1], signature + b"\0", bytes(len(signature)), b"\xff" * len(signature)):
            assert not signer.verifies(wrong, b"message")
    for other in KEYS.values():
        assert other.signer.verifies(signature, b"message") == (other is key)


@each
def test_every_bit_of_a_signature_counts(name: str) -> None:
    """One flipped bit in any byte of a signature, or in the message, and it does not verify."""
    signature = KEYS[name].sign(b"m")
    for at in range(0, len(signature), max(1, len(signature) // 97)):
        changed = bytearray(signature)
        changed[at] ^= 1 << at % 8
        assert not KEYS[name].signer.verifies(bytes(changed), b"m")


@each
@pytest.mark.parametrize("by", [-1, 1])
def test_keys_of_another_length_are_refused(name: str, by: int) -> None:
    """Public and private halves a byte too short or too long are refused, as are blobs that hold them."""
    kind, signer = ALGORITHMS[name], KEYS[name].signer
    with pytest.raises(ValueError):
        SigningKey(bytes([1]) * (kind.secret_length + by), name)
    public = (signer.public + b"\0")[: kind.public_length + by]
    with pytest.raises(ValueError):
        Signer(public, name)
    head = signer.blob[: -kind.public_length - 4]
    with pytest.raises(ValueError, match="the key blob is not"):
        Signer.from_blob(head + struct.pack(">I", len(public)) + public)
    with pytest.raises(ValueError):
        Signer.from_blob((signer.blob + b"\0")[: len(signer.blob) + by])


def test_the_encodings_are_those_of_the_library() -> None:
    """Secrets of 4.3 are RFC 8032 and FIPS 204 seeds and a scalar; signatures verify with the plain library calls."""
    point = ec.derive_private_key(int.from_bytes(bytes(range(1, 49))), ec.SECP384R1()).public_key()
    assert KEYS["p384"].signer.public == point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    raw = KEYS["p384"].sign(b"m")
    r, s = int.from_bytes(raw[:48]), int.from_bytes(raw[48:])
    point.verify(utils.encode_dss_signature(r, s), b"m", ec.ECDSA(SHA384()))
    seeded = mldsa.MLDSA87PrivateKey.from_seed_bytes(bytes(range(1, 33)))
    assert KEYS["mldsa87"].signer.public == seeded.public_key().public_bytes_raw()
    seeded.public_key().verify(KEYS["mldsa87"].sign(b"m"), b"m")
    assert KEYS["mldsa87"].signer.verifies(seeded.sign(b"m"), b"m")
    assert not KEYS["mldsa87"].signer.verifies(seeded.sign(b"m", b"context"), b"m")


def test_ecdsa_has_one_spelling() -> None:
    """s in the lower half only; no DER; neither r nor s zero or past the order; the same message signs to the same bytes."""
    key = KEYS["p384"]
    for i in range(20):
        message = bytes([i])
        raw = key.sign(message)
        r, s = ecdsa.split(raw)
        assert s <= ecdsa.ORDER // 2
        assert raw == key.sign(message)
        for wrong in (
            r.to_bytes(48) + (ecdsa.ORDER - s).to_bytes(48),
            utils.encode_dss_signature(r, s),
            bytes(48) + raw[48:],
            raw[:48] + bytes(48),
            ecdsa.ORDER.to_bytes(48) + raw[48:],
            raw[:48] + ecdsa.ORDER.to_bytes(48),
        ):
            assert not key.signer.verifies(wrong, message)


def test_points_that_are_none_are_refused() -> None:
    """Compressed, hybrid, infinite and off-curve points are no public keys; nor are scalars 0 and n."""
    public = KEYS["p384"].signer.public
    compressed = bytes([2 + public[-1] % 2]) + public[1:49]
    for wrong in (compressed, bytes([6 + public[-1] % 2]) + public[1:], b"\0", bytes(97), public[:-1] + b"\0"):
        with pytest.raises(ValueError):
            Signer(wrong, "p384")
    for scalar in (0, ecdsa.ORDER, 2**384 - 1):
        with pytest.raises(ValueError, match="not a scalar"):
            SigningKey(scalar.to_bytes(48), "p384")


@each
def test_a_line_of_one_type_with_a_blob_of_another_is_refused(name: str) -> None:
    """The word before the base64 is the type inside it."""
    for other in ALGORITHMS:
        line = f"{ALGORITHMS[other].key_type} {base64.b64encode(KEYS[name].signer.blob).decode()}"
        if other == name:
            assert Signer.from_line(line) == KEYS[name].signer
        else:
            with pytest.raises(ValueError, match="not that of an"):
                Signer.from_line(line)


@stock
def test_ssh_keygen_accepts_the_sidecar(name: str, tmp_path: Path) -> None:
    """Stock ssh-keygen -Y verify takes our SSHSIG from a trust file that begins and ends with ML-DSA lines it skips."""
    names = ("mldsa65", name, "mldsa87")
    (tmp_path / "allowed").write_text("".join(line_for(n, KEYS[n].signer, "collector") for n in names))
    for i in range(8):  # r and s with and without a leading zero byte
        message = b"%d" % i
        (tmp_path / "sig").write_bytes(armored := sshsig(KEYS[name], NAMESPACE, message))
        command = [keygen(), "-Y", "verify", "-f", "allowed", "-I", name, "-n", NAMESPACE, "-s", "sig"]
        done = subprocess.run(command, input=message, cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert KEYS[name].signer.keyid.encode() in done.stdout
        assert subprocess.run(command, input=b"x", cwd=tmp_path, capture_output=True, check=False).returncode != 0
        assert verify_sshsig(armored, NAMESPACE, message) == KEYS[name].signer


def test_we_read_ecdsa_of_ssh_keygen(tmp_path: Path) -> None:
    """A P-384 key and signature of stock ssh-keygen are read; one whose s is in the upper half is refused, as specified."""
    run = [keygen(), "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", "key"]
    subprocess.run(run, cwd=tmp_path, check=True)
    signer = Signer.from_line((tmp_path / "key.pub").read_text())
    assert signer.algorithm.name == "p384"
    seen = set()
    for i in range(64):
        (tmp_path / "m").write_bytes(b"%d" % i)
        (tmp_path / "m.sig").unlink(missing_ok=True)
        command = [keygen(), "-Y", "sign", "-f", "key", "-n", NAMESPACE, "m"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        try:
            assert verify_sshsig((tmp_path / "m.sig").read_bytes(), NAMESPACE, b"%d" % i) == signer
            seen.add("low")
        except ValueError as error:
            assert "lower half" in str(error)
            seen.add("high")
        if len(seen) == 2:
            break
    assert seen == {"low", "high"}


def test_every_bit_of_an_ecdsa_sidecar_counts() -> None:
    """Any one bit of the blob changed is refused with ValueError."""
    armored = sshsig(KEYS["p384"], NAMESPACE, b"m")
    blob = base64.b64decode(b"".join(armored.splitlines()[1:-1]))
    for at in range(len(blob)):
        changed = bytearray(blob)
        changed[at] ^= 1 << at % 8
        text = base64.b64encode(changed).decode()
        lines = [text[i : i + 70] for i in range(0, len(text), 70)]
        again = "\n".join(["-----BEGIN SSH SIGNATURE-----", *lines, "-----END SSH SIGNATURE-----", ""]).encode()
        with pytest.raises(ValueError):
            verify_sshsig(again, NAMESPACE, b"m")


@pytest.mark.parametrize("name", ["mldsa65", "mldsa87"])
def test_ml_dsa_makes_no_sidecar(name: str) -> None:
    """OpenSSH would not know what to do with it."""
    with pytest.raises(ValueError, match="OpenSSH has no signature"):
        sshsig(KEYS[name], NAMESPACE, b"m")


@each
def test_trust_lines_of_every_type_are_read(name: str) -> None:
    """A line of each type gives its roles, with and without options, and a damaged one is named."""
    listed = listing(*ALGORITHMS)
    assert not listed.problems
    (entry,) = listed.by_keyid(KEYS[name].signer.keyid)
    assert (entry.principal, entry.signer) == (name, KEYS[name].signer)
    assert entry.has_role("dumpvault-commit@v1", None, NOW)
    bare = AllowedSigners(f"alice {KEYS[name].signer.line}\n")
    assert [key.namespaces for key in bare.keys] == [()]
    assert AllowedSigners(f"alice {KEYS[name].signer.line[:-8]}\n").problems


@each
def test_private_keys_are_read_back(name: str) -> None:
    """Key files hold each algorithm; a public line in their place is named as such; halves that do not fit are refused."""
    key = PrivateKey("n", "signer", name, bytes(range(1, ALGORITHMS[name].secret_length + 1)))
    assert key.public == KEYS[name].signer.public
    data = private_key.unprotected(key)
    assert private_key.parse(data, "n.key") == key
    with pytest.raises(BadInput, match="public key where a private one"):
        private_key.parse(KEYS[name].signer.line.encode(), "n.key")
    other = "mldsa87" if name == "mldsa65" else "mldsa65"
    with pytest.raises(BadInput):
        private_key.parse(data.replace(f'"algorithm":"{name}"'.encode(), f'"algorithm":"{other}"'.encode()), "n.key")


def test_each_signature_is_reported() -> None:
    """Good, bad, foreign, role-less and unpinned signatures side by side: each is said for itself."""
    keys = [KEYS[n] for n in ("p384", "mldsa87", "ed25519", "mldsa65")]
    stranger = SigningKey(bytes(32))
    envelope = parse(sign(STATEMENT, [*keys, stranger]), "commits/0.dsse.json")
    good = listing("p384", "mldsa87", "ed25519").keys + listing("mldsa65", role="analyst").keys
    trust = AllowedSigners("")
    trust.keys = good
    pinned = {KEYS[n].signer.keyid for n in ("p384", "mldsa87", "mldsa65")}
    found = envelope.assess("commit", trust, NOW, pinned=pinned)
    assert [(f.principal, f.algorithm, f.counts, f.verified, f.stock_checkable) for f in found] == [
        ("p384", "p384", True, True, True),
        ("mldsa87", "mldsa87", True, True, False),
        ("ed25519", "ed25519", False, True, True),
        ("mldsa65", "mldsa65", False, True, False),
        (stranger.signer.keyid, "", False, None, False),
    ]
    assert "not a signer of this vault" in found[2].objection
    assert "may not sign" in found[3].objection
    assert envelope.good(found) == (KEYS["p384"].signer.keyid, KEYS["mldsa87"].signer.keyid)


@each
def test_one_bad_signature_that_counts_spoils_the_good_ones(name: str) -> None:
    """Any one of four that is damaged is refused while it counts, and passed over and reported where it does not."""
    signed = parse(sign(STATEMENT, list(KEYS.values())), "commits/0.dsse.json")
    spoiled = Envelope(
        signed.name,
        signed.payload,
        tuple((k, s[:-1] + bytes([s[-1] ^ 1]) if k == KEYS[name].signer.keyid else s) for k, s in signed.signatures),
    )
    with pytest.raises(Forged, match=rf"the signature of {name} .* does not verify"):
        spoiled.check("commit", listing(*ALGORITHMS), NOW)
    others = [n for n in ALGORITHMS if n != name]
    assert len(spoiled.check("commit", listing(*others), NOW)) == 3
    pinned = {KEYS[n].signer.keyid for n in others}
    found = {f.principal: f for f in spoiled.assess("commit", listing(*ALGORITHMS), NOW, pinned=pinned)}
    assert (found[name].counts, found[name].verified) == (False, False)


def test_a_signature_under_another_key_s_id_does_not_count() -> None:
    """Signatures of two algorithms exchanged between their key ids are refused, not an error."""
    signed = parse(sign(STATEMENT, [KEYS["p384"], KEYS["mldsa65"]]), "x")
    (a, first), (b, second) = signed.signatures
    with pytest.raises(Forged, match="does not verify"):
        Envelope("x", signed.payload, ((a, second), (b, first))).check("commit", listing("p384", "mldsa65"), NOW)


def test_sixteen_ml_dsa_87_signers_fit() -> None:
    """A header with every bounded field full, signed by sixteen ML-DSA-87 keys, keeps to 1 MiB and is read back."""
    from dumpvault.formats.elf import Load

    keys = [SigningKey(bytes([i]) * 32, "mldsa87") for i in range(16)]
    memory = tuple(Load(2**63 + i, 2**62 + i, 2**61 + i) for i in range(1024))
    header = Header(
        VAULT, "2026-11-23T12:00:00Z", "t" * 100, "h" * 255, "b" * 36,
        Source("opaque", "s" * 4096, 2**63, 2**63, "ab" * 32, None, memory), 1 << 26, 1 << 16,
        PolicyText("p" * 64, '"' * 65536), tuple(key.signer for key in keys),
        tuple(Listed("n" * 64, "mlkem1024-p384", f"{i:064x}") for i in range(128)),
    )  # fmt: skip
    data = sign(header.statement(), keys)
    assert len(data) < dsse.LIMIT
    assert Header.read(parse(data, "vault.dsse.json"), VAULT) == header
    with pytest.raises(Forged, match="twice"):
        doubled = replace(header, signers=(keys[0].signer,) * 2)
        Header.read(parse(sign(doubled.statement(), keys), "vault.dsse.json"), VAULT)


def test_ml_dsa_is_not_loaded_unless_it_is_used() -> None:
    """Sealing with Ed25519 or P-384 does not import the library's ML-DSA, whatever the list of trust holds; using it does."""
    program = (
        "import sys; from dumpvault.flows import capture; from dumpvault.formats.sshkey import SigningKey, sshsig\n"
        "from dumpvault.formats.allowed_signers import AllowedSigners\n"
        "for name, length in (('ed25519', 32), ('p384', 48)): sshsig(SigningKey(bytes([1]) * length, name), 'n', b'')\n"
        "(pq,) = AllowedSigners(sys.stdin.read()).keys\n"
        "print('cryptography.hazmat.primitives.asymmetric.mldsa' in sys.modules)\n"
        "pq.signer.verifies(b'', b'')\n"
        "print('cryptography.hazmat.primitives.asymmetric.mldsa' in sys.modules)\n"
    )
    path = f"import sys; sys.path[:0] = {sys.path!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", path + program], input=line_for("pq", KEYS["mldsa87"].signer, "collector"),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["False", "True"]


def test_dsse_and_sshsig_share_no_signed_bytes() -> None:
    """One key signs both; what it signs begins differently, so neither signature stands for the other."""
    key = KEYS["p384"]
    assert pae(b"").startswith(b"DSSEv1 ")
    blob = base64.b64decode(b"".join(sshsig(key, NAMESPACE, b"m").splitlines()[1:-1]))
    assert blob.startswith(b"SSHSIG")
    assert not key.signer.verifies(key.sign(pae(b"m")), b"m")
