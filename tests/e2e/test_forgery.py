"""What an insider can forge: pages by a holder of data keys, statements by listed keys of another role or host."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.cobblestone import Cobblestone256Encryptor

from dumpvault.formats import dsse, jcs, sealed
from dumpvault.formats.commit import Commit
from dumpvault.formats.header import Header
from dumpvault.formats.keybag import Keybag, WrappedKeys, derive_kek, unwrap
from dumpvault.formats.private_key import PrivateKey, parse
from dumpvault.formats.sshkey import SigningKey
from support.command import Home, make_home, seal
from support.vmcore import write_core


def private(home: Home, name: str) -> PrivateKey:
    path = home.path / "private" / f"{name}.key"
    key = parse(path.read_bytes(), str(path))
    assert isinstance(key, PrivateKey)
    return key


def signing_key(home: Home, name: str) -> SigningKey:
    return SigningKey(private(home, name).secret)


@pytest.fixture
def vault(home: Home, tmp_path: Path) -> Path:
    path = home.vaults / seal(home, write_core(tmp_path / "vmcore", 300), "--region-size", "512K", "--compress", "none")
    for file in path.rglob("*"):
        if file.is_file():
            file.chmod(0o600)
    return path


def resign(path: Path, key: SigningKey, change: dict[str, Any], kind: str) -> None:
    """Sign a changed predicate of the statement in ``path`` with ``key``."""
    statement = dsse.parse(path.read_bytes(), path.name, 8 << 20).statement(kind)
    changed = dsse.Statement(kind, statement.subject, statement.digest, statement.predicate | change)
    path.write_bytes(dsse.sign(changed, [key]))


def refused(home: Home, vault: Path, tmp_path: Path, *named: str) -> None:
    for ran in (home.call("verify", vault.name), home.call("open", vault.name, "-o", tmp_path / "out")):
        assert ran.code == 10, ran.err
        for name in named:
            assert name in ran.err
    assert not (tmp_path / "out").exists()


def test_page_reencrypted_with_its_own_data_key(home: Home, vault: Path, tmp_path: Path) -> None:
    """A recipient reseals a region with another page in it, same key, salt, commitment and lengths: the list catches it."""
    analyst = private(home, "analyst")
    header_data = (vault / "vault.dsse.json").read_bytes()
    header_digest = hashlib.sha256(header_data).hexdigest()
    bag = Keybag.read((vault / "keybag/1.json").read_bytes(), vault.name, 1, "keybag")
    recipient = hashlib.sha256(analyst.public).hexdigest()
    kek = derive_kek(bag.open(recipient, analyst.secret, header_digest, "keybag"), vault.name, 1)
    keys = WrappedKeys.read((vault / "keys/1/1.json").read_bytes(), vault.name, 1, 1, "keys")
    index, wrapped = keys.keys[-1]
    dek = unwrap(kek, wrapped, "keys")
    header = Header.read(dsse.parse(header_data, "header"), vault.name)
    commit = Commit.read(
        dsse.parse((vault / "commits/1.dsse.json").read_bytes(), "commit", 8 << 20), vault.name, 1,
        hashlib.sha256((vault / "commits/0.dsse.json").read_bytes()).hexdigest(), header_digest,
    )  # fmt: skip
    record = commit.body.regions[-1]  # type: ignore[union-attr]
    assert header.region_size == 512 << 10

    body = vault / f"regions/1/{index}.sealed"
    data = body.read_bytes()
    message = data[: record.message]
    bound = sealed.context(vault.name, 1, index, record.kind, record.offset, record.codec)
    assert sealed.opens(dek, bound, message[:56])
    # The chunk cipher with the message's own key and nonce: what the holder of a data key can compute.
    key, nonce, _ = sealed._derive(dek, bound, message[:24])
    forged = sealed.AESGCM(key).encrypt(nonce, b"\x90" * 16384, None)
    body.write_bytes(message[:56] + forged + data[56 + len(forged) :])
    assert len(body.read_bytes()) == len(data)
    refused(home, vault, tmp_path, f"regions/1/{index}.sealed", "block at byte 0x0")


def test_whole_region_resealed_by_a_recipient(home: Home, vault: Path, tmp_path: Path) -> None:
    """Resealing all of it, with a matching block list of one's own, changes the list's digest."""
    body = vault / "regions/1/1.sealed"
    size = len(body.read_bytes())
    message = Cobblestone256Encryptor(bytes(32), b"x")
    sealed_bytes = message.update(bytes(sealed_plaintext(size))) + message.finalize()
    body.write_bytes(sealed_bytes + hashlib.sha256(sealed_bytes).digest())
    assert len(body.read_bytes()) == size
    refused(home, vault, tmp_path, "regions/1/1.sealed")


def sealed_plaintext(size: int) -> int:
    """Plaintext bytes of a one-block object of ``size`` bytes."""
    message = size - 32
    return next(n for n in range(message) if sealed.message_bytes(n) == message)


@pytest.mark.parametrize("role", ["analyst", "custodian", "officer", "auditor", "log"])
@pytest.mark.parametrize(("name", "kind"), [("commits/1.dsse.json", "commit"), ("manifest.dsse.json", "manifest")])
def test_listed_key_of_another_role(home: Home, vault: Path, tmp_path: Path, role: str, name: str, kind: str) -> None:
    """A key that the site trusts for something else may not sign commits or manifests."""
    assert home.call("keys", "new", "signer", "other", "--role", role, "--unprotected").code == 0
    resign(vault / name, signing_key(home, "other"), {}, kind)
    refused(home, vault, tmp_path, name, "other", f"dumpvault-{kind}@v1")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("vault.dsse.json", "header"), ("commits/1.dsse.json", "commit"), ("manifest.dsse.json", "manifest")],
)
def test_collector_of_another_host(home: Home, vault: Path, tmp_path: Path, name: str, kind: str) -> None:
    """A listed collector, role and all, may not sign for a vault whose header does not name its key."""
    assert home.call("keys", "new", "signer", "second", "--unprotected").code == 0
    resign(vault / name, signing_key(home, "second"), {}, kind)
    refused(home, vault, tmp_path, name, "second")


def test_header_for_another_host(home: Home, tmp_path: Path) -> None:
    """A key bound to db1 makes a whole, well-signed vault that claims to be db2's: its very header is refused."""
    assert home.call("keys", "new", "signer", "second@db1", "--unprotected").code == 0
    vmcore = write_core(tmp_path / "vmcore")
    arguments = ("capture", vmcore, "--recipient", "analyst", "--signer", "second@db1", "--host")
    own = home.call(*arguments, "db1")
    assert (own.code, home.call("verify", own.out.strip()).code) == (0, 0)
    early = home.call(*arguments, "db2")
    assert early.code == 12
    assert "db2" in early.err
    # The same with a trust file that does not bind, as a thief of the key would do it.
    loose = make_home(tmp_path / "loose")
    (loose.path / "private" / "second.key").write_bytes((home.path / "private" / "second@db1.key").read_bytes())
    (loose.path / "private" / "second.key").chmod(0o600)
    line = next(line for line in (home.path / "keys/allowed_signers").read_text().splitlines() if "second@db1" in line)
    (loose.path / "keys/allowed_signers").write_text(line.replace("second@db1", "second") + "\n")
    forged = loose.call("capture", vmcore, "--recipient", "analyst", "--signer", "second", "--host", "db2")
    assert forged.code == 0, forged.err
    ran = home.call("verify", forged.out.strip(), "--store", loose.path / "store")
    assert ran.code == 10
    assert "vault.dsse.json" in ran.err
    assert "db2" in ran.err


