"""What a home remembers of ledgers: for each origin the last checkpoint it verified (docs/spec/ledger.md, section 5).

One file for each origin, replaced durably under a lock, and only by a checkpoint that is not smaller. It also says in
which stores that ledger was, so that one that has vanished from its store is noticed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dumpvault.errors import Forged, StoreFailed
from dumpvault.formats import jcs
from dumpvault.formats.checkpoint import ORIGIN, Checkpoint
from dumpvault.model import FORMAT

__all__ = ["Known", "Remembered"]

_LIMIT = 1 << 16
_STORES = 64


@dataclass(frozen=True, slots=True)
class Known:
    """A ledger that this home has seen: its last checkpoint, None as long as it had none, and the stores it was in."""

    origin: str
    checkpoint: Checkpoint | None
    stores: tuple[str, ...]

    def encode(self) -> bytes:
        held = self.checkpoint and {"root": self.checkpoint.root.hex(), "size": jcs.quantity(self.checkpoint.size)}
        return jcs.encode({"checkpoint": held, "format": FORMAT, "origin": self.origin, "stores": list(self.stores)})

    @classmethod
    def read(cls, data: bytes, name: str) -> Known:
        fields = jcs.Fields(jcs.decode(data, name, _LIMIT), name)
        fields.format(FORMAT)
        origin = fields.text("origin", ORIGIN.pattern)
        checkpoint = None
        if not fields.is_null("checkpoint"):
            held = fields.object("checkpoint")
            checkpoint = Checkpoint(origin, held.quantity("size"), bytes.fromhex(held.digest("root")))
            held.done()
        stores = fields.take("stores")
        if not isinstance(stores, list) or not all(isinstance(one, str) for one in stores):
            fields.refuse("has bad 'stores'")
        fields.done()
        return cls(origin, checkpoint, tuple(stores))


class Remembered:
    """A home's memory, in the directory ``folder``."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def of(self, origin: str) -> Known | None:
        """Raises ``Forged`` where what is remembered cannot be read: it is then not to be gone on without."""
        path = self.path(origin)
        if not os.path.lexists(path):
            return None
        return self._read(path)

    def of_store(self, url: str) -> list[Known]:
        """The ledgers that were seen in that store."""
        names = sorted(os.listdir(self.folder)) if os.path.isdir(self.folder) else []
        found = [self._read(os.path.join(self.folder, name)) for name in names if name.endswith(".json")]
        return [known for known in found if url in known.stores]

    def keep(
        self, origin: str, url: str, seen: Checkpoint | None, check: Callable[[Checkpoint, Checkpoint], None]
    ) -> None:
        """Remember that ledger ``origin`` is in store ``url``, with the checkpoint ``seen``; durable on return.

        ``check`` raises if ``seen`` does not continue what is remembered: another command of this home may have gone on
        meanwhile. Raises ``Forged`` or ``StoreFailed``.
        """
        try:
            with self._locked():
                old = self.of(origin) or Known(origin, None, ())
                checkpoint = old.checkpoint
                if seen and checkpoint and seen.size == checkpoint.size and seen.root != checkpoint.root:
                    raise Forged(
                        f"ledger {origin}: forked: this home has verified another tree of {seen.size} entries",
                        "Keep this home's memory of it, and find out who changed the store.",
                    )
                if seen and (checkpoint is None or seen.size > checkpoint.size):
                    if checkpoint:
                        check(checkpoint, seen)
                    checkpoint = seen
                stores = old.stores if url in old.stores else (*old.stores, url)[-_STORES:]
                new = Known(origin, checkpoint, stores)
                if new != old:
                    self._write(self.path(origin), new.encode())
        except OSError as error:
            raise StoreFailed(
                f"{error.filename or self.folder}: {error.strerror}",
                "This home cannot remember the ledger, so it does not write to it. Make its directory writable.",
            ) from None

    def path(self, origin: str) -> str:
        """The file that holds what is known of a ledger."""
        return os.path.join(self.folder, f"{hashlib.sha256(origin.encode()).hexdigest()[:32]}.json")

    def _read(self, path: str) -> Known:
        try:
            with open(path, "rb") as file:
                return Known.read(file.read(_LIMIT + 1), path)
        except OSError as error:
            raise StoreFailed(f"{path}: {error.strerror}", "What this home remembers of the ledger is there.") from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        fd = os.open(os.path.join(self.folder, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _write(self, path: str, data: bytes) -> None:
        temporary = f"{path}.{secrets.token_hex(4)}.new"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
