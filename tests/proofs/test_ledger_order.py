"""The order of an append: what each put rests on is there before it, at every instant; and the same look at an order that was
changed finds it. A put is durable when it returns (tests/store_contract.py), so that every prefix of them is a crash.

What must hold: a checkpoint is not there before all that it covers; no object of the inbox is marked before its entry has a
number; a home does not remember a checkpoint that is not there; an entry of a capture not before its manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from dumpvault.stages.remembered import Known, Remembered
from dumpvault.stages.store.local import LocalStore
from support.command import Home, make_home, seal
from support.vmcore import write_core

Step = tuple[str, str]


def kind(name: str) -> str:
    """entries, checkpoints, sequenced, tile, inbox, manifest; empty for what no rule speaks of."""
    if name.endswith("/manifest.dsse.json"):
        return "manifest"
    return name.split("/")[1] if name.startswith("ledger/") else ""


class Watched:
    """Puts and memories in their order, as they become durable; ``first`` is held back until ``second`` was done."""

    def __init__(self, store: Path, first: str = "", second: str = "") -> None:
        self.there = {path.relative_to(store).as_posix() for path in store.rglob("*") if path.is_file()}
        self.entries = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (store / "ledger/entries").glob("*")}
        self.violations: list[str] = []
        self.done: list[str] = []
        self._first, self._second = first, second
        self._held: list[Callable[[], None]] = []

    def take(self, what: str, action: Callable[[], None]) -> None:
        if what and what == self._first:
            self._held.append(action)
            return
        action()
        if what == self._second:
            held, self._held = self._held, []
            for one in held:
                one()

    def put(self, name: str, data: bytes) -> None:
        """It is durable: was all there that it rests on?"""
        last = name.rpartition("/")[2]
        match kind(name):
            case "entries":
                self.entries.add(hashlib.sha256(data).hexdigest())
            case "checkpoints":
                if lacking := {f"ledger/entries/{i}" for i in range(int(last))} - self.there:
                    self.violations.append(f"{name} without {sorted(lacking)[0]}")
            case "sequenced":
                if last not in self.entries:
                    self.violations.append(f"{name} without its entry")
            case "inbox":
                if not any(one.endswith("/manifest.dsse.json") for one in self.there):
                    self.violations.append(f"{name} without a manifest")
        self.there.add(name)
        self.done.append(kind(name))

    def remembered(self, known: Known) -> None:
        if known.checkpoint and f"ledger/checkpoints/{known.checkpoint.size}" not in self.there:
            self.violations.append(f"{known.checkpoint.size} is remembered, and is not there")
        self.done.append("memory")

    @contextmanager
    def __call__(self) -> Iterator[None]:
        real_put, real_write = LocalStore.put, Remembered._write

        def put(store: LocalStore, name: str, data: bytes) -> None:
            def action() -> None:
                real_put(store, name, data)
                self.put(name, data)

            self.take(kind(name), action)

        def write(memory: Remembered, path: str, data: bytes) -> None:
            def action() -> None:
                real_write(memory, path, data)
                self.remembered(Known.read(data, path))

            self.take("memory", action)

        with mock.patch.object(LocalStore, "put", put), mock.patch.object(Remembered, "_write", write):
            yield


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Two entries have numbers, a third waits in the inbox."""
    home = make_home(tmp_path / "site", "one")
    for _ in range(2):
        vault = seal(home, write_core(tmp_path / "vmcore", 16))
        assert home.call("custody", "record", vault, "received").code == 0
    seal(home, tmp_path / "vmcore")
    return home


def record(home: Home, first: str = "", second: str = "") -> Watched:
    watched = Watched(home.path / "store", first, second)
    vault = next(home.vaults.iterdir()).name
    with watched():
        home.call("custody", "record", vault, "moved")
    return watched


def test_the_order_as_it_is(home: Home) -> None:
    watched = record(home)
    assert watched.violations == []
    assert watched.done == ["entries", "entries", "sequenced", "tile", "checkpoints", "memory"]


def test_a_capture_s_entry_comes_last(home: Home, tmp_path: Path) -> None:
    watched = Watched(home.path / "store")
    watched.there = {name for name in watched.there if kind(name) != "manifest"}
    with watched():
        seal(home, tmp_path / "vmcore")
    assert watched.violations == []
    assert watched.done[-1] == "inbox"
    assert "manifest" in watched.done


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ("entries", "checkpoints", "without ledger/entries/"),
        ("entries", "sequenced", "without its entry"),
        ("checkpoints", "memory", "is remembered, and is not there"),
    ],
)
def test_two_steps_swapped(home: Home, first: str, second: str, says: str, record_proof: Callable[[str], None]) -> None:
    """The earlier one taken after the later one, its caller told that it was done: found, as what it is."""
    watched = record(home, first, second)
    assert any(says in one for one in watched.violations), (watched.violations, watched.done)
    record_proof(f"ledger: {first} after {second}: found ({watched.violations[0]})")
