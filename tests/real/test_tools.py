"""The field's own tools on what was captured in a crash kernel: the vault tells them what the plain copy tells them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from real.cache import Missing, tool
from real.contents import SECRETS, count, pieces
from real.machine import Crash
from support.command import COMMAND, Home, Ran

x86_64 = pytest.mark.parametrize("crash", ["x86_64-disk"], indirect=True)
both = pytest.mark.parametrize("crash", ["x86_64-disk", "ppc64le-disk"], indirect=True)
_PANIC = "sysrq: Trigger a crash"
_TASKS = """\
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.printk import get_dmesg
for task in for_each_task(prog):
    print(task.pid.value_(), task.comm.string_().decode())
print(prog.crashed_thread().stack_trace())
print(get_dmesg(prog).decode())
"""


@dataclass(frozen=True)
class Desk:
    """An analyst's place of work: the site, the vault, and the only folders that a tool has to write in."""

    site: Home
    store: Path
    vault: str
    scratch: Path

    @property
    def env(self) -> dict[str, str]:
        return self.site.env | {
            "HOME": str(self.scratch),
            "TMPDIR": str(self.scratch),
            "XDG_RUNTIME_DIR": str(self.scratch),
        }

    def dumpvault(self, command: str, *more: object, before: tuple[object, ...] = ()) -> Ran:
        words = [COMMAND, command, *before, "--store", self.store, self.vault, *more]
        return run_in(self.env, *words)


