"""A site whose keys all machines share, places for machines, and what a capture of them frees when nothing disturbs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from support.collector import World
from support.command import Home
from support.outcome import make_home, make_world

Small = Callable[[str], World]


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: a killed process loses nothing that it wrote, synced or not, and what a
    failed sync loses is not to be had from a sound disk."""
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        yield tmp_path
        return
    with TemporaryDirectory(prefix="dumpvault-proofs-", dir=shm) as name:
        yield Path(name)


@pytest.fixture
def small(keys: Home, place: Path) -> Small:
    """Makes machines of which a capture makes few calls: five regions in three commits, with releases."""
    options = ("--region-size", "128K", "--jobs", "1")
    return lambda name: make_world(keys, place / name, 5, 72, *options, commit_bytes=128 << 10, commit_seconds=1.0)


@pytest.fixture
def whole(small: Small) -> set[int]:
    """The pages that an undisturbed capture of a small machine frees."""
    world = small("undisturbed")
    ran = world.capture()
    assert ran.code == 0, ran.err
    assert world.machine.kernel.freed
    return world.machine.kernel.freed
