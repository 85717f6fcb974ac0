"""``dumpvault mount``: read-only files that are the dump, errors where it is not good, and nothing left behind."""

from __future__ import annotations

import errno
import mmap
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from support.command import COMMAND, Home, Ran, make_home, seal, without
from support.dumps import SealedDump
from support.logged import LOG, logged_core
from support.mounted import Mounted, is_mounted, mounted, require_fuse
from support.words import clean

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.fixture(scope="module", autouse=True)
def _fuse() -> None:
    require_fuse()


@pytest.fixture(scope="module")
def served(dump: SealedDump, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """The whole dump, mounted."""
    with mounted(dump.home, dump.vault, tmp_path_factory.mktemp("served") / "m") as mount:
        yield mount
        assert mount.stop() == 0
        assert os.listdir(mount.path) == []


def pread(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), length, offset)


def page_errors(path: Path, data: bytes) -> list[int]:
    """The pages of ``path`` that are read errors; all others are those of ``data``."""
    failed = []
    for at in range(0, len(data), 4096):
        try:
            assert pread(path, at, 4096) == data[at : at + 4096], f"wrong bytes at {at:#x}"
        except OSError as error:
            assert error.errno == errno.EIO
            failed.append(at)
    return failed


# --- what is served --------------------------------------------------------------------------------------------------


def test_the_files(dump: SealedDump, served: Mounted) -> None:
    """The names that --json told, true sizes, the dump's bytes, the log, VMCOREINFO, the signed manifest; read only."""
    names = ["dmesg.txt", "manifest.json", "vmcore", "vmcoreinfo"]
    assert served.ready == {"files": names, "mounted": str(served.path), "vault": dump.vault}
    assert sorted(os.listdir(served.path)) == names
    assert (served / "vmcore").read_bytes() == dump.data
    assert (served / "dmesg.txt").read_bytes() == LOG
    assert (served / "manifest.json").read_bytes() == (dump.objects / "manifest.json").read_bytes()
    assert (served / "vmcoreinfo").read_bytes().startswith(b"OSRELEASE=6.1.0-test\n")
    for name in names:
        facts = (served / name).stat()
        assert (stat.S_IMODE(facts.st_mode), facts.st_uid) == (0o400, os.geteuid())
        assert facts.st_size == len((served / name).read_bytes())
    for attempt in (
        lambda: (served / "vmcore").open("r+b"),
        (served / "new").touch,
        (served / "vmcore").unlink,
        lambda: (served / "vmcore").chmod(0o644),
        lambda: os.truncate(served / "vmcore", 0),
    ):
        with pytest.raises(OSError, match="Read-only"):
            attempt()
    with pytest.raises(FileNotFoundError):
        (served / "nothing").stat()


def test_reads_past_the_end(dump: SealedDump, served: Mounted) -> None:
    """Short at the end, empty past it, as of any file."""
    size = len(dump.data)
    for name in ("vmcore", "dmesg.txt"):
        whole = (served / name).read_bytes()
        for offset in (len(whole) - 5, len(whole), len(whole) + 1, len(whole) + (1 << 40)):
            assert pread(served / name, offset, 4096) == whole[offset : offset + 4096]
    with (served / "vmcore").open("rb") as file:
        assert file.seek(0, os.SEEK_END) == size


def test_several_processes_at_once(dump: SealedDump, served: Mounted, tmp_path: Path) -> None:
    """cp, cmp and random readers side by side: all see the dump."""
    program = (
        "import os, random, sys\n"
        "good, fd, rng = open(sys.argv[1], 'rb').read(), os.open(sys.argv[2], os.O_RDONLY), random.Random(sys.argv[3])\n"
        "for _ in range(300):\n"
        "    at, n = rng.randrange(len(good)), rng.choice((1, 4096, 200000))\n"
        "    assert os.pread(fd, n, at) == good[at:at + n], at\n"
    )
    vmcore = str(served / "vmcore")
    commands = [[sys.executable, "-c", program, str(dump.source), vmcore, str(n)] for n in range(3)]
    commands += [["cp", vmcore, str(tmp_path / "copy")], ["cmp", vmcore, str(dump.source)]]
    running = [subprocess.Popen(command) for command in commands]
    assert [process.wait() for process in running] == [0] * 5
    assert (tmp_path / "copy").read_bytes() == dump.data


