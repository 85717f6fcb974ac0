"""The token's story: keys made in a PKCS#11 token, a capture signed and opened by it, and nothing without it.

SoftHSM 2 stands for a smart card or HSM. Each command is a process of its own, as a token is used.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from support.command import Home, Ran
from support.token import MODULE, PIN, Token, make_token
from support.vmcore import write_core
from support.words import clean


class TokenHome(Home):
    """A home whose commands see the token."""

    token: Token

    @property
    def env(self) -> dict[str, str]:
        return super().env | {"SOFTHSM2_CONF": str(self.token.config)}


@pytest.fixture
def token(tmp_path: Path) -> Token:
    return make_token(tmp_path / "softhsm")


@pytest.fixture
def home(tmp_path: Path, token: Token) -> TokenHome:
    home = TokenHome(tmp_path / "site")
    object.__setattr__(home, "token", token)
    good(home.run("init"))
    good(home.run("keys", "new", "recipient", "vault", "--kem", "p384", "--token", token.uri("vault"),
                  "--passphrase-file", token.pin))  # fmt: skip
    good(home.run("keys", "new", "signer", "collector", "--token", token.uri("collector", pin=True)))
    return home


def good(ran: Ran) -> Ran:
    assert ran.code == 0, ran.err
    return ran


def sealed(home: TokenHome, folder: Path) -> tuple[str, Path]:
    source = write_core(folder / "vmcore", 32)
    ran = good(home.run("capture", source, "--recipient", "vault", "--signer", "collector"))
    return ran.out.strip(), source


def test_the_story(home: TokenHome, token: Token, tmp_path: Path) -> None:
    """Keys in the token; capture signs there; anyone verifies; the token opens bit for bit; without it, exit 12."""
    vault, source = sealed(home, tmp_path)
    good(home.run("verify", vault))
    copy = tmp_path / "copy"
    good(home.run("open", vault, "-o", copy, "--passphrase-file", token.pin))
    assert copy.read_bytes() == source.read_bytes()
    good(home.run("verify", vault, "--with-key", "vault", "--passphrase-file", token.pin))

    token.remove()
    refused = home.run("open", vault, "-o", tmp_path / "none", "--passphrase-file", token.pin)
    assert refused.code == 12
    assert "no token site" in refused.err
    assert not (tmp_path / "none").exists()
    refused = home.run("capture", source, "--recipient", "vault", "--signer", "collector")
    assert (refused.code, "no token site" in refused.err) == (12, True)
    good(home.run("verify", vault))
    doctor = home.run("keys", "doctor", "--json")
    assert doctor.code == 12
    states = {check["name"]: check["state"] for check in doctor.json["checks"]}
    assert states["token of vault"] == states["token of collector"] == "failed"


def test_the_keys_never_leave(home: TokenHome, token: Token) -> None:
    """The token calls them sensitive and not extractable, and the home's files hold no secret."""
    listed = token.tool("--list-objects", "--type", "privkey")
    assert listed.count("Private Key Object") == 2
    assert listed.count("sensitive, always sensitive, never extractable") == 2
    for name in ("vault", "collector"):
        held = json.loads((home.path / "private" / f"{name}.key").read_text())
        assert held["secret"] == ""
        assert held["protection"]["kind"] == "pkcs11"
        assert PIN not in json.dumps(held)


def test_a_wrong_pin_is_tried_once(home: TokenHome, token: Token, tmp_path: Path) -> None:
    """One wrong PIN is told; from then on none from a file is tried until a person has entered the right one."""
    vault, _ = sealed(home, tmp_path)
    wrong = tmp_path / "wrong"
    wrong.write_text("0000")
    first = home.run("open", vault, "-o", tmp_path / "copy", "--passphrase-file", wrong)
    assert (first.code, "wrong PIN" in first.err) == (12, True)
    for pin in (wrong, token.pin):
        again = home.run("open", vault, "-o", tmp_path / "copy", "--passphrase-file", pin)
        assert (again.code, "was not tried" in again.err) == (12, True)
    token.tool("--list-objects")  # logs in by hand
    good(home.run("open", vault, "-o", tmp_path / "copy", "--passphrase-file", token.pin))
    assert "0000" not in first.err + first.out


def test_no_pin_at_hand(home: TokenHome, tmp_path: Path) -> None:
    """Without a file or a terminal there is no PIN, and none is made up."""
    vault, _ = sealed(home, tmp_path)
    ran = home.run("open", vault, "-o", tmp_path / "copy")
    assert (ran.code, "no terminal to ask on" in ran.err) == (12, True)


def test_a_pin_by_credential(home: TokenHome, token: Token, tmp_path: Path) -> None:
    """A service that was given NAME.pin needs no other."""
    vault, source = sealed(home, tmp_path)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "vault.pin").write_text(PIN)
    (credentials / "vault.pin").chmod(0o400)
    os.environ["CREDENTIALS_DIRECTORY"] = str(credentials)
    try:
        good(home.run("open", vault, "-o", tmp_path / "copy"))
    finally:
        del os.environ["CREDENTIALS_DIRECTORY"]
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


