"""The geometry of a report's pictures: where marks and labels go, in per cent of the width and in pixels of height.

Widths are relative so that text keeps its size on a telephone and on paper. Nothing here knows of SVG's syntax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from dumpvault.formats.plain import size
from dumpvault.formats.report_facts import Capture, Custody, CustodyEntry, MemoryMap, Point

__all__ = ["Axis", "Course", "Row", "course", "rows", "sampled", "strips"]

#: The pictures' inner width, in units of a tenth of a per cent.
WIDTH = 1000
_SLIVER = 3
_MOST_STEPS = 300
#: Seconds: a capture that took less goes by the number of its commits, for times have no fractions.
_SHORT = 10


@dataclass(frozen=True, slots=True)
class Axis:
    """``ticks`` are (place, label), ``breaks`` places where a hole in the addresses is cut out."""

    ticks: tuple[tuple[float, str], ...]
    breaks: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the timeline; ``gap`` is the time since the row before, ``shape`` what is drawn."""

    entry: CustodyEntry
    gap: str
    shape: str
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Course:
    """``lines`` are (key, points): points of a staircase in a box of WIDTH by 100. ``starts`` are attempts' (place, number)."""

    lines: tuple[tuple[str, str], ...]
    starts: tuple[tuple[float, int], ...]
    left: str
    right: str
    top: str
    note: str


def strips(memory: MemoryMap) -> tuple[Axis, dict[str, list[tuple[int, int]]]]:
    """The axis, and for each lane whose state is known its bars as (place, width)."""
    pieces = _pieces(memory.bounds)
    total = sum(end - start for start, end in pieces) or 1
    gap = 12 if len(pieces) > 1 else 0
    scale = (WIDTH - gap * (len(pieces) - 1)) / total
    places, at = [], 0.0
    for start, end in pieces:
        places.append((start, end, at))
        at += (end - start) * scale + gap
    bars = {lane.key: _bars(lane.ranges, places, scale) for lane in memory.lanes if lane.ranges is not None}
    ticks = [(places[0][2], f"{places[0][0]:#x}")]
    ticks.append((float(WIDTH), f"{places[-1][1]:#x}"))
    if len(pieces) > 1 and 150 < places[1][2] < WIDTH - 150:
        ticks.insert(1, (places[1][2], f"{places[1][0]:#x}"))
    return Axis(tuple(ticks), tuple(place - gap / 2 for _, _, place in places[1:])), bars


def _pieces(bounds: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """``bounds`` with holes of at most a fiftieth of it all closed; the widest ones stay where there are many."""
    total = sum(end - start for start, end in bounds)
    widest = sorted((b[0] - a[1] for a, b in pairwise(bounds)), reverse=True)
    least = max(total // 50, widest[8] if len(widest) > 8 else 0)
    pieces = [bounds[0]]
    for start, end in bounds[1:]:
        if start - pieces[-1][1] > least:
            pieces.append((start, end))
        else:
            pieces[-1] = (pieces[-1][0], end)
    return pieces


def _bars(
    ranges: Sequence[tuple[int, int]], places: Sequence[tuple[int, int, float]], scale: float
) -> list[tuple[int, int]]:
    bars: list[tuple[int, int]] = []
    for low, high, place in places:
        for start, end in ranges:
            a, b = max(start, low), min(end, high)
            if a >= b:
                continue
            x = min(int(place + (a - low) * scale), WIDTH - _SLIVER)
            width = max(round((b - a) * scale), _SLIVER)
            if bars and x <= bars[-1][0] + bars[-1][1]:
                bars[-1] = (bars[-1][0], max(bars[-1][1], x + width - bars[-1][0]))
            else:
                bars.append((x, width))
    return [(x, min(width, WIDTH - x)) for x, width in bars]


_SHAPES = {
    "collected": "circle", "received": "circle", "moved": "circle", "exported": "circle",
    "opened": "diamond", "closed": "diamond", "requested": "ring", "approved": "ring",
    "granted": "square", "rewrapped": "square", "reshared": "square",
    "shredded": "cross",
}  # fmt: skip


def rows(custody: Custody, most: int = 24) -> list[Row]:
    """The timeline's rows, oldest first in the log's order; what does not fit is left out of the middle, and counted."""
    entries = sorted(custody.entries, key=lambda entry: entry.index)
    left_out = max(0, len(entries) - most)
    shown = entries if not left_out else entries[: most // 2] + entries[len(entries) - most // 2 :]
    found = []
    for number, entry in enumerate(shown):
        gap = elapsed(shown[number - 1].time, entry.time) if number else ""
        skipped = left_out if left_out and number == most // 2 else 0
        found.append(Row(entry, gap, _SHAPES.get(entry.event, "ring"), skipped))
    return found


def elapsed(before: str, after: str) -> str:
    """The time between two moments for people; says so where clocks went backwards."""
    seconds = int((_moment(after) - _moment(before)).total_seconds())
    if seconds < 0:
        return "earlier, by the signer's clock"
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit}{'s' if count > 1 else ''} later"
    return "in the same second"


def _moment(time: str) -> datetime:
    return datetime.fromisoformat(time)


def course(capture: Capture) -> Course:
    """The staircases of a capture over time, or over its commits where their times do not ascend or tell too little."""
    points = sampled(capture.points, _MOST_STEPS)
    end = capture.finished or points[-1].time
    times = [_moment(p.time).timestamp() for p in points] + [_moment(end).timestamp()]
    by_time = times == sorted(times) and times[-1] - times[0] >= _SHORT
    span = times[-1] - times[0] if by_time else len(points)
    at = (
        [(time - times[0]) / span * WIDTH for time in times]
        if by_time
        else [i / span * WIDTH for i in range(len(times))]
    )
    top = max([capture.source or 0, *(max(p.durable, p.authorised) for p in points)]) or 1
    keys = ["durable", "read", "authorised", "released"]
    lines = []
    for key in keys:
        values = [getattr(p, key) for p in points]
        if not any(values) or (key == "read" and values == [p.durable for p in points]):
            continue
        steps = [f"{at[0]:.1f},100"]
        height = 100.0
        for x, value in zip(at, values, strict=False):
            steps.append(f"{x:.1f},{height:.2f}")
            height = 100 - value / top * 100
            steps.append(f"{x:.1f},{height:.2f}")
        steps.append(f"{at[-1]:.1f},{height:.2f}")
        lines.append((key, " ".join(steps)))
    starts = [(x, p.attempt) for x, p in zip(at, points, strict=False) if p.kind == "takeover"]
    note = ""
    if not by_time:
        short = times == sorted(times)
        why = (
            f"It took less than {_SHORT} seconds" if short else "The commits' times do not ascend: clocks were changed"
        )
        note = f"{why}, so that the picture goes by the commits' numbers."
    left, right = (points[0].time, end) if by_time else (f"commit {points[0].commit}", f"commit {points[-1].commit}")
    return Course(tuple(lines), tuple(starts), left, right, size(top), note)


def sampled(points: Sequence[Point], most: int) -> list[Point]:
    """At most ``most`` of them, evenly, with the first, the last, and each that begins an attempt."""
    if len(points) <= most:
        return list(points)
    keep = {round(i * (len(points) - 1) / (most - 1)) for i in range(most)}
    return [p for i, p in enumerate(points) if i in keep or p.kind == "takeover"]
