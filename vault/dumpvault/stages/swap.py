"""Keep opened memory out of swap: mlockall(2) where this process may, and the names of swaps that could take it."""

from __future__ import annotations

import ctypes
import os
import resource

__all__ = ["keep_out_of_swap"]

_CURRENT, _FUTURE, _ON_FAULT = 1, 2, 4  # mlockall(2)


def keep_out_of_swap(*, shared: bool = False) -> list[str]:
    """Lock all that this process has and will map, as it is touched; returns the swaps that it may reach all the same.

    ``shared`` says that other programs are given what is opened: their memory is not locked, so swaps are named for them.

    Without the right to lock any amount of memory nothing is locked: a limit reached later would end the program.
    Swap that stays in memory (zram) or that device-mapper encrypts with a key of this boot is not told apart from other
    swap by anything but its name, so all but zram are named. Linux only; elsewhere nothing is known and nothing named.
    """
    if _may_lock():
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mlockall(_CURRENT | _FUTURE | _ON_FAULT) == 0 and not shared:
            return []
    try:
        with open("/proc/swaps", encoding="utf-8", errors="replace") as file:
            names = [line.split()[0] for line in file.readlines()[1:] if line.strip()]
    except OSError:
        return []
    return [name for name in names if not os.path.basename(name).startswith("zram")]


def _may_lock() -> bool:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return soft == resource.RLIM_INFINITY or os.geteuid() == 0