def run_in(env: dict[str, str], *words: object) -> Ran:
    done = subprocess.run([*map(str, words)], env=env, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    return Ran(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


@pytest.fixture
def desk(crash: Crash, site: Home, tmp_path: Path) -> Iterator[Desk]:
    """Whatever the tools have left there afterwards, or in a file that the host swaps to, holds no planted secret."""
    vault = crash.steps["capture"].vault
    assert vault
    made = Desk(site, crash.take_store(), vault, tmp_path / "scratch")
    made.scratch.mkdir(mode=0o700)
    yield made
    written = [p for top in (made.scratch, site.path, made.store) for p in top.rglob("*") if p.is_file()]
    swapped = [Path(line.split()[0]) for line in Path("/proc/swaps").read_text().splitlines()[1:]]
    for path in [*written, *(p for p in swapped if os.access(p, os.R_OK))]:
        assert count(path, *SECRETS) == 0, path


@pytest.fixture
def vmlinux(crash: Crash) -> Path:
    return crash.machine.platform.debug_kernel


@contextmanager
def mounted(desk: Desk, where: Path) -> Iterator[Path]:
    """``dumpvault mount`` in a process of its own, ended by Ctrl-C; it must unmount."""
    where.mkdir()
    process = subprocess.Popen(
        [COMMAND, "mount", "--store", desk.store, "--json", desk.vault, where],
        env=desk.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        try:
            first = process.stdout.readline()  # printed when the files are there
            assert first, process.stderr.read().decode(errors="replace")
            yield where
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
    assert process.returncode in (0, 130)
    assert not os.path.ismount(where)
    assert not any(where.iterdir())


@both
def test_dmesg(desk: Desk) -> None:
    """The kernel log ends with the panic; no debug symbols, no full open."""
    ran = desk.dumpvault("dmesg")
    assert ran.code == 0, ran.err
    assert "Linux version 6." in ran.out
    assert "Kernel panic - not syncing: sysrq triggered crash" in ran.out.split(_PANIC)[1]


@x86_64
def test_dmesg_is_what_makedumpfile_reads(desk: Desk, crash: Crash, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run_in(os.environ.copy(), tool("makedumpfile", "makedumpfile"), "--dump-dmesg", crash.plain, log).code == 0
    assert desk.dumpvault("dmesg").out.splitlines() == log.read_text(errors="replace").splitlines()


@x86_64
def test_mount(desk: Desk, crash: Crash, vmlinux: Path, tmp_path: Path) -> None:
    """The mounted vmcore is the plain copy, bit for bit, and makedumpfile and crash read it as they read the copy."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise Missing("no /dev/fuse here")
    log, plain_log, commands = tmp_path / "log", tmp_path / "plain-log", tmp_path / "commands"
    commands.write_text("log\nbt\nq\n")
    makedumpfile, crash_tool = tool("makedumpfile", "makedumpfile"), tool("crash", "crash")
    with mounted(desk, tmp_path / "mounted") as files:
        assert (files / "vmcore").stat().st_size == crash.vmcore_size
        for mine, plain in zip(pieces(files / "vmcore"), pieces(crash.plain), strict=True):
            assert mine == plain
        assert (files / "dmesg.txt").read_text() == desk.dumpvault("dmesg").out
        assert f"OSRELEASE={crash.machine.platform.kernel_version}" in (files / "vmcoreinfo").read_text()
        manifest = desk.store / "vaults" / desk.vault / "manifest.json"
        assert (files / "manifest.json").read_bytes() == manifest.read_bytes()
        ran = run_in(desk.env, makedumpfile, "--dump-dmesg", files / "vmcore", log)
        assert ran.code == 0, ran.out + ran.err
        on_mount = run_in(desk.env, crash_tool, "-s", "-i", commands, vmlinux, files / "vmcore")
    assert run_in(desk.env, makedumpfile, "--dump-dmesg", crash.plain, plain_log).code == 0
    assert log.read_bytes() == plain_log.read_bytes()
    on_plain = run_in(desk.env, crash_tool, "-s", "-i", commands, vmlinux, crash.plain)
    assert on_mount.out == on_plain.out
    assert _PANIC in on_mount.out
    assert "sysrq_handle_crash" in on_mount.out


@x86_64
def test_crash(desk: Desk, vmlinux: Path, tmp_path: Path) -> None:
    """``dumpvault crash`` mounts for itself, runs crash, unmounts."""
    tool("crash", "crash")
    commands = tmp_path / "commands"
    commands.write_text("bt\nq\n")
    before = Path("/proc/mounts").read_text().count("fuse")
    ran = desk.dumpvault("crash", vmlinux, "--", "-s", "-i", commands)
    assert ran.code == 0, ran.out + ran.err
    assert "sysrq_handle_crash" in ran.out
    assert Path("/proc/mounts").read_text().count("fuse") <= before


@both
def test_drgn(desk: Desk, crash: Crash, vmlinux: Path, tmp_path: Path) -> None:
    """The task list, the panicking thread's stack and the log that drgn reads through the vault are those of the copy."""
    plain = Path(sys.executable).with_name("drgn")
    if not plain.exists():
        raise Missing("no drgn in this environment: install the dev group")
    script = tmp_path / "tasks.py"
    script.write_text(_TASKS)
    symbols = ("-s", vmlinux, "--no-default-symbols")
    on_vault = desk.dumpvault("drgn", script, before=symbols)
    assert on_vault.code == 0, on_vault.err
    on_plain = run_in(desk.env, plain, "-q", *symbols, "-c", crash.plain, script)
    assert on_plain.code == 0, on_plain.err
    assert on_vault.out == on_plain.out
    assert "1 init" in on_vault.out.splitlines()
    assert "sysrq_handle_crash" in on_vault.out
    assert _PANIC in on_vault.out


@x86_64
def test_a_filtered_stream_makes_a_dump(crash: Crash, site: Home, tmp_path: Path) -> None:
    """``makedumpfile -R`` makes a dump of the opened stream, with the crashed kernel's log in it."""
    makedumpfile, vault = tool("makedumpfile", "makedumpfile"), crash.steps["filtered"].vault
    flat, dump, log = tmp_path / "flat", tmp_path / "dump", tmp_path / "log"
    assert site.run("open", vault, "--store", crash.take_store(), "-o", flat).code == 0
    with flat.open("rb") as file:
        subprocess.run([makedumpfile, "-R", dump], stdin=file, capture_output=True, check=True)
    subprocess.run([makedumpfile, "--dump-dmesg", dump, log], capture_output=True, check=True)
    assert _PANIC in log.read_text(errors="replace")
