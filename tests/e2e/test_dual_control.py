"""Two of three custodians, each in a home of their own: what opens a vault, and all that does not."""

from __future__ import annotations

import os
import pty
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pytest

from dumpvault.errors import Incomplete
from dumpvault.flows import attempt
from dumpvault.flows.capture import CaptureRequest, capture
from dumpvault.flows.site import Site
from dumpvault.formats import dsse, sharing
from dumpvault.formats.keybag import Keybag
from dumpvault.formats.private_key import PrivateKey, lock, parse
from dumpvault.stages.onetime import OneTimeKeys
from support.command import COMMAND, Home, Ran, make_home, seal
from support.crashed import crash, elf_core
from support.custody import (
    CUSTODIANS,
    Sites,
    ago,
    forge_approval,
    forge_request,
    make_sites,
    onetime,
    read_approval,
    read_request,
    reseal,
)
from support.printk_writer import LocklessWriter, Message
from support.vmcore import MARKER, write_core


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Sites:
    return make_sites(tmp_path_factory.mktemp("sites"))


@pytest.fixture(scope="module")
def source(sites: Sites) -> Path:
    return write_core(sites.path / "vmcore")


@pytest.fixture(scope="module")
def vault(sites: Sites, source: Path) -> str:
    return sites.capture(source)


@pytest.fixture(scope="module")
def asked(sites: Sites, vault: str) -> Path:
    """A request that no test uses up, and that all of them may try."""
    return sites.request(vault)


@pytest.fixture(scope="module")
def answers(sites: Sites, asked: Path) -> dict[str, Path]:
    return {who: sites.approve(asked, who) for who in CUSTODIANS}


@pytest.fixture
def untouched(sites: Sites, asked: Path) -> Iterator[None]:
    """A refusal opens nothing, writes nothing, and leaves the request open."""
    (sites.path / "copy").unlink(missing_ok=True)
    yield
    assert not (sites.path / "copy").exists()
    assert sorted(os.listdir(onetime(sites, asked))) == ["request.dsse.json", "x25519.key"]


def refused(ran: Ran, code: int, *words: str) -> None:
    assert ran.code == code, ran.err
    assert "Traceback" not in ran.err
    for word in words:
        assert word in ran.err, ran.err


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


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("untouched")
def test_a_requester_who_signs_an_approval(
    sites: Sites, vault: str, asked: Path, answers: dict[str, Path], tmp_path: Path
) -> None:
    """Ana's key has both roles in her own home, and Bob's share: she still is not Bob."""
    trust = sites.home("ana").path / "keys" / "allowed_signers"
    kept = trust.read_text()
    trust.write_text(kept.replace("dumpvault-request@v1", "dumpvault-request@v1,dumpvault-approval@v1"))
    forged = forge_approval(answers["bob"], tmp_path / "forged.json", sites.signer("ana", "ana"))
    ran = sites.open(vault, answers["alice"], forged)
    trust.write_text(kept)
    refused(ran, 11, "is signed with a key that made the request")


@pytest.mark.usefixtures("untouched")
def test_too_few(sites: Sites, vault: str, answers: dict[str, Path]) -> None:
    """Nobody, or one alone, is told who is missing; a custodian's own key opens nothing by itself."""
    refused(sites.open(vault), 12, "any 2 of 3: approved by nobody; missing: 2 of alice, bob, carol")
    refused(sites.open(vault, answers["bob"]), 12, "approved by bob only; missing: 1 of alice, carol", "still open")
    alone = ("open", vault, "-o", sites.path / "copy", "--key", "alice")
    refused(sites.call("alice", *alone), 12, "approved by nobody")
    refused(sites.call("alice", *alone, "--approvals", answers["bob"]), 2, "exclude each other")


Craft = Callable[[Sites, Path, dict[str, Path], Path], list[Path]]


def _by(home: str, name: str = "", **changes: object) -> Craft:
    """Bob's approval changed, and signed by a key of ``home``, beside Alice's."""

    def craft(sites: Sites, asked: Path, answers: dict[str, Path], to: Path) -> list[Path]:
        key = sites.signer(home, name or f"{home}-signs")
        return [answers["alice"], forge_approval(answers["bob"], to, key, **changes)]

    return craft


