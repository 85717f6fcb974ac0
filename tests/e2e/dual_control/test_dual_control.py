"""Two of three custodians, each in a home of their own: what opens a vault, and what they see of it."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pytest

from dumpvault.errors import Incomplete
from dumpvault.flows.capture import CaptureRequest, capture
from dumpvault.flows.site import Site
from dumpvault.formats import dsse, sharing
from dumpvault.formats.private_key import PrivateKey, lock, parse
from support.command import COMMAND, Home
from support.crashed import crash, elf_core
from support.custody import (
    CUSTODIANS,
    Sites,
    onetime,
    read_approval,
    read_request,
    refused,
)
from support.printk_writer import LocklessWriter, Message
from support.vmcore import MARKER, write_core

# --- what opens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [("alice", "bob"), ("carol", "alice"), ("bob", "carol"), CUSTODIANS])
def test_any_two_open_once(sites: Sites, source: Path, vault: str, pair: tuple[str, ...]) -> None:
    """Any two, in any order, or all: bit for bit; then the one-time keys are gone and the same files open nothing."""
    request = sites.request(vault)
    approvals = [sites.approve(request, who) for who in pair]
    kept = onetime(sites, request)
    assert kept.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in kept.iterdir()} == {0o600}
    ran = sites.open(vault, *approvals)
    assert ran.code == 0, ran.err
    assert (sites.path / "copy").read_bytes() == source.read_bytes()
    assert not kept.exists()
    refused(sites.open(vault, *approvals, to="again"), 12, "the one-time key that it answers is not here", "was used")
    assert not (sites.path / "again").exists()


@pytest.mark.parametrize(
    ("quorum", "kems"),
    [("2of2", ("xwing", "mlkem1024")), ("3of3", ("p384", "x25519", "x25519")), ("3of4", ("mlkem1024-p384",) * 4)],
)  # fmt: skip
def test_other_quorums_and_suites(tmp_path: Path, source: Path, quorum: str, kems: tuple[str, ...]) -> None:
    """Custodians with keys of several suites; one approval fewer than the quorum opens nothing."""
    home = Home(tmp_path / "site")
    home.call("init")
    for i, kem in enumerate(kems):
        assert home.call("keys", "new", "custodian", f"c{i}", "--kem", kem, "--unprotected").code == 0
        assert home.call("keys", "new", "signer", f"s{i}", "--role", "custodian", "--unprotected").code == 0
    home.call("keys", "new", "signer", "collector", "--unprotected")
    home.call("keys", "new", "signer", "ana", "--role", "analyst", "--unprotected")
    names = ",".join(f"c{i}" for i in range(len(kems)))
    ran = home.call("capture", source, "--quorum", f"{quorum}:{names}", "--signer", "collector")
    vault = ran.out.strip()
    assert home.call("request", vault, "--reason", "r", "-o", tmp_path / "r.json").code == 0
    options: list[object] = []
    for i in range(int(quorum[0])):
        refused(home.call("open", vault, "-o", tmp_path / "copy", *options), 12, "is under dual control")
        ran = home.call(
            "approve", tmp_path / "r.json", "--yes", "--key", f"c{i}", "--signer", f"s{i}", "-o", tmp_path / f"{i}.json"
        )
        assert ran.code == 0, ran.err
        options += ["--approvals", tmp_path / f"{i}.json"]
    assert home.call("open", vault, "-o", tmp_path / "copy", *options).code == 0
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


def test_analysis_by_approval(sites: Sites) -> None:
    """``dmesg`` and ``drgn`` of a crashed machine: each opening takes a request and two approvals of its own."""
    writer = LocklessWriter(5, 10)
    writer.log(Message(b"Kernel panic - not syncing: test", 1_000_000_000))
    (sites.path / "crashed").write_bytes(elf_core(crash(writer.structures())))
    vault = sites.capture(sites.path / "crashed")
    for command, told in (
        (("dmesg",), "[    1.000000] Kernel panic - not syncing: test"),
        (("drgn", "--no-default-symbols", "-e", "print(prog.platform.arch)"), "Architecture.X86_64"),
    ):
        request = sites.request(vault)
        options = [w for who in ("bob", "carol") for w in ("--approvals", sites.approve(request, who))]
        refused(sites.home("ana").run(*command, "--store", sites.store, vault), 12, "is under dual control")
        ran = sites.home("ana").run(*command, "--store", sites.store, *options, vault)
        assert ran.code == 0, ran.err
        assert told in ran.out
        assert not onetime(sites, request).exists()


def test_a_resumed_capture_is_one_request(sites: Sites) -> None:
    """Two attempts, two vault keys: one request and two approvals open both; one made in between opens neither."""
    path = write_core(sites.path / "resumed", pages=300, seed=4)
    site = Site.load(sites.home("db1").env)
    request = CaptureRequest(
        str(path), (), ("collector",), store=str(sites.store), compress="none", region_size=65536, jobs=1,
        quorum="2of3:alice,bob,carol",
    )  # fmt: skip
    begun: list[str] = []
    asked: list[int] = []

    def stop(done: int, total: int | None) -> None:
        if done > 400_000 and not asked:  # a second signal would be the system's own
            asked.append(done)
            os.kill(os.getpid(), signal.SIGTERM)

    with suppress(Incomplete):
        capture(site, request, stop, begun.append)
    vault = begun[0]
    early = sites.request(vault)
    early_answers = [sites.approve(early, who) for who in ("alice", "bob")]
    result = capture(site, request, lambda done, total: None, lambda vault: None)
    assert result.vault == vault
    assert [a.attempt for a in result.manifest.attempts] == [1, 2]
    refused(sites.open(vault, *early_answers), 12, "attempt 2 of the vault began after the request was made")
    late = sites.request(vault)
    assert read_request(late).attempts == (1, 2)
    ran = sites.open(vault, *(sites.approve(late, who) for who in ("carol", "bob")))
    assert ran.code == 0, ran.err
    assert (sites.path / "copy").read_bytes() == path.read_bytes()


def test_locked_keys_and_a_mount(sites: Sites, source: Path, vault: str, tmp_path: Path) -> None:
    """A custodian's keys behind a passphrase; the analyst mounts, and reads the dump from there."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("NOT TESTED: no /dev/fuse here")
    (tmp_path / "secret").write_text("correct horse\n")
    home = Home(shutil.copytree(sites.path / "alice", tmp_path / "locked"))
    for name in ("alice", "alice-signs"):
        path = home.path / "private" / f"{name}.key"
        key = parse(path.read_bytes(), name)
        assert isinstance(key, PrivateKey)
        path.write_bytes(lock(key, b"correct horse"))
    request = sites.request(vault)
    mine = [request, "--yes", "--store", sites.store, "-o", tmp_path / "alice.json"]
    refused(home.call("approve", *mine), 12, "no passphrase, and no terminal")
    (tmp_path / "wrong").write_text("wrong horse\n")
    refused(home.call("approve", *mine, "--passphrase-file", tmp_path / "wrong"), 12, "wrong passphrase")
    assert home.call("approve", *mine, "--passphrase-file", tmp_path / "secret").code == 0
    (tmp_path / "mnt").mkdir()
    command = [COMMAND, "mount", vault, tmp_path / "mnt", "--store", sites.store, "--json"]
    for path in (tmp_path / "alice.json", sites.approve(request, "carol")):
        command += ["--approvals", path]
    with subprocess.Popen(command, env=sites.home("ana").env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as served:
        assert served.stdout
        assert served.stderr
        for line in served.stdout:
            if line == b"}\n":
                break
        assert not onetime(sites, request).exists()
        read = (tmp_path / "mnt/vmcore").read_bytes()
        served.send_signal(signal.SIGINT)
        assert served.wait(60) == 0, served.stderr.read()
    assert read == source.read_bytes()


# --- what custodians and third parties see ------------------------------------------------------------------------


def test_a_custodian_is_told_what_is_asked(sites: Sites, vault: str, asked: Path) -> None:
    """Who, what, why, until when; nothing is sealed without an answer."""
    ran = sites.call("alice", "approve", asked, "-o", sites.path / "never.json")
    refused(ran, 2, "approve asks on a terminal", "ana (SHA256:", f"all of vault {vault}", "why did it panic?", "INC-1")
    assert not (sites.path / "never.json").exists()
    told = sites.call("alice", "approve", asked, "--yes", "--json", "-o", sites.path / "yes.json").json
    assert (told["custodian"], told["requester"], told["ticket"]) == ("alice", "ana", "INC-1")


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 11), (b"\n", 11)])
def test_a_custodian_answers_on_a_terminal(sites: Sites, asked: Path, tmp_path: Path, answer: bytes, code: int) -> None:
    """Asked once; anything but yes seals nothing."""
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    command = [COMMAND, "approve", asked, "--store", sites.store, "-o", tmp_path / "a.json"]
    done = subprocess.run(
        command, env=sites.home("alice").env, stdin=theirs, capture_output=True, text=True, check=False
    )
    os.close(ours)
    os.close(theirs)
    assert done.returncode == code, done.stderr
    assert "Approve? The requester can open all of it" in done.stderr
    assert (tmp_path / "a.json").exists() is (code == 0)


