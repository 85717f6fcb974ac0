"""What a verified ledger tells of vaults, for a report: entries by vault, beside what each vault itself tells."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from dumpvault.errors import Forged
from dumpvault.flows.auditing import Audit, audit
from dumpvault.flows.custody import Custody
from dumpvault.flows.reporting import custody_entries
from dumpvault.flows.site import Site
from dumpvault.flows.verified import Report
from dumpvault.flows.witnessing import kept
from dumpvault.formats import report_facts
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.entry import Entry, Judged
from dumpvault.formats.plain import size
from dumpvault.formats.report_facts import CustodyEntry
from dumpvault.model import Store

__all__ = ["Told", "read_ledger", "words"]

#: What a vault tells as well as its ledger: officers' events.
_EVENTS = ("granted", "rewrapped", "reshared", "shredded")

#: Gives what is to be said of one vault's custody.
Told = Callable[[Report], report_facts.Custody]


def read_ledger(site: Site, store: Store, trust: AllowedSigners, moment: datetime) -> Told:
    """Verify the store's ledger, if it has one, and read it once for all vaults. Raises ``VaultError`` if the store fails."""
    try:
        custody = Custody.of(site, store, trust)
    except Forged as error:
        lost = error.message
        return lambda report: report_facts.Custody(custody_entries(report), "failed", None, f"{lost}.")
    if custody is None:
        return lambda report: report_facts.Custody(custody_entries(report))
    found = audit(custody, kept(custody), moment)
    by_vault: dict[str | None, list[tuple[int, Judged]]] = defaultdict(list)
    for number, judged in custody.entries():
        if judged.entry and number < found.size and number not in found.flags:
            by_vault[judged.entry.vault].append((number, judged))
    return lambda report: _of(report, found, by_vault[report.vault])


def _of(report: Report, found: Audit, entries: list[tuple[int, Judged]]) -> report_facts.Custody:
    recorded = Counter(judged.entry.event for _, judged in entries if judged.entry)
    told: list[CustodyEntry] = []
    what: dict[str, list[str]] = defaultdict(list)
    unrecorded = 0
    for one in custody_entries(report):
        if one.event in _EVENTS and recorded[one.event]:
            recorded[one.event] -= 1  # the ledger's entry says it, and why; the vault says what exactly
            what[one.event].append(one.detail or "")
        else:
            unrecorded += one.event in _EVENTS
            told.append(one)
    for number, judged in entries:
        entry = judged.entry
        assert entry is not None
        if entry.event == "collected":  # the vault says so itself
            continue
        doubt = found.doubts.get(number, "")
        exactly = what[entry.event].pop(0) if what[entry.event] else ""
        ticket = f"ticket {entry.ticket}" if entry.ticket else ""
        detail = "; ".join(filter(None, (words(entry), exactly, ticket, doubt)))
        told.append(
            CustodyEntry(entry.time, entry.event, judged.principal, entry.role, entry.purpose, detail or None, 0)
        )
    told = [replace(entry, index=index) for index, entry in enumerate(sorted(told, key=lambda entry: entry.time))]
    notes = [f"{finding.message}." for finding in found.findings]
    if found.flags:
        notes.append(f"{len(found.flags)} entries of the ledger do not count; 'dumpvault custody verify' tells why.")
    if found.uncovered:
        notes.append(f"{found.uncovered} entries are newer than its last checkpoint.")
    witnessed = max(found.cosigned, default=0)
    if witnessed:
        who = ", ".join(sorted({name for name, _ in found.cosigned[witnessed]}))
        notes.append(f"Cosigned up to {witnessed} by {who}.")
    if unrecorded:
        notes.append(f"{unrecorded} changes that the vault tells of have no entry.")
    state = {"intact": "verified", "incomplete": "incomplete", "failed": "failed"}[found.verdict]
    covered = found.checkpoint.size if found.checkpoint else 0
    return report_facts.Custody(tuple(told), state, covered, " ".join(notes))  # type: ignore[arg-type]


def words(entry: Entry) -> str:
    """What an entry's detail says, for people."""
    detail = dict(entry.detail or {})
    told = [f"by {detail['how']}"] if "how" in detail else []
    if detail.get("bytes", "").isdigit():
        told.append(f"{size(int(detail['bytes']))} of sealed bytes read")
    told += [f"{word} {detail[word]}" for word in ("regions", "verdict", "size") if word in detail]
    told += [f"{word} {text}" for word, text in (("from", entry.from_), ("to", entry.to)) if text]
    return ", ".join(told)
