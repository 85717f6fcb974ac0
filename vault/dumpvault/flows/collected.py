"""A collector's entry in the ledger: that a capture ended, and with which manifest (docs/spec/ledger.md, section 3).

It runs in crash kernels: nothing of trees and checkpoints is imported here. The next sequencer gives it its number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

from dumpvault.formats import jcs
from dumpvault.formats.entry import SIGNATURES, Entry, sign
from dumpvault.formats.sshkey import CanSign
from dumpvault.model import Store, vault_prefix

__all__ = ["put_collected"]


def put_collected(store: Store, keys: Sequence[CanSign], host: str, vault: str, manifest: bytes) -> str:
    """Put a collector's entry into the inbox, with one put; its digest. ``manifest`` is ``manifest.dsse.json``.

    Raises ``StoreFailed``; a capture must not fail for it.
    """
    entry = Entry(
        event="collected", role="collector", vault=vault, subject=f"{vault_prefix(vault)}/manifest.dsse.json",
        digest=hashlib.sha256(manifest).hexdigest(), sha384=hashlib.sha384(manifest).hexdigest(),
        actor=keys[0].signer.keyid, host=host, time=jcs.to_time(datetime.now(UTC)), ledger=None,
    )  # fmt: skip
    data = sign(entry, keys[:SIGNATURES])
    digest = hashlib.sha256(data).hexdigest()
    store.put(f"ledger/inbox/{digest}", data)
    return digest
