"""What an officer's changes of a vault share: the vault verified, the next event put, superseded keys deleted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from dumpvault.errors import BadInput, Incomplete, StoreFailed, VaultError
from dumpvault.flows.verified import Report
from dumpvault.flows.verify import verify
from dumpvault.formats import dsse, jcs
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.event import LIMIT, Body, Event
from dumpvault.formats.sshkey import SigningKey
from dumpvault.model import Store, event_path, generation_path, vault_prefix
from dumpvault.stages.store.contract import ObjectExists

__all__ = [
    "Change",
    "begin",
    "delete_superseded",
    "key_objects",
    "now",
    "put_event",
    "refuse_empty",
]

_GENERATION = re.compile(r".*\.(0|[1-9][0-9]*)-[0-9a-f]{16}\.json")


def now() -> str:
    """The time, as statements have it."""
    return jcs.to_time(datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Change:
    """A vault to which the next event may be added."""

    store: Store
    report: Report

    @property
    def vault(self) -> str:
        return self.report.vault

    @property
    def number(self) -> int:
        """Of the next event."""
        return len(self.report.examiner.events)

    def get(self, name: str) -> bytes:
        return self.store.get(f"{vault_prefix(self.vault)}/{name}")

    def put(self, name: str, data: bytes, sha256: str) -> str:
        """What replaces the key object ``name`` once the next event counts; durable on return. Returns its name."""
        new = generation_path(name, self.number, sha256)
        self.store.put(f"{vault_prefix(self.vault)}/{new}", data)
        return new


def begin(store: Store, vault: str, trust: AllowedSigners) -> Change:
    """Verify all but bodies. Raises unless header, chain, manifest and events held: what an event builds on."""
    report = verify(store, vault, trust, bodies=False)
    if report.header_read and report.examiner.manifest is None:
        raise Incomplete(
            f"vault {vault} has no manifest, and events begin after it",
            "Nothing was changed. Let the capture be finished first, or restore the manifest.",
        )
    for finding in report.of_steps(1, 2, 3, 8):
        raise finding
    return Change(store, report)


def put_event(change: Change, body: Body, key: SigningKey) -> str:
    """Sign and put the next event: from when this returns, it counts. Returns its digest. Raises ``StoreFailed``.

    Whoever loses the put to another officer has changed nothing that counts.
    """
    examiner = change.report.examiner
    event = Event(change.vault, change.number, examiner.event_tip, examiner.manifest_digest, now(), body)
    data = dsse.sign(event.statement(), [key])
    name = event_path(change.number)
    if len(data) > LIMIT:
        raise BadInput(f"{name}: {len(data)} bytes are more than {LIMIT}", "Nothing was changed. Name fewer regions.")
    try:
        change.store.put(f"{vault_prefix(change.vault)}/{name}", data)
    except ObjectExists:
        raise StoreFailed(
            f"{name}: another officer was first", "Nothing of yours counts. See what they did, and run it again."
        ) from None
    examiner.read_event(data)
    return examiner.event_digests[-1]


def key_objects(change: Change) -> Iterator[str]:
    """All that stands where key objects do, whatever it is."""
    start = len(vault_prefix(change.vault)) + 1
    for folder in ("keybag", "keys"):
        for name in change.store.list(f"{vault_prefix(change.vault)}/{folder}"):
            yield name[start:]


def delete_superseded(change: Change) -> list[str]:
    """Delete every key object that does not count; returns what should be gone. Raises ``StoreFailed`` for what cannot be.

    What another officer may just have put for an event that is still to come is left alone.
    """
    current = change.report.examiner.current
    keep = {held.name for held in [*current.keybags.values(), *current.keys.values()]}
    gone = sorted({*current.superseded, *key_objects(change)} - keep)
    gone = [name for name in gone if not ((of := _GENERATION.fullmatch(name)) and int(of[1]) >= change.number)]
    problems: list[str] = []
    for name in gone:
        try:
            change.store.delete(f"{vault_prefix(change.vault)}/{name}")
        except (VaultError, ValueError) as error:
            problems.append(f"{name}: not deleted: {error}")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise StoreFailed(
            f"{problems[0]}{more}",
            "The event counts, but what was superseded may still open. Delete it, or run the same command again.",
        )
    return gone


def refuse_empty(reason: str) -> None:
    """Raise ``BadInput`` for a reason that says nothing, or is too long."""
    if not reason.strip() or len(reason) > 4096:
        raise BadInput("--reason must say something, in at most 4096 characters", "Nothing was changed.")
