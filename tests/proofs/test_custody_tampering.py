"""Every case of the table: what was done to ledger and vault, and what the two verifications say of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.tampered import CASES, Case, Scene, make_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("tampered"))


def test_nothing_was_done(scene: Scene) -> None:
    """So that what the table says comes of what was done."""
    for words in (("custody", "verify", "--strict", "--since", scene.since), ("verify", scene.vault)):
        ran = scene.home.call(*words, "--json")
        assert (ran.code, ran.json["verdict"]) == (0, "intact"), ran.out


@pytest.mark.parametrize("case", CASES, ids=[f"{number}-{case.what}" for number, case in enumerate(CASES)])
def test_what_is_told(scene: Scene, tmp_path: Path, case: Case) -> None:
    scene = scene.copied(tmp_path / "site")
    case.change(scene)
    more = ("--since", scene.since) if case.since else ()
    custody = scene.home.call("custody", "verify", "--json", *more)
    vault = scene.home.call("verify", scene.vault, "--json")
    told = [_verdict(custody.json), _verdict(vault.json)]
    assert told == [case.custody, case.vault], custody.out + vault.out
    codes = {"intact": 0, "incomplete": 3, "failed": 10}
    assert [custody.code, vault.code] == [codes[case.custody], codes[case.vault]]
    assert case.says in custody.out + vault.out, custody.out + vault.out
    noted = custody.json.get("flagged") or custody.json.get("doubtful")
    if case.custody == "intact" and noted:
        assert scene.home.call("custody", "verify", "--strict").code == 10


def _verdict(told: dict[str, object]) -> object:
    """What could not even be begun with failed."""
    return "failed" if "error" in told else told["verdict"]


def test_how_many(record_proof: Callable[[str], None]) -> None:
    assert len(CASES) >= 40
    record_proof(f"tampering: {len(CASES)} cases on ledger and vault, each with its verdict")
