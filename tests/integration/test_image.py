"""What ``integrate --image`` puts into a tree, and what it refuses; test_crash_images.py runs real images."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from support.command import Ran
from support.roots import HOST, SIGNER, Root, make_root


@pytest.fixture
def root(tmp_path: Path) -> Root:
    (tmp_path / "image").mkdir()
    return make_root(tmp_path / "root")


def fill(root: Root, *more: object) -> Ran:
    usual = ("--host", HOST, "--signer", SIGNER, "--recipient", "analyst")
    return root.run("integrate", "--image", root.path.parent / "image", *usual, *more)


def test_an_image_holds_what_a_capture_loads_and_no_more(root: Root) -> None:
    """Bytecode of the capture's side, this host's keys alone; the binaries are named for the caller."""
    assert root.site.call("keys", "new", "recipient", "other", "--unprotected").code == 0
    ran = fill(root)
    assert ran.code == 0, ran.err
    binaries = [Path(line) for line in ran.out.splitlines()]
    assert all(path.exists() for path in binaries)
    assert any("_rust" in path.name for path in binaries)
    image = root.path.parent / "image"
    modules = {str(path).rpartition("/dumpvault/")[2] for path in image.rglob("dumpvault/**/*.pyc")}
    assert {"cli/capture.pyc", "flows/resuming.pyc", "flows/verify.pyc", "stages/release/phyp.pyc"} <= modules
    assert not {"cli/footprint.pyc", "flows/open.pyc", "flows/demo.pyc", "flows/doctor.pyc"} & modules
    assert not list(image.rglob("*.py")), "sources would take memory"
    assert not list(image.rglob("nacl/*"))
    keys = {str(path.relative_to(image / "etc/dumpvault")) for path in (image / "etc/dumpvault").rglob("*.*")}
    assert keys == {"policies/baseline.toml", "keys/recipients/analyst.pub", f"private/{SIGNER}.key"}
    assert stat.S_IMODE((image / f"etc/dumpvault/private/{SIGNER}.key").stat().st_mode) == 0o600
    assert os.access(image / "usr/bin/dumpvault", os.X_OK)


@pytest.mark.parametrize("suite", ["mlkem1024-p384", "x25519"])
def test_a_rehearsal_uses_the_hosts_own_recipients(root: Root, suite: str) -> None:
    """Each kind of recipient is sealed to in the rehearsal, so what it needs is in the image."""
    assert root.site.call("keys", "new", "recipient", "other", "--kem", suite, "--unprotected").code == 0
    ran = root.run(
        "integrate", "--image", root.path.parent / "image", "--host", HOST, "--signer", SIGNER, "--recipient", "other"
    )
    assert ran.code == 0, ran.err


def test_an_image_for_custodians(root: Root) -> None:
    """Under dual control the image holds the custodians' public keys, and was rehearsed with them."""
    for who, kem in (("alice", "p384"), ("bob", "x25519")):
        assert root.site.call("keys", "new", "custodian", who, "--kem", kem, "--unprotected").code == 0
    image = root.path.parent / "image"
    ran = root.run("integrate", "--image", image, "--host", HOST, "--signer", SIGNER, "--quorum", "2of2:alice,bob")
    assert ran.code == 0, ran.err
    keys = image / "etc/dumpvault/keys"
    assert sorted(path.name for path in (keys / "custodians").iterdir()) == ["alice.pub", "bob.pub"]
    assert not (keys / "recipients").exists()
    modules = {str(path).rpartition("/dumpvault/")[2] for path in image.rglob("dumpvault/**/*.pyc")}
    assert "formats/sharing.pyc" in modules
    assert not {"flows/approving.pyc", "flows/combining.pyc", "formats/request.pyc"} & modules


@pytest.mark.parametrize(("algorithm", "held"), [("mldsa87", True), ("p384", False)])
def test_a_rehearsal_signs_with_the_hosts_own_kind(root: Root, algorithm: str, held: bool) -> None:
    """What the kind of the host's signer needs is in the image, and what only other kinds need is not."""
    name = f"other@{HOST}"
    for signer, kind in ((name, algorithm), ("elsewhere", "mldsa65")):
        made = root.site.call("keys", "new", "signer", signer, "--algorithm", kind, "--unprotected")
        assert made.code == 0, made.err
    image = root.path.parent / "image"
    image.mkdir(exist_ok=True)
    ran = root.run("integrate", "--image", image, "--host", HOST, "--signer", name, "--recipient", "analyst")
    assert ran.code == 0, ran.err
    assert bool(list(image.rglob("asymmetric/mldsa.py*"))) is held


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (["--image", "/nowhere"], 1, "no directory"),
        (["--signer", "nobody"], 12, "no private key"),
        (["--recipient", "nobody"], 12, "no recipient"),
        (["--policy", "nothing"], 1, "no policy"),
        (["--host", "db2"], 12, "is bound to host db1"),
    ],
)
def test_bad_input(root: Root, more: list[str], code: int, says: str) -> None:
    """Refused before anything is in the tree, so that a hook stops the build."""
    ran = fill(root, *more)
    assert ran.code == code, ran.err
    assert says in ran.err
    assert not list((root.path.parent / "image").iterdir())


def test_image_needs_to_be_told_whose(root: Root) -> None:
    """A hook without crash.conf does not guess a host."""
    ran = root.run("integrate", "--image", root.path.parent / "image")
    assert ran.code == 2
    assert "crash.conf" in ran.err
