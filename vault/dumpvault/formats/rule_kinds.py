"""What may stand behind a policy's keys: each kind reads a TOML value, or says in words what is allowed.

Nothing here is ever empty: a rule that demands nothing says ``"none"`` (or ``"any"``), so that no rule passes by default.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from dumpvault.formats.recipient import NAME

__all__ = ["Choice", "Flag", "Groups", "Kind", "Names", "Or", "Some", "Text", "Whole", "parse_compress"]


class Kind(Protocol):
    """``allowed`` completes the sentence "allowed: …"."""

    @property
    def allowed(self) -> str: ...

    def read(self, value: Any) -> Any:
        """The rule's value; raises ``ValueError``."""
        ...


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number, both ends included."""

    least: int
    most: int

    @property
    def allowed(self) -> str:
        return f"{self.least} to {self.most}" if self.least < self.most else f"{self.least}"

    def read(self, value: Any) -> int:
        if type(value) is not int or not self.least <= value <= self.most:
            raise ValueError
        return value


@dataclass(frozen=True, slots=True)
class Flag:
    allowed: str = "true, false"

    def read(self, value: Any) -> bool:
        if type(value) is not bool:
            raise ValueError
        return value


@dataclass(frozen=True, slots=True)
class Choice:
    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return ", ".join(f'"{word}"' for word in self.words)

    def read(self, value: Any) -> str:
        if type(value) is not str or value not in self.words:
            raise ValueError
        return value


@dataclass(frozen=True, slots=True)
class Text:
    """A string of which ``good`` is true; ``allowed`` describes it."""

    allowed: str
    good: Callable[[str], bool]

    def read(self, value: Any) -> str:
        if type(value) is not str or not self.good(value):
            raise ValueError
        return value


@dataclass(frozen=True, slots=True)
class Some:
    """A list of at least one of ``words``, none twice."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        return f"a list of one or more of {Choice(self.words).allowed}"

    def read(self, value: Any) -> tuple[str, ...]:
        return _distinct(value, lambda word: word in self.words)


@dataclass(frozen=True, slots=True)
class Names:
    """A list of at least one key name, none twice."""

    allowed: str = 'a list of key names, such as ["alice", "bob"]'

    def read(self, value: Any) -> tuple[str, ...]:
        return _distinct(value, lambda word: bool(NAME.fullmatch(word)))


@dataclass(frozen=True, slots=True)
class Groups:
    """A table of lists of key names."""

    allowed: str = "a table of lists of key names, such as { security = ['alice', 'bob'], legal = ['carol'] }"

    def read(self, value: Any) -> dict[str, tuple[str, ...]]:
        if type(value) is not dict or not value:
            raise ValueError
        return {group: Names().read(names) for group, names in value.items()}


@dataclass(frozen=True, slots=True)
class Or:
    """A kind, or one word that stands for None."""

    kind: Kind
    word: str = "none"

    @property
    def allowed(self) -> str:
        return f'"{self.word}", or {self.kind.allowed}'

    def read(self, value: Any) -> Any:
        return None if value == self.word and type(value) is str else self.kind.read(value)


def _distinct(value: Any, good: Callable[[str], bool]) -> tuple[str, ...]:
    if type(value) is not list or not value:
        raise ValueError
    if any(type(word) is not str or not good(word) for word in value) or len(set(value)) < len(value):
        raise ValueError
    return tuple(value)


def parse_compress(text: str) -> tuple[str, int]:
    """``auto``, ``none`` or ``zstd[:LEVEL]`` as (mode, level). Raises ``ValueError``."""
    if text in ("auto", "none"):
        return text, 1
    match = re.fullmatch(r"zstd(?::([1-9]|1[0-9]))?", text, re.ASCII)
    if match is None:
        raise ValueError(text)
    return "zstd", int(match[1] or 3)
