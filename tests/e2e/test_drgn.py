"""``dumpvault drgn``: memory as drgn reads it, scripts as drgn runs them, and refusals before any of it."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support.command import COMMAND, Home, make_home, seal, without
from support.crashed import elf_core, kdump_compressed
from support.dumps import SealedDump
from support.logged import logged_core, logged_machine
from support.vmcore import MARKER
from support.words import clean

pytest.importorskip("drgn", reason="NOT TESTED: no drgn here")
PLAIN = ("drgn", "--no-default-symbols")


def test_memory_is_the_dumps(dump: SealedDump) -> None:
    """Physical and virtual reads equal the source; what no segment covers is drgn's own fault error."""
    crashed = logged_machine()
    virtual, physical, length = crashed.loads[0]
    offset = dump.data.index(MARKER)
    code = (
        f"import hashlib\n"
        f"print(hashlib.sha256(prog.read({0x10000000}, {0x200000}, True)).hexdigest())\n"
        f"print(prog.read({0x10000000 + offset - 0x2000}, {len(MARKER)}, physical=True).decode())\n"
        f"print(prog.read({virtual}, {length}) == prog.read({physical}, {length}, True))\n"
        f"print(prog.platform, prog.flags)\n"
        f"try: prog.read({0x7000000000}, 1, True)\n"
        f"except FaultError as error: print('fault', hex(error.address))\n"
    )
    ran = dump.home.run(*PLAIN, "-e", code, dump.vault)
    assert ran.code == 0, clean(ran)
    lines = ran.out.splitlines()
    assert lines[0] == hashlib.sha256(dump.data[0x2000:0x202000]).hexdigest()
    assert lines[1:3] == [MARKER.decode(), "True"]
    assert "X86_64" in lines[3]
    assert "IS_LINUX_KERNEL" in lines[3]
    assert lines[4] == "fault 0x7000000000"


def test_a_kdump_compressed_dump(home: Home, tmp_path: Path) -> None:
    """Its pages, too."""
    (tmp_path / "dump").write_bytes(kdump_compressed(logged_machine()))
    physical = logged_machine().loads[0][1]
    ran = home.run(*PLAIN, "-e", f"print(prog.read({physical}, 16, True))", seal(home, tmp_path / "dump"))
    assert (ran.code, ran.out[:2]) == (0, "b'"), clean(ran)


@pytest.mark.parametrize(
    ("script", "code", "out", "err"),
    [
        ("print(sys.argv, __name__)", 0, "['{path}', '--all', '-e', 'x'] __main__", ""),
        ("sys.exit(7)", 7, "", ""),
        ("sys.exit()", 0, "", ""),
        ("sys.exit('told why')", 1, "", "told why"),
        ("raise ValueError('theirs')", 1, "", "ValueError: theirs"),
        ("print(prog['nothing'])", 1, "", "could not find 'nothing'"),
        ("1 +", 1, "", "SyntaxError"),
        ("import drgn; print(drgn.get_default_prog() is prog)", 0, "True", ""),
        ("raise KeyboardInterrupt", 130, "", "interrupted"),
        ("print('x'); sys.stdout.close()", 0, "x", ""),
        ("import beside; print(beside.x)", 0, "5", ""),
        ("import os; os.read(0, 1); print('read')", 0, "read", ""),
    ],
)
def test_scripts(dump: SealedDump, tmp_path: Path, script: str, code: int, out: str, err: str) -> None:
    """Arguments, exit codes and exceptions are the script's own."""
    path = tmp_path / "script.py"
    path.write_text(script if script == "1 +" else f"import sys\n{script}\n")
    (tmp_path / "beside.py").write_text("x = 5\n")
    ran = dump.home.run(*PLAIN, dump.vault, path, "--all", "-e", "x", stdin=b"y")
    assert ran.code == code, ran.err
    assert ran.out.strip() == out.replace("{path}", str(path))
    assert err in ran.err
    assert "internal error" not in ran.err


def test_code(dump: SealedDump) -> None:
    """-e has drgn's names at hand; its exceptions are shown without this program's own frames."""
    ran = dump.home.run(*PLAIN, "-e", "print(drgn.Program is type(prog), for_each_task.__name__)", dump.vault)
    assert (ran.code, ran.out) == (0, "True for_each_task\n"), ran.err
    ran = dump.home.run(*PLAIN, "-e", "raise ValueError('x')", dump.vault)
    assert ran.code == 1
    assert "ValueError: x" in ran.err
    assert "dumpvault/" not in ran.err


def test_misuse(dump: SealedDump, tmp_path: Path) -> None:
    """Told before a key is touched."""
    (tmp_path / "s.py").write_text("")
    for arguments, code in (
        (("drgn",), 2),
        (("drgn", "-e", "1", dump.vault, tmp_path / "s.py"), 2),
        (("drgn", dump.vault, tmp_path / "missing.py"), 2),
        (("drgn", dump.vault, "-e", "1"), 2),
        (("drgn", "-e", "1", "nope"), 2),
        (("drgn", "--no-default-symbols", "-s", tmp_path / "missing", "-e", "1", dump.vault), 1),
        (("drgn", "--no-default-symbols", "-s", tmp_path / "s.py", "-e", "1", dump.vault), 1),
        (("drgn", "-e", "1", "--key", "nobody", dump.vault), 12),
    ):
        ran = dump.home.run(*arguments)
        assert ran.code == code, (arguments, clean(ran))
        clean(ran)


