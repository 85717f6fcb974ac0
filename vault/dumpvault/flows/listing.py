"""What vaults a store holds and which one a user means, by what headers claim. Nothing here is verified."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dumpvault.errors import Forged, Incomplete, Usage, VaultError
from dumpvault.formats import dsse
from dumpvault.formats.header import Header, Source
from dumpvault.model import Store, is_vault_id, vault_prefix

__all__ = ["Claim", "claims", "find_vault", "newest", "same_dump", "vault_ids"]


@dataclass(frozen=True, slots=True)
class Claim:
    """One vault as its header describes itself; ``header`` is None where it cannot be read, ``problem`` says why."""

    vault: str
    header: Header | None
    ended: bool
    problem: VaultError | None = None


def claims(store: Store) -> Iterator[Claim]:
    """Every vault of the store, oldest claim first, unreadable ones last."""
    found = [_claim(store, vault) for vault in vault_ids(store)]
    found.sort(key=lambda c: (c.header is None, _created(c), c.vault))
    yield from found


def newest(store: Store) -> str | None:
    """The vault whose header claims the latest time. Raises ``Usage`` where that is not certain."""
    found = list(claims(store))
    readable = [claim for claim in found if claim.header]
    doubtful = [claim for claim in found if claim.header is None and not isinstance(claim.problem, Incomplete)]
    if doubtful:
        raise Usage(
            f"'latest' is not certain: the header of {doubtful[0].vault} cannot be read: {doubtful[0].problem}",
            "Name the vault by its id; 'dumpvault list' shows all.",
        )
    if len(readable) > 1 and _created(readable[-1]) == _created(readable[-2]):
        raise Usage(
            f"'latest' is not certain: {readable[-1].vault} and {readable[-2].vault} are of the same second",
            "Name the vault by its id.",
        )
    return readable[-1].vault if readable else None


def _created(claim: Claim) -> str:
    return claim.header.created if claim.header else ""


def same_dump(claim: Claim, facts: Source, host: str, keyids: frozenset[str], boot_id: str | None) -> bool:
    """Whether a vault's header claims to hold the dump that ``facts`` describe, of this host, by just these signers.

    A boot has one dump of its own, which has no mtime. It stays the same when its identity changes: its notes are lost
    with the CPU area, once that is released.
    """
    header = claim.header
    if header is None or facts.identity is None or header.host != host or keyids != header.keyids:
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
        name = f"{prefix}/vault.dsse.json"
        if (store.size(name) or 0) > dsse.LIMIT:
            raise Forged("vault.dsse.json is larger than the format allows", "Restore it from a copy.")
        envelope = dsse.parse(store.get(name), "vault.dsse.json")
        return Claim(vault, Header.read(envelope, vault), ended)
    except VaultError as error:
        return Claim(vault, None, ended, error)


def vault_ids(store: Store) -> Iterator[str]:
    """Ids of all vaults in a store, in no order."""
    return (name for name in store.children("vaults") if is_vault_id(name))


def find_vault(store: Store, wanted: str) -> str:
    """The id that ``wanted`` means: an id, a unique prefix of one, or ``latest``. Raises ``Usage``."""
    if wanted == "latest":
        found = newest(store)
        if found is None:
            raise Usage(f"no vaults in {store.url}", "Make one with 'dumpvault capture'.")
        return found
    matches = sorted(vault for vault in vault_ids(store) if vault.startswith(wanted.lower()))
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise Usage(
            f"no vault {wanted!r} in {store.url}", "'dumpvault list' shows what is there; --store names another."
        )
    raise Usage(f"{wanted!r} could be {len(matches)} vaults: {', '.join(matches[:4])}", "Give more of the id.")
