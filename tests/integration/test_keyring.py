"""Keys in a real Secret Service (gnome-keyring on a D-Bus of its own), and every backend that must not hold one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dumpvault.errors import NoKey
from dumpvault.stages import os_keyring
from support.command import Home, Ran
from support.vmcore import write_core
from support.words import clean

_SERVICE = "keyring.backends.SecretService.Keyring"
# cat ends with its input, and with it the bus, and with that the keyring.
_SESSION = (
    'printf pw | gnome-keyring-daemon --unlock --components=secrets >&2; echo "$DBUS_SESSION_BUS_ADDRESS"; exec cat'
)


@dataclass(frozen=True)
class SessionHome(Home):
    """A home in a session that may have a bus."""

    session: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        kept = {k: v for k, v in super().env.items() if k not in ("DBUS_SESSION_BUS_ADDRESS", "PYTHON_KEYRING_BACKEND")}
        return kept | self.session

    def python(self, program: str) -> None:
        subprocess.run([sys.executable, "-c", program], env=self.env, check=True)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[SessionHome]:
    """With gnome-keyring, unlocked; its files below ``tmp_path``."""
    for program in ("dbus-run-session", "gnome-keyring-daemon"):
        if shutil.which(program) is None:
            pytest.skip(f"NOT TESTED: no {program} here (apt install gnome-keyring dbus-daemon)")
    folders = {"XDG_RUNTIME_DIR": "run", "XDG_DATA_HOME": "data", "XDG_CONFIG_HOME": "config", "HOME": "home"}
    session = {name: str(tmp_path / folder) for name, folder in folders.items()}
    for path in session.values():
        Path(path).mkdir(mode=0o700)
    bus = subprocess.Popen(
        ["dbus-run-session", "--", "sh", "-c", _SESSION], env=Home(tmp_path).env | session, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert bus.stdin
    assert bus.stdout
    try:
        session |= {"DBUS_SESSION_BUS_ADDRESS": bus.stdout.readline().strip(), "PYTHON_KEYRING_BACKEND": _SERVICE}
        home = SessionHome(tmp_path / "site", session)
        good(home.run("init"))
        yield home
    finally:
        bus.stdin.close()
        bus.wait(30)
        bus.stdout.close()


def good(ran: Ran) -> Ran:
    assert ran.code == 0, ran.err
    return ran


def lock(home: SessionHome) -> None:
    home.python("import secretstorage as s; s.get_default_collection(s.dbus_init()).lock()")


def test_the_story(home: SessionHome, tmp_path: Path) -> None:
    """Keys made in the keyring seal, sign and open; their files hold no secret; rotated, the old one still opens."""
    for what in (("recipient", "analyst"), ("signer", "collector")):
        good(home.run("keys", "new", *what, "--keyring"))
        held = json.loads((home.path / "private" / f"{what[1]}.key").read_text())
        assert (held["secret"], held["protection"]) == ("", {"kind": "keyring"})
    source = write_core(tmp_path / "vmcore", 32)
    vault = good(home.run("capture", source, "--recipient", "analyst", "--signer", "collector")).out.strip()
    good(home.run("open", vault, "-o", tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    good(home.run("keys", "doctor"))

    good(home.run("keys", "rotate", "analyst", "--keyring"))
    good(home.run("open", vault, "-o", tmp_path / "again"))
    assert (tmp_path / "again").read_bytes() == source.read_bytes()
    listed = {(key["name"], key["status"]): key["private"] for key in home.run("keys", "list", "--json").json["keys"]}
    assert listed[("analyst", "current")] == "keyring"
    assert "keyring" in [kept for (_, status), kept in listed.items() if status == "retired"]


def test_a_locked_keyring(home: SessionHome, tmp_path: Path) -> None:
    """Nobody is there to unlock it: told so, exit 12, nothing written."""
    for what in (("recipient", "analyst"), ("signer", "collector")):
        good(home.run("keys", "new", *what, "--keyring"))
    source = write_core(tmp_path / "vmcore", 32)
    vault = good(home.run("capture", source, "--recipient", "analyst", "--signer", "collector")).out.strip()
    lock(home)
    ran = home.run("open", vault, "-o", tmp_path / "copy")
    assert (ran.code, "is locked" in clean(ran)) == (12, True)
    assert not (tmp_path / "copy").exists()
    ran = home.run("keys", "new", "recipient", "other", "--keyring")
    assert (ran.code, "is locked" in clean(ran)) == (12, True)
    assert not (home.path / "private" / "other.key").exists()
    assert not (home.path / "keys" / "recipients" / "other.pub").exists()
    assert home.run("keys", "doctor").code == 12


def test_an_entry_that_is_gone_or_wrong(home: SessionHome, tmp_path: Path) -> None:
    """A deleted entry is a missing key; another key's secret in its place is refused."""
    good(home.run("keys", "new", "recipient", "analyst", "--kem", "x25519", "--keyring"))
    good(home.run("keys", "new", "signer", "collector", "--unprotected"))
    source = write_core(tmp_path / "vmcore", 32)
    vault = good(home.run("capture", source, "--recipient", "analyst", "--signer", "collector")).out.strip()
    digest = next(k["fingerprint"] for k in home.run("keys", "list", "--json").json["keys"] if k["name"] == "analyst")
    user = f"recipient {digest}"
    for entry in ("A" * 43 + "=", "nonsense"):
        home.python(f"import keyring; keyring.set_password('dumpvault', {user!r}, {entry!r})")
        ran = home.run("open", vault, "-o", tmp_path / "copy")
        assert (ran.code, "analyst" in clean(ran)) == (1, True), ran.err
    home.python(f"import keyring; keyring.delete_password('dumpvault', {user!r})")
    ran = home.run("open", vault, "-o", tmp_path / "copy")
    assert (ran.code, "has no entry" in clean(ran)) == (12, True)


