"""Disks that fail: each call of a store in turn, a real file system without room, limits, a store in memory or gone."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from support.collector import Child, World
from support.command import Home, Ran
from support.outcome import check_end, check_openable, commits_of, finished, make_world, only_vault

Proof = Callable[[str], None]
Small = Callable[[str], World]
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
STORE = ("write", "fsync file", "fsync directory", "link", "create", "open", "unlink", "mkdir", "fallocate")
FAULTS = {
    "write": (errno.EIO, errno.ENOSPC),
    "fsync file": (errno.EIO, errno.ENOSPC, errno.EDQUOT),
    "fsync directory": (errno.EIO, errno.ENOSPC),
    "link": (errno.EIO, errno.EDQUOT, errno.EROFS),
    "create": (errno.EIO, errno.ENOSPC, errno.EROFS),
    "open": (errno.EIO,),
    "unlink": (errno.EIO, errno.EROFS),
    "mkdir": (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS),
    "fallocate": (errno.EIO, errno.ENOSPC, errno.EDQUOT),
    "note": (errno.EIO, errno.ENOSPC),
}


class Fault:
    """A hook that fails call number ``at`` (from 0) of a kind; everything of the store after it too, if it is to die."""

    def __init__(self, kinds: tuple[str, ...], at: int, number: int, *, dies: bool = False) -> None:
        self._kinds, self._at, self._number, self._dies = kinds, at, number, dies
        self._lock = threading.Lock()
        self._count = 0
        self.happened = False
        self.beside = False
        self.to: object = None
        self.after: list[tuple[str, object]] = []

    def __call__(self, what: str, which: object) -> None:
        with self._lock:
            if self.happened:
                self.after.append((what, which))
                if not (self._dies and what in STORE):
                    return
            else:
                self._count += what in self._kinds
                if self._count <= self._at:
                    return
                self.happened, self.to = True, which
                self.beside = threading.current_thread() is not threading.main_thread()
        raise OSError(self._number, os.strerror(self._number))

    def check(self) -> None:
        """What may not come after a fault: a release, or a second try of the same sync."""
        releases = [which for what, which in self.after if what == "release"]
        # A worker's error is noticed between two releases of a commit that was durable before it.
        assert len(releases) <= self.beside, f"released {releases} after the store had failed"
        if self._kinds[0].startswith("fsync"):
            assert (self._kinds[0], self.to) not in self.after, "a sync that failed was tried again"


def check_after(world: World, ran: Ran, fault: Fault, no_room: bool, whole: set[int], why: str) -> None:
    """After a fault: the right exit code and words, nothing lost, and an undisturbed run makes it whole."""
    assert why in ran.err and "internal error" not in ran.err, ran.err
    fault.check()
    vault = only_vault(world)
    if vault:
        check_openable(world, vault)
    commits = commits_of(vault) if vault else []
    at_the_end = finished(vault) or "/manifest." in ran.err  # every region is committed already
    assert ran.code == (3 if no_room and commits and not at_the_end else 13), ran.err
    if ran.code == 3:
        assert commits[-1]["kind"] == "ended"
    again = world.capture()
    assert again.code == 0 or (again.code == 14 and "which is finished" in again.err), again.err
    check_end(world, whole)


@pytest.mark.parametrize("kind", FAULTS)
def test_each_call_fails_in_turn(kind: str, small: Small, whole: set[int], record_proof: Proof) -> None:
    """Whichever call fails once, the capture ends in order and releases nothing more, or the call did not matter; what
    was released opens, a sync that failed is not tried again, and a later run makes the dump whole."""
    codes: Counter[int] = Counter()
    for number in FAULTS[kind]:
        at = 0
        while True:
            world, fault = small(f"{number}-{at}"), Fault((kind,), at, number)
            ran = world.capture(hook=fault)
            if not fault.happened:
                assert ran.code == 0
                break
            codes[ran.code] += 1
            if ran.code == 0:
                # No room to be kept free is told, and what fits is sealed all the same.
                spare = number in NO_ROOM and "what fits is sealed all the same" in ran.err
                assert kind == "unlink" or spare, "a call that matters failed, and the capture went on"
                check_end(world, whole)
            else:
                no_room = number in NO_ROOM and not kind.startswith(("fsync", "note"))
                check_after(world, ran, fault, no_room, whole, os.strerror(number))
            shutil.rmtree(world.folder.parent)
            at += 1
    assert codes.total() > 0
    names = ", ".join(errno.errorcode[number] for number in FAULTS[kind])
    told = ", ".join(f"{count} ended with {code}" for code, count in sorted(codes.items()))
    record_proof(f"{kind} failing at each call in turn with {names}: {codes.total()} captures, {told}")


def test_disk_dies(small: Small, whole: set[int], record_proof: Proof) -> None:
    """A disk of which every call fails from some call on ends the capture; with another such disk it goes on."""
    at = 0
    while True:
        world, fault = (
            small(str(at)),
            Fault(tuple(kind for kind in STORE if kind != "unlink"), at, errno.EIO, dies=True),
        )
        ran = world.capture(hook=fault)
        if not fault.happened:
            break
        if ran.code:
            check_after(world, ran, fault, False, whole, "Input/output error")
        else:
            assert finished(only_vault(world))
            check_end(world, whole)
        at += 3
    record_proof(f"disk dying at every third call: {at // 3} captures")


@pytest.mark.parametrize("kind", ["write", "fsync file", "fsync directory", "open", "link"])
def test_each_call_of_a_resumed_capture_fails_in_turn(
    kind: str, small: Small, whole: set[int], record_proof: Proof
) -> None:
    """While a vault is adopted and gone on with, a failing call ends the capture just so."""
    at = 0
    while True:
        world = small(str(at))
        assert world.capture(hook=Fault(("note",), 1, errno.EIO)).code == 13
        fault = Fault((kind,), at, errno.EIO)
        ran = world.capture(hook=fault)
        if not fault.happened:
            assert ran.code == 0
            break
        if ran.code:
            check_after(world, ran, fault, False, whole, "Input/output error")
        else:
            assert kind == "open", "a call that matters failed, and the capture went on"
            check_end(world, whole)
        shutil.rmtree(world.folder.parent)
        at += 1
    record_proof(f"{kind} failing at each call of a resumed capture: {at} captures")


# Real ones


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real ext4 of 24 MiB, mounted from a file."""
    if os.geteuid() or not shutil.which("mke2fs"):
        pytest.skip("NOT TESTED: a real full disk needs root, mke2fs and loop devices")
    image, mount = tmp_path / "image", tmp_path / "disk"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-m", "0", "-F", image], check=True)
    done = subprocess.run(["mount", "-o", "loop", image, mount], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"NOT TESTED: cannot mount a small disk here: {done.stderr.strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True)


def put_store(world: World, where: Path) -> None:
    """Have the world's store at ``where``."""
    where.mkdir(parents=True, exist_ok=True)
    (world.home.path / "store").symlink_to(where)


def fill(disk: Path, leave: int) -> Path:
    """Fill the disk up to its last ``leave`` bytes."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        facts = os.statvfs(disk)
        size = facts.f_bavail * facts.f_frsize - leave
        while size > 0:
            with suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, size)
                break
            size -= 64 << 10
    return ballast


def test_full_disk(disk: Path, keys: Home, tmp_path: Path, record_proof: Proof) -> None:
    """On a real disk filled to the brim, what fits is signed off with exit 3, opens with --partial, and is gone on with
    once there is room. Where not even a first commit fits, nothing is begun and nothing is released."""
    codes: Counter[int] = Counter()
    for kib in (*range(0, 64, 8), 256, 1024, *range(3968, 5760, 64)):
        options = ("--region-size", "64K", "--jobs", "2", "--compress", "none")
        world = make_world(keys, tmp_path / str(kib), 2, 256, *options, commit_bytes=128 << 10)
        put_store(world, disk / "store")
        ballast = fill(disk, kib << 10)
        ran = world.capture()
        codes[ran.code] += 1
        vault = only_vault(world)
        commits = commits_of(vault) if vault else []
        if ran.code == 3:
            assert commits[-1]["kind"] == "ended"
            assert vault and world.home.call("verify", vault.name).code == 3
        elif ran.code:
            assert ran.code == 13, ran.err
            assert not any(commit["kind"] == "regions" for commit in commits), ran.err
        if ran.code:
            assert "No space left on device" in ran.err
            if vault:
                check_openable(world, vault)
        ballast.unlink()
        if ran.code:
            again = world.capture()
            assert again.code == 0, again.err
        check_end(world)
        shutil.rmtree(disk / "store")
    assert codes[0] and codes[3] > 10
    told = ", ".join(f"{count} ended with {code}" for code, count in sorted(codes.items()))
    record_proof(f"a real ext4 filled to the brim at {codes.total()} sizes: {told}")


def test_store_in_memory_is_refused(small: Small, tmp_path: Path) -> None:
    """A store on a tmpfs is refused for this boot's own dump before anything is written; for a file it is warned about."""
    if os.geteuid():
        pytest.skip("NOT TESTED: mounting a tmpfs needs root")
    mount, world = tmp_path / "memory", small("own")
    mount.mkdir()
    world.pretend = False
    subprocess.run(["mount", "-t", "tmpfs", "none", mount], check=True)
    try:
        put_store(world, mount / "store")
        for release in ("auto", "none"):
            ran = world.capture("--release", release)
            assert ran.code == 13
            assert "is a tmpfs: it lives in memory" in ran.err
        assert not list((mount / "store").iterdir())
        assert not world.machine.kernel.writes
        old = world.folder / "old"
        old.write_bytes(world.machine.pristine)
        names = ("--recipient", "analyst", "--signer", "collector")
        ran = world.home.call("capture", old, *names)
        assert ran.code == 0
        assert "will not survive a reboot" in ran.err
    finally:
        subprocess.run(["umount", mount], check=True)


@pytest.mark.parametrize("limit", [64 << 10, 5 << 20])
def test_file_size_limit(limit: int, keys: Home, place: Path) -> None:
    """Under RLIMIT_FSIZE, whether it stops the reserve or a body, the capture ends in order (3) and names the limit."""

    def limited(what: str, which: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    options = ("--region-size", "8M", "--jobs", "1", "--compress", "none")
    world = make_world(keys, place / "limited", 3, 2560, *options, commit_bytes=8 << 20)
    child = world.start(hook=limited)
    assert world.run(child) == 3, child.text
    assert "file size limit" in child.text
    assert not world.machine.kernel.writes
    assert world.run(world.start()) == 0
    check_end(world)


def test_store_removed_while_capturing(small: Small, record_proof: Proof) -> None:
    """When the store's directory is removed, the capture ends with 13: no later commit, and no release but those that
    were authorised before. A later run refuses to seal the freed pages as genuine."""
    counts: Counter[str] = Counter()
    for at in range(1, 40):
        world = small(str(at))
        removed: list[Path] = []

        def remove(child: Child, what: str, world: World = world, at: int = at, removed: list[Path] = removed) -> None:
            if child.requests == at and (vault := only_vault(world)):
                # Away in one step: what another thread had under way may still end there, and is seen there.
                store = world.home.path / "store"
                removed.append(store.rename(world.home.path / "removed") / vault.relative_to(store))

        world.before, world.machine.on_release = remove, None
        child = world.start()
        code = world.run(child)
        if code == 0:
            assert not removed, "the store went away and nobody noticed"
            if child.requests < at:
                break
            continue  # there was no vault yet to remove
        counts["removed"] += 1
        assert code == 13, child.text
        releases = [r for commit in commits_of(removed[0]) for r in commit["body"].get("releases", ())]
        assert set(world.machine.kernel.writes) <= {(int(r["start"], 16), int(r["length"], 16)) for r in releases}
        freed = set(world.machine.kernel.freed)
        again = world.capture()
        counts[f"then {again.code}"] += 1
        assert again.code == (13 if freed else 0), again.err
        assert not freed or world.machine.kernel.freed == freed
    assert counts["removed"] > 5 and counts["then 13"]
    record_proof(f"store removed while capturing: {dict(counts)}")
