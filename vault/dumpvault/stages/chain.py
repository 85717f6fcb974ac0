"""Writing a vault's signed chain: each put that succeeds is a commit, and losing a put ends the attempt.

The order of these calls is the order of durability; every put is durable when it returns (stages/store/contract.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dumpvault.errors import StoreFailed
from dumpvault.formats import dsse
from dumpvault.formats.allowed_signers import namespace
from dumpvault.formats.commit import Body, Commit, Outcome, Regions, Release, Takeover
from dumpvault.formats.event import Event, Released
from dumpvault.formats.header import Header
from dumpvault.formats.keybag import Keybag, WrappedKeys
from dumpvault.formats.manifest import AttemptTotals, End, Manifest, Totals
from dumpvault.formats.sharing import Commitments
from dumpvault.formats.sshkey import CanSign, sshsig
from dumpvault.model import RegionRecord, Store, commit_path, event_path, keybag_path, keys_path, vault_prefix

__all__ = ["Chain", "Verified"]


@dataclass(frozen=True, slots=True)
class Verified:
    """How far a chain was verified: how many commits, the digest of the last, and what they add up to."""

    commits: int
    tip: str
    totals: Totals
    attempts: Sequence[AttemptTotals]


class Chain:
    """The chain of one vault, of which every object is signed by all ``keys``. Not for use by several threads."""

    def __init__(self, store: Store, vault: str, keys: Sequence[CanSign], header_digest: str) -> None:
        self._store = store
        self._keys = tuple(keys)
        self._prefix = vault_prefix(vault)
        self.vault = vault
        self.header_digest = header_digest
        self.attempt = 0
        self.next = 0
        self.totals = Totals()
        self.attempts: list[AttemptTotals] = []
        self.tip = header_digest
        self._manifest_digest = ""

    @classmethod
    def begin(cls, store: Store, header: Header, keys: Sequence[CanSign]) -> Chain:
        """A new vault: its header."""
        data = dsse.sign(header.statement(), keys)
        chain = cls(store, header.vault, keys, hashlib.sha256(data).hexdigest())
        chain._put("vault.dsse.json", data)
        return chain

    @classmethod
    def resume(cls, store: Store, keys: Sequence[CanSign], vault: str, header_digest: str, verified: Verified) -> Chain:
        """The chain that was ``verified``; the next commit follows its tip."""
        chain = cls(store, vault, keys, header_digest)
        chain.next, chain.tip = verified.commits, verified.tip
        chain.totals, chain.attempts = verified.totals, list(verified.attempts)
        return chain

    def take_over(
        self, seal: Callable[[int], tuple[Keybag, Commitments | None]], boot_id: str | None, tool: str, time: str
    ) -> None:
        """Begin an attempt: its keybag, then the takeover that binds it. ``seal`` makes the keybag of an attempt number,
        and under dual control what is committed to.

        A collector that died between the two has left a keybag without a takeover; its number is passed over.
        """
        attempt = self.attempts[-1].attempt + 1 if self.attempts else 1
        while self._store.size(f"{self._prefix}/{keybag_path(attempt)}") is not None:
            attempt += 1
        keybag, shares = seal(attempt)
        data = keybag.encode()
        self._put(keybag_path(attempt), data)
        self.attempt = attempt
        self.append(Takeover(hashlib.sha256(data).hexdigest(), boot_id, tool, shares), time)
        self.attempts.append(AttemptTotals(attempt, boot_id))

    def commit_regions(
        self,
        regions: Sequence[tuple[RegionRecord, bytes]],
        time: str,
        releases: Sequence[Release] = (),
        outcomes: Sequence[Outcome] = (),
        broken: Callable[[], bool] = lambda: False,
    ) -> int:
        """Commit regions whose bodies are durable: pairs of record and wrapped key. Keys first, then the commit.

        Returns the commit's number. ``releases`` may be performed once this has returned, and not before; where a writer
        is ``broken`` by then, the commit authorises none.
        """
        if regions:
            keys = WrappedKeys(self.vault, self.attempt, self.next, [(r.index, wrapped) for r, wrapped in regions])
            self._put(keys_path(self.attempt, self.next), keys.encode())
        if broken():
            releases = ()
        records = tuple(record for record, _ in regions)
        self.append(Regions(records, tuple(releases), tuple(outcomes)), time)
        for record in records:
            self.totals.add(record)
            self.attempts[-1].regions += 1
            self.attempts[-1].bytes += record.length
        return self.next - 1

    def append(self, body: Body, time: str) -> None:
        """Sign and put the next commit."""
        commit = Commit(self.vault, self.next, self.tip, self.header_digest, self.attempt, time, body)
        data = dsse.sign(commit.statement(), self._keys)
        self._put(commit_path(self.next), data)
        self.tip = hashlib.sha256(data).hexdigest()
        self.next += 1

    def finish(self, end: End, truncated: bool, time: str) -> Manifest:
        """The manifest, and its sidecar for stock tools. Of commits, nothing follows it."""
        manifest = Manifest(
            self.vault, time, self.next - 1, self.tip, self.totals, end, truncated, tuple(self.attempts)
        )
        statement = manifest.statement()
        data = dsse.sign(statement, self._keys)
        self._put("manifest.dsse.json", data)
        self._manifest_digest = hashlib.sha256(data).hexdigest()
        self.sidecar(statement.encode())
        return manifest

    def sidecar(self, payload: bytes) -> None:
        """For stock tools: the manifest's exact payload, and a signature over it by the first key of a kind they know.

        Puts what is there once more, unharmed.
        """
        self._put("manifest.json", payload)
        stock = next((key for key in self._keys if key.signer.algorithm.stock), None)
        if stock:
            self._put("manifest.json.sig", sshsig(stock, namespace("manifest"), payload))

    def released(self, method: str, result: str, time: str) -> None:
        """Event 0: what became of a release that could only come after the manifest."""
        digest = self._manifest_digest
        event = Event(self.vault, 0, digest, digest, time, Released(method, result))
        self._put(event_path(0), dsse.sign(event.statement(), self._keys))

    def _put(self, name: str, data: bytes) -> None:
        try:
            self._store.put(f"{self._prefix}/{name}", data)
        except StoreFailed as error:
            safe = f"vault {self.vault} is durable up to commit {self.next - 1}" if self.next else "nothing is sealed"
            raise type(error)(error.message, f"{error.hint} So far {safe}.") from None