@pytest.mark.parametrize("backend", [
    "keyring.backends.null.Keyring", "keyring.backends.fail.Keyring", "keyrings.alt.file.PlaintextKeyring",
])  # fmt: skip
def test_backends_that_are_refused(home: SessionHome, backend: str) -> None:
    """Each is named, and no key is made."""
    home.session["PYTHON_KEYRING_BACKEND"] = backend
    ran = home.run("keys", "new", "recipient", "analyst", "--keyring")
    assert (ran.code, backend in clean(ran)) == (12, True)
    assert not (home.path / "private" / "analyst.key").exists()
    assert backend in clean(home.run("keys", "doctor"))


def test_the_default_chain_with_a_plaintext_backend(home: SessionHome) -> None:
    """What keyring takes by itself once keyrings.alt is installed: a chain, in which it would write in the clear."""
    del home.session["PYTHON_KEYRING_BACKEND"]
    ran = home.run("keys", "new", "recipient", "analyst", "--keyring")
    assert ran.code == 12
    assert "keyrings.alt.file.PlaintextKeyring, part of keyring.backends.chainer.ChainerBackend" in ran.err
    assert not list((home.path.parent / "data").glob("python_keyring/*"))


def test_no_keyring_at_all(home: SessionHome) -> None:
    """Without a bus the Secret Service is not there, which is told like everything else."""
    home.session["DBUS_SESSION_BUS_ADDRESS"] = "unix:path=/nowhere"
    ran = home.run("keys", "new", "recipient", "analyst", "--keyring")
    assert (ran.code, "keyring" in clean(ran)) == (12, True)
    home.session["PYTHON_KEYRING_BACKEND"] = "no.such.Backend"
    ran = home.run("keys", "new", "recipient", "analyst", "--keyring")
    assert (ran.code, "cannot be used" in clean(ran)) == (12, True)


def test_a_borrowed_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that only calls itself like an allowed one, or inherits from it, is not it."""
    import keyring
    from keyring.backend import KeyringBackend
    from keyring.backends import SecretService

    class Keyring(KeyringBackend):
        priority = 1

        def get_password(self, service: str, username: str) -> str | None:
            return None

        def set_password(self, service: str, username: str, password: str) -> None:
            pass

    Keyring.__module__, Keyring.__qualname__ = "keyring.backends.SecretService", "Keyring"
    heir = type("Keyring", (SecretService.Keyring,), {"__module__": "keyring.backends.SecretService"})
    for impostor in (Keyring(), heir()):
        monkeypatch.setattr(keyring, "get_keyring", lambda impostor=impostor: impostor)
        assert os_keyring.name_of(impostor) == _SERVICE
        with pytest.raises(NoKey, match="not one that dumpvault trusts"):
            os_keyring.allowed_backend()
