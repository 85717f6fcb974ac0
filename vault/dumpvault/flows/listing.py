"""What vaults a store holds, by what their headers claim. Nothing here is verified; ``verify`` is for that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dumpvault.errors import VaultError
from dumpvault.flows.site import vault_ids
from dumpvault.formats import dsse
from dumpvault.formats.header import Header, Source
from dumpvault.model import Store, vault_prefix

__all__ = ["Claim", "claims", "newest", "same_dump"]


@dataclass(frozen=True, slots=True)
class Claim:
    """One vault as its header describes itself; ``header`` is None where it cannot be read, ``problem`` says why."""

    vault: str
    header: Header | None
    ended: bool
    problem: str = ""


def claims(store: Store) -> Iterator[Claim]:
    """Every vault of the store, oldest claim first, unreadable ones last."""
    found = [_claim(store, vault) for vault in vault_ids(store)]
    found.sort(key=lambda c: (c.header is None, c.header.created if c.header else "", c.vault))
    yield from found


def newest(store: Store) -> str | None:
    """The vault whose header claims the latest time."""
    readable = [claim.vault for claim in claims(store) if claim.header]
    return readable[-1] if readable else None


def same_dump(claim: Claim, facts: Source, host: str, keyid: str, boot_id: str | None) -> bool:
    """Whether a vault's header claims to hold the dump that ``facts`` describe, of this host, by this signer.

    A boot has one dump of its own, which has no mtime. It stays the same when its identity changes: its notes are lost
    with the CPU area, once that is released.
    """
    header = claim.header
    if header is None or facts.identity is None or header.host != host or keyid not in header.keyids:
        return False
    known = header.source
    own = facts.mtime is None and boot_id is not None and header.boot_id == boot_id and known.memory == facts.memory
    return (known.identity == facts.identity or own) and (known.kind, known.size, known.mtime) == (
        facts.kind,
        facts.size,
        facts.mtime,
    )


def _claim(store: Store, vault: str) -> Claim:
    prefix = vault_prefix(vault)
    ended = store.size(f"{prefix}/manifest.dsse.json") is not None
    try:
        envelope = dsse.parse(store.get(f"{prefix}/vault.dsse.json"), "vault.dsse.json")
        return Claim(vault, Header.read(envelope, vault), ended)
    except VaultError as error:
        return Claim(vault, None, ended, error.message)
