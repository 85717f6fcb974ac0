"""Bad input of every kind gets an exit code and a message that names the thing, never a traceback, and loses nothing."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.command import COMMAND, Home, make_home, seal
from support.vmcore import core, memory, write_core
from support.words import clean

ARGUMENTS = ("--recipient", "analyst", "--signer", "collector")
CLOSED = "import os, sys; [os.close(int(n)) for n in sys.argv[1].split(',')]; os.execv(sys.argv[2], sys.argv[2:])"


# --- keys, policies, trust -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "code", "named"), [
    (("--recipient", "nobody", "--signer", "collector"), 12, "nobody"),
    (("--signer", "collector"), 12, "no recipient"),
    (("--recipient", "analyst"), 12, "no signer"),
    (("--recipient", "analyst", "--signer", "nobody"), 12, "nobody"),
    (("--recipient", "analyst", "--signer", "analyst"), 12, "not a signer"),
    (("--recipient", "analyst", "--recipient", "analyst", "--signer", "collector"), 11, "twice"),
    (("--recipient", "analyst", "--signer", "collector", "--policy", "nowhere"), 1, "nowhere"),
    (("--recipient", "analyst", "--signer", "collector", "--compress", "best"), 2, "best"),
    (("--recipient", "analyst", "--signer", "collector", "--region-size", "5"), 2, "64M"),
    (("--recipient", "analyst", "--signer", "collector", "--store", "s3://x/y"), 2, "s3"),
    (("--recipient", "analyst", "--signer", "collector", "--resume", "00"), 2, "00"),
])  # fmt: skip
def test_capture_that_cannot_begin(
    home: Home, tmp_path: Path, arguments: tuple[str, ...], code: int, named: str
) -> None:
    """Every mistake is told before anything is written, with the code of its kind, as JSON too."""
    vmcore = write_core(tmp_path / "vmcore", 16)
    ran = home.call("capture", vmcore, *arguments)
    assert (ran.code, named in clean(ran)) == (code, True), clean(ran)
    assert not home.vaults.exists()
    told = home.call("capture", vmcore, *arguments, "--json").json["error"]
    assert told["exit_code"] == code
    assert named in told["message"] + told["hint"]


def test_classical_beside_post_quantum(home: Home, tmp_path: Path) -> None:
    """It would undo the other's protection: the policy refuses it by rule."""
    assert home.call("keys", "new", "recipient", "old", "--kem", "p384", "--unprotected").code == 0
    ran = home.call("capture", write_core(tmp_path / "vmcore", 16), *ARGUMENTS, "--recipient", "old")
    assert ran.code == 11
    assert "mix_classical" in ran.err


@pytest.mark.parametrize(
    "text",
    [
        b"", b"hello", b"\xff\xfe", b"ssh-ed25519 AAAA x", b"dumpvault-xwing AAAA x\n", b"dumpvault-rsa AAAA x\n",
        b"dumpvault-x25519 " + b"A" * 43 + b"= zero\n", b"dumpvault-p384 " + b"A" * 132 + b"= x\n", b"x" * (2 << 20),
    ],
)  # fmt: skip
def test_a_key_that_is_no_recipient(home: Home, tmp_path: Path, text: bytes) -> None:
    """Anything that is not a usable recipient is refused by name, at import and at capture, before anything is written."""
    (tmp_path / "odd.pub").write_bytes(text)
    for arguments in (
        ("keys", "import", tmp_path / "odd.pub", "--role", "analyst"),
        ("capture", write_core(tmp_path / "vmcore", 16), "--recipient", tmp_path / "odd.pub", "--signer", "collector"),
    ):
        ran = home.call(*arguments)
        assert ran.code == 1
        assert "odd.pub" in clean(ran)
    assert not home.vaults.exists()


def test_private_key_as_recipient(home: Home, tmp_path: Path) -> None:
    """A private key where a public one belongs is named as what it is."""
    ran = home.call(
        "capture", write_core(tmp_path / "vmcore", 16), "--recipient", home.path / "private" / "analyst.key",
        "--signer", "collector",
    )  # fmt: skip
    assert ran.code == 1
    assert "is a private key" in ran.err


