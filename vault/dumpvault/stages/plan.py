"""Which slices of a source become regions: by file offset, page aligned, headers and notes apart from memory."""

from __future__ import annotations

from collections.abc import Iterator

from dumpvault.formats import vmcoreinfo
from dumpvault.formats.elf import ElfCore
from dumpvault.model import PAGE, Kind, Range, Region
from dumpvault.ranges import Ranges

__all__ = ["kernel_first", "plan_regions", "special_spans"]

NOTHING = Ranges()


def special_spans(core: ElfCore | None, size: int | None) -> list[tuple[Range, Kind]]:
    """The page-aligned file ranges that are headers or notes, in order, disjoint; headers win where both share a page.

    ``size`` in bytes cuts them off; None leaves them as the headers say.
    """
    if core is None:
        return []
    limit = Ranges([(0, 1 << 63 if size is None else size)])
    headers = Ranges((part.offset, part.end) for part in core.headers).widened(PAGE) & limit
    notes = Ranges((part.offset, part.end) for part in core.notes).widened(PAGE) & limit
    marked: list[tuple[int, int, Kind]] = [(a, b, "headers") for a, b in headers]
    marked += [(a, b, "notes") for a, b in notes - headers]
    return [(Range(start, end - start), kind) for start, end, kind in sorted(marked)]


def plan_regions(
    core: ElfCore | None,
    size: int | None,
    region_size: int,
    kind: Kind,
    *,
    durable: Ranges = NOTHING,
    first: Ranges = NOTHING,
) -> Iterator[Region]:
    """What is to be sealed, in the order it is read: headers, notes, ``first``, the rest.

    ``kind`` is that of whatever is neither headers nor notes; ``durable`` file ranges are left out. With ``size`` None
    (a pipe) the plan is in file order and does not end; the reader stops where the pipe does.
    """
    pieces = _pipe_order(core, kind) if size is None else _analyst_order(core, size, kind, durable, first)
    index = 0
    for start, end, piece_kind in pieces:
        for offset in range(start, end, region_size):
            yield Region(index, offset, min(region_size, end - offset), piece_kind)
            index += 1


def kernel_first(core: ElfCore, info: dict[str, str]) -> Ranges:
    """File ranges of the segment that holds the kernel image, log buffer and first page tables included.

    Found by the address of ``_stext`` in VMCOREINFO; empty where that does not tell.
    """
    stext = vmcoreinfo.symbol(info, "_stext")
    if stext is None:
        return NOTHING
    return Ranges(
        (offset, offset + length) for virtual, offset, length in core.virtual if virtual <= stext < virtual + length
    ).widened(PAGE)


def _pipe_order(core: ElfCore | None, kind: Kind) -> Iterator[tuple[int, int, Kind]]:
    at = 0
    for span, span_kind in special_spans(core, None):
        if at < span.offset:
            yield at, span.offset, kind
        yield span.offset, span.end, span_kind
        at = span.end
    yield at, 1 << 62, kind


def _analyst_order(
    core: ElfCore | None, size: int, kind: Kind, durable: Ranges, first: Ranges
) -> Iterator[tuple[int, int, Kind]]:
    spans = special_spans(core, size)
    whole = Ranges([(0, size)])
    special = Ranges((span.offset, span.end) for span, _ in spans)
    orders: list[tuple[Ranges, Kind]] = [
        (Ranges((span.offset, span.end) for span, k in spans if k == "headers"), "headers"),
        (Ranges((span.offset, span.end) for span, k in spans if k == "notes"), "notes"),
        (whole & first - special, kind),
        (whole - first - special, kind),
    ]
    for ranges, piece_kind in orders:
        for start, end in ranges - durable:
            yield start, end, piece_kind
