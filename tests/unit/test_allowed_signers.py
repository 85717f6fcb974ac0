"""The trust file: read as OpenSSH reads it, roles taken literally (spec, section 5.2; ssh-keygen(1))."""

from __future__ import annotations

import base64
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dumpvault.formats.allowed_signers import (
    ROLES,
    AllowedSigners,
    end_validity,
    line_for,
    namespace,
    revoked_keyids,
)
from dumpvault.formats.sshkey import sshsig
from kit import KEY, OTHER

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
COMMIT = namespace("commit")
LINE = KEY.signer.line


def roles(text: str) -> frozenset[str]:
    """All roles that ``text`` gives to KEY now, for any host."""
    found = AllowedSigners(text).by_keyid(KEY.signer.keyid)
    return frozenset(role for key in found for role in key.namespaces if key.has_role(role, None, NOW))


def test_a_written_line_gives_its_role() -> None:
    """Every role of the command line is written as a line that is read back with exactly its namespaces."""
    for role, namespaces in ROLES.items():
        assert roles(line_for("alice", KEY.signer, role)) == frozenset(namespaces)


def test_collector_and_officer_share_no_namespace() -> None:
    """The roles of section 5.1 and of the ledger: who captures cannot grant or shred, and no namespace has two roles."""
    types = ("header", "commit", "manifest", "release", "entry-collector")
    assert ROLES["collector"] == tuple(f"dumpvault-{t}@v1" for t in types)
    assert ROLES["officer"] == tuple(f"dumpvault-{t}@v1" for t in ("rewrap", "grant", "shred"))
    every = [n for namespaces in ROLES.values() for n in namespaces]
    assert len(every) == len(set(every))


def test_comments_blank_lines_and_other_keys_give_nothing() -> None:
    """Comments and blank lines are skipped, and keys of other types are left to OpenSSH."""
    text = f"# {COMMIT}\n\n   \n  # x\nbob ssh-rsa AAAA\nbob ecdsa-sha2-nistp256 AAAA c\nalice {LINE}\n"
    listing = AllowedSigners(text)
    assert [key.principal for key in listing.keys] == ["alice"]
    assert roles(text) == frozenset()


def test_principals_are_separated_by_commas() -> None:
    """One line lists several principals, each with the line's options."""
    listing = AllowedSigners(f'a@h1,b namespaces="{COMMIT}" {LINE} comment of words\n')
    assert [key.principal for key in listing.keys] == ["a@h1", "b"]
    assert listing.principal(KEY.signer.keyid) == "a@h1"
    assert listing.principal("SHA256:none") == "SHA256:none"
    assert listing.by_keyid(OTHER.signer.keyid) == []


@pytest.mark.parametrize("options", [
    f'namespaces="{COMMIT}"', f'namespaces="other,{COMMIT}"', f'NAMESPACES="{COMMIT}"',
    f'valid-after="20200101",namespaces="{COMMIT}"', f'namespaces="{COMMIT}",valid-before="20300101Z"',
    f'namespaces="{COMMIT}"  ',
])  # fmt: skip
def test_options_may_stand_in_any_order(options: str) -> None:
    """Options are found in any order, in any case of their names, among others."""
    assert COMMIT in roles(f"alice {options} {LINE}")


@pytest.mark.parametrize("line", [
    f"alice no-such-option {LINE}", f'alice no-such="x" {LINE}', f'alice namespaces="unclosed {LINE}',
    f"alice namespaces={COMMIT} {LINE}", "alice ssh-ed25519 AAAA", "alice ssh-ed25519 ????",
    f'alice valid-after="tomorrow" {LINE}', f'alice valid-before="2026" {LINE}', f'alice valid-after="20261301" {LINE}',
    f'alice valid-after="20260101120" {LINE}', f'alice valid-before="" {LINE}',
])  # fmt: skip
def test_a_line_that_cannot_be_read_is_named(line: str) -> None:
    """A bad line gives nothing, and is named by file and number; the lines around it count."""
    found = AllowedSigners(f"# one\nbob {LINE}\n{line}\ncarol {LINE}\n", "trust")
    assert [key.principal for key in found.keys] == ["bob", "carol"]
    assert [problem.split(" gives nothing: ")[0] for problem in found.problems] == ["trust, line 3"]


@pytest.mark.parametrize(("stamp", "moment"), [
    ("20261123Z", datetime(2026, 11, 23, tzinfo=UTC)), ("202611231415Z", datetime(2026, 11, 23, 14, 15, tzinfo=UTC)),
    ("20261123141516Z", datetime(2026, 11, 23, 14, 15, 16, tzinfo=UTC)),
    ("20261123", datetime(2026, 11, 23).astimezone()), ("20261123141516", datetime(2026, 11, 23, 14, 15, 16).astimezone()),
])  # fmt: skip
def test_time_stamps_are_read(stamp: str, moment: datetime) -> None:
    """Times with Z are UTC, without it local; date alone means its first second."""
    (key,) = AllowedSigners(f'alice valid-after="{stamp}",valid-before="{stamp}" {LINE}').keys
    assert (key.valid_after, key.valid_before) == (moment, moment)


