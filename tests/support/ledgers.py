"""What happens while a vault is opened or changed, in order: entries, keys unwrapped, bodies read, objects put."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from dumpvault.formats import keybag
from dumpvault.formats.kem import KemSuite
from dumpvault.stages.store.local import LocalStore

__all__ = ["kinds", "traced"]


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
            return f"entry {event_of(data)}"
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


def event_of(data: bytes) -> str:
    """Which event an entry's bytes state."""
    import base64

    return str(json.loads(base64.b64decode(json.loads(data)["payload"]))["predicate"]["event"])


def kinds(steps: list[str]) -> list[str]:
    """The steps, those that repeat told once."""
    return [step for i, step in enumerate(steps) if i == 0 or steps[i - 1] != step]
