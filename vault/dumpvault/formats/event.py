"""``events/<n>.dsse.json``: signed changes after the capture, one chain (spec, section 12)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from dumpvault.formats import jcs
from dumpvault.formats.dsse import Envelope, Statement
from dumpvault.formats.header import Listed
from dumpvault.formats.kem import SUITES
from dumpvault.formats.recipient import NAME
from dumpvault.formats.sharing import Commitments
from dumpvault.model import FORMAT, event_path

__all__ = [
    "LIMIT",
    "OFFICER",
    "Body",
    "Event",
    "Granted",
    "KeysObject",
    "Released",
    "Reshared",
    "Rewrap",
    "Run",
    "Shred",
    "expand",
    "kind_of",
    "listed",
    "read_listed",
    "runs",
]

#: Bytes of an event object: one that replaces the keys of every commit of a large vault is long.
LIMIT = 8 << 20
#: Statement types that an officer signs, whose key need not stand in the header.
OFFICER = ("rewrap", "grant", "shred")
_REASON = r".*\S.*"
_MANY = 65536


@dataclass(frozen=True, slots=True)
class Run:
    """Regions ``first`` to ``last`` (both included) of an attempt, by index."""

    attempt: int
    first: int
    last: int

    def __contains__(self, region: tuple[int, int]) -> bool:
        attempt, index = region
        return attempt == self.attempt and self.first <= index <= self.last

    def encode(self) -> dict[str, Any]:
        return {"attempt": self.attempt, "first": self.first, "last": self.last}

    @classmethod
    def read(cls, fields: jcs.Fields) -> Run:
        run = cls(fields.number("attempt"), fields.number("first"), fields.number("last"))
        fields.done()
        return run


def runs(regions: Iterable[tuple[int, int]]) -> tuple[Run, ...]:
    """The runs that (attempt, index) pairs make, ascending, none touching the next."""
    found: list[Run] = []
    for attempt, index in sorted(regions):
        if found and found[-1].attempt == attempt and found[-1].last + 1 == index:
            found[-1] = Run(attempt, found[-1].first, index)
        else:
            found.append(Run(attempt, index, index))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class KeysObject:
    """What holds the wrapped keys of a commit from an event on; ``sha256`` None where none of its regions has one left."""

    attempt: int
    commit: int
    sha256: str | None

    def encode(self) -> dict[str, Any]:
        return {"attempt": self.attempt, "commit": self.commit, "sha256": self.sha256}

    @classmethod
    def read(cls, fields: jcs.Fields) -> KeysObject:
        found = cls(fields.number("attempt"), fields.number("commit"), fields.digest_or_null("sha256"))
        fields.done()
        return found


@dataclass(frozen=True, slots=True)
class Released:
    """The outcome of a release that could only come after the manifest (fadump)."""

    method: str
    result: str
    kind = "release"

    def encode(self) -> dict[str, Any]:
        return {"method": self.method, "result": self.result}

    @classmethod
    def read(cls, fields: jcs.Fields) -> Released:
        return cls(fields.text("method", "phyp|fadump"), fields.text("result", "released|failed|unknown"))


@dataclass(frozen=True, slots=True)
class Shred:
    """The keys of these regions are to be destroyed; of all regions, if ``regions`` is None."""

    reason: str
    regions: tuple[Run, ...] | None
    keys: tuple[KeysObject, ...]
    kind = "shred"

    def encode(self) -> dict[str, Any]:
        return {
            "keys": [key.encode() for key in self.keys],
            "reason": self.reason,
            "regions": None if self.regions is None else [run.encode() for run in self.regions],
        }

    @classmethod
    def read(cls, fields: jcs.Fields) -> Shred:
        reason = fields.text("reason", _REASON, 4096)
        regions = fields.objects_or_null("regions", _MANY, 1)
        chosen = None if regions is None else tuple(map(Run.read, regions))
        return cls(reason, chosen, tuple(map(KeysObject.read, fields.objects("keys", _MANY))))

    def chosen(self, regions: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Those of ``regions`` that it is about."""
        chosen = None if self.regions is None else expand(self.regions)
        return (region for region in regions if chosen is None or region in chosen)


@dataclass(frozen=True, slots=True)
class Reshared:
    """How new vault keys are shared: ``quorum`` custodians must agree; by keybag what is committed to.

    ``request`` is the digest of the request that the custodians of before agreed to.
    """

    quorum: int
    request: str
    shares: tuple[Commitments, ...]


