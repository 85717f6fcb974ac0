"""When the entries of a ledger were there, as far as others say, and whose times are not to be believed.

The rules are section 6 and those of section 2 that ask for a time (docs/spec/ledger.md). Pure: nothing is read here.
"""

from __future__ import annotations

from array import array
from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

__all__ = ["Column", "Times", "judge_times"]

#: Seconds by which clocks may disagree before it is said.
SLACK = 24 * 3600


@dataclass(slots=True)
class Column:
    """Of all entries in their order what times are judged by: seconds since 1970, sizes that were seen, keys that signed."""

    times: array[int] = field(default_factory=lambda: array("q"))
    seen: array[int] = field(default_factory=lambda: array("q"))
    keys: list[tuple[int, ...]] = field(default_factory=list)
    collected: set[int] = field(default_factory=set)
    #: Those that do not count, whatever the time.
    flagged: set[int] = field(default_factory=set)
    _same: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)

    def add(self, time: int, seen: int, keys: tuple[int, ...], *, collected: bool, flagged: bool) -> None:
        number = len(self.times)
        self.times.append(time)
        self.seen.append(0 if flagged else seen)
        self.keys.append(self._same.setdefault(keys, keys))
        if collected:
            self.collected.add(number)
        if flagged:
            self.flagged.add(number)


@dataclass(slots=True)
class Times:
    """``anchors`` are seconds since 1970 by which somebody else had seen an entry, -1 where nobody had.

    ``ended`` are entries of keys that were not valid then, and why; ``doubts`` count, at a time not to be believed.
    """

    anchors: array[int]
    ended: dict[int, str] = field(default_factory=dict)
    doubts: dict[int, str] = field(default_factory=dict)


def judge_times(
    column: Column, vouched: Iterable[tuple[int, int]], ended: Callable[[int, int], str], now: int
) -> Times:
    """``vouched`` are (size, seconds) of checkpoints that somebody outside the ledger has seen.

    ``ended`` says why no key of an entry was valid at a moment, if none was.
    """
    count = len(column.times)
    outside = _outside(vouched, count)
    told = Times(array("q", [-1]) * count)
    # An entry cannot be older than what stands before it: a clock that says so is no anchor for anybody's key.
    believed = array("q", column.times)
    latest = 0
    for number in range(count):
        if number in column.flagged:
            continue
        time = column.times[number]
        believed[number] = max(time, latest)
        if time > now + SLACK or (outside[number] >= 0 and time > outside[number] + SLACK):
            told.doubts[number] = "post-dated: it was seen before the time that it names"
        elif number in column.collected:
            pass  # clocks of crash kernels lie
        elif time < latest - SLACK:
            told.doubts[number] = "back-dated: entries before it name later times"
        else:
            latest = max(latest, time)
    seen_by: list[tuple[int, tuple[int, ...]]] = []  # earliest first, one for each set of keys
    waiting: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
    for number in range(count - 1, -1, -1):
        for one in waiting.pop(number + 1, ()):
            _keep(seen_by, one)
        mine = column.keys[number]
        anchor = next((when for when, keys in seen_by if not set(keys) & set(mine)), -1)
        if outside[number] >= 0 and (anchor < 0 or outside[number] < anchor):
            anchor = outside[number]
        told.anchors[number] = anchor
        if number in column.flagged:
            continue
        if why := ended(number, now if anchor < 0 else min(now, anchor)):
            told.ended[number] = why
            told.doubts.pop(number, None)
        elif column.seen[number] and number not in told.doubts:
            waiting.setdefault(column.seen[number], []).append((believed[number], mine))
    return told


def _outside(vouched: Iterable[tuple[int, int]], count: int) -> array[int]:
    """For each entry the earliest moment at which somebody outside had seen it; -1 where nobody had."""
    found = array("q", [-1]) * count
    left = sorted(vouched)
    earliest = -1
    for number in range(count - 1, -1, -1):
        while left and left[-1][0] > number:
            when = left.pop()[1]
            earliest = when if earliest < 0 else min(earliest, when)
        found[number] = earliest
    return found


def _keep(seen_by: list[tuple[int, tuple[int, ...]]], one: tuple[int, tuple[int, ...]]) -> None:
    """Add one, and keep of each set of keys the earliest only."""
    for at, (when, keys) in enumerate(seen_by):
        if keys == one[1]:
            if when <= one[0]:
                return
            del seen_by[at]
            break
    insort(seen_by, one)
