"""The ``os`` that dumpvault's store, journal, source and releaser see: a disk and a /run in memory, and the machine.

Every call that changes something is one step of a recording: its name, and copies of all that there was right after it.
"""

from __future__ import annotations

import copy
import errno
import fcntl
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

from dumpvault.stages import journal, source
from dumpvault.stages.release import fadump, phyp
from dumpvault.stages.store import local, local_upload
from support.disk import ROOT, Disk, File, Folder
from support.machine import Machine

__all__ = ["DISK", "RUN", "Calls", "Moment", "World", "installed"]

#: Mount points; /sim itself is of another device, so that syncing upwards ends there.
DISK, RUN = "/sim/disk", "/sim/run"
_FIRST_FD = 1 << 20
_MODES = (os.O_RDONLY, os.O_RDWR)


@dataclass
class World:
    """What a collector stands in. ``run`` is lost with the machine and never before it."""

    disk: Disk
    run: Disk
    machine: Machine

    def copy(self, disk: Disk | None = None) -> World:
        """A twin whose future is its own, on another disk if one is given."""
        machine = copy.copy(self.machine)
        machine.memory = bytearray(machine.memory)
        machine.kernel = copy.deepcopy(machine.kernel)
        machine.on_release = None
        return World((disk or self.disk).copy(), self.run.copy(), machine)


@dataclass(frozen=True)
class Moment:
    """The world right after one step. Its machine is shared with other moments: copy the world to go on from it."""

    step: str
    world: World


@dataclass
class _Open:
    where: str
    disk: Disk | None
    node: int
    position: int = 0
    append: bool = False


