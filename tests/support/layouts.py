"""Hypothesis strategies for machines: layouts with every border anywhere, loads that overlap, miss memory and are unsorted."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st

from dumpvault.ranges import Ranges
from support.machine import Area, Layout

__all__ = ["PAGE", "durable_steps", "layouts"]

PAGE = 64  # as small as a page can be for the notes and headers to take several


@st.composite
def layouts(draw: st.DrawFn, *, ragged: bool | None = None) -> Layout:
    """A machine of at most 60 pages. Unless ``ragged`` is false, loads and the reserve may begin and end in mid-page."""

    def upto(most: int, least: int = 0) -> int:
        return draw(st.integers(least, most))

    if ragged is None:
        ragged = draw(st.booleans())
    reserve = upto(10, 2) * PAGE + (draw(st.sampled_from([0, 0, 0, 0x20, 1])) if ragged else 0)
    copied = draw(st.one_of(st.just(reserve), st.integers(1, reserve)))
    gap = st.sampled_from([0, 0, 0x20, 1, PAGE, PAGE + 5])
    cpu = (reserve + upto(14 * PAGE, 1) + draw(gap), upto(3 * PAGE, 1))
    hpte = (sum(cpu) + draw(gap), upto(2 * PAGE, 1))
    scratch = (sum(hpte) + draw(gap), copied)
    pages = -(-(sum(scratch) + upto(2) * PAGE) // PAGE)
    end = pages * PAGE
    # To the CPU area, over everything, or anything: the kernel subtracts numbers that need not belong together.
    crashed = (
        reserve,
        draw(st.sampled_from([cpu[0], end]).map(lambda to: to - reserve) | st.integers(1, end - reserve)),
    )
    loads = draw(_loads(end, 1 if ragged else PAGE))
    table = tuple(draw(st.permutations(range(len(loads)))))
    return Layout(pages, reserve, cpu, hpte, scratch, crashed, loads, table, PAGE)


@st.composite
def _loads(draw: st.DrawFn, end: int, grain: int) -> tuple[Area, ...]:
    cut = st.integers(0, end // grain).map(lambda n: n * grain)
    cuts = sorted({0, end, *draw(st.lists(cut, max_size=4))})
    parts = [(a, b - a) for a, b in pairwise(cuts)]
    holes = draw(st.sets(st.integers(0, len(parts) - 1), max_size=len(parts) - 1)) if draw(st.booleans()) else set()
    parts = [part for i, part in enumerate(parts) if i not in holes]
    for a, b in draw(st.lists(st.tuples(cut, cut), max_size=2)):
        parts.append((min(a, b), max(abs(a - b), 1)) if max(a, b) < end else (0, grain))
    return tuple(draw(st.permutations(parts)))


@st.composite
def durable_steps(draw: st.DrawFn, size: int) -> list[tuple[int, int]]:
    """File ranges in the order in which they become durable: slices in any order, ranges anywhere, or all but little."""
    grain = draw(st.sampled_from([PAGE // 2, PAGE, 4 * PAGE, 1000]))
    where = st.tuples(st.integers(0, size), st.integers(1, size)).map(lambda p: (p[0], min(size, p[0] + p[1])))
    way = draw(st.sampled_from(["slices", "ranges", "all but"]))
    if way == "slices":
        slices = [(a, min(size, a + grain)) for a in range(0, size, grain)]
        return draw(st.permutations(slices))[: draw(st.integers(1, len(slices)))]
    if way == "ranges":
        return draw(st.lists(where, min_size=1, max_size=12))
    missing = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=3))
    return list(Ranges([(0, size)]) - Ranges((at, at + grain) for at in missing))