@dataclass(frozen=True, slots=True)
class Rewrap:
    """Who can open from now on: by attempt the digest of the new keybag; ``keys`` is empty where the vault keys stay.

    ``reshared`` is there under dual control alone: how the new vault keys are shared.
    """

    recipients: tuple[Listed, ...]
    keybags: tuple[tuple[int, str], ...]
    keys: tuple[KeysObject, ...]
    reshared: Reshared | None = None
    kind = "rewrap"

    def encode(self) -> dict[str, Any]:
        keybags: list[dict[str, Any]] = [{"attempt": attempt, "sha256": sha256} for attempt, sha256 in self.keybags]
        body: dict[str, Any] = {
            "keybags": keybags,
            "keys": [key.encode() for key in self.keys],
            "recipients": list(map(listed, self.recipients)),
        }
        if self.reshared:
            body |= {"quorum": self.reshared.quorum, "request": self.reshared.request}
            for keybag, shares in zip(keybags, self.reshared.shares, strict=True):
                keybag["shares"] = shares.encode()
        return body

    @classmethod
    def read(cls, fields: jcs.Fields) -> Rewrap:
        recipients = map(read_listed, fields.objects("recipients", 128, 1))
        dual = fields.has("quorum")
        keybags, shares = [], []
        for entry in fields.objects("keybags", _MANY, 1):
            keybags.append((entry.number("attempt"), entry.digest("sha256")))
            if dual:
                shares.append(Commitments.read(entry.object("shares")))
            entry.done()
        reshared = Reshared(fields.number("quorum"), fields.digest("request"), tuple(shares)) if dual else None
        keys = tuple(map(KeysObject.read, fields.objects("keys", _MANY)))
        return cls(tuple(recipients), tuple(keybags), keys, reshared)


@dataclass(frozen=True, slots=True)
class Granted:
    """The data keys of these regions were given to ``recipient``, in the file of which ``file`` is the digest."""

    recipient: Listed
    regions: tuple[Run, ...]
    file: str
    kind = "grant"

    def encode(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "recipient": listed(self.recipient),
            "regions": [run.encode() for run in self.regions],
        }

    @classmethod
    def read(cls, fields: jcs.Fields) -> Granted:
        recipient = read_listed(fields.object("recipient"))
        return cls(recipient, tuple(map(Run.read, fields.objects("regions", _MANY, 1))), fields.digest("file"))


Body = Released | Shred | Rewrap | Granted
_BODIES: dict[str, type[Released] | type[Shred] | type[Rewrap] | type[Granted]] = {
    body.kind: body for body in (Released, Shred, Rewrap, Granted)
}


def listed(recipient: Listed) -> dict[str, str]:
    """A recipient as events and grants name it."""
    return {"name": recipient.name, "sha256": recipient.digest, "suite": recipient.suite}


def read_listed(fields: jcs.Fields) -> Listed:
    """The same, read."""
    suite = fields.text("suite", "|".join(SUITES))
    found = Listed(fields.text("name", NAME.pattern), suite, fields.digest("sha256"))
    fields.done()
    return found


def expand(chosen: Iterable[Run]) -> Collection[tuple[int, int]]:
    """The (attempt, index) pairs of runs. Raises ``ValueError`` unless they ascend, apart, with at most 2^24 regions."""
    found: set[tuple[int, int]] = set()
    before: Run | None = None
    for run in chosen:
        behind = before is None or (before.attempt, before.last + 1) < (run.attempt, run.first)
        if run.first > run.last or not behind or run.last - run.first >= 1 << 24 or len(found) > 1 << 24:
            raise ValueError("runs of regions that do not ascend, or overlap or touch each other")
        found |= {(run.attempt, index) for index in range(run.first, run.last + 1)}
        before = run
    return found


def kind_of(envelope: Envelope) -> str:
    """The type of event that an envelope claims to hold, before anything of it is believed. Raises ``Forged``."""
    fields = jcs.Fields(jcs.decode(envelope.payload, f"{envelope.name}: payload", len(envelope.payload)), envelope.name)
    kinds = "|".join(_BODIES)
    return fields.text("predicateType", f"urn:dumpvault:({kinds}):v1").split(":")[2]


@dataclass(frozen=True, slots=True)
class Event:
    """``previous`` is the digest of the event before, or of the manifest; ``manifest`` that of the manifest."""

    vault: str
    number: int
    previous: str
    manifest: str
    time: str
    body: Body

    def statement(self) -> Statement:
        predicate = {
            "body": self.body.encode(),
            "format": FORMAT,
            "number": self.number,
            "previous": self.previous,
            "time": self.time,
            "vault": self.vault,
        }
        return Statement(self.body.kind, "manifest.dsse.json", self.manifest, predicate)

    @classmethod
    def read(cls, envelope: Envelope, kind: str, vault: str, number: int, previous: str, manifest: str) -> Event:
        """Read event ``number`` of type ``kind``; ``previous`` and ``manifest`` are what it must bind. Raises ``Forged``."""
        statement = envelope.statement(kind)
        fields = jcs.Fields(statement.predicate, envelope.name)
        fields.format(FORMAT)
        fields.exactly("vault", vault)
        fields.exactly("number", number)
        if fields.digest("previous") != previous:
            before = event_path(number - 1) if number else "manifest.dsse.json"
            fields.refuse(f"does not continue {before}: one of the two was exchanged")
        if (statement.subject, statement.digest) != ("manifest.dsse.json", manifest):
            fields.refuse("belongs to another manifest")
        body_fields = fields.object("body")
        body = _BODIES[kind].read(body_fields)
        body_fields.done()
        event = cls(vault, number, previous, manifest, fields.time("time"), body)
        fields.done()
        return event
