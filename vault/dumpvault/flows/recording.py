"""What a command does is in the store's ledger before it is done (docs/spec/ledger.md, section 7).

A policy with ``custody.required`` turns whatever keeps an entry from being written into a refusal. Without it, a store that
has no ledger is as it always was, and a ledger that cannot be written is told of. A ledger that was rolled back or forked
is refused by ``Custody`` itself, whatever the policy says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dumpvault.errors import Forged, PolicyRefused, VaultError
from dumpvault.flows.judging import Judge
from dumpvault.flows.site import Site
from dumpvault.flows.verified import Report
from dumpvault.formats import policy_facts
from dumpvault.formats.event import runs
from dumpvault.formats.policy import Policy
from dumpvault.formats.policy_facts import Retrieval
from dumpvault.model import RegionRecord, Store, vault_prefix

if TYPE_CHECKING:
    from dumpvault.flows.custody import Custody, Recorded

__all__ = ["Opening", "Recording", "subject_of"]

_LONGEST = 4096  # characters of one detail
_NONE = "the store has no ledger"


@dataclass(frozen=True, slots=True)
class Recording:
    """One command's entries about vaults of one store.

    ``ledger`` is None where there is none, or where it cannot be used, which ``failure`` then says. ``warn`` is told what
    could not be recorded and need not be.
    """

    site: Site
    store: Store
    warn: Callable[[str], None]
    ledger: Custody | None = None
    failure: VaultError | None = None

    def custody(self, report: Report) -> policy_facts.Custody:
        """What a policy asks of the ledger about the vault that ``report`` is of. Raises ``Forged``."""
        if self.ledger is None:
            return policy_facts.Custody(self.failure.message if self.failure else _NONE)
        try:
            return self.ledger.facts(report.vault, report.examiner.manifest_digest)
        except Forged:
            raise
        except VaultError as error:
            return policy_facts.Custody(error.message)

    def record(
        self,
        report: Report,
        event: str,
        role: str,
        why: Retrieval,
        detail: Mapping[str, str] | None = None,
        from_: str | None = None,
        to: str | None = None,
    ) -> Recorded | None:
        """Write an entry, durable on return; None where there is no ledger, or it could not be written and need not be.

        Raises ``PolicyRefused`` where the policy that this site trusts for the vault's host requires it, ``Forged`` for a
        ledger that is not what it was.
        """
        try:
            if self.failure:
                raise self.failure
            if self.ledger is None:
                raise _NoLedger(_NONE)
            policy = self._policy(report)
            kinds = policy["signatures.kinds"] if policy["custody.required"] else None
            return self.ledger.record(
                event=event, role=role, vault=report.vault, subject=subject_of(self.store, report),
                purpose=why.reason.strip() or None, ticket=why.ticket or None, detail=detail, from_=from_, to=to, kinds=kinds,
            )  # fmt: skip
        except Forged:
            raise
        except VaultError as error:
            self._refuse_where_required(report, error)
            if not isinstance(error, _NoLedger):
                self.warn(f"warning: not in the ledger: {event} {report.vault}: {error.message}")
            return None

    def _policy(self, report: Report) -> Policy:
        """The policy that the vault must obey here."""
        judged = report.judgement
        return judged.policy if judged else Judge(self.site).chosen(report.examiner.header)[0]

    def _refuse_where_required(self, report: Report, error: VaultError) -> None:
        policy = self._policy(report)
        if policy["custody.required"]:
            raise PolicyRefused(
                f"policy {policy.name}, custody.required: {error.message}",
                f"Nothing was decrypted, and nothing changed. {error.hint}".strip(),
            )


def subject_of(store: Store, report: Report) -> tuple[str, str, str]:
    """Name, SHA-256 and SHA-384 of the manifest, or of the header as long as no manifest verified. Raises ``Forged``."""
    examiner = report.examiner
    held = examiner.manifest is not None
    name = f"{vault_prefix(report.vault)}/{'manifest' if held else 'vault'}.dsse.json"
    wanted = examiner.manifest_digest if held else examiner.header_digest
    data = store.get(name)
    if hashlib.sha256(data).hexdigest() != wanted:
        raise Forged(f"{name}: was exchanged while it was read", "Nothing was done. See who writes to the store.")
    return name, wanted, hashlib.sha384(data).hexdigest()


class _NoLedger(VaultError):
    """Where nothing is kept, nothing is missing."""


@dataclass(slots=True)
class Opening:
    """``opened`` before the first key is unwrapped, ``closed`` when it is over. ``how`` is the command's name."""

    recording: Recording
    how: str
    _begun: tuple[Report, Retrieval, Recorded] | None = field(default=None, init=False)

    def begin(self, report: Report) -> None:
        """Raises as ``Recording.record`` does; then nothing may be opened."""
        said = (report.judgement and report.judgement.found.retrieval) or Retrieval()
        entry = self.recording.record(report, "opened", "analyst", said, {"how": self.how})
        self._begun = (report, said, entry) if entry else None

    def end(self, length: int, regions: Iterable[tuple[int, RegionRecord]]) -> None:
        """``length`` bytes were read from the store, of ``regions``: (attempt, record). Never raises ``VaultError``."""
        if self._begun is None:
            return
        report, said, entry = self._begun
        self._begun = None
        detail = {"opened": entry.digest, "bytes": str(length), "regions": listed(regions)}
        try:
            self.recording.record(report, "closed", "analyst", said, detail)
        except VaultError as error:
            self.recording.warn(f"warning: that the opening ended is not in the ledger: {error.message}")


def listed(regions: Iterable[tuple[int, RegionRecord]]) -> str:
    """``1/0-3,1/17``: attempt and indexes; cut, and said to be, where that is longer than an entry's detail may be."""
    held = runs({(attempt, record.index) for attempt, record in regions})
    words = [f"{run.attempt}/{run.first}" + (f"-{run.last}" if run.last > run.first else "") for run in held]
    text = ",".join(words) or "none"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 12].rpartition(",")[0] + " and others"
