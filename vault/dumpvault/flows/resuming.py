"""Going on with an unfinished vault of the same dump: what must hold before its commits are relied on.

What an earlier attempt left may be visible and yet not durable, and a store may have been rolled back under a machine
whose memory is already gone. So: same dump, same boot once anything was released, a store no older than the journal,
and every object synced again and re-read against its signed digests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dumpvault.errors import Forged, Incomplete, ReleaseFailed, StoreFailed, Usage, VaultError
from dumpvault.flows.listing import Claim, claims, same_dump
from dumpvault.flows.verified import Report
from dumpvault.flows.verify import verify
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.commit import Outcome, Regions, Release
from dumpvault.formats.event import Released
from dumpvault.formats.header import Source as SourceFacts
from dumpvault.model import Store, body_path, commit_path, event_path, keybag_path, keys_path, vault_prefix
from dumpvault.ranges import Ranges
from dumpvault.stages.journal import Noted

__all__ = ["Unfinished", "adopt", "find_unfinished"]


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A vault to go on with. ``durable`` are file ranges that its commits hold, ``unreadable`` those of them that could
    not be read; ``outcomes`` what the commits left untold."""

    report: Report
    durable: Ranges
    unreadable: Ranges
    authorised: list[Release]
    outcomes: list[Outcome]


def find_unfinished(
    store: Store,
    trust: AllowedSigners,
    facts: SourceFacts,
    host: str,
    keyids: frozenset[str],
    boot_id: str | None,
    noted: Noted,
    wanted: str | None,
    heal: Callable[[Report], None],
) -> Unfinished | None:
    """The unfinished vault of this dump, or None if a new one is to begin.

    ``wanted`` is an id that must be it; ``heal`` is given a finished vault of this dump whose sidecar is missing.
    Raises ``VaultError`` where going on, or beginning anew, would seal pages that were already handed back.
    """
    found: Unfinished | None = None
    for claim in claims(store):
        if isinstance(claim.problem, StoreFailed):
            raise claim.problem  # it may be the very vault to go on with
        same = claim.vault == noted.vault or same_dump(claim, facts, host, keyids, boot_id)
        if claim.vault != wanted and (wanted or not same):
            continue
        if wanted:
            _insist(claim, same)
        if claim.ended:
            prefix = vault_prefix(claim.vault)
            if any(store.size(f"{prefix}/{name}") is None for name in ("manifest.json", "manifest.json.sig")):
                heal(verify(store, claim.vault, trust, bodies=False))
            _refuse_if_released(store, trust, claim.vault, boot_id, noted)
            continue
        found = _examine(store, trust, claim.vault, boot_id, noted, wanted is not None) or found
    if wanted and found is None:
        raise Usage(f"no unfinished vault {wanted!r} in {store.url}", "'dumpvault list' shows what is there.")
    if noted.vault and (found is None or found.report.vault != noted.vault):
        raise StoreFailed(
            f"memory of this dump was released under vault {noted.vault}, which is not unfinished in {store.url}",
            "Those pages are gone; reading them again would seal garbage as genuine. Name the store that holds that vault.",
        )
    return found


def adopt(store: Store, trust: AllowedSigners, unfinished: Unfinished) -> None:
    """Make everything that the chain names durable again and re-read it. Raises ``VaultError`` if any of it is not good."""
    report = unfinished.report
    examiner = report.examiner
    names = ["vault.dsse.json"]
    names += [keybag_path(attempt) for attempt in examiner.attempts]
    for commit in examiner.commits:
        names.append(commit_path(commit.number))
        if isinstance(commit.body, Regions) and commit.body.regions:
            names.append(keys_path(commit.attempt, commit.number))
            names += [body_path(commit.attempt, record.index) for record in commit.body.regions]
    for name in names:
        store.settle(f"{vault_prefix(report.vault)}/{name}")
    again = verify(store, report.vault, trust)
    for finding in again.findings:
        if not _only_unfinished(finding, bool(examiner.commits)):
            raise type(finding)(
                f"vault {report.vault} cannot be relied on: {finding.message}",
                "Nothing was released or sealed on top of it. " + finding.hint,
            )
    if again.examiner.tip != examiner.tip:
        raise StoreFailed(f"vault {report.vault} changed while it was examined", "Is another collector at work on it?")


