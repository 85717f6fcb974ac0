"""Reads a ledger's entries and checkpoints and verifies their signatures, by processes side by side, in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

from dumpvault.errors import Incomplete, VaultError
from dumpvault.flows.custody import Custody
from dumpvault.formats import jcs, merkle, tiles
from dumpvault.formats.checkpoint import Checkpoint
from dumpvault.formats.entry import judge

__all__ = ["CHECKPOINT", "Chunks", "Row", "read_all"]

#: Entries of one chunk: whole bundles.
_CHUNK = 1024
#: Bytes of a checkpoint that are looked at.
CHECKPOINT = 1 << 15


class Row(NamedTuple):
    """Of one entry, what its order among others is judged by. ``keys`` are indexes into the trusted keys."""

    leaf: bytes
    flag: str
    serial: int
    time: int
    seen: tuple[int, bytes] | None
    collected: bool
    keys: tuple[int, ...]
    bounded: bool


#: Rows, checkpoints by size (the root, or why one is not good), and the names of bundles that are junk.
Read = tuple[list[Row | None], dict[int, bytes | str], list[str]]


class Chunks:
    """Reads entries and checkpoints, a chunk at a time, in as many processes as there are processors."""

    def __init__(self, custody: Custody, checkpoints: set[int]) -> None:
        self._custody = custody
        self._checkpoints = checkpoints
        self._index = {id(key): number for number, key in enumerate(custody.trust.keys)}

    def read(self, first: int, end: int) -> Read:
        ledger, trust = self._custody.ledger, self._custody.trust
        rows: list[Row | None] = []
        held: list[bytes] = []
        for number in range(first, end):
            try:
                data = ledger.entry(number)
            except Incomplete:
                rows.append(None)  # a name that no object has: a folder, say
                break
            held.append(data)
            judged = judge(data, f"ledger/entries/{number}", ledger.origin, trust)
            entry = judged.entry
            rows.append(
                Row(
                    merkle.leaf_hash(data),
                    judged.flag,
                    int(entry.serial, 16) if entry else 0,
                    int(jcs.from_time(entry.time).timestamp()) if entry else 0,
                    (entry.seen.size, bytes.fromhex(entry.seen.root)) if entry and entry.seen else None,
                    entry is not None and entry.event == "collected",
                    tuple(self._index[id(key)] for key in judged.keys),
                    judged.bounded,
                )
            )
        good: dict[int, bytes | str] = {}
        for size in range(first + 1, end + 1):
            if size in self._checkpoints:
                good[size] = self._checkpoint(size)
        return rows, good, list(self._junk(first, held))

    def _junk(self, first: int, held: list[bytes]) -> Iterator[str]:
        """The bundles of the entries ``held``, from number ``first`` on, that are there and not what these make."""
        store = self._custody.ledger.store
        for at in range(0, len(held) - tiles.WIDTH + 1, tiles.WIDTH):
            name = f"ledger/{tiles.bundle_path((first + at) // tiles.WIDTH)}"
            if store.size(name) is not None and store.get(name) != tiles.bundle(held[at : at + tiles.WIDTH]):
                yield name

    def _checkpoint(self, size: int) -> bytes | str:
        """The root that a good checkpoint is of, or why it is not good."""
        name, ledger = f"ledger/checkpoints/{size}", self._custody.ledger
        try:
            found, _ = Checkpoint.verified(ledger.store.get(name, 0, CHECKPOINT), ledger.origin, ledger.logs, name)
        except VaultError as error:
            return error.message
        return found.root if found.size == size else f"{name}: it is of {found.size} entries"


_chunks: Chunks


def _work(span: tuple[int, int]) -> Read:
    return _chunks.read(*span)


def read_all(chunks: Chunks, size: int, jobs: int) -> Iterator[Read]:
    global _chunks  # noqa: PLW0603 - what forked processes inherit, and need not be sent
    spans = [(first, min(size, first + _CHUNK)) for first in range(0, size, _CHUNK)]
    if jobs == 1 or len(spans) < 2:
        yield from (chunks.read(*span) for span in spans)
        return
    _chunks = chunks
    with ProcessPoolExecutor(jobs, get_context("fork")) as pool:
        # A few chunks ahead and no more: what is read waits in memory until it is judged.
        ahead = [pool.submit(_work, span) for span in spans[: 2 * jobs]]
        for number in range(len(spans)):
            found = ahead.pop(0).result()
            if (later := number + 2 * jobs) < len(spans):
                ahead.append(pool.submit(_work, spans[later]))
            yield found