def test_a_custodian_needs_no_regions(sites: Sites, vault: str, asked: Path, tmp_path: Path) -> None:
    """A copy of header, commits and keybag is enough to approve."""
    copy = tmp_path / "store" / "vaults" / vault
    shutil.copytree(sites.store / "vaults" / vault, copy)
    for name in ("regions", "keys"):
        shutil.rmtree(copy / name)
    ran = sites.home("bob").call("approve", asked, "--yes", "--store", tmp_path / "store", "-o", tmp_path / "a.json")
    assert ran.code == 0, ran.err


def test_the_files_help_nobody_else(sites: Sites, vault: str, asked: Path, answers: dict[str, Path]) -> None:
    """Mallory has the store, all public keys, the request and every approval; even a request of that digest opens nothing."""
    refused(sites.open(vault, *answers.values(), by="mallory"), 12, "made in another home")
    other = sites.request(vault, by="mallory")
    own, stolen = onetime(sites, other, "mallory"), onetime(sites, asked, "mallory")
    own.rename(stolen)
    (stolen / "request.dsse.json").write_bytes(asked.read_bytes())
    ran = sites.open(vault, *answers.values(), by="mallory", to="stolen")
    refused(ran, 10, "the share of alice", "cannot be opened")
    assert not (sites.path / "stolen").exists()


