"""Where a store stands: its kind, its file system's mount point and UUID. Nothing is made; the store need not exist yet."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

from dumpvault.formats.policy_facts import Place

__all__ = ["place_of"]

_BY_UUID = "/dev/disk/by-uuid"
#: FS_IOC_GETFSUUID, _IOR(0x15, 0, struct fsuuid2): include/uapi/linux/fs.h, Linux 6.9 on.
_GETFSUUID = 0x80111500


def place_of(url: str) -> Place:
    """The place of the store that ``url`` names; what cannot be found out is None."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme != "file":
        return Place(scheme, None, None)
    path = os.path.realpath(rest if separator else url)
    while not os.path.exists(path) and path != "/":
        path = os.path.dirname(path)
    point = path
    while not os.path.ismount(point):
        point = os.path.dirname(point)
    return Place("directory", point, _uuid(path))


def _uuid(path: str) -> str | None:
    """The UUID of the file system that holds ``path``: the kernel's word, else udev's link to its device."""
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            told = fcntl.ioctl(fd, _GETFSUUID, bytes(17))
        finally:
            os.close(fd)
        if told[0] == 16 and any(told[1:17]):
            digits = told[1:17].hex()
            return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    with suppress(OSError):
        device = os.stat(path).st_dev
        for name in os.listdir(_BY_UUID):
            with suppress(OSError):
                if os.stat(os.path.join(_BY_UUID, name)).st_rdev == device:
                    return name
    return None
