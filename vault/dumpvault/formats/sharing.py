"""A vault key in shares, any k of n: replicated additive sharing and its commitments (spec, section 7.1).

Ito, Saito and Nishizeki, "Secret sharing scheme realizing general access structure", 1987. XOR and SHA-256 only.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

from dumpvault.errors import Usage
from dumpvault.formats import jcs

__all__ = ["MAX_COMPONENTS", "SIZE", "Commitments", "Quorum", "combine", "component_count", "held_by", "split"]

#: Bytes of a vault key and of each component.
SIZE = 32
MAX_COMPONENTS = 128


def component_count(threshold: int, custodians: int) -> int:
    """How many components ``threshold`` of ``custodians`` takes; ``ValueError`` says why none does."""
    if threshold < 2:
        raise ValueError(f"{threshold} of {custodians} is no dual control: one custodian alone could open the vault")
    if threshold > custodians:
        raise ValueError(f"{threshold} of {custodians} can never be reached: nobody could open the vault")
    count = comb(custodians, threshold - 1)
    if count > MAX_COMPONENTS:
        raise ValueError(f"{threshold} of {custodians} takes {count} components; at most {MAX_COMPONENTS} fit")
    return count


def held_by(custodian: int, threshold: int, custodians: int) -> list[int]:
    """The numbers of the components that make up the share of ``custodian``, who is counted from 0."""
    sets = combinations(range(custodians), custodians - threshold + 1)
    return [number for number, members in enumerate(sets) if custodian in members]


def split(vk: bytes, threshold: int, custodians: int) -> list[bytes]:
    """Components of ``vk``, by number: all but the last are random."""
    components = [os.urandom(SIZE) for _ in range(component_count(threshold, custodians) - 1)]
    return [*components, _xor([vk, *components])]


def combine(components: Mapping[int, bytes], threshold: int, custodians: int) -> bytes:
    """The vault key from all components by number; ``ValueError`` if one is missing."""
    count = component_count(threshold, custodians)
    if missing := sorted(set(range(count)) - set(components)):
        raise ValueError(f"component {missing[0]} of {count} is missing")
    return _xor([components[number] for number in range(count)])


def _xor(values: Sequence[bytes]) -> bytes:
    total = 0
    for value in values:
        total ^= int.from_bytes(value)
    return total.to_bytes(SIZE)


@dataclass(frozen=True, slots=True)
class Commitments:
    """What a collector signs of a vault key and its components: hexadecimal SHA-256, which a wrong share disagrees with."""

    vault_key: str
    components: tuple[str, ...]

    @classmethod
    def to(cls, vk: bytes, components: Sequence[bytes], vault: str, attempt: int) -> Commitments:
        return cls(
            _vault_key(vk, vault, attempt),
            tuple(_component(number, value, vault, attempt) for number, value in enumerate(components)),
        )

    def holds_component(self, number: int, value: bytes, vault: str, attempt: int) -> bool:
        return _component(number, value, vault, attempt) == self.components[number]

    def holds_vault_key(self, vk: bytes, vault: str, attempt: int) -> bool:
        return _vault_key(vk, vault, attempt) == self.vault_key

    def encode(self) -> dict[str, object]:
        return {"components": list(self.components), "vault_key": self.vault_key}

    @classmethod
    def read(cls, fields: jcs.Fields) -> Commitments:
        vault_key = fields.digest("vault_key")
        components = fields.digests("components", MAX_COMPONENTS, 2)
        fields.done()
        return cls(vault_key, components)


def _vault_key(vk: bytes, vault: str, attempt: int) -> str:
    return hashlib.sha256(f"dumpvault-vault-key@v1\n{vault}\n{attempt}\n".encode() + vk).hexdigest()


def _component(number: int, value: bytes, vault: str, attempt: int) -> str:
    return hashlib.sha256(f"dumpvault-component@v1\n{vault}\n{attempt}\n{number}\n".encode() + value).hexdigest()


@dataclass(frozen=True, slots=True)
class Quorum:
    """Who must agree before a vault opens: any ``threshold`` of ``custodians``, which are names or paths of their keys."""

    threshold: int
    custodians: tuple[str, ...]

    @property
    def text(self) -> str:
        return f"{self.threshold}of{len(self.custodians)}:{','.join(self.custodians)}"

    @classmethod
    def parse(cls, text: str, where: str) -> Quorum:
        """Read ``2of3:alice,bob,carol``; ``where`` names the option or rule. Raises ``Usage``."""
        match = re.fullmatch(r"(\d{1,3})of(\d{1,3}):(.*)", text)
        names = tuple(name.strip() for name in match[3].split(",")) if match else ()
        if match is None or "" in names:
            raise Usage(
                f"{where}: {text!r} is no quorum", "Write K, 'of', N and the custodians, as in 2of3:alice,bob,carol."
            )
        threshold, count = int(match[1]), int(match[2])
        if count != len(names):
            raise Usage(f"{where}: {text!r} names {len(names)} custodians, not {count}", "Name each of them once.")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise Usage(f"{where}: custodian {twice} is named twice", "Two shares in one hand are no dual control.")
        try:
            component_count(threshold, count)
        except ValueError as error:
            raise Usage(
                f"{where}: {error}",
                "Any 2 of up to 128, 3 of up to 16, 4 of up to 10, 5 to 7 of up to 9, and n of n fit.",
            ) from None
        return cls(threshold, names)