def test_no_share_stands_in_a_file(sites: Sites, source: Path) -> None:
    """Of what is drawn for a vault key, no 32 bytes stand in any object, request or approval."""
    drawn: list[bytes] = []
    whole = sharing.split

    def split(vk: bytes, k: int, n: int) -> list[bytes]:
        components = whole(vk, k, n)
        drawn.extend([vk, *components])
        return components

    with mock.patch.object(sharing, "split", split):
        vault = sites.capture(source)
    assert len(drawn) == 4
    request = sites.request(vault)
    approvals = [sites.approve(request, who) for who in ("alice", "bob")]
    files = [request, *approvals, *(p for p in (sites.store / "vaults" / vault).rglob("*") if p.is_file())]
    payloads = [path.read_bytes() for path in files]
    payloads += [dsse.parse(path.read_bytes(), "x").payload for path in (request, *approvals)]
    payloads += [sealed for path in approvals for _, sealed in read_approval(path).shares]
    assert not any(secret in data or secret.hex().encode() in data for secret in drawn for data in payloads)
    assert MARKER not in b"".join(payloads)


def test_verifying_without_and_with_a_key(sites: Sites, vault: str) -> None:
    """No key: intact. A custodian's key: the share is good, and no more is said than that. Another key: none."""
    assert sites.call("ana", "verify", vault).code == 0
    ran = sites.call("bob", "verify", vault, "--with-key", "bob")
    assert ran.code == 0
    assert "held in part  (the share of bob is good; 2 of 3 open the regions)" in ran.out
    sites.home("bob").call("keys", "new", "recipient", "stranger", "--unprotected")
    refused(sites.call("bob", "verify", vault, "--with-key", "stranger"), 12, "stranger is no custodian")
    assert sites.call("ana", "info", vault, "--json").json["quorum"] == "any 2 of 3"
