"""Evaluate a policy against a site before any crash: one line for each rule."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from dumpvault.errors import VaultError
from dumpvault.flows.capture import parties_for, signers_for
from dumpvault.flows.planning import plan
from dumpvault.flows.site import Site
from dumpvault.formats.policy import Policy
from dumpvault.formats.rules import CARRIED_OUT, RULES

__all__ = ["Line", "check", "exit_code"]

_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True)
class Line:
    """``state``: the rule holds, is broken, cannot be told because what it speaks of is not there, or is no matter of
    capture. ``code`` is what the exit code is if nothing worse is found."""

    rule: str
    state: Literal["holds", "broken", "unknown", "later"]
    found: str
    advice: str = ""
    code: int = 0


def check(
    site: Site,
    policy: Policy,
    recipients: tuple[str, ...],
    quorum: str | None,
    signers: tuple[str, ...],
    host: str | None,
    store: str | None,
) -> list[Line]:
    """Every rule of ``policy`` against what a capture at ``site`` would be; what is not named is the site's.

    Writes nothing.
    """
    problems: dict[str, VaultError] = {}

    def held(tables: tuple[str, ...], find: Callable[[], list[_Found]]) -> list[_Found]:
        try:
            return find()
        except VaultError as error:
            problems.update(dict.fromkeys(tables, error))
            return []

    parties = held(("recipients", "quorum"), lambda: [parties_for(site, recipients, quorum)])
    keys, threshold = parties[0] if parties else ([], None)
    machine = host or os.uname().nodename
    kinds = held(("signatures",), lambda: [key.signer for key in signers_for(site, signers or site.signers, machine)])
    facts = plan(site, policy, recipients=keys, quorum=threshold, signers=kinds, store=store)
    broken = {one.rule: one for one in policy.broken(facts)}
    told = {
        "recipients": ", ".join(f"{r.name} ({r.suite.name})" for r in keys),
        "quorum": "the vault key is not shared" if facts.quorum is None else f"{facts.quorum} of {len(keys)}",
        "signatures": ", ".join(facts.signers),
        "store": f"{store or site.store_url}, a {facts.place.kind}",
    }
    lines = []
    for rule in RULES:
        error = problems.get(rule.table)
        if not callable(rule.capture):
            lines.append(
                Line(rule.name, "holds" if rule.capture is CARRIED_OUT or not rule.table else "later", rule.capture)
            )
        elif error:
            lines.append(Line(rule.name, "unknown", error.message, error.hint, error.exit_code))
        elif one := broken.get(rule.name):
            lines.append(Line(rule.name, "broken", one.why, one.advice, 11))
        else:
            lines.append(Line(rule.name, "holds", told.get(rule.table, "")))
    return lines


def exit_code(lines: list[Line]) -> int:
    """11 if a rule is broken, else the code of what could not be told, else 0."""
    codes = [line.code for line in lines if line.code]
    return 11 if 11 in codes else codes[0] if codes else 0
