"""The system calls of a local store and of the journal, each one to be counted, refused or not survived."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from dumpvault.stages import journal
from dumpvault.stages.release.phyp import PhypRelease
from dumpvault.stages.store import local, local_upload

__all__ = ["CHANGES", "Hook", "watched"]

#: What changes anything, by the names that hooks are given.
CHANGES = ("create", "write", "link", "unlink", "mkdir", "fallocate", "note", "release")
#: Called before each call with what it is and what it is done to: a path, or the inode of a descriptor.
Hook = Callable[[str, object], None]

_NAMES = {
    "write": "write",
    "link": "link",
    "unlink": "unlink",
    "makedirs": "mkdir",
    "posix_fallocate": "fallocate",
    "fdatasync": "fsync file",
}


class _Os:
    """The ``os`` module, with a hook before the calls that a store's promises rest on."""

    def __init__(self, hook: Hook, names: dict[str, str]) -> None:
        self._hook = hook
        self._names = names

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in ("open", "fsync", *self._names):
            return real

        def call(*arguments: Any, **options: Any) -> Any:
            what = self._kind(name, arguments)
            if what:
                first = arguments[0]
                self._hook(what, os.fstat(first).st_ino if isinstance(first, int) else first)
            return real(*arguments, **options)

        return call

    def _kind(self, name: str, arguments: tuple[Any, ...]) -> str:
        if name == "open":
            return "create" if arguments[1] & os.O_CREAT else "open"
        if name == "fsync":
            return "fsync directory" if stat.S_ISDIR(os.fstat(arguments[0]).st_mode) else "fsync file"
        if name == "makedirs" and os.path.isdir(arguments[0]):
            return ""
        return self._names[name]


@contextmanager
def watched(hook: Hook) -> Iterator[None]:
    """Within, ``hook`` sees each of a local store's calls, notes in the journal, and releases. It may raise."""
    perform = PhypRelease.perform

    def performed(releaser: PhypRelease, release: Any) -> str:
        hook("release", (release.start, release.length))
        return perform(releaser, release)

    store = _Os(hook, _NAMES)
    with (
        mock.patch.object(local, "os", store),
        mock.patch.object(local_upload, "os", store),
        mock.patch.object(journal, "os", _Os(hook, {"write": "note"})),
        mock.patch.object(PhypRelease, "perform", performed),
    ):
        yield