def test_passphrases(home: Home, tmp_path: Path) -> None:
    """A locked recipient opens with its passphrase only; a locked signer does not capture; files stay 0600."""
    (tmp_path / "right").write_text("correct horse\n")
    (tmp_path / "wrong").write_text("battery staple\n")
    (tmp_path / "none").write_text("\n")
    for purpose, name in (("recipient", "locked"), ("signer", "sealed")):
        assert home.call("keys", "new", purpose, name, "--passphrase-file", tmp_path / "right").code == 0
        assert stat.S_IMODE((home.path / "private" / f"{name}.key").stat().st_mode) == 0o600
    vmcore = write_core(tmp_path / "vmcore", 16)
    ran = home.call("capture", vmcore, "--recipient", "analyst", "--signer", "sealed")
    assert (ran.code, "passphrase" in ran.err) == (12, True)
    vault = home.call("capture", vmcore, "--recipient", "locked", "--signer", "collector").out.strip()
    for file in ("wrong", "none", "missing"):
        ran = home.call("open", vault, "-o", tmp_path / "copy", "--passphrase-file", tmp_path / file)
        assert ran.code == 12, clean(ran)
        assert not (tmp_path / "copy").exists()
    assert home.run("open", vault, "-o", tmp_path / "copy", stdin=b"").code == 12
    assert home.call("open", vault, "-o", tmp_path / "copy", "--passphrase-file", tmp_path / "right").code == 0
    assert (tmp_path / "copy").read_bytes() == vmcore.read_bytes()


def test_a_private_key_that_others_may_read(home: Home, tmp_path: Path) -> None:
    """It is not used, and the message says how to mend it."""
    (home.path / "private" / "collector.key").chmod(0o644)
    ran = home.call("capture", write_core(tmp_path / "vmcore", 16), *ARGUMENTS)
    assert (ran.code, "chmod 600" in ran.err) == (12, True)


def test_a_clock_that_stands_at_1970_loses_no_dump(home: Home, tmp_path: Path) -> None:
    """A signer that is not valid yet, by this machine's clock, captures all the same; verifiers judge by their own."""
    path = home.path / "keys" / "allowed_signers"
    text = path.read_text()
    path.write_text(text.replace("collector namespaces", 'collector valid-after="20990101Z",namespaces'))
    vault = seal(home, write_core(tmp_path / "vmcore", 16))
    ran = home.call("verify", vault)
    assert (ran.code, "is valid only from 2099" in ran.err) == (10, True)
    path.write_text(text)
    assert home.call("verify", vault).code == 0


def test_bad_neighbours_do_not_matter(home: Home, tmp_path: Path) -> None:
    """A junk key file or a bad trust line beside the good ones stops neither capture nor verify nor open."""
    (home.path / "private" / "junk.key").write_bytes(b"\xff")
    (home.path / "private" / "junk.key").chmod(0o600)
    (home.path / "keys" / "recipients" / "junk.pub").write_text("junk")
    with (home.path / "keys" / "allowed_signers").open("a") as file:
        file.write("nonsense here\n")
    vault = seal(home, write_core(tmp_path / "vmcore", 16))
    ran = home.call("verify", vault)
    assert (ran.code, "gives nothing" in ran.err) == (0, True)
    assert home.call("open", vault, "-o", tmp_path / "copy").code == 0
    assert home.call("keys", "list").code == 0


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".x", "x" * 65, "é", "a b"])
def test_names_that_are_no_names(home: Home, name: str) -> None:
    """A key's name cannot leave its directory."""
    before = sorted((home.path / "private").iterdir())
    assert home.call("keys", "new", "recipient", "--unprotected", "--", name).code in (1, 2)
    assert sorted((home.path / "private").iterdir()) == before


@pytest.mark.parametrize("text", [
    "", "[recipients", "format = 2", 'format = 1\ndescription = "x"\n', "a = " + "[" * 5000,
    "{good}\nunknown = 1\n", "{good}".replace("{good}", "# " + "x" * 70000),
])  # fmt: skip
def test_bad_policies(home: Home, tmp_path: Path, text: str) -> None:
    """Missing, unknown and malformed rules, and texts that would not fit a header, are refused by name."""
    good = (Path(__file__).parents[2] / "policies" / "baseline.toml").read_text()
    (tmp_path / "p.toml").write_text(text.replace("{good}", good))
    ran = home.call("capture", write_core(tmp_path / "vmcore", 16), *ARGUMENTS, "--policy", tmp_path / "p.toml")
    assert ran.code == 1, clean(ran)
    assert "policy p" in clean(ran)
    assert not home.vaults.exists()


# --- outputs and stores ----------------------------------------------------------------------------------------------


