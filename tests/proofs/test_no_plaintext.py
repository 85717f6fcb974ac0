"""No opened memory reaches a disk: every file system that a reader of a vault can write to is one image, which is searched
raw afterwards, freed blocks and journal included; so is a swap file that is on meanwhile, under memory pressure.

The control is ``dumpvault open``, which does write the dump: there the same search finds it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support.command import Home, make_home, seal
from support.logged import logged_core
from support.vmcore import MARKER

WORD = MARKER[:13]
IMAGE_MIB = 192
SETUP = """
set -e
mount --make-rprivate /
mkdir -p "$W/root"
mount "$DEVICE" "$W/root"
mkdir -p "$W/root/tmp" "$W/root/run" "$W/root/home" "$W/root/site"
cp -a "$SITE/." "$W/root/site"
cp "$W/hold.py" "$W/root" 2>/dev/null || true
for place in /dev/shm /dev/mqueue; do mountpoint -q $place && mount -o remount,ro,bind $place || true; done
mount --bind "$W/root/tmp" /var/tmp
mount --bind "$W/root/run" /run
mount --rbind "$W/root" "$SITE"
mount -o remount,ro,bind /
cd "$SITE"
export TMPDIR="$SITE/tmp" HOME="$SITE/home" XDG_RUNTIME_DIR="$SITE/run" DUMPVAULT_HOME="$SITE/site"
eval "$STEPS"
cd /
sync
"""


@dataclass
class Bench:
    """A site with one sealed dump, and steps run where the only writable file system is an image."""

    home: Home
    vault: str
    source: Path
    work: Path
    count: int = 0
    ran: list[str] = field(default_factory=list)

    def found_after(self, steps: str, *, group: str = "") -> int:
        """How often the marker stands in the raw image after ``steps``, shell commands that must succeed."""
        self.count += 1
        image = self.work / f"image{self.count}"
        with image.open("wb") as file:
            file.truncate(IMAGE_MIB << 20)
        # data=journal would be slower and no stricter: what is written reaches the image either way.
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,nodiscard", image], check=True)
        # Attached out here: in there its backing file would keep the root file system from being read only.
        losetup = subprocess.run(["losetup", "-f", "--show", image], capture_output=True, text=True, check=True)
        device = losetup.stdout.strip()
        env = self.home.env | {"W": str(self.work), "DEVICE": device, "SITE": str(self.home.path), "STEPS": steps}
        env |= {"VAULT": self.vault, "GROUP": group}
        try:
            done = subprocess.run(
                ["unshare", "-m", "sh", "-c", SETUP], env=env, capture_output=True, text=True, check=False
            )
            subprocess.run(["blockdev", "--flushbufs", device], check=True)
        finally:
            subprocess.run(["losetup", "-d", device], check=True)
        assert done.returncode == 0, done.stderr + done.stdout
        self.ran.append(done.stdout)
        found = occurrences(image)
        image.unlink()
        return found


def occurrences(path: Path) -> int:
    """Of the marker's beginning in a file's raw bytes, across any boundary."""
    count, tail = 0, b""
    with path.open("rb") as file:
        while piece := file.read(8 << 20):
            count += (tail + piece).count(WORD)
            tail = piece[-len(WORD) + 1 :]
    return count


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    for program in ("unshare", "mkfs.ext4", "mount", "losetup", "blockdev"):
        if shutil.which(program) is None:
            pytest.skip(f"NOT TESTED: no {program} here")
    if os.geteuid() or not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
        pytest.skip("NOT TESTED: needs root, /dev/fuse and loop devices")
    work = tmp_path_factory.mktemp("plaintext")
    home = make_home(work / "site")
    source = work / "vmcore"
    source.write_bytes(logged_core(8192))
    assert source.read_bytes().count(MARKER) > 50
    yield Bench(home, seal(home, source, "--region-size", "1M"), source, work)


# The word itself stands in none of these: the shell that holds them is not locked in memory.
MOUNT = """
mkdir m
{join}dumpvault mount "$VAULT" m --json {options} > ready 2> told &
until grep -q '^}}' ready; do kill -0 $! || exit 9; sleep 0.05; done
for name in m/*; do cat "$name" > /dev/null; done
grep -c SECRET.MARKER m/vmcore
{inside}
kill -INT $!
wait $!
"""
STARTS = "range(0x10000000, 0x12000000, 1 << 20)"
READ = f"print(sum(prog.read(at, 1 << 20, True).count(b'SECRET' + b'-MARKER') for at in {STARTS}))"
STEPS = {
    "mount": MOUNT.format(join="", options="", inside=":"),
    "mount --no-page-cache": MOUNT.format(join="", options="--no-page-cache", inside=":"),
    "mount, killed": MOUNT.format(join="", options="", inside="kill -KILL $!; wait $! || umount -l m; exit 0"),
    "drgn": f'dumpvault drgn --no-default-symbols -e "{READ}" "$VAULT"',
    "dmesg": 'dumpvault dmesg "$VAULT" | grep -c SECRET.MARKER; dumpvault dmesg "$VAULT" --json | grep -c SECRET.MARKER',
}


@pytest.mark.parametrize("what", STEPS)
def test_no_plaintext_on_the_file_system(bench: Bench, what: str, record_proof: Callable[[str], None]) -> None:
    """Everything is read, the marker is seen by the reader, and stands nowhere on the one file system it could write."""
    if what == "drgn":
        pytest.importorskip("drgn")
    found = bench.found_after(STEPS[what])
    seen = sum(int(line) for line in bench.ran[-1].split() if line.isdigit())
    assert seen > 0, "the reader read the marker"
    assert found == 0
    record_proof(
        f"no plaintext: {what}: the reader saw the marker {seen} times, {found} times on its {IMAGE_MIB} MiB file system"
    )


def test_the_search_finds_what_is_written(bench: Bench, record_proof: Callable[[str], None]) -> None:
    """The control: ``open`` writes the dump; it is found there, and after its removal still in the freed blocks."""
    expected = bench.source.read_bytes().count(WORD)
    assert bench.found_after('dumpvault open "$VAULT" -o copy') >= expected
    removed = bench.found_after('dumpvault open "$VAULT" -o copy; sync; rm copy')
    assert removed > 0
    record_proof(
        f"no plaintext, the control: after open the marker is found {expected} times and more, {removed} after rm"
    )


# --- swap ------------------------------------------------------------------------------------------------------------

# Into the group go the commands and what presses on them; cat and grep, which do not lock what they read, stay outside.
JOIN = """sh -c 'echo $$ > "$GROUP/cgroup.procs" && exec "$@"' - """
PRESS = """
import sys
pages = bytearray(int(sys.argv[1]) << 20)
for turn in range(2):
    for at in range(0, len(pages), 4096): pages[at] = turn + 1
"""
HOLD = """
import sys
held = [b"SECRET-" + b"MARKER-%08d" % i + bytes(4000) for i in range(4096)]
pages = bytearray(int(sys.argv[1]) << 20)
for turn in range(2):
    for at in range(0, len(pages), 4096): pages[at] = turn + 1
"""


@pytest.fixture
def swap(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A swap file that is on, and a memory cgroup of 150 MiB; both gone afterwards."""
    base = Path("/sys/fs/cgroup/memory")
    v2 = Path("/sys/fs/cgroup/cgroup.controllers")
    if not base.is_dir() and not (v2.is_file() and "memory" in v2.read_text()):
        pytest.skip("NOT TESTED: no memory cgroup here")
    group = (base if base.is_dir() else v2.parent) / f"dumpvault-test-{os.getpid()}"
    file = tmp_path / "swap"
    with file.open("wb") as out:
        out.write(bytes(256 << 20))
    file.chmod(0o600)
    subprocess.run(["mkswap", file], capture_output=True, check=True)
    if subprocess.run(["swapon", file], capture_output=True, check=False).returncode:
        pytest.skip("NOT TESTED: no swap file can be turned on here")
    try:
        try:
            group.mkdir()
            (group / ("memory.limit_in_bytes" if base.is_dir() else "memory.max")).write_text(str(150 << 20))
        except OSError as error:
            pytest.skip(f"NOT TESTED: no memory cgroup can be made here: {error}")
        yield file, group
    finally:
        subprocess.run(["swapoff", file], check=True)
        if group.is_dir():
            group.rmdir()


def press(group: Path, program: str, mib: int) -> None:
    """Run ``program`` in the group, more memory than it has room for; swapped bytes stay in the file."""
    subprocess.run(
        ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', group, sys.executable, "-c", program, str(mib)],
        check=False,
    )


def raw(file: Path) -> list[bytes]:
    """What stands around each marker in the swap's bytes on the disk: the page cache of the file knows of no swapping."""
    with file.open("rb") as data:
        os.fsync(data.fileno())
        os.posix_fadvise(data.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        content = data.read()
    return [content[max(0, hit.start() - 200) : hit.start() + 100] for hit in re.finditer(re.escape(WORD), content)]


def test_no_plaintext_in_swap(bench: Bench, swap: tuple[Path, Path], record_proof: Callable[[str], None]) -> None:
    """mount, drgn and dmesg hold opened memory while everything else of their group is swapped out; theirs is not."""
    file, group = swap
    # The group may have no room for all of it beside what is locked; then the kernel ends what presses.
    hog = f"{{ {JOIN}{sys.executable} -c '{PRESS}' 130 || true; }}"
    mounted = MOUNT.format(
        join=JOIN, options="--cache 16", inside=f"{hog}; for name in m/*; do cat $name > /dev/null; done; {hog}"
    )
    found = bench.found_after(mounted + "cat told", group=str(group))
    assert f"what other programs read here may reach the swap at {file}" in bench.ran[-1], "their memory is not locked"
    script = bench.work / "hold.py"
    script.write_text(
        "import subprocess, sys\n"
        "held = prog.read(0x10000000, 16 << 20, True)\n"
        f"subprocess.run([sys.executable, '-c', {PRESS!r}, '130'])\n"
    )
    found += bench.found_after(
        f'{JOIN}dumpvault drgn --no-default-symbols "$VAULT" hold.py; {JOIN}dumpvault dmesg "$VAULT"; {hog}',
        group=str(group),
    )
    script.unlink()
    assert found == 0
    assert raw(file) == []
    swapped = pages_written(file)
    assert swapped > 100, "there was pressure: pages did go to the swap"
    press(group, HOLD, 150)  # which may find no more room, and be killed
    control = len(raw(file))
    assert control > 0, "what is not locked is found in the swap"
    record_proof(
        f"no plaintext in swap: {swapped} pages swapped out, marker found 0 times; a process that does not lock: {control}"
    )


def pages_written(file: Path) -> int:
    """Pages of the swap file that are not zeros, past its header."""
    count, first = 0, True
    with file.open("rb") as data:
        while page := data.read(4096):
            count += not first and any(page)
            first = False
    return count
