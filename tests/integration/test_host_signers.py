"""A host with several signers, as its policy asks: configured, integrated, asked about, baked into an image, captured with."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from dumpvault.formats.crash_conf import CrashConf
from support.command import COMMAND
from support.roots import HOST, SIGNER, Root, make_root, make_sysfs
from support.vmcore import write_core

PQ = f"collector-pq@{HOST}"
POLICIES = Path(__file__).parents[2] / "policies"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """A root whose site has a second signer, of another kind, and a policy ``both`` that demands two kinds."""
    root = make_root(tmp_path / "root")
    made = root.site.call("keys", "new", "signer", PQ, "--algorithm", "mldsa87", "--unprotected")
    assert made.code == 0, made.err
    text = (POLICIES / "baseline.toml").read_text()
    for rule, value in (("minimum = 1\ndemanded", "minimum = 2\ndemanded"), ('"none"', '["ed25519", "mldsa87"]')):
        head, mark, signatures = text.partition("[signatures]")
        assert rule in signatures
        text = head + mark + signatures.replace(rule, value, 1)
    root.write("etc/dumpvault/policies/both.toml", text)
    return root


def configure(root: Root, signers: list[str], policy: str) -> None:
    root.write(
        "etc/dumpvault/config.toml", f'signers = {json.dumps(signers)}\nrecipients = ["analyst"]\npolicy = "{policy}"\n'
    )


def test_from_configuration_to_a_verified_capture(root: Root, tmp_path: Path) -> None:
    """What is configured is baked in, found ready, put into the image, and signs; the vault obeys the policy."""
    configure(root, [SIGNER, PQ], "both")
    assert root.run("integrate", "systemd", "--yes").code == 0
    assert root.run("integrate", "kdump-tools", "--layout", "root", "--yes").code == 0
    unit = root.read("etc/systemd/system/dumpvault-capture.service")
    loaded = [line for line in unit.splitlines() if line.startswith("LoadCredential=")]
    assert loaded == [f"LoadCredential={name}.key:/etc/dumpvault/private/{name}.key" for name in (SIGNER, PQ)]
    assert f"capture /proc/vmcore --signer {SIGNER} --signer {PQ} --host {HOST} " in unit
    baked = CrashConf.parse(root.read("etc/dumpvault/crash.conf"), "crash.conf")
    assert baked.signers == (SIGNER, PQ)

    ran = root.run("doctor", "--sysfs", make_sysfs(tmp_path / "sys"), "--json")
    assert ran.code == 0, ran.out
    found = [check["found"] for check in ran.json["checks"] if check["name"] == "signers"]
    assert [text.split(",")[0] for text in found] == [f"{SIGNER} (ed25519", f"{PQ} (mldsa87"]

    words = subprocess.run(
        ["sh", "-c", '. "$0"; echo $CAPTURE_OPTIONS', root.path / "etc/dumpvault/crash.conf"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    options = shlex.split(words)
    image = tmp_path / "image"
    image.mkdir()
    filled = root.run("integrate", "--image", image, *options)
    assert filled.code == 0, filled.err
    private = image / "etc/dumpvault/private"
    assert sorted(path.name for path in private.iterdir()) == sorted([f"{SIGNER}.key", f"{PQ}.key"])
    assert list(image.rglob("asymmetric/mldsa.py*")), "the image signs with either kind"

    source = write_core(tmp_path / "vmcore")
    captured = root.site.run("capture", source, *options)
    assert captured.code == 0, captured.err
    report = root.site.run("verify", captured.out.strip(), "--policy", "both", "--json")
    assert report.code == 0, report.err
    assert [signer["name"] for signer in report.json["signers"]] == [SIGNER, PQ]


@pytest.mark.parametrize(
    ("signers", "policy", "says"),
    [
        ([SIGNER], "both", "signatures.minimum"),
        ([SIGNER], "fips-140-3", "recipients.kems"),
        ([PQ, SIGNER], "cnsa-2.0", "signatures.kinds"),
        ([SIGNER, PQ, SIGNER], "both", "twice"),
        ([SIGNER, "nobody"], "both", "nobody"),
        ([], "both", "no signer"),
    ],
)
def test_signers_that_do_not_satisfy_the_policy(
    root: Root, tmp_path: Path, signers: list[str], policy: str, says: str
) -> None:
    """``integrate`` refuses them and writes nothing, and ``doctor`` says so, with the code that the capture would end with."""
    if policy == "cnsa-2.0":  # its rule of recipients holds, so that of signers speaks
        for name in ("analyst.pub", "../../private/analyst.key"):
            (root.path / "etc/dumpvault/keys/recipients" / name).unlink()
        assert root.site.call("keys", "new", "recipient", "analyst", "--kem", "mlkem1024", "--unprotected").code == 0
    configure(root, signers, policy)
    before = root.files()
    refused = root.run("integrate", "systemd", "--yes")
    assert says in refused.err
    asked = root.run("doctor", "--sysfs", make_sysfs(tmp_path / "sys"), "--json")
    failed = [check["found"] for check in asked.json["checks"] if check["state"] == "failed"]
    assert any(says in found for found in failed), failed
    captured = root.site.call("capture", write_core(tmp_path / "vmcore"), "--host", HOST)
    assert says in captured.err
    assert (refused.code, captured.code) == (captured.code, refused.code)
    assert {check["exit_code"] for check in asked.json["checks"] if check["state"] == "failed"} >= {captured.code}
    assert root.files() == before


def test_an_image_is_refused_where_the_policy_is_not_met(root: Root, tmp_path: Path) -> None:
    """A hook whose crash.conf is older than the policy stops the build."""
    (tmp_path / "image").mkdir()
    ran = root.run(
        "integrate", "--image", tmp_path / "image", "--host", HOST, "--signer", SIGNER, "--recipient", "analyst",
        "--policy", "both",
    )  # fmt: skip
    assert (ran.code, "signatures.minimum" in ran.err) == (11, True), ran.err
    assert not list((tmp_path / "image").iterdir())


def test_a_quorum_that_the_policy_demands(root: Root) -> None:
    """``integrate`` asks every rule of keys: a vault that one could open alone is refused, one for custodians is not."""
    for who in ("alice", "bob", "carol"):
        assert root.site.call("keys", "new", "custodian", who, "--unprotected").code == 0
    assert root.site.call("keys", "new", "recipient", "other", "--unprotected").code == 0
    usual = ("integrate", "systemd", "--signer", SIGNER, "--policy", "pci-dss-4", "--yes")
    ran = root.run(*usual, "--recipient", "analyst", "--recipient", "other")
    assert (ran.code, "quorum.needed" in ran.err) == (11, True), ran.err
    assert root.run(*usual, "--quorum", "2of3:alice,bob,carol").code == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f'signer = "{SIGNER}"\n', "unknown setting 'signer'"),
        (f'signers = "{SIGNER}"\n', "'signers' must be a list of names"),
        ("signers = [1]\n", "'signers' must be a list of names"),
        ('signers = [""]\n', "'signers' must be a list of names"),
    ],
)
def test_settings_that_cannot_be_read(root: Root, text: str, says: str) -> None:
    root.write("etc/dumpvault/config.toml", text)
    ran = root.run("integrate", "systemd")
    assert (ran.code, says in ran.err) == (1, True), ran.err


def test_what_goes_before_what(root: Root, tmp_path: Path) -> None:
    """The flag replaces the variable's list, and that the file's."""
    configure(root, [SIGNER], "baseline")
    source = write_core(tmp_path / "vmcore")
    for words, variable, expected in (
        ((), "", [SIGNER]),
        ((), f"{PQ},{SIGNER}", [PQ, SIGNER]),
        (("--signer", PQ), SIGNER, [PQ]),
    ):
        arguments = [COMMAND, "capture", source, "--host", HOST, *words]
        env = root.site.env | {"DUMPVAULT_SIGNERS": variable}
        ran = subprocess.run(arguments, env=env, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        shown = root.site.call("info", ran.stdout.strip(), "--json")
        assert [signer["name"] for signer in shown.json["signers"]] == expected
