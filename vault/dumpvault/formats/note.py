"""Signed notes (C2SP signed-note) with Ed25519: a text, an empty line, and a line for each signature.

Also the timestamped cosignatures of witnesses (C2SP tlog-cosignature, type 0x04), which are such lines.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from dumpvault.errors import Forged
from dumpvault.formats.sshkey import CanSign, Signer

__all__ = ["COSIGNATURE", "LIMIT", "LINES", "SIGNATURE", "Line", "Note", "cosign", "cosigned", "key_id", "sign"]

#: Bytes of a note, and the most signature lines in it.
LIMIT = 16384
LINES = 16
#: Signature types of signed-note and tlog-cosignature.
SIGNATURE, COSIGNATURE = 1, 4
_CONTROL = re.compile("[\0-\x09\x0b-\x1f]")
_LINE = re.compile("— ([^ +\\s]+) ([A-Za-z0-9+/]+={0,2})")


def key_id(name: str, kind: int, public: bytes) -> bytes:
    """The four bytes that tell which key of a name signed, and how: signed-note, "Signatures"."""
    return hashlib.sha256(f"{name}\n".encode() + bytes([kind]) + public).digest()[:4]


@dataclass(frozen=True, slots=True)
class Line:
    """One signature line: key name, key id, and what follows it."""

    name: str
    id: bytes
    signature: bytes

    @property
    def text(self) -> str:
        return f"— {self.name} {base64.b64encode(self.id + self.signature).decode()}\n"

    @classmethod
    def parse(cls, text: str, where: str) -> Line:
        """Read a line without its end. Raises ``Forged``."""
        match = _LINE.fullmatch(text)
        try:
            data = base64.b64decode(match[2], validate=True) if match else b""
        except binascii.Error:
            data = b""
        if match is None or len(data) < 5 or base64.b64encode(data).decode() != match[2]:
            raise Forged(f"{where}: not a signature line of a note: {text[:60]!r}", "Restore it from a copy.")
        return cls(match[1], data[:4], data[4:])


@dataclass(frozen=True, slots=True)
class Note:
    """A note as it was read. Nothing in ``text`` is to be believed before ``signed_by`` has said so."""

    text: str
    lines: tuple[Line, ...]

    @classmethod
    def parse(cls, data: bytes, where: str) -> Note:
        """Read a note; ``where`` names it in messages. Raises ``Forged``."""
        try:
            whole = data.decode() if len(data) <= LIMIT else ""
        except UnicodeDecodeError:
            whole = ""
        text, separator, rest = whole.rpartition("\n\n")
        bad = not separator or not text or not rest.endswith("\n") or _CONTROL.search(whole)
        lines = rest[:-1].split("\n")
        if bad or len(lines) > LINES:
            raise Forged(
                f"{where}: not a signed note of at most {LIMIT} bytes and {LINES} signatures", "Restore it from a copy."
            )
        return cls(text + "\n", tuple(Line.parse(line, where) for line in lines))

    def encode(self) -> bytes:
        return (self.text + "\n" + "".join(line.text for line in self.lines)).encode()

    def signed_by(self, name: str, key: Signer, where: str) -> bool:
        """Whether ``key`` signed under ``name`` (type 0x01). Raises ``Forged`` where its line does not verify."""
        data = self.text.encode()
        # All of them: one that does not verify makes the note bad, also after one that does.
        found = [self._verified(line, key, data, line.signature, where) for line in self._of(name, SIGNATURE, key)]
        return bool(found)

    def cosigned_by(self, name: str, key: Signer, where: str) -> int | None:
        """When a witness cosigned, in seconds since 1970; None if it did not. Raises ``Forged`` as ``signed_by`` does."""
        times = []
        for line in self._of(name, COSIGNATURE, key):
            time = int.from_bytes(line.signature[:8])
            if time >= 1 << 63:
                raise Forged(f"{where}: a time that no clock has", "It proves nothing.")
            self._verified(line, key, cosigned(self.text, time), line.signature[8:], where)
            times.append(time)
        return min(times, default=None)

    def _of(self, name: str, kind: int, key: Signer) -> list[Line]:
        wanted = (name, key_id(name, kind, key.public))
        return [line for line in self.lines if (line.name, line.id) == wanted]

    @staticmethod
    def _verified(line: Line, key: Signer, data: bytes, signature: bytes, where: str) -> bool:
        if key.algorithm.name != "ed25519" or not key.verifies(signature, data):
            raise Forged(
                f"{where}: the signature of {line.name} does not verify",
                "It was changed after signing. Restore it from a copy; do not trust this one.",
            )
        return True


def sign(text: str, name: str, key: CanSign) -> Line:
    """The log's signature line over ``text``, by an Ed25519 key."""
    return Line(name, key_id(name, SIGNATURE, key.signer.public), key.sign(text.encode()))


def cosign(text: str, name: str, key: CanSign, time: int) -> Line:
    """A witness's line over a checkpoint's ``text``, which it has checked, at ``time`` in seconds since 1970."""
    signature = time.to_bytes(8) + key.sign(cosigned(text, time))
    return Line(name, key_id(name, COSIGNATURE, key.signer.public), signature)


def cosigned(text: str, time: int) -> bytes:
    """What a witness signs: tlog-cosignature, "cosignature/v1"."""
    return f"cosignature/v1\ntime {time}\n{text}".encode()
