"""The shortest real use, through the installed command, line by line as a user pastes it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from support.command import Home
from support.vmcore import MARKER, core, memory, write_core

SCRIPT = """\
set -eu
dumpvault init
dumpvault keys new recipient analyst --unprotected
dumpvault keys new signer collector --unprotected
id=$(dumpvault capture vmcore --recipient analyst --signer collector)
dumpvault verify $id
dumpvault open $id -o copy && cmp vmcore copy
"""
PIPED = SCRIPT.replace("capture vmcore", "capture -").replace("id=$(", "id=$(cat vmcore | ")


def tell(home: Home, script: str, where: Path) -> str:
    done = subprocess.run(["bash", "-c", script], cwd=where, env=home.env, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def stored(home: Home) -> bytes:
    """All bytes of all objects."""
    return b"".join(path.read_bytes() for path in home.vaults.rglob("*") if path.is_file())


@pytest.mark.parametrize("script", [SCRIPT, PIPED], ids=["file", "pipe"])
def test_generated_core_comes_back_and_leaves_no_plaintext(tmp_path: Path, script: str) -> None:
    """Seven commands, same bytes; the marker stands in the vmcore and nowhere in the vault."""
    vmcore = write_core(tmp_path / "vmcore", pages=512)
    home = Home(tmp_path / "site")
    tell(home, script, tmp_path)
    assert vmcore.read_bytes().count(MARKER) > 3
    assert MARKER not in stored(home)


@pytest.mark.shared
@pytest.mark.parametrize("script", [SCRIPT, PIPED], ids=["file", "pipe"])
@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("x86_64-proc-vmcore-256M.elf", "354d9a65f37414ae43ec8abe9e75b60d50102396a7083b8a6d38b8e309bb8243"),
        ("s390x-qemu-128M.elf", "ed3c272e4aaafc73a1f986b8ee4e06a262e99d95626e84d0568cc713b89ccf15"),
    ],
)
def test_real_dumps(tmp_path: Path, shared: Path, name: str, digest: str, script: str) -> None:
    """A real panicked kernel and a big-endian dump come back with their known digests; planted secrets stay inside."""
    if shutil.which("zstd") is None:
        pytest.skip("NO zstd COMMAND: the real dumps are compressed")
    source = shared / "cores" / f"{name}.zst"
    subprocess.run(["zstd", "-q", "-d", str(source), "-o", str(tmp_path / "vmcore")], check=True)
    home = Home(tmp_path / "site")
    tell(home, script, tmp_path)
    assert hashlib.sha256((tmp_path / "copy").read_bytes()).hexdigest() == digest
    plain, sealed = (tmp_path / "vmcore").read_bytes(), stored(home)
    for secret in (b"SECRET-MARKER", b"password=hunter2"):
        assert secret in plain
        assert secret not in sealed


@pytest.mark.parametrize("endian", ["little", "big"])
@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("compress", ["auto", "zstd:1", "none"])
def test_every_shape_of_core(home: Home, tmp_path: Path, bits: int, endian: str, compress: str) -> None:
    """ELF32 and ELF64, both byte orders, many notes, program headers away from the start, each codec."""
    data = core(memory(100, seed=bits), bits=bits, endian=endian, notes=70, phoff=192)
    (tmp_path / "vmcore").write_bytes(data)
    ran = home.call(
        "capture", tmp_path / "vmcore", "--recipient", "analyst", "--signer", "collector",
        "--compress", compress, "--region-size", "64K",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert home.call("open", ran.out.strip(), "-o", tmp_path / "copy").code == 0
    assert (tmp_path / "copy").read_bytes() == data
    assert home.call("info", ran.out.strip(), "--json").json["source_kind"] == f"elf {bits}-bit {endian}-endian"


def test_streaming_output(home: Home, tmp_path: Path) -> None:
    """``open -o -`` writes the same bytes in order."""
    vmcore = write_core(tmp_path / "vmcore", pages=300)
    ran = home.run("capture", vmcore, "--recipient", "analyst", "--signer", "collector", "--region-size", "128K")
    done = subprocess.run(
        [str(shutil.which("dumpvault", path=home.env["PATH"])), "open", ran.out.strip(), "-o", "-"],
        env=home.env, capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout == vmcore.read_bytes()


def test_stock_ssh_keygen_verifies_the_manifest(home: Home, tmp_path: Path) -> None:
    """An auditor needs nothing of dumpvault: OpenSSH says Good, and says no to a changed manifest."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("NO ssh-keygen COMMAND")
    ran = home.call("capture", write_core(tmp_path / "vmcore"), "--recipient", "analyst", "--signer", "collector")
    vault = home.vaults / ran.out.strip()
    command = ["ssh-keygen", "-Y", "verify", "-f", home.path / "keys" / "allowed_signers", "-I", "collector"]
    command += ["-n", "dumpvault-manifest@v1", "-s", vault / "manifest.json.sig"]
    manifest = (vault / "manifest.json").read_bytes()
    good = subprocess.run(command, input=manifest, capture_output=True, check=False)
    assert good.returncode == 0
    assert good.stdout.startswith(b'Good "dumpvault-manifest@v1" signature for collector')
    bad = subprocess.run(
        command, input=manifest.replace(b'"regions":', b'"regionz":'), capture_output=True, check=False
    )
    assert bad.returncode != 0
