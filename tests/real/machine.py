"""A machine that crashes: boot under QEMU, panic, capture in the crash kernel, and what came of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from real.cache import run, tool
from real.initramfs import archive, collector_root
from real.rootfs import Platform, ext4

__all__ = ["PPC64LE", "X86_64", "Crash", "Machine", "Step", "boot"]

Layout = Literal["disk", "initramfs"]
_MIB = 1 << 20
_LINE = re.compile(r"^REAL (\w+)((?: \w+=\S*)*)\s*$", re.MULTILINE)
_PREPARING = threading.Lock()
_DEATH = re.compile(
    r"^.*(?:invoked oom-killer|Out of memory|Initramfs unpacking failed|Kernel panic - ).*$", re.MULTILINE
)


@dataclass(frozen=True)
class Machine:
    """How QEMU plays one kind of machine, and how much memory it has."""

    platform: Platform
    program: str
    package: str
    options: tuple[str, ...]
    console: str
    memory_mib: int


X86_64 = Machine(
    Platform("amd64", "linux-image-cloud-amd64", "x86_64"),
    "qemu-system-x86_64", "qemu-system-x86", ("-machine", "q35", "-cpu", "max"), "ttyS0", 512,
)  # fmt: skip
PPC64LE = Machine(
    Platform("ppc64el", "linux-image-powerpc64le", "ppc64le", ("pynacl",)),
    "qemu-system-ppc64", "qemu-system-ppc",
    ("-machine", "pseries,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off", "-cpu", "POWER9"),
    "hvc0", 512,
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One thing that the crash kernel did. Memory in KiB; ``peak_kib`` is the collector's maximum resident set."""

    name: str
    code: int
    seconds: float
    idle_kib: int
    lowest_kib: int
    peak_kib: int | None
    vault: str | None


@dataclass(frozen=True)
class Crash:
    """What is left of a machine that crashed and was switched off: two disks and its console."""

    machine: Machine
    layout: Layout
    reserved_mib: int
    folder: Path
    console: str
    vmcore_size: int
    memory_kib: int
    #: Physical addresses that were set aside for the crash kernel.
    reserved: range
    #: SHA-256 of what makedumpfile wrote into the pipe.
    stream: str
    steps: dict[str, Step] = field(default_factory=dict)

    @property
    def plain(self) -> Path:
        """What ``dd`` read from /proc/vmcore."""
        return self.folder / "plain"

    @property
    def store_disk(self) -> Path:
        return self.folder / "store.ext4"

    @property
    def ended(self) -> bool:
        """Whether the crash kernel came to its own end."""
        return bool(re.search(r"^REAL done", self.console, re.MULTILINE))

    @property
    def faults(self) -> list[str]:
        """What went wrong, in the guest's own words."""
        said = [m[0].strip() for m in _LINE.finditer(self.console) if m[1] == "fault"]
        deaths = [m[0].strip() for m in _DEATH.finditer(self.console) if "sysrq triggered crash" not in m[0]]
        return [*said, *deaths]

    def take_store(self) -> Path:
        """The store's files, out of its file system as a mount would find them: journal replayed, no error left."""
        into = self.folder / "store"
        if not into.exists():
            # Exit code 1: what a journal replay corrects is corrected.
            done = subprocess.run(
                [tool("e2fsck", "e2fsprogs"), "-p", str(self.store_disk)], capture_output=True, check=False
            )
            assert done.returncode in (0, 1), done.stdout.decode() + done.stderr.decode()
            run(tool("e2fsck", "e2fsprogs"), "-f", "-n", self.store_disk)
            into.mkdir()
            run(tool("debugfs", "e2fsprogs"), "-R", f'rdump / "{into}"', self.store_disk)
        return into