def test_no_symbols(dump: SealedDump) -> None:
    """Where drgn finds no debug symbols of this kernel, it is said how to name them."""
    ran = dump.home.run("drgn", "-e", "1", dump.vault)
    assert ran.code == 1
    assert "6.1.0-test" in clean(ran)
    assert "--symbols" in ran.err


def test_missing_drgn(dump: SealedDump, tmp_path: Path) -> None:
    """The message says what to install."""
    ran = dump.home.run(*PLAIN, "-e", "1", dump.vault, env=without("drgn", "ImportError('no')", tmp_path))
    assert ran.code == 1
    assert "dumpvault[drgn]" in clean(ran)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: logged_core(16, info=b""), "no VMCOREINFO"),
        (lambda: logged_core(16, info=b"OSRELEASE=6.1.0\n"), "VMCOREINFO"),
        (lambda: logged_core(16, info=b"\xff\xfe\0junk=\n"), "VMCOREINFO"),
        (lambda: logged_core(16, machine=22), "s390x"),
        (lambda: logged_core(16, machine=0x1234), "drgn"),
        (lambda: b"text\n" * 9999, "neither an ELF core"),
        (lambda: elf_core(logged_machine())[:200], "ELF"),
    ],
    ids=["none", "little", "junk", "s390x", "unknown", "text", "cut"],
)
def test_dumps_that_drgn_cannot_be_given(home: Home, tmp_path: Path, make: object, word: str) -> None:
    """Refused by name, with what else can be done."""
    (tmp_path / "vmcore").write_bytes(make())  # type: ignore[operator]
    ran = home.run(*PLAIN, "-e", "print(prog)", seal(home, tmp_path / "vmcore"))
    assert ran.code in (1, 3), ran.out
    assert word in clean(ran)
    assert ran.out == ""


def test_a_locked_key(tmp_path: Path, dump: SealedDump) -> None:
    """--passphrase-file opens it; the wrong one is 12."""
    (tmp_path / "right").write_text("correct horse\n")
    (tmp_path / "wrong").write_text("battery staple\n")
    home = make_home(tmp_path / "locked")
    assert home.call("keys", "new", "recipient", "locked", "--passphrase-file", tmp_path / "right").code == 0
    vault = home.call("capture", dump.source, "--recipient", "locked", "--signer", "collector").out.strip()
    for name, code in (("right", 0), ("wrong", 12)):
        for command in ((*PLAIN, "-e", "1"), ("dmesg",)):
            assert home.run(*command, "--passphrase-file", tmp_path / name, vault).code == code
    assert home.run("dmesg", vault, stdin=b"").code == 12


def test_a_page_that_is_not_good_is_the_scripts_to_see(home: Home, dump: SealedDump) -> None:
    """A changed block is an authentication failure with its object's name, never zeros; other memory goes on."""
    vault = seal(home, dump.source, "--region-size", "256K", "--compress", "none")
    body = home.vaults / vault / "regions/1/5.sealed"
    body.chmod(0o600)
    changed = bytearray(body.read_bytes())
    changed[-1] ^= 1
    body.write_bytes(changed)
    code = "print(len(prog.read(0x10000000, 0x1000, True)))\nprint(prog.read(0x10000000, 0x200000, True))"
    ran = home.run(*PLAIN, "-e", code, vault)
    assert ran.code == 10, clean(ran)
    assert ran.out == "4096\n"
    assert "regions/1/5.sealed" in ran.err


def test_a_reader_that_goes_and_an_interrupt(dump: SealedDump, tmp_path: Path) -> None:
    """A closed pipe and Ctrl-C end it without a complaint."""
    done = subprocess.run(
        f"{COMMAND} {' '.join(PLAIN)} -e 'for i in range(100000): print(i)' {dump.vault} | head -1",
        shell=True, env=dump.home.env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("0\n", "")
    flag = tmp_path / "flag"
    code = f"import time; open({str(flag)!r}, 'w').close(); time.sleep(600)"
    process = subprocess.Popen(
        [COMMAND, *PLAIN, "-e", code, dump.vault], env=dump.home.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while not flag.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.strip()) == (130, b"dumpvault: interrupted")


def test_an_interactive_session(dump: SealedDump, tmp_path: Path) -> None:
    """Without a script: drgn's own session on a terminal; from a pipe what it says is run."""
    ran = dump.home.run(*PLAIN, dump.vault, stdin=b"print(1233 + 1)\n")
    assert (ran.code, ran.out) == (0, "1234\n"), ran.err
    if shutil.which("script") is None:
        pytest.skip("NOT TESTED: no script(1) here")
    done = subprocess.run(
        ["script", "-qec", f"{COMMAND} {' '.join(PLAIN)} {dump.vault}", "/dev/null"], input=b"print(1233 + 1)\nexit()\n",
        env=dump.home.env | {"TERM": "dumb", "HOME": str(tmp_path)}, capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert b"1234" in done.stdout
