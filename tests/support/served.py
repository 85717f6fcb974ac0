"""An emulated machine in a process of its own, mounted: for collectors that are real processes and get killed."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import dumpvault
from support.machine import Form, Machine, standard_layout

__all__ = ["Served", "need_fuse", "served"]

_TESTS = Path(__file__).parents[1]
_WAIT = 20.0


def need_fuse() -> None:
    """Skip, with the reason, where file systems in user space cannot be had."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("NO /dev/fuse: the emulated machine cannot be mounted, nothing was proved here")
    if not (shutil.which("fusermount3") or shutil.which("fusermount")):
        pytest.skip("NO fusermount3: apt-get install fuse3; nothing was proved here")
    try:
        importlib.import_module("mfusepy")
    except (ImportError, OSError) as error:
        pytest.skip(f"NO mfusepy ({error}): pip install mfusepy, apt-get install fuse3; nothing was proved here")


@dataclass
class Served:
    """A mounted machine. It lives until ``stop`` and remembers everything, whoever dies meanwhile."""

    mountpoint: Path
    process: subprocess.Popen[bytes]
    seed: int
    pages: int
    page: int
    bad_pages: tuple[int, ...]

    @property
    def vmcore(self) -> Path:
        return self.mountpoint / "vmcore"

    @property
    def sysfs(self) -> Path:
        return self.mountpoint / "sys"

    def state(self) -> dict[str, Any]:
        """What was done to the machine so far; see ``Machine.state``."""
        # In one read, for the machine may change between two.
        with open(self.mountpoint / "state.json", "rb", buffering=0) as file:
            return dict(json.loads(file.read(128 << 10).splitlines()[0]))

    def twin(self) -> Machine:
        """The same machine in this process, brought to the same state: for ``lost`` and ``pristine``."""
        machine = Machine(standard_layout(self.pages, self.page), self.seed, bad_pages=self.bad_pages)
        machine.replay(self.state())
        return machine

    def stop(self) -> None:
        """End the process; it unmounts. Fails when it does not."""
        self.process.terminate()
        try:
            self.process.wait(_WAIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if os.path.ismount(self.mountpoint):
            unmount = shutil.which("fusermount3") or "fusermount"
            subprocess.run([unmount, "-u", "-z", str(self.mountpoint)], check=False)
            raise AssertionError(f"{self.mountpoint} was still mounted after its process ended")


@contextmanager
def served(
    mountpoint: Path,
    *,
    seed: int = 1,
    pages: int = 256,
    page: int = 4096,
    release: str = "phyp",
    form: Form = "one-line",
    bad_pages: tuple[int, ...] = (),
) -> Iterator[Served]:
    """Mount a machine with ``standard_layout(pages, page)`` on ``mountpoint``, which is made; unmount it at the end."""
    need_fuse()
    mountpoint.mkdir(parents=True, exist_ok=True)
    options = [f"--seed={seed}", f"--pages={pages}", f"--page={page}", f"--release={release}", f"--form={form}"]
    options += [f"--bad-page={number}" for number in bad_pages]
    paths = [str(_TESTS), str(Path(dumpvault.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, "-m", "support.machine_fuse", str(mountpoint), *options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    machine = Served(mountpoint, process, seed, pages, page, bad_pages)
    try:
        deadline = time.monotonic() + _WAIT
        while not os.path.ismount(mountpoint):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the emulated machine was not mounted on {mountpoint}: exit {process.poll()}")
            time.sleep(0.02)
        yield machine
    finally:
        machine.stop()
