"""A PKCS#11 token of SoftHSM 2, made afresh in a folder, and what a test does to it."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN, SO_PIN = "4711", "0815-0815"


@dataclass(frozen=True)
class Token:
    """A token ``site``; ``config`` is what SOFTHSM2_CONF names."""

    config: Path
    pin: Path

    def uri(self, name: str, *, pin: bool = False) -> str:
        source = f"&pin-source=file:{self.pin}" if pin else ""
        return f"pkcs11:token=site;object={name}?module-path={MODULE}{source}"

    def tool(self, *arguments: str, login: bool = True) -> str:
        """pkcs11-tool on this token; the right PIN resets the count of wrong ones."""
        program = shutil.which("pkcs11-tool")
        if program is None:
            pytest.skip("NOT TESTED: no pkcs11-tool here (apt install opensc)")
        how = ["--login", "--pin", PIN] if login else []
        done = subprocess.run(
            [program, "--module", str(MODULE), "--token-label", "site", *how, *arguments],
            env=os.environ | {"SOFTHSM2_CONF": str(self.config)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def remove(self) -> None:
        """Take the token out of its reader."""
        shutil.rmtree(self.config.parent / "tokens")
        (self.config.parent / "tokens").mkdir()

    def init(self, label: str) -> None:
        done = subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", SO_PIN],
            env=os.environ | {"SOFTHSM2_CONF": str(self.config)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def make_token(folder: Path) -> Token:
    if not MODULE.exists() or shutil.which("softhsm2-util") is None:
        pytest.skip("NOT TESTED: no SoftHSM here (apt install softhsm2)")
    pytest.importorskip("pkcs11", reason="NOT TESTED: no python-pkcs11 here (pip install 'dumpvault[pkcs11]')")
    (folder / "tokens").mkdir(parents=True)
    config = folder / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    pin = folder / "pin"
    pin.write_text(PIN + "\n")
    pin.chmod(0o600)
    token = Token(config, pin)
    token.init("site")
    return token
