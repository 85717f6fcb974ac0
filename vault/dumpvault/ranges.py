"""Sets of integers as sorted, disjoint, half-open ranges: file offsets that are durable, addresses that may go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["Ranges"]


class Ranges:
    """An immutable set. Operations are linear in the number of ranges, which neighbours joined keep small."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        """From pairs of start and end, in any order; empty and overlapping ones are fine."""
        joined: list[tuple[int, int]] = []
        for start, end in sorted(pairs):
            if start >= end:
                continue
            if joined and start <= joined[-1][1]:
                if end > joined[-1][1]:
                    joined[-1] = (joined[-1][0], end)
            else:
                joined.append((start, end))
        self._pairs = tuple(joined)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self._pairs == other._pairs

    def __hash__(self) -> int:
        return hash(self._pairs)

    def __repr__(self) -> str:
        return "Ranges(" + ", ".join(f"{a:#x}-{b:#x}" for a, b in self._pairs) + ")"

    def __or__(self, other: Ranges) -> Ranges:
        return Ranges((*self._pairs, *other._pairs))

    def __and__(self, other: Ranges) -> Ranges:
        out = []
        mine, theirs = iter(self._pairs), iter(other._pairs)
        a, b = next(mine, None), next(theirs, None)
        while a and b:
            start, end = max(a[0], b[0]), min(a[1], b[1])
            if start < end:
                out.append((start, end))
            if a[1] < b[1]:
                a = next(mine, None)
            else:
                b = next(theirs, None)
        return Ranges(out)

    def __sub__(self, other: Ranges) -> Ranges:
        out = []
        cuts = other._pairs
        i = 0
        for start, end in self._pairs:
            at = start
            while i < len(cuts) and cuts[i][1] <= start:
                i += 1
            j = i
            while j < len(cuts) and cuts[j][0] < end:
                if cuts[j][0] > at:
                    out.append((at, cuts[j][0]))
                at = max(at, cuts[j][1])
                j += 1
            if at < end:
                out.append((at, end))
        return Ranges(out)

    def covers(self, start: int, end: int) -> bool:
        """Whether every integer from ``start`` up to ``end`` is in the set."""
        return start >= end or any(a <= start and end <= b for a, b in self._pairs)

    def shifted(self, by: int) -> Ranges:
        return Ranges((a + by, b + by) for a, b in self._pairs)

    def widened(self, page: int) -> Ranges:
        """Every page that any of it touches."""
        return Ranges((a // page * page, -(-b // page) * page) for a, b in self._pairs)

    @property
    def total(self) -> int:
        return sum(b - a for a, b in self._pairs)