@dataclass
class Calls:
    """Stands in for the module ``os``. ``world`` may be exchanged between two captures, not within one."""

    vmcore: str
    release_region: str
    release_mem: str
    world: World
    recording: bool = True
    moments: list[Moment] = field(default_factory=list)
    #: Called before a step is carried out; may raise ``OSError`` in its stead.
    before: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._fds: dict[int, _Open] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    @contextmanager
    def _step(self, step: str) -> Iterator[None]:
        with self._lock:
            if self.before:
                self.before(step)
            yield
            if self.recording:
                world = self.world
                # A machine changes only when memory is released, so most moments share a copy.
                fresh = not self.moments or step.startswith("release")
                machine = world.copy().machine if fresh else self.moments[-1].world.machine
                self.moments.append(Moment(step, World(world.disk.copy(), world.run.copy(), machine)))

    # Paths

    def _locate(self, path: str, dir_fd: int | None = None) -> tuple[Disk, str] | None:
        """The disk that a path is on and the path on it; None for what is not ours."""
        if dir_fd is not None:
            path = f"{self._fds[dir_fd].where}/{path}"
        for mount, disk in ((DISK, self.world.disk), (RUN, self.world.run)):
            if path == mount or path.startswith(mount + "/"):
                return disk, path[len(mount) :]
        return None

    def _parent(self, path: str, dir_fd: int | None = None) -> tuple[Disk, int, str]:
        found = self._locate(path, dir_fd)
        assert found, f"{path} is not on a disk of the rehearsal"
        disk, inner = found
        above, _, name = inner.rpartition("/")
        return disk, disk.find(above), name

    def makedirs(self, path: str, mode: int = 0o777, exist_ok: bool = False) -> None:
        found = self._locate(path)
        assert found, path
        disk, inner = found
        node = ROOT
        for name in filter(None, inner.split("/")):
            if name not in disk.folder(node).seen:
                with self._step(f"mkdir {name}"):
                    disk.make(node, name, Folder())
            node = disk.folder(node).seen[name]
        disk.folder(node)

    def stat(self, path: str) -> Any:
        if path == "/sim":
            return SimpleNamespace(st_dev=-1, st_mode=stat.S_IFDIR, st_size=0)
        found = self._locate(path)
        if not found:
            return os.stat(path)
        disk, inner = found
        return self._facts(disk, disk.find(inner))

    def lstat(self, path: str) -> Any:
        return self.stat(path)

    def fstat(self, fd: int) -> Any:
        opened = self._fds[fd]
        if opened.disk:
            return self._facts(opened.disk, opened.node)
        machine = self.world.machine
        return SimpleNamespace(st_mode=stat.S_IFREG, st_size=machine.size, st_mtime_ns=1, st_dev=-2)

    def _facts(self, disk: Disk, node: int) -> Any:
        found = disk.nodes[node]
        kind, size = (stat.S_IFREG, len(found.seen)) if isinstance(found, File) else (stat.S_IFDIR, 0)
        return SimpleNamespace(st_mode=kind, st_size=size, st_dev=id(disk))

    def access(self, path: str, mode: int) -> bool:
        return True

    @contextmanager
    def scandir(self, path: str) -> Iterator[Iterator[Any]]:
        found = self._locate(path)
        assert found, path
        disk, inner = found
        entries = disk.folder(disk.find(inner)).seen

        def entry(name: str, node: int) -> Any:
            return SimpleNamespace(name=name, is_dir=lambda *, follow_symlinks: isinstance(disk.nodes[node], Folder))

        yield iter([entry(name, node) for name, node in entries.items()])

    def unlink(self, path: str, *, dir_fd: int | None = None) -> None:
        with self._lock:
            disk, folder, name = self._parent(path, dir_fd)
            if name not in disk.folder(folder).seen:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            with self._step(f"unlink {name}"):
                disk.unlink(folder, name)

    def link(self, old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int, follow_symlinks: bool) -> None:
        with self._lock:
            disk, above, name = self._parent(old, src_dir_fd)
            node = disk.folder(above).seen[name]
            _, folder, name = self._parent(new, dst_dir_fd)
            with self._step(f"link {name}"):
                disk.link(node, folder, name)

    # Descriptors

    def open(self, path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        with self._lock:
            if path in (self.vmcore, self.release_region, self.release_mem):
                return self._number(_Open(path, None, 0))
            disk, folder, name = self._parent(path, dir_fd)
            if not flags & os.O_CREAT or name in disk.folder(folder).seen:
                if flags & os.O_EXCL:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
                located = self._locate(path, dir_fd)
                assert located
                node = disk.find(located[1])
                if flags & os.O_DIRECTORY:
                    disk.folder(node)
            else:
                with self._step(f"create {name}"):
                    node = disk.make(folder, name, File())
            return self._number(_Open(path, disk, node, append=bool(flags & os.O_APPEND)))

    def _number(self, opened: _Open) -> int:
        fd = _FIRST_FD + len(self._fds)
        self._fds[fd] = opened
        return fd

    def close(self, fd: int) -> None:
        """Numbers are not given out again."""

    def write(self, fd: int, data: Any) -> int:
        opened, data = self._fds[fd], bytes(data)
        if opened.disk is None:
            with self._step(f"release {data.decode().strip()}"):
                machine = self.world.machine
                return (machine.write_release if opened.where == self.release_region else machine.write_fadump)(data)
        with self._lock:
            at = len(opened.disk.file(opened.node).seen) if opened.append else opened.position
            with self._step(f"write {len(data)}" if opened.disk is not self.world.run else f"note {data.decode()}"):
                opened.disk.write(opened.node, at, data)
            opened.position = at + len(data)
        return len(data)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        opened = self._fds[fd]
        if opened.disk is None:
            with self._lock:
                return self.world.machine.read(offset, length)
        return opened.disk.file(opened.node).seen[offset : offset + length]

    def preadv(self, fd: int, buffers: list[memoryview], offset: int) -> int:
        data = self.pread(fd, len(buffers[0]), offset)
        buffers[0][: len(data)] = data
        return len(data)

    def fsync(self, fd: int) -> None:
        opened = self._fds[fd]
        assert opened.disk
        with self._step(f"fsync {opened.where}"):
            opened.disk.sync(opened.node)

    fdatasync = fsync

    def posix_fallocate(self, fd: int, offset: int, length: int) -> None:
        """Room is no part of the model."""

    def posix_fadvise(self, fd: int, offset: int, length: int, advice: int) -> None:
        """Nor is the page cache: what is read is what was written, until a crash."""


@contextmanager
def installed(calls: Calls) -> Iterator[Calls]:
    """Put ``calls`` in the place of ``os`` in every module that touches the store, /run, the source or the machine."""
    locks = SimpleNamespace(**{k: getattr(fcntl, k) for k in dir(fcntl) if not k.startswith("_")})
    locks.fcntl = lambda fd, what, value=0: 0 if fd >= _FIRST_FD else fcntl.fcntl(fd, what, value)
    locks.flock = lambda fd, what: None
    with (
        mock.patch.object(local, "os", calls),
        mock.patch.object(local_upload, "os", calls),
        mock.patch.object(journal, "os", calls),
        mock.patch.object(journal, "fcntl", locks),
        mock.patch.object(source, "os", calls),
        mock.patch.object(phyp, "os", calls),
        mock.patch.object(fadump, "os", calls),
        mock.patch.object(local, "_volatile", lambda root: ""),
        mock.patch.dict(sys.modules, {"fcntl": locks}),
    ):
        yield calls
