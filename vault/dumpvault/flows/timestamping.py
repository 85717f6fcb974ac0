"""Have a vault's manifest timestamped (spec, section 12.5): ask, check, and only then put what was answered."""

from __future__ import annotations

from datetime import UTC, datetime

from dumpvault.errors import Incomplete
from dumpvault.flows.verify import verify
from dumpvault.formats import timestamp
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.timestamp import Anchor
from dumpvault.model import Store, vault_prefix
from dumpvault.stages import authority

__all__ = ["stamp", "stamp_manifest"]


def stamp(data: bytes, url: str, trust: AllowedSigners) -> tuple[bytes, Anchor]:
    """A checked TimeStampResp of the authority at ``url`` over any bytes. Raises ``VaultError``."""
    query, nonce = timestamp.request(data)
    reply = authority.ask(url, query)
    return reply, timestamp.check(reply, data, trust.authorities, datetime.now(UTC), url, nonce)


def stamp_manifest(store: Store, vault: str, url: str, trust: AllowedSigners) -> tuple[str, Anchor]:
    """The new object's name in the vault, durable on return, and what it says. Raises ``VaultError``; then nothing is put."""
    report = verify(store, vault, trust, bodies=False, keys=False)
    if report.header_read and report.examiner.manifest is None:
        raise Incomplete(f"vault {vault} has no manifest to timestamp", "Let the capture be finished first.")
    for finding in report.of_steps(1, 2, 3):
        raise finding
    data = store.get(f"{vault_prefix(vault)}/manifest.dsse.json")
    reply, anchor = stamp(data, url, trust)
    name = timestamp.path(reply)
    store.put(f"{vault_prefix(vault)}/{name}", reply)
    return name, anchor