def test_unlisted_signer(home: Home, vault: Path, tmp_path: Path) -> None:
    """Without its line in allowed_signers a collector's vault is nobody's."""
    (home.path / "keys/allowed_signers").write_text("")
    ran = home.call("verify", vault.name)
    assert ran.code == 10
    assert "not in" in ran.err


def test_manifest_that_lies_about_totals(home: Home, vault: Path, tmp_path: Path) -> None:
    """Even the right key cannot certify what the chain does not say."""
    resign(vault / "manifest.dsse.json", signing_key(home, "collector"), {"size": "0x1000"}, "manifest")
    refused(home, vault, tmp_path, "manifest.dsse.json", "totals")


def test_expired_collector(home: Home, vault: Path) -> None:
    """``valid-before`` in allowed_signers is obeyed."""
    path = home.path / "keys/allowed_signers"
    path.write_text(path.read_text().replace("collector namespaces", 'collector valid-before="20200101Z",namespaces'))
    ran = home.call("verify", vault.name)
    assert ran.code == 10
    assert "was valid only before" in ran.err


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b'{"payload":"","payload":"","payloadType":"x","signatures":[]}', "stands twice"),
        (b'{"payload":1.5,"payloadType":"x","signatures":[]}', "fraction"),
        (b"[" * 200 + b"]" * 200, "nested deeper"),
        (b"\xff\xfe", "UTF-8"),
        (b"", "not JSON"),
    ],
)
def test_hostile_json(home: Home, vault: Path, tmp_path: Path, text: bytes, what: str) -> None:
    """Duplicate keys, floats, 200 levels, bad text: refused by name, in header, commit and manifest alike."""
    for name in ("vault.dsse.json", "commits/1.dsse.json", "manifest.dsse.json"):
        before = (vault / name).read_bytes()
        (vault / name).write_bytes(text)
        refused(home, vault, tmp_path, name, what)
        (vault / name).write_bytes(before)


def test_newer_format(home: Home, vault: Path, tmp_path: Path) -> None:
    """A format that this program does not know is refused with its number."""
    resign(vault / "vault.dsse.json", signing_key(home, "collector"), {"format": 2}, "header")
    refused(home, vault, tmp_path, "vault.dsse.json", "format 2")


def test_replacing_the_policy(home: Home, vault: Path, tmp_path: Path) -> None:
    """A header whose policy text does not match its digest is refused even when well signed."""
    statement = dsse.parse((vault / "vault.dsse.json").read_bytes(), "h").statement("header")
    policy = statement.predicate["policy"] | {"text": "laxer"}
    resign(vault / "vault.dsse.json", signing_key(home, "collector"), {"policy": policy}, "header")
    refused(home, vault, tmp_path, "vault.dsse.json")


def test_json_helpers_are_not_fooled() -> None:
    """The forging helper really produces well-signed envelopes (else the tests above would prove nothing)."""
    key = SigningKey(bytes(32))
    data = dsse.sign(dsse.Statement("header", "policy.toml", "00" * 32, {"a": "b"}), [key])
    envelope = dsse.parse(data, "x")
    assert key.signer.verifies(envelope.signatures[0][1], dsse.pae(envelope.payload))
    assert json.loads(data)["payloadType"] == "application/vnd.in-toto+json"
    assert jcs.decode(envelope.payload, "x", 1 << 20)["predicate"] == {"a": "b"}
    assert replace(envelope, name="y").payload == envelope.payload
