"""A certificate of destruction: a file for people and auditors, signed as stock ssh-keygen checks it (spec, section 12.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dumpvault.formats.allowed_signers import namespace
from dumpvault.formats.dsse import Statement
from dumpvault.formats.event import Run
from dumpvault.formats.jcs import quantity
from dumpvault.formats.sshkey import SigningKey, sshsig
from dumpvault.model import FORMAT, event_path

__all__ = ["Certificate"]


@dataclass(frozen=True, slots=True)
class Certificate:
    """``event`` is the last that destroyed any of ``regions``, ``sha256`` its digest; ``tried`` are recipient digests.

    ``length`` is in bytes of the source.
    """

    vault: str
    host: str
    header: str
    manifest: str
    event: int
    sha256: str
    time: str
    reasons: Sequence[str]
    regions: Sequence[Run]
    length: int
    deleted: Sequence[str]
    tried: Sequence[str]

    def payload(self) -> bytes:
        """The statement in RFC 8785 form."""
        predicate = {
            "bytes": quantity(self.length),
            "deleted": list(self.deleted),
            "format": FORMAT,
            "header": self.header,
            "host": self.host,
            "manifest": self.manifest,
            "reasons": list(self.reasons),
            "regions": [run.encode() for run in self.regions],
            "time": self.time,
            "tried": list(self.tried),
            "vault": self.vault,
        }
        return Statement("destruction", event_path(self.event), self.sha256, predicate).encode()

    def sign(self, key: SigningKey) -> tuple[bytes, bytes]:
        """The file, and the SSHSIG that stands beside it in a file of its own."""
        payload = self.payload()
        return payload, sshsig(key, namespace("shred"), payload)
