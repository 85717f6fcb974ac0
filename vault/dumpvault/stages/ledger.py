"""The ledger's objects in a store: find the tip, read the tree, append (docs/spec/ledger.md, sections 1 and 3).

What decides is ``entries/`` and ``checkpoints/``. Tiles, bundles and ``sequenced/`` are a cache: they are used where they
lead to a signed root, and made again from the entries where they do not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dumpvault.errors import Forged, Incomplete, StoreFailed
from dumpvault.formats import jcs, merkle, tiles
from dumpvault.formats.checkpoint import ORIGIN, Checkpoint
from dumpvault.formats.entry import LIMIT
from dumpvault.formats.sshkey import CanSign, Signer
from dumpvault.model import FORMAT, Store

__all__ = ["Appended", "Ledger"]

_PLACE = "ledger/ledger.json"
_DOUBT = "Nothing was written. Keep this home's memory of it, and find out who changed the store."


@dataclass(frozen=True, slots=True)
class Appended:
    """The number of the entry (of the last one, if only the inbox was taken in), and the latest checkpoint that stands.

    It covers the entry where a log's key was at hand to sign one.
    """

    index: int
    checkpoint: Checkpoint | None


class Ledger:
    """The ledger ``origin`` of a store; ``logs`` are the keys whose checkpoints count."""

    def __init__(self, store: Store, origin: str, logs: Sequence[Signer]) -> None:
        self.store = store
        self.origin = origin
        self.logs = logs

    @classmethod
    def of(cls, store: Store, logs: Sequence[Signer]) -> Ledger | None:
        """The ledger of a store, if it has one. Raises ``Forged`` where what says so cannot be read."""
        if store.size(_PLACE) is None:
            return None
        data = store.get(_PLACE, 0, 4096)
        fields = jcs.Fields(jcs.decode(data, _PLACE, 4095), _PLACE)
        fields.format(FORMAT)
        origin = fields.text("origin", ORIGIN.pattern)
        fields.done()
        return cls(store, origin, logs)

    @classmethod
    def create(cls, store: Store, origin: str, logs: Sequence[Signer]) -> Ledger:
        """Make a ledger, or find the one that is there. Raises ``StoreFailed``."""
        try:
            store.put(_PLACE, jcs.encode({"format": FORMAT, "origin": origin}))
        except StoreFailed:
            if store.size(_PLACE) is None:
                raise
        found = cls.of(store, logs)
        assert found is not None
        return found

    def tip(self, known: int = 0) -> int:
        """How many entries there are: at least ``known``, or fewer where some of those are gone."""
        if known and not self._there(known - 1):
            low, high = 0, known - 1
        else:
            low, step = known, 1
            while self._there(low + step - 1):
                low, step = low + step, step * 2
            high = low + step - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._there(middle) else (low, middle)
        return low

    def entry(self, number: int) -> bytes:
        """The bytes of an entry; none where they are more than an entry may have. Raises ``Incomplete`` where it is gone."""
        data = self.store.get(f"ledger/entries/{number}", 0, LIMIT + 1)
        return data if len(data) <= LIMIT else b""

    def tile(self, level: int, number: int, width: int) -> bytes:
        """A tile as it is stored: a cache, which proves nothing. Raises ``Incomplete``."""
        return self.store.get(f"ledger/{tiles.tile_path(level, number, width)}", 0, 32 * tiles.WIDTH + 1)

    def prove(self, index: int, checkpoint: Checkpoint) -> list[bytes]:
        """The hashes that lead from an entry to the root of a checkpoint that covers it. Raises ``Forged``, ``Incomplete``."""
        leaf = merkle.leaf_hash(self.entry(index))

        def leads(nodes: merkle.Nodes) -> list[bytes] | None:
            found = merkle.prove_inclusion(nodes, index, checkpoint.size)
            return found if merkle.included(leaf, index, checkpoint.size, found, checkpoint.root) else None

        try:
            if found := leads(tiles.nodes_over(self.tile, checkpoint.size)):
                return found
        except (Incomplete, IndexError, ValueError):
            pass  # tiles are a cache
        self.edge(checkpoint)
        leaves = [merkle.leaf_hash(self.entry(i)) for i in range(checkpoint.size)]
        found = leads(lambda height, i: merkle.subtree(leaves[i << height : (i + 1) << height]))
        if found is None:
            raise Forged(f"ledger/entries/{index}: not in the tree of ledger/checkpoints/{checkpoint.size}", _DOUBT)
        return found

    def latest(self, tip: int) -> Checkpoint | None:
        """The largest good checkpoint of at most ``tip`` entries; those that are not good are passed over."""
        return next((found for size in range(tip, 0, -1) if (found := self.checkpoint(size))), None)

    def checkpoint(self, size: int) -> Checkpoint | None:
        """The checkpoint of that size, if there is a good one."""
        name = f"ledger/checkpoints/{size}"
        if self.store.size(name) is None:
            return None
        try:
            found, _ = Checkpoint.verified(self.store.get(name, 0, 1 << 15), self.origin, self.logs, name)
        except Forged:
            return None
        return found if found.size == size else None

    def edge(self, checkpoint: Checkpoint | None) -> tiles.Edge:
        """The right edge of the tree that a checkpoint is of. Raises ``Forged`` where the entries make another tree."""
        if checkpoint is None:
            return tiles.Edge()
        try:
            edge = tiles.Edge.read(checkpoint.size, self.tile)
            if edge.root == checkpoint.root:
                return edge
        except (ValueError, Incomplete):
            pass
        edge = tiles.Edge()
        for number in range(checkpoint.size):
            for _ in edge.add(merkle.leaf_hash(self.entry(number))):
                pass
        if edge.root != checkpoint.root:
            raise Forged(
                f"ledger: its {checkpoint.size} entries are not those that ledger/checkpoints/{checkpoint.size} was signed for",
                _DOUBT,
            )
        return edge

    def check_consistent(self, known: Checkpoint, latest: Checkpoint | None) -> None:
        """Whether the ledger still holds all that ``known`` was signed for. Raises ``Forged`` naming what was done to it."""
        if known.origin != self.origin:
            raise Forged(f"ledger: it is {self.origin} now, and was {known.origin}", _DOUBT)
        if latest is None or latest.size < known.size:
            # Checkpoints may be gone, or their key revoked: what counts is that no entry is.
            if not self._there(known.size - 1):
                raise Forged(
                    f"ledger: rolled back: entry {known.size - 1} is gone, and this home has verified {known.size}",
                    _DOUBT,
                )
            self._hold(known)
            return
        nodes = tiles.nodes_over(self.tile, latest.size)
        try:
            proof = merkle.prove_consistency(nodes, known.size, latest.size)
            if merkle.consistent(known.size, known.root, latest.size, latest.root, proof):
                return
        except (Incomplete, ValueError, IndexError):
            pass  # tiles are a cache
        self.edge(latest)
        self._hold(known)

    def _hold(self, known: Checkpoint) -> None:
        """Raise ``Forged`` unless the entries make the tree that this home has verified."""
        try:
            self.edge(known)
        except (Forged, Incomplete):
            raise Forged(
                f"ledger: forked: its first {known.size} entries are not those that this home has verified", _DOUBT
            ) from None

    def append(
        self,
        data: bytes | None,
        key: CanSign | None,
        known: Checkpoint | None,
        acceptable: Callable[[bytes, str], bool],
    ) -> Appended:
        """Append an entry; it is in the ledger, durably, when this returns. None takes in the inbox, and no more.

        ``key`` is a log's, to sign the checkpoint with, if one is at hand; ``known`` the checkpoint that this home
        remembers. What waits in the inbox and is ``acceptable`` (bytes, name) goes first. Raises ``Forged`` for a ledger
        that is not what it was, ``StoreFailed``; then the entry may be there, and appending it again finds it.
        """
        tip = self.tip(known.size if known else 0)
        latest = self.latest(tip)
        if known:
            self.check_consistent(known, latest)
        base = known if known and (latest is None or latest.size < known.size) else latest
        writing = _Writing(self, self.edge(base))
        waiting = self.waiting()
        # One by one: whoever may write to the store can put an object behind a gap.
        while self._there(writing.size):
            writing.take_there()
        for digest in waiting:
            name = f"ledger/inbox/{digest}"
            waits = self.store.get(name, 0, 1 << 16)
            if hashlib.sha256(waits).hexdigest() == digest and acceptable(waits, name):
                writing.put(waits)
        index = writing.size - 1 if data is None else writing.put(data)
        if latest and latest.size == writing.size:
            return Appended(index, latest)
        return Appended(index, writing.finish(key) or latest)

    def _there(self, number: int) -> bool:
        return self.store.size(f"ledger/entries/{number}") is not None

    def waiting(self) -> list[str]:
        """The names in the inbox that have no number yet."""
        done = set(self.store.children("ledger/sequenced"))
        return sorted(name for name in self.store.children("ledger/inbox") if name not in done)


class _Writing:
    """One append at work: the edge as far as every entry was read, and what is to be put for what came since."""

    def __init__(self, ledger: Ledger, edge: tiles.Edge) -> None:
        self._ledger = ledger
        self._store = ledger.store
        self._edge = edge
        self._tiles: list[tuple[str, bytes]] = []
        self._digests: dict[str, int] = {}

    @property
    def size(self) -> int:
        return self._edge.size

    def take_there(self) -> bytes:
        """Take the next entry, which somebody else put; made durable, as a checkpoint will say that it is there."""
        name = f"ledger/entries/{self.size}"
        self._store.settle(name)
        data = self._ledger.entry(self.size)
        self._take(data)
        return data

    def put(self, data: bytes) -> int:
        """Put an entry at the first free number, reading all that stands before; once, however often it is asked."""
        if (before := self._digests.get(hashlib.sha256(data).hexdigest())) is not None:
            return before
        while True:
            number = self.size
            name = f"ledger/entries/{number}"
            try:
                self._store.put(name, data)
            except StoreFailed:
                if self._store.size(name) is None:
                    raise
                if self.take_there() == data:
                    return number
            else:
                self._take(data)
                return number

    def finish(self, key: CanSign | None) -> Checkpoint | None:
        """The cache, then the checkpoint that covers it all."""
        for digest, number in self._digests.items():
            if self._store.size(f"ledger/inbox/{digest}") is not None:
                self._cache(f"sequenced/{digest}", str(number).encode())
        for name, data in self._tiles:
            self._cache(name, data)
        for name, data in self._edge.partial():
            self._cache(name, data)
        if key is None:
            return None
        made = Checkpoint(self._ledger.origin, self.size, self._edge.root)
        name = f"ledger/checkpoints/{self.size}"
        try:
            self._store.put(name, made.sign(key))
        except StoreFailed:
            if self._store.size(name) is None:
                raise
            there = self._ledger.checkpoint(self.size)
            if there is None:
                return None  # junk, or of a key that was revoked: the next entry's checkpoint has another name
            if there != made:
                raise Forged(
                    f"{name}: forked: a log's key signed another tree of {made.size} entries", _DOUBT
                ) from None
        return made

    def _take(self, data: bytes) -> None:
        number = self.size
        self._digests.setdefault(hashlib.sha256(data).hexdigest(), number)
        self._tiles += self._edge.add(merkle.leaf_hash(data))
        if self.size % tiles.WIDTH == 0:
            first = self.size - tiles.WIDTH
            whole = tiles.bundle([self._ledger.entry(i) for i in range(first, self.size)])
            self._tiles.append((tiles.bundle_path(first // tiles.WIDTH), whole))

    def _cache(self, name: str, data: bytes) -> None:
        """Put what is a function of the entries; where something else has the name, it is junk, and verification says so."""
        name = f"ledger/{name}"
        if self._store.size(name) is None:
            try:
                self._store.put(name, data)
            except StoreFailed:
                if self._store.size(name) is None:
                    raise
