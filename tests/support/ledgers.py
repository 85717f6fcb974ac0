"""What happens while a vault is opened or changed, in order: entries, keys unwrapped, bodies read, objects put."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from dumpvault.errors import StoreFailed
from dumpvault.formats import keybag
from dumpvault.formats.kem import KemSuite
from dumpvault.model import Store
from dumpvault.stages.store.local import LocalStore

__all__ = ["entries", "kinds", "stated", "traced", "unwritable"]


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
            event = stated(data)["event"]
            return "" if event == "collected" else f"entry {event}"
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
    statement = json.loads(base64.b64decode(json.loads(data)["payload"]))
    (subject,) = statement["subject"]
    return {**statement["predicate"], "subject": [subject["name"], subject["digest"]["sha256"]]}


def kinds(steps: list[str]) -> list[str]:
    """The steps, those that repeat told once."""
    return [step for i, step in enumerate(steps) if i == 0 or steps[i - 1] != step]


@contextmanager
def unwritable(after: int = 0) -> Iterator[None]:
    """Within, no entry can be put after the first ``after``: as on a medium that has become read-only."""
    real, left = LocalStore.put, after

    def put(store: LocalStore, name: str, data: bytes) -> None:
        nonlocal left
        if name.startswith("ledger/entries/"):
            left -= 1
            if left < 0:
                raise StoreFailed(f"{name}: read-only file system", "Mount it so that it can be written.")
        real(store, name, data)

    with mock.patch.object(LocalStore, "put", put):
        yield


def entries(store: Store) -> list[dict[str, Any]]:
    """What the entries of commands state, in their order: without those that collectors put."""
    names = sorted(store.list("ledger/entries"), key=lambda name: int(name.rpartition("/")[2]))
    return [one for name in names if (one := stated(store.get(name)))["event"] != "collected"]
