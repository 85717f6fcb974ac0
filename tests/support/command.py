"""Run ``dumpvault``: the installed command in a process of its own, or its entry point in this one where thousands run."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from dumpvault.cli import main

COMMAND = Path(sys.executable).with_name("dumpvault")


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Home:
    """A site of its own under ``path``."""

    path: Path

    @property
    def env(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("DUMPVAULT_")}
        return kept | {"DUMPVAULT_HOME": str(self.path), "PATH": f"{COMMAND.parent}:{os.environ['PATH']}"}

    def run(self, *arguments: object, stdin: bytes | None = None, env: dict[str, str] | None = None) -> Ran:
        """The installed command; ``env`` is added to its environment."""
        done = subprocess.run(
            [str(COMMAND), *map(str, arguments)],
            env=self.env | (env or {}),
            input=stdin,
            capture_output=True,
            check=False,
        )
        return Ran(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def call(self, *arguments: object) -> Ran:
        """The same entry point in this process: for cases by the thousand."""
        out, err = io.StringIO(), io.StringIO()
        code = 0
        with mock.patch.dict(os.environ, self.env), redirect_stdout(out), redirect_stderr(err):
            try:
                main([*map(str, arguments)])
            except SystemExit as done:
                code = int(done.code or 0)
        return Ran(code, out.getvalue(), err.getvalue())

    @property
    def vaults(self) -> Path:
        return self.path / "store" / "vaults"


def make_home(path: Path, actor: str | None = None) -> Home:
    """A site with a recipient ``analyst`` and a signer ``collector``; ``actor`` names the key of its entries."""
    home = Home(path)
    for arguments in (
        ("init", *(("--actor", actor) if actor else ())),
        ("keys", "new", "recipient", "analyst", "--unprotected"),
        ("keys", "new", "signer", "collector", "--unprotected"),
    ):
        ran = home.call(*arguments)
        assert ran.code == 0, ran.err
    return home


def without(package: str, error: str, folder: Path) -> dict[str, str]:
    """An environment in which importing ``package`` raises ``error``, an expression; ``folder`` is for its use."""
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {package!r}: raise {error}\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    return {"PYTHONPATH": str(folder)}


def seal(home: Home, source: Path, *more: object) -> str:
    """Capture ``source`` in this process; the vault's id."""
    ran = home.call("capture", source, "--recipient", "analyst", "--signer", "collector", *more)
    assert ran.code in (0, 3), ran.err
    return ran.out.strip()
