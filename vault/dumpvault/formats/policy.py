"""Policies: TOML that a security team reviews without reading code (docs/reference/policies/).

A policy's text stands in each vault's signed header, so its form is versioned: ``format = 2`` has every rule of
``rules.RULES``, ``format = 1`` the first few. In both, a rule that is missing or not known is an error.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from dumpvault.errors import BadInput, PolicyRefused, Usage
from dumpvault.formats import rule_kinds
from dumpvault.formats.kem import SUITES
from dumpvault.formats.policy_facts import Facts, Found, Party, Place, Planned
from dumpvault.formats.recipient import Recipient
from dumpvault.formats.rules import RULES, Rule, rules_of

__all__ = ["Broken", "Policy", "parse_compress"]

_MIB = 1 << 20
_LONGEST = 65536
_MOST_RECIPIENTS = 128
_FORMATS = (1, 2)


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that does not hold: ``why`` in words, ``advice`` on what to do."""

    rule: str
    why: str
    advice: str


@dataclass(frozen=True, slots=True)
class Policy:
    """A parsed policy. ``policy["commits.mib"]`` is a rule's value; the fields are what a collector works by.

    Sizes in bytes, times in seconds.
    """

    name: str
    text: str
    format: int
    region_size: int
    compress: str
    commit_bytes: int
    commit_seconds: float
    release: str
    hold_undescribed: bool
    release_unreadable: bool
    read_back: str
    rules: Mapping[str, Any] = field(repr=False, hash=False)

    def __getitem__(self, name: str) -> Any:
        return self.rules[name]

    @classmethod
    def parse(cls, name: str, text: str, where: str = "") -> Policy:
        """Raises ``BadInput`` naming file (``where``), line, rule and what is allowed."""
        rules = _Text(name, text, where).rules()
        return cls(
            name=name,
            text=text,
            format=rules["format"],
            region_size=rules["regions.mib"] * _MIB,
            compress=rules["regions.compress"],
            commit_bytes=rules["commits.mib"] * _MIB,
            commit_seconds=rules["commits.seconds"],
            read_back=rules["commits.read_back"],
            release=rules["release.mode"],
            hold_undescribed=rules["release.undescribed"] == "hold",
            release_unreadable=rules["release.unreadable"] == "release",
            rules=rules,
        )

    def broken(self, facts: Facts, tables: tuple[str, ...] = ()) -> list[Broken]:
        """The rules that ``facts`` (``Planned`` or ``Found``) break, of ``tables`` or of all; pure."""
        assert isinstance(facts, (Planned, Found))
        found = []
        for rule in RULES:
            check = rule.capture if isinstance(facts, Planned) else rule.opening
            if callable(check) and (not tables or rule.table in tables) and (why := check(self, facts)):
                found.append(Broken(rule.name, why, rule.advice))
        return found

    def require(self, facts: Facts, tables: tuple[str, ...] = ()) -> None:
        """Raise ``PolicyRefused`` naming the first rule that is broken."""
        broken = self.broken(facts, tables)
        if broken:
            raise self.refusal(broken, "Nothing was captured." if isinstance(facts, Planned) else "Nothing was opened.")

    def refusal(self, broken: list[Broken], safe: str) -> PolicyRefused:
        """The error that names the first of ``broken``, and how many more there are."""
        more = f" (and {len(broken) - 1} more rules)" if len(broken) > 1 else ""
        first = broken[0]
        return PolicyRefused(
            f"policy {self.name}, {first.rule}: {first.why}{more}", " ".join(filter(None, (safe, first.advice)))
        )

    def check_recipients(
        self,
        recipients: Sequence[Recipient],
        known: Mapping[str, frozenset[str]] | None = None,
        quorum: int | None = None,
    ) -> None:
        """The rules that speak of recipients and custodians, at capture; raises ``PolicyRefused`` naming the rule.

        ``known`` are the key names of the site with their digests.
        """
        if len(recipients) > _MOST_RECIPIENTS:
            raise PolicyRefused(
                f"{len(recipients)} recipients; a vault has {_MOST_RECIPIENTS} at most", "Nothing was captured."
            )
        parties = [Party(r.name, r.suite.name, r.digest) for r in recipients]
        plan = Planned(
            recipients=parties, known=known or {}, signers=(), signed=(), quorum=quorum, region_size=0, compress="", release="",
            place=Place("", None, None),
        )  # fmt: skip
        self.require(plan, ("recipients", "quorum"))

    def rehearsal(self) -> str:
        """A policy by which a collector works as by this one, in format 1, and that asks nothing of keys or stores."""
        rules = {**self.rules, "format": 1, "description": "rehearsal", "recipients.minimum": 1}
        rules |= {"recipients.kems": list(SUITES), "recipients.mix_classical": True, "regions.compress": "auto"}
        lines, inside = [], ""
        for rule in rules_of(1, {"release": {}}):
            if rule.table != inside:
                inside = rule.table
                lines.append(f"[{inside}]")
            lines.append(f"{rule.key} = {json.dumps(rules[rule.name])}")
        return "\n".join(lines) + "\n"

    def check_destruction(self, created: datetime, now: datetime) -> None:
        """``retention.keep_days``: raises ``PolicyRefused`` where a vault of ``created`` must not be destroyed yet."""
        days = self["retention.keep_days"]
        if days is not None and now - created < timedelta(days=days):
            raise PolicyRefused(
                f"policy {self.name}, retention.keep_days: captured on {created:%Y-%m-%d}; it is to be kept for {days} days",
                f"Nothing was destroyed. {days - max(0, (now - created).days)} days are left.",
            )


