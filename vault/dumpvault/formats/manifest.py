"""``manifest.dsse.json``: the signed end of a capture; small, because the chain holds the records (spec, section 11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from dumpvault.formats import jcs
from dumpvault.formats.dsse import Envelope, Statement
from dumpvault.model import FORMAT, RegionRecord, commit_path

__all__ = ["AttemptTotals", "End", "Manifest", "Totals"]

End = Literal["elf", "flattened", "eof", "size"]


@dataclass(slots=True)
class AttemptTotals:
    attempt: int
    boot_id: str | None
    regions: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Totals:
    """What the chain adds up to. ``size``, ``sealed`` and ``unreadable`` in bytes."""

    size: int = 0
    regions: int = 0
    sealed: int = 0
    unreadable: int = 0

    def add(self, record: RegionRecord) -> None:
        """Count one committed region."""
        self.size = max(self.size, record.end)
        self.regions += 1
        self.sealed += record.object_bytes
        self.unreadable += sum(hole.length for hole in record.unreadable)


@dataclass(frozen=True, slots=True)
class Manifest:
    vault: str
    finished: str
    head: int
    head_digest: str
    totals: Totals
    end: End
    truncated: bool
    attempts: tuple[AttemptTotals, ...]

    def statement(self) -> Statement:
        q = jcs.quantity
        predicate = {
            "attempts": [
                {"attempt": a.attempt, "boot_id": a.boot_id, "bytes": q(a.bytes), "regions": a.regions}
                for a in self.attempts
            ],
            "end": self.end,
            "finished": self.finished,
            "format": FORMAT,
            "head": {"commit": self.head, "sha256": self.head_digest},
            "regions": self.totals.regions,
            "sealed": q(self.totals.sealed),
            "size": q(self.totals.size),
            "truncated": self.truncated,
            "unreadable": q(self.totals.unreadable),
            "vault": self.vault,
        }
        return Statement("manifest", commit_path(self.head), self.head_digest, predicate)

    @classmethod
    def read(cls, envelope: Envelope, vault: str) -> Manifest:
        """Read the manifest of ``vault``; signatures are the caller's to check. Raises ``Forged``."""
        statement = envelope.statement("manifest")
        fields = jcs.Fields(statement.predicate, envelope.name)
        fields.format(FORMAT)
        fields.exactly("vault", vault)
        head = fields.object("head")
        number, digest = head.number("commit"), head.digest("sha256")
        head.done()
        if (statement.subject, statement.digest) != (commit_path(number), digest):
            fields.refuse("has a subject that is not its chain's head")
        attempts = []
        for entry in fields.objects("attempts", 65535, 1):
            attempts.append(
                AttemptTotals(
                    entry.number("attempt"),
                    entry.text_or_null("boot_id"),
                    entry.number("regions"),
                    entry.quantity("bytes"),
                )
            )
            entry.done()
        manifest = cls(
            vault=vault,
            finished=fields.time("finished"),
            head=number,
            head_digest=digest,
            totals=Totals(
                fields.quantity("size"),
                fields.number("regions"),
                fields.quantity("sealed"),
                fields.quantity("unreadable"),
            ),
            end=cast("End", fields.text("end", "elf|flattened|eof|size")),
            truncated=fields.boolean("truncated"),
            attempts=tuple(attempts),
        )
        fields.done()
        return manifest
