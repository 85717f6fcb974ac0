"""Approvals, requests and roles that open nothing, and leave the request open."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dumpvault.flows.site import Site
from dumpvault.formats.keybag import Keybag
from support.command import Home, make_home, seal
from support.custody import (
    Sites,
    ago,
    forge_approval,
    forge_request,
    onetime,
    read_approval,
    read_request,
    refused,
    reseal,
)


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
