"""A real panicked kernel's dump under the policies of regulated sites: what ``info`` says of algorithms, and what opens it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.command import Home

pytestmark = pytest.mark.shared
DIGEST = "354d9a65f37414ae43ec8abe9e75b60d50102396a7083b8a6d38b8e309bb8243"


@pytest.fixture(scope="module")
def vmcore(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("zstd") is None:
        pytest.skip("NO zstd COMMAND: the real dumps are compressed")
    path = tmp_path_factory.mktemp("real") / "vmcore"
    packed = shared / "cores" / "x86_64-proc-vmcore-256M.elf.zst"
    subprocess.run(["zstd", "-q", "-d", str(packed), "-o", str(path)], check=True)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "site")
    good(home, "init")
    return home


def good(home: Home, *words: object) -> str:
    ran = home.run(*words)
    assert ran.code == 0, ran.err
    return ran.out.strip()


def captured(home: Home, vmcore: Path, policy: str, *keys: object) -> tuple[str, Any]:
    """The vault's id, and what ``info`` says under the same policy."""
    vault = good(home, "capture", vmcore, "--policy", policy, *keys)
    ran = home.run("info", vault, "--policy", policy, "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["policy"], ran.json["verdict"].split()[0]) == (policy, "intact")
    return vault, ran.json


def opened(home: Home, vault: str, policy: str, *more: object) -> str:
    """SHA-256 of what ``open`` writes."""
    copy = home.path / "copy"
    good(home, "open", vault, "-o", copy, "--policy", policy, *more)
    digest = hashlib.sha256(copy.read_bytes()).hexdigest()
    copy.unlink()
    return digest


@pytest.mark.parametrize(
    ("policy", "kem", "kind", "stock"),
    [
        ("fips-140-3", "p384", "p384", True),
        ("fips-140-3", "mlkem1024", "p384", True),
        ("cnsa-2.0", "mlkem1024", "mldsa87", False),
    ],
)
def test_one_recipient(home: Home, vmcore: Path, policy: str, kem: str, kind: str, stock: bool) -> None:
    """The default keys are refused; the policy's own are what ``info`` names, and open it bit for bit."""
    good(home, "keys", "new", "recipient", "usual", "--unprotected")
    good(home, "keys", "new", "signer", "ed", "--unprotected")
    refused = home.run("capture", vmcore, "--policy", policy, "--recipient", "usual", "--signer", "ed")
    assert refused.code == 11, refused.err
    assert "recipients.kems" in refused.err
    good(home, "keys", "new", "recipient", "analyst", "--kem", kem, "--unprotected")
    good(home, "keys", "new", "signer", "collector", "--algorithm", kind, "--unprotected")
    vault, info = captured(home, vmcore, policy, "--recipient", "analyst", "--signer", "collector")
    assert info["recipients"] == [f"analyst ({kem})"]
    assert [(s["name"], s["algorithm"], s["stock_checkable"]) for s in info["signers"]] == [("collector", kind, stock)]
    assert opened(home, vault, policy) == DIGEST


def test_two_custodians(home: Home, vmcore: Path) -> None:
    """Under ``pci-dss-4`` one approval opens nothing; two do, with the request's reason and ticket."""
    who = ("alice", "bob", "carol")
    for name in who:
        good(home, "keys", "new", "custodian", name, "--unprotected")
        good(home, "keys", "new", "signer", f"{name}-approves", "--role", "custodian", "--unprotected")
    good(home, "keys", "new", "signer", "ana", "--role", "analyst", "--unprotected")
    good(home, "keys", "new", "signer", "collector", "--algorithm", "mldsa87", "--unprotected")
    vault, info = captured(home, vmcore, "pci-dss-4", "--quorum", "2of3:alice,bob,carol", "--signer", "collector")
    assert info["quorum"] == "any 2 of 3"
    assert info["recipients"] == [f"{name} (xwing)" for name in who]
    assert info["signers"][0]["algorithm"] == "mldsa87"
    request = home.path / "request.json"
    good(home, "request", vault, "--reason", "panic", "--ticket", "INC-1", "--signer", "ana", "-o", request)
    approvals: list[object] = []
    for name in ("bob", "carol"):
        assert home.run("open", vault, "-o", home.path / "copy", "--policy", "pci-dss-4", *approvals).code == 12
        answer = home.path / f"{name}.json"
        good(home, "approve", request, "--yes", "--key", name, "--signer", f"{name}-approves", "-o", answer)
        approvals += ["--approvals", answer]
    assert opened(home, vault, "pci-dss-4", *approvals) == DIGEST
