"""Which key objects count: those that commits name, until events replace or destroy them (spec, section 12.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dumpvault.formats.commit import Commit, Regions, Takeover
from dumpvault.formats.event import Event, KeysObject, Shred
from dumpvault.model import RegionRecord, generation_path, keybag_path, keys_path

__all__ = ["Current", "KeyObject", "holders"]


@dataclass(frozen=True, slots=True)
class KeyObject:
    """``sha256`` is the digest that an event or a takeover gives; None for the first keys object of a commit."""

    name: str
    sha256: str | None


class Current:
    """The key objects of a vault after the events that were applied."""

    def __init__(self, commits: Sequence[Commit]) -> None:
        self._commits = {c.number: c for c in commits if isinstance(c.body, Regions) and c.body.regions}
        attempts = {c.attempt for c in self._commits.values()}
        self.keybags: dict[int, KeyObject] = {
            c.attempt: KeyObject(keybag_path(c.attempt), c.body.keybag)
            for c in commits
            if isinstance(c.body, Takeover) and c.attempt in attempts
        }
        self.keys: dict[int, KeyObject] = {
            n: KeyObject(keys_path(c.attempt, n), None) for n, c in self._commits.items()
        }
        #: By (attempt, index) the number of the event that destroyed the key.
        self.shredded: dict[tuple[int, int], int] = {}
        #: By name, the event that a key object no longer counts from.
        self.superseded: dict[str, int] = {}

    def regions(self, commit: Commit) -> list[RegionRecord]:
        """Those of a commit's regions that have a key left, in its order."""
        assert isinstance(commit.body, Regions)
        return [r for r in commit.body.regions if (commit.attempt, r.index) not in self.shredded]

    def all_regions(self) -> Iterable[tuple[int, int]]:
        """Every committed region, shredded or not."""
        return (region for commit in self._commits.values() for region in holders(commit))

    def apply(self, event: Event) -> None:
        """Take an event into account. Raises ``ValueError`` where it does not fit the chain and the events before."""
        if isinstance(event.body, Shred):
            self._shred(event.number, event.body)

    def _shred(self, number: int, body: Shred) -> None:
        known = set(self.all_regions())
        chosen = set(body.chosen(known)) - (self.shredded.keys() if body.regions is None else set())
        if body.regions is not None and len(chosen) != sum(run.last - run.first + 1 for run in body.regions):
            raise ValueError("shreds a region that no commit names")
        if again := chosen & self.shredded.keys():
            attempt, index = min(again)
            raise ValueError(f"shreds region {index} of attempt {attempt} a second time")
        if not chosen:
            raise ValueError("shreds nothing")
        touched = [c for c in self._commits.values() if not chosen.isdisjoint(holders(c))]
        self.shredded |= dict.fromkeys(chosen, number)
        if body.regions is None:
            if body.keys:
                raise ValueError("keeps keys of a vault of which it shreds everything")
            for held in (self.keybags, self.keys):
                for n in list(held):
                    self._drop(held, n, number)
            return
        expected = [(c.attempt, c.number, bool(self.regions(c))) for c in touched]
        if [(k.attempt, k.commit, k.sha256 is not None) for k in body.keys] != expected:
            raise ValueError("does not list the key objects of the commits that it touches")
        for key in body.keys:
            self._replace(key, number)

    def _replace(self, key: KeysObject, number: int) -> None:
        self._drop(self.keys, key.commit, number)
        if key.sha256 is not None:
            name = generation_path(keys_path(key.attempt, key.commit), number, key.sha256)
            self.keys[key.commit] = KeyObject(name, key.sha256)

    def _drop(self, held: dict[int, KeyObject], n: int, number: int) -> None:
        old = held.pop(n, None)
        if old:
            self.superseded[old.name] = number


def holders(commit: Commit) -> set[tuple[int, int]]:
    """The regions of a commit as (attempt, index)."""
    assert isinstance(commit.body, Regions)
    return {(commit.attempt, record.index) for record in commit.body.regions}