def _examine(
    store: Store, trust: AllowedSigners, vault: str, boot_id: str | None, noted: Noted, wanted: bool
) -> Unfinished | None:
    report = verify(store, vault, trust, bodies=False)
    examiner = report.examiner
    if sick := next((finding for finding in report.findings if isinstance(finding, StoreFailed)), None):
        raise sick  # what could not be read is not missing
    forged = any(isinstance(finding, Forged) for finding in report.findings)
    if noted.vault == vault and not forged and not _reaches(report, noted):
        raise StoreFailed(
            f"vault {vault} ends before commit {noted.commit}, under which memory was already released",
            "The store was rolled back, or this is an old copy. Those pages are gone; reading them again would seal "
            "garbage as genuine. Bring the newer store back.",
        )
    if not report.header_read or forged:
        if wanted or noted.vault == vault:
            raise report.worst() or report.findings[0]
        return None
    releases = {
        (commit.number, i): release
        for commit in examiner.commits
        if isinstance(commit.body, Regions)
        for i, release in enumerate(commit.body.releases)
    }
    last_boot = next(reversed(examiner.attempts.values()))[0].boot_id if examiner.attempts else boot_id
    if releases and last_boot != boot_id:
        if wanted:
            raise ReleaseFailed(
                f"vault {vault} released memory in another boot; this dump cannot be it",
                "It stays as it is: 'dumpvault open --partial' opens it.",
            )
        return None
    told = {(o.commit, o.release) for c in examiner.commits if isinstance(c.body, Regions) for o in c.body.outcomes}
    # A release that was authorised, and of which nobody knows how it ended, is reported and never repeated.
    outcomes = [
        Outcome(*key, state if (state := noted.states.get(key, "")) in ("released", "failed") else "unknown")
        for key in releases
        if key not in told
    ]
    durable = Ranges((record.offset, record.end) for _, record in examiner.records())
    unreadable = Ranges((hole.offset, hole.end) for _, record in examiner.records() for hole in record.unreadable)
    return Unfinished(report, durable, unreadable, list(releases.values()), outcomes)


def _reaches(report: Report, noted: Noted) -> bool:
    """Whether the chain holds the very commit that the journal saw."""
    commits = report.examiner.commits
    if len(commits) <= noted.commit:
        return False
    after = commits[noted.commit + 1].previous if len(commits) > noted.commit + 1 else report.examiner.tip
    return after == noted.digest


def _refuse_if_released(store: Store, trust: AllowedSigners, vault: str, boot_id: str | None, noted: Noted) -> None:
    """A finished vault of this very dump: if it released memory in this boot, there is nothing left to capture."""
    gone = noted.vault == vault
    if not gone:
        examiner = verify(store, vault, trust, bodies=False).examiner
        boots = [takeover.boot_id for takeover, _ in examiner.attempts.values()]
        released = any(isinstance(commit.body, Regions) and commit.body.releases for commit in examiner.commits)
        # An event that is not believed may be the outcome of a release.
        event = store.size(f"{vault_prefix(vault)}/{event_path(0)}") is not None
        event = event and not (examiner.events and not isinstance(examiner.events[0].body, Released))
        gone = boot_id in boots and (released or event)
    if gone:
        raise ReleaseFailed(
            f"the memory of this dump was handed back under vault {vault}, which is finished",
            "It holds the whole dump; there is nothing left to capture.",
        )


def _insist(claim: Claim, same: bool) -> None:
    """Say why a vault that was named is not one to go on with."""
    if claim.ended:
        raise Usage(f"vault {claim.vault} is finished", "There is nothing to resume.")
    if not same:
        raise Usage(
            f"vault {claim.vault} is of another dump, host or signer",
            "Two crashes are never mixed. Leave --resume out to begin a new vault. A pipe cannot be resumed.",
        )


def _only_unfinished(finding: VaultError, begun: bool) -> bool:
    """Whether a finding says no more than that the vault has no manifest yet, or nothing but its header."""
    expected = ("manifest.dsse.json: missing", "commits: " if begun else "commits")
    return isinstance(finding, Incomplete) and finding.message.startswith(expected)