def test_outputs_that_are_kept(home: Home, tmp_path: Path) -> None:
    """An existing file stays unless --force; devices, pipes, links and directories stay in any case."""
    vault = seal(home, write_core(tmp_path / "vmcore", 16))
    (tmp_path / "there").write_text("precious")
    assert home.call("open", vault, "-o", tmp_path / "there").code == 1
    assert (tmp_path / "there").read_text() == "precious"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for name in ("pipe", "link", "", "no/where", "x" * 300):
        ran = home.call("open", vault, "-o", tmp_path / name, "--force")
        assert ran.code == 1, clean(ran)
    assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode)
    assert (tmp_path / "there").read_text() == "precious"
    assert home.call("open", vault, "-o", tmp_path / "there", "--force").code == 0
    assert (tmp_path / "there").read_bytes() == (tmp_path / "vmcore").read_bytes()
    assert stat.S_IMODE((tmp_path / "there").stat().st_mode) == 0o600


def test_one_damaged_region_does_not_deny_the_others(home: Home, tmp_path: Path) -> None:
    """--partial writes all that can be authenticated, names what cannot, and exits with 10."""
    vmcore = write_core(tmp_path / "vmcore", 300)
    vault = seal(home, vmcore, "--region-size", "256K", "--compress", "none")
    body = home.vaults / vault / "regions/1/3.sealed"
    body.chmod(0o600)
    body.write_bytes(body.read_bytes()[:-1])
    (home.vaults / vault / "manifest.json.sig").unlink()
    assert home.call("open", vault, "-o", tmp_path / "copy").code == 10
    ran = home.call("open", vault, "-o", tmp_path / "copy", "--partial", "--json")
    assert ran.code == 10
    assert any("3.sealed" in text for text in ran.json["missing"])
    good, copy = vmcore.read_bytes(), (tmp_path / "copy").read_bytes()
    differing = [i for i in range(0, len(good), 4096) if good[i : i + 4096] != copy[i : i + 4096]]
    assert differing
    assert max(differing) - min(differing) < 256 << 10
    assert all(copy[i : i + 4096] == bytes(4096) for i in differing)


def test_odd_things_in_a_store(home: Home, tmp_path: Path) -> None:
    """Directories and files of any name are foreign; a link or a pipe in an object's place is no object."""
    vault = seal(home, write_core(tmp_path / "vmcore", 16))
    place = home.vaults / vault
    (place / "lost+found" / "a b").mkdir(parents=True)
    (place / "lost+found" / "a b" / "é\n\x1b[31m").touch()
    ran = home.call("verify", vault)
    assert ran.code == 0
    assert "\x1b" not in ran.out
    (place / "manifest.json").unlink()
    os.mkfifo(place / "manifest.json")
    assert home.call("verify", vault).code == 3


