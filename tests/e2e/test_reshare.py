"""A vault under dual control gets new keys and other custodians, and grants, when a quorum agrees to that and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from support.command import Home, Ran
from support.custody import CUSTODIANS, Sites, make_sites
from support.officers import Stopped, calls, fault_at
from support.vmcore import write_core


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sites, str]:
    """Custodians as ever, and dan, who is not one yet; ana is analyst and officer. A vault of several commits."""
    sites = make_sites(tmp_path_factory.mktemp("sites"))
    officer = sites.path / "chief.pub"
    sites.home("dan").call("init")
    new = {"dan": ("dan", "custodian", "--kem", "p384"), "dan-signs": ("dan", "signer", "--role", "custodian")}
    new["chief"] = ("ana", "signer", "--role", "officer")
    homes = ("db1", "ana", "mallory", "dan", *CUSTODIANS)
    for name, (home, *how) in new.items():
        assert sites.home(home).call("keys", "new", how[0], name, "--unprotected", *how[1:]).code == 0
        assert sites.home(home).call("keys", "export", name, "-o", sites.path / f"{name}.pub").code == 0
    for home in homes:
        for name, (owner, purpose, *options) in new.items():
            if owner != home:
                how = ["--custodian"] if purpose == "custodian" else options
                assert sites.home(home).call("keys", "import", sites.path / f"{name}.pub", *how).code == 0
    shutil.copy(sites.path / "ana" / "keys" / "allowed_signers", sites.path / "dan" / "keys" / "allowed_signers")
    assert officer.exists()
    vault = sites.capture(write_core(sites.path / "vmcore", 300), "--region-size", "512K")
    return sites, vault


@pytest.fixture
def sites(prepared: tuple[Sites, str], tmp_path: Path) -> Sites:
    """Each test changes a copy."""
    return Sites(Path(shutil.copytree(prepared[0].path, tmp_path / "sites")))


@pytest.fixture
def vault(prepared: tuple[Sites, str]) -> str:
    return prepared[1]


def approved(sites: Sites, vault: str, *who: str, purpose: str = "open") -> list[Path]:
    request = sites.request(vault, "--for", purpose)
    return [sites.approve(request, name) for name in who]


def options(approvals: list[Path]) -> list[object]:
    return [word for path in approvals for word in ("--approvals", path)]


def reshare(sites: Sites, vault: str, approvals: list[Path], *more: object) -> Ran:
    return sites.call("ana", "reshare", vault, *options(approvals), *more)


def opens(sites: Sites, vault: str, *who: str) -> bool:
    ran = sites.open(vault, *approved(sites, vault, *who))
    same = ran.code == 0 and (sites.path / "copy").read_bytes() == (sites.path / "vmcore").read_bytes()
    (sites.path / "copy").unlink(missing_ok=True)
    return same


def intact(sites: Sites, vault: str) -> dict[str, object]:
    ran = sites.call("ana", "verify", vault, "--json")
    assert ran.code == 0, ran.err + ran.out
    told: dict[str, object] = json.loads(ran.out)
    return told


def refused(ran: Ran, code: int, *words: str) -> None:
    assert ran.code == code, ran.err
    assert "Traceback" not in ran.err
    for word in words:
        assert word in ran.err, ran.err


def test_custodians_change(sites: Sites, vault: str) -> None:
    """Carol leaves, dan comes: he and one other open it, carol approves nothing more, what was approved before is void."""
    early = approved(sites, vault, "alice", "carol")
    ran = reshare(
        sites,
        vault,
        approved(sites, vault, "alice", "bob", purpose="reshare"),
        "--quorum",
        "2of3:alice,bob,dan",
        "--json",
    )
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert [c["name"] for c in told["custodians"]] == ["alice", "bob", "dan"]
    assert told["agreed"] == ["alice", "bob"]
    assert told["quorum"] == 2
    assert not told["finished"]
    assert intact(sites, vault)["superseded"] == []
    info = sites.call("ana", "info", vault)
    assert "any 2 of 3" in info.out
    assert "dan (p384)" in info.out
    assert "carol" not in info.out
    assert opens(sites, vault, "dan", "alice")
    refused(sites.open(vault, *early[:1], early[1]), 11, "carol", "no custodian")
    request = sites.request(vault)
    refused(sites.call("carol", "approve", request, "--yes", "-o", sites.path / "no"), 12, "holds a share of")
    refused(sites.open(vault, sites.approve(request, "dan")), 12, "any 2 of 3", "alice, bob")
    assert sites.call("dan", "verify", vault, "--with-key", "dan").code == 0


def test_the_same_custodians(sites: Sites, vault: str) -> None:
    """New keys for those who have a share: approvals of before open nothing, and blame nobody."""
    early = approved(sites, vault, "alice", "bob")
    late = sites.request(vault)
    ran = reshare(sites, vault, approved(sites, vault, "bob", "carol", purpose="reshare"))
    assert ran.code == 0, ran.err
    refused(sites.open(vault, *early), 12, "shared anew after this was asked for")
    refused(sites.call("alice", "approve", late, "--yes", "-o", sites.path / "no"), 12, "Nothing was approved")
    assert opens(sites, vault, "alice", "carol")
    again = reshare(
        sites, vault, approved(sites, vault, "alice", "carol", purpose="reshare"), "--quorum", "3of3:alice,bob,dan"
    )
    assert again.code == 0, again.err
    assert opens(sites, vault, "alice", "bob", "dan")
    refused(sites.open(vault, *approved(sites, vault, "alice", "bob")), 12, "any 3 of 3")


def test_an_older_copy_of_the_vault(sites: Sites, vault: str, tmp_path: Path) -> None:
    """A copy from before a reshare opens by what is asked for there, and not by what was asked for after it."""
    shutil.copytree(sites.store, tmp_path / "older")
    assert reshare(sites, vault, approved(sites, vault, "alice", "bob", purpose="reshare")).code == 0
    after = approved(sites, vault, "alice", "bob")
    ran = sites.home("ana").call("open", vault, "-o", tmp_path / "x", *options(after), "--store", tmp_path / "older")
    refused(ran, 12, "this copy of the vault is older")


@pytest.mark.parametrize("given", ["open", "grant"])
def test_what_was_approved_for_something_else(sites: Sites, vault: str, given: str) -> None:
    approvals = approved(sites, vault, "alice", "bob", purpose=given)
    refused(reshare(sites, vault, approvals), 11, f"given to {given}, not to reshare")
    other = approved(sites, vault, "alice", "bob", purpose="reshare")
    refused(sites.open(vault, *other), 11, "given to reshare, not to open")
    assert intact(sites, vault)["superseded"] == []
    assert reshare(sites, vault, other).code == 0, "a refusal leaves the request open"


def test_refusals_change_nothing(sites: Sites, vault: str) -> None:
    approvals = approved(sites, vault, "alice", "bob", purpose="reshare")
    before = sorted(path.name for path in (sites.store / "vaults" / vault).rglob("*"))
    refused(reshare(sites, vault, approvals[:1]), 12, "approved by alice only")
    refused(reshare(sites, vault, []), 12, "approved by nobody")
    refused(reshare(sites, vault, approvals, "--quorum", "1of3:alice,bob,dan"), 2, "no dual control")
    refused(reshare(sites, vault, approvals, "--quorum", "2of2:alice,nobody"), 12, "nobody")
    refused(reshare(sites, vault, approvals, "--policy", "fips-140-3"), 11, "recipients.kems")
    refused(sites.call("ana", "rewrap", vault, "--add", sites.path / "dan.pub"), 2, "under dual control", "reshare")
    refused(sites.call("mallory", "reshare", vault, *options(approvals)), 12, "the one-time key")
    assert sorted(path.name for path in (sites.store / "vaults" / vault).rglob("*")) == before
    assert opens(sites, vault, "alice", "bob")


def test_only_an_officer(sites: Sites, vault: str) -> None:
    (sites.path / "ana" / "private" / "chief.key").unlink(missing_ok=True)
    for path in (sites.path / "ana" / "private").glob("*chief*"):
        path.unlink()
    refused(reshare(sites, vault, approved(sites, vault, "alice", "bob", purpose="reshare")), 12, "dumpvault-rewrap@v1")


def test_a_vault_without_dual_control(sites: Sites, vault: str) -> None:
    home = sites.home("ana")
    assert home.call("keys", "new", "recipient", "rec", "--unprotected").code == 0
    ran = home.call("keys", "new", "signer", "coll", "--unprotected")
    ran = home.call("capture", sites.path / "vmcore", "--recipient", "rec", "--signer", "coll", "--store", sites.store)
    assert ran.code == 0, ran.err
    refused(sites.call("ana", "reshare", ran.out.strip()), 2, "not under dual control", "rewrap")


def test_a_grant_by_a_quorum(sites: Sites, vault: str, tmp_path: Path) -> None:
    """Custodians agree to a grant: the vendor opens those regions with a key that is no custodian's, and no other."""
    vendor = Home(tmp_path / "vendor")
    vendor.call("init")
    assert vendor.call("keys", "new", "recipient", "vendor", "--unprotected").code == 0
    shutil.copy(sites.path / "ana" / "keys" / "allowed_signers", tmp_path / "vendor" / "keys" / "allowed_signers")
    to = tmp_path / "vendor" / "keys" / "recipients" / "vendor.pub"
    refused(sites.call("ana", "grant", vault, "--notes", "--to", to, "-o", tmp_path / "g"), 12, "approved by nobody")
    wrong = approved(sites, vault, "alice", "bob")
    refused(
        sites.call("ana", "grant", vault, "--notes", "--to", to, "-o", tmp_path / "g", *options(wrong)),
        11,
        "not to grant",
    )
    agreed = approved(sites, vault, "alice", "bob", purpose="grant")
    ran = sites.call("ana", "grant", vault, "--notes", "--to", to, "-o", tmp_path / "grant", *options(agreed))
    assert ran.code == 0, ran.err
    ran = vendor.call(
        "open", vault, "-o", tmp_path / "part", "--partial", "--grant", tmp_path / "grant", "--store", sites.store
    )
    assert ran.code == 3, ran.err
    source = (sites.path / "vmcore").read_bytes()
    assert (tmp_path / "part").read_bytes()[:4096] == source[:4096]
    refused(
        sites.call("ana", "grant", vault, "--notes", "--to", to, "-o", tmp_path / "h", *options(agreed)), 12, "was used"
    )


