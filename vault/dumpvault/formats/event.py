"""``events/<n>.dsse.json``: signed changes after the capture, one chain (spec, section 12).

Version 1.0 of the format defines the ``release`` event only.
"""

from __future__ import annotations

from dataclasses import dataclass

from dumpvault.formats import jcs
from dumpvault.formats.dsse import Envelope, Statement
from dumpvault.model import FORMAT, event_path

__all__ = ["ReleaseEvent"]


@dataclass(frozen=True, slots=True)
class ReleaseEvent:
    """The outcome of a release that could only come after the manifest (fadump)."""

    vault: str
    number: int
    previous: str
    manifest: str
    time: str
    method: str
    result: str

    def statement(self) -> Statement:
        predicate = {
            "body": {"method": self.method, "result": self.result},
            "format": FORMAT,
            "number": self.number,
            "previous": self.previous,
            "time": self.time,
            "vault": self.vault,
        }
        return Statement("release", "manifest.dsse.json", self.manifest, predicate)

    @classmethod
    def read(cls, envelope: Envelope, vault: str, number: int, previous: str, manifest: str) -> ReleaseEvent:
        """Read event ``number``; ``previous`` and ``manifest`` are what it must bind. Raises ``Forged``."""
        statement = envelope.statement("release")
        fields = jcs.Fields(statement.predicate, envelope.name)
        fields.format(FORMAT)
        fields.exactly("vault", vault)
        fields.exactly("number", number)
        if fields.digest("previous") != previous:
            before = event_path(number - 1) if number else "manifest.dsse.json"
            fields.refuse(f"does not continue {before}: one of the two was exchanged")
        if (statement.subject, statement.digest) != ("manifest.dsse.json", manifest):
            fields.refuse("belongs to another manifest")
        body = fields.object("body")
        event = cls(
            vault, number, previous, manifest, fields.time("time"),
            body.text("method", "phyp|fadump"), body.text("result", "released|failed|unknown"),
        )  # fmt: skip
        body.done()
        fields.done()
        return event
