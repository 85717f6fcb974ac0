"""Policies: TOML that a security team reviews without reading code (policies/README.md).

This version knows the rules that sealing needs; unknown keys are errors, so that no rule is ever silently ignored.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import Any

from dumpvault.errors import BadInput, PolicyRefused, Usage
from dumpvault.formats.kem import SUITES
from dumpvault.formats.recipient import Recipient

__all__ = ["Policy", "parse_compress"]

_MIB = 1 << 20
_LONGEST = 65536
_MOST_RECIPIENTS = 128


@dataclass(frozen=True, slots=True)
class Policy:
    """A parsed policy; sizes in bytes, times in seconds."""

    name: str
    text: str
    kems: tuple[str, ...]
    minimum_recipients: int
    mix_classical: bool
    region_size: int
    compress: str
    commit_bytes: int
    commit_seconds: float
    release: str
    hold_undescribed: bool
    release_unreadable: bool
    read_back: str

    @classmethod
    def parse(cls, name: str, text: str) -> Policy:
        """Raises ``BadInput`` naming the policy, the rule and what is allowed."""
        if len(text.encode()) > _LONGEST:
            raise BadInput(f"policy {name}: longer than {_LONGEST} bytes", "It would not fit a vault's header.")
        try:
            rules = _Rules(name, tomllib.loads(text))
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise BadInput(f"policy {name}: not TOML: {error}", "Correct the file; nothing was captured.") from None
        rules.integer("format", 1, 1)
        rules.text("description")
        recipients, regions, commits = rules.table("recipients"), rules.table("regions"), rules.table("commits")
        release = rules.table("release")
        policy = cls(
            name=name,
            text=text,
            kems=recipients.names("kems", SUITES),
            minimum_recipients=recipients.integer("minimum", 1, 128),
            mix_classical=recipients.boolean("mix_classical"),
            region_size=regions.integer("mib", 1, 256) * _MIB,
            compress=regions.text("compress"),
            commit_bytes=commits.integer("mib", 1, 65536) * _MIB,
            commit_seconds=commits.integer("seconds", 1, 3600),
            read_back=commits.choice("read_back", ("all", "sample", "none")),
            release=release.choice("mode", ("auto", "none", "phyp", "fadump")),
            hold_undescribed=release.choice("undescribed", ("release", "hold")) == "hold",
            release_unreadable=release.choice("unreadable", ("release", "hold")) == "release",
        )
        for table in (recipients, regions, commits, release, rules):
            table.done()
        parse_compress(policy.compress, f"policy {name}: regions.compress")
        return policy

    def check_recipients(self, recipients: list[Recipient]) -> None:
        """Raises ``PolicyRefused`` naming the rule."""

        def refuse(rule: str, why: str) -> None:
            raise PolicyRefused(f"policy {self.name}, recipients.{rule}: {why}", "Nothing was captured.")

        if len({r.digest for r in recipients}) != len(recipients):
            refuse("minimum", "a recipient is named twice")
        if len(recipients) > _MOST_RECIPIENTS:
            refuse("minimum", f"{len(recipients)} recipients; a vault has {_MOST_RECIPIENTS} at most")
        if len(recipients) < self.minimum_recipients:
            refuse("minimum", f"{len(recipients)} recipients; at least {self.minimum_recipients} are required")
        for r in recipients:
            if r.suite.name not in self.kems:
                refuse("kems", f"recipient {r.name} is {r.suite.name}; allowed: {', '.join(self.kems)}")
        if not self.mix_classical and len({r.suite.post_quantum for r in recipients}) > 1:
            weak = ", ".join(r.name for r in recipients if not r.suite.post_quantum)
            refuse("mix_classical", f"{weak} would undo the post-quantum protection of the other recipients")


def parse_compress(text: str, where: str) -> tuple[str, int]:
    """``auto``, ``none`` or ``zstd[:LEVEL]`` as (mode, level); raises ``Usage`` or ``BadInput``."""
    mode, _, level = text.partition(":")
    if mode in ("auto", "none") and not level:
        return mode, 1
    if mode == "zstd" and (not level or (level.isdigit() and 1 <= int(level) <= 19)) and text != "zstd:":
        return mode, int(level or 3)
    kind = Usage if where.startswith("--") else BadInput
    raise kind(f"{where}: {text!r} is no compression", "Use auto, none, or zstd:LEVEL with a level from 1 to 19.")


class _Rules:
    """One TOML table, read key by key, each exactly once."""

    def __init__(self, where: str, table: dict[str, Any]) -> None:
        self._where = where
        self._left = dict(table)

    def _take(self, key: str, kind: type) -> Any:
        if key not in self._left:
            raise BadInput(
                f"policy {self._where}: the rule {key!r} is missing", "Add it; no rule has a silent default."
            )
        value = self._left.pop(key)
        if type(value) is not kind:
            raise BadInput(f"policy {self._where}: {key!r} is no {kind.__name__}: {value!r}", "Correct the rule.")
        return value

    def text(self, key: str) -> str:
        return str(self._take(key, str))

    def boolean(self, key: str) -> bool:
        return bool(self._take(key, bool))

    def integer(self, key: str, least: int, most: int) -> int:
        value = int(self._take(key, int))
        if not least <= value <= most:
            raise BadInput(f"policy {self._where}: {key!r} is {value}; allowed: {least} to {most}", "Correct the rule.")
        return value

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in allowed:
            raise BadInput(
                f"policy {self._where}: {key!r} is {value!r}; allowed: {', '.join(allowed)}", "Correct the rule."
            )
        return value

    def names(self, key: str, known: dict[str, Any]) -> tuple[str, ...]:
        values = self._take(key, list)
        if not values or any(not isinstance(v, str) or v not in known for v in values):
            raise BadInput(
                f"policy {self._where}: {key!r} is {values!r}; allowed, at least one of: {', '.join(known)}",
                "Correct the rule; an empty rule never passes.",
            )
        return tuple(values)

    def table(self, key: str) -> _Rules:
        return _Rules(f"{self._where}: [{key}]", self._take(key, dict))

    def done(self) -> None:
        if self._left:
            raise BadInput(
                f"policy {self._where}: unknown rule {sorted(self._left)[0]!r}", "Remove it, or correct its spelling."
            )
