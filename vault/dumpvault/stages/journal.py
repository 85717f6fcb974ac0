"""The journal of releases in /run: it lives exactly as long as the freed state does, and outlasts a killed collector.

A store can be rolled back under a collector (a snapshot, a failed-over array). Freed pages would then be read again and
sealed as genuine. So each tip that authorises releases is noted here before they are performed, and a later attempt
that finds its store behind the journal refuses.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from dataclasses import dataclass, field

from dumpvault.errors import StoreFailed

__all__ = ["Journal", "Noted"]


@dataclass(slots=True)
class Noted:
    """What earlier attempts of this boot noted: the vault, its newest tip that authorised releases, their states."""

    vault: str = ""
    commit: int = -1
    digest: str = ""
    states: dict[tuple[int, int], str] = field(default_factory=dict)


class Journal:
    """One dump's journal and lock, in ``directory``. ``name`` tells dumps apart, ``boot_id`` boots.

    Raises ``StoreFailed`` if another collector holds the lock, or the directory cannot be used.
    """

    def __init__(self, directory: str, name: str, boot_id: str | None) -> None:
        self._boot_id = boot_id
        self._path = os.path.join(directory, f"{name[:32]}.journal")
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES) and os.path.exists(self._path):
                raise StoreFailed(
                    f"{self._path} is locked: another collector is at work on this dump",
                    "Let it finish; its vault is found with 'dumpvault list'.",
                ) from None
            raise StoreFailed(f"{self._path}: {error.strerror}", "The journal of releases must be writable.") from None
        self.noted = self._read()

    def tip(self, vault: str, commit: int, digest: str) -> None:
        """Commit ``commit`` is durable and authorises releases."""
        self._append({"commit": commit, "digest": digest, "vault": vault})

    def state(self, commit: int, release: int, state: str) -> None:
        """``begun`` before a release is performed; ``released`` or ``failed`` after."""
        self._append({"of": [commit, release], "state": state})

    def close(self) -> None:
        os.close(self._fd)

    def _append(self, entry: dict[str, object]) -> None:
        # Begun on a line of its own: what a killed collector or a full /run left torn must not swallow this entry.
        line = "\n" + json.dumps(entry | {"boot_id": self._boot_id}, sort_keys=True) + "\n"
        try:
            if os.write(self._fd, line.encode()) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise StoreFailed(
                f"{self._path}: {error.strerror}", "Nothing more is released: a release that is not noted is not made."
            ) from None

    def _read(self) -> Noted:
        noted = Noted()
        size = os.fstat(self._fd).st_size
        for line in os.pread(self._fd, size, 0).splitlines():
            try:
                entry = json.loads(line)
                if entry["boot_id"] != self._boot_id:
                    continue  # another boot's memory; that state is gone
                if "vault" in entry:
                    noted.vault, noted.commit, noted.digest = entry["vault"], entry["commit"], entry["digest"]
                else:
                    commit, release = entry["of"]
                    noted.states[commit, release] = entry["state"]
            except (ValueError, KeyError, TypeError):
                continue  # a torn line of a killed collector: what it was to note had not begun
        return noted