def boot(
    machine: Machine,
    layout: Layout,
    reserved_mib: int,
    steps: tuple[str, ...],
    site: Path,
    folder: Path,
    host: str,
    limit: float,
) -> Crash:
    """Crash a machine with ``crashkernel=<reserved_mib>M`` and let its crash kernel take ``steps``.

    ``site`` goes into the crash kernel's initramfs as /etc/dumpvault; ``folder`` gets the disks and the console. After
    ``limit`` seconds, many times what it takes, the machine is hung and switched off.
    """
    command = [tool(machine.program, machine.package), *machine.options]
    with _PREPARING:  # two machines have parts in common
        command += _prepare(machine, layout, site, folder, host)
    words = f"console={machine.console} panic=-1 crashkernel={reserved_mib}M real.console=console={machine.console}"
    words += f" real.layout={layout} real.steps={'+'.join(steps)}"
    command += [
        "-accel",
        "tcg,thread=multi",
        "-m",
        f"{machine.memory_mib}",
        "-smp",
        "1",
        "-nodefaults",
        "-no-user-config",
    ]
    command += ["-display", "none", "-no-reboot", "-serial", f"file:{folder}/console", "-append", words]
    with suppress(subprocess.TimeoutExpired):  # the console says how far it came
        subprocess.run(command, check=True, capture_output=True, timeout=limit)
    console = (folder / "console").read_text(errors="replace").replace("\r", "")
    crash = _read(machine, layout, reserved_mib, folder, console)
    os.truncate(crash.plain, crash.vmcore_size)
    return crash


def _prepare(machine: Machine, layout: Layout, site: Path, folder: Path, host: str) -> list[str]:
    """Everything that the machine boots from, in ``folder``; QEMU's words for it."""
    platform = machine.platform
    name = folder / "name"
    _write(name / "etc/hostname", f"{host}\n")
    drives = [_drive(folder / "plain"), _drive(folder / "store.ext4")]
    if layout == "disk":
        ext4(folder / "root.ext4", 160, platform.root)
        drives.append(_drive(folder / "root.ext4", "readonly=on"))
        crash_trees = [platform.small]
    else:
        crash_trees = [platform.small, collector_root(platform, site, host)]
    first = folder / "tree"
    first.mkdir()
    (first / "initrd").write_bytes(archive(*crash_trees, name, site, compress=True))
    shutil.copy2(platform.kernel, first / "kernel")
    ext4(folder / "first.ext4", 160, first)
    drives.append(_drive(folder / "first.ext4", "readonly=on"))
    (folder / "initrd").write_bytes(archive(platform.small, platform.kexec))
    with (folder / "plain").open("wb") as file:
        file.truncate((machine.memory_mib + 64) * _MIB)
    ext4(folder / "store.ext4", 2 * machine.memory_mib)
    boot_from = ["-kernel", str(platform.kernel), "-initrd", str(folder / "initrd")]
    return [*boot_from, *(word for drive in drives for word in drive)]


def _read(machine: Machine, layout: Layout, reserved_mib: int, folder: Path, console: str) -> Crash:
    lines = [(m[1], dict(word.split("=", 1) for word in m[2].split())) for m in _LINE.finditer(console)]
    size, memory, reserved, stream, steps = 0, 0, range(0), "", {}
    for word, facts in lines:
        if word == "boot":
            memory = int(facts["memory_kb"])
        elif word == "crashed":
            size = int(facts["vmcore"])
        elif word == "stream":
            stream = facts["sha256"]
        elif word == "reserved":
            base = int(facts["base"] or "0", 16)
            reserved = range(base, base + int(facts["bytes"]))
        elif word == "step":
            steps[facts["name"]] = Step(
                name=facts["name"],
                code=int(facts["code"]),
                seconds=float(facts["end"]) - float(facts["start"]),
                idle_kib=int(facts["idle_kb"]),
                lowest_kib=int(facts["lowest_kb"]),
                peak_kib=int(facts["peak_kb"]) if facts["peak_kb"].isdigit() else None,
                vault=facts["vault"] or None,
            )
    return Crash(machine, layout, reserved_mib, folder, console, size, memory, reserved, stream, steps)


def _drive(image: Path, *options: str) -> list[str]:
    """QEMU's words for a virtio disk whose serial number is the file's name up to the dot."""
    name = image.name.partition(".")[0]
    drive = ",".join(["if=none", f"id={name}", "format=raw", f"file={image}", "cache=unsafe", *options])
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive={name},serial={name}"]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
