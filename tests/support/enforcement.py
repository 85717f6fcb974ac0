"""Every policy, every rule, both sides: facts that obey a policy, and how to break each of its rules.

``BREAKS`` drives the tests in tests/unit/test_policy_rules.py, and docs/reference/policies/enforcement.md is written
from it, so that the page lists tests that exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dumpvault.formats.kem import SUITES
from dumpvault.formats.policy import Policy
from dumpvault.formats.policy_facts import CommitFacts, Custody, Found, Party, Place, Planned, Retrieval
from dumpvault.formats.rules import RULES, SIGNATURES, Rule
from dumpvault.formats.timestamp import Anchor
from dumpvault.ranges import Ranges

ROOT = Path(__file__).parents[2]
SHIPPED = ("baseline", "fips-140-3", "cnsa-2.0", "pci-dss-4", "two-person")
_MIB = 1 << 20
_NOW = datetime(2030, 1, 1, tzinfo=UTC)
_NAMES = ("alice", "bob", "carol", "dave", "erin")

#: What turns baseline into a policy that demands something by every rule.
_EVERYTHING = {
    "recipients.kems": '["mlkem1024", "p384"]', "recipients.minimum": "2",
    "recipients.groups": '{ both = ["alice", "bob"] }', "quorum.needed": "2", "quorum.of": "3",
    "quorum.custodians": '["alice", "bob", "carol"]', "signatures.kinds": '["ed25519", "p384"]', "signatures.minimum": "2",
    "signatures.demanded": '["p384"]', "regions.mib": "16", "regions.compress": '"zstd:3"', "release.mode": '"phyp"',
    "release.undescribed": '"hold"', "store.kinds": '["sftp"]', "store.mount_point": '"/mnt/vaults"',
    "store.filesystem": '"1f2e3d4c-0000-4000-8000-123456789abc"', "retrieval.reason": "true",
    "retrieval.ticket": '"INC-[0-9]*"', "retrieval.approvals": "2", "retention.keep_days": "30",
    "retention.destroy_days": "365", "retention.lock": '"compliance"', "timestamps.demanded": '"rfc3161"',
    "custody.required": "true", "custody.anchor": '"witness"',
}  # fmt: skip

#: What this version cannot do at all: the lawful facts of a policy that demands it break exactly these.
IMPOSSIBLE = {"retention.lock"}


def shipped_text(name: str) -> str:
    return (ROOT / "policies" / f"{name}.toml").read_text()


def changed(text: str, changes: dict[str, str]) -> str:
    """A policy's text with rules (``table.key``) set to other TOML values."""
    lines, inside = [], ""
    for line in text.splitlines():
        if line.startswith("["):
            inside = line.strip("[]")
        key = line.partition(" = ")[0]
        rule = f"{inside}.{key}" if inside else key
        lines.append(f"{key} = {changes[rule]}" if rule in changes and " = " in line else line)
    return "\n".join(lines) + "\n"


def everything() -> Policy:
    """A policy that demands something by every rule."""
    return Policy.parse("everything", changed(shipped_text("baseline"), _EVERYTHING))


def policies() -> list[Policy]:
    return [Policy.parse(name, shipped_text(name)) for name in SHIPPED] + [everything()]


def _common(policy: Policy) -> dict[str, Any]:
    count = max(policy["recipients.minimum"], policy["quorum.needed"] or 0)
    parties = [Party(name, policy["recipients.kems"][0], f"{i:064x}") for i, name in enumerate(_NAMES[:count])]
    kinds = list(policy["signatures.demanded"] or policy["signatures.kinds"][:1])
    kinds += [policy["signatures.kinds"][0]] * (policy["signatures.minimum"] - len(kinds))
    return {
        "recipients": parties, "known": {p.name: frozenset([p.digest]) for p in parties}, "signers": kinds,
        "signed": [("the capture", kinds), ("commits/0.dsse.json", kinds)], "quorum": policy["quorum.needed"],
        "region_size": policy.region_size,
    }  # fmt: skip


