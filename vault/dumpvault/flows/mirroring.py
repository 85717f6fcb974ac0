"""A ledger as plain C2SP tlog-tiles in a directory: what clients of such logs read, from a disk or behind any web server.

Nothing is copied from the caches of the store: hashes and bundles are made from the entries, and must lead to the checkpoint.
"""

from __future__ import annotations

import os

from dumpvault.errors import BadInput, Forged, Incomplete
from dumpvault.flows.custody import Custody
from dumpvault.flows.witnessing import cosigned_note
from dumpvault.formats import merkle, tiles
from dumpvault.formats.checkpoint import Checkpoint

__all__ = ["mirror"]


def mirror(custody: Custody, folder: str) -> Checkpoint:
    """Write tiles, bundles and, last, ``checkpoint`` with its cosignatures; the checkpoint that was written.

    What is there of an earlier mirror is left alone where it is the same: a log only grows. Raises ``VaultError``.
    """
    checkpoint = custody.check()
    if checkpoint is None:
        raise Incomplete(
            f"ledger {custody.origin}: no checkpoint by a log's key that is trusted here",
            "'dumpvault custody sequence' signs one, in a home that has the log's key.",
        )
    edge, bundle = tiles.Edge(), []
    for number in range(checkpoint.size):
        bundle.append(custody.ledger.entry(number))
        for name, data in edge.add(merkle.leaf_hash(bundle[-1])):
            _write(folder, name, data)
        if len(bundle) == tiles.WIDTH:
            _write(folder, tiles.bundle_path(number // tiles.WIDTH), tiles.bundle(bundle))
            bundle = []
    if edge.root != checkpoint.root:
        raise Forged(
            f"ledger: its entries are not those that ledger/checkpoints/{checkpoint.size} was signed for",
            f"'dumpvault custody verify' says more. {folder} has no checkpoint of it.",
        )
    for name, data in edge.partial():
        _write(folder, name, data)
    if bundle:
        _write(folder, tiles.bundle_path(checkpoint.size // tiles.WIDTH, len(bundle)), tiles.bundle(bundle))
    _write(folder, "checkpoint", cosigned_note(custody, checkpoint), replace=True)
    return checkpoint


def _write(folder: str, name: str, data: bytes, *, replace: bool = False) -> None:
    """Whole or not at all. Raises ``BadInput`` where something else stands there."""
    path = os.path.join(folder, name)
    try:
        if not replace and os.path.exists(path):
            with open(path, "rb") as file:
                if file.read(len(data) + 1) == data:
                    return
            raise BadInput(f"{path}: another file stands there", "It is kept. Name an empty directory.")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(f"{path}.new", "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{path}.new", path)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}", "Name a directory that can be written.") from None
