"""The kernel log of real dumps, beside makedumpfile's reading of them."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dumpvault.errors import BadInput
from dumpvault.formats.image import Image, open_image
from dumpvault.formats.printk import format_record, kernel_log

pytestmark = pytest.mark.shared

FRAME = 64 << 10


class Watched:
    """Reads of a file by range; ``frames`` are the 64 KiB of it that were touched."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY)
        self.size = path.stat().st_size
        self.frames: set[int] = set()

    def read(self, offset: int, length: int) -> bytes:
        self.frames.update(range(offset // FRAME, (offset + max(length, 1) - 1) // FRAME + 1))
        return os.pread(self._fd, length, offset)

    def image(self) -> Image:
        return open_image(self.read, self.size)

    def log(self) -> bytes:
        told: list[str] = []
        data = b"".join(map(format_record, kernel_log(self.image(), told.append)))
        assert told == []
        return data


def makedumpfile(*arguments: object, cwd: Path) -> None:
    program = shutil.which("makedumpfile")
    if program is None:
        pytest.skip("NOT TESTED: no makedumpfile here")
    done = subprocess.run([program, *map(str, arguments)], cwd=cwd, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def unpacked(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    folder = tmp_path_factory.mktemp("real")

    def unpack(name: str) -> Path:
        source, path = shared / "cores" / f"{name}.zst", folder / name
        if not source.is_file() or shutil.which("zstd") is None:
            pytest.skip(f"NOT TESTED: needs {source} and zstd")
        if not path.exists():
            subprocess.run(["zstd", "-dq", source, "-o", path], check=True)
        return path

    yield unpack
    shutil.rmtree(folder)


X86_64 = "x86_64-proc-vmcore-256M.elf"


@pytest.fixture(scope="module")
def expected(unpacked: Callable[[str], Path]) -> bytes:
    """What makedumpfile reads in the ELF core."""
    core = unpacked(X86_64)
    makedumpfile("--dump-dmesg", core.name, "log", cwd=core.parent)
    return (core.parent / "log").read_bytes()


def test_the_elf_core(
    shared: Path, unpacked: Callable[[str], Path], expected: bytes, record_proof: Callable[[str], None]
) -> None:
    """Byte for byte as makedumpfile, from less than a hundredth of the dump."""
    core = Watched(unpacked(X86_64))
    assert core.log() == expected
    assert expected.count(b"\n") > 300
    total = -(-core.size // FRAME)
    assert len(core.frames) < total / 100
    image = core.image()
    assert (image.arch, image.endian, image.release) == ("x86_64", "little", "6.1.0-56-cloud-amd64")
    assert image.vmcoreinfo.decode() == (shared / "cores" / "x86_64-proc-vmcore-256M.vmcoreinfo.txt").read_text()
    record_proof(f"the kernel log of {X86_64}: {len(core.frames)} of {total} frames of 64 KiB touched")


@pytest.mark.parametrize("options", ["-c", "-c -d 1", "-c -d 31", "-d 31", "-E -d 31"])
def test_what_makedumpfile_makes_of_it(options: str, unpacked: Callable[[str], Path], expected: bytes) -> None:
    """kdump-compressed with zlib and raw pages, all excluded or none, and a filtered ELF core: the same log."""
    core = unpacked(X86_64)
    makedumpfile("-f", *options.split(), core.name, "made", cwd=core.parent)
    made, plain = Watched(core.parent / "made"), Watched(core)
    assert made.log() == expected
    assert len(made.frames) < -(-made.size // FRAME) / 20
    theirs, ours = made.image(), plain.image()
    assert theirs.vmcoreinfo == ours.vmcoreinfo
    held = 0
    rng = random.Random(1)
    for _ in range(2000):
        address = rng.randrange(0x1000, 0xF000000) & -8
        try:
            wanted = ours.physical(address, 64)
            found = theirs.physical(address, 64)
        except BadInput:
            continue
        held += 1
        assert found == wanted
    assert held > 100


def test_a_flattened_dump_put_together_again(unpacked: Callable[[str], Path], expected: bytes) -> None:
    """The stream itself is refused by name; what makedumpfile -R makes of it is read."""
    core = unpacked(X86_64)
    with (core.parent / "flat").open("wb") as out:
        program = shutil.which("makedumpfile") or pytest.skip("NOT TESTED: no makedumpfile here")
        subprocess.run([program, "-F", "-c", "-d", "31", core], stdout=out, stderr=subprocess.DEVNULL, check=True)
    with pytest.raises(BadInput, match="flattened"):
        Watched(core.parent / "flat").image()
    with (core.parent / "flat").open("rb") as stream:
        subprocess.run([program, "-f", "-R", "whole"], stdin=stream, cwd=core.parent, capture_output=True, check=True)
    assert Watched(core.parent / "whole").log() == expected


def test_what_is_not_read_is_named(unpacked: Callable[[str], Path]) -> None:
    """LZO pages, and a dump whose hypervisor knew no VMCOREINFO."""
    core = unpacked(X86_64)
    makedumpfile("-f", "-l", "-d", "31", core.name, "lzo", cwd=core.parent)
    with pytest.raises(BadInput, match="LZO"):
        Watched(core.parent / "lzo").image()
    image = Watched(unpacked("s390x-qemu-128M.elf")).image()
    assert (image.arch, image.endian, image.vmcoreinfo) == ("s390x", "big", b"")
    assert len(image.physical(0, 4096)) == 4096
    with pytest.raises(BadInput, match="no VMCOREINFO"):
        kernel_log(image)
