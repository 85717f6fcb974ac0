"""Serve an emulated machine as files, in a process that outlives the collectors that are killed on it.

    python -m support.machine_fuse MOUNTPOINT --seed 1 --pages 256 --release phyp

MOUNTPOINT/vmcore, MOUNTPOINT/sys/kernel/release_region (or fadump/release_mem), and MOUNTPOINT/state.json: what was
done to the machine so far. Nothing is cached (direct_io): each read comes from memory as it is at that moment.

The kernel hands a large read on in pieces of 128 KiB: where a page is bad, what came before its piece counts.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import stat

import mfusepy

from support.machine import Machine, standard_layout

_STATE = "/state.json"
_VMCORE = "/vmcore"
_PHYP = "/sys/kernel/release_region"
_FADUMP = "/sys/kernel/fadump/release_mem"


class _Files(mfusepy.Operations):
    """The few calls that reading a dump and writing to sysfs take."""

    use_ns = True

    def __init__(self, machine: Machine, release: str, form: str) -> None:
        self.machine = machine
        self.text = machine.release_region_text(form).encode()  # type: ignore[arg-type]
        self.release_file = _PHYP if release == "phyp" else _FADUMP

    def _files(self) -> dict[str, tuple[int, int]]:
        """Path to mode and size. The vmcore is gone once fadump has released."""
        files = {
            _VMCORE: (0o400, self.machine.size),
            self.release_file: (0o600, 4096),
            _STATE: (0o444, len(self._state())),
        }
        if self.machine.fadump_released:
            del files[_VMCORE]
        return files

    def _folders(self) -> set[str]:
        folders = {"/"}
        for path in self._files():
            while (path := os.path.dirname(path)) != "/":
                folders.add(path)
        return folders

    def _state(self) -> bytes:
        return json.dumps(self.machine.state).encode() + b"\n"

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        if path in self._folders():
            return {"st_mode": stat.S_IFDIR | 0o555, "st_nlink": 2}
        mode, size = self._files().get(path) or self._missing()
        return {"st_mode": stat.S_IFREG | mode, "st_nlink": 1, "st_size": size}

    def readdir(self, path: str, fh: int) -> list[str]:
        below = [name for name in {*self._files(), *self._folders()} if name != "/" and os.path.dirname(name) == path]
        return [".", "..", *map(os.path.basename, below)]

    def open(self, path: str, flags: int) -> int:
        return 0 if path in self._files() else self._missing()

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        if path == _VMCORE:
            return self.machine.read(offset, size)
        shown = {_STATE: self._state(), _PHYP: self.text}.get(path, b"0\n")
        return shown[offset : offset + size]

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return (self.machine.write_release if self.release_file == _PHYP else self.machine.write_fadump)(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        return 0

    @staticmethod
    def _missing() -> int:
        raise mfusepy.FuseOSError(errno.ENOENT)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mountpoint")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pages", type=int, default=256)
    parser.add_argument("--page", type=int, default=4096)
    parser.add_argument("--bad-page", type=int, action="append", default=[])
    parser.add_argument("--release", choices=["phyp", "fadump"], default="phyp")
    parser.add_argument("--form", choices=["one-line", "wrapped", "dump-boot"], default="one-line")
    given = parser.parse_args()
    machine = Machine(standard_layout(given.pages, given.page), given.seed, bad_pages=given.bad_page)
    files = _Files(machine, given.release, given.form)
    # One thread, so that a release and a read never overlap; libfuse unmounts on SIGTERM.
    mfusepy.FUSE(files, given.mountpoint, foreground=True, nothreads=True, direct_io=True)


if __name__ == "__main__":
    main()