def planned(policy: Policy) -> Planned:
    """A capture that obeys ``policy``, but for what is ``IMPOSSIBLE``."""
    place = Place(policy["store.kinds"][0], policy["store.mount_point"], policy["store.filesystem"])
    return Planned(**_common(policy), compress=policy.compress, release=policy.release, place=place)


def found(policy: Policy) -> Found:
    """A vault that obeys ``policy``, and somebody who may open it."""
    codec = "zstd" if policy.compress.startswith("zstd") else "raw"
    length = policy.commit_bytes - 4096 + policy.region_size
    ticket = "INC-7" if policy["retrieval.ticket"] else ""
    return Found(
        **_common(policy), created=_NOW - timedelta(days=20), now=_NOW, codecs=frozenset([codec]),
        commits=[CommitFacts(1, length, policy.region_size)],
        methods=frozenset(["phyp"]), released=Ranges([(0x1000, 0x3000)]), unreadable=Ranges([(0x3000, 0x4000)]),
        unreadable_bytes=4096, retrieval=Retrieval("the database died", ticket, policy["retrieval.approvals"] or 0),
        anchors=[Anchor(_NOW, "an authority")] if policy["timestamps.demanded"] else (),
        custody=Custody("", 4, (9, 6), frozenset([4, 6, 12]), frozenset([6])),
    )  # fmt: skip


def _other(kinds: tuple[str, ...], allowed: tuple[str, ...]) -> str:
    return next(kind for kind in kinds if kind not in allowed)


def _strangers(policy: Policy, *names: str) -> list[Party]:
    """Recipients of an allowed kind, under these names, with keys that the site does not know."""
    return [Party(name, policy["recipients.kems"][0], f"{i:063x}f") for i, name in enumerate(names)]


def _place(policy: Policy, **wrong: Any) -> dict[str, Any]:
    return {"place": replace(planned(policy).place, **wrong)}


#: Which values of a rule demand something that can be broken; any true value, where nothing else is said.
_DEMANDS: dict[str, Callable[[Any], bool]] = {
    "recipients.kems": lambda value: len(value) < len(SUITES),
    "recipients.mix_classical": lambda value: not value,
    "signatures.kinds": lambda value: len(value) < len(SIGNATURES),
    "regions.compress": lambda value: value != "auto",
    "release.mode": lambda value: value != "auto",
    "release.undescribed": lambda value: value == "hold",
    "release.unreadable": lambda value: value == "hold",
    "store.kinds": lambda value: len(value) < 3,
}

_BOTH: dict[str, Callable[[Policy], dict[str, Any]]] = {
    "recipients.kems": lambda p: {"recipients": [Party("m", _other(tuple(SUITES), p["recipients.kems"]), "f" * 64)]},
    "recipients.minimum": lambda p: {"recipients": planned(p).recipients[: p["recipients.minimum"] - 1]},
    "recipients.mix_classical": lambda p: {
        "recipients": [Party("m", "xwing", "f" * 64), Party("n", "x25519", "e" * 64)]
    },
    "recipients.groups": lambda p: {"recipients": _strangers(p, "alice", "bob")},
    "quorum.needed": lambda p: {"quorum": None},
    "quorum.of": lambda p: {"recipients": _strangers(p, *map(str, range(p["quorum.of"] + 1)))},
    "quorum.custodians": lambda p: {"recipients": _strangers(p, "alice")},
    "signatures.kinds": lambda p: {"signers": [_other(SIGNATURES, p["signatures.kinds"])]},
    "signatures.minimum": lambda p: {"signed": [("x", ["ed25519"] * (p["signatures.minimum"] - 1))]},
    "signatures.demanded": lambda p: {"signed": [("x", ["ed25519"] * 8)]},
    "regions.mib": lambda p: {"region_size": p.region_size + 4096},
}

