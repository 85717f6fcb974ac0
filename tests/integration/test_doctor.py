"""``dumpvault doctor``: a machine that is ready, each way of not being, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dumpvault.formats.sshkey import SigningKey
from support.command import Ran
from support.roots import HOST, SIGNER, Root, make_root, make_sysfs


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """Integrated with kdump-tools, root layout, so that only keys, store and kernel matter."""
    root = make_root(tmp_path / "root")
    assert root.integrate("kdump-tools", "--layout", "root", "--yes").code == 0
    # As on a real collector: what opens a vault is not there.
    (root.path / "etc/dumpvault/private/analyst.key").rename(tmp_path / "analyst.key")
    return root


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    return make_sysfs(tmp_path / "sys")


def ask(root: Root, sysfs: Path, *more: object) -> tuple[Ran, dict[str, dict[str, Any]]]:
    ran = root.run("doctor", "--sysfs", sysfs, "--json", *more)
    assert "internal error" not in ran.err
    return ran, {check["name"]: check for check in ran.json["checks"]}


def test_a_machine_that_is_ready(root: Root, sysfs: Path) -> None:
    """Every check is ok or does not apply; exit code 0; no file is left or changed, anywhere."""
    before = root.files()
    ran, checks = ask(root, sysfs)
    assert ran.code == 0, ran.out
    assert {name: check["state"] for name, check in checks.items()} == {
        "configuration": "ok", "policy": "ok", "recipients": "ok", "signers": "ok", "store": "ok", "room": "ok",
        "integration": "ok", "crash memory": "ok", "crash kernel": "ok", "release": "not applicable", "clock": "ok",
        "canary": "ok",
    }  # fmt: skip
    assert "not opened" in checks["canary"]["found"]
    assert root.files() == before
    assert not list((root.path / "var/lib/dumpvault/store").iterdir())
    text = root.run("doctor", "--sysfs", sysfs)
    assert text.code == 0
    assert len(text.out.splitlines()) == len(checks)


def test_a_signer_of_before_the_ledger_is_told_of(root: Root, sysfs: Path) -> None:
    """Its captures are good, and leave no entry that counts."""
    signers = root.path / "etc/dumpvault/keys/allowed_signers"
    text = signers.read_text()
    assert ",dumpvault-entry-collector@v1" in text
    signers.write_text(text.replace(",dumpvault-entry-collector@v1", ""))
    ran, checks = ask(root, sysfs)
    assert (ran.code, checks["signers"]["state"]) == (0, "warning")
    assert "dumpvault-entry-collector@v1" in checks["signers"]["found"]


def test_a_private_recipient_key_opens_the_canary_and_is_warned_of(root: Root, sysfs: Path, tmp_path: Path) -> None:
    """Where the private half is, the canary is opened; on a collector that is worth a warning."""
    shutil.copy(tmp_path / "analyst.key", root.path / "etc/dumpvault/private/analyst.key")
    ran, checks = ask(root, sysfs)
    assert ran.code == 0
    assert checks["separation"]["state"] == "warning"
    assert "bit for bit" in checks["canary"]["found"]


def spoil(root: Root, sysfs: Path, how: str) -> str:  # noqa: PLR0911, PLR0912 - one case, one return
    """Break one thing; the check that must say so."""
    home = root.path / "etc/dumpvault"
    signers = home / "keys/allowed_signers"
    match how:
        case "configuration":
            root.write("etc/dumpvault/config.toml", "nonsense = 1\n")
            return "configuration"
        case "crash.conf":
            root.write("etc/dumpvault/crash.conf", "DUMPVAULT=/x\n")
            return "configuration"
        case "policy":
            root.write("etc/dumpvault/policies/baseline.toml", "format = 1\n")
            return "policy"
        case "recipient gone":
            (home / "keys/recipients/analyst.pub").unlink()
            return "recipients"
        case "recipient torn":
            root.write("etc/dumpvault/keys/recipients/analyst.pub", "xwing AAAA analyst\n")
            return "recipients"
        case "recipient of a kind that the policy refuses":
            text = (Path(__file__).parents[2] / "policies/baseline.toml").read_text()
            kems = 'kems = ["xwing", "mlkem1024", "mlkem1024-p384", "p384", "x25519"]'
            assert kems in text
            root.write("etc/dumpvault/policies/baseline.toml", text.replace(kems, 'kems = ["p384"]'))
            return "recipients"
        case "signer gone":
            (home / f"private/{SIGNER}.key").unlink()
            return "signers"
        case "signer readable by others":
            (home / f"private/{SIGNER}.key").chmod(0o644)
            return "signers"
        case "signer not listed":
            signers.write_text(f"{SigningKey(bytes(32)).signer.line} x\n")
            return "signers"
        case "signer without its role":
            signers.write_text(signers.read_text().replace(",dumpvault-manifest@v1", ""))
            return "signers"
        case "signer expired":
            signers.write_text(signers.read_text().replace("namespaces=", 'valid-before="20200101Z",namespaces='))
            return "signers"
        case "store gone":
            (root.path / "var/lib/dumpvault/store").rmdir()
            return "store"
        case "store is a file":
            (root.path / "var/lib/dumpvault/store").rmdir()
            root.write("var/lib/dumpvault/store")
            return "store"
        case "store too small":
            root.write("proc/meminfo", f"MemTotal: {1 << 50} kB\n")
            return "room"
        case "crash memory":
            make_sysfs(sysfs, crash_mib=96)
            return "crash memory"
        case "no crash kernel":
            make_sysfs(sysfs, loaded=0)
            return "crash kernel"
        case "no kdump":
            shutil.rmtree(sysfs / "kernel")
            return "crash kernel"
        case "fadump not registered":
            make_sysfs(sysfs, fadump__enabled="1", fadump__registered="0")
            return "crash kernel"
        case "release that cannot be":
            text = (Path(__file__).parents[2] / "policies/baseline.toml").read_text()
            root.write("etc/dumpvault/policies/baseline.toml", text.replace('mode = "auto"', 'mode = "phyp"'))
            return "release"
        case "clock":
            os.utime(signers, (1 << 32, 1 << 32))
            return "clock"
        case _:
            raise AssertionError(how)


CASES = {
    "configuration": 1, "crash.conf": 1, "policy": 1, "recipient gone": 12, "recipient torn": 1,
    "recipient of a kind that the policy refuses": 11, "signer gone": 12, "signer readable by others": 12,
    "signer not listed": 12, "signer without its role": 12, "signer expired": 12, "store gone": 13,
    "store is a file": 13, "store too small": 13, "crash memory": 1, "no crash kernel": 1, "no kdump": 1,
    "fadump not registered": 1, "release that cannot be": 14, "clock": 1,
}  # fmt: skip


@pytest.mark.parametrize("how", CASES)
def test_each_way_of_not_being_ready(root: Root, sysfs: Path, how: str) -> None:
    """That check fails and no other; it says what to do; the exit code is its own."""
    name = spoil(root, sysfs, how)
    before = root.files()
    ran, checks = ask(root, sysfs)
    failed = [check for check in checks.values() if check["state"] == "failed"]
    assert [check["name"] for check in failed] == [name]
    assert failed[0]["advice"], "what to do"
    assert ran.code == CASES[how]
    assert root.files() == before
    if how.startswith(("policy", "recipient", "signer")):
        assert checks["canary"]["state"] == "not applicable"


def test_two_kinds_of_failure_are_code_1(root: Root, sysfs: Path) -> None:
    """Codes that differ say no more than that something failed."""
    spoil(root, sysfs, "signer gone")
    spoil(root, sysfs, "store gone")
    assert ask(root, sysfs)[0].code == 1


def test_store_in_memory(root: Root, sysfs: Path) -> None:
    """fsync succeeds on a tmpfs; a vault there would be gone with the crash kernel."""
    store = root.path / "var/lib/dumpvault/store"
    if subprocess.run(["mount", "-t", "tmpfs", "none", store], capture_output=True, check=False).returncode:
        pytest.skip("NOT TESTED: no mounts here")
    try:
        ran, checks = ask(root, sysfs)
    finally:
        subprocess.run(["umount", store], check=True)
    assert ran.code == 13
    assert "tmpfs" in checks["store"]["found"]


def test_full_store(root: Root, sysfs: Path) -> None:
    """A store without room is found by writing to it."""
    store = root.path / "var/lib/dumpvault/store"
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "none", store]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("NOT TESTED: no mounts here")
    try:
        ran, checks = ask(root, sysfs)
    finally:
        subprocess.run(["umount", store], check=True)
    assert ran.code == 13
    assert checks["store"]["state"] == "failed"


def test_image_of_the_initramfs_layout(root: Root, sysfs: Path) -> None:
    """It must exist, be newer than what it holds, and be readable by root alone; and it needs 192 MiB."""
    assert root.integrate("kdump-tools", "--yes").code == 0
    ran, checks = ask(root, make_sysfs(sysfs, crash_mib=160))
    assert ran.code == 1
    assert "192 MiB" in checks["crash memory"]["found"]
    assert "there is none" in checks["crash initramfs"]["found"]
    make_sysfs(sysfs)

    image = root.write("var/lib/kdump/initrd.img-6.1.0")
    image.chmod(0o644)
    assert "others can read it" in ask(root, sysfs)[1]["crash initramfs"]["found"]
    image.chmod(0o600)
    ran, checks = ask(root, sysfs)
    assert ran.code == 0, ran.out
    os.utime(image, (1 << 30, 1 << 30))
    ran, checks = ask(root, sysfs)
    assert ran.code == 1
    assert "is older than" in checks["crash initramfs"]["found"]


def test_kdump_utils_target(root: Root, sysfs: Path) -> None:
    """kdump's own path is the store; a target that is not mounted here is not guessed at."""
    assert root.run("integrate", "kdump-tools", "--undo", "--yes").code == 0
    assert root.integrate("kdump-utils", "--yes").code == 0
    root.write("boot/initramfs-6.1.0kdump.img").chmod(0o600)
    (root.path / "var/crash").mkdir(parents=True)
    ran, checks = ask(root, sysfs)
    assert ran.code == 0, ran.out
    assert "/var/crash:" in checks["store"]["found"]
    root.write("etc/kdump.conf", "ext4 UUID=12ab\n" + root.read("etc/kdump.conf"))
    checks = ask(root, sysfs)[1]
    assert checks["store"]["state"] == "not applicable"
    assert "UUID=12ab" in checks["store"]["found"]


