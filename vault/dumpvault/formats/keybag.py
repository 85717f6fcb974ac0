"""The key objects: ``keybag/<attempt>.json`` and ``keys/<attempt>/<n>.json`` (spec, sections 4.2, 7 and 8)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from dumpvault.errors import Forged
from dumpvault.formats import jcs, sharing
from dumpvault.formats.kem import SUITES
from dumpvault.formats.recipient import Recipient
from dumpvault.formats.sharing import Commitments
from dumpvault.model import FORMAT, TokenHandle

__all__ = ["Entry", "Keybag", "Mode", "WrappedKeys", "check_share", "derive_kek", "info", "unwrap", "wrap"]

Mode = Literal["direct", "shares"]
_LABELS: dict[Mode, str] = {"direct": "dumpvault-keybag@v1", "shares": "dumpvault-share@v1"}

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


def info(suite: str, vault: str, attempt: int, header: str, recipient: str, mode: Mode = "direct") -> bytes:
    """HPKE ``info``: everything a sealed vault key, or a share of it, is bound to."""
    return f"{_LABELS[mode]}\n{suite}\n{vault}\n{attempt}\n{header}\n{recipient}\n".encode()


def check_share(
    share: bytes, commitments: Commitments, custodian: int, threshold: int, custodians: int, vault: str, attempt: int
) -> dict[int, bytes]:
    """The components of one custodian's share, by number; ``ValueError`` says what is wrong with it."""
    numbers = sharing.held_by(custodian, threshold, custodians)
    if len(share) != sharing.SIZE * len(numbers):
        raise ValueError(f"{len(share)} bytes where {sharing.SIZE * len(numbers)} belong")
    parts = {n: share[i * sharing.SIZE : (i + 1) * sharing.SIZE] for i, n in enumerate(numbers)}
    for number, part in parts.items():
        if not commitments.holds_component(number, part, vault, attempt):
            raise ValueError(f"component {number} is not the one that the takeover of attempt {attempt} committed to")
    return parts


@dataclass(frozen=True, slots=True)
class Entry:
    recipient: str
    suite: str
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Keybag:
    """An attempt's vault key, sealed to each recipient, or in ``mode`` "shares" a share of it to each custodian."""

    vault: str
    attempt: int
    entries: tuple[Entry, ...]
    mode: Mode = "direct"

    @classmethod
    def seal(cls, vk: bytes, recipients: Iterable[Recipient], vault: str, attempt: int, header: str) -> Keybag:
        """``header`` is the digest of ``vault.dsse.json``."""
        ordered = sorted(recipients, key=lambda r: r.digest)
        return cls._of([(r, vk) for r in ordered], vault, attempt, header, "direct")

    def with_recipient(self, vk: bytes, recipient: Recipient, header: str) -> Keybag:
        """The same, sealed to one more; ``vk`` is what the others have."""
        (one,) = self.seal(vk, [recipient], self.vault, self.attempt, header).entries
        return Keybag(self.vault, self.attempt, tuple(sorted([*self.entries, one], key=lambda e: e.recipient)))

    @classmethod
    def seal_shares(
        cls, vk: bytes, custodians: Iterable[Recipient], threshold: int, vault: str, attempt: int, header: str
    ) -> tuple[Keybag, Commitments]:
        """Any ``threshold`` of ``custodians`` get VK together (spec, section 7.1); what a takeover commits to."""
        ordered = sorted(custodians, key=lambda r: r.digest)
        components = sharing.split(vk, threshold, len(ordered))
        shares = [
            (r, b"".join(components[number] for number in sharing.held_by(i, threshold, len(ordered))))
            for i, r in enumerate(ordered)
        ]
        return (
            cls._of(shares, vault, attempt, header, "shares"),
            Commitments.to(vk, components, vault, attempt),
        )

    @classmethod
    def _of(
        cls, secrets: Sequence[tuple[Recipient, bytes]], vault: str, attempt: int, header: str, mode: Mode
    ) -> Keybag:
        entries = []
        for r, secret in secrets:
            bound = info(r.suite.name, vault, attempt, header, r.digest, mode)
            entries.append(Entry(r.digest, r.suite.name, r.suite.seal(r.public, secret, bound)))
        return cls(vault, attempt, tuple(entries), mode)

    def open(self, recipient: str, private: bytes | TokenHandle, header: str, name: str) -> bytes:
        """VK, by the private key whose recipient digest is ``recipient``; raises ``KeyError`` or ``Forged``."""
        vk = self.open_entry(recipient, private, header, name)
        if len(vk) != 32:
            raise Forged(f"{name}: a vault key of {len(vk)} bytes", "No dumpvault writes this.")
        return vk

    def open_entry(self, recipient: str, private: bytes | TokenHandle, header: str, name: str) -> bytes:
        """What is sealed to ``recipient``: VK, or a custodian's share, unchecked; raises ``KeyError`` or ``Forged``."""
        entry = next((e for e in self.entries if e.recipient == recipient), None)
        if entry is None:
            raise KeyError(recipient)
        try:
            bound = info(entry.suite, self.vault, self.attempt, header, recipient, self.mode)
            return SUITES[entry.suite].open(private, entry.sealed, bound)
        except ValueError as error:
            raise Forged(f"{name}: {error}", "The entry was made for another vault, or damaged.") from None

    def encode(self) -> bytes:
        return jcs.encode(
            {
                "attempt": self.attempt,
                "entries": [
                    {"recipient": e.recipient, "sealed": jcs.b64encode(e.sealed), "suite": e.suite}
                    for e in self.entries
                ],
                "format": FORMAT,
                "mode": self.mode,
                "vault": self.vault,
            }
        )

    @classmethod
    def read(cls, data: bytes, vault: str, attempt: int, name: str) -> Keybag:
        fields = jcs.Fields(jcs.decode(data, name, _KEYBAG_LIMIT), name)
        fields.format(FORMAT)
        fields.exactly("vault", vault)
        fields.exactly("attempt", attempt)
        mode = cast("Mode", fields.text("mode", "direct|shares"))
        entries = []
        for entry in fields.objects("entries", 128, 1):
            suite = entry.text("suite", "|".join(SUITES))
            entries.append(Entry(entry.digest("recipient"), suite, entry.base64("sealed")))
            entry.done()
        fields.done()
        names = [entry.recipient for entry in entries]
        if names != sorted(set(names)):
            fields.refuse("does not list its recipients once each, in order")
        bag = cls(vault, attempt, tuple(entries), mode)
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
