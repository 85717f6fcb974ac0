"""Flattened streams through the installed command: the stream comes back bit for bit, its dump is read from the indexes."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from dumpvault.errors import Forged, Incomplete
from dumpvault.flows.site import Site
from dumpvault.formats.flattened import Reassembled
from support import flat
from support.command import COMMAND, Home
from support.words import clean

ARGUMENTS = ("--recipient", "analyst", "--signer", "collector")
PIECES = flat.like_makedumpfile(3 << 20)
STREAM, DUMP = flat.stream(PIECES), flat.dump(PIECES)


def site(home: Home) -> Site:
    return Site.load(home.env)


def opens_to(home: Home, vault: str, data: bytes, folder: Path, *more: str, code: int = 0) -> None:
    ran = home.run("open", vault, "-o", folder / "copy", *more)
    assert ran.code == code, clean(ran)
    assert (folder / "copy").read_bytes() == data


def reads_what_is_known(dump: Reassembled, expected: bytes, mask: bytearray) -> None:
    """Every page that records wrote whole, and no other, is read."""
    assert dump.size == len(expected)
    for at in range(0, len(expected), 4096):
        if all(mask[at : at + 4096]):
            assert dump.read(at, 4096) == expected[at : at + 4096]
        else:
            with pytest.raises(Incomplete):
                dump.read(at, 4096)


@pytest.mark.parametrize("compress", ["none", "zstd:1", "auto"])
@pytest.mark.parametrize("how", ["pipe", "file"])
def test_a_flattened_stream_is_sealed_with_its_index(home: Home, tmp_path: Path, how: str, compress: str) -> None:
    """From a pipe or a file, by several threads, in small regions: open gives the stream, verify holds, and the indexes
    give the dump, at any place."""
    (tmp_path / "flat").write_bytes(STREAM)
    ran = home.run(
        "capture", "-" if how == "pipe" else tmp_path / "flat", *ARGUMENTS, "--compress", compress,
        "--region-size", "128K", "--jobs", "3", stdin=STREAM if how == "pipe" else None,
    )  # fmt: skip
    assert ran.code == 0, clean(ran)
    vault = ran.out.strip()
    assert home.run("verify", vault).code == 0
    opens_to(home, vault, STREAM, tmp_path)
    dump = flat.ranged(site(home), vault)
    assert (dump.whole, dump.size) == (True, len(DUMP))
    assert dump.read(0, 1 << 30) == DUMP
    rng = random.Random(0)
    for _ in range(200):
        at, length = rng.randrange(len(DUMP)), rng.randrange(70_000)
        assert dump.read(at, length) == DUMP[at : at + length]


@pytest.mark.parametrize("how", ["pipe", "file"])
@pytest.mark.parametrize("cut", [16, 17, 4096, 4100, 300_000, len(STREAM) - 4096, len(STREAM) - 4106])
def test_a_stream_that_breaks_off_is_truncated(home: Home, tmp_path: Path, how: str, cut: int) -> None:
    """Cut before its end record, in one, in data, in its header: truncated (exit 3), opened bit for bit, and its dump is
    what there is, never zeros for what there is not."""
    data = STREAM[:-cut]
    (tmp_path / "flat").write_bytes(data)
    source = "-" if how == "pipe" else tmp_path / "flat"
    ran = home.run("capture", source, *ARGUMENTS, "--region-size", "64K", stdin=data if how == "pipe" else None)
    assert ran.code == 3, clean(ran)
    assert home.call("verify", ran.out.strip()).code == 3
    opens_to(home, ran.out.strip(), data, tmp_path, "--partial", code=3)
    dump = flat.ranged(site(home), ran.out.strip())
    assert not dump.whole
    reads_what_is_known(dump, *flat.known(data))


@pytest.mark.parametrize(
    "data",
    [
        STREAM + b"\n",
        STREAM + STREAM,
        flat.stream([(0, b"x" * 5000)], flat.record(1 << 62, b"y") + flat.END_RECORD),
    ],
    ids=["a byte", "a second stream", "a target of 2^62"],
)
def test_odd_streams_with_an_end(home: Home, tmp_path: Path, data: bytes) -> None:
    """Whatever follows the end record is sealed with the stream and is no part of the dump; targets may be anywhere."""
    ran = home.run("capture", "-", *ARGUMENTS, "--region-size", "64K", stdin=data)
    assert ran.code == 0, clean(ran)
    opens_to(home, ran.out.strip(), data, tmp_path)
    dump = flat.ranged(site(home), ran.out.strip())
    assert dump.whole
    if data.startswith(STREAM):
        assert dump.read(0, 1 << 30) == DUMP
    else:
        assert (dump.size, dump.read(dump.size - 3, 9), dump.read(4998, 4)) == (2**62 + 1, b"\0\0y", b"xx\0\0")


@pytest.mark.parametrize(
    "bad",
    [bytes(16), b"\xff" * 8 + bytes(8), bytes(8) + b"\x7f" + b"\xff" * 7, b"\x80" + bytes(14) + b"\1"],
    ids=["no length", "half an end", "an absurd length", "a negative target"],
)
def test_broken_streams(home: Home, tmp_path: Path, bad: bytes) -> None:
    """Lengths of zero, absurd lengths, negative offsets: sealed whole, certified as truncated, what came before is known."""
    data = flat.stream([(0, b"x" * 70_000)], bad + b"z" * 100_000 + flat.END_RECORD)
    ran = home.run("capture", "-", *ARGUMENTS, "--region-size", "64K", stdin=data)
    assert ran.code == 3, clean(ran)
    opens_to(home, ran.out.strip(), data, tmp_path, "--partial", code=3)
    dump = flat.ranged(site(home), ran.out.strip())
    assert (dump.whole, dump.read(0, 1 << 30)) == (False, flat.known(data)[0])


def test_too_many_records_for_an_index(home: Home, tmp_path: Path) -> None:
    """A region of tiny records has no index: the stream comes back all the same, the dump is refused."""
    data = flat.stream([(i, b"!") for i in range(70_000)] + [(9, b"?" * 100_000)])
    ran = home.run("capture", "-", *ARGUMENTS, stdin=data)
    assert ran.code == 0, clean(ran)
    opens_to(home, ran.out.strip(), data, tmp_path)
    with pytest.raises(Incomplete, match="too many records"):
        flat.ranged(site(home), ran.out.strip())


def test_a_lost_region_is_not_zeros(home: Home, tmp_path: Path) -> None:
    """Of a vault that lost a region, what the others wrote is read; the rest is an error that says so."""
    ran = home.run("capture", "-", *ARGUMENTS, "--region-size", "128K", "--compress", "none", stdin=STREAM)
    vault = ran.out.strip()
    (home.vaults / vault / "regions" / "1" / "7.sealed").unlink()
    dump = flat.ranged(site(home), vault)
    assert not dump.whole
    expected, mask = flat.known(STREAM, range(7 << 17, 8 << 17))
    lost = len(flat.known(STREAM)[0]) - sum(mask)
    assert lost >= 100_000
    reads_what_is_known(dump, expected, mask)


def test_a_tampered_region_is_no_zeros_either(home: Home) -> None:
    """A byte changed in a sealed region is an authentication error to whoever reads over it."""
    ran = home.run("capture", "-", *ARGUMENTS, "--region-size", "512K", "--compress", "none", stdin=STREAM)
    path = home.vaults / ran.out.strip() / "regions" / "1" / "1.sealed"
    dump = flat.ranged(site(home), ran.out.strip())
    data = bytearray(path.read_bytes())
    data[70_000] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    with pytest.raises(Forged, match=r"regions/1/1\.sealed"):
        dump.read(0, dump.size)


@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_the_vectors_open_and_reassemble(home: Home, tmp_path: Path, codec: str) -> None:
    """The vectors of the format: the stream, and the dump that it describes."""
    case = Path(__file__).parents[1] / "vectors" / f"flattened-x25519-{codec}"
    trust = site(home).trust
    shutil.copytree(case / "store", home.path / "store", dirs_exist_ok=True)
    shutil.copy(case / "allowed_signers", trust.allowed_signers_path)
    shutil.copy(case / "recipient.key", trust.private_path("vector"))
    Path(trust.private_path("vector")).chmod(0o600)
    vault = json.loads((case / "case.json").read_text())["vault"]
    opens_to(home, vault, (case / "source").read_bytes(), tmp_path)
    dump = flat.ranged(site(home), vault)
    assert dump.whole
    assert dump.read(0, 1 << 30) == (case / "dump").read_bytes()


def test_a_flattened_file_is_not_resumed(home: Home, tmp_path: Path) -> None:
    """Like any file without notes to know it by: a second run begins a new vault, and --resume says why not."""
    (tmp_path / "flat").write_bytes(STREAM)
    first = home.run("capture", tmp_path / "flat", *ARGUMENTS, "--region-size", "64K")
    vault = first.out.strip()
    for name in ("manifest.dsse.json", "manifest.json", "manifest.json.sig"):
        (home.vaults / vault / name).unlink()
    resumed = home.run("capture", tmp_path / "flat", *ARGUMENTS, "--resume", vault)
    assert resumed.code == 2
    assert "cannot be resumed" in clean(resumed)
    again = home.run("capture", tmp_path / "flat", *ARGUMENTS)
    assert again.code == 0
    assert again.out.strip() != vault
    opens_to(home, again.out.strip(), STREAM, tmp_path)


@pytest.mark.parametrize("options", [("-d", "31"), ("-c", "-d", "1"), ("-E", "-d", "1")], ids="".join)
@pytest.mark.shared
def test_makedumpfile_of_a_real_dump(home: Home, shared: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    """makedumpfile -F of a real vmcore into capture, as sites do it: the reassembled dump is that of makedumpfile -R."""
    core = shared / "cores" / "x86_64-proc-vmcore-256M.elf.zst"
    if not core.is_file() or not shutil.which("makedumpfile") or not shutil.which("zstd"):
        pytest.skip(f"NOT TESTED: needs {core}, makedumpfile and zstd")
    subprocess.run(["zstd", "-q", "-d", core, "-o", tmp_path / "vmcore"], check=True)
    with (tmp_path / "flat").open("wb") as out:
        made = ["makedumpfile", "-F", *options, tmp_path / "vmcore"]
        subprocess.run(made, stdout=out, stderr=subprocess.DEVNULL, check=True)
    with (tmp_path / "flat").open("rb") as stream:
        subprocess.run(["makedumpfile", "-R", tmp_path / "dump"], stdin=stream, capture_output=True, check=True)
    pipe = f"set -o pipefail; cat {tmp_path}/flat | {COMMAND} capture - --region-size 8M {' '.join(ARGUMENTS)}"
    done = subprocess.run(["bash", "-c", pipe], env=home.env, capture_output=True, text=True, check=True)
    vault = done.stdout.strip()
    assert home.run("open", vault, "-o", tmp_path / "copy").code == 0
    assert subprocess.run(["cmp", tmp_path / "copy", tmp_path / "flat"], check=False).returncode == 0
    dump = flat.ranged(site(home), vault)
    assert dump.whole
    assert dump.size == os.path.getsize(tmp_path / "dump")
    with (tmp_path / "dump").open("rb") as file:
        for at in range(0, dump.size, 1 << 20):
            assert dump.read(at, 1 << 20) == file.read(1 << 20), hex(at)
