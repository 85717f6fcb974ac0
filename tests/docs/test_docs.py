"""The documentation says what the code does: the tutorial runs, the reference is current, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dumpvault import errors
from dumpvault.cli import _COMMANDS
from support.command import Home, make_home, seal
from support.vmcore import write_core

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")])


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_tutorial_pasted_line_by_line(tmp_path: Path) -> None:
    """Every line of the tutorial in one shell, in an empty folder: each succeeds and the story comes out as told."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("NO ssh-keygen COMMAND: the tutorial uses it")
    lines = "".join(blocks((ROOT / "docs/tutorial.md").read_text(), "sh"))
    home = Home(tmp_path / "nowhere")
    env = {k: v for k, v in home.env.items() if k != "DUMPVAULT_HOME"} | {"HOME": str(tmp_path)}
    # Read from a pipe, as pasted; a failing line shows as one, for the shell is told to stop there.
    done = subprocess.run(
        ["bash", "-e"], input=lines, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    for words in (
        "the password stands in no object",
        'Good "dumpvault-manifest@v1" signature for collector',
        "bit for bit",
        "exit code 10",
        "no file was made",
    ):
        assert words in told, f"{words!r} not in\n{told}"


def test_readme_shortest_use_pasted(tmp_path: Path) -> None:
    """The README's session works as written."""
    text = (ROOT / "README.md").read_text()
    session = re.search(r"^## The shortest real use\n\n((?:    .*\n)+)", text, re.MULTILINE)
    assert session
    write_core(tmp_path / "vmcore")
    env = Home(tmp_path / "nowhere").env
    done = subprocess.run(
        ["bash", "-e"], input=session[1], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "vmcore").read_bytes()


def test_disclosure_pasted(tmp_path: Path) -> None:
    """The how-to's commands in one shell, on a site with one vault: the story comes out as told, ssh-keygen's part too."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("NO ssh-keygen COMMAND: the page uses it")
    home = make_home(tmp_path / "site")
    seal(home, write_core(tmp_path / "vmcore", 700), "--region-size", "512K")
    text = (ROOT / "docs/how-to/disclosure.md").read_text()
    lines = "".join(blocks(text, "sh")).replace("DIR", str(home.path / "keys"))
    for new in ("signer officer", "recipient vendor", "recipient bob"):
        lines = lines.replace(f"keys new {new}", f"keys new {new} --unprotected")
    check = re.search(r"^    (ssh-keygen .*)$", text, re.MULTILINE)
    assert check
    lines += check[1].replace("DIR", str(home.path / "keys"))
    done = subprocess.run(
        ["bash", "-e"], input=lines, cwd=tmp_path, env=home.env, capture_output=True, text=True, check=False
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    for words in ("with new vault keys", "2 regions", "intact", 'Good "dumpvault-shred@v1" signature for officer'):
        assert words in told, told


def test_command_reference_is_current() -> None:
    """docs/reference/commands.md is what the commands' --help prints now."""
    path = ROOT / "docs/reference/generate.py"
    spec = importlib.util.spec_from_file_location("generate", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert path.with_name("commands.md").read_text() == module.render(), "run: make reference"


def test_every_command_explains_itself(tmp_path: Path) -> None:
    """--help of each command ends with examples and exit codes, and the group's list says the same first line."""
    home = Home(tmp_path)
    listed = home.run("--help").out
    for name, (_, line) in _COMMANDS.items():
        assert f"{name} " in listed
        assert line in listed
        if name != "keys":
            text = home.call(name, "--help").out
            assert text.index("Examples:") < text.index("Exit codes:"), name


def test_exit_codes_are_documented() -> None:
    """Each class of the error tree stands in the table with its code."""
    table = (ROOT / "docs/reference/exit-codes.md").read_text()
    for name in errors.__all__:
        assert f"| {getattr(errors, name).exit_code} |" in table, name


def test_links_lead_somewhere() -> None:
    """Relative links of all pages point at files that exist."""
    assert len(PAGES) > 15
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_pages_speak_of_the_project_alone() -> None:
    """No machine's paths in what is published."""
    for page in PAGES:
        text = page.read_text()
        assert str(ROOT) not in text or str(ROOT) == "/", page
        assert "/root/" not in text, page
