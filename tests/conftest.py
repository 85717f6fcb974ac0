"""Fixtures for all tests, hypothesis settings that do not measure time, and the counted proofs at the end of a run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "dumpvault", deadline=None, max_examples=60, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("dumpvault")

# A run that was started in the background ignores SIGINT, and so would the commands that it starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

_PROOFS = pytest.StashKey[list[str]]()


@pytest.fixture
def record_proof(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Print a line in the summary of the run: what was tried, how often, what came of it."""
    return request.config.stash.setdefault(_PROOFS, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    proofs = config.stash.get(_PROOFS, [])
    if proofs:
        terminalreporter.section("proofs")
        for line in proofs:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def shared(pytestconfig: pytest.Config) -> Path:
    """Real dumps and published vectors that do not travel with the project."""
    path = Path(os.environ.get("DUMPVAULT_SHARED") or pytestconfig.rootpath.parent / "shared")
    if not path.is_dir():
        pytest.skip(f"NO {path}: set DUMPVAULT_SHARED to the folder with the real dumps and the published vectors")
    return path
