"""``dumpvault integrate`` on small roots: shown first, written when told, the same twice, taken out again; bad ones refused."""

from __future__ import annotations

import os
import pty
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpvault.formats import kdump_conf
from dumpvault.formats.crash_conf import CrashConf
from support.command import COMMAND
from support.roots import HOST, KDUMP_CONF, SIGNER, Root, make_root

NAMES = ("kdump-tools", "kdump-utils", "systemd")
SHIPPED = Path(__file__).parents[2] / "integrations"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return make_root(tmp_path / "root")


@pytest.mark.parametrize("name", NAMES)
def test_shows_writes_repeats_and_undoes(root: Root, name: str) -> None:
    """Nothing is written before --yes; then what was shown is; again it is nothing; --undo gives back every byte."""
    before = root.files()
    shown = root.integrate(name)
    assert shown.code == 0, shown.err
    assert root.files() == before
    assert "nothing was written" in shown.err

    written = root.integrate(name, "--yes")
    assert written.code == 0, written.err
    assert written.out == shown.out
    after = root.files()
    assert set(after) > set(before)
    assert not [path for path in after if "dpkg" in path], "no temporary or old file stays"
    for path in set(after) - set(before):
        text = after[path].decode()
        assert f"+++ /{path}\n" in written.out
        assert "dumpvault integrate" in text
        assert "@" not in text.replace(SIGNER, "").replace("@analyst", ""), f"{path}: a placeholder was left"
        executable = bool(os.stat(root.path / path).st_mode & stat.S_IXUSR)
        assert executable == text.startswith("#!"), path

    again = root.integrate(name, "--yes")
    assert (again.code, again.out) == (0, "")
    assert root.files() == after

    undone = root.run("integrate", name, "--undo", "--yes")
    assert undone.code == 0, undone.err
    assert root.files() == before


@pytest.mark.parametrize(("answer", "written"), [("n", False), ("y", True)])
def test_asks_on_a_terminal(root: Root, answer: str, written: bool) -> None:
    """On a terminal nothing is written before somebody says yes to the diff."""
    ours, theirs = pty.openpty()
    command = [COMMAND, "integrate", "systemd", "--root", root.path, "--signer", SIGNER, "--recipient", "analyst"]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        os.write(ours, f"{answer}\n".encode())
        out, _ = process.communicate()
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 0
    assert b"+++ /etc/dumpvault/crash.conf" in out
    assert (root.path / "etc/dumpvault/crash.conf").exists() == written