def test_shared_maps(dump: SealedDump, served: Mounted, tmp_path: Path) -> None:
    """Mapped shared, as crash maps kdump-compressed dumps; with --no-page-cache that fails cleanly, reading does not."""
    with (served / "vmcore").open("rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as view:
        assert view[:] == dump.data
    with mounted(dump.home, dump.vault, tmp_path / "m", "--no-page-cache") as mount:
        with (mount / "vmcore").open("rb") as file:
            with pytest.raises(OSError) as caught:
                mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
            assert caught.value.errno == errno.ENODEV
            assert os.fstat(file.fileno()).st_size == len(dump.data)
        assert (mount / "vmcore").read_bytes() == dump.data
        assert mount.stop() == 0


def test_a_small_cache_is_enough(dump: SealedDump, tmp_path: Path) -> None:
    """--cache 16 serves it all; less is refused as misuse."""
    with mounted(dump.home, dump.vault, tmp_path / "m", "--cache", "16") as mount:
        assert (mount / "vmcore").read_bytes() == dump.data
        assert mount.stop() == 0
    assert dump.home.call("mount", dump.vault, tmp_path / "m", "--cache", "15").code == 2


# --- who reads it ----------------------------------------------------------------------------------------------------


def test_other_users_cannot_read(served: Mounted) -> None:
    """Not even the names: the kernel refuses everybody but the user who mounted."""
    assert "allow_other" not in Path("/proc/self/mountinfo").read_text()
    if shutil.which("setpriv") is None:
        pytest.skip("NOT TESTED: no setpriv here")
    for path in (served.path, served / "vmcore", served / "dmesg.txt"):
        done = subprocess.run([*NOBODY, "ls" if path == served.path else "cat", path], capture_output=True, check=False)
        assert done.returncode != 0
        assert done.stdout == b""
        assert b"Permission denied" in done.stderr


def test_an_unprivileged_user_mounts_through_fusermount3() -> None:
    """Root of the machine is refused as well, other than through what root can always do."""
    for program in ("fusermount3", "setpriv", "unshare", "nsenter"):
        if shutil.which(program) is None:
            pytest.skip(f"NOT TESTED: no {program} here")
    if subprocess.run([*NOBODY, COMMAND, "--version"], capture_output=True, check=False).returncode:
        pytest.skip(f"NOT TESTED: another user cannot run {COMMAND}")
    work = Path(tempfile.mkdtemp())
    try:
        work.chmod(0o755)
        home = make_home(work / "site")
        (work / "vmcore").write_bytes(logged_core(16))
        vault = seal(home, work / "vmcore")
        (work / "m").mkdir()
        os.mknod(work / "fuse", 0o666 | stat.S_IFCHR, os.makedev(10, 229))  # as distributions have it
        (work / "fuse").chmod(0o666)
        subprocess.run(["chown", "-R", "65534:65534", work], check=True)
        before = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /dev/fuse && exec "$@"', work / "fuse", *NOBODY]
        with mounted(home, vault, work / "m", before=before) as mount:
            inside = ["nsenter", "-m", "-t", str(mount.process.pid)]
            cat = ["cat", str(mount / "dmesg.txt")]
            assert subprocess.run([*inside, *NOBODY, *cat], capture_output=True, check=False).stdout == LOG
            done = subprocess.run([*inside, *cat], capture_output=True, check=False)
            assert (done.returncode, done.stdout) == (1, b"")
            facts = subprocess.run(
                [*inside, *NOBODY, "stat", "-c", "%u %a", mount / "vmcore"], capture_output=True, check=True
            )
            assert facts.stdout == b"65534 400\n"
            assert mount.stop() == 0, mount.err
    finally:
        shutil.rmtree(work)


# --- where it is mounted ---------------------------------------------------------------------------------------------


def refused(ran: Ran, code: int, *words: str) -> None:
    text = clean(ran)
    assert ran.code == code, text
    for word in words:
        assert word in text
    assert len([line for line in ran.err.splitlines() if line.startswith("dumpvault: ")]) >= 2, "a message and a hint"


def test_places_where_nothing_is_mounted(dump: SealedDump, tmp_path: Path) -> None:
    """A directory with something in it, a file, nothing, a mount of another kind: each by its name, before any key."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    (tmp_path / "tmpfs").mkdir()
    (tmp_path / "dead").symlink_to(tmp_path / "nowhere")
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "tmpfs"], check=True)
    try:
        for name, word in (
            ("full", "not empty"), ("full/precious", "Not a directory"), ("nowhere", "No such file"),
            ("tmpfs", "mounted there already"), ("dead", "No such file"), ("x" * 300, "too long"),
        ):  # fmt: skip
            ran = dump.home.run("mount", "no-such-vault", tmp_path / name)
            refused(ran, 1, name, word)
            told = dump.home.call("mount", dump.vault, tmp_path / name, "--json")
            assert told.json["error"]["exit_code"] == 1
        assert (tmp_path / "full" / "precious").read_text() == "x"
        assert (tmp_path / "tmpfs").is_mount()
    finally:
        subprocess.run(["umount", tmp_path / "tmpfs"], check=True)


def test_two_mounts(dump: SealedDump, served: Mounted, tmp_path: Path) -> None:
    """The same vault at two places is fine; at one place the second is refused, and the first goes on."""
    with mounted(dump.home, dump.vault, tmp_path / "other") as other:
        assert (other / "vmcore").read_bytes() == (served / "vmcore").read_bytes() == dump.data
        refused(dump.home.run("mount", dump.vault, other.path), 1, "mounted there already")
        assert (other / "vmcore").read_bytes() == dump.data
        assert other.stop() == 0
    assert (served / "vmcore").read_bytes() == dump.data


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_unmounts(dump: SealedDump, tmp_path: Path, number: signal.Signals) -> None:
    """Exit 0, nothing mounted, an empty directory, nothing said that was not asked."""
    with mounted(dump.home, dump.vault, tmp_path / "m") as mount:
        assert is_mounted(mount.path)
        assert mount.stop(number) == 0
        assert not is_mounted(mount.path)
        assert os.listdir(mount.path) == []
        assert len(mount.told) == 1, mount.err


def test_umount_ends_it(dump: SealedDump, tmp_path: Path) -> None:
    """umount from outside is an orderly end as well."""
    with mounted(dump.home, dump.vault, tmp_path / "m") as mount:
        subprocess.run(["umount", mount.path], check=True)
        assert mount.wait() == 0, mount.err


def test_a_busy_mount(dump: SealedDump, tmp_path: Path) -> None:
    """With a file open, Ctrl-C still ends it: the place is free at once, and what was not read yet is an error."""
    with mounted(dump.home, dump.vault, tmp_path / "m") as mount:
        fd = os.open(mount / "vmcore", os.O_RDONLY)
        assert os.pread(fd, 4096, 0) == dump.data[:4096]
        assert mount.stop() == 0
        assert not is_mounted(mount.path)
        with pytest.raises(OSError):
            os.pread(fd, 4096, len(dump.data) - 4096)
        with suppress(OSError):  # the kernel has nobody to tell
            os.close(fd)
        assert os.listdir(mount.path) == []


def test_a_killed_mount_is_cleared_by_the_next(dump: SealedDump, tmp_path: Path) -> None:
    """SIGKILL leaves a dead mount; mounting at the same place clears it, and only if it is ours."""
    with mounted(dump.home, dump.vault, tmp_path / "m m\\x") as dead:
        assert dead.stop(signal.SIGKILL) == -signal.SIGKILL
        with pytest.raises(OSError) as caught:
            os.listdir(dead.path)
        assert caught.value.errno == errno.ENOTCONN
        with mounted(dump.home, dump.vault, dead.path) as mount:
            assert (mount / "vmcore").read_bytes() == dump.data
            assert mount.stop() == 0
        assert os.listdir(dead.path) == []


def test_a_dead_mount_of_another_kind_is_left_alone(dump: SealedDump, tmp_path: Path) -> None:
    """Somebody else's file system that does not answer is not unmounted for them."""
    (tmp_path / "m").mkdir()
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0"
    subprocess.run(
        ["mount", "-i", "-t", "fuse.theirs", "-o", options, "theirs", tmp_path / "m"], pass_fds=[fd], check=True
    )
    try:
        os.close(fd)
        refused(dump.home.run("mount", dump.vault, tmp_path / "m"), 1, "not connected")
        assert "fuse.theirs" in Path("/proc/self/mountinfo").read_text()
    finally:
        subprocess.run(["umount", "--lazy", tmp_path / "m"], check=True)


# --- keys and what is missing ----------------------------------------------------------------------------------------


def test_keys(home: Home, dump: SealedDump, tmp_path: Path) -> None:
    """No key, another's key: 12. A locked one opens with its passphrase, and only with it."""
    (tmp_path / "m").mkdir()
    store = ("--store", dump.home.path / "store", "--allowed-signers", dump.home.path / "keys" / "allowed_signers")
    refused(home.run("mount", dump.vault, tmp_path / "m", *store), 12)
    shutil.rmtree(home.path / "private")
    refused(home.run("mount", dump.vault, tmp_path / "m", *store), 12)
    (tmp_path / "right").write_text("correct horse\n")
    (tmp_path / "wrong").write_text("battery staple\n")
    other = make_home(tmp_path / "locked")
    assert other.call("keys", "new", "recipient", "locked", "--passphrase-file", tmp_path / "right").code == 0
    vault = other.call("capture", dump.source, "--recipient", "locked", "--signer", "collector").out.strip()
    refused(other.run("mount", vault, tmp_path / "m", "--passphrase-file", tmp_path / "wrong"), 12)
    assert other.run("mount", vault, tmp_path / "m", stdin=b"").code == 12
    with mounted(other, vault, tmp_path / "m", "--passphrase-file", tmp_path / "right") as mount:
        assert (mount / "vmcore").read_bytes() == dump.data
        assert mount.stop() == 0
    refused(other.run("mount", vault, tmp_path / "m", "--key", "nobody"), 12, "nobody")
    assert not is_mounted(tmp_path / "m")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("ImportError('no')", ("dumpvault[mount]", "fuse3")),
        ("OSError('no libfuse3.so')", ("libfuse", "apt install fuse3")),
    ],
)
def test_missing_packages_say_what_to_install(
    dump: SealedDump, tmp_path: Path, error: str, words: tuple[str, ...]
) -> None:
    """Without mfusepy, or with it but without libfuse."""
    (tmp_path / "m").mkdir()
    ran = dump.home.run("mount", dump.vault, tmp_path / "m", env=without("mfusepy", error, tmp_path))
    refused(ran, 1, *words)


