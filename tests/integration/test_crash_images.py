"""Crash initramfs as Debian's own kdump-tools, initramfs-tools and dracut build them: everything a capture needs is there.

A capture runs inside what was unpacked from the image, with nothing else around it: no /proc, no /dev, no Python but the
image's own.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from integration.conftest import KERNEL, Debian, chroot
from support.command import Home
from support.roots import KDUMP_CONF, SIGNER
from support.vmcore import write_core

HOOK = "/etc/kernel/postinst.d/kdump-tools"
DRACUT = ("dracut", "--no-hostonly", "--no-kernel", "--force", "--kver", KERNEL)


def unpack(image: Path, to: Path) -> Path:
    """The tree in an image; its mode is 0600, for it holds a signing key."""
    assert stat.S_IMODE(image.stat().st_mode) == 0o600
    to.mkdir()
    packed = image.read_bytes()
    tool = "zstd" if packed.startswith(b"\x28\xb5\x2f\xfd") else "gzip"
    plain = subprocess.run([tool, "-dc"], input=packed, capture_output=True, check=True).stdout
    subprocess.run(["cpio", "-idm", "--quiet", "-D", str(to)], input=plain, check=True)
    return to


def check_capture(debian: Debian, tree: Path, capture: Callable[[Path], str], store: str) -> None:
    """Only this host's keys are there; what is captured in the tree verifies and opens outside it."""
    private = tree / "etc/dumpvault/private"
    assert [path.name for path in private.iterdir()] == [f"{SIGNER}.key"], "no other private half is in an image"
    assert stat.S_IMODE((private / f"{SIGNER}.key").stat().st_mode) == 0o600
    assert [path.name for path in (tree / "etc/dumpvault/keys/recipients").iterdir()] == ["analyst.pub"]
    assert not list(tree.rglob("dumpvault/flows/open.pyc")), "what opens is not in an image"

    write_core(tree / "vmcore")
    vault = capture(tree)
    home = Home(debian.path / "etc/dumpvault")
    ran = home.call("verify", vault, "--store", tree / store)
    assert ran.code == 0, ran.err
    assert f"signed by {SIGNER}" in ran.out
    ran = home.call("open", vault, "--store", tree / store, "-o", tree / "copy")
    assert ran.code == 0, ran.err
    assert (tree / "copy").read_bytes() == (tree / "vmcore").read_bytes()


