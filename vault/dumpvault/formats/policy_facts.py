"""What a policy is asked about: a capture that is about to begin, or a vault that was found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from dumpvault.formats.sshkey import Signer
from dumpvault.formats.timestamp import Anchor
from dumpvault.ranges import Ranges

__all__ = [
    "CommitFacts",
    "Custody",
    "Facts",
    "Found",
    "Party",
    "Place",
    "Planned",
    "Retrieval",
    "signature_kind",
]


@dataclass(frozen=True, slots=True)
class Party:
    """A recipient, or under dual control a custodian; ``digest`` is the recipient digest."""

    name: str
    suite: str
    digest: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is: ``mount_point`` and ``filesystem`` (a UUID) are None where they are not known."""

    kind: str
    mount_point: str | None
    filesystem: str | None


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What somebody who wants to open a vault says; ``approvals`` are those that were accepted."""

    reason: str = ""
    ticket: str = ""
    approvals: int = 0


@dataclass(frozen=True, slots=True)
class Custody:
    """What the ledger of a vault's store says of it (docs/spec/ledger.md, section 6).

    ``trouble`` is why nothing can be recorded there, empty where nothing stands in the way. ``evidence`` is the number of
    the first entry that counts and has the manifest's digest, None where there is none. ``opened`` is the number of the
    first ``opened`` entry of the vault and the size of the checkpoint that its actor had seen (0: none); None where the
    vault was not opened before. ``checkpoints`` are the sizes of those that are good, ``witnessed`` of those among them
    that have a good cosignature. ``opened_at`` is when the vault was first opened, by its actor's clock,
    ``stamped`` when an authority first timestamped a checkpoint that covers the evidence.
    """

    trouble: str = ""
    evidence: int | None = None
    opened: tuple[int, int] | None = None
    checkpoints: frozenset[int] = frozenset()
    witnessed: frozenset[int] = frozenset()
    opened_at: datetime | None = None
    stamped: datetime | None = None


@dataclass(frozen=True, slots=True)
class CommitFacts:
    """One ``regions`` commit: bytes of memory in it, and in its largest region."""

    number: int
    length: int
    largest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What both sides know.

    ``known`` are the key names of the judging site with their digests: a name in a header is the collector's word.
    ``signers`` are kinds of the keys that may sign, ``signed`` the kinds of the signatures on each object, one a key.
    ``quorum`` is how many custodians must agree, None without dual control. ``region_size`` is in bytes.
    """

    recipients: Sequence[Party]
    known: Mapping[str, frozenset[str]]
    signers: Sequence[str]
    signed: Sequence[tuple[str, Sequence[str]]]
    quorum: int | None
    region_size: int

    def members(self, names: Iterable[str]) -> list[str]:
        """Which of ``names`` are recipients, with the very key that the judging site knows under that name."""
        wanted = set(names)
        return [r.name for r in self.recipients if r.name in wanted and r.digest in self.known.get(r.name, ())]


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned(Facts):
    """A capture that is about to begin."""

    compress: str
    release: str
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Found(Facts):
    """A vault that verified as far as it goes.

    ``released`` are physical addresses, ``unreadable`` the physical addresses whose bytes could not be read, both as far
    as the header's memory map tells. ``retrieval`` is None where nobody wants to open it; ``custody`` is then not asked.
    ``anchors`` are good timestamps over the manifest.
    """

    created: datetime
    now: datetime
    codecs: frozenset[str]
    commits: Sequence[CommitFacts]
    methods: frozenset[str]
    released: Ranges
    unreadable: Ranges
    unreadable_bytes: int
    retrieval: Retrieval | None
    anchors: Sequence[Anchor] = ()
    custody: Custody = Custody("the store has no ledger")


def signature_kind(signer: Signer) -> str:
    """The kind of a signing key: the name of its algorithm (spec, section 4.3)."""
    return signer.algorithm.name
