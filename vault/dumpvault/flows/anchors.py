"""What says from outside when something existed: witnesses and timestamp authorities (docs/spec/ledger.md, section 6).

What does not verify proves nothing here, and is passed over: anybody who may write to the store can put some.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from dumpvault.errors import Forged, Incomplete, VaultError
from dumpvault.formats import dsse, timestamp
from dumpvault.formats.allowed_signers import AllowedSigners, namespace
from dumpvault.formats.checkpoint import Checkpoint
from dumpvault.formats.entry import LIMIT, Entry
from dumpvault.formats.note import Line, Note
from dumpvault.formats.sshkey import Signer
from dumpvault.formats.timestamp import Anchor
from dumpvault.model import Store, vault_prefix
from dumpvault.stages.ledger import Ledger

__all__ = [
    "cosignatures",
    "cosigned",
    "log_keys",
    "manifest_stamps",
    "manifest_witnessed",
    "stamped",
    "vouched_checkpoints",
    "witnesses",
]

_MOST = 64  # timestamps that are looked at


def log_keys(trust: AllowedSigners, origin: str) -> list[Signer]:
    """The keys whose checkpoints of ``origin`` count: a principal ``NAME@ORIGIN`` is bound to that ledger."""
    role = namespace("checkpoint")
    return [key.signer for key in trust.keys if not key.objection(role, origin, None)]


def witnesses(note: Note, trust: AllowedSigners) -> list[tuple[str, datetime]]:
    """The trusted witnesses whose cosignatures on a note verify, and when they signed."""
    role, found = namespace("cosignature"), []
    for key in trust.keys:
        if not key.objection(role, None, None):
            try:
                at = note.cosigned_by(key.principal, key.signer, "a cosignature")
            except Forged:
                continue
            if at is not None and not key.outside(when := datetime.fromtimestamp(min(at, 1 << 37), UTC)):
                found.append((key.principal, when))
    return found


def cosigned(ledger: Ledger, trust: AllowedSigners, checkpoint: Checkpoint) -> list[tuple[str, datetime]]:
    """Whose good cosignatures a checkpoint has, and of when."""
    return [told for _, told in cosignatures(ledger, trust, checkpoint)]


def cosignatures(
    ledger: Ledger, trust: AllowedSigners, checkpoint: Checkpoint
) -> Iterator[tuple[Line, tuple[str, datetime]]]:
    """The good cosignatures of a checkpoint: each line, with whose it is and of when."""
    folder = f"ledger/cosignatures/{checkpoint.size}"
    for id_ in sorted(ledger.store.children(folder)):
        try:
            text = ledger.store.get(f"{folder}/{id_}", 0, 1024).decode()
            line = Line.parse(text.removesuffix("\n"), f"{folder}/{id_}")
        except (Forged, Incomplete, UnicodeDecodeError):
            continue
        if (line.text, line.id.hex()) == (text, id_):
            for told in witnesses(Note(checkpoint.text, (line,)), trust):
                yield line, told


def stamped(ledger: Ledger, trust: AllowedSigners, checkpoint: Checkpoint) -> list[tuple[str, datetime]]:
    """The RFC 3161 timestamps of trusted authorities over a checkpoint's text, and their times."""
    folder = f"ledger/timestamps/{checkpoint.size}"
    found = []
    for name in sorted(ledger.store.children(folder))[:_MOST]:
        try:
            reply = ledger.store.get(f"{folder}/{name}", 0, timestamp.LIMIT + 1)
            anchor = timestamp.check(
                reply, checkpoint.text.encode(), trust.authorities, datetime.now(UTC), f"{folder}/{name}"
            )
        except VaultError:
            continue
        found.append((anchor.source, anchor.time))
    return found


def vouched_checkpoints(ledger: Ledger, trust: AllowedSigners) -> list[Checkpoint]:
    """The good checkpoints that a trusted witness has cosigned or an authority timestamped, smallest first."""
    names = {*ledger.store.children("ledger/cosignatures"), *ledger.store.children("ledger/timestamps")}
    sizes = sorted(int(name) for name in names if name.isdigit())
    found = [checkpoint for size in sizes if (checkpoint := ledger.checkpoint(size))]
    return [one for one in found if cosigned(ledger, trust, one) or stamped(ledger, trust, one)]


def manifest_stamps(
    store: Store, vault: str, manifest: bytes, trust: AllowedSigners
) -> Iterator[tuple[str, Anchor | VaultError]]:
    """The vault's RFC 3161 timestamps (vault.md, section 12.5), by name: what each proves, or why it proves nothing."""
    prefix = vault_prefix(vault)
    names = [name[len(prefix) + 1 :] for name in store.list(f"{prefix}/timestamps")]
    for name in sorted(names)[:_MOST]:
        try:
            size = store.size(f"{prefix}/{name}") or 0
            reply = store.get(f"{prefix}/{name}", 0, min(size, timestamp.LIMIT + 1))
            if timestamp.path(reply) != name:
                raise Forged(f"{name}: its name is not that of its bytes", "It proves nothing here.")
            yield name, timestamp.check(reply, manifest, trust.authorities, datetime.now(UTC), name)
        except VaultError as error:
            yield name, error


def manifest_witnessed(store: Store, vault: str, digest: str, trust: AllowedSigners) -> Anchor | None:
    """By when somebody outside had seen the store's ledger with an entry that has the manifest's SHA-256 ``digest``.

    Whoever signed that entry, it holds the digest. Raises ``VaultError``.
    """
    ledger = Ledger.of(store, ())
    if ledger is None:
        return None
    ledger.logs = log_keys(trust, ledger.origin)
    vouched = vouched_checkpoints(ledger, trust)
    if not vouched:
        return None
    subject = f"{vault_prefix(vault)}/manifest.dsse.json"
    for number in range(vouched[-1].size):
        try:
            entry = Entry.read(dsse.parse(ledger.entry(number), f"ledger/entries/{number}", LIMIT))
        except Forged:
            continue
        if (entry.subject, entry.digest) == (subject, digest):
            by = next(one for one in vouched if one.size > number)
            try:
                ledger.prove(number, by)
            except (Forged, Incomplete):
                return None  # not the tree that was vouched for
            who, when = min(cosigned(ledger, trust, by) + stamped(ledger, trust, by), key=lambda told: told[1])
            return Anchor(when, f"entry {number} of the ledger, seen by {who}")
    return None