def _share(change: Callable[[bytes], bytes]) -> Craft:
    """Bob seals something else than his share."""

    def craft(sites: Sites, asked: Path, answers: dict[str, Path], to: Path) -> list[Path]:
        site = Site.load(sites.home("bob").env)
        key, approval = site.trust.private_key("bob"), read_approval(answers["bob"])
        folder = sites.store / "vaults" / approval.vault
        bag = Keybag.read((folder / "keybag/1.json").read_bytes(), approval.vault, 1, "keybag")
        share = bag.open_entry(approval.custodian, key.secret, approval.header, "keybag")
        return [answers["alice"], reseal(answers["bob"], asked, to, sites.signer("bob", "bob-signs"), change(share))]

    return craft


def _other_share(sites: Sites, asked: Path, answers: dict[str, Path], to: Path) -> list[Path]:
    """Bob hands on what Alice sealed, as his own."""
    shares = read_approval(answers["alice"]).shares
    return [answers["alice"], forge_approval(answers["bob"], to, sites.signer("bob", "bob-signs"), shares=shares)]


def _twice(sites: Sites, asked: Path, answers: dict[str, Path], to: Path) -> list[Path]:
    return [answers["alice"], answers["alice"]]


def _again(sites: Sites, asked: Path, answers: dict[str, Path], to: Path) -> list[Path]:
    return [answers["alice"], sites.approve(asked, "alice", "--valid", "1h")]


def _two_requests(sites: Sites, asked: Path, answers: dict[str, Path], to: Path) -> list[Path]:
    return [answers["alice"], sites.approve(sites.request(read_request(asked).vault), "bob")]


def _request_for_approval(sites: Sites, asked: Path, answers: dict[str, Path], to: Path) -> list[Path]:
    return [answers["alice"], asked]


def _file(data: bytes) -> Craft:
    def craft(sites: Sites, asked: Path, answers: dict[str, Path], to: Path) -> list[Path]:
        to.write_bytes(data)
        return [answers["alice"], to]

    return craft


REFUSALS: dict[str, tuple[Craft, int, str]] = {
    "expired": (_by("bob", time=ago(hours=3), expires=ago(hours=1)), 12, "the approval of bob expired at"),
    "longer than the request": (_by("bob", expires="2199-01-01T00:00:00Z"), 11, "longer than the request"),
    "void before it was made": (_by("bob", expires=ago(hours=3)), 10, "is void from before it was made"),
    "a later expiry, sealed with an earlier one": (_by("bob", expires=ago(hours=-1)), 10, "cannot be opened"),
    "another vault": (_by("bob", vault="0" * 32), 11, "is for vault 00000000"),
    "another header": (_by("bob", header="0" * 64), 11, "is for another header"),
    "another request": (_by("bob", request="0" * 64), 11, "answers another request than"),
    "another requester": (_by("bob", requester="SHA256:mallory"), 11, "is for requester SHA256:mallory"),
    "another attempt": (_by("bob", shares=((2, b"sealed"),)), 11, "does not hold a share for each attempt"),
    "an attempt too many": (_by("bob", shares=((1, b"x"), (2, b"y"))), 11, "does not hold a share for each attempt"),
    "outside the quorum": (_by("bob", custodian="ab" * 32), 11, "who is no custodian"),
    "an analyst signs": (_by("ana", "ana"), 10, "may not sign dumpvault-approval@v1"),
    "the collector signs": (_by("db1", "collector"), 10, "may not sign dumpvault-approval@v1"),
    "one signs for two": (_by("alice"), 11, "is signed with the same key as"),
    "the same file twice": (_twice, 11, "is by alice, as"),
    "the same custodian twice": (_again, 11, "one custodian counts once"),
    "two requests": (_two_requests, 11, "answers another request than"),
    "a request": (_request_for_approval, 10, "urn:dumpvault:approval:v1"),
    "another's share": (_other_share, 10, "the share of bob for attempt 1 cannot be opened"),
    "a wrong bit": (_share(lambda s: bytes([s[0] ^ 1]) + s[1:]), 10, "the share of custodian bob is wrong: component"),
    "components swapped": (_share(lambda s: s[32:] + s[:32]), 10, "the share of custodian bob is wrong: component"),
    "a short share": (_share(lambda s: s[:-1]), 10, "the share of custodian bob is wrong: 63 bytes where 64 belong"),
    "no share": (_share(lambda s: b""), 10, "the share of custodian bob is wrong: 0 bytes where 64 belong"),
    "nothing": (_file(b""), 10, "not JSON"),
    "too much": (_file(b"a" * (1 << 21)), 1, "too large for an approval"),
}  # fmt: skip


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("case", REFUSALS)
def test_approvals_that_are_refused(
    sites: Sites, vault: str, asked: Path, answers: dict[str, Path], tmp_path: Path, case: str
) -> None:
    """Each names the file or the custodian, and has its exit code; the good ones open the vault afterwards."""
    craft, code, told = REFUSALS[case]
    refused(sites.open(vault, *craft(sites, asked, answers, tmp_path / "forged.json")), code, told)


