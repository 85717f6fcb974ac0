"""Ranges of integers against Python's own sets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dumpvault.ranges import Ranges

LIMIT = 40
PAIRS = st.lists(st.tuples(st.integers(0, LIMIT), st.integers(0, LIMIT)), max_size=8)


def _set(pairs: object) -> set[int]:
    return {n for start, end in pairs for n in range(start, end)}  # type: ignore[attr-defined]


@given(PAIRS)
def test_sorted_disjoint_and_joined(pairs: list[tuple[int, int]]) -> None:
    """Any pairs, empty and backward ones too: the same integers, in order, with a gap between any two ranges."""
    ranges = Ranges(pairs)
    listed = list(ranges)
    assert _set(listed) == _set(pairs)
    assert all(start < end for start, end in listed)
    assert all(a[1] < b[0] for a, b in pairwise(listed))
    assert (len(ranges), bool(ranges), ranges.total) == (len(listed), bool(listed), len(_set(pairs)))


@given(PAIRS, PAIRS)
def test_union_intersection_difference(one: list[tuple[int, int]], two: list[tuple[int, int]]) -> None:
    """``|``, ``&`` and ``-`` are those of sets, and leave their operands alone."""
    a, b = Ranges(one), Ranges(two)
    assert _set(a | b) == _set(one) | _set(two)
    assert _set(a & b) == _set(one) & _set(two)
    assert _set(a - b) == _set(one) - _set(two)
    assert (a, b) == (Ranges(one), Ranges(two))


@given(PAIRS, PAIRS)
def test_equal_when_the_same_integers(one: list[tuple[int, int]], two: list[tuple[int, int]]) -> None:
    """However they were put together; equal ones hash alike; other types are never equal."""
    a, b = Ranges(one), Ranges(two)
    assert (a == b) is (_set(one) == _set(two))
    assert a == Ranges((n, n + 1) for n in _set(one))
    assert hash(a) == hash(Ranges(reversed(one)))
    assert a != list(a)


@given(PAIRS, st.integers(0, LIMIT), st.integers(0, LIMIT))
def test_covers(pairs: list[tuple[int, int]], start: int, end: int) -> None:
    """True when every integer asked for is there; asking for none is true."""
    assert Ranges(pairs).covers(start, end) is (set(range(start, end)) <= _set(pairs))


@given(PAIRS, st.integers(1, 7), st.integers(-5, 5))
def test_widened_and_shifted(pairs: list[tuple[int, int]], page: int, by: int) -> None:
    """``widened`` is every page that any integer is in; ``shifted`` adds to each."""
    assert _set(Ranges(pairs).widened(page)) == {
        n for i in _set(pairs) for n in range(i - i % page, i - i % page + page)
    }
    assert _set(Ranges(pairs).shifted(by)) == {n + by for n in _set(pairs)}


def test_addresses_of_64_bits() -> None:
    """Physical addresses and file offsets are as large as they come, and shown in hexadecimal."""
    top = 2**64
    assert list(Ranges([(top - 4097, top)]).widened(4096)) == [(top - 8192, top)]
    assert repr(Ranges([(0, 16), (top - 1, top)])) == "Ranges(0x0-0x10, 0xffffffffffffffff-0x10000000000000000)"
