"""What must hold of a captured machine and its vault, read from the store and the machine, not from what a capture says."""

from __future__ import annotations

import base64
import json
from collections import Counter
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from dumpvault.ranges import Ranges
from support.collector import World
from support.command import Home, make_home
from support.machine import Machine, standard_layout

__all__ = [
    "Commits",
    "check_end",
    "check_openable",
    "check_release",
    "commits_of",
    "finished",
    "make_home",
    "make_world",
    "only_vault",
    "releases_of",
]

Commits = list[dict[str, Any]]
Span = tuple[int, int]


def make_world(keys: Home, folder: Path, seed: int, pages: int, *options: object, **bounds: Any) -> World:
    """A machine of so many pages, with a home of its own that has the keys of ``keys``. Each release is checked."""
    home = Home(folder / "site")
    home.path.mkdir(parents=True)
    for name in ("keys", "private", "config.toml"):
        (home.path / name).symlink_to(keys.path / name)
    machine = Machine(standard_layout(pages), seed)
    made = World(home, machine, folder / "machine", *options, **bounds)
    machine.on_release = lambda start, length, freed: check_release(made, (start, length), freed)
    return made


def commits_of(vault: Path) -> Commits:
    """The predicates of a vault's commits, in order, unverified."""
    found: Commits = []
    while (path := vault / f"commits/{len(found)}.dsse.json").exists():
        found.append(_predicate(path))
    return found


@lru_cache(4096)
def _predicate(path: Path) -> dict[str, Any]:
    """Of a commit, which never changes."""
    found: dict[str, Any] = json.loads(base64.b64decode(json.loads(path.read_bytes())["payload"]))["predicate"]
    return found


def releases_of(commits: Commits) -> dict[Span, tuple[Span, str]]:
    """Every authorised release by commit and place: (start, length), and its signed outcome or an empty string."""
    found: dict[Span, tuple[Span, str]] = {}
    for commit in commits:
        for i, release in enumerate(commit["body"].get("releases", ())):
            found[commit["number"], i] = ((int(release["start"], 16), int(release["length"], 16)), "")
        for outcome in commit["body"].get("outcomes", ()):
            key = outcome["commit"], outcome["release"]
            assert not found[key][1], "an outcome is told once"
            found[key] = (found[key][0], outcome["result"])
    return found


def durable_in(vault: Path, commits: Commits) -> Ranges:
    """The file ranges of regions that commits name and whose objects are all there, less what could not be read."""
    found, holes = [], []
    for commit in commits:
        keys = vault / f"keys/{commit['attempt']}/{commit['number']}.json"
        for record in commit["body"].get("regions", ()):
            body = vault / f"regions/{commit['attempt']}/{record['index']}.sealed"
            if keys.exists() and body.exists():
                found.append(_span(record))
                holes += map(_span, record["unreadable"])
    return Ranges(found) - Ranges(holes)


def _span(record: dict[str, str]) -> Span:
    offset = int(record["offset"], 16)
    return offset, offset + int(record["length"], 16)


def only_vault(world: World) -> Path | None:
    """The one vault of this machine, or None: a resumed capture never begins another."""
    vaults = [path.parent for path in world.home.vaults.glob("*/vault.dsse.json")]
    assert len(vaults) <= 1, "a resumed capture began a second vault"
    return vaults[0] if vaults else None


def finished(vault: Path | None) -> bool:
    return vault is not None and (vault / "manifest.dsse.json").exists()


def check_release(world: World, release: Span, freed: list[int]) -> None:
    """Before memory is overwritten: this very release is authorised in the store, and all it takes away is durable there."""
    vault = only_vault(world)
    assert vault
    commits = commits_of(vault)
    authorised = [known for known, _ in releases_of(commits).values()]
    assert authorised.count(release) == 1, "each release is authorised by exactly one durable commit"
    durable = durable_in(vault, commits)
    for page in freed:
        lost = world.machine.from_page(page) - durable
        assert not lost, f"page {page:#x} was freed before {lost} was durable"


def check_openable(world: World, vault: Path) -> None:
    """Invariant A: every byte that was released so far opens from the store alone, as it was."""
    machine = world.machine
    gone = Ranges(pair for page in machine.kernel.freed for pair in machine.from_page(page))
    if not gone:
        return
    output = world.folder / "partial"
    ran = world.home.call("open", vault.name, "-o", output, "--partial", "--force")
    assert ran.code in (0, 3), ran.err
    data = output.read_bytes()
    for start, end in gone:
        assert data[start:end] == machine.pristine[start:end]


def check_end(world: World, whole: set[int] | None = None) -> Counter[str]:
    """What must hold once the dump is whole. ``whole`` are the pages that a capture frees which nothing disturbs."""
    vault, machine = only_vault(world), world.machine
    kernel, page = machine.kernel, machine.layout.page
    assert vault
    verified = world.home.call("verify", vault.name)
    assert verified.code == 0, verified.err + verified.out
    output = world.folder / "opened"
    opened = world.home.call("open", vault.name, "-o", output)
    assert opened.code == 0, opened.err
    assert output.read_bytes() == machine.pristine
    assert not kernel.double_released
    assert not kernel.runaway
    assert not kernel.rejected and not kernel.below and not kernel.beyond
    commits = commits_of(vault)
    releases = releases_of(commits)
    unknown = {key: span for key, (span, outcome) in releases.items() if outcome == "unknown"}
    excused = {n for start, length in unknown.values() for n in range(start // page, -(-(start + length) // page) + 1)}
    if whole is None:
        whole = kernel.freed
    kept = whole - kernel.freed
    assert kept <= excused, f"pages {sorted(kept - excused)} were neither freed nor reported"
    assert not kernel.freed - whole, "pages were freed that an undisturbed capture keeps"
    done = set(kernel.writes)
    for span, outcome in releases.values():
        assert outcome in ("released", "unknown"), f"{span} is {outcome or 'untold'}"
        assert outcome != "released" or span in done
    begun = _begun(world, vault.name)
    return Counter(
        attempts=sum(commit["kind"] == "takeover" for commit in commits),
        commits=len(commits),
        releases=len(releases),
        unknown=len(unknown),
        happened=sum(span in done for span in unknown.values()),
        never_begun=sum(key not in begun for key in unknown),
        kept=len(kept),
    )


def _begun(world: World, vault: str) -> set[Span]:
    """Which releases the journal notes as begun."""
    begun = set()
    for line in (line for path in (world.home.path / "run").iterdir() for line in path.read_text().split("\n")):
        with suppress(ValueError):  # a torn line
            entry = json.loads(line)
            assert entry.get("vault", vault) == vault
            if "of" in entry:
                begun.add((entry["of"][0], entry["of"][1]))
    return begun
