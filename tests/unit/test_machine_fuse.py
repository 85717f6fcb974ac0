"""The mounted machine: the same bytes, the same errors and the same memory as the one in this process."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dumpvault.formats import elf
from dumpvault.ranges import Ranges
from dumpvault.stages.release.phyp import PhypRelease
from support.served import served


def test_released_pages_are_noise_for_every_process(tmp_path: Path) -> None:
    """Reads are never cached: another process releases, and the next read of the same bytes is different."""
    with served(tmp_path / "machine", pages=64, seed=5) as machine:
        pristine = machine.vmcore.read_bytes()
        assert pristine == machine.twin().pristine
        assert (machine.sysfs / "kernel/release_region").read_text() == machine.twin().release_region_text()
        script = f"open({str(machine.sysfs / 'kernel/release_region')!r}, 'wb', 0).write(b'0x14000 0x3000\\n')"
        subprocess.run([sys.executable, "-c", script], check=True)
        assert machine.state()["freed"] == [20, 21, 22, 23]
        twin = machine.twin()
        after = machine.vmcore.read_bytes()
        assert after != pristine
        assert after == twin.read(0, twin.size)
        assert twin.lost([]) == [20, 21, 22, 23]
    assert not os.path.ismount(tmp_path / "machine")


def test_machine_outlives_a_killed_collector(tmp_path: Path) -> None:
    """SIGKILL in the middle of a read and after a release: memory stays as it is, and the mount ends cleanly even so."""
    with served(tmp_path / "machine", pages=64) as machine:
        script = (
            f"import os; fd = os.open({str(machine.vmcore)!r}, os.O_RDONLY)\n"
            f"open({str(machine.sysfs / 'kernel/release_region')!r}, 'wb', 0).write(b'14000 1000')\n"
            "print('released', flush=True)\n"
            "while True: os.pread(fd, 65536, 0)\n"
        )
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"released\n"
            process.kill()
        assert machine.state()["freed"] == [20, 21]
        still_open = os.open(machine.vmcore, os.O_RDONLY)
    assert not os.path.ismount(tmp_path / "machine")
    os.close(still_open)


def test_errors_are_the_kernels(tmp_path: Path) -> None:
    """EINVAL for a write without two numbers, EFAULT for a bad page: the whole read, with no count."""
    with served(tmp_path / "machine", pages=64, bad_pages=(40,)) as machine:
        with pytest.raises(OSError) as raised, open(machine.sysfs / "kernel/release_region", "wb", buffering=0) as file:
            file.write(b"0x14000\n")
        assert raised.value.errno == errno.EINVAL
        ((start, end),) = machine.twin().unreadable
        with open(machine.vmcore, "rb", buffering=0) as file:
            with pytest.raises(OSError) as raised:
                os.pread(file.fileno(), 0x4000, end - 0x4000)
            assert raised.value.errno == errno.EFAULT
            assert len(os.pread(file.fileno(), 0x2000, start - 0x2000)) == 0x2000
            assert len(os.pread(file.fileno(), 0x2000, end)) == 0x2000


def test_releaser_on_the_mounted_machine(tmp_path: Path) -> None:
    """The releaser of a capture, over real files, page after page: all of the reserve comes back, nothing is lost."""
    with served(tmp_path / "machine", pages=64, form="wrapped") as machine:
        fd = os.open(machine.vmcore, os.O_RDONLY)
        core = elf.parse(lambda offset, length: os.pread(fd, length, offset))
        assert core is not None
        heads = Ranges((part.offset, part.end) for part in core.headers + core.notes)
        path = machine.sysfs / "kernel/release_region"
        releaser = PhypRelease(str(path), core.memory, heads, hold=False)
        copy = b""
        while piece := os.pread(fd, 7 * 4096, len(copy)):
            copy += piece
            for release in releaser.due(Ranges([(0, len(copy))])):
                assert releaser.perform(release) == "released"
            assert machine.twin().lost([(0, len(copy))]) == []
        os.close(fd)
        assert copy == machine.twin().pristine
        state = machine.state()
        assert state["freed"] == list(range(16, 64))
        assert not (state["double_released"] or state["below"] or state["beyond"] or state["runaway"])


def test_fadump_takes_the_vmcore_away(tmp_path: Path) -> None:
    """After ``1`` there is no vmcore: not by name, and not through a descriptor that was open."""
    with served(tmp_path / "machine", pages=64, release="fadump") as machine:
        path = machine.sysfs / "kernel/fadump/release_mem"
        assert not (machine.sysfs / "kernel/release_region").exists()
        with open(machine.vmcore, "rb", buffering=0) as file:
            assert file.read(4) == b"\x7fELF"
            with pytest.raises(OSError):
                path.write_bytes(b"2")
            path.write_bytes(b"1")
            with pytest.raises(OSError) as raised:
                file.read(4)
            assert raised.value.errno == errno.EIO
        assert not machine.vmcore.exists()
        assert machine.state()["freed"] == list(range(16, 64))