# --- sources that are not what is hoped for --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "names", "words"),
    [
        (logged_core(64, info=b""), ["manifest.json", "vmcore"], "no vmcoreinfo and no dmesg.txt"),
        (logged_core(64, info=b"OSRELEASE=1\n"), ["manifest.json", "vmcore", "vmcoreinfo"], "no dmesg.txt"),
        (logged_core(64, machine=0x1234), ["manifest.json", "vmcore", "vmcoreinfo"], "no dmesg.txt"),
        (b"not a dump at all\n" * 5000, ["manifest.json", "vmcore"], "no vmcoreinfo and no dmesg.txt"),
        (bytes(100_000), ["manifest.json", "vmcore"], "no vmcoreinfo and no dmesg.txt"),
    ],
    ids=["no VMCOREINFO", "too little VMCOREINFO", "an unknown architecture", "text", "zeros"],
)
def test_dumps_that_analysis_cannot_use(home: Home, tmp_path: Path, data: bytes, names: list[str], words: str) -> None:
    """The bytes are served all the same, and what is left out is said; dmesg and drgn refuse with a hint."""
    (tmp_path / "source").write_bytes(data)
    vault = seal(home, tmp_path / "source")
    with mounted(home, vault, tmp_path / "m") as mount:
        assert mount.ready["files"] == names
        assert (mount / "vmcore").read_bytes() == data
        assert mount.stop() == 0
        assert words in mount.err, mount.err
    refused(home.run("dmesg", vault), 1)
    if names != ["manifest.json", "vmcore", "vmcoreinfo"] or b"\x34\x12" in data[16:20]:
        refused(home.run("drgn", "--no-default-symbols", "-e", "print(prog)", vault), 1)