def test_full_store(home: Home, tmp_path: Path) -> None:
    """No room for the next region: what is durable is committed, the end is signed, exit 3, and it opens."""
    source = tmp_path / "vmcore"
    source.write_bytes(core(os.urandom(6 << 20)))

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200 << 10, 200 << 10))

    done = subprocess.run(
        [COMMAND, "capture", source, *ARGUMENTS, "--region-size", "256K", "--compress", "none", "--jobs", "1"],
        env=home.env, capture_output=True, text=True, check=False, preexec_fn=small,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    vault = next(home.vaults.iterdir()).name
    report = home.call("verify", vault, "--json")
    assert (report.code, report.json["regions"]) == (3, 2)
    assert home.call("open", vault, "-o", tmp_path / "copy", "--partial").code == 3
    ran = home.call("capture", source, *ARGUMENTS, "--region-size", "256K")
    assert (ran.code, ran.out.strip()) == (0, vault)
    assert home.call("open", vault, "-o", tmp_path / "whole").code == 0
    assert (tmp_path / "whole").read_bytes() == source.read_bytes()


def test_read_only_and_missing_stores(home: Home, tmp_path: Path) -> None:
    """A store that is a file, or is not there, is named."""
    (tmp_path / "file").touch()
    for arguments in (("verify", "latest", "--store", tmp_path / "no"), ("list", "--store", tmp_path / "file")):
        ran = home.call(*arguments)
        assert ran.code == 13
        assert str(arguments[-1]) in clean(ran)


def test_latest_is_never_a_guess(home: Home, tmp_path: Path) -> None:
    """Where the newest vault's header cannot be read, or two are of one second, ``latest`` is refused."""
    assert home.call("verify", "latest").code == 2
    first = seal(home, write_core(tmp_path / "one", 16))
    assert home.call("verify", "latest").code == 0
    assert home.call("verify", first[:8]).code == 0
    time.sleep(1.1)  # vaults are told apart by the second they claim
    second = seal(home, write_core(tmp_path / "two", 16, seed=2))
    assert home.call("info", "latest", "--json").json["vault"] == second
    header = home.vaults / second / "vault.dsse.json"
    header.chmod(0o600)
    header.write_bytes(b"junk")
    ran = home.call("verify", "latest")
    assert (ran.code, second in ran.err) == (2, True)


# --- signals and standard files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 3), (signal.SIGHUP, 3)])
def test_a_silent_pipe_is_interrupted(home: Home, tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Stopped while it waits: what came is committed, the end is signed, and it opens."""
    data = core(memory(600))
    process = subprocess.Popen(
        [COMMAND, "capture", "-", *ARGUMENTS, "--region-size", "256K"], env=home.env, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin
    process.stdin.write(data[: 2 << 20])
    process.stdin.flush()
    while not list(home.vaults.glob("*/regions/1/3.sealed")):
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == code, err
    vault = next(home.vaults.iterdir()).name
    assert b"Traceback" not in err
    assert home.call("verify", vault, "--json").json["regions"] >= 3
    assert home.call("open", vault, "-o", tmp_path / "copy", "--partial").code == 3
    copy = (tmp_path / "copy").read_bytes()
    assert copy == data[: len(copy)]


def test_deadline(home: Home, tmp_path: Path) -> None:
    """--deadline ends in order: exit 3, signed, resumable."""
    process = subprocess.Popen(
        [COMMAND, "capture", "-", *ARGUMENTS, "--deadline", "0.5"], env=home.env, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin
    process.stdin.write(bytes(2 << 20))
    process.stdin.flush()
    process.wait()
    _, err = process.communicate()
    assert process.returncode == 3
    assert b"the deadline" in err


@pytest.mark.parametrize("closed", ["0", "1", "2", "0,1,2"])
def test_closed_standard_files(home: Home, tmp_path: Path, closed: str) -> None:
    """A capture started with closed standard files captures all the same."""
    vmcore = write_core(tmp_path / "vmcore", 16)
    done = subprocess.run(
        [sys.executable, "-c", CLOSED, closed, str(COMMAND), "capture", str(vmcore), *ARGUMENTS],
        env=home.env, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert home.call("verify", "latest").code == 0


def test_output_that_cannot_be_written(home: Home, tmp_path: Path) -> None:
    """A full standard output is named as such, without a traceback."""
    seal(home, write_core(tmp_path / "vmcore", 16))
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [COMMAND, "verify", "latest", "--json"], env=home.env, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    done = subprocess.run(
        f"{COMMAND} open latest -o - | head -c 10", shell=True, env=home.env, capture_output=True, check=False
    )
    assert len(done.stdout) == 10
    assert b"Traceback" not in done.stderr


def test_every_command_speaks_json(home: Home, tmp_path: Path) -> None:
    """--json prints one object on standard output for results, for errors and for misuse alike."""
    vmcore = write_core(tmp_path / "vmcore", 16)
    good = [
        ("init",), ("keys", "list"), ("keys", "show", "analyst"), ("keys", "export", "analyst"),
        ("keys", "new", "recipient", "r2", "--unprotected"), ("keys", "new", "signer", "s2", "--unprotected"),
        ("capture", vmcore, *ARGUMENTS), ("list",), ("info", "latest"), ("verify", "latest"),
        ("open", "latest", "-o", tmp_path / "copy"), ("demo", "--mib", "8"),
    ]  # fmt: skip
    for arguments in good:
        ran = home.call(*arguments, "--json")
        assert ran.code == 0, (arguments, ran.err)
        assert isinstance(ran.json, dict)
    for arguments in (
        ("verify", "nope"),
        ("verify",),
        ("demo", "--mib", "1"),
        ("keys", "show", "nope"),
        ("open", "nope"),
    ):
        assert home.call(*arguments, "--json").json["error"]["exit_code"] == 2
    home.call("keys", "export", "analyst", "-o", tmp_path / "a.pub")
    other = make_home(tmp_path / "other")
    assert other.call("keys", "import", tmp_path / "a.pub", "--name", "a2", "--json").json["name"] == "a2"


def test_progress_on_a_terminal_only(home: Home, tmp_path: Path) -> None:
    """Rate and time left are shown on a terminal, and nothing of them anywhere else."""
    import pty

    vmcore = write_core(tmp_path / "vmcore", 600)
    command = [str(COMMAND), "capture", str(vmcore), *ARGUMENTS, "--region-size", "256K"]
    plain = subprocess.run(command, env=home.env, capture_output=True, check=True)
    assert b"/s" not in plain.stderr
    ours, theirs = pty.openpty()
    subprocess.run(command, env=home.env, stderr=theirs, stdout=subprocess.DEVNULL, check=True)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "B/s" in shown
    assert "s left" in shown