def test_other_vaults_and_kinds(
    sites: Sites, source: Path, vault: str, answers: dict[str, Path], tmp_path: Path
) -> None:
    """Genuine approvals for another vault; approvals where none are needed; a request where none is."""
    other = sites.capture(source)
    refused(sites.open(other, *answers.values()), 11, f"is for vault {vault}, not for {other}")
    plain = make_home(tmp_path / "plain")
    direct = seal(plain, source)
    ran = plain.call("open", direct, "-o", tmp_path / "copy", "--approvals", answers["alice"])
    refused(ran, 2, "is not under dual control")
    plain.call("keys", "new", "signer", "ana", "--role", "analyst", "--unprotected")
    refused(plain.call("request", direct, "--reason", "r"), 2, "is not under dual control", "analyst")
    refused(sites.open(vault, tmp_path / "nothing"), 1, "No such file")


def test_a_vault_is_asked_for_again(sites: Sites, vault: str, asked: Path) -> None:
    """An open request that the analyst loses is lost: its approvals open nothing, and another may be made."""
    first = sites.request(vault)
    shutil.rmtree(onetime(sites, first))
    refused(sites.open(vault, *(sites.approve(first, w) for w in ("alice", "bob"))), 12, "the one-time key")
    assert sites.open(vault, *(sites.approve(sites.request(vault), w) for w in ("alice",))).code == 12


