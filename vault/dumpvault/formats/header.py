"""``vault.dsse.json``: what a vault is, who may sign for it and who can open it (spec, section 6)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, cast

from dumpvault.formats import jcs
from dumpvault.formats.dsse import SIGNATURES, Envelope, Statement
from dumpvault.formats.elf import Load
from dumpvault.formats.kem import SUITES
from dumpvault.formats.recipient import NAME
from dumpvault.formats.sharing import component_count
from dumpvault.formats.sshkey import Signer
from dumpvault.model import FORMAT

__all__ = ["ElfFacts", "Header", "Listed", "PolicyText", "Source"]

SourceKind = Literal["elf", "flattened", "opaque"]


@dataclass(frozen=True, slots=True)
class ElfFacts:
    bits: int
    endian: str
    machine: int


@dataclass(frozen=True, slots=True)
class Source:
    """What was captured. ``size`` in bytes, ``mtime`` in nanoseconds; None where it is not known."""

    kind: SourceKind
    name: str
    size: int | None
    mtime: int | None
    identity: str | None
    elf: ElfFacts | None
    memory: tuple[Load, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyText:
    name: str
    text: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Listed:
    """A recipient as the header names it; ``digest`` is the recipient digest."""

    name: str
    suite: str
    digest: str


@dataclass(frozen=True, slots=True)
class Header:
    vault: str
    created: str
    tool: str
    host: str
    boot_id: str | None
    source: Source
    region_size: int
    frame_size: int
    policy: PolicyText
    signers: tuple[Signer, ...]
    recipients: tuple[Listed, ...]
    #: Under dual control, how many of the recipients, who are custodians then, must agree.
    quorum: int | None = None

    @property
    def keyids(self) -> frozenset[str]:
        """The key ids that may sign this vault's commits and manifest."""
        return frozenset(signer.keyid for signer in self.signers)

    def statement(self) -> Statement:
        s, q = self.source, jcs.quantity
        predicate = {
            "boot_id": self.boot_id,
            "created": self.created,
            "format": FORMAT,
            "frame_size": q(self.frame_size),
            "host": self.host,
            "policy": {"name": self.policy.name, "sha256": self.policy.digest, "text": self.policy.text},
            "recipients": [{"name": r.name, "sha256": r.digest, "suite": r.suite} for r in self.recipients],
            "region_size": q(self.region_size),
            "signers": [{"key": k.line, "keyid": k.keyid} for k in self.signers],
            "source": {
                "elf": s.elf and {"class": s.elf.bits, "endian": s.elf.endian, "machine": s.elf.machine},
                "identity": s.identity,
                "kind": s.kind,
                "memory": [
                    {"address": q(m.address), "length": q(m.length), "offset": q(m.offset)} for m in s.memory
                ],
                "mtime": None if s.mtime is None else q(s.mtime),
                "name": s.name,
                "size": None if s.size is None else q(s.size),
            },
            "tool": self.tool,
            "vault": self.vault,
        }  # fmt: skip
        if self.quorum is not None:
            predicate["quorum"] = self.quorum
        return Statement("header", "policy.toml", self.policy.digest, predicate)

    @classmethod
    def read(cls, envelope: Envelope, vault: str) -> Header:
        """Read the header of ``vault``; signatures are the caller's to check. Raises ``Forged``."""
        statement = envelope.statement("header")
        fields = jcs.Fields(statement.predicate, envelope.name)
        fields.format(FORMAT)
        fields.exactly("vault", vault)
        region_size, frame_size = fields.quantity("region_size"), fields.quantity("frame_size")
        if not 4096 <= region_size <= 1 << 28 or region_size % 4096:
            fields.refuse(f"has a region_size of {region_size} bytes")
        if not 4096 <= frame_size <= 1 << 20 or frame_size & (frame_size - 1):
            fields.refuse(f"has a frame_size of {frame_size} bytes")
        policy_fields = fields.object("policy")
        policy = PolicyText(policy_fields.text("name"), policy_fields.text("text"))
        policy_fields.exactly("sha256", policy.digest)
        policy_fields.done()
        if (statement.subject, statement.digest) != ("policy.toml", policy.digest):
            fields.refuse("has a subject that is not its policy")
        header = cls(
            vault=vault,
            created=fields.time("created"),
            tool=fields.text("tool"),
            host=fields.text("host"),
            boot_id=fields.text_or_null("boot_id"),
            source=_source(fields.object("source")),
            region_size=region_size,
            frame_size=frame_size,
            policy=policy,
            signers=tuple(_signer(entry) for entry in fields.objects("signers", SIGNATURES, 1)),
            recipients=tuple(_listed(entry) for entry in fields.objects("recipients", 128, 1)),
            quorum=fields.number("quorum") if fields.has("quorum") else None,
        )
        fields.done()
        if len(header.keyids) != len(header.signers):
            fields.refuse("names a signer twice")
        if header.quorum is not None:
            _check_quorum(header, header.quorum, fields)
        return header


def _check_quorum(header: Header, quorum: int, fields: jcs.Fields) -> None:
    try:
        component_count(quorum, len(header.recipients))
    except ValueError as error:
        fields.refuse(f"has a bad 'quorum': {error}")
    if len({r.digest for r in header.recipients}) != len(header.recipients):
        fields.refuse("has two custodians with one key")


def _signer(fields: jcs.Fields) -> Signer:
    try:
        signer = Signer.from_line(fields.text("key"))
    except ValueError as error:
        fields.refuse(f"is no signer: {error}")
    fields.exactly("keyid", signer.keyid)
    fields.done()
    return signer


def _listed(fields: jcs.Fields) -> Listed:
    listed = Listed(fields.text("name", NAME.pattern), fields.text("suite", "|".join(SUITES)), fields.digest("sha256"))
    fields.done()
    return listed


def _source(fields: jcs.Fields) -> Source:
    kind = cast("SourceKind", fields.text("kind", "elf|flattened|opaque"))
    elf: ElfFacts | None = None
    if kind == "elf":
        facts = fields.object("elf")
        bits = facts.number("class")
        if bits not in (32, 64):
            facts.refuse(f"has a class of {bits}")
        elf = ElfFacts(bits, facts.text("endian", "little|big"), facts.number("machine"))
        facts.done()
    else:
        fields.exactly("elf", None)
    memory = []
    for entry in fields.objects("memory", 1024):
        memory.append(Load(entry.quantity("offset"), entry.quantity("address"), entry.quantity("length")))
        entry.done()
    source = Source(
        kind=kind,
        name=fields.text("name"),
        size=fields.quantity_or_null("size"),
        mtime=fields.quantity_or_null("mtime"),
        identity=fields.digest_or_null("identity"),
        elf=elf,
        memory=tuple(memory),
    )
    fields.done()
    return source
