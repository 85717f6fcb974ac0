"""Collectors in processes of their own, to be killed or stopped at any moment, and the machine that outlives them.

A collector is a fork of the test's process, so starting one costs nothing. It runs ``dumpvault.cli.main`` unchanged;
only what ``/proc/vmcore`` and ``release_region`` would do is asked of the machine over a socket, one request a call.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import random
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from time import monotonic
from typing import Any, Protocol
from unittest import mock

from dumpvault.cli import capture as _capture  # noqa: F401 - loaded once, before any fork
from dumpvault.cli import main
from dumpvault.flows import resuming as _resuming  # noqa: F401
from dumpvault.flows.site import Site
from dumpvault.formats.policy import Policy
from dumpvault.stages import source
from dumpvault.stages.release import phyp
from dumpvault.stages.store import local
from support.command import Home, Ran
from support.machine import Machine
from support.watched import Hook, watched

__all__ = ["Child", "Hands", "World", "wired"]

_REQUEST = struct.Struct("<cqI")
_ANSWER = struct.Struct("<iI")


class Hardware(Protocol):
    """What a collector can do to a machine; ``Machine`` is one, and ``_Remote`` is one at the end of a socket."""

    def read(self, offset: int, length: int) -> bytes: ...

    def write_release(self, data: bytes) -> int: ...


class Hands:
    """The ``os`` module, except that two files are the machine's: its vmcore, and its release_region for writing."""

    def __init__(self, machine: Hardware, folder: Path) -> None:
        self._machine = machine
        self._paths = {str(folder / "vmcore"): "vmcore", str(folder / "sys/kernel/release_region"): "release"}
        self._mine: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: str, flags: int, *more: Any, **options: Any) -> int:
        fd = os.open(path, flags, *more, **options)
        if kind := self._paths.get(path):
            self._mine[fd] = kind
        return fd

    def close(self, fd: int) -> None:
        self._mine.pop(fd, None)
        os.close(fd)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        return self._machine.read(offset, length) if fd in self._mine else os.pread(fd, length, offset)

    def preadv(self, fd: int, views: list[memoryview], offset: int) -> int:
        if fd not in self._mine:
            return os.preadv(fd, views, offset)
        data = self._machine.read(offset, len(views[0]))
        views[0][: len(data)] = data
        return len(data)

    def write(self, fd: int, data: bytes) -> int:
        return self._machine.write_release(bytes(data)) if fd in self._mine else os.write(fd, data)


@contextmanager
def wired(machine: Hardware, folder: Path, **bounds: Any) -> Iterator[None]:
    """Within, captures of ``folder``/vmcore see ``machine``, and policies have the fields ``bounds``."""
    hands, whole = Hands(machine, folder), Site.policy

    def policy(site: Site, name: str | None = None) -> Policy:
        return dataclasses.replace(whole(site, name), **bounds)

    with (
        mock.patch.object(source, "os", hands),
        mock.patch.object(phyp, "os", hands),
        mock.patch.object(Site, "policy", policy),
    ):
        yield


class _Remote:
    """The collector's end of the socket."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire
        self._lock = threading.Lock()

    def read(self, offset: int, length: int) -> bytes:
        return self._ask(b"R", offset, length, b"")

    def write_release(self, data: bytes) -> int:
        self._ask(b"W", 0, len(data), data)
        return len(data)

    def _ask(self, what: bytes, offset: int, length: int, data: bytes) -> bytes:
        with self._lock:
            self._wire.sendall(_REQUEST.pack(what, offset, length) + data)
            number, size = _ANSWER.unpack(_exactly(self._wire, _ANSWER.size))
            answer = _exactly(self._wire, size)
        if number:
            raise OSError(number, os.strerror(number))
        return answer


def _exactly(wire: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = wire.recv(length - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


@dataclasses.dataclass
class Child:
    """A collector's process, seen from the machine. ``code`` is its exit code, negative for a signal, None while it lives."""

    pid: int
    wire: socket.socket
    output: Path
    code: int | None = None
    requests: int = 0

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """A signal to this very process, which was started here and is not yet waited for."""
        if self.code is None:
            os.kill(self.pid, number)


