"""What every test may ask for: the folder of published vectors, and hypothesis settings that do not measure time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "dumpvault", deadline=None, max_examples=60, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("dumpvault")


@pytest.fixture(scope="session")
def shared(request: pytest.FixtureRequest) -> Path:
    """The folder ``shared`` beside the checkout, or the one that DUMPVAULT_SHARED names; skips where there is none."""
    named = os.environ.get("DUMPVAULT_SHARED")
    folder = Path(named) if named else Path(request.config.rootpath).parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"NOT TESTED: no published vectors at {folder}; name their folder in DUMPVAULT_SHARED")
    return folder