def test_what_is_baked_in(root: Root) -> None:
    """crash.conf names the host, its signer, the recipients, the policy and the store; it parses back."""
    assert root.integrate("kdump-tools", "--yes", "--store-device", "UUID=12ab").code == 0
    baked = CrashConf.parse(root.read("etc/dumpvault/crash.conf"), "crash.conf")
    assert baked == CrashConf(
        "/usr/local/bin/dumpvault", HOST, (SIGNER,), "baseline", ("analyst",), "/var/lib/dumpvault/store", "UUID=12ab"
    )
    done = subprocess.run(
        ["sh", "-c", '. "$0"; echo "$DUMPVAULT $CAPTURE_OPTIONS $STORE $STORE_DEVICE"', root.path / "etc/dumpvault/crash.conf"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [
        "/usr/local/bin/dumpvault", "--signer", SIGNER, "--host", HOST, "--policy", "baseline", "--recipient",
        "analyst", "/var/lib/dumpvault/store", "UUID=12ab",
    ]  # fmt: skip


def test_site_configuration_says_who(root: Root) -> None:
    """Without flags the site's own signer, recipients and store are taken."""
    root.write(
        "etc/dumpvault/config.toml",
        f'signers = ["{SIGNER}"]\nrecipients = ["analyst"]\nstore = "/srv/vaults"\n',
    )
    ran = root.run("integrate", "systemd", "--json", "--yes")
    assert ran.code == 0, ran.err
    unit = root.read("etc/systemd/system/dumpvault-capture.service")
    assert "--store /srv/vaults\n" in unit
    assert f"LoadCredential={SIGNER}.key:/etc/dumpvault/private/{SIGNER}.key\n" in unit
    assert f"capture /proc/vmcore --signer {SIGNER} --host" in unit
    assert {change["action"] for change in ran.json["changes"]} == {"create"}
    assert ran.json["written"] is True


def test_a_quorum_is_baked_in(root: Root) -> None:
    """Custodians in the place of recipients, by flag or by the site's configuration; it parses back."""
    for who in ("alice", "bob", "carol"):
        assert root.site.call("keys", "new", "custodian", who, "--unprotected").code == 0
    quorum = "2of3:alice,bob,carol"
    ran = root.run("integrate", "kdump-tools", "--signer", SIGNER, "--quorum", quorum, "--yes")
    assert ran.code == 0, ran.err
    baked = CrashConf.parse(root.read("etc/dumpvault/crash.conf"), "crash.conf")
    assert (baked.quorum, baked.recipients) == (quorum, ())
    assert f'--policy baseline --quorum {quorum}"' in root.read("etc/dumpvault/crash.conf")
    root.write("etc/dumpvault/config.toml", f'signers = ["{SIGNER}"]\nquorum = "{quorum}"\n')
    assert root.run("integrate", "kdump-tools", "--yes", "--json").json["changes"] == []
    ran = root.run("integrate", "kdump-tools", "--signer", SIGNER, "--quorum", "1of3:alice,bob,carol", "--yes")
    assert ran.code == 2
    assert "no dual control" in ran.err


def test_two_integrations_keep_apart(root: Root) -> None:
    """Each can be taken out without the other; what both read goes with the last."""
    before = root.files()
    assert root.integrate("kdump-tools", "--yes").code == 0
    alone = root.files()
    assert root.integrate("systemd", "--yes").code == 0
    assert root.run("integrate", "systemd", "--undo", "--yes").code == 0
    assert root.files() == alone
    assert root.run("integrate", "kdump-tools", "--undo", "--yes").code == 0
    assert root.files() == before


def test_layout_root_leaves_the_initramfs_alone(root: Root) -> None:
    """--layout root bakes nothing into an image, and takes out what an earlier run put there."""
    assert root.integrate("kdump-tools", "--yes").code == 0
    ran = root.integrate("kdump-tools", "--layout", "root", "--yes")
    assert ran.code == 0, ran.err
    assert "--- /etc/initramfs-tools/hooks/dumpvault\n+++ /dev/null\n" in ran.out
    assert not (root.path / "etc/initramfs-tools/hooks/dumpvault").exists()
    assert not (root.path / "etc/default/grub.d/zz-dumpvault.cfg").exists()
    assert (root.path / "etc/systemd/system/kdump-tools-dump.service.d/dumpvault.conf").exists()


def test_an_edited_file_is_shown_and_kept(root: Root) -> None:
    """What an administrator changed is in the diff; --yes alone refuses; --replace keeps the old beside."""
    assert root.integrate("kdump-tools", "--yes").code == 0
    path = "etc/default/grub.d/zz-dumpvault.cfg"
    mine = root.read(path).replace("192M", "320M")
    root.write(path, mine)
    before = root.files()
    refused = root.integrate("kdump-tools", "--yes")
    assert refused.code == 1
    assert '-GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT crashkernel=512M-:320M"' in refused.out
    assert f"/{path}" in refused.err
    assert "--replace" in refused.err
    assert root.files() == before
    assert root.integrate("kdump-tools", "--yes", "--replace").code == 0
    assert "192M" in root.read(path)
    assert root.read(f"{path}.dpkg-old") == mine
    hook = root.path / "etc/initramfs-tools/hooks/dumpvault"
    root.write("etc/initramfs-tools/hooks/dumpvault", hook.read_text() + "# mine\n")
    assert root.integrate("kdump-tools", "--yes", "--replace").code == 0
    assert os.access(hook, os.X_OK)
    assert not os.stat(f"{hook}.dpkg-old").st_mode & 0o111, "initramfs-tools would run it"


def test_kdump_conf_stays_the_administrators(root: Root) -> None:
    """Two directives change, once each; a line written later survives, and --undo brings the old ones back."""
    assert root.integrate("kdump-utils", "--yes").code == 0
    conf = root.read("etc/kdump.conf")
    active = [line for line in conf.splitlines() if not line.startswith("#")]
    assert active == [
        "auto_reset_crashkernel yes",
        "path /var/crash",
        "core_collector /usr/sbin/dumpvault-collector",
        'dracut_args --omit-drivers "cfg80211 snd" --add zz-dumpvault',
    ]
    root.write("etc/kdump.conf", conf + "final_action poweroff\n")
    assert root.integrate("kdump-utils", "--yes").code == 0
    assert root.run("integrate", "kdump-utils", "--undo", "--yes").code == 0
    assert root.read("etc/kdump.conf") == KDUMP_CONF + "final_action poweroff\n"


@given(
    st.lists(
        st.sampled_from(
            ["", "# note", "path /x", "core_collector cp", "dracut_args --no-compress", "dracut_args", "  ext4 /dev/a"]
        )
    ),
    st.booleans(),
)
def test_kdump_conf_merges_and_comes_back(lines: list[str], ended: bool) -> None:
    """Whatever stood there: merging twice is merging once, and unmerging gives the text back."""
    text = "\n".join(lines) + ("\n" if ended and lines else "")
    merged = kdump_conf.merge(text)
    assert kdump_conf.merge(merged) == merged
    assert kdump_conf.unmerge(merged) in (text, f"{text}\n")
    words = [line.split()[0] for line in merged.splitlines() if line.strip() and not line.startswith("#")]
    assert words.count("core_collector") == words.count("dracut_args") == 1


def spoil(root: Root, how: str) -> list[object]:  # noqa: PLR0912
    """Make ``root`` bad; the arguments of the call that must be refused."""
    usual: list[object] = ["integrate", "kdump-tools", "--signer", SIGNER, "--recipient", "analyst", "--yes"]
    match how:
        case "unknown name":
            usual[1] = "kdump"
        case "no name":
            del usual[1]
        case "no root":
            shutil.rmtree(root.path / "usr")
        case "not installed":
            (root.path / "usr/sbin/kdump-config").unlink()
        case "no command":
            (root.path / "usr/local/bin/dumpvault").unlink()
        case "no signer":
            del usual[2:4]
        case "no recipient":
            del usual[4:6]
        case "unknown recipient":
            usual[5] = "nobody"
        case "locked signer":
            root.write("pass", "secret\n")
            home = root.site
            ran = home.call("keys", "new", "signer", f"locked@{HOST}", "--passphrase-file", root.path / "pass")
            assert ran.code == 0, ran.err
            usual[3] = f"locked@{HOST}"
        case "unbound signer":
            assert root.site.call("keys", "new", "signer", "everywhere", "--unprotected").code == 0
            usual[3] = "everywhere"
        case "another host's signer":
            root.write("etc/hostname", "db2\n")
        case "no host name":
            root.write("etc/hostname", "\n")
        case "host that is a command":
            usual += ["--host", "db1;reboot"]
        case "policy refuses":
            policy = (SHIPPED.parent / "policies/baseline.toml").read_text()
            root.write("etc/dumpvault/policies/two.toml", policy.replace("minimum = 1", "minimum = 2"))
            usual += ["--policy", "two"]
        case "store with a space":
            usual += ["--store", "/srv/my vaults"]
        case "relative store":
            usual += ["--store", "vaults"]
        case "way out":
            shutil.rmtree(root.path / "etc/systemd", ignore_errors=True)
            (root.path / "etc/systemd").symlink_to("/etc/systemd")
        case "raw target":
            usual[1] = "kdump-utils"
            root.write("etc/kdump.conf", "raw /dev/vg/lv\n")
        case "kdump store":
            usual[1] = "kdump-utils"
            usual += ["--store", "/srv/vaults"]
    return usual


CASES = {
    "unknown name": 2, "no name": 2, "no root": 1, "not installed": 1, "no command": 1, "no signer": 12,
    "no recipient": 12, "unknown recipient": 12, "locked signer": 12, "unbound signer": 12, "another host's signer": 12,
    "no host name": 1, "host that is a command": 12, "policy refuses": 11, "store with a space": 1, "relative store": 2,
    "way out": 1, "raw target": 1, "kdump store": 2,
}  # fmt: skip


@pytest.mark.parametrize("how", CASES)
def test_bad_input_is_refused_and_nothing_is_written(root: Root, how: str) -> None:
    """Each says what is wrong and what to do, with its exit code; no file changes."""
    arguments = spoil(root, how)
    before = root.files()
    ran = root.run(*arguments)
    assert ran.code == CASES[how], ran.err
    assert "internal error" not in ran.err
    assert len(ran.err.splitlines()) >= 2, "what is wrong, and what to do"
    assert root.files() == before
    as_json = root.run(*arguments, "--json")
    assert as_json.json["error"]["exit_code"] == CASES[how]


def test_read_only_root(root: Root) -> None:
    """A root that cannot be written is told before anything is."""
    mounted = subprocess.run(["mount", "--bind", root.path, root.path], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("NOT TESTED: no bind mounts here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", root.path], check=True)
        before = root.files()
        ran = root.integrate("kdump-tools", "--yes")
        assert ran.code == 13, ran.err
        assert "read-only" in ran.err
        assert root.files() == before
    finally:
        subprocess.run(["umount", root.path], check=True)


def test_scripts_are_shell(root: Root) -> None:
    """Every shipped script is understood by the shell that it names, and by shellcheck where it is installed."""
    scripts = [path for path in SHIPPED.rglob("*") if path.is_file() and path.read_bytes().startswith(b"#!")]
    assert len(scripts) == 6
    for path in scripts:
        shell = path.read_text().splitlines()[0].removeprefix("#!")
        subprocess.run([shell, "-n", path], check=True)
        assert os.access(path, os.X_OK), path
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-e", "SC1090,SC1091,SC2034,SC2154", *scripts], check=True)


def test_systemd_unit_verifies(root: Root) -> None:
    """systemd-analyze finds nothing wrong in the unit as it is written."""
    analyze = shutil.which("systemd-analyze")
    if not analyze:
        pytest.skip("NOT TESTED: no systemd-analyze here")
    assert root.integrate("systemd", "--yes", "--command", "/bin/true").code == 0
    unit = root.path / "etc/systemd/system/dumpvault-capture.service"
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert "dumpvault-capture" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
