"""``dumpvault mount``, running: the installed command, waited for by its own word, and unmounted whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support.command import COMMAND, Home

__all__ = ["Mounted", "mounted", "require_fuse"]


def require_fuse() -> None:
    """Skip, loudly, where nothing can be mounted."""
    if not os.path.exists("/dev/fuse") or os.geteuid() != 0:
        pytest.skip("NOT TESTED: needs root and /dev/fuse")


@dataclass
class Mounted:
    """A mount that serves. ``told`` is what it said on standard error so far."""

    path: Path
    process: subprocess.Popen[str]
    told: list[str] = field(default_factory=list)
    ready: Any = None
    _listener: threading.Thread | None = None

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def listen(self) -> None:
        def run() -> None:
            assert self.process.stderr
            self.told.extend(iter(self.process.stderr.readline, ""))

        self._listener = threading.Thread(target=run, daemon=True)
        self._listener.start()

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """End it with a signal; its exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(60)
        if self._listener:
            self._listener.join()
        return code

    @property
    def err(self) -> str:
        return "".join(self.told)


def is_mounted(path: Path) -> bool:
    """Whether the kernel lists something at ``path``, without asking what is mounted there."""
    return any(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


@contextmanager
def mounted(
    home: Home, vault: str, path: Path, *options: object, before: Sequence[object] = (), **popen: Any
) -> Iterator[Mounted]:
    """Mount ``vault`` at ``path``, which is made; ``before`` are words in front of the command."""
    require_fuse()
    with suppress(FileExistsError):
        os.mkdir(path)  # pathlib would look at what a killed mount left there
    command = [*before, COMMAND, "mount", vault, path, "--json", *options]
    process = subprocess.Popen(
        list(map(str, command)), env=popen.pop("env", home.env), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, **popen,
    )  # fmt: skip
    mount = Mounted(path, process)
    mount.listen()
    try:
        assert process.stdout
        text = ""
        for line in process.stdout:
            text += line
            if line == "}\n":
                break
        assert text, f"not mounted: exit {mount.wait()}\n{mount.err}"
        mount.ready = json.loads(text)
        yield mount
    finally:
        if process.poll() is None:
            process.kill()
        mount.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe
            pipe.close()
        if is_mounted(path):
            subprocess.run(["umount", "--lazy", str(path)], check=False)