BAD_REQUESTS: dict[str, tuple[str, dict[str, object], int, str]] = {
    "expired": ("ana", {"time": ago(hours=3), "expires": ago(hours=1)}, 12, "the request expired at"),
    "too long": ("ana", {"expires": "2199-01-01T00:00:00Z"}, 10, "31 days is the most"),
    "another header": ("ana", {"header": "0" * 64}, 10, "is not the one that was asked for"),
    "another vault": ("ana", {"vault": "0" * 32}, 3, "is not in"),
    "signed by another": ("mallory", {}, 10, "not signed by the requester that it names"),
    "attempts that are not there": ("ana", {"attempts": (1, 2)}, 10, "asks for attempt 2"),
    "no reason": ("ana", {"reason": " \n"}, 10, "bad 'reason'"),
    "a key of no suite": ("ana", {"keys": (("x25519", b"short"),)}, 10, "is no one-time key"),
    "a key too weak": ("ana", {"keys": (("x25519", bytes(32)),)}, 10, "is no one-time key"),
    "a key of another suite": ("ana", {"keys": (("p384", b""),)}, 10, "is no one-time key"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_requests_that_are_refused(sites: Sites, asked: Path, tmp_path: Path, case: str) -> None:
    """A custodian's program seals nothing to them."""
    who, changes, code, told = BAD_REQUESTS[case]
    forged = forge_request(asked, tmp_path / "request.json", sites.signer(who, who), **changes)
    ran = sites.call("alice", "approve", forged, "--yes", "-o", tmp_path / "approval.json")
    refused(ran, code, told)
    assert not (tmp_path / "approval.json").exists()


def test_roles_are_kept_apart(sites: Sites, vault: str, asked: Path, tmp_path: Path) -> None:
    """No custodian requests, no analyst approves, and nobody approves their own request, whatever roles they hold."""
    refused(sites.call("alice", "request", vault, "--reason", "r"), 12, "may sign dumpvault-request@v1")
    refused(sites.call("alice", "request", vault, "--reason", "r", "--signer", "alice-signs"), 12, "may not sign")
    refused(sites.call("ana", "approve", asked, "--yes"), 12, "none of the private keys at hand holds a share")
    forged = forge_request(
        asked, tmp_path / "r.json", sites.signer("alice", "alice-signs"),
        requester=sites.signer("alice", "alice-signs").signer.keyid,
    )  # fmt: skip
    refused(sites.call("bob", "approve", forged, "--yes"), 10, "alice-signs", "may not sign dumpvault-request@v1")
    ran = sites.call("alice", "approve", asked, "--yes", "--signer", "alice")
    refused(ran, 12, "is a recipient key, not a signer")
    # A key with both roles.
    both = shutil.copytree(sites.path / "alice", tmp_path / "both")
    trust = both / "keys" / "allowed_signers"
    trust.write_text(trust.read_text().replace("dumpvault-approval@v1", "dumpvault-approval@v1,dumpvault-request@v1"))
    home = Home(both)
    ran = home.call(
        "request",
        vault,
        "--store",
        sites.store,
        "--reason",
        "mine",
        "--signer",
        "alice-signs",
        "-o",
        tmp_path / "q.json",
    )
    assert ran.code == 0, ran.err
    ran = home.call("approve", tmp_path / "q.json", "--store", sites.store, "--yes", "--signer", "alice-signs")
    refused(ran, 12, "this key made the request")
    approval = sites.path / "own.json"
    assert home.call(
        "approve", tmp_path / "q.json", "--store", sites.store, "--yes", "--signer", "alice-signs", "-o", approval
    ).code == 12  # fmt: skip
    assert not approval.exists()


def test_expiry_and_clocks(sites: Sites, vault: str, asked: Path, tmp_path: Path) -> None:
    """A request from the future is told of; an approval lasts no longer than its request; expired keys are swept."""
    future = forge_request(
        asked, tmp_path / "f.json", sites.signer("ana", "ana"), time=ago(hours=-2), expires=ago(hours=-3)
    )
    ran = sites.call("alice", "approve", future, "--yes", "-o", tmp_path / "a.json")
    assert ran.code == 0
    assert "in the future of this clock: one of two clocks is wrong" in ran.err
    short = sites.request(vault, "--valid", "2h")
    assert read_approval(sites.approve(short, "bob", "--valid", "9h")).expires == read_request(short).expires
    assert read_approval(sites.approve(short, "bob", "--valid", "1h")).expires < read_request(short).expires

    # The analyst's own request has expired, and so has what answers it.
    old = forge_request(
        asked, tmp_path / "old.json", sites.signer("ana", "ana"), time=ago(hours=3), expires=ago(hours=1)
    )
    kept = onetime(sites, old)
    shutil.copytree(onetime(sites, asked), kept)
    (kept / "request.dsse.json").write_bytes(old.read_bytes())
    digest = kept.name
    answer = sites.approve(asked, "bob")
    late = forge_approval(answer, tmp_path / "late.json", sites.signer("bob", "bob-signs"), request=digest)
    refused(sites.open(vault, late), 12, "the request expired at")
    assert not kept.exists()
    shutil.copytree(onetime(sites, asked), kept)
    (kept / "request.dsse.json").write_bytes(old.read_bytes())
    sites.request(vault)
    assert not kept.exists()
    assert onetime(sites, asked).exists()


@pytest.mark.parametrize("words", [("--valid", "32d"), ("--valid", "0h"), ("--valid", "soon"), ("--valid", "-1h")])
def test_durations_that_are_refused(sites: Sites, vault: str, words: tuple[str, ...]) -> None:
    assert sites.call("ana", "request", vault, "--reason", "r", *words).code == 2


@pytest.mark.parametrize("reason", ["", "  ", "x" * 4097])
def test_a_reason_is_required(sites: Sites, vault: str, reason: str) -> None:
    refused(sites.call("ana", "request", vault, "--reason", reason), 2, "--reason must say why")
    assert sites.call("ana", "request", vault).code == 2


def test_nothing_is_overwritten(sites: Sites, vault: str, asked: Path, answers: dict[str, Path]) -> None:
    """A file that is there stays, and no one-time key is left of a request that was not written."""
    before = set(os.listdir(onetime(sites, asked).parent))
    refused(sites.call("ana", "request", vault, "--reason", "r", "-o", asked), 1, "exists and is kept")
    refused(sites.call("ana", "request", vault, "--reason", "r", "-o", sites.path / "no/such"), 1, "no/such")
    refused(sites.call("alice", "approve", asked, "--yes", "-o", answers["alice"]), 1, "exists and is kept")
    assert set(os.listdir(onetime(sites, asked).parent)) == before


@pytest.mark.parametrize("options", [
    ("--quorum", "2of2:alice,twin"), ("--quorum", "2of2:alice,nobody"), ("--quorum", "1of2:alice,bob"),
    ("--quorum", "3of2:alice,bob"), ("--quorum", "2of2:alice,alice"), ("--quorum", "2of2:alice,bob", "--recipient", "x"),
], ids=str)  # fmt: skip
def test_captures_that_are_refused(sites: Sites, source: Path, options: tuple[str, ...]) -> None:
    """Before anything is written; a custodian with two names is found by the key."""
    keys = sites.home("db1").path / "keys" / "custodians"
    (keys / "twin.pub").write_text((keys / "alice.pub").read_text().replace(" alice", " twin"))
    before = sorted(os.listdir(sites.store / "vaults"))
    ran = sites.call("db1", "capture", source, *options, "--signer", "collector")
    assert ran.code == (12 if "nobody" in options[1] else 2), ran.err
    if "twin" in options[1]:
        assert "quorum: custodians alice and twin have the same key" in ran.err
    assert sorted(os.listdir(sites.store / "vaults")) == before
    (keys / "twin.pub").unlink()


def test_the_configuration_names_the_quorum(sites: Sites, source: Path, tmp_path: Path) -> None:
    """Without flags a host captures for its custodians; a flag overrides, and both in one file are refused."""
    home = Home(shutil.copytree(sites.path / "db1", tmp_path / "db1"))
    config = home.path / "config.toml"
    config.write_text('quorum = "2of2:alice,bob"\n')
    ran = home.call("capture", source, "--signer", "collector")
    assert ran.code == 0, ran.err
    assert home.call("info", ran.out.strip(), "--json").json["quorum"] == "any 2 of 2"
    checks = home.call("doctor", "--json").json["checks"]
    told = {check["name"]: check["found"] for check in checks}
    assert told["recipients"] == "any 2 of alice (x25519), bob (x25519)"
    ran = home.call("capture", source, "--signer", "collector", "--quorum", "3of3:alice,bob,carol")
    assert home.call("info", ran.out.strip(), "--json").json["quorum"] == "any 3 of 3"
    config.write_text('quorum = "2of2:alice,bob"\nrecipients = ["x"]\n')
    refused(home.call("capture", source), 1, "'quorum' and 'recipients' exclude each other")
    config.write_text('quorum = "1of2:alice,bob"\n')
    refused(home.call("capture", source, "--signer", "collector"), 2, "quorum: 1 of 2 is no dual control")


# --- a collector that does not do as it should ----------------------------------------------------------------------


def _rogue(change: Callable[..., object]) -> Callable[..., object]:
    honest = attempt.Attempt._seal
    return lambda self, vk, vault, n, header: change(self, honest(self, vk, vault, n, header), vk, vault, n, header)


def _wrong_for_alice(self: attempt.Attempt, honest: tuple[Keybag, object], *of: object) -> object:
    """Every entry but Alice's is as it should be."""
    bag, signed = honest
    vault, n, header = of[1:]
    other, _ = Keybag.seal_shares(bytes(32), self.recipients, 2, str(vault), int(str(n)), str(header))
    alice = next(r.digest for r in self.recipients if r.name == "alice")
    entries = tuple(o if o.recipient == alice else e for e, o in zip(bag.entries, other.entries, strict=True))
    return Keybag(bag.vault, bag.attempt, entries, "shares"), signed


ROGUES: dict[str, tuple[Callable[..., object], str]] = {
    "a direct keybag": (
        lambda self, honest, vk, vault, n, header: (Keybag.seal(vk, self.recipients, vault, n, header), honest[1]),
        "keybag/1.json: is of mode direct, against the header",
    ),
    "no commitments": (lambda self, honest, *of: (honest[0], None), "commits to 0 components of shares; its header asks for 3"),
    "too few": (
        lambda self, honest, *of: (honest[0], sharing.Commitments(honest[1].vault_key, honest[1].components[:2])),
        "commits to 2 components of shares; its header asks for 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ROGUES)
def test_collectors_that_verification_refuses(sites: Sites, source: Path, case: str) -> None:
    """No key is needed to see that a keybag or a takeover is not what the header promises."""
    change, told = ROGUES[case]
    with mock.patch.object(attempt.Attempt, "_seal", _rogue(change)):
        vault = sites.capture(source)
    refused(sites.call("ana", "verify", vault), 10, told)
    refused(sites.open(vault), 10, told)


def test_a_collector_that_sealed_a_wrong_share(sites: Sites, source: Path) -> None:
    """Alice's program names it; Bob and Carol open the vault all the same."""
    with mock.patch.object(attempt.Attempt, "_seal", _rogue(_wrong_for_alice)):
        vault = sites.capture(source)
    assert sites.call("ana", "verify", vault).code == 0
    refused(sites.call("alice", "verify", vault, "--with-key", "alice"), 10, "the share of custodian alice is wrong")
    request = sites.request(vault)
    refused(sites.call("alice", "approve", request, "--yes"), 10, "the share of custodian alice is wrong: component")
    assert sites.open(vault, sites.approve(request, "bob"), sites.approve(request, "carol")).code == 0


def test_a_collector_that_committed_to_another_key(sites: Sites, source: Path) -> None:
    """Every share is as signed, and yet they do not make the vault key that was signed."""
    change = lambda self, honest, *of: (honest[0], sharing.Commitments("ab" * 32, honest[1].components))  # noqa: E731
    with mock.patch.object(attempt.Attempt, "_seal", _rogue(change)):
        vault = sites.capture(source)
    request = sites.request(vault)
    ran = sites.open(vault, sites.approve(request, "bob"), sites.approve(request, "carol"))
    refused(ran, 10, "its shares do not make the vault key that attempt 1 committed to")


# --- tampering and races --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("untouched")
def test_every_changed_byte_is_noticed(
    sites: Sites, vault: str, asked: Path, answers: dict[str, Path], tmp_path: Path, record_proof: Callable[[str], None]
) -> None:
    """A sample of bits of a request, an approval, the keybag and the takeover: never approved, never opened."""
    rng = random.Random(5)
    tried = 0
    objects = sites.store / "vaults" / vault
    for path, command in (
        (asked, lambda copy: sites.call("alice", "approve", copy, "--yes", "-o", tmp_path / "never")),
        (answers["bob"], lambda copy: sites.open(vault, answers["alice"], copy)),
        (objects / "keybag/1.json", None), (objects / "commits/0.dsse.json", None), (objects / "vault.dsse.json", None),
    ):  # fmt: skip
        whole = path.read_bytes()
        for at in sorted(rng.sample(range(len(whole)), 40)):
            changed = whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :]
            copy = tmp_path / "changed.json"
            if command:
                copy.write_bytes(changed)
                ran = command(copy)
            else:
                path.chmod(0o600)
                path.write_bytes(changed)
                ran = sites.open(vault, answers["alice"], answers["bob"])
                path.write_bytes(whole)
            assert ran.code in (2, 3, 10, 12), (path, at, ran)
            assert ran.code == 10 or path in (asked, objects / "vault.dsse.json"), (path, at, ran)
            assert "Traceback" not in ran.err
            assert "internal error" not in ran.err
            tried += 1
    assert not (tmp_path / "never").exists()
    record_proof(
        f"dual control: {tried} changed bytes of requests, approvals, keybag, takeover and header, none let pass"
    )


def test_of_two_that_use_a_request_one_opens(tmp_path: Path) -> None:
    """The rename that takes the keys away succeeds once."""
    keys = OneTimeKeys(str(tmp_path / "requests"))
    keys.add("ab" * 32, b"request", [])
    assert list(keys.digests()) == ["ab" * 32]
    assert keys.use_up("ab" * 32) is True
    assert keys.use_up("ab" * 32) is False
    assert keys.request("ab" * 32) is None
    assert os.listdir(tmp_path / "requests") == []


def test_a_request_that_another_command_used_meanwhile(
    sites: Sites, vault: str, asked: Path, answers: dict[str, Path]
) -> None:
    """All is checked, the shares are combined, and yet nothing is opened if the keys went meanwhile."""
    with mock.patch.object(OneTimeKeys, "use_up", return_value=False):
        refused(sites.open(vault, answers["alice"], answers["bob"], to="race"), 12, "the one-time key")
    assert not (sites.path / "race").exists()
