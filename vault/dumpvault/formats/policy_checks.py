"""How each rule of a policy is checked: pure functions of what the policy demands and what is, for ``rules.RULES``.

Each returns what is wrong, in words that follow the rule's name; empty if nothing is.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, Protocol

from dumpvault.formats.kem import SUITES
from dumpvault.formats.policy_facts import Custody, Facts, Found, Planned
from dumpvault.formats.rule_kinds import parse_compress

__all__ = [
    "Demands",
    "anchored",
    "approvals",
    "approvals_possible",
    "commit_size",
    "compress_found",
    "compress_planned",
    "custodians",
    "filesystem",
    "groups",
    "kems",
    "lock",
    "minimum",
    "mixed",
    "mount_point",
    "needed",
    "of",
    "overdue",
    "reason",
    "recorded",
    "region_size",
    "release_found",
    "release_planned",
    "signature_count",
    "signature_kinds",
    "signatures_demanded",
    "store_kind",
    "ticket",
    "timestamps",
    "undescribed",
    "unreadable",
]

_MIB = 1 << 20


class Demands(Protocol):
    """What a check is given of the policy: its rules' values by name."""

    def __getitem__(self, name: str) -> Any: ...


# --- checks of both sides ---------------------------------------------------------------------------------------------


def kems(policy: Demands, facts: Facts) -> str:
    allowed = policy["recipients.kems"]
    wrong = [f"{r.name} is {r.suite}" for r in facts.recipients if r.suite not in allowed]
    return f"recipient {', '.join(wrong)}; allowed: {', '.join(allowed)}" if wrong else ""


def minimum(policy: Demands, facts: Facts) -> str:
    count = len({r.digest for r in facts.recipients})
    if count < len(facts.recipients):
        return "a recipient is named twice"
    least = policy["recipients.minimum"]
    return f"{count} recipients; at least {least} are required" if count < least else ""


def mixed(policy: Demands, facts: Facts) -> str:
    weak = [r.name for r in facts.recipients if not SUITES[r.suite].post_quantum]
    if policy["recipients.mix_classical"] or len(weak) in (0, len(facts.recipients)):
        return ""
    return f"{', '.join(weak)} would undo the post-quantum protection of the other recipients"


def groups(policy: Demands, facts: Facts) -> str:
    groups = policy["recipients.groups"] or {}
    empty = [f"{group} ({' or '.join(names)})" for group, names in groups.items() if not facts.members(names)]
    return f"no recipient of group {', '.join(empty)} with a key that this site knows" if empty else ""


def needed(policy: Demands, facts: Facts) -> str:
    needed = policy["quorum.needed"]
    if needed is None:
        return ""
    if facts.quorum is None:
        return f"the vault key is not shared: any one recipient opens it; at least {needed} custodians must agree"
    return f"{facts.quorum} custodians open it; at least {needed} must agree" if facts.quorum < needed else ""


def of(policy: Demands, facts: Facts) -> str:
    most = policy["quorum.of"]
    if most is None:
        return ""
    count = len(facts.recipients)
    if facts.quorum is None:
        return "the vault key is not shared among custodians"
    return f"{count} custodians hold a share; at most {most} may" if count > most else ""


def custodians(policy: Demands, facts: Facts) -> str:
    names = policy["quorum.custodians"]
    if names is None:
        return ""
    if facts.quorum is None:
        return "the vault key is not shared among custodians"
    good = facts.members(names)
    strangers = [r.name for r in facts.recipients if r.name not in good]
    return f"{', '.join(strangers)}: not one of {', '.join(names)} with a key that this site knows" if strangers else ""


def signature_kinds(policy: Demands, facts: Facts) -> str:
    allowed = policy["signatures.kinds"]
    wrong = sorted(set(facts.signers) - set(allowed))
    return f"a signer is {', '.join(wrong)}; allowed: {', '.join(allowed)}" if wrong else ""


