"""The real x86_64 dump, sealed: drgn, crash, gdb and makedumpfile see what they see in the plain file."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.command import COMMAND, Home, make_home, seal
from support.debug import real_dump, vmlinux
from support.dumps import SealedDump
from support.mounted import Mounted, mounted, require_fuse

pytestmark = pytest.mark.shared

QUERY = """
import sys
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.printk import get_dmesg
for task in for_each_task(prog):
    print(task.pid.value_(), task.comm.string_(), hex(task.value_()))
print(prog.crashed_thread().tid, prog.crashed_thread().stack_trace())
sys.stdout.buffer.write(get_dmesg(prog))
"""


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SealedDump]:
    work = tmp_path_factory.mktemp("real")
    source = real_dump(shared, work)
    home = make_home(work / "site")
    yield SealedDump(home, seal(home, source, "--region-size", "8M"), source)
    source.unlink()


@pytest.fixture(scope="module")
def symbols(pytestconfig: pytest.Config) -> Path:
    return vmlinux(pytestconfig.rootpath)


@pytest.fixture(scope="module")
def served(real: SealedDump, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    with mounted(real.home, real.vault, tmp_path_factory.mktemp("served") / "m") as mount:
        yield mount
        assert mount.stop() == 0


def need(program: str) -> str:
    return shutil.which(program) or pytest.skip(f"NOT TESTED: no {program} here")


def output(*command: object, env: dict[str, str] | None = None) -> bytes:
    done = subprocess.run(list(map(str, command)), env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return done.stdout


def dumpvault(home: Home, *arguments: object) -> bytes:
    return output(COMMAND, *arguments, env=home.env)


def test_drgn(real: SealedDump, symbols: Path, tmp_path: Path, record_proof: Callable[[str], None]) -> None:
    """Task list, crashed thread with its stack, and kernel log are equal to plain drgn's on the plain file."""
    pytest.importorskip("drgn")
    (tmp_path / "query.py").write_text(QUERY)
    options = ("-s", symbols, "--no-default-symbols")
    ours = dumpvault(real.home, "drgn", *options, real.vault, tmp_path / "query.py")
    theirs = output(sys.executable, "-m", "drgn", "-q", "-c", real.source, *options, tmp_path / "query.py")
    assert ours == theirs
    tasks = sum(b" 0xff" in line for line in ours.splitlines())
    assert tasks > 30
    record_proof(
        f"drgn on the real dump: {tasks} tasks, a stack and {ours.count(b'[    ')} lines of log equal the plain file's"
    )


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """Options that have crash print ``log`` and ``bt``."""
    path = tmp_path_factory.mktemp("crash") / "commands"
    path.write_text("log\nbt\nquit\n")
    return ("-s", "-i", path)


@pytest.fixture(scope="module")
def plain(real: SealedDump, symbols: Path, commands: tuple[object, ...]) -> bytes:
    """What crash prints of the plain file."""
    printed = output(need("crash"), *commands, symbols, real.source)
    assert b"Kernel panic" in printed
    assert b"PID:" in printed
    return printed


def test_crash(real: SealedDump, served: Mounted, symbols: Path, plain: bytes, commands: tuple[object, ...]) -> None:
    """log and bt through ``dumpvault crash`` and through the mount are those of the plain file."""
    assert dumpvault(real.home, "crash", real.vault, symbols, "--", *commands) == plain
    assert output(need("crash"), *commands, symbols, served / "vmcore") == plain


def test_gdb_and_makedumpfile(real: SealedDump, served: Mounted, symbols: Path, tmp_path: Path) -> None:
    """gdb's registers and backtrace, makedumpfile's log and its filtered dump; ``dumpvault dmesg`` equals that log."""
    gdb = need("gdb")
    shown = output(gdb, "-nx", "-batch", "-ex", "info registers rip", symbols, served / "vmcore")
    assert re.search(rb"^rip +0xffffffff[0-9a-f]{8} ", shown, re.M), shown
    program = need("makedumpfile")
    for name, core in (("ours", served / "vmcore"), ("theirs", real.source)):
        output(program, "--dump-dmesg", core, tmp_path / f"{name}.log")
        output(program, "-c", "-d", "31", core, tmp_path / f"{name}.dump")
    log = (tmp_path / "theirs.log").read_bytes()
    assert (tmp_path / "ours.log").read_bytes() == log == dumpvault(real.home, "dmesg", real.vault)
    assert (served / "dmesg.txt").read_bytes() == log
    assert (tmp_path / "ours.dump").stat().st_size == (tmp_path / "theirs.dump").stat().st_size


def test_an_incomplete_one(
    real: SealedDump, symbols: Path, tmp_path: Path, plain: bytes, commands: tuple[object, ...]
) -> None:
    """A region of user memory lost: crash starts on vmcore-available and prints the same; so do drgn and dmesg."""
    body = real.objects / "regions" / "1" / "14.sealed"
    body.rename(tmp_path / "kept")
    try:
        ran = real.home.run("crash", real.vault, symbols, "--", *commands)
        assert ran.code == 0, ran.out[-2000:]
        assert ran.out.encode() == plain
        assert "14.sealed: missing" in ran.err
        code = "print(prog['saved_command_line'].string_())"
        ran = real.home.run("drgn", "-s", symbols, "--no-default-symbols", "-e", code, real.vault)
        assert ran.code == 0, ran.err
        assert real.home.run("dmesg", real.vault).out.encode() in plain
    finally:
        os.rename(tmp_path / "kept", body)


def test_what_makedumpfile_made(
    real: SealedDump, symbols: Path, tmp_path: Path, plain: bytes, commands: tuple[object, ...]
) -> None:
    """A kdump-compressed dump, sealed as it is: crash, which maps it shared, and drgn print the same."""
    require_fuse()
    output(need("makedumpfile"), "-c", "-d", "31", real.source, tmp_path / "dump")
    vault = seal(real.home, tmp_path / "dump")
    assert dumpvault(real.home, "crash", vault, symbols, "--", *commands) == plain
    (tmp_path / "query.py").write_text(QUERY)
    options = ("-s", symbols, "--no-default-symbols")
    assert dumpvault(real.home, "drgn", *options, vault, tmp_path / "query.py") == dumpvault(
        real.home, "drgn", *options, real.vault, tmp_path / "query.py"
    )
