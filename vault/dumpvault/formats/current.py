"""Which key objects count: those that commits name, until events replace or destroy them (spec, section 12.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dumpvault.formats.commit import Commit, Regions, Takeover
from dumpvault.formats.event import Event, Granted, KeysObject, Rewrap, Shred, expand
from dumpvault.formats.header import Header, Listed
from dumpvault.formats.sharing import Commitments, component_count
from dumpvault.model import RegionRecord, generation_path, keybag_path, keys_path

__all__ = ["Current", "KeyObject", "holders"]


@dataclass(frozen=True, slots=True)
class KeyObject:
    """``sha256`` is the digest that an event or a takeover gives; None for the first keys object of a commit.

    ``rewrapped`` says that its wrapped keys are not those that the commit signed, but under a newer vault key;
    ``shares`` are what is committed to of a keybag of shares.
    """

    name: str
    sha256: str | None
    rewrapped: bool = False
    shares: Commitments | None = None


class Current:
    """The key objects of a vault after the events that were applied."""

    def __init__(self, commits: Sequence[Commit]) -> None:
        self._commits = {c.number: c for c in commits if isinstance(c.body, Regions) and c.body.regions}
        attempts = {c.attempt for c in self._commits.values()}
        self.keybags: dict[int, KeyObject] = {
            c.attempt: KeyObject(keybag_path(c.attempt), c.body.keybag, shares=c.body.shares)
            for c in commits
            if isinstance(c.body, Takeover) and c.attempt in attempts
        }
        self.keys: dict[int, KeyObject] = {
            n: KeyObject(keys_path(c.attempt, n), None) for n, c in self._commits.items()
        }
        #: Who can open, by the last rewrap; None: whom the header names.
        self.recipients: tuple[Listed, ...] | None = None
        #: Under dual control, how many must agree, by the last rewrap; None: what the header says.
        self.quorum: int | None = None
        #: The number of the last rewrap; None: there was none.
        self.rewrap: int | None = None
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

    def apply(self, event: Event, header: Header) -> None:
        """Take an event into account. Raises ``ValueError`` where it does not fit the chain and the events before."""
        if isinstance(event.body, Shred):
            self._shred(event.number, event.body)
        elif isinstance(event.body, Rewrap):
            self._rewrap(event.number, event.body, header)
        elif isinstance(event.body, Granted) and not set(expand(event.body.regions)) <= set(self.all_regions()):
            raise ValueError("grants a region that no commit names")

    def _rewrap(self, number: int, body: Rewrap, header: Header) -> None:
        before = {r.digest for r in self.recipients or header.recipients}
        after = {r.digest for r in body.recipients}
        if len(after) != len(body.recipients):
            raise ValueError("names a recipient twice")
        if [attempt for attempt, _ in body.keybags] != list(self.keybags):
            raise ValueError("does not list the keybag of each attempt that has keys left")
        if (header.quorum is None) != (body.reshared is None):
            raise ValueError("shares the vault keys, or does not, against the header")
        if (before - after or body.reshared) and self.keys and not body.keys:
            what = "shares them anew" if body.reshared else "removes a recipient"
            raise ValueError(f"{what} and leaves the vault keys as they are")
        shares: Sequence[Commitments | None] = [None] * len(body.keybags)
        if body.reshared:
            count, shares = component_count(body.reshared.quorum, len(body.recipients)), body.reshared.shares
            if any(len(one.components) != count for one in body.reshared.shares):
                raise ValueError(f"does not commit to {count} components of each vault key")
        expected = [(self._commits[n].attempt, n, True) for n in self.keys] if body.keys else []
        if [(k.attempt, k.commit, k.sha256 is not None) for k in body.keys] != expected:
            raise ValueError("does not list the keys object of each commit that has keys left")
        for (attempt, sha256), committed in zip(body.keybags, shares, strict=True):
            self._drop(self.keybags, attempt, number)
            name = generation_path(keybag_path(attempt), number, sha256)
            self.keybags[attempt] = KeyObject(name, sha256, shares=committed)
        for key in body.keys:
            self._replace(key, number, rewrapped=True)
        self.keybags, self.keys = dict(sorted(self.keybags.items())), dict(sorted(self.keys.items()))
        self.recipients, self.rewrap = body.recipients, number
        self.quorum = body.reshared.quorum if body.reshared else None

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
        self.keys = dict(sorted(self.keys.items()))

    def _replace(self, key: KeysObject, number: int, *, rewrapped: bool = False) -> None:
        rewrapped = self._drop(self.keys, key.commit, number) or rewrapped
        if key.sha256 is not None:
            name = generation_path(keys_path(key.attempt, key.commit), number, key.sha256)
            self.keys[key.commit] = KeyObject(name, key.sha256, rewrapped)

    def _drop(self, held: dict[int, KeyObject], n: int, number: int) -> bool:
        """Put an object out of use; whether it was rewrapped."""
        old = held.pop(n)
        self.superseded[old.name] = number
        return old.rewrapped


def holders(commit: Commit) -> set[tuple[int, int]]:
    """The regions of a commit as (attempt, index)."""
    assert isinstance(commit.body, Regions)
    return {(commit.attempt, record.index) for record in commit.body.regions}
