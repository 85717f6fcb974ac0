"""Checkpoints of a log (C2SP tlog-checkpoint): origin, size and root, three lines that are signed as a note."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass

from dumpvault.errors import Forged
from dumpvault.formats.note import Note, sign
from dumpvault.formats.sshkey import CanSign, Signer

__all__ = ["ORIGIN", "Checkpoint"]

#: What a ledger may be called (docs/spec/ledger.md, section 1).
ORIGIN = re.compile(r"[!-*,-~]{1,200}")
_SIZE = re.compile(r"0|[1-9][0-9]{0,12}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tree of a log at a size: so many entries, with this root."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    def sign(self, key: CanSign) -> bytes:
        """The note, signed by a log's Ed25519 key under the origin's name."""
        return Note(self.text, (sign(self.text, self.origin, key),)).encode()

    @classmethod
    def read(cls, note: Note, where: str) -> Checkpoint:
        """What a note says; its signatures are the caller's to check. Raises ``Forged``."""
        lines = note.text[:-1].split("\n")
        try:
            origin, size, root = lines
            found = cls(origin, int(size), base64.b64decode(root, validate=True))
        except (ValueError, binascii.Error):
            found = None
        if found is None or not ORIGIN.fullmatch(origin) or not _SIZE.fullmatch(size) or len(found.root) != 32:
            raise Forged(f"{where}: not a checkpoint of three lines", "Restore it from a copy.")
        if found.text != note.text:
            raise Forged(f"{where}: not in a checkpoint's own spelling", "Restore it from a copy.")
        return found

    @classmethod
    def verified(cls, data: bytes, origin: str, logs: Iterable[Signer], where: str) -> tuple[Checkpoint, Note]:
        """A checkpoint of ``origin`` that one of ``logs`` signed. Raises ``Forged``."""
        note = Note.parse(data, where)
        signed = [note.signed_by(origin, key, where) for key in logs]
        if not any(signed):
            raise Forged(
                f"{where}: no trusted log's key signed it as {origin}",
                "If the key is genuine, add it with role log to allowed_signers; else do not trust this ledger.",
            )
        found = cls.read(note, where)
        if found.origin != origin:
            raise Forged(f"{where}: a checkpoint of another log, {found.origin}", "Do not trust this ledger.")
        return found, note
