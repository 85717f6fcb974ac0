"""What verifying a vault found, step by step of the spec's section 13, and what of it stands against opening."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from dumpvault.errors import Incomplete, PolicyRefused, VaultError
from dumpvault.formats.keybag import Keybag
from dumpvault.formats.policy import Broken, Policy
from dumpvault.formats.policy_facts import Found
from dumpvault.formats.timestamp import Anchor
from dumpvault.stages.examine import Examiner

__all__ = ["STEPS", "Judgement", "Report", "Step", "require_structure"]

STEPS = {
    1: "header",
    2: "chain",
    3: "manifest",
    4: "sidecar",
    5: "keys",
    6: "regions",
    7: "completeness",
    8: "events",
    9: "foreign objects",
    10: "policy",
    11: "openability",
}


@dataclass(slots=True)
class Step:
    """One numbered step.

    ``failed`` outranks ``missing``; ``partly`` means that it held as far as the chain could be read, ``skipped`` that
    something it needs was not there.
    """

    number: int
    state: Literal["held", "partly", "missing", "failed", "skipped"] = "skipped"
    note: str = ""

    @property
    def title(self) -> str:
        return STEPS[self.number]


@dataclass(frozen=True, slots=True)
class Judgement:
    """``policy`` is what the vault was judged by; ``trusted`` is False where it is only the vault's own word.

    ``differs`` says that the vault was captured under another one.
    """

    policy: Policy
    trusted: bool
    differs: bool
    broken: tuple[Broken, ...]
    note: str
    #: What it was judged by: the facts of the vault.
    found: Found

    @property
    def refusal(self) -> PolicyRefused:
        """The error that stands for all broken rules."""
        return self.policy.refusal(list(self.broken), "Nothing was opened.")

    @property
    def refusals(self) -> list[PolicyRefused]:
        """One error for each broken rule."""
        return [self.policy.refusal([one], "") for one in self.broken]


@dataclass(slots=True)
class Report:
    """What verification found. ``examiner`` holds what was believed, ``keybags`` what opening needs.

    ``superseded`` are key objects that an event has put out of use and that are still there.
    """

    vault: str
    examiner: Examiner
    moment: datetime
    steps: dict[int, Step] = field(default_factory=dict)
    by_step: list[tuple[int, VaultError]] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    superseded: list[str] = field(default_factory=list)
    #: (attempt, index) of each region whose object is missing or not what was signed, as far as step 6 went.
    bad_regions: set[tuple[int, int]] = field(default_factory=set)
    keybags: dict[int, Keybag] = field(default_factory=dict)
    header_read: bool = False
    judgement: Judgement | None = None
    #: Why the policy forbids to open the vault, whatever else may be let pass.
    refused: VaultError | None = None
    #: How many regions the grant opens that is to be used, if one is.
    granted: int | None = None
    #: What is to be told of that grant, if anything.
    grant_note: str = ""
    #: What says when the manifest existed, by the name of its timestamp; and why others say nothing.
    anchors: dict[str, Anchor] = field(default_factory=dict)
    unproved: dict[str, VaultError] = field(default_factory=dict)
    #: By when somebody outside had seen the manifest in the store's ledger, if that was asked.
    witnessed: Anchor | None = None

    @property
    def findings(self) -> list[VaultError]:
        return [finding for _, finding in self.by_step]

    @property
    def verdict(self) -> Literal["intact", "incomplete", "refused", "failed"]:
        if any(not isinstance(finding, (Incomplete, PolicyRefused)) for finding in self.findings):
            return "failed"
        if any(isinstance(finding, PolicyRefused) for finding in self.findings):
            return "refused"
        return "incomplete" if self.findings else "intact"

    @property
    def closed(self) -> Incomplete | None:
        """What keeps an intact vault from opening whole: regions that were shredded, or that a grant is not for."""
        shredded, total = self.examiner.current.shredded, self.examiner.totals.regions
        if self.granted is not None and self.granted < total - len(shredded):
            return Incomplete(
                f"the grant opens {self.granted} of {total} regions", "'dumpvault open --partial' writes those."
            )
        if not shredded:
            return None
        count, events = len(shredded), ", ".join(map(str, sorted(set(shredded.values()))))
        return Incomplete(
            f"events: {count} of {total} regions were shredded (event {events})",
            "Nothing brings them back. 'dumpvault open --partial' writes the others, if there are any.",
        )

    def of_steps(self, *numbers: int) -> list[VaultError]:
        """What was found in these steps."""
        return [finding for number, finding in self.by_step if number in numbers]

    @property
    def exit_code(self) -> int:
        codes = {finding.exit_code for finding in self.findings}
        return next((code for code in (10, 13, 11, 12, 1, 3) if code in codes), 0)

    def worst(self) -> VaultError | None:
        """The finding that the exit code speaks of."""
        return next((f for f in self.findings if f.exit_code == self.exit_code), None)


def require_structure(report: Report, *, partial: bool) -> None:
    """For ``open``: raise what stands against opening.

    ``partial`` lets everything pass but a header that is not good and what the policy forbids: what can be authenticated
    is opened, the rest is not.
    """
    if report.refused and partial:
        raise report.refused
    against = report.worst() or report.closed
    if against and not (partial and report.header_read):
        raise against
