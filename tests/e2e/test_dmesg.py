"""``dumpvault dmesg``: the kernel log, from a few blocks, as lines and as JSON, and told when it is not whole."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.command import COMMAND, Home, make_home, seal
from support.crashed import crash, elf_core, kdump_compressed
from support.dumps import SealedDump
from support.logged import LINES, LOG, logged_core, logged_machine
from support.printk_writer import LocklessWriter, Message
from support.words import clean


def test_the_log(dump: SealedDump) -> None:
    """Line for line on standard output, nothing else; as JSON the records."""
    ran = dump.home.run("dmesg", dump.vault)
    assert (ran.code, ran.out, ran.err) == (0, LOG.decode(), "")
    told = dump.home.run("dmesg", dump.vault, "--json")
    assert told.code == 0
    assert [record["text"] for record in told.json["records"]] == [line.decode() for line in LINES]
    assert [record["nanoseconds"] for record in told.json["records"]] == [10**9 * (i + 1) for i in range(len(LINES))]
    assert (told.json["vault"], told.json["warnings"]) == (dump.vault, [])
    assert dump.home.run("dmesg", "latest").out == LOG.decode()


def test_a_kdump_compressed_dump(home: Home, tmp_path: Path) -> None:
    """Sealed as it is, and read through its own pages."""
    (tmp_path / "dump").write_bytes(kdump_compressed(logged_machine()))
    ran = home.run("dmesg", seal(home, tmp_path / "dump"))
    assert (ran.code, ran.out) == (0, LOG.decode())


def test_only_what_holds_it_is_opened(home: Home, tmp_path: Path, record_proof: Callable[[str], None]) -> None:
    """Of a dump of 64 MiB, every region that the log does not need may be damaged or gone."""
    source = tmp_path / "vmcore"
    source.write_bytes(logged_core(64 << 8))
    vault = seal(home, source, "--region-size", "1M")
    bodies = sorted((home.vaults / vault / "regions" / "1").iterdir(), key=lambda path: int(path.name.split(".")[0]))
    assert len(bodies) > 60
    for body in bodies[4:60]:
        body.chmod(0o600)
        body.write_bytes(bytes(body.stat().st_size))
    ran = home.run("dmesg", vault)
    assert (ran.code, ran.out, ran.err) == (0, LOG.decode(), "")
    if os.path.exists("/usr/bin/strace"):
        trace = tmp_path / "trace"
        subprocess.run(
            ["strace", "-f", "-y", "-e", "trace=pread64", "-o", trace, COMMAND, "dmesg", vault], env=home.env,
            capture_output=True, check=True,
        )  # fmt: skip
        reads = [
            line for line in trace.read_text(errors="replace").splitlines() if ".sealed>" in line and " = " in line
        ]
        count = sum(int(line.rsplit(" = ", 1)[1].split()[0]) for line in reads)
        sealed = sum(body.stat().st_size for body in bodies)
        assert 0 < count < sealed * 0.05
        record_proof(f"dmesg: {count} of {sealed} sealed bytes read ({100 * count / sealed:.1f} %)")


def test_a_reader_that_goes(home: Home, tmp_path: Path) -> None:
    """``dmesg | head -1`` is no error to anybody, however long the log."""
    vault = seal(home, _long(tmp_path))
    done = subprocess.run(
        f"{COMMAND} dmesg {vault} | head -1", shell=True, env=home.env, capture_output=True, text=True, check=False
    )
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    with Path("/dev/full").open("wb") as full:
        failed = subprocess.run(
            [COMMAND, "dmesg", vault], env=home.env, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert failed.stderr


def _long(folder: Path) -> Path:
    writer = LocklessWriter(12, 18)
    for i in range(3500):
        writer.log(Message(b"line %d of a long log, which does not fit a pipe" % i, i))
    (folder / "long").write_bytes(elf_core(crash(writer.structures())))
    return folder / "long"


def test_a_terminal_is_not_moved(home: Home, tmp_path: Path) -> None:
    """What a dump's log holds does not drive the analyst's terminal."""
    writer = LocklessWriter(4, 10)
    writer.log(Message(b"\x1b]0;evil\x07 \x1b[2J\xff\xfe end", 1))
    (tmp_path / "vmcore").write_bytes(elf_core(crash(writer.structures())))
    vault = seal(home, tmp_path / "vmcore")
    ours, theirs = pty.openpty()
    subprocess.run([COMMAND, "dmesg", vault], env=home.env, stdout=theirs, stderr=subprocess.PIPE, check=True)
    os.close(theirs)
    shown = os.read(ours, 65536)
    os.close(ours)
    assert b"\x1b" not in shown
    assert b"end" in shown
    assert "end" in home.run("dmesg", vault, "--json").json["records"][0]["text"]


def test_parts_of_the_log_that_are_lost_or_changed(home: Home, tmp_path: Path) -> None:
    """Each region lost in turn, then changed: the whole log, or less and exit 3, or nothing false and exit 10."""
    vault = seal(home, _long(tmp_path), "--region-size", "256K")
    whole = home.run("dmesg", vault)
    assert whole.code == 0
    seen = {"lost": set[int](), "changed": set[int]()}
    for body in sorted((home.vaults / vault / "regions" / "1").iterdir()):
        saved = body.read_bytes()
        body.unlink()
        lost = home.run("dmesg", vault)
        body.write_bytes(saved[:-1] + bytes([saved[-1] ^ 1]))  # its list of digests
        changed = home.run("dmesg", vault)
        body.write_bytes(saved)
        for what, ran in (("lost", lost), ("changed", changed)):
            seen[what].add(ran.code)
            clean(ran)
            assert (ran.out == whole.out) == (ran.code == 0)
            assert set(ran.out.splitlines()) <= set(whole.out.splitlines())
    assert seen["lost"] - {0} == {3}
    assert seen["changed"] - {0} == {10}


@pytest.mark.parametrize("option", ["--json", None])
def test_refusals(dump: SealedDump, tmp_path: Path, option: str | None) -> None:
    """No such vault, no key, an unknown option."""
    more = [option] if option else []
    assert dump.home.run("dmesg", "nope", *more).code == 2
    assert dump.home.run("dmesg", dump.vault, "--key", "nobody", *more).code == 12
    other = make_home(tmp_path / "other")
    trust = dump.home.path / "keys" / "allowed_signers"
    ran = other.run("dmesg", dump.vault, "--store", dump.home.path / "store", "--allowed-signers", trust, *more)
    assert ran.code == 12, clean(ran)
    if option:
        assert ran.json["error"]["exit_code"] == 12
    ran = other.run("dmesg", dump.vault, "--store", dump.home.path / "store", *more)
    assert ran.code == 10, "an unknown signer"
