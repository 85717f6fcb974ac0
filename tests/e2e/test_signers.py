"""Several signers of one vault, of every kind, by the installed command (spec, sections 4.3, 5.2 and 5.3)."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.command import Home
from support.vmcore import write_core

ALGORITHMS = ("ed25519", "p384", "mldsa65", "mldsa87")


@pytest.fixture
def signers(home: Home) -> Home:
    """The home of the other tests with a signer of every algorithm, named by it."""
    for name in ALGORITHMS:
        assert home.call("keys", "new", "signer", name, "--algorithm", name, "--unprotected").code == 0
    return home


def capture(home: Home, source: Path, *names: str) -> Path:
    arguments = [word for name in names for word in ("--signer", name)]
    ran = home.call("capture", source, "--recipient", "analyst", *arguments)
    assert ran.code == 0, ran.err
    return home.vaults / ran.out.strip()


def verified(home: Home, vault: Path, *trusted: str) -> dict[str, Any]:
    """What ``verify --json`` says to one who trusts only ``trusted``."""
    lines = (home.path / "keys/allowed_signers").read_text().splitlines(keepends=True)
    chosen = home.path / "chosen"
    chosen.write_text("".join(line for line in lines if line.split()[0] in trusted))
    report: dict[str, Any] = json.loads(home.call("verify", vault.name, "--allowed-signers", chosen, "--json").out)
    return report


def step(report: dict[str, Any], number: int) -> tuple[str, str]:
    found = next(s for s in report["steps"] if s["number"] == number)
    return found["state"], found["note"]


def test_a_vault_of_four_signers(signers: Home, tmp_path: Path) -> None:
    """All four sign every object, each is reported, stock ssh-keygen checks the sidecar, and the vault opens."""
    source = write_core(tmp_path / "vmcore")
    vault = capture(signers, source, "mldsa87", "p384", "ed25519", "mldsa65")
    for path in (*vault.glob("*.dsse.json"), *vault.glob("commits/*")):
        assert len(json.loads(path.read_text())["signatures"]) == 4
    report = verified(signers, vault, *ALGORITHMS)
    assert (report["verdict"], report["exit_code"], report["foreign"]) == ("intact", 0, [])
    said = [(s["name"], s["algorithm"], s["stock_checkable"], s["sidecar"]) for s in report["signers"]]
    assert said == [
        ("mldsa87", "mldsa87", False, False), ("p384", "p384", True, True),
        ("ed25519", "ed25519", True, False), ("mldsa65", "mldsa65", False, False),
    ]  # fmt: skip
    for facts in report["signers"]:
        assert (facts["header"], facts["manifest"], facts["commits"]) == (True, True, report["commits"])
    tool = shutil.which("ssh-keygen")
    if not tool:
        pytest.skip("NOT TESTED: no ssh-keygen here")
    command = [tool, "-Y", "verify", "-f", signers.path / "keys/allowed_signers", "-I", "p384"]
    command += ["-n", "dumpvault-manifest@v1", "-s", vault / "manifest.json.sig"]
    payload = (vault / "manifest.json").read_bytes()
    assert subprocess.run(command, input=payload, capture_output=True, check=False).returncode == 0
    assert signers.call("open", vault.name, "-o", tmp_path / "copy").code == 0
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


def test_a_verifier_who_trusts_some_of_them(signers: Home, tmp_path: Path) -> None:
    """Any one trusted signer makes the vault good; what a stock tool could not tell this verifier is said, not failed."""
    vault = capture(signers, write_core(tmp_path / "vmcore"), "p384", "mldsa87")
    alone = verified(signers, vault, "mldsa87")
    assert (alone["verdict"], alone["signed_by"]) == ("intact", ["mldsa87"])
    state, note = step(alone, 4)
    assert state == "held" and "does not count here" in note
    p384, pq = alone["signers"]
    assert (p384["header"], p384["commits"], p384["manifest"], p384["sidecar"]) == (False, 0, False, False)
    assert "is not in" in p384["objections"][0] and pq["objections"] == []
    assert verified(signers, vault, "p384")["signed_by"] == ["p384"]
    assert verified(signers, vault, "ed25519")["exit_code"] == 10


def test_a_vault_of_post_quantum_signers_alone(signers: Home, tmp_path: Path) -> None:
    """No sidecar is made or missed; one that is put there is foreign."""
    vault = capture(signers, write_core(tmp_path / "vmcore"), "mldsa87")
    assert not (vault / "manifest.json.sig").exists()
    report = verified(signers, vault, "mldsa87")
    assert (report["verdict"], report["foreign"]) == ("intact", [])
    state, note = step(report, 4)
    assert state == "held" and "no signer is of a kind that ssh-keygen can check" in note
    shown = signers.call("info", vault.name)
    assert "mldsa87 (mldsa87) signed header" in shown.out and "not for ssh-keygen" in shown.out
    (vault / "manifest.json.sig").write_bytes(b"junk")
    report = verified(signers, vault, "mldsa87")
    assert (report["verdict"], report["foreign"]) == ("intact", ["manifest.json.sig"])


def test_a_sidecar_of_a_mixed_vault_is_not_dispensable(signers: Home, tmp_path: Path) -> None:
    """Where a signer is of a stock kind its sidecar is missed, also when its signature was taken off the manifest."""
    vault = capture(signers, write_core(tmp_path / "vmcore"), "p384", "mldsa87")
    manifest = vault / "manifest.dsse.json"
    whole = json.loads(manifest.read_text())
    del whole["signatures"][0]
    manifest.write_text(json.dumps(whole, sort_keys=True, separators=(",", ":")))
    report = verified(signers, vault, *ALGORITHMS)
    assert report["exit_code"] == 10 and step(report, 4)[0] == "failed"
    assert [s["manifest"] for s in report["signers"]] == [False, True]
    (vault / "manifest.json.sig").unlink()
    report = verified(signers, vault, *ALGORITHMS)
    assert report["exit_code"] == 3 and step(report, 4)[0] == "missing"


def test_signers_that_capture_refuses(signers: Home, tmp_path: Path) -> None:
    """One key under one or two names, one of several that is unknown, and more than sixteen: refused, and nothing written."""
    source = write_core(tmp_path / "vmcore")
    shutil.copy(signers.path / "private/p384.key", signers.path / "private/again.key")
    for code, word, names in (
        (1, "twice", ("p384", "p384")), (1, "twice", ("p384", "again")), (12, "nobody", ("p384", "nobody")),
        (12, "not a signer", ("p384", "analyst")), (1, "17 signers", ("p384",) * 17),
    ):  # fmt: skip
        arguments = [word for name in names for word in ("--signer", name)]
        ran = signers.call("capture", source, "--recipient", "analyst", *arguments)
        assert (ran.code, word in ran.err, ran.out) == (code, True, ""), ran.err
    assert not list(signers.vaults.glob("*"))


def test_public_halves_travel(signers: Home, tmp_path: Path) -> None:
    """Each kind is exported as a line that another home imports with a role, and verifies with."""
    vault = capture(signers, write_core(tmp_path / "vmcore"), *ALGORITHMS)
    auditor = Home(tmp_path / "auditor")
    assert auditor.call("init").code == 0
    for name in ALGORITHMS:
        line = signers.call("keys", "export", name).out
        (tmp_path / f"{name}.pub").write_text(line)
        assert auditor.call("keys", "import", tmp_path / f"{name}.pub", "--role", "collector").code == 0
        assert auditor.call("keys", "export", name).out == line
    ran = auditor.call("verify", vault.name, "--store", signers.path / "store", "--json")
    assert ran.code == 0
    assert [s["manifest"] for s in json.loads(ran.out)["signers"]] == [True] * 4


def test_resuming_takes_the_same_signers(signers: Home, tmp_path: Path) -> None:
    """An unfinished vault is gone on with by just its own signers, in any order; others begin a new one."""
    source = write_core(tmp_path / "vmcore")
    vault = capture(signers, source, "p384", "mldsa87")
    for left in ("manifest.dsse.json", "manifest.json", "manifest.json.sig"):
        (vault / left).unlink()
    other = capture(signers, source, "p384")
    assert other != vault
    again = signers.call("capture", source, "--recipient", "analyst", "--signer", "mldsa87", "--resume", vault.name)
    assert again.code == 2 and "signer" in again.err
    assert capture(signers, source, "mldsa87", "p384") == vault
    report = verified(signers, vault, *ALGORITHMS)
    assert (report["verdict"], [s["name"] for s in report["signers"]]) == ("intact", ["p384", "mldsa87"])
    assert [s["commits"] for s in report["signers"]] == [report["commits"]] * 2
    (vault / "manifest.json.sig").unlink()
    capture(signers, source, "mldsa87", "p384")  # heals the sidecar of the finished one, and begins anew
    assert verified(signers, vault, *ALGORITHMS)["verdict"] == "intact"
