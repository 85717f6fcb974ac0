"""The ledger is read as dumpvault reads it by a reader that shares no code with it: tampered case by case, and at random."""

from __future__ import annotations

import ast
import json
import random
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dumpvault.formats.checkpoint import Checkpoint
from dumpvault.formats.entry import Seen
from dumpvault.formats.note import cosign
from support.command import Home
from support.tampered import CASES, Case, Scene, make_scene
from vectors import ledger_reader as reader

# Cases in which the program and the page say different things, with the reason.


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("ledger"))


def remembered(home: Home) -> Iterator[tuple[str, int, str]]:
    """What the home keeps of ledgers that it has seen in its store."""
    for path in (home.path / "ledgers").glob("*.json"):
        memory = json.loads(path.read_text())
        if str(home.path / "store") in memory["stores"]:
            yield memory["origin"], int(memory["checkpoint"]["size"], 16), memory["checkpoint"]["root"]


def brought(note: Path) -> tuple[str, int, str]:
    """A checkpoint that an auditor kept."""
    origin, size, root = note.read_text().split("\n")[:3]
    return origin, int(size), reader.base64.b64decode(root).hex()


def read(home: Home, *kept: tuple[str, int, str]) -> reader.Result:
    """What is refused failed."""
    revoked = home.path / "keys/revoked_keys"
    signers, text = (home.path / "keys/allowed_signers").read_text(), revoked.read_text() if revoked.exists() else ""
    try:
        return reader.read(home.path / "store", signers, text, datetime.now(UTC), [*remembered(home), *kept])
    except reader.Refused as error:
        return reader.Result(verdict="failed", others=[str(error)])


def agree(result: reader.Result, told: Any) -> None:
    """Both readers say the same of a ledger."""
    about = (told, result)
    if "error" in told:
        assert (result.verdict, told["error"]["exit_code"]) == ("failed", 10), about
        return
    assert result.verdict == told["verdict"], about
    assert sorted(result.flagged) == [one["entry"] for one in told["flagged"]], about
    assert sorted(result.doubtful) == [one["entry"] for one in told["doubtful"]], about
    assert all(one["why"].startswith(result.doubtful[one["entry"]]) for one in told["doubtful"]), about
    assert result.entries == told["entries"], about
    assert sorted(result.cosigned) == sorted(one["size"] for one in told["cosigned"]), about
    checkpoint = told["checkpoint"] and (told["checkpoint"]["size"], told["checkpoint"]["root"])
    assert result.checkpoint == checkpoint, about


def test_shares_no_code() -> None:
    """With dumpvault, that is."""
    tree = ast.parse(Path(reader.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(name.split(".")[0] in ("dumpvault", "support") for name in names)


def test_nothing_was_done(scene: Scene) -> None:
    result = read(scene.home, brought(scene.since))
    agree(result, scene.home.call("custody", "verify", "--json").json)
    assert (result.verdict, result.flagged, result.doubtful, result.others) == ("intact", {}, {}, [])
    assert result.cosigned


@pytest.mark.parametrize("case", CASES, ids=[f"{number}-{case.what}" for number, case in enumerate(CASES)])
def test_what_is_told(scene: Scene, tmp_path: Path, case: Case) -> None:
    scene = scene.copied(tmp_path / "site")
    case.change(scene)
    result = read(scene.home, *([brought(scene.since)] if case.since else []))
    assert result.verdict == case.custody, result
    more = ("--since", scene.since) if case.since else ()
    agree(result, scene.home.call("custody", "verify", "--json", *more).json)


@pytest.mark.parametrize("seed", range(4))
def test_one_byte(scene: Scene, tmp_path: Path, seed: int) -> None:
    """Of any object of the ledger, in a home that remembers it and in one that does not."""
    scene, chance = scene.copied(tmp_path / "site"), random.Random(seed)
    objects = sorted(path for path in scene.root.rglob("*") if path.is_file())
    shutil.copytree(scene.home.path / "ledgers", tmp_path / "ledgers")
    for _ in range(25):
        path = chance.choice(objects)
        before = path.read_bytes()
        data = bytearray(before)
        data[chance.randrange(len(data))] ^= chance.randrange(1, 256)
        path.chmod(0o600)
        path.write_bytes(data)
        # Also what the program took up of the ledger as it was before.
        shutil.rmtree(scene.home.path / "ledgers", ignore_errors=True)
        if chance.random() < 0.5:
            shutil.copytree(tmp_path / "ledgers", scene.home.path / "ledgers")
        result = read(scene.home)
        agree(result, scene.home.call("custody", "verify", "--json").json)
        path.write_bytes(before)


@pytest.mark.parametrize("seed", range(12))
def test_histories(scene: Scene, tmp_path: Path, seed: int) -> None:
    """Entries by keys that end, with clocks that lie, seen and cosigned: whose time is doubtful, and which ones count."""
    scene, chance = scene.copied(tmp_path / "site"), random.Random(seed)
    scene.forget()
    for folder in ("entries", "checkpoints", "cosignatures", "tile"):
        shutil.rmtree(scene.root / folder)
    (scene.root / "entries").mkdir()
    (scene.root / "checkpoints").mkdir()
    start = datetime.now(UTC) - timedelta(days=10)
    for number in range(chance.randint(3, 12)):
        keys = chance.sample(["actor", "former", "officer", "thief", "stranger"], chance.choice([1, 1, 1, 2]))
        more: dict[str, Any] = {
            "time": moment(start, chance.choice([number * 0.7, number * 0.7, chance.uniform(0, 12)]))
        }
        if number and chance.random() < 0.7:
            size = chance.randint(0, number)
            more["seen"] = Seen(size, scene.root_of(size).hex())
        if chance.random() < 0.2:
            keys, more["event"], more["role"] = ["collector"], "collected", "collector"
        scene.written(*keys, **more)
        if chance.random() < 0.4:
            size, at = scene.size, start + timedelta(days=chance.choice([number * 0.7, chance.uniform(0, 11)]))
            scene.sign_checkpoint(size, scene.root_of(size))
            text = Checkpoint(scene.origin, size, scene.root_of(size)).text
            line = cosign(text, "eve", scene.key("eve"), int(at.timestamp()))
            (scene.root / f"cosignatures/{size}").mkdir(parents=True)
            (scene.root / f"cosignatures/{size}/{line.id.hex()}").write_text(line.text)
    signers, ends = scene.home.path / "keys/allowed_signers", re.sub("[-:T]", "", moment(start, chance.uniform(0, 11)))
    signers.write_text(signers.read_text().replace("20200101000000Z", ends))
    agree(read(scene.home), scene.home.call("custody", "verify", "--json").json)


def moment(start: datetime, days: float) -> str:
    return (start + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
