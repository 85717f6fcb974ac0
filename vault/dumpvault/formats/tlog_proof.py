"""Offline proofs that a log has an entry (C2SP tlog-proof): index, hashes, checkpoint; ``extra`` is the entry itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from dumpvault.errors import Forged
from dumpvault.formats import jcs, merkle
from dumpvault.formats.checkpoint import Checkpoint
from dumpvault.formats.note import Note
from dumpvault.formats.sshkey import Signer

__all__ = ["LIMIT", "Proof"]

#: Bytes of a proof.
LIMIT = 131072
_FIRST = "c2sp.org/tlog-proof@v1"
_HINT = "Nothing is proved by it. Ask for it again."


@dataclass(frozen=True, slots=True)
class Proof:
    """Entry number ``index`` is ``extra``; ``hashes`` lead from its leaf to the root of the checkpoint in ``note``."""

    index: int
    extra: bytes
    hashes: tuple[bytes, ...]
    note: bytes

    def encode(self) -> bytes:
        lines = [_FIRST, f"extra {jcs.b64encode(self.extra)}", f"index {self.index}", *map(jcs.b64encode, self.hashes)]
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.note

    @classmethod
    def parse(cls, data: bytes, where: str) -> Proof:
        """Read a proof without believing it; one without ``extra`` proves nothing here. Raises ``Forged``."""
        head, separator, note = data.partition(b"\n\n")
        try:
            if len(data) > LIMIT or not separator:
                raise ValueError
            first, extra, index, *hashes = head.decode("ascii").split("\n")
            number = re.fullmatch(r"index (0|[1-9][0-9]{0,12})", index)
            if first != _FIRST or not extra.startswith("extra ") or number is None or len(hashes) > 64:
                raise ValueError
            proof = cls(int(number[1]), jcs.b64decode(extra[6:]), tuple(map(jcs.b64decode, hashes)), note)
        except ValueError:
            raise Forged(f"{where}: not a tlog-proof with its entry, of at most {LIMIT} bytes", _HINT) from None
        if any(len(one) != 32 for one in proof.hashes):
            raise Forged(f"{where}: a hash of it has not 32 bytes", _HINT)
        return proof

    def verify(self, origin: str, logs: Iterable[Signer], where: str) -> tuple[Checkpoint, Note]:
        """The checkpoint by which a trusted log has the entry. Raises ``Forged``."""
        checkpoint, note = Checkpoint.verified(self.note, origin, logs, where)
        leaf = merkle.leaf_hash(self.extra)
        if not merkle.included(leaf, self.index, checkpoint.size, self.hashes, checkpoint.root):
            raise Forged(f"{where}: entry {self.index} is not in the tree of its checkpoint", _HINT)
        return checkpoint, note