def sizes(tree: Path) -> str:
    files = (path.lstat() for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    once = {facts.st_ino: facts.st_size for facts in files}  # busybox has hundreds of names
    return f"{sum(once.values()) / 2**20:.0f} MiB unpacked"


def test_kdump_tools_image(debian: Debian, tmp_path: Path, record_proof: Callable[[str], None]) -> None:
    """kdump-tools' own kernel hook builds the image; the capture line of its scripts works inside it."""
    ran = debian.root.integrate("kdump-tools", "--yes")
    assert ran.code == 0, ran.err
    debian.run(HOOK, KERNEL)
    image = debian.path / f"var/lib/kdump/initrd.img-{KERNEL}"
    tree = unpack(image, tmp_path / "tree")
    record_proof(f"kdump-tools' crash initramfs with dumpvault: {image.stat().st_size >> 20} MiB, {sizes(tree)}")
    assert os.access(tree / "scripts/local-bottom/dumpvault", os.X_OK)
    assert "/scripts/local-bottom/dumpvault" in (tree / "scripts/local-bottom/ORDER").read_text()

    def capture(tree: Path) -> str:
        line = '. /etc/dumpvault/crash.conf; dumpvault capture /vmcore $CAPTURE_OPTIONS --store "/root$STORE"'
        return chroot(tree, "/bin/sh", "-c", line).stdout.strip()

    check_capture(debian, tree, capture, "root/var/lib/dumpvault/store")
    told = chroot(tree, "/usr/bin/dumpvault", "capture", "/nothing", good=False)
    assert (told.returncode, "No such file" in told.stderr) == (1, True), "errors are told as ever"

    ordinary = chroot(debian.path, "mkinitramfs", "-o", "/boot/ordinary", KERNEL)
    assert ordinary.returncode == 0
    assert not list(unpack(debian.path / "boot/ordinary", tmp_path / "ordinary").rglob("*dumpvault*.key"))
    assert debian.run("dumpvault", "doctor", good=False).stdout.count("crash initramfs:") == 1


def test_image_that_others_could_read_is_not_built(debian: Debian) -> None:
    """An administrator's later UMASK: the hook stops, and no image with a key in it is left."""
    assert debian.root.integrate("kdump-tools", "--yes").code == 0
    loose = debian.root.write("etc/initramfs-tools/conf.d/zz-loose", "UMASK=0022\n")
    try:
        done = debian.run(HOOK, KERNEL, good=False)
    finally:
        loose.unlink()
    assert done.returncode != 0
    assert "UMASK=0077" in done.stderr
    assert not list((debian.path / "var/lib/kdump").glob("initrd.img-*"))


@pytest.mark.parametrize("name", ["kdump-tools", "kdump-utils"])
def test_image_without_the_key_is_not_built(debian: Debian, name: str) -> None:
    """A signer that is gone when the image is built: the build fails, as a capture would."""
    debian.root.write("etc/kdump.conf", KDUMP_CONF)
    assert debian.root.integrate(name, "--yes").code == 0
    key = debian.path / f"etc/dumpvault/private/{SIGNER}.key"
    kept = key.rename(key.with_suffix(".away"))
    try:
        command = (HOOK, KERNEL) if name == "kdump-tools" else (*DRACUT, "-m", "base zz-dumpvault", "/boot/bad.img")
        done = debian.run(*command, good=False)
    finally:
        kept.rename(key)
    assert done.returncode != 0
    assert "no private key" in done.stderr + done.stdout
    assert not (debian.path / "boot/bad.img").exists()
    assert debian.root.run("integrate", name, "--undo", "--yes").code == 0


def test_kdump_utils_image(debian: Debian, tmp_path: Path, record_proof: Callable[[str], None]) -> None:
    """dracut builds the image with the module; the collector, called as kdump calls it, seals and names the vault."""
    debian.root.write("etc/kdump.conf", KDUMP_CONF)
    # What 99kdumpbase would have put there: it must not be in the image when this module is done.
    base = debian.root.write(
        "usr/lib/dracut/modules.d/99kdumpbase/module-setup.sh",
        "#!/bin/bash\ncheck() { return 255; }\ninstall() { inst /bin/true /sbin/vmcore-dmesg; }\n",
    )
    base.chmod(0o755)
    ran = debian.root.integrate("kdump-utils", "--yes")
    assert ran.code == 0, ran.err
    assert "/var/crash/dumpvault" in ran.err
    debian.run(*DRACUT, "-m", "base kdumpbase zz-dumpvault", "/boot/kdump.img")
    image = debian.path / "boot/kdump.img"
    tree = unpack(image, tmp_path / "tree")
    record_proof(f"dracut's crash initramfs with dumpvault: {image.stat().st_size >> 20} MiB, {sizes(tree)}")
    told = chroot(tree, "/sbin/vmcore-dmesg", "/proc/vmcore").stdout
    assert "sealed with the dump" in told, "no kernel log in the clear"

    def capture(tree: Path) -> str:
        (tree / "var/crash/127.0.0.1-now").mkdir(parents=True)
        incomplete = "/var/crash/127.0.0.1-now/vmcore-incomplete"
        chroot(tree, "/usr/sbin/dumpvault-collector", "/vmcore", incomplete)
        left = (tree / incomplete.lstrip("/")).read_text()
        assert left.startswith("sealed: vault ")
        return left.split()[2]

    check_capture(debian, tree, capture, "var/crash/dumpvault")
    bad = chroot(tree, "/usr/sbin/dumpvault-collector", "/nothing", "/var/crash/127.0.0.1-now/again", good=False)
    assert bad.returncode == 1
    assert not (tree / "var/crash/127.0.0.1-now/again").exists(), "a failed capture leaves nothing that looks saved"
    raw = chroot(tree, "/usr/sbin/dumpvault-collector", "/vmcore", good=False)
    assert (raw.returncode, raw.stdout) == (1, "")
