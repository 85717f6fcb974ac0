"""What is exported: an archive that stock tools check, that says so when it was changed, and that holds nothing secret."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from support.tampered import Scene, make_scene
from support.words import clean


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def archive(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if missing := [tool for tool in ("openssl", "ssh-keygen", "sha256sum") if shutil.which(tool) is None]:
        pytest.skip(f"NO {missing}: the evidence is checked with them")
    path = tmp_path_factory.mktemp("archive") / "evidence.tar"
    ran = scene.home.call("custody", "export", scene.vault, "--to", "the auditor", "-o", path, "--json")
    assert ran.code == 0, clean(ran)
    assert (ran.json["entries"], ran.json["newer"]) == (6, 0)
    return path


@pytest.fixture
def folder(archive: Path, tmp_path: Path) -> Path:
    subprocess.run(["tar", "-xf", archive, "-C", tmp_path], check=True)
    (found,) = tmp_path.iterdir()
    return found


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    """The script in the archive, with nothing of ours in reach."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(["sh", folder / "check.sh"], env=env, capture_output=True, text=True, check=False)


def test_stock_tools_check_it(scene: Scene, folder: Path) -> None:
    done = check(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("signature good") == 6
    for event in ("collected", "opened", "closed", "verified", "rewrapped", "exported"):
        assert f": {event}, 20" in done.stdout
    assert "eve: had seen the first 2 entries by 20" in done.stdout
    assert done.stdout.endswith("all of it holds\n")
    readme = (folder / "README.txt").read_text()
    for words in (scene.vault, scene.origin, "SHA256:", "What it does not show"):
        assert words in readme
    assert max(map(len, readme.splitlines())) <= 110


def test_it_holds_nothing_that_opens(scene: Scene, folder: Path) -> None:
    """No sealed region, no wrapped key, nothing of the other vault."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert not [name for name in names if name.split("/")[1:2] in (["regions"], ["keys"], ["keybag"])]
    assert not [name for name in names if scene.other in (folder / name).read_text(errors="replace")]


@pytest.mark.parametrize("resealed", [False, True], ids=["as found", "with new sums"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vault/manifest.json", "manifest"), ("vault/manifest.dsse.json", "manifest"), ("checkpoint", "checkpoint"),
        ("proofs/PROOF", "proofs/"), ("keys/log.pem", "checkpoint"), ("witnesses/WITNESS/signed", "witnesses/"),
    ],
)  # fmt: skip
def test_a_changed_file_is_named(folder: Path, name: str, says: str, *, resealed: bool) -> None:
    """By the sums; and where somebody made new sums as well, by the signatures."""
    proof = sorted((folder / "proofs").iterdir())[-1].name
    (witness,) = os.listdir(folder / "witnesses")
    path = folder / name.replace("PROOF", proof).replace("WITNESS", witness)
    data = bytearray(path.read_bytes())
    at = len(data) // 2
    data[at] = ord("b") if data[at] != ord("b") else ord("c")
    path.write_bytes(data)
    if resealed:
        lines = (folder / "SHA256SUMS").read_text().splitlines()
        names = [line.split("  ", 1)[1] for line in lines]
        sums = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, text=True, check=True).stdout
        (folder / "SHA256SUMS").write_text(sums)
    done = check(folder)
    assert done.returncode == 1, done.stdout
    assert "FAILED" in done.stderr
    assert (says in done.stderr) or not resealed
    assert "all of it holds" not in done.stdout


def test_a_key_that_has_ended(scene: Scene, tmp_path: Path) -> None:
    """What a collector's key signed before its end still checks, and the page says what that rests on."""
    scene = scene.copied(tmp_path / "site")
    time.sleep(1.1)
    assert scene.home.call("keys", "rotate", "collector", "--unprotected").code == 0
    ran = scene.home.call("custody", "export", scene.vault, "-o", tmp_path / "e.tar")
    assert ran.code == 0, clean(ran)
    subprocess.run(["tar", "-xf", tmp_path / "e.tar", "-C", tmp_path], check=True)
    folder = next(tmp_path.glob("evidence-*"))
    done = check(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "valid before 20" in (folder / "README.txt").read_text()
    assert "valid-before" not in (folder / "keys/allowed_signers").read_text()


def test_the_script_is_clean(folder: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("NO shellcheck COMMAND")
    done = subprocess.run(["shellcheck", folder / "check.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_case_uco(scene: Scene, folder: Path) -> None:
    """One action for each entry, with actor, tool, time and evidence; and conforming, where CASE's own validator is here."""
    path = folder / "provenance.jsonld"
    graph = json.loads(path.read_text())["@graph"]
    actions = [node for node in graph if node["@type"] == "case-investigation:InvestigativeAction"]
    assert [node["uco-core:name"] for node in actions] == [
        "collected", "opened", "closed", "verified", "rewrapped", "exported",
    ]  # fmt: skip
    known = {node["@id"] for node in graph}
    for node in actions:
        refs = [node["uco-action:performer"], *node["uco-action:instrument"], *node["uco-action:result"]]
        assert {ref["@id"] for ref in refs} <= known
    assert actions[1]["uco-core:description"] == "it died; INC-7"
    if tool := shutil.which("case_validate"):
        done = subprocess.run([tool, "--allow-info", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_what_is_not_exported(scene: Scene, tmp_path: Path) -> None:
    """No manifest, no checkpoint, a file that is there: refused by name, and no file is made."""
    out = tmp_path / "there"
    out.write_text("kept")
    ran = scene.home.call("custody", "export", scene.vault, "-o", out)
    assert (ran.code, out.read_text()) == (1, "kept")
    changed = scene.copied(tmp_path / "site")
    (changed.body / "manifest.dsse.json").unlink()
    ran = changed.home.call("custody", "export", changed.vault, "-o", tmp_path / "none")
    assert ran.code in (3, 10), clean(ran)
    assert not (tmp_path / "none").exists()