def openssh_accepts(tmp_path: Path, line: str, role: str, moment: str = "20261123120000Z") -> bool:
    tool = shutil.which("ssh-keygen")
    if not tool:
        pytest.skip("NOT TESTED: no ssh-keygen here")
    (tmp_path / "allowed").write_text(line + "\n")
    (tmp_path / "sig").write_bytes(sshsig(KEY, role, b"m"))
    done = subprocess.run(
        [tool, "-Y", "verify", "-f", tmp_path / "allowed", "-I", "alice", "-n", role, "-s", tmp_path / "sig",
         f"-Overify-time={moment}"],
        input=b"m", capture_output=True, check=False,
    )  # fmt: skip
    return done.returncode == 0


def we_accept(line: str, role: str, moment: datetime) -> bool:
    listed = AllowedSigners(line + "\n").by_keyid(KEY.signer.keyid)
    return any(k.principal == "alice" and k.has_role(role, None, moment) for k in listed)


@pytest.mark.parametrize("line", [
    f'alice namespaces="{COMMIT}" {LINE}',
    f'alice namespaces="{COMMIT}",valid-after="20261123115959Z" {LINE}',
    f'alice namespaces="{COMMIT}",valid-after="20261123120001Z" {LINE}',
    f'alice namespaces="{COMMIT}",valid-before="20261123120001Z" {LINE}',
    f'alice namespaces="{COMMIT}",valid-before="20261123115959Z" {LINE}',
    f'alice namespaces="dumpvault-header@v1" {LINE}',
    f'alice namespaces="{COMMIT}",cert-authority {LINE}',
    f'bob namespaces="{COMMIT}" {LINE}\n#alice namespaces="{COMMIT}" {LINE}',
    f'alice,bob namespaces="{COMMIT}" {LINE} a comment',
    f'alice unknown,namespaces="{COMMIT}" {LINE}',
    f'alice namespaces="{COMMIT}" {OTHER.signer.line}',
    f'alice namespaces="x",namespaces="{COMMIT}" {LINE}',
    f'alice namespaces="{COMMIT}",valid-before="20200101Z",valid-before="20300101Z" {LINE}',
    f'alice namespaces="{COMMIT}",valid-before {LINE}',
    f'# note \u2028alice namespaces="{COMMIT}" {LINE}',
    f'# note \x0calice namespaces="{COMMIT}" {LINE}',
])  # fmt: skip
def test_nothing_is_trusted_that_openssh_refuses(tmp_path: Path, line: str) -> None:
    """A line gives alice a role here only if ssh-keygen -Y verify accepts it too, and the plain ones give it in both."""
    theirs = openssh_accepts(tmp_path, line, COMMIT)
    assert we_accept(line, COMMIT, NOW) == theirs


@pytest.mark.parametrize("line", [
    f'alice\tnamespaces="{COMMIT}"\t{LINE}', f'"alice" namespaces="{COMMIT}" {LINE}', f'  alice namespaces="{COMMIT}" {LINE}',
])  # fmt: skip
def test_what_openssh_accepts_is_read_or_refused_by_name(tmp_path: Path, line: str) -> None:
    """Forms that OpenSSH accepts and we need not (tabs, quoted principals) are read, or refused with the line's number."""
    assert openssh_accepts(tmp_path, line, COMMIT)
    found = AllowedSigners(line, "trust")
    assert any(COMMIT in key.namespaces for key in found.keys) or "trust, line 1" in found.problems[0]


def test_a_line_says_all_that_was_read() -> None:
    """Principal, roles and both ends of validity come back from the line that is written for a key."""
    text = f'a@h namespaces="x,y",valid-after="20200101000000Z",valid-before="20300101000000Z" {LINE}\n'
    (key,) = AllowedSigners(text).keys
    assert key.line == text
    assert AllowedSigners(key.line).keys == [key]


def test_ending_one_key_s_validity_leaves_the_rest() -> None:
    """Only that key under that principal ends, not later than it did before; every other line stands as it stood."""
    other = f"# kept\n\nunreadable line\nbob {OTHER.signer.line} comment\n"
    early = datetime(2020, 1, 1, tzinfo=UTC)
    text = f'{other}alice,carol namespaces="x" {LINE}\nalice valid-before="20200101Z" {LINE}\n'
    ended = end_validity(text, "alice", KEY.signer.keyid, NOW)
    assert ended.startswith(other)
    found = {(k.principal, k.valid_before) for k in AllowedSigners(ended).by_keyid(KEY.signer.keyid)}
    assert found == {("alice", NOW), ("carol", None), ("alice", early)}


def test_revoked_keys_have_no_role_at_any_moment() -> None:
    """Also where the moment is left out; other keys keep theirs."""
    trust = AllowedSigners(line_for("alice", KEY.signer, "collector") + line_for("bob", OTHER.signer, "collector"))
    trust.revoke(revoked_keyids(f"# why\n\n{LINE} alice\n", "revoked_keys"))
    alice, bob = trust.keys
    for moment in (NOW, None, datetime(1970, 1, 1, tzinfo=UTC)):
        assert alice.objection(COMMIT, None, moment) == "is revoked"
        assert bob.objection(COMMIT, None, moment) == ""


def test_keys_of_kinds_that_no_vault_uses_can_be_revoked() -> None:
    """The list is OpenSSH's: its key ids are those of ssh-keygen, whatever the kind."""
    blob = base64.b64encode(b"\0\0\0\7ssh-rsa\0\0\0\1\3").decode()
    assert len(revoked_keyids(f"ssh-rsa {blob} old\n{LINE}\n", "x")) == 2
    with pytest.raises(ValueError, match="line 1 is no public key"):
        revoked_keyids(f"ssh-dss {blob}\n", "x")
