"""A grant: a file that gives one recipient the data keys of some regions, and nothing else (spec, section 12.4)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dumpvault.errors import Forged
from dumpvault.formats import jcs
from dumpvault.formats.dsse import Envelope, Statement
from dumpvault.formats.event import Granted, Run, listed, read_listed
from dumpvault.formats.header import Listed
from dumpvault.formats.kem import SUITES
from dumpvault.formats.recipient import Recipient
from dumpvault.model import FORMAT, TokenHandle

__all__ = ["GRANT", "Grant"]

#: The statement type of the file; the role is that of the event that records it.
GRANT = "grant-file"
_DEK = 32


@dataclass(frozen=True, slots=True)
class Grant:
    """``sealed`` is the HPKE message of the data keys of ``regions``, one behind the other, in their order.

    ``event`` is the number of the event that records it.
    """

    vault: str
    header: str
    manifest: str
    time: str
    event: int
    recipient: Listed
    regions: tuple[Run, ...]
    sealed: bytes

    @classmethod
    def seal(
        cls, deks: Sequence[bytes], regions: tuple[Run, ...], to: Recipient,
        vault: str, header: str, manifest: str, time: str, event: int,
    ) -> Grant:  # fmt: skip
        """``deks`` in the order of ``regions``."""
        sealed = to.suite.seal(to.public, b"".join(deks), _info(to.suite.name, vault, header, manifest, to.digest))
        return cls(vault, header, manifest, time, event, Listed(to.name, to.suite.name, to.digest), regions, sealed)

    def open(self, private: bytes | TokenHandle, name: str) -> Iterator[tuple[tuple[int, int], bytes]]:
        """((attempt, index), data key) of each region. Raises ``Forged`` naming ``name``."""
        to = self.recipient
        try:
            bound = _info(to.suite, self.vault, self.header, self.manifest, to.digest)
            keys = SUITES[to.suite].open(private, self.sealed, bound)
        except ValueError as error:
            raise Forged(f"{name}: {error}", "It was made for another vault, or damaged. Ask for it again.") from None
        if len(keys) != _DEK * self.count:
            raise Forged(f"{name}: {len(keys)} bytes of keys for {self.count} regions", "Ask for it again.")
        each = ((run.attempt, index) for run in self.regions for index in range(run.first, run.last + 1))
        yield from ((region, keys[i * _DEK :][:_DEK]) for i, region in enumerate(each))

    @property
    def count(self) -> int:
        """How many regions."""
        return sum(run.last - run.first + 1 for run in self.regions)

    def record(self, file: bytes) -> Granted:
        """What the event says of it, ``file`` being its bytes."""
        return Granted(self.recipient, self.regions, hashlib.sha256(file).hexdigest())

    def statement(self) -> Statement:
        predicate = {
            "event": self.event,
            "format": FORMAT,
            "header": self.header,
            "recipient": listed(self.recipient),
            "regions": [run.encode() for run in self.regions],
            "sealed": jcs.b64encode(self.sealed),
            "time": self.time,
            "vault": self.vault,
        }
        return Statement(GRANT, "manifest.dsse.json", self.manifest, predicate)

    @classmethod
    def read(cls, envelope: Envelope) -> Grant:
        """Raises ``Forged``; whether it is for this vault is for the caller to compare."""
        statement = envelope.statement(GRANT)
        fields = jcs.Fields(statement.predicate, envelope.name)
        fields.format(FORMAT)
        if statement.subject != "manifest.dsse.json":
            fields.refuse("is not about a manifest")
        recipient = read_listed(fields.object("recipient"))
        regions = tuple(map(Run.read, fields.objects("regions", 65536, 1)))
        grant = cls(
            fields.text("vault", "[0-9a-f]{32}"), fields.digest("header"), statement.digest, fields.time("time"),
            fields.number("event"), recipient, regions, fields.base64("sealed"),
        )  # fmt: skip
        fields.done()
        return grant


def _info(suite: str, vault: str, header: str, manifest: str, recipient: str) -> bytes:
    return f"dumpvault-grant@v1\n{suite}\n{vault}\n{header}\n{manifest}\n{recipient}\n".encode()
