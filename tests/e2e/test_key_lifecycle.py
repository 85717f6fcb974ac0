"""Keys from their making to their end: look-up, credentials, rotation, ends of validity, revocation; and every bad one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from support.command import Home, Ran, make_home, seal
from support.vmcore import write_core
from support.words import clean

ARGUMENTS = ("--recipient", "analyst", "--signer", "collector")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "site")


@pytest.fixture
def vmcore(tmp_path: Path) -> Path:
    return write_core(tmp_path / "vmcore", 32)


def good(ran: Ran) -> Ran:
    assert ran.code == 0, ran.err
    return ran


def refused(ran: Ran, code: int, *told: str) -> None:
    text = clean(ran)
    assert ran.code == code, text
    for words in told:
        assert words in text


def keys(home: Home) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = good(home.call("keys", "list", "--json")).json["keys"]
    return found


def key(home: Home, name: str, status: str = "current") -> dict[str, Any]:
    (found,) = [key for key in keys(home) if key["name"].split(".")[0] == name and key["status"] == status]
    return found


def opens(home: Home, vault: str, source: Path, *more: object) -> None:
    copy = source.with_name("opened")
    good(home.call("open", vault, "-o", copy, "--force", *more))
    assert copy.read_bytes() == source.read_bytes()


def moment(offset: timedelta) -> str:
    return f"{datetime.now(UTC) + offset:%Y-%m-%dT%H:%M:%SZ}"


def ssh_keygen(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        pytest.skip("NOT TESTED: no ssh-keygen here")
    return subprocess.run([program, *map(str, arguments)], input=stdin, capture_output=True, check=False)


# --- rotation ---------------------------------------------------------------------------------------------------------


def test_a_rotated_recipient(home: Home, vmcore: Path) -> None:
    """The old key opens old vaults under its dated name, the new one new ones, and nothing is sealed to the old."""
    before = key(home, "analyst")
    old = seal(home, vmcore)
    good(home.call("keys", "rotate", "analyst", "--unprotected"))
    assert key(home, "analyst")["fingerprint"] != before["fingerprint"]
    retired = key(home, "analyst", "retired")
    assert (retired["fingerprint"], retired["private"]) == (before["fingerprint"], "unprotected")
    new = seal(home, vmcore)
    for vault in (old, new):
        opens(home, vault, vmcore)
    opens(home, old, vmcore, "--key", retired["name"])
    refused(home.call("open", new, "-o", vmcore.with_name("none"), "--key", retired["name"]), 12, "none of the private")
    path = home.path / "keys" / "retired" / f"{retired['name']}.pub"
    refused(home.call("capture", vmcore, "--recipient", path, "--signer", "collector"), 12, "is retired")
    copied = vmcore.with_name("innocent.pub")
    shutil.copy(path, copied)
    refused(home.call("capture", vmcore, "--recipient", copied, "--signer", "collector"), 12, "is retired")


def test_a_rotated_locked_recipient(home: Home, vmcore: Path, tmp_path: Path) -> None:
    """Its old half is renamed as locked as it was; each has its own passphrase."""
    phrases = [tmp_path / "first", tmp_path / "second"]
    for phrase in phrases:
        phrase.write_text(phrase.name)
    good(home.call("keys", "new", "recipient", "locked", "--passphrase-file", phrases[0]))
    vaults = [good(home.call("capture", vmcore, "--recipient", "locked", "--signer", "collector")).out.strip()]
    good(home.call("keys", "rotate", "locked", "--passphrase-file", phrases[1]))
    assert key(home, "locked", "retired")["private"] == key(home, "locked")["private"] == "locked"
    vaults.append(good(home.call("capture", vmcore, "--recipient", "locked", "--signer", "collector")).out.strip())
    for vault, phrase, other in zip(vaults, phrases, reversed(phrases), strict=True):
        opens(home, vault, vmcore, "--passphrase-file", phrase)
        refused(home.call("open", vault, "-o", tmp_path / "x", "--passphrase-file", other), 12, "wrong passphrase")


def test_a_rotated_signer(home: Home, vmcore: Path) -> None:
    """The old line ends now; what the old key signed is good at an earlier moment that the verifier chooses, only."""
    old = seal(home, vmcore)
    earlier = moment(-timedelta(seconds=1))
    seed = (home.path / "private" / "collector.key").read_bytes()
    good(home.call("keys", "rotate", "collector", "--unprotected"))
    assert (home.path / "private" / "collector.key").read_bytes() != seed
    assert not [path for path in (home.path / "private").iterdir() if path.name.startswith("collector.2")]
    assert key(home, "collector")["roles"] == ["collector"]
    refused(home.call("verify", old), 10, "collector (SHA256:", "was valid only before", "--at")
    refused(home.call("open", old, "-o", vmcore.with_name("none")), 10, "was valid only before")
    told = good(home.call("verify", old, "--at", earlier, "--json"))
    assert told.json["judged_at"] == earlier
    assert "as you chose" in told.err
    opens(home, old, vmcore, "--at", earlier)
    good(home.call("verify", seal(home, vmcore)))


def test_the_old_signer_key_used_after_its_end(home: Home, vmcore: Path) -> None:
    """Who kept a copy of it signs nothing that is good now, whatever time he writes into the vault."""
    kept = (home.path / "private" / "collector.key").read_bytes()
    good(home.call("keys", "rotate", "collector", "--unprotected"))
    (home.path / "private" / "collector.key").write_bytes(kept)
    vault = seal(home, vmcore)  # a capture does not look at the clock: a crash kernel's may stand at 1970
    refused(home.call("verify", vault), 10, "was valid only before")


def test_stock_ssh_keygen_reads_what_rotation_writes(home: Home, vmcore: Path) -> None:
    """After a rotation, and with an end of validity, OpenSSH finds the same keys good, at the same moments."""
    vault = seal(home, vmcore)
    begun = datetime.now(UTC)
    at, later = (f"{begun + timedelta(seconds=shift):%Y%m%d%H%M%SZ}" for shift in (-1, 60))
    place = home.vaults / vault
    verify = (
        "-Y", "verify", "-f", home.path / "keys" / "allowed_signers", "-I", "collector", "-n", "dumpvault-manifest@v1",
        "-s", place / "manifest.json.sig",
    )  # fmt: skip
    payload = (place / "manifest.json").read_bytes()
    assert ssh_keygen(*verify, stdin=payload).returncode == 0
    good(home.call("keys", "rotate", "collector", "--unprotected", "--valid-before", "2099-01-01"))
    # OpenSSH's last good second is the one that valid-before names.
    assert ssh_keygen(*verify, "-O", f"verify-time={later}", stdin=payload).returncode != 0
    assert ssh_keygen(*verify, "-O", f"verify-time={at}", stdin=payload).returncode == 0
    new = home.vaults / seal(home, vmcore)
    verify = (*verify[:-1], new / "manifest.json.sig")
    assert ssh_keygen(*verify, stdin=(new / "manifest.json").read_bytes()).returncode == 0
    assert key(home, "collector")["valid_before"] == "2099-01-01T00:00:00Z"


def test_rotation_where_the_private_half_is_not(home: Home, tmp_path: Path) -> None:
    """Somebody else's key is his to rotate."""
    other = make_home(tmp_path / "other")
    (tmp_path / "her.pub").write_text(other.call("keys", "export", "analyst").out.replace("analyst", "her"))
    good(home.call("keys", "import", tmp_path / "her.pub"))
    refused(home.call("keys", "rotate", "her", "--unprotected"), 2, "is not in")
    refused(home.call("keys", "rotate", "nobody", "--unprotected"), 2, "no key 'nobody'")
    refused(home.call("keys", "rotate", "analyst", "--unprotected", "--valid-before", "2099-01-01"), 2, "no end")


