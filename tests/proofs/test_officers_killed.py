"""The installed command, killed inside a rewrap and a shred by SIGKILL, at syncs and deletions chosen by number."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from support.command import COMMAND
from support.officers import Case, certificate_path, make_case

#: So many of the calls of a run are killed at, first and last among them.
KILLS = 5
Proof = Callable[[str], None]
REWRAP, SHRED = (
    ("rewrap", "--remove", "analyst", "--add", "bob"),
    ("shred", "--regions", "2-3", "--reason", "test", "--yes"),
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Case:
    if shutil.which("strace") is None:
        pytest.skip("NO strace COMMAND: it is what kills at a chosen call")
    case = make_case(tmp_path_factory.mktemp("officers"))
    assert case.home.call("keys", "new", "recipient", "bob", "--unprotected").code == 0
    return case


def traced(case: Case, words: Sequence[str], *options: str) -> int:
    """Run a command of the officer under strace: its exit code, negative if it was killed."""
    more = ["-o", str(certificate_path(case.home))] if words[0] == "shred" else []
    command = ["strace", "-qq", "-f", *options, str(COMMAND), words[0], case.vault.name, *words[1:], *more]
    return subprocess.run(command, env=case.home.env, capture_output=True, check=False).returncode


def calls_of(case: Case, words: Sequence[str], log: Path) -> dict[str, int]:
    """How often a whole run syncs and deletes."""
    assert traced(case, words, "-e", "trace=fsync,unlink", "-o", str(log)) == 0
    text = log.read_text()
    return {name: text.count(f" {name}(") for name in ("fsync", "unlink")}


def chosen(count: int) -> list[int]:
    return sorted({1 + round(i * (count - 1) / (KILLS - 1)) for i in range(KILLS)})


def opens(case: Case) -> set[str]:
    """Who opens it bit for bit."""
    return {name for name in ("analyst", "bob") if case.opened("--key", name) == (0, case.source)}


@pytest.mark.parametrize("words", [REWRAP, SHRED], ids=["rewrap", "shred"])
def test_killed(original: Case, tmp_path: Path, words: tuple[str, ...], record_proof: Proof) -> None:
    """Whoever could open before can until the event is there, whoever may after it can from then on; nothing is half
    done, and the same command run again finishes it."""
    counts = calls_of(original.copied(tmp_path / "whole"), words, tmp_path / "log")
    assert counts["fsync"] > KILLS
    kills = done = 0
    for name, count in counts.items():
        for at in chosen(count) if count >= KILLS else range(1, count + 1):
            case = original.copied(tmp_path / f"{name}-{at}")
            code = traced(
                case, words, "-e", f"trace={name}", "-e", f"inject={name}:signal=KILL:when={at}", "-o", "/dev/null"
            )
            kills += code == -9
            told = case.verify()
            assert told["verdict"] == "intact", (name, at, told)
            changed = bool(case.objects("events"))
            done += changed
            if words is REWRAP:
                assert opens(case) == ({"bob"} if changed else {"analyst"}), (name, at)
            else:
                assert case.opened()[0] == (3 if changed else 0), (name, at)
            assert traced(case, words, "-e", "trace=none", "-o", "/dev/null") == 0
            told = case.verify()
            assert (told["verdict"], told["superseded"], told["foreign"]) == ("intact", [], [])
            assert len(case.objects("events")) == 1
            if words is REWRAP:
                assert opens(case) == {"bob"}
            shutil.rmtree(case.home.path)
    assert 0 < done < kills, "killed on either side of the event"
    record_proof(
        f"installed {words[0]} killed {kills} times at its syncs and deletions, {done} of them after its event"
    )
