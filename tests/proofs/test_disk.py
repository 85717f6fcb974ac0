"""The instrument itself: the disk in memory keeps the contract of every store, and its crash states are the legal ones."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest

from dumpvault.model import Store
from dumpvault.stages.store import open_store
from store_contract import Again, StoreContract
from support.calls import DISK, Calls, World, installed
from support.disk import ROOT, SECTOR, Disk, File, Folder
from support.machine import Machine, standard_layout


@pytest.fixture
def calls() -> Iterator[Calls]:
    world = World(Disk(), Disk(), Machine(standard_layout(32)))
    with installed(Calls("/vmcore", "/release_region", "/release_mem", world)) as found:
        yield found


@pytest.fixture
def store(calls: Calls) -> Store:
    return open_store(f"{DISK}/store", create=True)


@pytest.fixture
def again() -> Again:
    return lambda: open_store(f"{DISK}/store")


class TestDiskInMemory(StoreContract):
    """What is proved on it holds for a store that does what it must."""


def states(disk: Disk, bound: int = 1000) -> list[dict[str, bytes]]:
    return [state.tree() for state in disk.crash_states(random.Random(1), bound)]


def test_a_name_is_lost_without_its_directorys_sync() -> None:
    """Entry there or not, bytes whole, torn or gone, each on its own; after both syncs, one state is left."""
    disk = Disk()
    node = disk.make(ROOT, "f", File())
    disk.write(node, 0, b"x" * (SECTOR + 1))
    found = states(disk)
    assert {"": b""} in found
    for data in (b"", b"x" * (SECTOR + 1), b"x" * SECTOR, bytes(SECTOR) + b"x", bytes(SECTOR + 1)):
        assert {"f": data} in found
    assert len(found) == 6
    disk.sync(node)
    assert states(disk) == [{"": b""}, {"f": b"x" * (SECTOR + 1)}]
    disk.sync(ROOT)
    assert states(disk) == [{"f": b"x" * (SECTOR + 1)}]


def test_a_whole_path_is_needed() -> None:
    """What was synced below a directory whose own name was not is gone."""
    disk = Disk()
    above = disk.make(ROOT, "a", Folder())
    node = disk.make(above, "f", File())
    disk.write(node, 0, b"x")
    disk.sync(node)
    disk.sync(above)
    assert states(disk) == [{"": b""}, {"a/f": b"x"}]


def test_a_link_and_an_unlink_are_lost_on_their_own() -> None:
    """Of two changes of one directory each may be lost without the other."""
    disk = Disk()
    node = disk.make(ROOT, "t", File())
    disk.sync(ROOT)
    disk.link(node, ROOT, "f")
    disk.unlink(ROOT, "t")
    assert sorted(map(sorted, states(disk))) == [[""], ["f"], ["f", "t"], ["t"]]


def test_beyond_the_bound_the_extremes_are_there() -> None:
    """With more to decide than the bound allows: all lost, all kept, each one lost, each one kept, and no more than it."""
    disk = Disk()
    for i in range(12):
        disk.make(ROOT, f"{i}", File())
    assert disk.tries() == 4096
    found = [frozenset(tree) - {""} for tree in states(disk, 64)]
    everything = frozenset(map(str, range(12)))
    wanted = {frozenset(), everything} | {frozenset({n}) for n in everything} | {everything - {n} for n in everything}
    assert wanted <= set(found)
    assert len(set(found)) == len(found) <= 64


def test_copies_and_unsynced_disks() -> None:
    """settled is what is seen, made safe; unsynced is what is seen, nothing of it safe; neither touches the original."""
    disk = Disk()
    node = disk.make(ROOT, "f", File())
    disk.write(node, 0, b"x")
    assert disk.settled().power_lost().tree() == disk.unsynced().tree() == {"f": b"x"}
    assert disk.settled().unsynced().power_lost().tree() == disk.power_lost().tree() == {"": b""}


def test_every_step_of_a_put_is_recorded(calls: Calls, store: Store) -> None:
    """In the order in which tests/unit/test_local_store.py sees them on a real kernel."""
    store.put("vaults/a", b"first")
    before = len(calls.moments)
    store.put("vaults/b", bytes(5000))
    steps = [re.sub(r"\.[0-9a-f]{16}\.", ".TMP.", moment.step) for moment in calls.moments[before:]]
    assert steps == [
        "create .b.TMP.tmp",
        "write 4096",
        "write 904",
        "fsync .b.TMP.tmp",
        "link b",
        "unlink .b.TMP.tmp",
        f"fsync {DISK}/store/vaults",
    ]
    assert [len(list(m.world.disk.crash_states(random.Random(1), 1000))) for m in calls.moments[-3:]] == [4, 4, 1]
