"""The custody ledger of one store, as one home works with it: record, look up, remember (docs/spec/ledger.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from dumpvault.flows.site import Site
from dumpvault.formats import jcs
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.entry import Entry, sign
from dumpvault.formats.sshkey import CanSign
from dumpvault.model import Store, vault_prefix

__all__ = ["Custody", "Recorded", "Subject", "put_collected"]

#: Name, SHA-256 and, where the policy names it, SHA-384 of the object that an entry is about.
Subject = tuple[str, str, str | None]


@dataclass(frozen=True, slots=True)
class Recorded:
    """An entry that is durably in the ledger: its number, and the SHA-256 of its bytes."""

    index: int
    digest: str


class Custody:
    """A home's view of one store's ledger."""

    origin: str

    @classmethod
    def of(cls, site: Site, store: Store, trust: AllowedSigners) -> Custody | None:
        """None where the store has no ledger. Raises ``Forged`` where this home remembers one that is gone."""
        raise NotImplementedError

    def record(
        self,
        *,
        event: str,
        role: str,
        vault: str | None,
        subject: Subject,
        purpose: str | None = None,
        ticket: str | None = None,
        detail: Mapping[str, str] | None = None,
        from_: str | None = None,
        to: str | None = None,
    ) -> Recorded:
        """Sign an entry with this home's actor key and append it; durable on return.

        Raises ``NoKey`` without such a key, ``Forged`` for a finding of section 5, ``StoreFailed``.
        """
        raise NotImplementedError

    def entries(self, vault: str | None = None) -> list[tuple[int, Entry]]:
        """The entries that count, with their numbers, all or those of one vault. Raises ``VaultError``."""
        raise NotImplementedError

    def check(self) -> None:
        """Compare the ledger with what this home remembers. Raises ``Forged`` for a finding of section 5."""
        raise NotImplementedError


def put_collected(
    store: Store, keys: Sequence[CanSign], actor: str, host: str, vault: str, manifest: bytes, *, sha384: bool = False
) -> str:
    """Put a collector's entry into the inbox, with one put; its digest. ``manifest`` is ``manifest.dsse.json``.

    Raises ``StoreFailed``; a capture must not fail for it.
    """
    entry = Entry(
        event="collected",
        role="collector",
        vault=vault,
        subject=f"{vault_prefix(vault)}/manifest.dsse.json",
        digest=hashlib.sha256(manifest).hexdigest(),
        actor=actor,
        host=host,
        time=jcs.to_time(datetime.now(UTC)),
        ledger=None,
        sha384=hashlib.sha384(manifest).hexdigest() if sha384 else None,
    )
    data = sign(entry, keys)
    digest = hashlib.sha256(data).hexdigest()
    store.put(f"ledger/inbox/{digest}", data)
    return digest
