"""Which slices of a source become regions: by file offset, page aligned, headers and notes apart from memory."""

from __future__ import annotations

from collections.abc import Iterator

from dumpvault.formats.elf import ElfCore
from dumpvault.model import PAGE, Kind, Range, Region

__all__ = ["plan_regions", "special_spans"]


def special_spans(core: ElfCore | None, size: int | None) -> list[tuple[Range, Kind]]:
    """The page-aligned file ranges that are headers or notes, in order, disjoint; headers win where both share a page.

    ``size`` in bytes cuts them off; None leaves them as the headers say.
    """
    if core is None:
        return []
    marked: list[tuple[int, int, Kind]] = []
    kinds: list[tuple[Kind, list[Range]]] = [("headers", core.headers), ("notes", core.notes)]
    for kind, ranges in kinds:
        taken = _merge(marked)
        for part in ranges:
            start = part.offset // PAGE * PAGE
            end = -(-part.end // PAGE) * PAGE
            if size is not None:
                end = min(end, size)
            marked += [(a, b, kind) for a, b in _outside(start, end, taken) if a < b]
    spans: list[tuple[Range, Kind]] = []
    for start, end, kind in sorted(marked):
        if spans and spans[-1][1] == kind and start <= spans[-1][0].end:
            last = spans[-1][0]
            spans[-1] = (Range(last.offset, max(last.end, end) - last.offset), kind)
        else:
            spans.append((Range(start, end - start), kind))
    return spans


def plan_regions(core: ElfCore | None, size: int | None, region_size: int, kind: Kind) -> Iterator[Region]:
    """Regions in file order. ``kind`` is that of whatever is neither headers nor notes.

    With ``size`` None the plan does not end; the reader stops where the pipe does.
    """
    index = 0
    at = 0
    spans = special_spans(core, size)
    for span, span_kind in [*spans, (Range(size if size is not None else 1 << 62, 0), kind)]:
        for start, end, piece_kind in ((at, span.offset, kind), (span.offset, span.end, span_kind)):
            position = start
            while position < end:
                length = min(region_size, end - position)
                yield Region(index, position, length, piece_kind)
                position += length
                index += 1
        at = max(at, span.end)


def _merge(parts: list[tuple[int, int, Kind]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end, _ in sorted(parts):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _outside(start: int, end: int, taken: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The parts of ``start`` to ``end`` that none of ``taken`` covers."""
    for a, b in taken:
        if b <= start or a >= end:
            continue
        if a > start:
            yield start, a
        start = max(start, b)
    if start < end:
        yield start, end
