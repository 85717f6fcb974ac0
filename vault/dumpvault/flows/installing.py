"""Files below a root as they are and as they would be: shown as a diff, written each atomically, all or none at first."""

from __future__ import annotations

import difflib
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass

from dumpvault.errors import BadInput, StoreFailed

__all__ = ["Change", "apply", "read_below"]


@dataclass(frozen=True, slots=True)
class Change:
    """One file: ``path`` as the integrated system sees it, text before and after; None where there is no file.

    ``edited``: what is there is neither what we would write nor a file whose administrator's lines are kept.
    """

    path: str
    before: str | None
    after: str | None
    mode: int
    edited: bool = False

    @property
    def action(self) -> str:
        if self.before is None:
            return "create"
        return "remove" if self.after is None else "replace" if self.edited else "change"

    @property
    def diff(self) -> str:
        old = [] if self.before is None else self.before.splitlines(keepends=True)
        new = [] if self.after is None else self.after.splitlines(keepends=True)
        names = ("/dev/null" if self.before is None else self.path, "/dev/null" if self.after is None else self.path)
        lines = difflib.unified_diff(old, new, *names)
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def apply(root: str, changes: tuple[Change, ...], *, replace: bool) -> None:
    """Write every change. Nothing is written if any of them cannot be, as far as can be seen before.

    Files that somebody edited are refused without ``replace``; with it they are kept beside, as ``NAME.dpkg-old``,
    which is what initramfs-tools, GRUB, systemd and dpkg pass over.
    """
    edited = [change.path for change in changes if change.edited]
    if edited and not replace:
        raise BadInput(
            f"{', '.join(edited)}: there already, and not what dumpvault would write",
            "Nothing was written. Read the diff; --replace goes on and keeps the old as NAME.dpkg-old.",
        )
    for change in changes:
        _check_writable(root, change.path)
    for change in changes:
        target = _below(root, change.path)
        try:
            mode = stat.S_IMODE(os.stat(target).st_mode) if change.before is not None else change.mode
            if change.edited and change.before is not None:
                # Never executable: initramfs-tools would run it beside the new one.
                _write(f"{target}.dpkg-old", change.before, mode & 0o666)
            if change.after is not None:
                _write(target, change.after, mode | (change.mode & 0o111))
            else:
                os.unlink(target)
        except OSError as error:
            raise StoreFailed(
                f"{change.path}: {error.strerror}", "What came before it was written whole; run this again to go on."
            ) from None


def read_below(root: str, path: str) -> str | None:
    """The text of a file below ``root``; None if there is none. Raises ``BadInput``."""
    try:
        with open(_below(root, path), encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BadInput(f"{os.path.join(root, path)}: {error.strerror}", "Nothing was written.") from None


def _below(root: str, path: str) -> str:
    """Where ``path`` is below ``root``; a link that leads out of it is refused."""
    full = os.path.join(root, path.lstrip("/"))
    real = os.path.realpath(full)
    if os.path.commonpath([root, real]) != root:
        raise BadInput(
            f"{full} leads out of {root}, to {real}", "Run dumpvault inside that system. Nothing was written."
        )
    return real


def _check_writable(root: str, path: str) -> None:
    here = os.path.dirname(_below(root, path))
    while not os.path.exists(here):
        here = os.path.dirname(here)
    if not os.access(here, os.W_OK):
        raise StoreFailed(f"{path}: {here} cannot be written", "Nothing was written. Is it mounted read-only?")


def _write(path: str, text: str, mode: int) -> None:
    directory = os.path.dirname(path)
    os.makedirs(directory, exist_ok=True)
    temporary = f"{path}.dpkg-{secrets.token_hex(4)}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            os.fchmod(fd, mode)
            file.write(text)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
