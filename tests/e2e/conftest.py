"""A fresh site for each test, and one that the tests of a file share."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path

import pytest

from support.command import COMMAND, Home, make_home, seal
from support.dumps import SealedDump
from support.logged import logged_core


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "site")


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> SealedDump:
    """A whole one, which tests leave as it is."""
    work = tmp_path_factory.mktemp("dump")
    home = make_home(work / "site")
    (work / "vmcore").write_bytes(logged_core())
    return SealedDump(home, seal(home, work / "vmcore", "--region-size", "256K"), work / "vmcore")


@pytest.fixture
def cut_off(home: Home, tmp_path: Path) -> SealedDump:
    """One whose capture found no room for the last regions: headers, notes, log are there, 2 MiB at the end are not."""
    source = tmp_path / "vmcore"
    source.write_bytes(logged_core(tail=os.urandom(2 << 20)))
    done = subprocess.run(
        [COMMAND, "capture", source, "--recipient", "analyst", "--signer", "collector", "--region-size", "256K",
         "--compress", "zstd", "--jobs", "1"],
        env=home.env, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200 << 10, 200 << 10)),
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    return SealedDump(home, next(home.vaults.iterdir()).name, source)