def test_a_pin_file_that_others_read(home: TokenHome, token: Token, tmp_path: Path) -> None:
    """The file that the key's URI names is held to what a private key's file is."""
    token.pin.chmod(0o644)
    ran = home.run("capture", write_core(tmp_path / "vmcore", 16), "--recipient", "vault", "--signer", "collector")
    assert (ran.code, "read by others" in ran.err) == (12, True)


def test_a_key_that_the_token_holds_already(home: TokenHome, token: Token, tmp_path: Path) -> None:
    """Made by a ceremony of its own: --existing takes it, if it is of the right kind and stays there."""
    new = ("keys", "new", "recipient", "ceremony", "--kem", "p384", "--passphrase-file", token.pin, "--token")
    token.tool("--keypairgen", "--key-type", "EC:secp384r1", "--label", "ceremony", "--usage-derive")
    again = home.run(*new, token.uri("ceremony"))
    assert (again.code, "holds such a key already" in again.err) == (1, True)
    good(home.run(*new, token.uri("ceremony"), "--existing"))
    source = write_core(tmp_path / "vmcore", 16)
    vault = good(home.run("capture", source, "--recipient", "ceremony", "--signer", "collector")).out.strip()
    good(home.run("open", vault, "-o", tmp_path / "copy", "--passphrase-file", token.pin))
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()

    token.tool("--keypairgen", "--key-type", "EC:secp256r1", "--label", "small", "--usage-derive")
    token.tool("--keypairgen", "--key-type", "EC:secp384r1", "--label", "open", "--usage-derive", "--extractable")
    for label, told in (
        ("small", "not of the kind p384"),
        ("open", "give this key away"),
        ("nothing", "no such private"),
    ):
        ran = home.run("keys", "new", "recipient", label, *new[4:], token.uri(label), "--existing")
        assert ran.code in (1, 12)
        assert told in ran.err
        assert not (home.path / "private" / f"{label}.key").exists()


def test_another_key_in_its_place(home: TokenHome, token: Token, tmp_path: Path) -> None:
    """A token whose key of that name was exchanged does not pass for the one that was listed."""
    vault, _ = sealed(home, tmp_path)
    for kind in ("privkey", "pubkey"):
        token.tool("--delete-object", "--type", kind, "--label", "vault")
    token.tool("--keypairgen", "--key-type", "EC:secp384r1", "--label", "vault", "--usage-derive")
    ran = home.run("open", vault, "-o", tmp_path / "copy", "--passphrase-file", token.pin)
    assert (ran.code, "the token's key is another one" in ran.err) == (1, True)


def test_two_tokens_of_one_label(home: TokenHome, token: Token, tmp_path: Path) -> None:
    """Which one is meant is not guessed, and no PIN is tried on either."""
    vault, _ = sealed(home, tmp_path)
    token.init("site")
    ran = home.run("open", vault, "-o", tmp_path / "copy", "--passphrase-file", token.pin)
    assert (ran.code, "2 tokens site" in ran.err) == (12, True)


@pytest.mark.parametrize(
    ("uri", "code", "told"),
    [
        ("site", 1, "no PKCS#11 URI"),
        ("pkcs11:token=site;object=x", 1, "module-path"),
        (f"pkcs11:object=x?module-path={MODULE}", 1, "must name a token"),
        (f"pkcs11:token=site?module-path={MODULE}", 1, "a key in it"),
        (f"pkcs11:token=site;object=x;object=y?module-path={MODULE}", 1, "stands twice"),
        (f"pkcs11:token=site;object=x;type=cert?module-path={MODULE}", 1, "names a cert"),
        (f"pkcs11:token=site;object=x?module-path={MODULE}&pin-value=1234", 1, "a PIN does not belong"),
        ("pkcs11:token=site;object=x?module-path=/nowhere/module.so", 12, "no such PKCS#11 module"),
        ("pkcs11:token=site;object=x?module-path=/etc/passwd", 12, "/etc/passwd"),
        (f"pkcs11:token=other;object=x?module-path={MODULE}", 12, "no token other"),
    ],
)
def test_what_names_no_key(home: TokenHome, token: Token, uri: str, code: int, told: str) -> None:
    """Each is told for what it is; a PIN in an argument is refused and not repeated."""
    ran = home.run("keys", "new", "recipient", "x", "--kem", "p384", "--token", uri, "--passphrase-file", token.pin)
    assert (ran.code, told in clean(ran)) == (code, True), ran.err
    assert "1234" not in ran.err
    assert "Traceback" not in ran.err


def test_kinds_that_a_token_cannot_hold(home: TokenHome, token: Token) -> None:
    """Post-quantum recipients are not for today's tokens: refused before the token is asked."""
    ran = home.run("keys", "new", "recipient", "x", "--token", token.uri("x"), "--passphrase-file", token.pin)
    assert (ran.code, "--kem p384" in ran.err) == (2, True)


def test_rotation_in_the_token(home: TokenHome, token: Token, tmp_path: Path) -> None:
    """The old recipient key opens old vaults, the new one new ones."""
    old, source = sealed(home, tmp_path)
    good(home.run("keys", "rotate", "vault", "--token", token.uri("vault2"), "--passphrase-file", token.pin))
    new, _ = sealed(home, tmp_path)
    for vault, name in ((old, "old"), (new, "new")):
        good(home.run("open", vault, "-o", tmp_path / name, "--passphrase-file", token.pin))
        assert (tmp_path / name).read_bytes() == source.read_bytes()