#: By side and rule: what to change in facts that obey the policy, to break that rule.
BREAKS: dict[str, dict[str, Callable[[Policy], dict[str, Any]]]] = {
    "capture": _BOTH | {
        "regions.compress": lambda p: {"compress": "auto"},
        "release.mode": lambda p: {"release": "fadump"},
        "store.kinds": lambda p: _place(p, kind="directory"),
        "store.mount_point": lambda p: _place(p, mount_point="/"),
        "store.filesystem": lambda p: _place(p, filesystem=None),
        "retrieval.approvals": lambda p: {"quorum": None},
        "retention.lock": lambda p: {},
    },
    "opening": _BOTH | {
        "regions.compress": lambda p: {"codecs": frozenset(["raw", "zstd"])},
        "commits.mib": lambda p: {"commits": [CommitFacts(3, p.commit_bytes + 4096, 4096)]},
        "release.mode": lambda p: {"methods": frozenset(["fadump"])},
        "release.undescribed": lambda p: {"methods": frozenset(["fadump"])},
        "release.unreadable": lambda p: {"released": Ranges([(0x1000, 0x3001)])},
        "retrieval.reason": lambda p: {"retrieval": Retrieval(" ", "INC-7", 9)},
        "retrieval.ticket": lambda p: {"retrieval": Retrieval("why", "", 9)},
        "retrieval.approvals": lambda p: {"retrieval": Retrieval("why", "INC-7", p["retrieval.approvals"] - 1)},
        "custody.required": lambda p: {"custody": replace(found(p).custody, trouble="the store cannot be written")},
        "custody.anchor": lambda p: {"custody": replace(found(p).custody, witnessed=frozenset([12]))},
        "retention.destroy_days": lambda p: {"created": _NOW - timedelta(p["retention.destroy_days"], seconds=1)},
        "timestamps.demanded": lambda p: {"anchors": ()},
    },
}  # fmt: skip


def check_of(rule: Rule, side: str) -> Any:
    return rule.capture if side == "capture" else rule.opening


def cases(side: str) -> Iterator[tuple[Policy, str]]:
    """Every policy and rule whose breaking can be tried on that side."""
    for policy in policies():
        for rule in RULES:
            if callable(check_of(rule, side)) and _DEMANDS.get(rule.name, bool)(policy[rule.name]):
                yield policy, rule.name


_HEAD = """\
# Where each rule is enforced, and the test that proves it

Written by `make reference` from the table that the tests run by. `capture[…]` is `test_enforced_at_capture[…]`,
and `opening[…]` is `test_enforced_at_opening[…]`, in `tests/unit/test_policy_rules.py`: facts that obey the policy are
changed to break that one rule, and must be refused by its name. `everything` is a policy of the tests that demands
something by every rule.

What the commands do with a broken rule is proved rule by rule in `tests/e2e/test_policies.py`, by
`test_capture_refuses[…]` and `test_opening_refuses[…]`.
"""


def render() -> str:
    """docs/reference/policies/enforcement.md."""
    tried = {side: {(policy.name, rule) for policy, rule in cases(side)} for side in BREAKS}
    lines = [_HEAD]
    for policy in policies():
        lines += [f"\n## {policy.name}\n", "| rule | says | at capture | at opening |", "|---|---|---|---|"]
        for rule in RULES:
            cells = []
            for side in ("capture", "opening"):
                check = check_of(rule, side)
                if not callable(check):
                    cells.append(check)
                elif (policy.name, rule.name) in tried[side]:
                    cells.append(f"`{side}[{policy.name}-{rule.name}]`")
                else:
                    cells.append("demands nothing that could be broken")
            lines.append(f"| `{rule.name}` | {_says(policy[rule.name])} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def _says(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "; ".join(f"{group}: {' or '.join(names)}" for group, names in value.items())
    return (
        ", ".join(value) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else str(value)
    )
