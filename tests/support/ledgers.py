"""What happens while a vault is opened or changed, in order: entries, keys unwrapped, bodies read, objects put."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from dumpvault.errors import VaultError
from dumpvault.flows.site import Site
from dumpvault.formats import keybag
from dumpvault.formats.allowed_signers import AllowedSigners
from dumpvault.formats.kem import KemSuite
from dumpvault.formats.policy_facts import Custody
from dumpvault.model import Store
from dumpvault.stages.store.local import LocalStore

__all__ = ["PlainLedger", "entries", "kinds", "stated", "traced"]


@contextmanager
def traced() -> Iterator[list[str]]:
    """Within, each step of this process is told when it has returned: a put is durable then."""
    steps: list[str] = []

    def told(name: str, call: Any) -> Any:
        def wrapper(*arguments: Any, **more: Any) -> Any:
            result = call(*arguments, **more)
            step = name(*arguments) if callable(name) else name
            if step:
                steps.append(step)
            return result

        return wrapper

    def put(_store: LocalStore, name: str, data: bytes) -> str:
        if "ledger/entries/" in name:
            return f"entry {stated(data)['event']}"
        return f"put {name.split('/')[2]}" if name.startswith("vaults/") else ""

    def get(_store: LocalStore, name: str, *_: object) -> str:
        return "body" if "/regions/" in name else ""

    with (
        mock.patch.object(LocalStore, "put", told(put, LocalStore.put)),
        mock.patch.object(LocalStore, "get", told(get, LocalStore.get)),
        mock.patch.object(KemSuite, "open", told("unwrap", KemSuite.open)),
        mock.patch.object(keybag, "aes_key_unwrap", told("unwrap", keybag.aes_key_unwrap)),
    ):
        yield steps


def stated(data: bytes) -> dict[str, Any]:
    """What an entry's bytes state."""
    predicate: dict[str, Any] = json.loads(base64.b64decode(json.loads(data)["payload"]))["predicate"]
    return predicate


def kinds(steps: list[str]) -> list[str]:
    """The steps, those that repeat told once."""
    return [step for i, step in enumerate(steps) if i == 0 or steps[i - 1] != step]


@dataclass(frozen=True)
class Appended:
    index: int
    digest: str


class PlainLedger:
    """In the place of ``flows.custody.Custody``: entries without signatures, tree or memory, in the order of their puts.

    What is proved with it is when commands append, what they say, and what they do where they cannot.
    """

    #: What ``of`` and ``record`` raise, if anything, and what ``facts`` gives.
    unusable: VaultError | None = None
    unwritable: VaultError | None = None
    known = Custody()

    def __init__(self, store: Store) -> None:
        self._store = store

    @classmethod
    def of(cls, _site: Site, store: Store, _trust: AllowedSigners) -> PlainLedger | None:
        if cls.unusable:
            raise cls.unusable
        return cls(store) if store.size("ledger/ledger.json") is not None else None

    def record(self, *, event: str, from_: str | None = None, **fields: Any) -> Appended:
        if self.unwritable:
            raise self.unwritable
        index = len(entries(self._store))
        predicate = {"event": event, "from": from_, **fields}
        payload = base64.b64encode(json.dumps({"predicate": predicate}).encode()).decode()
        data = json.dumps({"payload": payload}).encode()
        self._store.put(f"ledger/entries/{index}", data)
        return Appended(index, hashlib.sha256(data).hexdigest())

    def facts(self, _vault: str, _manifest: str) -> Custody:
        return self.known


def entries(store: Store) -> list[dict[str, Any]]:
    """What the entries state, in their order."""
    names = sorted(store.list("ledger/entries"), key=lambda name: int(name.rpartition("/")[2]))
    return [stated(store.get(name)) for name in names]
