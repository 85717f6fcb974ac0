"""Two of three custodians, each in a home of their own, a vault under their control, a request and their answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.custody import (
    CUSTODIANS,
    Sites,
    make_sites,
    onetime,
)
from support.vmcore import write_core


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Sites:
    return make_sites(tmp_path_factory.mktemp("sites"))


@pytest.fixture(scope="module")
def source(sites: Sites) -> Path:
    return write_core(sites.path / "vmcore")


@pytest.fixture(scope="module")
def vault(sites: Sites, source: Path) -> str:
    return sites.capture(source)


@pytest.fixture(scope="module")
def asked(sites: Sites, vault: str) -> Path:
    """A request that no test uses up, and that all of them may try."""
    return sites.request(vault)


@pytest.fixture(scope="module")
def answers(sites: Sites, asked: Path) -> dict[str, Path]:
    return {who: sites.approve(asked, who) for who in CUSTODIANS}


@pytest.fixture
def untouched(sites: Sites, asked: Path) -> Iterator[None]:
    """A refusal opens nothing, writes nothing, and leaves the request open."""
    (sites.path / "copy").unlink(missing_ok=True)
    yield
    assert not (sites.path / "copy").exists()
    assert sorted(os.listdir(onetime(sites, asked))) == ["request.dsse.json", "x25519.key"]