def parse_compress(text: str, where: str) -> tuple[str, int]:
    """``auto``, ``none`` or ``zstd[:LEVEL]`` as (mode, level); raises ``Usage`` naming ``where``."""
    try:
        return rule_kinds.parse_compress(text)
    except ValueError:
        raise Usage(
            f"{where}: {text!r} is no compression", "Use auto, none, or zstd:LEVEL with a level from 1 to 19."
        ) from None


class _Text:
    """A policy's text while it is read; knows where in it a rule stands."""

    def __init__(self, name: str, text: str, where: str) -> None:
        self._name = name
        self._text = text
        self._where = f" ({where})" if where else ""

    def rules(self) -> dict[str, Any]:
        """Every rule's value. Raises ``BadInput``."""
        if len(self._text.encode(errors="surrogatepass")) > _LONGEST:
            raise self._bad(0, f"longer than {_LONGEST} bytes", "It would not fit a vault's header.")
        try:
            top = tomllib.loads(self._text)
        except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
            raise self._bad(0, f"not TOML: {str(error)[:200]}", "Correct the file; nothing was captured.") from None
        version = self._version(top)
        rules = rules_of(version, top)
        self._only_known(top, rules)
        values = {rule.name: rule.before[0] for rule in RULES if rule.before is not None}
        values |= {rule.name: self._value(top, rule) for rule in rules if rule.name != "format"}
        self._agree(values)
        return values | {"format": version}

    def _version(self, top: dict[str, Any]) -> int:
        version = top.get("format")
        if type(version) is not int or version not in _FORMATS:
            found = f"format is {_shown(version)}" if "format" in top else "the rule format is missing"
            raise self._bad(
                self._line("", "format"), f"{found}; allowed: 1, 2", "New policies are written in format 2."
            )
        return version

    def _only_known(self, top: dict[str, Any], rules: list[Rule]) -> None:
        tables = {rule.table for rule in rules} - {""}
        for name, value in top.items():
            if name not in tables and all(rule.name != name for rule in rules):
                known = ", ".join([rule.name for rule in rules if not rule.table] + [f"[{t}]" for t in sorted(tables)])
                raise self._bad(self._line("", name), f"unknown rule {_shown(name)}; allowed: {known}", _SPELLING)
            if name not in tables:
                continue
            if not isinstance(value, dict):
                raise self._bad(
                    self._line("", name), f"{name} is {_shown(value)}; allowed: a table", f"Write [{name}]."
                )
            keys = [rule.key for rule in rules if rule.table == name]
            for key in value:
                if key not in keys:
                    raise self._bad(
                        self._line(name, key),
                        f"unknown rule {_shown(key)} in [{name}]; allowed: {', '.join(keys)}",
                        _SPELLING,
                    )

    def _value(self, top: dict[str, Any], rule: Rule) -> Any:
        table = top.get(rule.table, {}) if rule.table else top
        if rule.key not in table:
            raise self._bad(
                self._line("", rule.table) if rule.table in top else 0,
                f"the rule {rule.name} is missing; allowed: {rule.kind.allowed}",
                "Add it; no rule has a silent default.",
            )
        try:
            return rule.kind.read(table[rule.key])
        except ValueError:
            raise self._bad(
                self._line(rule.table, rule.key),
                f"{rule.name} is {_shown(table[rule.key])}; allowed: {rule.kind.allowed}",
                "Correct the rule; an empty rule never passes.",
            ) from None

    def _agree(self, values: dict[str, Any]) -> None:
        """What two rules say of each other."""
        needed, most, names = (values[f"quorum.{key}"] for key in ("needed", "of", "custodians"))
        keep, destroy = values["retention.keep_days"], values["retention.destroy_days"]
        for wrong, rule, why in (
            (needed is None and most is not None, "quorum.of", "without quorum.needed"),
            (needed is None and names is not None, "quorum.custodians", "without quorum.needed"),
            (needed and most and most < needed, "quorum.of", f"less than quorum.needed, {needed}"),
            (needed and names and len(names) < needed, "quorum.custodians", f"fewer than quorum.needed, {needed}"),
            (keep and destroy and destroy < keep, "retention.destroy_days", f"less than retention.keep_days, {keep}"),
        ):
            if wrong:
                raise self._bad(self._line(*rule.split(".")), f"{rule} is {why}", "Nothing could meet both rules.")

    def _bad(self, line: int, what: str, hint: str) -> BadInput:
        at = f", line {line}" if line else ""
        return BadInput(f"policy {self._name}{self._where}{at}: {what}", hint)

    def _line(self, table: str, key: str) -> int:
        """The line on which a key stands, or its table's header, or 0. tomllib does not say; this reads as people do."""
        best = 0
        for number, inside, line in _lines(self._text):
            header = re.fullmatch(r"\s*\[+\s*([^\]]*?)\s*\]+\s*(#.*)?", line)
            if header and header[1].strip("'\"") in (table or key, f"{table}.{key}"):
                if not table or header[1] != table:
                    return number
                best = best or number
            names = [f"{table}.{key}", key] if inside == table else [f"{table}.{key}"]
            if any(re.match(rf"\s*['\"]?{re.escape(name)}['\"]?\s*[=.]", line) for name in names):
                return number
            if table and not inside and re.match(rf"\s*{re.escape(table)}\s*[=.]", line):
                best = best or number
        return best


_SPELLING = "Remove it, or correct its spelling."


def _lines(text: str) -> Iterator[tuple[int, str, str]]:
    """(number, table that the line stands in, line)."""
    inside = ""
    for number, line in enumerate(text.split("\n"), 1):
        yield number, inside, line
        if header := re.fullmatch(r"\s*\[\s*([A-Za-z0-9_.-]+)\s*\]\s*(#.*)?", line):
            inside = header[1]


def _shown(value: Any) -> str:
    """A value as TOML would write it, short."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
