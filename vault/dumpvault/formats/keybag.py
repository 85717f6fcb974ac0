"""The key objects: ``keybag/<attempt>.json`` and ``keys/<attempt>/<n>.json`` (spec, sections 4.2, 7 and 8)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from dumpvault.errors import Forged
from dumpvault.formats import jcs
from dumpvault.formats.kem import SUITES
from dumpvault.formats.recipient import Recipient
from dumpvault.model import FORMAT

__all__ = ["Entry", "Keybag", "WrappedKeys", "derive_kek", "info", "unwrap", "wrap"]

_KEYBAG_LIMIT = 1 << 20
_KEYS_LIMIT = 8 << 20


def derive_kek(vk: bytes, vault: str, attempt: int) -> bytes:
    """KEK of one attempt: HKDF-SHA-512, empty salt (RFC 5869)."""
    return HKDF(SHA512(), 32, None, f"dumpvault-kek@v1\n{vault}\n{attempt}\n".encode()).derive(vk)


def wrap(kek: bytes, dek: bytes) -> bytes:
    """AES-256-KW (RFC 3394): 40 bytes."""
    return aes_key_wrap(kek, dek)


def unwrap(kek: bytes, wrapped: bytes, name: str) -> bytes:
    """The DEK; raises ``Forged`` naming ``name``."""
    try:
        return aes_key_unwrap(kek, wrapped)
    except (InvalidUnwrap, ValueError):
        raise Forged(
            f"{name}: a wrapped key does not unwrap with this vault's key", "The key object was exchanged or damaged."
        ) from None


def info(suite: str, vault: str, attempt: int, header: str, recipient: str) -> bytes:
    """HPKE ``info``: everything a sealed vault key is bound to."""
    return f"dumpvault-keybag@v1\n{suite}\n{vault}\n{attempt}\n{header}\n{recipient}\n".encode()


@dataclass(frozen=True, slots=True)
class Entry:
    recipient: str
    suite: str
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Keybag:
    """An attempt's vault key, sealed to each recipient."""

    vault: str
    attempt: int
    entries: tuple[Entry, ...]

    @classmethod
    def seal(cls, vk: bytes, recipients: Iterable[Recipient], vault: str, attempt: int, header: str) -> Keybag:
        """``header`` is the digest of ``vault.dsse.json``."""
        entries = [
            Entry(
                r.digest, r.suite.name, r.suite.seal(r.public, vk, info(r.suite.name, vault, attempt, header, r.digest))
            )
            for r in recipients
        ]
        return cls(vault, attempt, tuple(sorted(entries, key=lambda e: e.recipient)))

    def with_recipient(self, vk: bytes, recipient: Recipient, header: str) -> Keybag:
        """The same, sealed to one more; ``vk`` is what the others have."""
        (one,) = self.seal(vk, [recipient], self.vault, self.attempt, header).entries
        return Keybag(self.vault, self.attempt, tuple(sorted([*self.entries, one], key=lambda e: e.recipient)))

    def open(self, recipient: str, private: bytes, header: str, name: str) -> bytes:
        """VK, by the private key whose recipient digest is ``recipient``; raises ``KeyError`` or ``Forged``."""
        entry = next((e for e in self.entries if e.recipient == recipient), None)
        if entry is None:
            raise KeyError(recipient)
        try:
            bound = info(entry.suite, self.vault, self.attempt, header, recipient)
            vk = SUITES[entry.suite].open(private, entry.sealed, bound)
        except ValueError as error:
            raise Forged(f"{name}: {error}", "The entry was made for another vault, or damaged.") from None
        if len(vk) != 32:
            raise Forged(f"{name}: a vault key of {len(vk)} bytes", "No dumpvault writes this.")
        return vk

    def encode(self) -> bytes:
        return jcs.encode(
            {
                "attempt": self.attempt,
                "entries": [
                    {"recipient": e.recipient, "sealed": jcs.b64encode(e.sealed), "suite": e.suite}
                    for e in self.entries
                ],
                "format": FORMAT,
                "mode": "direct",
                "vault": self.vault,
            }
        )

    @classmethod
    def read(cls, data: bytes, vault: str, attempt: int, name: str) -> Keybag:
        fields = jcs.Fields(jcs.decode(data, name, _KEYBAG_LIMIT), name)
        fields.format(FORMAT)
        fields.exactly("vault", vault)
        fields.exactly("attempt", attempt)
        fields.exactly("mode", "direct")
        entries = []
        for entry in fields.objects("entries", 128, 1):
            suite = entry.text("suite", "|".join(SUITES))
            entries.append(Entry(entry.digest("recipient"), suite, entry.base64("sealed")))
            entry.done()
        fields.done()
        names = [entry.recipient for entry in entries]
        if names != sorted(set(names)):
            fields.refuse("does not list its recipients once each, in order")
        bag = cls(vault, attempt, tuple(entries))
        if bag.encode() != data:
            fields.refuse("is not in RFC 8785 form")
        return bag


@dataclass(frozen=True, slots=True)
class WrappedKeys:
    """The wrapped data keys of one commit's regions, in its order: pairs of region index and 40 bytes."""

    vault: str
    attempt: int
    commit: int
    keys: Sequence[tuple[int, bytes]]

    def encode(self) -> bytes:
        return jcs.encode(
            {
                "attempt": self.attempt,
                "commit": self.commit,
                "format": FORMAT,
                "keys": [{"region": index, "wrapped": jcs.b64encode(key)} for index, key in self.keys],
                "vault": self.vault,
            }
        )

    @classmethod
    def read(cls, data: bytes, vault: str, attempt: int, commit: int, name: str) -> WrappedKeys:
        fields = jcs.Fields(jcs.decode(data, name, _KEYS_LIMIT), name)
        fields.format(FORMAT)
        fields.exactly("vault", vault)
        fields.exactly("attempt", attempt)
        fields.exactly("commit", commit)
        keys = []
        for entry in fields.objects("keys", 1024):
            keys.append((entry.number("region"), entry.base64("wrapped")))
            if len(keys[-1][1]) != 40:
                entry.refuse("is no wrapped key of 40 bytes")
            entry.done()
        fields.done()
        found = cls(vault, attempt, commit, tuple(keys))
        if found.encode() != data:
            fields.refuse("is not in RFC 8785 form")
        return found

    def check(self, expected: Sequence[tuple[int, str]], name: str) -> None:
        """Raise ``Forged`` unless these are the keys whose (region index, SHA-256) the commit signed."""
        actual = [(index, hashlib.sha256(key).hexdigest()) for index, key in self.keys]
        if actual != list(expected):
            shorter = min(len(actual), len(expected))
            wrong = next((i for i in range(shorter) if actual[i] != expected[i]), shorter)
            raise Forged(
                f"{name}: key {wrong} is not the one that commit {self.commit} signed",
                "The key object was exchanged or damaged. Restore it from a copy.",
            )
