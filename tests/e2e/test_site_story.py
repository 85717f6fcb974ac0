"""Policies, custodians and destruction together: what a payment site has to show."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.command import Home, make_home
from support.vmcore import write_core

WHO = ("alice", "bob", "carol")
QUORUM = "2of3:alice,bob,carol"


@pytest.fixture
def site(tmp_path: Path) -> Home:
    """One home that plays every part; who may do what is told apart by keys, as always."""
    home = make_home(tmp_path / "site")
    for name in WHO:
        home.run("keys", "new", "custodian", name, "--unprotected")
        home.run("keys", "new", "signer", f"{name}-approves", "--role", "custodian", "--unprotected")
    home.run("keys", "new", "signer", "ana", "--role", "analyst", "--unprotected")
    home.run("keys", "new", "signer", "officer", "--role", "officer", "--unprotected")
    return home


def test_pci_from_check_to_destruction(site: Home, tmp_path: Path) -> None:
    """The policy is checked, obeyed at capture, asked at opening with what the request says, and keeps the vault."""
    vmcore = write_core(tmp_path / "vmcore")
    checked = site.run("policy", "check", "pci-dss-4", "--quorum", QUORUM, "--signer", "collector")
    assert checked.code == 0, checked.out
    alone = site.run("capture", vmcore, "--policy", "pci-dss-4", "--recipient", "analyst", "--signer", "collector")
    assert alone.code == 11
    ran = site.run("capture", vmcore, "--policy", "pci-dss-4", "--quorum", QUORUM, "--signer", "collector")
    assert ran.code == 0, ran.err
    vault = ran.out.strip()
    request = tmp_path / "request.json"
    asked = site.run("request", vault, "--reason", "panic", "--ticket", "INC-1", "-o", request, "--signer", "ana")
    assert asked.code == 0, asked.err
    approvals: list[str] = []
    for name in WHO[:2]:
        assert site.run("open", vault, "-o", tmp_path / "copy", *approvals).code == 12
        answer = tmp_path / f"{name}.json"
        ran = site.run("approve", request, "--signer", f"{name}-approves", "--key", name, "-o", answer, "--yes")
        assert ran.code == 0, ran.err
        approvals += ["--approvals", str(answer)]
    opened = site.run("open", vault, "-o", tmp_path / "copy", *approvals)
    assert opened.code == 0, opened.err
    assert (tmp_path / "copy").read_bytes() == vmcore.read_bytes()
    kept = site.run("shred", vault, "--reason", "no longer needed", "--yes", "-o", tmp_path / "certificate")
    assert kept.code == 11
    assert "retention.keep_days" in kept.err
    assert not (tmp_path / "certificate").exists()


def test_a_request_without_a_ticket_is_not_enough(site: Home, tmp_path: Path) -> None:
    """Two custodians agree, and the policy still asks for a ticket; nothing is used up by the refusal."""
    ran = site.run(
        "capture", write_core(tmp_path / "vmcore"), "--policy", "pci-dss-4", "--quorum", QUORUM, "--signer", "collector"
    )
    vault, request = ran.out.strip(), tmp_path / "request.json"
    site.run("request", vault, "--reason", "panic", "-o", request, "--signer", "ana")
    approvals: list[str] = []
    for name in WHO[1:]:
        answer = tmp_path / f"{name}.json"
        site.run("approve", request, "--signer", f"{name}-approves", "--key", name, "-o", answer, "--yes")
        approvals += ["--approvals", str(answer)]
    refused = site.run("open", vault, "-o", tmp_path / "copy", *approvals)
    assert refused.code == 11
    assert "retrieval.ticket" in refused.err
    again = site.run("open", vault, "-o", tmp_path / "copy", *approvals, "--ticket", "INC-1")
    assert again.code == 0, again.err


def test_what_needs_the_vault_key_is_refused_under_dual_control(site: Home, tmp_path: Path) -> None:
    """rewrap names reshare, grant asks for approvals, and both change nothing; shred needs no key and works."""
    ran = site.run("capture", write_core(tmp_path / "vmcore"), "--quorum", QUORUM, "--signer", "collector")
    vault = ran.out.strip()
    before = sorted(path.name for path in (site.vaults / vault).rglob("*"))
    rewrapped = site.run("rewrap", vault, "--add", "analyst", "--signer", "officer")
    granted = site.run("grant", vault, "--notes", "--to", "analyst", "--signer", "officer", "-o", tmp_path / "grant")
    for ran, code in ((rewrapped, 2), (granted, 12)):
        assert ran.code == code
        assert "under dual control" in ran.err
    assert sorted(path.name for path in (site.vaults / vault).rglob("*")) == before
    shredded = site.run(
        "shred", vault, "--reason", "test", "--yes", "-o", tmp_path / "certificate", "--signer", "officer"
    )
    assert shredded.code == 0, shredded.err
    assert site.run("verify", vault).code == 0
