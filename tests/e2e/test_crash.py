"""``dumpvault crash``: a private mount while crash runs, and nothing left. Here a script stands for crash, which takes no
dump that was not a kernel's; the real one opens the real dump in ``test_real_analysis``."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command import COMMAND, Home, without
from support.dumps import SealedDump
from support.mounted import require_fuse
from support.words import clean


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """After each test no mount and no directory of its kind is there."""
    require_fuse()
    before = places()
    yield
    assert places() == before


def places() -> tuple[set[str], list[str]]:
    mounts = {
        line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if "/dumpvault-" in line
    }
    return mounts, sorted(str(path) for path in Path("/run").glob("dumpvault-*"))


@pytest.fixture
def standing(tmp_path: Path) -> dict[str, str]:
    """An environment with a ``crash`` that does what STAND says."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "crash").write_text('#!/bin/sh\nfor core; do :; done\neval "$STAND"\n')
    (tmp_path / "bin" / "crash").chmod(0o755)
    (tmp_path / "vmlinux").touch()
    return {"PATH": f"{tmp_path / 'bin'}:{COMMAND.parent}:{os.environ['PATH']}"}


def test_it_is_given_the_dump(dump: SealedDump, standing: dict[str, str], tmp_path: Path) -> None:
    """Its arguments, vmlinux, and a core that reads as the source; its output and its exit code are the command's."""
    env = standing | {"STAND": 'echo "$@"; cmp "$core" "$SOURCE" && exit 5', "SOURCE": str(dump.source)}
    ran = dump.home.run("crash", dump.vault, tmp_path / "vmlinux", "--", "-s", "-i", "x y", env=env)
    assert ran.code == 5, ran.err
    assert ran.out.startswith(f"-s -i x y {tmp_path / 'vmlinux'} /run/dumpvault-")
    assert ran.out.endswith("/vmcore\n")


def test_an_incomplete_vault(cut_off: SealedDump, standing: dict[str, str], tmp_path: Path) -> None:
    """It is given the core of what is there."""
    env = standing | {"STAND": 'echo "$core"; cat "$core" > /dev/null'}
    ran = cut_off.home.run("crash", cut_off.vault, tmp_path / "vmlinux", env=env)
    assert (ran.code, ran.out[-18:]) == (0, "/vmcore-available\n"), ran.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_leaves_nothing(dump: SealedDump, standing: dict[str, str], tmp_path: Path, number: int) -> None:
    """Whether it can clean up or is killed: the mount goes with it, and its directory."""
    env = standing | {"STAND": f"echo $core > {tmp_path}/core; exec sleep 60"}
    process = subprocess.Popen([COMMAND, "crash", dump.vault, tmp_path / "vmlinux"], env=dump.home.env | env)
    core = tmp_path / "core"
    while not core.exists() or not core.read_text():
        assert process.poll() is None
        time.sleep(0.02)
    place = Path(core.read_text().strip()).parent
    assert os.path.ismount(place)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(number)
    process.wait(60)
    for pid in map(int, children):  # crash goes on when only its parent is killed; it is ours to end
        if Path(f"/proc/{pid}/comm").exists() and Path(f"/proc/{pid}/comm").read_text() == "sleep\n":
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while place.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not place.exists()


def test_ctrl_c_is_for_crash(dump: SealedDump, standing: dict[str, str], tmp_path: Path) -> None:
    """SIGINT to the whole foreground group interrupts a command of crash, not the mount it reads."""
    stand = f"trap 'echo caught' INT; echo $core > {tmp_path}/core; sleep 60; head -c 4 $core | tail -c 3; exit 0"
    process = subprocess.Popen(
        [COMMAND, "crash", dump.vault, tmp_path / "vmlinux"], env=dump.home.env | standing | {"STAND": stand},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0,
    )  # fmt: skip
    core = tmp_path / "core"
    while not core.exists() or not core.read_text():
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "caught\nELF"), err


def test_refusals(dump: SealedDump, home: Home, standing: dict[str, str], tmp_path: Path) -> None:
    """No crash, no vmlinux, no mfusepy, no key: each says what to do, and crash is not started."""
    vmlinux, env = tmp_path / "vmlinux", standing | {"STAND": "echo started"}
    cases = [
        (("crash", dump.vault, vmlinux), {"PATH": str(COMMAND.parent)}, 1, "apt install crash"),
        (("crash", dump.vault, tmp_path / "none"), env, 1, "vmlinux with debug symbols"),
        (("crash", dump.vault, tmp_path), env, 1, "vmlinux with debug symbols"),
        (("crash", "nope", vmlinux), env, 2, "nope"),
        (("crash", dump.vault, vmlinux, "--key", "nobody"), env, 12, "nobody"),
        (
            ("crash", dump.vault, vmlinux),
            env | without("mfusepy", "ImportError('no')", tmp_path),
            1,
            "dumpvault[mount]",
        ),
    ]
    for arguments, environment, code, word in cases:
        ran = dump.home.run(*arguments, env=environment)
        assert ran.code == code, (arguments, clean(ran))
        assert word in clean(ran)
        assert "started" not in ran.out
