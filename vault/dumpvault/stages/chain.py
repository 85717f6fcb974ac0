"""Writing a vault's signed chain: each put that succeeds is a commit, and losing a put ends the attempt.

The order of these calls is the order of durability; every put is durable when it returns (stages/store/contract.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from dumpvault.errors import StoreFailed
from dumpvault.formats import dsse
from dumpvault.formats.allowed_signers import namespace
from dumpvault.formats.commit import Body, Commit, Regions, Takeover
from dumpvault.formats.header import Header
from dumpvault.formats.keybag import Keybag, WrappedKeys
from dumpvault.formats.manifest import AttemptTotals, End, Manifest, Totals
from dumpvault.formats.sshkey import SigningKey, sshsig
from dumpvault.model import RegionRecord, Store, commit_path, keybag_path, keys_path, vault_prefix

__all__ = ["Chain"]


class Chain:
    """The chain of one vault, from its header on. Not for use by several threads."""

    def __init__(self, store: Store, header: Header, key: SigningKey) -> None:
        self._store = store
        self._key = key
        self._prefix = vault_prefix(header.vault)
        self.vault = header.vault
        self.attempt = 0
        self.next = 0
        self.totals = Totals()
        self.attempts: list[AttemptTotals] = []
        data = dsse.sign(header.statement(), [key])
        self.header_digest = hashlib.sha256(data).hexdigest()
        self._tip = self.header_digest
        self._put("vault.dsse.json", data)

    def take_over(self, keybag: Keybag, boot_id: str | None, tool: str, time: str) -> None:
        """Begin ``keybag``'s attempt: its keybag, then the takeover that binds it."""
        data = keybag.encode()
        self._put(keybag_path(keybag.attempt), data)
        self.attempt = keybag.attempt
        self.append(Takeover(hashlib.sha256(data).hexdigest(), boot_id, tool), time)
        self.attempts.append(AttemptTotals(self.attempt, boot_id))

    def commit_regions(self, regions: Sequence[tuple[RegionRecord, bytes]], time: str) -> None:
        """Commit regions whose bodies are durable: pairs of record and wrapped key. Keys first, then the commit."""
        keys = WrappedKeys(self.vault, self.attempt, self.next, [(r.index, wrapped) for r, wrapped in regions])
        self._put(keys_path(self.attempt, self.next), keys.encode())
        records = tuple(record for record, _ in regions)
        self.append(Regions(records), time)
        for record in records:
            self.totals.size = max(self.totals.size, record.end)
            self.totals.regions += 1
            self.totals.sealed += record.object_bytes
            self.totals.unreadable += sum(hole.length for hole in record.unreadable)
            self.attempts[-1].regions += 1
            self.attempts[-1].bytes += record.length

    def append(self, body: Body, time: str) -> None:
        """Sign and put the next commit."""
        commit = Commit(self.vault, self.next, self._tip, self.header_digest, self.attempt, time, body)
        data = dsse.sign(commit.statement(), [self._key])
        self._put(commit_path(self.next), data)
        self._tip = hashlib.sha256(data).hexdigest()
        self.next += 1

    def finish(self, end: End, truncated: bool, time: str) -> Manifest:
        """The manifest, and its sidecar for stock tools. Nothing follows it."""
        manifest = Manifest(
            self.vault, time, self.next - 1, self._tip, self.totals, end, truncated, tuple(self.attempts)
        )
        statement = manifest.statement()
        self._put("manifest.dsse.json", dsse.sign(statement, [self._key]))
        payload = statement.encode()
        self._put("manifest.json", payload)
        self._put("manifest.json.sig", sshsig(self._key, namespace("manifest"), payload))
        return manifest

    def _put(self, name: str, data: bytes) -> None:
        try:
            self._store.put(f"{self._prefix}/{name}", data)
        except StoreFailed as error:
            safe = f"vault {self.vault} is durable up to commit {self.next - 1}" if self.next else "nothing is sealed"
            raise type(error)(error.message, f"{error.hint} So far {safe}.") from None
