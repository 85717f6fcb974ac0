"""Run crash on a vault: a private mount for as long as crash runs, and nothing left behind."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress

from dumpvault.errors import BadInput, VaultError
from dumpvault.flows.mount import mount
from dumpvault.flows.view import View
from dumpvault.stages.secrecy import keep_out_of_swap

__all__ = ["check_crash", "run_crash"]

_SET_PDEATHSIG = 1  # prctl(2)


def check_crash(vmlinux: str) -> str:
    """The path of crash. Raises ``VaultError`` if there is none, ``BadInput`` if ``vmlinux`` cannot be read."""
    program = shutil.which("crash")
    if program is None:
        raise VaultError("crash is not installed", "Debian: apt install crash; Fedora: dnf install crash.")
    if not os.access(vmlinux, os.R_OK) or os.path.isdir(vmlinux):
        raise BadInput(
            f"{vmlinux}: no file that can be read",
            "Name the crashed kernel's vmlinux with debug symbols (Debian: linux-image-…-dbg; Fedora: kernel-debuginfo).",
        )
    return program


def run_crash(
    view: View, vmlinux: str, arguments: Sequence[str], warn: Callable[[str], None], *, page_cache: bool
) -> int:
    """Mount ``view``, run ``crash ARGUMENTS VMLINUX VMCORE``, unmount; returns crash's exit status.

    The mount is served by a child process, which goes when this one does. Raises ``VaultError``.
    """
    crash = check_crash(vmlinux)
    name = view.dump_name
    place = tempfile.mkdtemp(prefix="dumpvault-", dir=_runtime())
    ready, told = os.pipe()
    server = os.fork()
    if server == 0:
        _serve(view, place, warn, page_cache, ready, told)
    os.close(told)
    pipe = os.fdopen(ready, "rb")
    try:
        if not pipe.read(1):
            raise VaultError(f"{place}: could not be mounted", "The reason stands above.")
        # Ctrl-C belongs to crash, which goes on after it; a handler, unlike SIG_IGN, is not inherited.
        before = signal.signal(signal.SIGINT, lambda *_: None)
        hangup = signal.signal(signal.SIGHUP, signal.default_int_handler)
        try:
            command = [crash, *arguments, vmlinux, os.path.join(place, name)]
            return subprocess.run(command, check=False).returncode  # noqa: S603
        finally:
            signal.signal(signal.SIGINT, before)
            signal.signal(signal.SIGHUP, hangup)
    finally:
        with suppress(ProcessLookupError):
            os.kill(server, signal.SIGTERM)
        with pipe:
            _take_over(view, pipe.read())
        os.waitpid(server, 0)


def _take_over(view: View, told: bytes) -> None:
    """What the child read counts as read by this process's view, which records it."""
    with suppress(ValueError, KeyError):  # a child that was killed told nothing, or half of it
        read = json.loads(told)
        view.reader.fetched += read["fetched"]
        view.reader.touched |= set(read["touched"])


def _serve(view: View, place: str, warn: Callable[[str], None], page_cache: bool, ready: int, told: int) -> None:
    """The child: serve until SIGTERM, which also comes when the parent dies. Never returns."""
    code = 1

    def ready_now(_: list[str]) -> None:
        os.write(told, b"!")

    try:
        os.close(ready)
        os.setsid()  # Ctrl-C on the terminal is not for the mount
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGTERM)
        keep_out_of_swap()  # the parent's locks are not inherited
        mount(view, place, warn, ready_now, page_cache=page_cache)
        code = 0
    except VaultError as error:
        warn(error.message)
        warn(error.hint)
    finally:
        with suppress(OSError), os.fdopen(told, "w") as pipe:
            json.dump({"fetched": view.reader.fetched, "touched": sorted(view.reader.touched)}, pipe)
        with suppress(OSError):
            os.rmdir(place)  # here, for the parent may have been killed
        os._exit(code)


def _runtime() -> str | None:
    """A directory of this user's in memory, where there is one; the mount point itself holds nothing."""
    for path in (os.environ.get("XDG_RUNTIME_DIR"), "/run" if os.geteuid() == 0 else None):
        if path and os.access(path, os.W_OK):
            return path
    return None