@pytest.mark.parametrize("fault", ["killed before", "killed after", "failed"])
def test_every_crash_point(sites: Sites, vault: str, tmp_path: Path, fault: str) -> None:
    """Stopped around each call to the store: until the event the old custodians open it, from it on the new ones; the
    same command with the same approvals finishes it."""
    approvals = approved(sites, vault, "alice", "bob", purpose="reshare")
    change = ("--quorum", "2of2:carol,dan")
    steps: list[str] = []
    whole = Sites(Path(shutil.copytree(sites.path, tmp_path / "whole")))
    with calls(lambda n, what: steps.append(what)):
        ran = reshare(whole, vault, approvals, *change)
    assert ran.code == 0, ran.err
    event = next(n for n, step in enumerate(steps) if step.startswith("put events"))
    assert {step.split("/")[0] for step in steps[:event]} == {"put keybag", "put keys"}
    assert {step.split("/")[0] for step in steps[event + 1 :]} == {"delete keybag", "delete keys"}
    for at, step in enumerate(steps):
        case = Sites(Path(shutil.copytree(sites.path, tmp_path / str(at))))
        with fault_at(at, fault):
            try:
                ran = reshare(case, vault, approvals, *change)
                assert (fault, ran.code) == ("failed", 13), ran.err
            except Stopped:
                pass
        counts = at > event or (at == event and fault == "killed after")
        intact(case, vault)
        if at in (0, event - 1, event, event + 1, len(steps) - 1):
            assert opens(case, vault, *(("carol", "dan") if counts else ("alice", "bob"))), step
        ran = reshare(case, vault, approvals, *change)
        assert ran.code == 0, (step, ran.err)
        told = intact(case, vault)
        assert told["superseded"] == told["foreign"] == []
        assert opens(case, vault, "carol", "dan")
        assert len(list((case.store / "vaults" / vault / "events").iterdir())) == 1
        shutil.rmtree(case.path)