def test_assisted_dumps(root: Root, sysfs: Path) -> None:
    """With the unit alone no crash kernel is needed, where the platform keeps memory or fadump is registered."""
    assert root.run("integrate", "kdump-tools", "--undo", "--yes").code == 0
    assert root.integrate("systemd", "--yes").code == 0
    shutil.rmtree(sysfs / "kernel")
    assert ask(root, sysfs)[0].code == 1, "neither"
    node = sysfs / "firmware/devicetree/base/rtas/ibm,configure-kernel-dump"
    node.parent.mkdir(parents=True)
    node.touch()
    ran, checks = ask(root, sysfs)
    assert ran.code == 0, ran.out
    assert checks["crash kernel"]["state"] == checks["release"]["state"] == "ok"
    node.unlink()
    make_sysfs(sysfs, fadump__enabled="1", fadump__registered="1")
    ran, checks = ask(root, sysfs)
    assert ran.code == 0, ran.out
    assert "fadump is registered" in checks["crash kernel"]["found"]
    make_sysfs(sysfs, release_region="CPU:0x0-0x0: HPTE:0x0-0x0: DUMP:0x0-0x0, 0x0-0x0:")
    assert ask(root, sysfs)[1]["release"]["state"] == "warning", "a dump waits to be captured"


def test_the_site_of_whoever_asks(root: Root, tmp_path: Path, sysfs: Path) -> None:
    """Without --root it is the caller's own site, and no integration of the system is asked for."""
    home = root.site
    (tmp_path / "site").mkdir()
    home = type(home)(tmp_path / "site")
    assert home.call("init").code == 0
    ran = home.run("doctor", "--sysfs", sysfs)
    assert ran.code == 12
    assert "no recipient" in ran.out
    assert "no signer" in ran.out
    assert f"host {HOST}" not in ran.out