# --- damage ----------------------------------------------------------------------------------------------------------


def test_a_damaged_object(home: Home, dump: SealedDump, tmp_path: Path) -> None:
    """A flipped bit is a read error where it is, told once by the object's name; everything else is served."""
    vault = seal(home, dump.source, "--region-size", "256K", "--compress", "none")
    body = home.vaults / vault / "regions/1/4.sealed"
    body.chmod(0o600)
    changed = bytearray(body.read_bytes())
    changed[1000] ^= 1
    body.write_bytes(changed)
    with mounted(home, vault, tmp_path / "m") as mount:
        failed = page_errors(mount / "vmcore", dump.data)
        assert failed
        assert failed[-1] - failed[0] < 256 << 10
        assert len(failed) <= 64
        assert mount.stop() == 0
        told = [line for line in mount.told if "regions/1/4.sealed" in line]
        assert told
        assert len(told) < 5, "once for each reason, not for each page"


@pytest.mark.parametrize(("name", "code"), [("regions/1/4.sealed", 10), ("keys/1/1.json", 10), ("vault.dsse.json", 10)])
def test_structure_that_is_bad_is_refused_unless_partial(
    home: Home, dump: SealedDump, tmp_path: Path, name: str, code: int
) -> None:
    """An object of another size, keys that are not the signed ones: refused at the start; --partial serves the rest."""
    vault = seal(home, dump.source, "--region-size", "256K")
    path = home.vaults / vault / name
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])
    (tmp_path / "m").mkdir()
    refused(home.run("mount", vault, tmp_path / "m"), code, name)
    assert not is_mounted(tmp_path / "m")
    if name == "vault.dsse.json":
        refused(home.run("mount", vault, tmp_path / "m", "--partial"), code, name)
        return
    with mounted(home, vault, tmp_path / "m", "--partial") as mount:
        failed = page_errors(mount / "vmcore", dump.data)
        assert failed
        assert (len(failed) < len(dump.data) // 4096) == (name != "keys/1/1.json")
        assert mount.stop() == 0
        assert name in mount.err


def test_objects_lost_and_cut_while_it_is_mounted(home: Home, tmp_path: Path) -> None:
    """EIO for what was in them and has not been read, with the object's name on standard error; the rest is served."""
    data = logged_core(tail=os.urandom(24 << 20))
    (tmp_path / "source").write_bytes(data)
    vault = seal(home, tmp_path / "source", "--region-size", "1M", "--compress", "none")
    bodies = home.vaults / vault / "regions" / "1"
    with mounted(home, vault, tmp_path / "m", "--no-page-cache", "--cache", "16") as mount:
        saved = (bodies / "20.sealed").read_bytes()
        (bodies / "20.sealed").unlink()
        (bodies / "24.sealed").chmod(0o600)
        os.truncate(bodies / "24.sealed", 100_000)
        failed = page_errors(mount / "vmcore", data)
        assert len(failed) == 512
        (bodies / "20.sealed").write_bytes(saved)
        assert len(page_errors(mount / "vmcore", data)) == 256, "what is back is served again"
        assert mount.stop() == 0
        assert "regions/1/20.sealed" in mount.err
        assert "regions/1/24.sealed" in mount.err


# --- incomplete vaults -----------------------------------------------------------------------------------------------


def held(copy: Path) -> Iterator[tuple[int, int]]:
    """(physical address, bytes) of the PT_LOADs that readelf lists."""
    done = subprocess.run(["readelf", "-lW", copy], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    for line in done.stdout.splitlines():
        if line.strip().startswith("LOAD"):
            words = line.split()
            yield int(words[3], 16), int(words[4], 16)


def test_a_capture_that_was_cut_off(cut_off: SealedDump, tmp_path: Path) -> None:
    """vmcore serves what is there; vmcore-available is a valid core of it; and the vault may grow meanwhile."""
    home, vault, data = cut_off.home, cut_off.vault, cut_off.data
    with mounted(home, vault, tmp_path / "m") as mount:
        assert mount.ready["files"] == ["dmesg.txt", "vmcore", "vmcore-available", "vmcoreinfo"]
        assert "note: manifest.dsse.json: missing" in mount.err
        assert (mount / "dmesg.txt").read_bytes() == LOG
        assert (mount / "vmcore").stat().st_size == len(data)
        failed = page_errors(mount / "vmcore", data)
        assert failed == list(range(failed[0], len(data), 4096))
        assert len(failed) == (2 << 20) // 4096
        if shutil.which("readelf"):
            loads = list(held(mount / "vmcore-available"))
            assert (0x10000000, 0x200000) in loads
            assert all(address < 0x40000000 for address, _ in loads)
        if program := shutil.which("makedumpfile"):
            subprocess.run(
                [program, "-f", "--dump-dmesg", mount / "vmcore-available", tmp_path / "log"],
                capture_output=True,
                check=True,
            )
            assert (tmp_path / "log").read_bytes() == LOG
        code = "print(prog.read(0x10000000, 8, True)); prog.read(0x40000000, 8, True)"
        ran = home.run("drgn", "--no-default-symbols", "-e", code, vault)
        assert ran.code == 1
        assert "FaultError" in ran.err
        assert ran.out.startswith("b'")
        ran = home.run("dmesg", vault)
        assert (ran.code, ran.out) == (0, LOG.decode())
        assert "note: manifest.dsse.json: missing" in ran.err

        arguments = ("--recipient", "analyst", "--signer", "collector", "--region-size", "256K")
        assert home.run("capture", cut_off.source, *arguments).out.strip() == vault
        assert page_errors(mount / "vmcore", data) == failed, "what is mounted is the vault as it was"
        with mounted(home, vault, tmp_path / "again") as again:
            assert again.ready["files"] == ["dmesg.txt", "manifest.json", "vmcore", "vmcoreinfo"]
            assert (again / "vmcore").read_bytes() == data
            assert again.stop() == 0
        assert mount.stop() == 0


def test_a_capture_that_was_killed(home: Home, tmp_path: Path) -> None:
    """SIGKILL in the middle of a pipe: what is committed is served, the rest is EIO or was never known."""
    data = logged_core(2048)
    process = subprocess.Popen(
        [COMMAND, "capture", "-", "--recipient", "analyst", "--signer", "collector", "--region-size", "256K", "--policy",
         small_groups(tmp_path)],
        env=home.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin
    process.stdin.write(data[: 6 << 20])
    process.stdin.flush()
    while not list(home.vaults.glob("*/commits/3.dsse.json")):
        assert process.poll() is None
    process.kill()
    process.communicate()
    vault = next(home.vaults.iterdir()).name
    with mounted(home, vault, tmp_path / "m") as mount:
        size = (mount / "vmcore").stat().st_size
        assert 1 << 20 <= size <= len(data)
        assert "vmcore-available" in mount.ready["files"]
        known = page_errors(mount / "vmcore", data[:size])
        assert len(known) < size // 4096
        if shutil.which("readelf"):
            assert sum(length for _, length in held(mount / "vmcore-available")) > 1 << 19
        assert mount.stop() == 0
    ran = home.run("dmesg", vault)
    assert ran.code in (1, 3), clean(ran)  # the kernel's own pages come last


def small_groups(folder: Path) -> Path:
    """The baseline policy with a commit for each MiB."""
    policy = (Path(__file__).parents[2] / "policies" / "baseline.toml").read_text()
    path = folder / "small.toml"
    path.write_text(policy.replace("mib = 64\nseconds", "mib = 1\nseconds"))
    return path


def test_a_region_that_was_lost(home: Home, dump: SealedDump, tmp_path: Path) -> None:
    """A hole in the middle: EIO there and nowhere else; vmcore-available goes around it, a loss in headers ends that."""
    vault = seal(home, dump.source, "--region-size", "256K", "--compress", "none")
    body = home.vaults / vault / "regions/1/5.sealed"
    body.unlink()
    with mounted(home, vault, tmp_path / "m") as mount:
        failed = page_errors(mount / "vmcore", dump.data)
        assert len(failed) == 64
        kept = (mount / "vmcore-available").read_bytes()
        for at in random.Random(1).sample(range(0x2000, 0x202000, 4096), 60):
            assert (dump.data[at : at + 4096] in kept) == (at not in failed) or not any(dump.data[at : at + 4096])
        assert mount.stop() == 0
    (home.vaults / vault / "regions/1/0.sealed").unlink()
    with mounted(home, vault, tmp_path / "m") as mount:
        assert mount.ready["files"] == ["manifest.json", "vmcore"]
        assert "no vmcoreinfo and no dmesg.txt" in mount.err
        with pytest.raises(OSError, match="Input/output"):
            pread(mount / "vmcore", 0, 4096)
        assert mount.stop() == 0
    assert home.run("dmesg", vault).code == 3
    assert home.run("drgn", "--no-default-symbols", "-e", "1", vault).code == 3


def test_the_proof_line(dump: SealedDump, served: Mounted, record_proof: Callable[[str], None]) -> None:
    """Random reads by the hundred through the kernel, in one line."""
    rng, count = random.Random(5), 500
    for _ in range(count):
        at, length = rng.randrange(len(dump.data) + 9000), rng.randrange(1, 300_000)
        assert pread(served / "vmcore", at, length) == dump.data[at : at + length]
    record_proof(f"mount: {count} random reads through the kernel equal the source")
