"""Keys stay inside the process: out of cores, of its user's other processes, of arguments, environment and messages.

What Python leaves in memory that it has freed is counted, not denied: docs/how-to/keys.md says what that means.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dumpvault.formats import private_key
from dumpvault.formats.kem import recipient_digest
from dumpvault.formats.keybag import Keybag, derive_kek, unwrap
from dumpvault.formats.private_key import PassphraseKey, PrivateKey
from support.command import Home
from support.vmcore import write_core

PASSPHRASE = b"a phrase that stands nowhere else 4711"
NOBODY = 65534
# Does what the command does, and stays, so that its memory can be looked at.
LINGERS = """
import gc, os, sys
sys.path[:0] = sys.argv[1].split(os.pathsep)
from dumpvault.cli import main
try:
    main(sys.argv[2:])
except SystemExit as done:
    code = done.code
gc.collect()
os.write(2, b"\\nlingers %d\\n" % (code or 0))
os.read(0, 1)
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root may read another process's memory")


@dataclass(frozen=True)
class Sealed:
    home: Home
    vault: str
    passphrase_file: Path
    secrets: Mapping[str, bytes]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    """A vault for a recipient that a passphrase locks, and every secret of it."""
    folder = tmp_path_factory.mktemp("secrecy")
    home = Home(folder / "site")
    phrase = folder / "phrase"
    phrase.write_bytes(PASSPHRASE)
    for arguments in (
        ("init",),
        ("keys", "new", "recipient", "analyst", "--passphrase-file", phrase),
        ("keys", "new", "signer", "collector", "--unprotected"),
    ):
        assert home.run(*arguments).code == 0
    source = write_core(folder / "vmcore", 64)
    vault = home.run("capture", source, "--recipient", "analyst", "--signer", "collector").out.strip()
    place = home.vaults / vault
    locked = private_key.parse((home.path / "private/analyst.key").read_bytes(), "analyst.key")
    assert isinstance(locked, PassphraseKey)
    key = locked.unlock(PASSPHRASE)
    assert isinstance(key.secret, bytes)
    header = hashlib.sha256((place / "vault.dsse.json").read_bytes()).hexdigest()
    vk = Keybag.read((place / "keybag/1.json").read_bytes(), vault, 1, "keybag").open(
        recipient_digest(key.public), key.secret, header, "keybag"
    )
    kek = derive_kek(vk, vault, 1)
    first = json.loads((place / "keys/1/1.json").read_text())["keys"][0]["wrapped"]
    secrets = {
        "passphrase": PASSPHRASE, "private key": key.secret, "private key in base64": base64.b64encode(key.secret),
        "vault key": vk, "KEK": kek, "data key": unwrap(kek, base64.b64decode(first), "keys"),
    }  # fmt: skip
    return Sealed(home, vault, phrase, secrets)


@contextmanager
def lingering(home: Home, *arguments: object, user: int | None = None, python: str = sys.executable) -> Iterator[int]:
    """The pid of a command that has done its work and is still there."""
    path = os.pathsep.join(filter(None, sys.path))
    child = subprocess.Popen(
        [python, "-c", LINGERS, path, *map(str, arguments)], env=home.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, user=user, group=user, extra_groups=[] if user else None,
    )  # fmt: skip
    assert child.stdin
    assert child.stderr
    assert child.stdout
    told = b""
    try:
        for line in child.stderr:
            told += line
            if line.startswith(b"lingers"):
                break
        assert told.endswith(b"lingers 0\n"), told.decode()
        yield child.pid
    finally:
        child.stdin.close()
        child.wait()
        child.stderr.close()
        child.stdout.close()


def copies(pid: int, secrets: Mapping[str, bytes]) -> dict[str, int]:
    """How often each secret stands in what the process can read of itself."""
    found = dict.fromkeys(secrets, 0)
    read = 0
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory, open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        for line in maps:
            words = line.split()
            if not words[1].startswith("r") or words[-1].startswith("[v"):  # the kernel's own
                continue
            start, end = (int(part, 16) for part in words[0].split("-"))
            memory.seek(start)
            try:
                data = memory.read(end - start)
            except OSError:
                assert words[-1].startswith("/"), line  # a file's mapping past the file's end
                continue
            read += len(data)
            for name, secret in secrets.items():
                found[name] += data.count(secret)
    assert read > 8 << 20, "the memory of a Python program is larger"
    return found


@needs_root
def test_what_remains_in_memory(sealed: Sealed, tmp_path: Path, record_proof: Callable[[str], None]) -> None:
    """After opening, no copy of the passphrase or of the private key's text is left; of raw keys at most a freed one."""
    home, vault, phrase = sealed.home, sealed.vault, sealed.passphrase_file
    runs: dict[str, tuple[object, ...]] = {
        "open": ("open", vault, "-o", tmp_path / "copy", "--passphrase-file", phrase),
        "verify --with-key": ("verify", vault, "--with-key", "analyst", "--passphrase-file", phrase),
        "list": ("list",),
    }
    for name, arguments in runs.items():
        with lingering(home, *arguments) as pid:
            found = copies(pid, sealed.secrets)
        record_proof(f"left in memory after {name}: {found}")
        assert found["passphrase"] == found["private key in base64"] == 0, found
        assert max(found.values()) <= 1, found
        if name == "list":
            assert not any(found.values())


