"""Bad sources of every kind: what there is gets sealed, certified for what it is, and comes back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.command import COMMAND, Home
from support.vmcore import core, memory
from support.words import clean

ARGUMENTS = ("--recipient", "analyst", "--signer", "collector")


@pytest.mark.parametrize("keep", [10, 40, 63, 100, 5000, 12288, 20480, 100000])
@pytest.mark.parametrize("piped", [False, True], ids=["file", "pipe"])
def test_truncated_core(home: Home, tmp_path: Path, keep: int, piped: bool) -> None:
    """A core that was cut anywhere is sealed, certified as truncated (exit 3), and what there is comes back."""
    data = core(memory(64), notes=2)[:keep]
    (tmp_path / "cut").write_bytes(data)
    ran = home.run("capture", "-" if piped else tmp_path / "cut", *ARGUMENTS, stdin=data if piped else None)
    assert ran.code == 3, clean(ran)
    vault = ran.out.strip()
    assert home.call("open", vault, "-o", tmp_path / "copy").code == 3
    assert not (tmp_path / "copy").exists()
    assert home.call("open", vault, "-o", tmp_path / "copy", "--partial").code == 3
    assert (tmp_path / "copy").read_bytes() == data


@pytest.mark.parametrize(("at", "value"), [
    (32, (1 << 63).to_bytes(8, "little")), (32, ((1 << 64) - 1).to_bytes(8, "little")), (32, (1 << 40).to_bytes(8, "little")),
    (56, b"\xff\xff"), (54, b"\x01\x00"), (64 + 32, (1 << 63).to_bytes(8, "little")),
])  # fmt: skip
def test_headers_that_cannot_be_true(home: Home, tmp_path: Path, at: int, value: bytes) -> None:
    """Offsets past the end, 2^40 segments, absurd sizes: nothing is allocated by them, and all bytes are sealed."""
    data = bytearray(core(memory(16)))
    data[at : at + len(value)] = value
    if value == b"\xff\xff":  # PN_XNUM: section 0 counts 2^32 - 1 program headers
        data[40:48] = (64).to_bytes(8, "little")
        data[64 + 44 : 64 + 48] = b"\xff" * 4
    (tmp_path / "odd").write_bytes(data)
    ran = home.run("capture", tmp_path / "odd", *ARGUMENTS)
    assert ran.code == 3, clean(ran)
    assert "note:" in clean(ran) or "ended" in clean(ran)
    assert home.call("open", ran.out.strip(), "-o", tmp_path / "copy", "--partial").code == 3
    assert (tmp_path / "copy").read_bytes() == bytes(data)


def test_many_segments_through_a_pipe(home: Home, tmp_path: Path) -> None:
    """Program headers beyond what is looked at on a pipe make it opaque, not truncated."""
    from dumpvault.formats import elf

    segments = [(elf.PT_LOAD, 8 << 20, 0, 4096)] * 80000
    data = elf.write_headers(segments).ljust(8 << 20, b"\0") + bytes(4096)
    ran = home.run("capture", "-", *ARGUMENTS, stdin=data)
    assert ran.code == 0, clean(ran)
    assert "note:" in ran.err
    (tmp_path / "file").write_bytes(data)
    ran = home.run("capture", tmp_path / "file", *ARGUMENTS)
    assert ran.code == 0, clean(ran)
    assert home.call("info", ran.out.strip(), "--json").json["source_kind"].startswith("elf")


@pytest.mark.parametrize("kind", ["missing", "directory", "empty", "empty pipe", "null"])
def test_no_source(home: Home, tmp_path: Path, kind: str) -> None:
    """Nothing to capture: exit 1, the name, and no vault."""
    (tmp_path / "empty").touch()
    path = {"missing": tmp_path / "no", "directory": tmp_path, "empty": tmp_path / "empty", "null": "/dev/null"}.get(
        kind, "-"
    )
    ran = home.run("capture", path, *ARGUMENTS, stdin=b"")
    assert ran.code == 1
    assert ("standard input" if path == "-" else str(path)) in clean(ran)
    assert not home.vaults.exists()


def test_a_file_that_shrinks_while_it_is_read(home: Home, tmp_path: Path) -> None:
    """What was there is sealed and certified as truncated."""
    path = tmp_path / "shrinking"
    path.write_bytes(os.urandom(8 << 20))
    script = (
        "import sys\nfrom dumpvault.stages import source\nread = source.Source.read\n"
        "def cut(self, offset, view, stop):\n"
        "    if offset >= 3 << 20:\n        import os\n        os.truncate(sys.argv[2], 3 << 20)\n"
        "    return read(self, offset, view, stop)\n"
        "source.Source.read = cut\nfrom dumpvault.cli import main\nmain(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "capture", path, *ARGUMENTS, "--region-size", "1M", "--jobs", "1"],
        env=home.env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert home.call("open", done.stdout.strip(), "-o", tmp_path / "copy", "--partial").code == 3
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


def test_a_file_that_is_written_to_while_it_is_read(home: Home, tmp_path: Path) -> None:
    """It is sealed with a warning: such a dump is of no single moment."""
    path = tmp_path / "growing"
    path.write_bytes(bytes(1 << 20))
    script = (
        "import sys\nfrom dumpvault.stages import source\nread = source.Source.read\n"
        "def grow(self, offset, view, stop):\n"
        "    open(sys.argv[2], 'ab').write(b'x')\n    return read(self, offset, view, stop)\n"
        "source.Source.read = grow\nfrom dumpvault.cli import main\nmain(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "capture", path, *ARGUMENTS],
        env=home.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "written to while" in done.stderr


def test_a_name_that_is_no_text(home: Home, tmp_path: Path) -> None:
    """File and host names of any bytes are captured; the header shows them escaped."""
    path = os.fsencode(tmp_path) + b"/f\xff"
    Path(os.fsdecode(path)).write_bytes(b"x" * 5000)
    done = subprocess.run(
        [COMMAND, "capture", path, *ARGUMENTS[:2], "--signer", "collector", "--host", b"h\xff"],
        env=home.env, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = home.call("info", done.stdout.decode().strip(), "--json").json
    assert facts["source"].endswith("f\\xff")
    assert facts["host"] == "h\\xff"


def test_the_rest_of_a_file_on_standard_input(home: Home, tmp_path: Path) -> None:
    """A file on standard input that somebody has read from is sealed from there on."""
    (tmp_path / "file").write_bytes(bytes(range(256)) * 64)
    with (tmp_path / "file").open("rb", buffering=0) as file:
        file.read(1000)
        done = subprocess.run(
            [COMMAND, "capture", "-", *ARGUMENTS], env=home.env, stdin=file, capture_output=True, check=True
        )
    assert home.call("open", done.stdout.decode().strip(), "-o", tmp_path / "copy").code == 0
    assert (tmp_path / "copy").read_bytes() == (bytes(range(256)) * 64)[1000:]