def test_rotation_keeps_what_is_not_its_own(home: Home) -> None:
    """Comments, other signers and lines that dumpvault does not read stand as they stood."""
    path = home.path / "keys" / "allowed_signers"
    others = '# reviewed\nalice namespaces="file" ssh-rsa AAAA comment\n\n'
    before = others + path.read_text()
    path.write_text(before)
    good(home.call("keys", "rotate", "collector", "--unprotected"))
    after = path.read_text().splitlines()
    kept = [line for line in before.splitlines() if not line.startswith("collector ")]
    assert [line for line in after if not line.startswith("collector ")] == kept
    assert len(after) == len(kept) + 2


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_rotation_that_is_cut_off(home: Home, vmcore: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever write fails: what was sealed opens, a capture works or is refused, and rotating again mends it."""
    real = getattr(os, call)
    for number in range(12):
        left = number

        def failing(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == -1:
                raise OSError(28, "No space left on device")
            return real(*arguments, **named)

        for name in ("analyst", "collector"):
            left = number
            with monkeypatch.context() as patch:
                patch.setattr(os, call, failing)
                ran = home.call("keys", "rotate", name, "--unprotected")
            clean(ran)
            tried = home.call("capture", vmcore, *ARGUMENTS)
            assert tried.code in (0, 12), tried.err
            if tried.code == 0:
                opens(home, tried.out.strip(), vmcore)
            monkeypatch.setattr("dumpvault.flows.keys._stamped", _stamps(f"{name}{number}"))
            good(home.call("keys", "rotate", name, "--unprotected"))
            opens(home, seal(home, vmcore), vmcore)


def _stamps(word: str) -> Any:
    """Names that differ although the clock has not moved."""
    return lambda name, now: f"{name}.{word}"


# --- ends of validity -------------------------------------------------------------------------------------------------


def test_an_expired_signer(home: Home, vmcore: Path) -> None:
    """Refused by name; judged at an earlier moment, good; ``keys list`` says so."""
    good(home.call("keys", "new", "signer", "late", "--unprotected", "--valid-before", "2020-01-01"))
    vault = good(home.call("capture", vmcore, "--recipient", "analyst", "--signer", "late")).out.strip()
    refused(home.call("verify", vault), 10, "late (SHA256:", "valid only before 2020-01-01 00:00Z")
    good(home.call("verify", vault, "--at", "2019-12-31"))
    refused(home.call("verify", vault, "--at", "2020-01-01"), 10)
    assert key(home, "late", "expired")["valid_before"] == "2020-01-01T00:00:00Z"


@pytest.mark.parametrize("time", ["yesterday", "2026-13-01", "2026-11-24T10:00:00", "2026-11-24T10:00:00+01:00", ""])
def test_a_moment_that_is_none(home: Home, time: str) -> None:
    """A time without a zone, or in another one, is not guessed at."""
    refused(home.call("keys", "new", "signer", "x", "--unprotected", "--valid-before", time), 2, "no moment")


def test_an_end_that_comes_soon(home: Home) -> None:
    """keys doctor says it a month before."""
    good(home.call("keys", "new", "signer", "soon", "--unprotected", "--valid-before", moment(timedelta(days=20))))
    ran = good(home.call("keys", "doctor"))
    assert "soon is valid only before" in ran.out


# --- revocation -------------------------------------------------------------------------------------------------------


def test_a_revoked_signer(home: Home, vmcore: Path) -> None:
    """Refused at every moment, by name, by verify and open and by stock ssh-keygen with the same file."""
    vault = seal(home, vmcore)
    good(home.call("verify", vault))
    good(home.call("keys", "revoke", "collector", "--reason", "the host was broken into"))
    revoked = home.path / "keys" / "revoked_keys"
    assert "the host was broken into" in revoked.read_text()
    for command in (("verify", vault), ("open", vault, "-o", vmcore.with_name("none")), ("dmesg", vault)):
        for at in ((), ("--at", "2020-01-01")):
            refused(home.call(*command, *at), 10, "collector (SHA256:", "is revoked")
    refused(home.call("capture", vmcore, *ARGUMENTS), 12, "is revoked")
    refused(home.call("keys", "revoke", "collector", "--reason", "again"), 2, "revoked already")

    place = home.vaults / vault
    verify = (
        "-Y", "verify", "-f", home.path / "keys" / "allowed_signers", "-I", "collector", "-n", "dumpvault-manifest@v1",
        "-s", place / "manifest.json.sig",
    )  # fmt: skip
    payload = (place / "manifest.json").read_bytes()
    assert ssh_keygen(*verify, stdin=payload).returncode == 0
    assert ssh_keygen(*verify, "-r", revoked, stdin=payload).returncode != 0
    public = vmcore.with_name("collector.pub")
    public.write_text(home.call("keys", "export", "collector").out)
    assert ssh_keygen("-Q", "-f", revoked, public).returncode != 0

    good(home.call("keys", "rotate", "collector", "--unprotected"))
    good(home.call("verify", seal(home, vmcore)))
    refused(home.call("verify", vault), 10, "is revoked")


def test_a_revocation_holds_for_another_trust_file(home: Home, vmcore: Path) -> None:
    """A list that an auditor brings does not bring a revoked key back."""
    vault = seal(home, vmcore)
    trust = vmcore.with_name("brought")
    shutil.copy(home.path / "keys" / "allowed_signers", trust)
    good(home.call("keys", "revoke", "collector", "--reason", "stolen"))
    refused(home.call("verify", vault, "--allowed-signers", trust), 10, "is revoked")


def test_revoked_by_fingerprint(home: Home, vmcore: Path) -> None:
    """Where a name has several keys, a name is not enough: the one that leaked is named by its fingerprint."""
    old = key(home, "collector")["fingerprint"]
    good(home.call("keys", "rotate", "collector", "--unprotected"))
    refused(home.call("keys", "revoke", "collector", "--reason", "x"), 2, "2 keys", old)
    good(home.call("keys", "revoke", old, "--reason", "it stood in a dump"))
    assert {k["status"] for k in keys(home) if k["name"] == "collector"} == {"current", "revoked"}
    good(home.call("verify", seal(home, vmcore)))


def test_a_revoked_recipient(home: Home, vmcore: Path) -> None:
    """Nothing is sealed to it any more; what was, still opens; its name is free for its successor."""
    vault = seal(home, vmcore)
    ran = good(home.call("keys", "revoke", "analyst", "--reason", "laptop lost"))
    assert "still opens" in ran.err
    refused(home.call("capture", vmcore, *ARGUMENTS), 12, "no recipient 'analyst'")
    opens(home, vault, vmcore)
    good(home.call("keys", "new", "recipient", "analyst", "--unprotected"))
    opens(home, seal(home, vmcore), vmcore)


@pytest.mark.parametrize("text", [
    b"ssh-ed25519\n", b"ssh-ed25519 !!!!\n", b"ssh-ed25519 AAAA\n", b"SHA256:abc\n", b"collector\n", b"SSHKRL\n\0\0\0\0",
    b"\xff\xfe\n", b"x" * (2 << 20),
])  # fmt: skip
def test_a_list_that_cannot_be_read(home: Home, vmcore: Path, text: bytes) -> None:
    """Who cannot read what is revoked trusts nobody, rather than everybody."""
    vault = seal(home, vmcore)
    (home.path / "keys" / "revoked_keys").write_bytes(text)
    for command in (
        ("verify", vault),
        ("open", vault, "-o", vmcore.with_name("none")),
        ("capture", vmcore, *ARGUMENTS),
    ):
        refused(home.call(*command), 1, "revoked_keys")
    assert home.call("keys", "doctor").code == 1


def test_an_empty_reason(home: Home) -> None:
    """Those who ask later are owed one, on one line: it cannot add a key to the list."""
    for reason in ("", "  ", "x\nssh-ed25519 AAAA"):
        refused(home.call("keys", "revoke", "collector", "--reason", reason), 2, "one line")
    assert not (home.path / "keys" / "revoked_keys").exists()


# --- credentials and look-up ------------------------------------------------------------------------------------------


@contextmanager
def credentials(folder: Path) -> Iterator[Path]:
    """A directory as systemd makes it for a service."""
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ["CREDENTIALS_DIRECTORY"] = str(folder)
    try:
        yield folder
    finally:
        del os.environ["CREDENTIALS_DIRECTORY"]


def test_keys_as_systemd_credentials(home: Home, vmcore: Path, tmp_path: Path) -> None:
    """NAME.key is used before the home's own; NAME.passphrase unlocks; what else is there is passed over."""
    phrase = tmp_path / "phrase"
    phrase.write_text("sesame")
    good(home.call("keys", "new", "recipient", "service", "--passphrase-file", phrase))
    with credentials(tmp_path / "credentials") as folder:
        for name in ("service", "collector"):
            shutil.move(home.path / "private" / f"{name}.key", folder / f"{name}.key")
            (folder / f"{name}.key").chmod(0o440)  # the mask of an access list
        vault = good(home.call("capture", vmcore, "--recipient", "service", "--signer", "collector")).out.strip()
        refused(home.call("open", vault, "-o", tmp_path / "x"), 12, "no passphrase")
        (folder / "service.passphrase").write_text("sesame\n")
        (folder / "database.password").write_bytes(b"\xff\0")
        (folder / "..data").mkdir()
        (folder / "empty.key").write_bytes(b"")
        (folder / "folder.key").mkdir()
        os.mkfifo(folder / "pipe.key")
        (folder / "gone.key").symlink_to(folder / "nowhere")
        opens(home, vault, vmcore)
        refused(home.call("keys", "rotate", "service", "--unprotected"), 2, "Rotate a key where")
        doctor = home.call("keys", "doctor")
        assert doctor.code == 1
        for name in ("empty", "folder", "pipe"):
            assert f"private half {name}" in doctor.out
        (folder / "service.key").chmod(0o444)
        refused(home.call("open", vault, "-o", tmp_path / "x", "--key", "service"), 12, "read by others")


def test_a_credentials_directory_that_is_none(home: Home, vmcore: Path, tmp_path: Path) -> None:
    """What is not there holds nothing: the home's own keys are used, and keys doctor tells."""
    (tmp_path / "file").write_text("")
    for place in ("/nowhere", str(tmp_path / "file")):
        os.environ["CREDENTIALS_DIRECTORY"] = place
        try:
            opens(home, seal(home, vmcore), vmcore)
            refused(home.call("keys", "doctor"), 12, "no directory")
        finally:
            del os.environ["CREDENTIALS_DIRECTORY"]


# --- bad keys ---------------------------------------------------------------------------------------------------------


def private(home: Home, name: str = "analyst") -> Path:
    return home.path / "private" / f"{name}.key"


@pytest.mark.parametrize(("change", "code", "told"), [
    ({"protection": {"kind": "keyring"}}, 1, "holds one"),
    ({"protection": {"kind": "pkcs11", "uri": "pkcs11:x"}}, 1, "holds one"),
    ({"protection": {"kind": "pkcs11", "uri": "pkcs11:x"}, "secret": ""}, 1, "PKCS#11 URI"),
    ({"protection": {"kind": "pkcs11"}, "secret": ""}, 1, "uri"),
    ({"protection": {"kind": "keyring", "uri": "x"}, "secret": ""}, 1, "uri"),
    ({"protection": {"kind": "argon2id", "salt": "AAAA", "opslimit": 1, "memlimit": "0x2000"}}, 1, "argon2id"),
    ({"protection": {"kind": "rot13"}}, 1, "kind"),
    ({"algorithm": "rsa"}, 1, "algorithm"),
    ({"algorithm": "p384"}, 1, "does not fit"),
    ({"purpose": "signer"}, 1, "algorithm"),
    ({"secret": ""}, 1, "does not fit"),
    ({"public": "AAAA"}, 1, "does not fit"),
    ({"format": "dumpvault-private@v2"}, 1, "format"),
    ({"name": None}, 1, "name"),
    ({"extra": 1}, 1, "extra"),
])  # fmt: skip
def test_malformed_private_keys(home: Home, vmcore: Path, change: dict[str, Any], code: int, told: str) -> None:
    """Every field of the wrong kind is told, and what is wrong with the file never shows its secret."""
    vault = seal(home, vmcore)
    value = json.loads(private(home).read_text())
    secret = value["secret"]
    private(home).write_text(json.dumps({k: v for k, v in (value | change).items() if v is not None}))
    ran = home.call("open", vault, "-o", vmcore.with_name("none"), "--key", "analyst")
    refused(ran, code, told, "analyst.key")
    assert secret not in ran.err + ran.out
    assert not vmcore.with_name("none").exists()
    assert home.call("keys", "doctor").code == code


@pytest.mark.parametrize(("data", "told"), [
    (b"", "analyst.key"), (b"\0" * 100, "analyst.key"), (b"\xff\xfe", "not text"), (b"{", "analyst.key"),
    (b"dumpvault-xwing AAAA x\n", "public key where a private one belongs"),
    (b"ssh-ed25519 AAAA x\n", "public key where a private one belongs"),
    (b"ecdsa-sha2-nistp384 AAAA x\n", "public key where a private one belongs"),
    (b"-----BEGIN OPENSSH PRIVATE KEY-----\n", "another program"), (b"x" * (2 << 20), "too large"),
])  # fmt: skip
def test_files_that_are_no_private_keys(home: Home, vmcore: Path, data: bytes, told: str) -> None:
    """Named, and told for what they are."""
    vault = seal(home, vmcore)
    private(home).write_bytes(data)
    refused(home.call("open", vault, "-o", vmcore.with_name("none"), "--key", "analyst"), 1, told)


def test_no_file_at_all(home: Home, vmcore: Path) -> None:
    """A directory and a pipe in a key's place: told at once, not waited for."""
    vault = seal(home, vmcore)
    private(home).unlink()
    private(home).mkdir()
    refused(home.call("open", vault, "-o", vmcore.with_name("none"), "--key", "analyst"), 1, "no regular file")
    private(home).rmdir()
    os.mkfifo(private(home), 0o600)
    refused(home.call("open", vault, "-o", vmcore.with_name("none"), "--key", "analyst"), 1, "no regular file")


def test_modes_that_let_others_in(home: Home, vmcore: Path) -> None:
    """A file that others may read is not used; a directory that others may write to is told of."""
    vault = seal(home, vmcore)
    private(home).chmod(0o640)
    refused(home.call("open", vault, "-o", vmcore.with_name("none"), "--key", "analyst"), 12, "read by others")
    refused(home.call("keys", "doctor"), 12, "chmod 600")
    private(home).chmod(0o600)
    private(home).parent.chmod(0o777)
    refused(home.call("keys", "doctor"), 1, "others may write there")


@pytest.mark.parametrize("options", [
    ("--unprotected", "--keyring"), ("--keyring", "--passphrase-file", "/dev/null"), ("--unprotected", "--token", "pkcs11:x"),
    ("--existing",), ("--existing", "--keyring"),
])  # fmt: skip
def test_options_that_exclude_each_other(home: Home, options: tuple[str, ...]) -> None:
    """One place for one key."""
    refused(home.call("keys", "new", "recipient", "x", *options), 2)
    assert not private(home, "x").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root may give a file away")
def test_a_key_of_another_user_that_names_a_module(home: Home, vmcore: Path) -> None:
    """Root runs no code because a file of somebody else's says so."""
    vault = seal(home, vmcore)
    value = json.loads(private(home).read_text())
    uri = "pkcs11:token=a;object=b?module-path=/tmp/evil.so"
    private(home).write_text(json.dumps(value | {"secret": "", "protection": {"kind": "pkcs11", "uri": uri}}))
    os.chown(private(home), 65534, 65534)
    refused(home.call("open", vault, "-o", vmcore.with_name("none"), "--key", "analyst"), 12, "another user")