def signature_count(policy: Demands, facts: Facts) -> str:
    least = policy["signatures.minimum"]
    for name, kinds in facts.signed:
        if len(kinds) < least:
            return f"{name} is signed by {len(kinds)} keys; at least {least} are required"
    return ""


def signatures_demanded(policy: Demands, facts: Facts) -> str:
    demanded = policy["signatures.demanded"] or ()
    for name, kinds in facts.signed:
        if missing := [kind for kind in demanded if kind not in kinds]:
            return f"{name} has no signature of kind {', '.join(missing)}"
    return ""


def region_size(policy: Demands, facts: Facts) -> str:
    most = policy["regions.mib"]
    too_large = facts.region_size > most * _MIB
    return f"regions of up to {facts.region_size} bytes; at most {most} MiB are allowed" if too_large else ""


# --- checks at capture ------------------------------------------------------------------------------------------------


def compress_planned(policy: Demands, plan: Planned) -> str:
    demanded = policy["regions.compress"]
    if demanded == "auto" or parse_compress(demanded) == parse_compress(plan.compress):
        return ""
    return f"compression {plan.compress} is asked for; the policy says {demanded}"


def release_planned(policy: Demands, plan: Planned) -> str:
    mode = policy["release.mode"]
    if mode == "auto" or plan.release in (mode, "none"):
        return ""
    return f"release by {plan.release} is asked for; the policy says {mode}"


def store_kind(policy: Demands, plan: Planned) -> str:
    allowed = policy["store.kinds"]
    return "" if plan.place.kind in allowed else f"the store is a {plan.place.kind}; allowed: {', '.join(allowed)}"


def mount_point(policy: Demands, plan: Planned) -> str:
    wanted, found = policy["store.mount_point"], plan.place.mount_point
    if wanted is None or found == os.path.normpath(wanted):
        return ""
    return f"the store's file system is mounted at {found or 'no place that is known'}; demanded: {wanted}"


def filesystem(policy: Demands, plan: Planned) -> str:
    wanted, found = policy["store.filesystem"], plan.place.filesystem
    if wanted is None or (found or "").lower() == wanted.lower():
        return ""
    return f"the store is on file system {found or 'without a UUID that is known'}; demanded: {wanted}"


def approvals_possible(policy: Demands, plan: Planned) -> str:
    wanted = policy["retrieval.approvals"] or 0
    if wanted <= (plan.quorum or 0):
        return ""
    return f"{wanted} approvals would be demanded, and {plan.quorum or 'no'} custodians give any: nobody could open it"


def lock(policy: Demands, plan: Planned) -> str:
    mode = policy["retention.lock"]
    return "" if mode is None else f"a {plan.place.kind} cannot lock objects ({mode}); this version locks in no store"


# --- checks at opening ------------------------------------------------------------------------------------------------


def compress_found(policy: Demands, found: Found) -> str:
    wanted = {"auto": None, "none": "raw", "zstd": "zstd"}[parse_compress(policy["regions.compress"])[0]]
    wrong = found.codecs - {wanted} if wanted else None
    return (
        f"regions are stored as {', '.join(sorted(wrong))}; the policy says {policy['regions.compress']}"
        if wrong
        else ""
    )


def commit_size(policy: Demands, found: Found) -> str:
    most = policy["commits.mib"] * _MIB
    for commit in found.commits:
        # A commit is made once it is full, so that what it held before its last region is less than the bound.
        if commit.length - commit.largest >= most:
            return f"commit {commit.number} holds {commit.length} bytes; it was due after {most}"
    return ""


def release_found(policy: Demands, found: Found) -> str:
    mode = policy["release.mode"]
    wrong = found.methods - {mode} if mode != "auto" else None
    return f"memory was released by {', '.join(sorted(wrong))}; the policy says {mode}" if wrong else ""


