"""What is shipped: a wheel that works outside the checkout, a capture that imports only what it uses."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support.command import make_home
from support.vmcore import write_core

ROOT = Path(__file__).parents[2]
SCRIPT = """\
import os, sys
sys.path.insert(0, sys.argv[1])
import dumpvault
assert dumpvault.__file__.startswith(sys.argv[1]), dumpvault.__file__
os.environ["DUMPVAULT_HOME"] = sys.argv[2] + "/site"
from dumpvault.cli import main
def run(*arguments):
    try:
        main(list(arguments))
    except SystemExit as done:
        assert not done.code, (arguments, done.code)
run("init")
run("keys", "new", "recipient", "analyst", "--unprotected")
run("keys", "new", "signer", "collector", "--unprotected")
run("capture", sys.argv[2] + "/vmcore", "--recipient", "analyst", "--signer", "collector")
run("verify", "latest")
run("report", "latest", "-o", sys.argv[2] + "/report.html")
run("open", "latest", "-o", sys.argv[2] + "/copy")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)],
        check=True, capture_output=True,
    )  # fmt: skip
    return next(out.glob("*.whl"))


def test_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Unpacked elsewhere, without the tree around it: capture finds its policy, verify and open work."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "package")
    assert "dumpvault/py.typed" in names
    assert "dumpvault/_policies/baseline.toml" in names
    hook = "dumpvault/_integrations/kdump-tools/etc/initramfs-tools/hooks/dumpvault"
    assert hook in names
    assert {"dumpvault/templates/report.html.j2", "dumpvault/templates/report.css"} <= set(names)
    assert not any(name.startswith(("tests", "keys", "docs", "policies", "integrations")) for name in names)
    write_core(tmp_path / "vmcore")
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "package"), str(tmp_path)],
        check=True,
        cwd=tmp_path,
        capture_output=True,
    )
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "vmcore").read_bytes()


def test_capture_imports_only_what_it_uses(tmp_path: Path) -> None:
    """In a crash kernel every import costs memory: no keyring, rich, PyNaCl, asyncio, ssl, ctypes or the opening side."""
    write_core(tmp_path / "vmcore")
    home = make_home(tmp_path / "site")
    arguments = ["capture", str(tmp_path / "vmcore"), "--recipient", "analyst", "--signer", "collector"]
    script = f"""
import sys
from dumpvault.cli import main
try:
    main({arguments!r})
except SystemExit as done:
    assert not done.code
print(*sorted(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=home.env)
    loaded = set(done.stdout.split())
    assert {"dumpvault.flows.capture", "dumpvault.flows.collected"} <= loaded
    unwanted = {
        "keyring",
        "rich",
        "nacl",
        "asyncio",
        "ssl",
        "ctypes",
        "importlib.metadata",
        "concurrent.futures",
        "socket",
        "jinja2",
    }
    unwanted |= {"dumpvault.flows.open", "dumpvault.flows.verify", "dumpvault.stages.unseal", "unittest", "sqlite3"}
    unwanted |= {"dumpvault.stages.ledger", "dumpvault.flows.custody", "dumpvault.formats.merkle"}
    assert not unwanted & loaded


def test_help_does_not_load_cryptography(tmp_path: Path) -> None:
    """``--help`` is click and one module."""
    script = "import sys\nfrom dumpvault.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
    script += "print(*sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert "capture" in done.stdout
    assert not {"cryptography", "backports.zstd", "keyring", "nacl"} & set(done.stderr.split())


def test_version_is_said_once() -> None:
    """The command's version is the package's."""
    import dumpvault

    done = subprocess.run([sys.executable, "-m", "dumpvault", "--version"], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == f"dumpvault, version {dumpvault.__version__}"