@needs_root
def test_the_scan_finds_what_is_there(sealed: Sealed) -> None:
    """It would have told: a process that holds the secrets shows every one."""
    program = (
        "import sys, os; held = [bytes.fromhex(s) for s in sys.stdin.readline().split()]; "
        "print('!', flush=True); os.read(0, 1)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    assert child.stdin
    assert child.stdout
    child.stdin.write(" ".join(secret.hex() for secret in sealed.secrets.values()) + "\n")
    child.stdin.flush()
    assert child.stdout.readline() == "!\n"
    try:
        assert all(copies(child.pid, sealed.secrets).values())
    finally:
        child.stdin.close()
        child.wait()
        child.stdout.close()


@needs_root
@pytest.mark.parametrize("command", ["open", "capture"])
def test_no_core_and_nothing_to_attach_to(sealed: Sealed, tmp_path: Path, command: str) -> None:
    """Readers and collectors are undumpable with a core limit of 0; a fatal signal leaves no core."""
    arguments = {
        "open": ("open", sealed.vault, "-o", tmp_path / "copy", "--passphrase-file", sealed.passphrase_file),
        "capture": ("capture", write_core(tmp_path / "new", 16), "--recipient", "analyst", "--signer", "collector"),
    }[command]
    with lingering(sealed.home, *arguments) as pid:
        assert "Max core file size        0 " in Path(f"/proc/{pid}/limits").read_text()
        # An undumpable process's files in /proc are root's with the mode of a stranger's: proc(5).
        os.kill(pid, signal.SIGABRT)
    assert not list(Path.cwd().glob("core*"))


def _unprivileged_python() -> str:
    """A Python of this version that nobody may run."""
    for python in (sys.executable, shutil.which(f"python{sys.version_info[0]}.{sys.version_info[1]}", path="/usr/bin")):
        if python:
            try:
                done = subprocess.run(
                    [python, "-c", "import ctypes"], user=NOBODY, group=NOBODY, extra_groups=[], check=False
                )
            except PermissionError:
                continue
            if done.returncode == 0:
                return python
    pytest.skip("NOT TESTED: no Python here that an unprivileged user may run")


@needs_root
def test_as_an_unprivileged_user(sealed: Sealed, tmp_path: Path) -> None:
    """An undumpable user still opens (O_TMPFILE is linked through /proc), and its other processes cannot look inside."""
    python = _unprivileged_python()
    folder = Path("/var/tmp") / f"dumpvault-{os.getpid()}"  # pytest's own folder is closed to others
    try:
        folder.mkdir(mode=0o755)
        home = Home(folder / "site")
        shutil.copytree(sealed.home.path, home.path)
        shutil.copy(sealed.passphrase_file, folder / "phrase")
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", str(folder)], check=True)
        copy = folder / "copy"
        with lingering(
            home, "open", sealed.vault, "-o", copy, "--passphrase-file", folder / "phrase", user=NOBODY, python=python
        ) as pid:
            for name in ("mem", "environ", "maps", "fd"):
                look = (
                    f"import os; p = '/proc/{pid}/{name}'; os.listdir(p) if p.endswith('fd') else open(p, 'rb').read(1)"
                )
                done = subprocess.run(
                    [python, "-c", look], user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, check=False
                )  # fmt: skip
                assert b"PermissionError" in done.stderr, name
        assert copy.stat().st_uid == NOBODY
        assert copy.stat().st_size > 64 * 4096
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@needs_root
def test_a_dumpable_one_could_be_looked_into(tmp_path: Path) -> None:
    """Were it not undumpable, the same look would succeed: the test above can fail."""
    python = _unprivileged_python()
    as_nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    child = subprocess.Popen([python, "-c", "import os; os.write(1, b'!'); os.read(0, 1)"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, **as_nobody)  # type: ignore[call-overload]  # fmt: skip
    try:
        assert child.stdout.read(1) == b"!"
        look = f"open('/proc/{child.pid}/environ', 'rb').read(1)"
        done = subprocess.run([python, "-c", look], capture_output=True, check=False, **as_nobody)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr
    finally:
        child.stdin.close()
        child.wait()
        child.stdout.close()


@needs_root
def test_nothing_secret_where_others_read(sealed: Sealed, tmp_path: Path) -> None:
    """Neither arguments nor environment hold a secret while a reader runs."""
    arguments = ("open", sealed.vault, "-o", tmp_path / "copy", "--passphrase-file", sealed.passphrase_file)
    with lingering(sealed.home, *arguments) as pid:
        shown = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
    for name, secret in sealed.secrets.items():
        assert secret not in shown, name
        assert secret.hex().encode() not in shown, name


def test_a_traceback_shows_no_secret(sealed: Sealed, tmp_path: Path) -> None:
    """Even one that is asked for, of a defect that is made here, while everything is unlocked."""
    program = """
import sys
from dumpvault.cli import main
from dumpvault.flows import open as flow
def broken(*arguments, **named):
    raise RuntimeError(f"defect {arguments!r} {named!r}")
flow.unseal = broken
main(sys.argv[1:])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "open", sealed.vault, "-o", str(tmp_path / "copy"), "--passphrase-file",
         str(sealed.passphrase_file)],
        env=sealed.home.env | {"DUMPVAULT_TRACEBACK": "1"}, capture_output=True, check=False,
    )  # fmt: skip
    assert b"RuntimeError" in done.stderr
    for name in ("passphrase", "private key", "private key in base64", "vault key", "KEK"):
        secret = sealed.secrets[name]
        for form in (secret, repr(secret)[2:-1].encode(), secret.hex().encode()):
            assert form not in done.stdout + done.stderr, name


def test_values_that_hold_secrets_do_not_print_them() -> None:
    """A key's repr has its name, not its secret."""
    secret = bytes(range(32))
    shown = repr(PrivateKey("analyst", "recipient", "x25519", secret))
    assert "analyst" in shown
    assert repr(secret)[2:-1] not in shown