def undescribed(policy: Demands, found: Found) -> str:
    wrong = policy["release.undescribed"] == "hold" and "fadump" in found.methods
    return "memory was released by fadump, which holds nothing back" if wrong else ""


def unreadable(policy: Demands, found: Found) -> str:
    if policy["release.unreadable"] == "release":
        return ""
    if found.unreadable_bytes and "fadump" in found.methods:
        return f"fadump released everything, and {found.unreadable_bytes} bytes had not been read"
    both = found.released & found.unreadable
    return f"{both.total} bytes were released that could not be read" if both else ""


def reason(policy: Demands, found: Found) -> str:
    said = found.retrieval is None or found.retrieval.reason.strip() or not policy["retrieval.reason"]
    return "" if said else "no reason is given"


def ticket(policy: Demands, found: Found) -> str:
    from fnmatch import fnmatchcase

    pattern = policy["retrieval.ticket"]
    if pattern is None or found.retrieval is None or fnmatchcase(found.retrieval.ticket, pattern):
        return ""
    given = f"ticket {found.retrieval.ticket!r} is not" if found.retrieval.ticket else "no ticket is given"
    return f"{given}: the policy asks for {pattern}" if not found.retrieval.ticket else f"{given} of the form {pattern}"


def approvals(policy: Demands, found: Found) -> str:
    wanted = policy["retrieval.approvals"]
    if wanted is None or found.retrieval is None or found.retrieval.approvals >= wanted:
        return ""
    return f"{found.retrieval.approvals} approvals; {wanted} are needed"


def overdue(policy: Demands, found: Found) -> str:
    days = policy["retention.destroy_days"]
    if days is None or found.now - found.created <= timedelta(days=days):
        return ""
    return f"captured on {found.created:%Y-%m-%d}, by its own word; it was to be destroyed after {days} days"


def recorded(policy: Demands, found: Found) -> str:
    wanted = policy["custody.required"] and found.retrieval is not None
    return found.custody.trouble if wanted else ""


def anchored(policy: Demands, found: Found) -> str:
    """docs/spec/ledger.md, section 6: what was there before the first opening, or before the one that is about to be."""
    wanted, custody = policy["custody.anchor"], found.custody
    if wanted is None or found.retrieval is None:
        return ""
    if wanted == "timestamp":
        times = [one.time for one in found.anchors] + ([custody.stamped] if custody.stamped else [])
        before = [time for time in times if custody.opened_at is None or time < custody.opened_at]
        return "" if before else f"no good timestamp over the manifest is older than {_first_opening(custody)}"
    return _uncovered(custody, witnessed=wanted == "witness")


def _first_opening(custody: Custody) -> str:
    return f"the first opening, {custody.opened_at:%Y-%m-%d %H:%M:%SZ}" if custody.opened_at else "this opening"


def _uncovered(custody: Custody, *, witnessed: bool) -> str:
    if custody.evidence is None:
        return f"no entry of the ledger has the manifest's digest{custody.trouble and f': {custody.trouble}'}"
    good = {size for size in custody.checkpoints if size > custody.evidence}
    if custody.opened is not None:
        number, seen = custody.opened
        good = {size for size in good if size <= number}
        if seen not in good:
            return (
                f"the vault was first opened by entry {number}, and no checkpoint that its actor had seen covers "
                f"entry {custody.evidence}, which has the manifest's digest"
            )
    if not good:
        return f"no checkpoint covers entry {custody.evidence}, which has the manifest's digest"
    if witnessed and not good & custody.witnessed:
        before = "" if custody.opened is None else ", from before the first opening,"
        return f"no checkpoint{before} that covers entry {custody.evidence} has a good cosignature of a witness"
    return ""


def timestamps(policy: Demands, found: Found) -> str:
    wanted = policy["timestamps.demanded"]
    if wanted is None or found.anchors:
        return ""
    return f"the manifest has no good {wanted} timestamp by an authority that this site trusts"