class World:
    """A machine with its files in ``folder``, whose collectors seal into ``home``'s store.

    ``before`` is called before each request is served, with the collector and what it asks for (``R`` or ``W``). While
    ``pretend`` is true, a store in memory passes for one on a disk.
    """

    def __init__(self, home: Home, machine: Machine, folder: Path, *options: object, **bounds: Any) -> None:
        self.home, self.machine, self.folder = home, machine, folder
        self.options, self.bounds = options, bounds
        self.pretend = True
        self.before: Callable[[Child, str], None] = lambda child, what: None
        self.children: list[Child] = []
        (folder / "sys/kernel").mkdir(parents=True)
        with (folder / "vmcore").open("wb") as file:
            file.truncate(machine.size)
        (folder / "sys/kernel/release_region").write_text(machine.release_region_text())

    @property
    def arguments(self) -> list[str]:
        """The command line of a capture of this machine."""
        vmcore = str(self.folder / "vmcore")
        names = ["--vmcore", vmcore, "--sysfs", str(self.folder / "sys"), "--recipient", "analyst"]
        return ["capture", vmcore, *names, "--signer", "collector", *map(str, self.options)]

    def start(self, *options: object, hook: Hook | None = None, **environ: str) -> Child:
        """Fork a collector; ``hook`` is called in it before each call that a store's promises rest on."""
        ours, theirs = socket.socketpair()
        output = self.folder / f"output-{len(self.children)}"
        arguments, env = [*self.arguments, *map(str, options)], self.home.env | environ
        pid = os.fork()
        if not pid:
            ours.close()
            _live(theirs, output, arguments, env, lambda: self._inside(_Remote(theirs), hook))
        theirs.close()
        child = Child(pid, ours, output)
        self.children.append(child)
        return child

    def capture(self, *options: object, hook: Hook | None = None) -> Ran:
        """A capture in this process, without any socket."""
        with self._inside(self.machine, hook):
            return self.home.call(*self.arguments, *options)

    @contextmanager
    def _inside(self, machine: Hardware, hook: Hook | None) -> Iterator[None]:
        disk = mock.patch.object(local, "_volatile", lambda root: "") if self.pretend else nullcontext()
        with wired(machine, self.folder, **self.bounds), disk, watched(hook) if hook else nullcontext():
            yield

    def run(self, child: Child, seconds: float | None = None) -> int | None:
        """Serve all collectors until ``child`` has ended, or for so many seconds; its exit code, or None if it lives."""
        until = None if seconds is None else monotonic() + seconds
        while child.code is None:
            left = None if until is None else until - monotonic()
            if left is not None and left <= 0:
                break
            self.turn(left)
        return child.code

    def turn(self, timeout: float | None = None) -> None:
        """Serve one request of each collector that has one."""
        alive = {child.wire: child for child in self.children if child.code is None}
        for wire in select.select(list(alive), [], [], timeout)[0]:
            self._serve(alive[wire])

    def run_until_stopped(self, child: Child) -> bool:
        """Serve all collectors until ``child`` has stopped itself (True) or has ended."""
        while child.code is None:
            pid, status = os.waitpid(child.pid, os.WNOHANG | os.WUNTRACED)
            if pid and os.WIFSTOPPED(status):
                return True
            if pid:
                child.code = os.waitstatus_to_exitcode(status)
                child.wire.close()
                break
            self.turn(0.005)
        return False

    def kill(self, child: Child, rng: random.Random) -> bool:
        """SIGKILL. A release that it had begun to write may or may not still happen; whether it was alive until now."""
        child.signal(signal.SIGKILL)
        _, status = os.waitpid(child.pid, 0)
        child.code = os.waitstatus_to_exitcode(status)
        if rng.random() < 0.5:
            self._serve(child)
        child.wire.close()
        return child.code == -signal.SIGKILL

    def end(self) -> None:
        """Kill whatever still runs."""
        for child in self.children:
            if child.code is None:
                self.kill(child, random.Random(1))

    def _serve(self, child: Child) -> None:
        try:
            what, offset, length = _REQUEST.unpack(_exactly(child.wire, _REQUEST.size))
            data = _exactly(child.wire, length) if what == b"W" else b""
        except (EOFError, ConnectionError):
            if child.code is None:
                _, status = os.waitpid(child.pid, 0)
                child.code = os.waitstatus_to_exitcode(status)
                child.wire.close()
            return
        child.requests += 1
        self.before(child, what.decode())
        number, answer = 0, b""
        try:
            if what == b"W":
                self.machine.write_release(data)
            else:
                answer = self.machine.read(offset, length)
        except OSError as error:
            number = error.errno or errno.EIO
        with suppress(ConnectionError):
            child.wire.sendall(_ANSWER.pack(number, len(answer)) + answer)


def _live(
    wire: socket.socket, output: Path, arguments: list[str], env: dict[str, str], inside: Callable[[], Any]
) -> None:
    """A collector's whole life. Never returns, and leaves nothing of the test's process to be tidied up."""
    code = 70
    try:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for fd in (1, 2):
            os.dup2(file, fd)
        sys.stdout, sys.stderr = (open(fd, "w", buffering=1, closefd=False) for fd in (1, 2))  # noqa: SIM115
        os.environ.clear()
        os.environ.update(env)
        with inside():
            main(arguments)
    except SystemExit as done:
        code = int(done.code or 0)
    except BaseException as error:  # noqa: BLE001 - a fork must not go on as a second test run
        sys.stderr.write(f"{error!r}\n")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
