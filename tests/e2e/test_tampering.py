"""Every object of a vault removed, flipped, cut, extended and exchanged: verify and open refuse, and name the object."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.command import Home, make_home, seal
from support.vmcore import write_core

FLIPS = 20
CASES: dict[str, int] = {}


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Path, Path]:
    """A small vault of several regions and commits, a second one, and the home that can open both."""
    work = tmp_path_factory.mktemp("tampering")
    home = make_home(work / "site")
    small = work / "policy.toml"
    policy = (Path(__file__).parents[2] / "policies" / "baseline.toml").read_text()
    small.write_text(policy.replace("mib = 64\nseconds", "mib = 1\nseconds"))
    first = seal(home, write_core(work / "one", 700, seed=1), "--region-size", "512K", "--policy", small)
    second = seal(home, write_core(work / "two", 700, seed=2), "--region-size", "512K", "--policy", small)
    assert len(list((home.vaults / first / "commits").iterdir())) >= 3
    for path in home.vaults.rglob("*"):
        if path.is_file():
            path.chmod(0o600)
    return home, home.vaults / first, home.vaults / second


def objects(vault: Path) -> list[Path]:
    return sorted(path for path in vault.rglob("*") if path.is_file())


def neighbour(path: Path) -> Path:
    """Another object of the same folder, else another of the vault's final ones."""
    others = sorted(p for p in path.parent.iterdir() if p.is_file() and p != path)
    if others:
        after = [p for p in others if p > path]
        return (after or others)[0]
    return next(p for p in objects(path.parents[1]) if p != path)


def attacks(path: Path, foreign: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """What can be done to one object with a text editor and bad intentions."""
    data = path.read_bytes()
    rng = random.Random(str(path.name))

    def flip(bit: int) -> None:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)

    def swap(other: Path) -> None:
        theirs = other.read_bytes()
        other.write_bytes(data)
        path.write_bytes(theirs)

    yield "removed", path.unlink
    for bit in (rng.randrange(8 * len(data)) for _ in range(FLIPS)):
        yield f"bit {bit} flipped", lambda bit=bit: flip(bit)
    yield "cut in half", lambda: path.write_bytes(data[: len(data) // 2])
    yield "cut by one byte", lambda: path.write_bytes(data[:-1])
    yield "emptied", lambda: path.write_bytes(b"")
    yield "extended", lambda: path.write_bytes(data + b"\n")
    yield "swapped with its neighbour", lambda: swap(neighbour(path))
    yield "replaced by the other vault's", lambda: path.write_bytes(foreign.read_bytes())


def refused(home: Home, vault: Path, name: str, what: str, tmp_path: Path) -> None:
    """Both commands refuse with 10 or 3, name the object (of two that were swapped, either), and open leaves no file."""
    names = [name]
    if what.startswith("swapped"):
        names.append(str(neighbour(vault / name).relative_to(vault)))
    output = tmp_path / "output"
    checked = home.call("verify", vault.name)
    opened = home.call("open", vault.name, "-o", output)
    for command, ran in (("verify", checked), ("open", opened)):
        assert ran.code in (3, 10), f"{command}, {name} {what}: exit {ran.code}\n{ran.out}{ran.err}"
        assert any(n in ran.err for n in names), f"{command}, {name} {what}: not named in\n{ran.err}"
        CASES[command] = CASES.get(command, 0) + 1
    assert list(tmp_path.iterdir()) == [], f"{name} {what}: something was left behind"


def test_every_object_every_attack(
    sealed: tuple[Home, Path, Path], tmp_path: Path, record_proof: Callable[[str], None]
) -> None:
    """No change of any object passes: neither as intact nor with an output file."""
    home, vault, other = sealed
    saved = vault.with_name("saved")
    names = [str(path.relative_to(vault)) for path in objects(vault)]
    for name in names:
        foreign = other / name
        for what, attack in attacks(vault / name, foreign if foreign.exists() else other / "vault.dsse.json"):
            shutil.copytree(vault, saved)
            attack()
            refused(home, vault, name, what, tmp_path)
            shutil.rmtree(vault)
            saved.rename(vault)
    assert home.call("verify", vault.name).code == 0
    assert CASES["verify"] == CASES["open"] >= len(names) * (FLIPS + 5)
    record_proof(f"tampering: {len(names)} objects, {CASES['verify']} cases, each refused by verify and by open")


def test_foreign_objects_are_reported_and_change_nothing(sealed: tuple[Home, Path, Path], tmp_path: Path) -> None:
    """One junk object on a WORM store must not condemn a vault."""
    home, vault, _ = sealed
    junk = ["junk", "regions/1/9999.sealed", "commits/9999.dsse.json", "keybag/7.json", "events/5.dsse.json"]
    for name in junk:
        (vault / name).parent.mkdir(exist_ok=True)
        (vault / name).write_bytes(b"junk")
    os.truncate(vault / "events/5.dsse.json", (8 << 20) + 1)
    report = home.call("verify", vault.name, "--json")
    assert report.code == 0, report.err
    assert report.json["foreign"] == sorted(junk)
    assert home.call("open", vault.name, "-o", tmp_path / "copy").code == 0
    for name in junk:
        (vault / name).unlink()


def test_a_commit_past_the_manifest_is_foreign(sealed: tuple[Home, Path, Path]) -> None:
    """The manifest's put is the end of the capture: what is numbered beyond its head counts for nothing."""
    home, vault, other = sealed
    head = home.call("verify", vault.name, "--json").json["commits"]
    beyond = vault / "commits" / f"{head}.dsse.json"
    shutil.copy(other / "commits" / "1.dsse.json", beyond)
    report = home.call("verify", vault.name, "--json")
    assert (report.code, report.json["foreign"]) == (0, [f"commits/{head}.dsse.json"])
    beyond.unlink()
