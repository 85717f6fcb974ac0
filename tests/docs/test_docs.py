"""The documentation says what the code does: the tutorial runs, the reference is current, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from dumpvault import errors
from dumpvault.cli import _COMMANDS, cli
from support.command import Home, make_home, seal
from support.crashed import crash, elf_core
from support.printk_writer import LocklessWriter, Message
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


def test_two_person_story_pasted(tmp_path: Path) -> None:
    """The how-to, line by line: custodians' homes never see each other's, and what must be refused is."""
    writer = LocklessWriter(5, 10)
    writer.log(Message(b"Kernel panic - not syncing: two-person", 1_000_000_000))
    (tmp_path / "vmcore").write_bytes(elf_core(crash(writer.structures())))
    assert _two_person_story(tmp_path).count("Kernel panic - not syncing: two-person") == 2, (
        "by alice and bob, and by dan"
    )


@pytest.mark.shared
def test_two_person_story_of_a_real_crash(tmp_path: Path, shared: Path) -> None:
    """The same lines with a real panicked kernel's dump, and drgn by a request of its own."""
    if shutil.which("zstd") is None:
        pytest.skip("NO zstd COMMAND: the real dumps are compressed")
    source = shared / "cores" / "x86_64-proc-vmcore-256M.elf.zst"
    subprocess.run(["zstd", "-q", "-d", str(source), "-o", str(tmp_path / "vmcore")], check=True)
    more = """\
dumpvault request $id --reason drgn -o third.json
DUMPVAULT_HOME=$PWD/home-bob dumpvault approve third.json --yes -o bob-3.json
DUMPVAULT_HOME=$PWD/home-dan dumpvault approve third.json --yes -o dan-3.json
dumpvault drgn --no-default-symbols -e 'print(prog["UTS_RELEASE"].string_().decode())' \\
    --approvals bob-3.json --approvals dan-3.json $id
"""
    told = _two_person_story(tmp_path, more)
    assert told.count("Kernel panic - not syncing") >= 1
    assert "bit for bit\n" in told
    assert "\n6.1.0-" in told


def _two_person_story(tmp_path: Path, more: str = "") -> str:
    """What the how-to's lines, and ``more``, print on standard output."""
    lines = "".join(blocks((ROOT / "docs/how-to/two-person.md").read_text(), "sh")) + more
    env = {k: v for k, v in Home(tmp_path).env.items() if k != "DUMPVAULT_HOME"} | {"HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-e"], input=lines, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    for words in (
        "any 2 of 3",
        "exit code 12: nobody has approved",
        "exit code 12: one custodian alone",
        "exit code 12: used already",
        "why:        db1 panicked twice this week",
        "bit for bit",
    ):
        assert words in told, f"{words!r} not in\n{told}"
    return done.stdout


def test_custody_story_pasted(tmp_path: Path) -> None:
    """Capture, receive, two-person opening, drgn, grant, shred, export; then an auditor with stock tools alone."""
    missing = [tool for tool in ("openssl", "ssh-keygen") if shutil.which(tool) is None]
    if missing or importlib.util.find_spec("drgn") is None:
        pytest.skip(f"NO {missing or 'drgn'}: the page uses it")
    writer = LocklessWriter(5, 10)
    writer.log(Message(b"Kernel panic - not syncing: custody", 1_000_000_000))
    (tmp_path / "vmcore").write_bytes(elf_core(crash(writer.structures())))
    told = _custody_story(tmp_path)
    assert "Kernel panic - not syncing: custody" in told


@pytest.mark.shared
def test_custody_story_of_a_real_crash(tmp_path: Path, shared: Path) -> None:
    """The same lines with a real panicked kernel's dump."""
    if shutil.which("zstd") is None:
        pytest.skip("NO zstd COMMAND: the real dumps are compressed")
    source = shared / "cores" / "x86_64-proc-vmcore-256M.elf.zst"
    subprocess.run(["zstd", "-q", "-d", str(source), "-o", str(tmp_path / "vmcore")], check=True)
    assert "Architecture.X86_64" in _custody_story(tmp_path)


def _custody_story(tmp_path: Path) -> str:
    """What the how-to's lines print; the auditor's are run where only stock tools are."""
    lines = "".join(blocks((ROOT / "docs/how-to/custody.md").read_text(), "sh"))
    lines, auditor = lines[: lines.index("mkdir auditor")], lines[lines.index("mkdir auditor") :]
    env = {k: v for k, v in Home(tmp_path).env.items() if k != "DUMPVAULT_HOME"} | {"HOME": str(tmp_path)}
    stock = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    outputs = ""
    for text, where in ((lines, env), (auditor, stock)):
        done = subprocess.run(
            ["bash", "-e"], input=text, cwd=tmp_path, env=where, capture_output=True, text=True, check=False
        )
        outputs += done.stdout
        assert done.returncode == 0, done.stdout + done.stderr
    events = (
        "collected verified received requested approved approved opened closed requested approved approved opened closed "
        "requested approved approved granted shredded"
    )
    found = re.findall(r"^ +\d+  \S+Z  \S+ +(\w+)", outputs, re.MULTILINE)
    assert " ".join(found) == events
    for words in (
        "intact; 18 entries, up to checkpoint",
        "eve: had seen the first 1 entries by",
        "entry 18: exported",
        "all of it holds",
    ):
        assert words in outputs, f"{words!r} not in\n{outputs}"
    return outputs


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


def test_written_reference_is_current() -> None:
    """What the reference has from --help, from the table of rules and from the tests' table is what they say now."""
    path = ROOT / "docs/reference/generate.py"
    spec = importlib.util.spec_from_file_location("generate", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, text in module.pages().items():
        assert (path.parent / name).read_text() == text, f"{name}; run: make reference"


def test_every_command_explains_itself(tmp_path: Path) -> None:
    """--help of each command ends with examples and exit codes, and the group's list says the same first line."""
    home = Home(tmp_path)
    listed = home.run("--help").out
    for name, (_, line) in _COMMANDS.items():
        assert f"{name} " in listed
        assert line in listed
        command = cli.get_command(click.Context(cli), name)
        for words in [(name, part) for part in command.commands] if isinstance(command, click.Group) else [(name,)]:
            if words != ("keys", "new"):  # a group of its own
                text = home.call(*words, "--help").out
                assert text.index("Examples:") < text.index("Exit codes:"), words


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
