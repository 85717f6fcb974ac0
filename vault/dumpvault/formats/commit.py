"""``commits/<n>.dsse.json``: one link of a vault's signed chain (spec, section 10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from dumpvault.formats import jcs
from dumpvault.formats.dsse import Envelope, Statement
from dumpvault.formats.sharing import Commitments
from dumpvault.model import FORMAT, PAGE, Codec, Kind, Range, RegionRecord, commit_path

__all__ = ["LIMIT", "MAX_REGIONS", "Adopt", "Body", "Commit", "Ended", "Outcome", "Regions", "Release", "Takeover"]

LIMIT = 8 << 20
MAX_REGIONS = 1024
_KINDS = "headers|notes|memory|flattened|opaque"


@dataclass(frozen=True, slots=True)
class Takeover:
    """An attempt begins; ``keybag`` is the digest of its keybag object. ``shares`` is there under dual control only."""

    keybag: str
    boot_id: str | None
    tool: str
    shares: Commitments | None = None
    kind = "takeover"

    def encode(self) -> dict[str, Any]:
        body: dict[str, Any] = {"boot_id": self.boot_id, "keybag": self.keybag, "tool": self.tool}
        return body if self.shares is None else body | {"shares": self.shares.encode()}

    @classmethod
    def read(cls, fields: jcs.Fields) -> Takeover:
        shares = Commitments.read(fields.object("shares")) if fields.has("shares") else None
        return cls(fields.digest("keybag"), fields.text_or_null("boot_id"), fields.text("tool"), shares)


@dataclass(frozen=True, slots=True)
class Release:
    """Memory that this commit allows to be handed back: ``length`` bytes from physical address ``start``."""

    method: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of release number ``release`` of commit ``commit``."""

    commit: int
    release: int
    result: str


@dataclass(frozen=True, slots=True)
class Regions:
    """These regions are durable."""

    regions: tuple[RegionRecord, ...]
    releases: tuple[Release, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    kind = "regions"

    def encode(self) -> dict[str, Any]:
        q = jcs.quantity
        return {
            "outcomes": [{"commit": o.commit, "release": o.release, "result": o.result} for o in self.outcomes],
            "regions": [
                {
                    "blocks": r.blocks,
                    "codec": r.codec,
                    "index": r.index,
                    "key": r.key,
                    "kind": r.kind,
                    "length": q(r.length),
                    "message": q(r.message),
                    "offset": q(r.offset),
                    "unreadable": [{"length": q(u.length), "offset": q(u.offset)} for u in r.unreadable],
                }
                for r in self.regions
            ],
            "releases": [{"length": q(r.length), "method": r.method, "start": q(r.start)} for r in self.releases],
        }

    @classmethod
    def read(cls, fields: jcs.Fields) -> Regions:
        regions = tuple(_record(entry) for entry in fields.objects("regions", MAX_REGIONS))
        releases = []
        for entry in fields.objects("releases", 65536):
            releases.append(
                Release(entry.text("method", "phyp|fadump"), entry.quantity("start"), entry.quantity("length"))
            )
            entry.done()
        outcomes = []
        for entry in fields.objects("outcomes", 65536):
            result = entry.text("result", "released|failed|unknown")
            outcomes.append(Outcome(entry.number("commit"), entry.number("release"), result))
            entry.done()
        return cls(regions, tuple(releases), tuple(outcomes))


@dataclass(frozen=True, slots=True)
class Adopt:
    """What commits up to ``through`` name was made durable again and re-read."""

    through: int
    kind = "adopt"

    def encode(self) -> dict[str, Any]:
        return {"through": self.through}

    @classmethod
    def read(cls, fields: jcs.Fields) -> Adopt:
        return cls(fields.number("through"))


@dataclass(frozen=True, slots=True)
class Ended:
    """The attempt stopped deliberately."""

    reason: str
    kind = "ended"

    def encode(self) -> dict[str, Any]:
        return {"reason": self.reason}

    @classmethod
    def read(cls, fields: jcs.Fields) -> Ended:
        return cls(fields.text("reason"))


Body = Takeover | Regions | Adopt | Ended
_BODIES: dict[str, type[Takeover] | type[Regions] | type[Adopt] | type[Ended]] = {
    body.kind: body for body in (Takeover, Regions, Adopt, Ended)
}


@dataclass(frozen=True, slots=True)
class Commit:
    """``previous`` is the digest of the commit object before, or of the header; ``header`` that of the header."""

    vault: str
    number: int
    previous: str
    header: str
    attempt: int
    time: str
    body: Body

    def statement(self) -> Statement:
        predicate = {
            "attempt": self.attempt,
            "body": self.body.encode(),
            "format": FORMAT,
            "kind": self.body.kind,
            "number": self.number,
            "previous": self.previous,
            "time": self.time,
            "vault": self.vault,
        }
        return Statement("commit", "vault.dsse.json", self.header, predicate)

    @classmethod
    def read(cls, envelope: Envelope, vault: str, number: int, previous: str, header: str) -> Commit:
        """Read commit ``number`` of ``vault``; ``previous`` and ``header`` are what it must bind. Raises ``Forged``."""
        statement = envelope.statement("commit")
        fields = jcs.Fields(statement.predicate, envelope.name)
        fields.format(FORMAT)
        fields.exactly("vault", vault)
        fields.exactly("number", number)
        if fields.digest("previous") != previous:
            before = commit_path(number - 1) if number else "vault.dsse.json"
            fields.refuse(f"does not continue {before}: one of the two was exchanged")
        if (statement.subject, statement.digest) != ("vault.dsse.json", header):
            fields.refuse("belongs to another header")
        attempt = fields.number("attempt")
        if attempt < 1:
            fields.refuse("has attempt 0; attempts are numbered from 1")
        time = fields.time("time")
        kind = _BODIES[fields.text("kind", "|".join(_BODIES))]
        body_fields = fields.object("body")
        body = kind.read(body_fields)
        body_fields.done()
        fields.done()
        return cls(vault, number, previous, header, attempt, time, body)


def _record(fields: jcs.Fields) -> RegionRecord:
    offset, length = fields.quantity("offset"), fields.quantity("length")
    if offset % PAGE or not 0 < length <= 1 << 28:
        fields.refuse(f"is no slice of a source: {length} bytes at {offset:#x}")
    unreadable = []
    at = offset
    for entry in fields.objects("unreadable", 65536):
        hole = Range(entry.quantity("offset"), entry.quantity("length"))
        entry.done()
        if hole.offset < at or hole.length == 0 or hole.end > offset + length:
            fields.refuse("lists unreadable ranges that are not inside it, in order")
        at = hole.end
        unreadable.append(hole)
    record = RegionRecord(
        index=fields.number("index"),
        offset=offset,
        length=length,
        kind=cast("Kind", fields.text("kind", _KINDS)),
        codec=cast("Codec", fields.text("codec", "raw|zstd")),
        message=fields.quantity("message"),
        blocks=fields.digest("blocks"),
        key=fields.digest("key"),
        unreadable=tuple(unreadable),
    )
    if record.message > 2 * length + (2 << 20):
        fields.refuse(f"claims a message of {record.message} bytes for {length}")
    fields.done()
    return record
