"""What a report says, as data: its JSON, and all that the HTML is made from. Nothing here was read or judged by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = [
    "Answer",
    "Capture",
    "Custody",
    "CustodyEntry",
    "Finding",
    "Key",
    "Lane",
    "MemoryMap",
    "Opener",
    "Point",
    "PolicyFacts",
    "ReportFacts",
    "RuleState",
    "StepState",
    "Timestamps",
    "Unchecked",
    "VaultFacts",
]

#: How good the news is: also what it looks like. ``unknown`` is never good news, ``fact`` none.
Grade = Literal["good", "part", "bad", "unknown", "fact"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One question an auditor has, and the answer: a word or two, then a sentence."""

    question: str
    grade: Grade
    short: str
    text: str


@dataclass(frozen=True, slots=True)
class CustodyEntry:
    """One thing that somebody did with a vault.

    ``time`` is a claim of the signer, in the spec's form. ``event`` is ``collected``, ``received``, ``verified``,
    ``requested``, ``approved``, ``opened``, ``closed``, ``granted``, ``rewrapped``, ``exported``, ``moved``, ``shredded``
    or ``audited``. ``index`` orders the entries.
    """

    time: str
    event: str
    actor: str
    role: str
    purpose: str | None
    detail: str | None
    index: int


@dataclass(frozen=True, slots=True)
class Custody:
    """``ledger`` says what came of verifying the store's; ``size`` is that of the checkpoint it was verified up to.

    It is incomplete where no checkpoint by a trusted log's key is there to verify it by.

    A checkpoint's size is counted in entries.
    """

    entries: tuple[CustodyEntry, ...]
    ledger: Literal["verified", "incomplete", "failed", "not given"] = "not given"
    size: int | None = None
    note: str = ""

    @property
    def openings(self) -> list[CustodyEntry]:
        return [entry for entry in self.entries if entry.event == "opened"]


@dataclass(frozen=True, slots=True)
class Timestamps:
    """Independent timestamps over manifest or checkpoints; ``items`` are those that were verified, in words."""

    state: Literal["verified", "failed", "not given"] = "not given"
    items: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lane:
    """One state of memory: the ranges in it, as (start, end), and how many bytes.

    ``ranges`` None means that the state is not known; ``note`` says why, or what else is to be said.
    """

    key: str
    name: str
    ranges: tuple[tuple[int, int], ...] | None
    bytes: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """``axis`` says what the numbers are: physical addresses, or offsets in the source where those are not known.

    ``bounds`` are the ranges that the source describes.
    """

    axis: Literal["physical", "file"]
    bounds: tuple[tuple[int, int], ...]
    lanes: tuple[Lane, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """How far a capture was at one commit, in bytes since its beginning.

    ``read`` is what was durable and could be read; what a collector had read ahead of a commit stands nowhere.
    """

    commit: int
    time: str
    attempt: int
    kind: str
    durable: int
    read: int
    authorised: int
    released: int


@dataclass(frozen=True, slots=True)
class Capture:
    """``source`` is the size of the source in bytes, None for one that no manifest and no header gives."""

    points: tuple[Point, ...]
    finished: str | None
    source: int | None
    at_end: str = ""


@dataclass(frozen=True, slots=True)
class Opener:
    """Somebody who could open regions. ``state`` is ``now``, ``removed`` or ``granted``; ``text`` says since when and what."""

    name: str
    suite: str
    digest: str
    state: Literal["now", "removed", "granted"]
    text: str


@dataclass(frozen=True, slots=True)
class Key:
    """A signing key: ``signed`` says what it signed that counts and verifies, or why nothing."""

    name: str
    keyid: str
    algorithm: str
    signed: str


@dataclass(frozen=True, slots=True)
class RuleState:
    """A rule of the policy: what it asks (``value``), and whether this vault obeys, where that can be told."""

    name: str
    meaning: str
    value: str
    state: Literal["held", "broken", "asks nothing", "not judged"]
    why: str


@dataclass(frozen=True, slots=True)
class PolicyFacts:
    name: str
    note: str
    trusted: bool
    rules: tuple[RuleState, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    kind: str
    message: str
    hint: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class StepState:
    """One numbered step of the spec's section 13, with what it found."""

    number: int
    name: str
    state: Literal["held", "partly", "missing", "failed", "skipped"]
    note: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Unchecked:
    """Something a reader might take for granted, and that nobody looked at or could."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class VaultFacts:
    """One vault. What stands behind a header that is not good is empty: nothing of it is believed.

    ``described`` are pairs of label and value, for people, ``algorithms`` likewise; ``exit_code`` is ``verify``'s.
    """

    vault: str
    verdict: Literal["intact", "incomplete", "refused", "failed"]
    exit_code: int
    host: str | None
    created: str | None
    size: int | None
    answers: tuple[Answer, ...]
    described: tuple[tuple[str, str], ...]
    custody: Custody
    timestamps: Timestamps
    memory: MemoryMap | None
    capture: Capture | None
    openers: tuple[Opener, ...]
    signers: tuple[Key, ...]
    algorithms: tuple[tuple[str, str], ...]
    policy: PolicyFacts | None
    steps: tuple[StepState, ...]
    foreign: tuple[str, ...]
    superseded: tuple[str, ...]
    unchecked: tuple[Unchecked, ...]

    def answer(self, number: int) -> Answer:
        return self.answers[number]


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """``store`` is None in the report on one vault; ``judged_at`` is the moment that keys were judged as of."""

    made: str
    judged_at: str
    tool: str
    trust: str
    store: str | None
    vaults: tuple[VaultFacts, ...]
    #: The exit codes that outrank others, worst first.
    order: Sequence[int] = field(default=(10, 13, 11, 12, 1, 3), repr=False)

    @property
    def exit_code(self) -> int:
        """The worst of the vaults'."""
        codes = {vault.exit_code for vault in self.vaults}
        return next((code for code in self.order if code in codes), 0)

    def encode(self) -> dict[str, Any]:
        """As JSON: the same facts. Ranges and sizes are numbers of bytes, which may exceed 2^53, so ranges are hex strings."""
        facts = asdict(self)
        del facts["order"]
        facts["exit_code"] = self.exit_code
        for vault in facts["vaults"]:
            memory = vault["memory"]
            if memory:
                memory["bounds"] = _hex(memory["bounds"])
                for lane in memory["lanes"]:
                    lane["ranges"] = None if lane["ranges"] is None else _hex(lane["ranges"])
            for name in ("described", "algorithms"):
                vault[name] = dict(vault[name])
        return facts


def _hex(ranges: Sequence[tuple[int, int]]) -> list[list[str]]:
    return [[f"{start:#x}", f"{end:#x}"] for start, end in ranges]
