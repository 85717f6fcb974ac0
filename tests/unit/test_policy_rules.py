"""Every policy × every rule × both sides: what obeys passes, and what breaks one rule is refused by its name."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dumpvault.errors import PolicyRefused
from dumpvault.formats.policy import Policy
from dumpvault.formats.policy_facts import Custody, Found, Planned, Retrieval
from dumpvault.formats.rules import RULES
from dumpvault.formats.timestamp import Anchor
from support.enforcement import (
    BREAKS,
    IMPOSSIBLE,
    cases,
    changed,
    check_of,
    everything,
    found,
    planned,
    policies,
    shipped_text,
)


def refused(policy: Policy, facts: Planned | Found, rule: str) -> None:
    """The rule is broken, and the error that says so names policy and rule; the whole of the facts are refused."""
    (one,) = [one for one in policy.broken(facts) if one.rule == rule]
    assert policy.refusal([one], "").message.startswith(f"policy {policy.name}, {rule}: ")
    with pytest.raises(PolicyRefused) as error:
        policy.require(facts)
    assert error.value.exit_code == 11
    assert ("Nothing was captured" if isinstance(facts, Planned) else "Nothing was opened") in error.value.hint


def rules(policy: Policy, facts: Planned | Found) -> set[str]:
    return {one.rule for one in policy.broken(facts)}


@pytest.mark.parametrize("policy", policies(), ids=lambda policy: policy.name)
def test_what_obeys_passes(policy: Policy) -> None:
    """The facts that the other tests change break nothing but what this version cannot do."""
    assert rules(policy, planned(policy)) == {r for r in IMPOSSIBLE if policy[r] is not None}
    assert rules(policy, found(policy)) == {r for r in IMPOSSIBLE - {"retention.lock"} if policy[r] is not None}


@pytest.mark.parametrize(("policy", "rule"), [pytest.param(p, r, id=f"{p.name}-{r}") for p, r in cases("capture")])
def test_enforced_at_capture(policy: Policy, rule: str) -> None:
    refused(policy, replace(planned(policy), **BREAKS["capture"][rule](policy)), rule)


@pytest.mark.parametrize(("policy", "rule"), [pytest.param(p, r, id=f"{p.name}-{r}") for p, r in cases("opening")])
def test_enforced_at_opening(policy: Policy, rule: str) -> None:
    refused(policy, replace(found(policy), **BREAKS["opening"][rule](policy)), rule)


def test_no_rule_is_only_parsed() -> None:
    """Each rule has a check or a reason on both sides; each check is tried, under a policy that demands everything."""
    for side in ("capture", "opening"):
        tried = {rule for policy, rule in cases(side) if policy.name == "everything"}
        for rule in RULES:
            check = check_of(rule, side)
            assert callable(check) == (rule.name in BREAKS[side]), rule.name
            assert rule.name in tried if callable(check) else len(check) > 5, rule.name
    unchecked = {r.name for r in RULES if not callable(r.capture) and not callable(r.opening)}
    # Read first, for people; how often is committed and read back is what tests/proofs drives; destroying asks the last.
    assert unchecked == {"format", "description", "commits.seconds", "commits.read_back", "retention.keep_days"}


def test_names_need_the_keys_that_the_site_knows() -> None:
    """A collector may call any key ``alice``: a name counts only with the digest that the judging site holds."""
    policy, facts = everything(), found(everything())
    assert rules(policy, facts) == set()
    stranger = replace(facts, known={name: frozenset(["0" * 63 + "9"]) for name in facts.known})
    assert rules(policy, stranger) == {"recipients.groups", "quorum.custodians"}
    assert rules(policy, replace(facts, known={})) == rules(policy, stranger)


def test_retrieval_is_asked_only_of_who_opens() -> None:
    policy, facts = everything(), found(everything())
    assert rules(policy, replace(facts, retrieval=None)) == set()
    nothing = rules(policy, replace(facts, retrieval=Retrieval()))
    assert {"retrieval.reason", "retrieval.ticket", "retrieval.approvals"} == nothing


@pytest.mark.parametrize(
    ("ticket", "good"), [("INC-7", True), ("INC-", False), ("inc-7", False), ("XINC-7", False), ("", False)]
)
def test_ticket_patterns(ticket: str, good: bool) -> None:
    facts = replace(found(everything()), retrieval=Retrieval("why", ticket, 2))
    assert ("retrieval.ticket" not in rules(everything(), facts)) == good


def test_destruction_waits() -> None:
    """keep_days to the second; a policy without it lets anything be destroyed at once."""
    policy, created = everything(), found(everything()).created
    with pytest.raises(PolicyRefused, match="keep_days"):
        policy.check_destruction(created, created + timedelta(days=30, seconds=-1))
    policy.check_destruction(created, created + timedelta(days=30))
    policies()[0].check_destruction(created, created)


_STAMPED = datetime(2026, 11, 24, tzinfo=UTC)
_GOOD = Custody("", 4, (9, 6), frozenset([4, 6, 12]), frozenset([6]))


@pytest.mark.parametrize(
    ("anchor", "custody", "why"),
    [
        ("checkpoint", _GOOD, ""),
        ("checkpoint", replace(_GOOD, opened=None, checkpoints=frozenset([12])), ""),
        ("checkpoint", replace(_GOOD, evidence=None), "no entry of the ledger has the manifest's digest"),
        ("checkpoint", Custody("the store has no ledger"), "the store has no ledger"),
        ("checkpoint", replace(_GOOD, opened=None, checkpoints=frozenset([4])), "no checkpoint covers entry 4"),
        ("checkpoint", replace(_GOOD, opened=(9, 0)), "first opened by entry 9"),
        ("checkpoint", replace(_GOOD, opened=(9, 4)), "first opened by entry 9"),
        ("checkpoint", replace(_GOOD, opened=(9, 12)), "first opened by entry 9"),
        ("checkpoint", replace(_GOOD, opened=(9, 7)), "first opened by entry 9"),
        ("checkpoint", replace(_GOOD, opened=(5, 6)), "first opened by entry 5"),
        ("checkpoint", replace(_GOOD, opened=(6, 6)), ""),
        ("witness", _GOOD, ""),
        ("witness", replace(_GOOD, opened=None, witnessed=frozenset([12])), ""),
        ("witness", replace(_GOOD, opened=None, witnessed=frozenset([4])), "cosignature"),
        ("witness", replace(_GOOD, witnessed=frozenset([12])), "from before the first opening"),
        ("timestamp", replace(_GOOD, opened_at=_STAMPED + timedelta(seconds=1)), ""),
        ("timestamp", replace(_GOOD, opened=None), ""),
        ("timestamp", replace(_GOOD, opened_at=_STAMPED), "older than the first opening, 2026"),
        ("timestamp", replace(_GOOD, opened_at=_STAMPED, stamped=_STAMPED), "older than the first opening, 2026"),
        ("timestamp", replace(_GOOD, opened_at=_STAMPED, stamped=_STAMPED - timedelta(seconds=1)), ""),
    ],
)
def test_anchors(anchor: str, custody: Custody, why: str) -> None:
    """Evidence in entry 4, opened first by entry 9, whose actor had seen checkpoint 6; then what changes that."""
    policy = Policy.parse("x", changed(shipped_text("baseline"), {"custody.anchor": f'"{anchor}"'}))
    facts = replace(found(policy), custody=custody, anchors=[Anchor(_STAMPED, "an authority")])
    told = [one.why for one in policy.broken(facts)]
    assert len(told) == bool(why)
    assert all(why in one for one in told)
    assert not policy.broken(replace(facts, retrieval=None)), "verifying opens nothing"
