"""Keep keys and opened memory inside this process: out of core dumps, of other processes' reach, and of swap.

What this cannot do stands in docs/how-to/keys.md: Python does not wipe what it frees.
"""

from __future__ import annotations

import os
import resource

__all__ = ["keep_from_dumps", "keep_out_of_swap", "swaps"]

_SET_DUMPABLE = 4  # prctl(2)
_CURRENT, _FUTURE, _ON_FAULT = 1, 2, 4  # mlockall(2)


def keep_from_dumps() -> None:
    """No core dump of this process, and no other process of its user may attach to it or read its memory.

    prctl(2)'s PR_SET_DUMPABLE holds until another program is executed, and in children that are forked; a limit of 0
    for core files, which children inherit, is obeyed where cores are files. Root can still read everything.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    _libc("prctl", _SET_DUMPABLE, 0, 0, 0, 0)


def keep_out_of_swap(*, shared: bool = False) -> list[str]:
    """Lock all that this process has and will map, as it is touched; returns the swaps that it may reach all the same.

    ``shared`` says that other programs are given what is opened: their memory is not locked, so swaps are named for them.

    Without the right to lock any amount of memory nothing is locked: a limit reached later would end the program.
    Swap that stays in memory (zram) or that device-mapper encrypts with a key of this boot is not told apart from other
    swap by anything but its name, so all but zram are named. Linux only; elsewhere nothing is known and nothing named.
    """
    if _may_lock() and _libc("mlockall", _CURRENT | _FUTURE | _ON_FAULT) == 0 and not shared:
        return []
    return [name for name in swaps() if not os.path.basename(name).startswith("zram")]


def swaps() -> list[str]:
    """The names of all swaps that are on."""
    try:
        with open("/proc/swaps", encoding="utf-8", errors="replace") as file:
            return [line.split()[0] for line in file.readlines()[1:] if line.strip()]
    except OSError:
        return []


def _may_lock() -> bool:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return soft == resource.RLIM_INFINITY or os.geteuid() == 0


def _libc(name: str, *arguments: int) -> int:
    """Call a function of the C library whose arguments are numbers.

    By cffi's core, which cryptography has loaded anyway: ctypes would cost a crash kernel a MiB.
    """
    import _cffi_backend as cffi  # type: ignore[import-untyped]

    number, result = cffi.new_primitive_type("unsigned long"), cffi.new_primitive_type("int")
    kind = cffi.new_function_type((number,) * len(arguments), result, False)
    return int(cffi.load_library(None, 0).load_function(kind, name)(*arguments))
