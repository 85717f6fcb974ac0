"""Which slices become regions: they tile the source, page aligned, headers and notes apart (spec, section 9)."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpvault.formats.elf import PT_LOAD, PT_NOTE, ElfCore, parse, write_headers
from dumpvault.model import PAGE, Range, Region
from dumpvault.stages.plan import plan_regions, special_spans
from kit import reader

ranges = st.builds(Range, st.integers(0, 60 * PAGE), st.integers(0, 8 * PAGE))


def core_of(headers: list[Range], notes: list[Range]) -> ElfCore:
    return ElfCore(64, "little", 62, 64, 0, headers=headers, notes=notes)


def pages(ranges: list[Range], size: int) -> set[int]:
    """Pages that any byte of ``ranges`` before ``size`` stands on."""
    return {p for r in ranges for p in range(r.offset // PAGE, -(-r.end // PAGE)) if r.length and p * PAGE < size}


@given(
    st.lists(ranges, max_size=3), st.lists(ranges, max_size=5), st.integers(1, 64 * PAGE), st.integers(1, 9), st.booleans()
)  # fmt: skip
def test_regions_tile_the_source(headers: list[Range], notes: list[Range], size: int, most: int, elf: bool) -> None:
    """Regions cover 0 to size exactly, page aligned, within the region size, each page of the right kind; headers and
    notes come first, and each kind in file order."""
    headers, notes = ([r for r in part if r.length] for part in (headers, notes))
    core = core_of(headers, notes) if elf else None
    kind = "memory" if elf else "opaque"
    regions = list(plan_regions(core, size, most * PAGE, kind))
    assert [r.index for r in regions] == list(range(len(regions)))
    order = ["headers", "notes", kind]
    assert [(order.index(r.kind), r.offset) for r in regions] == sorted(
        (order.index(r.kind), r.offset) for r in regions
    )
    at = 0
    for region in sorted(regions, key=lambda r: r.offset):
        assert region.offset == at
        assert region.offset % PAGE == 0
        assert 0 < region.length <= most * PAGE
        at = region.end
    assert at == size
    marked = pages(headers, size) if elf else set()
    noted = pages(notes, size) - marked if elf else set()
    for region in regions:
        for page in range(region.offset // PAGE, -(-region.end // PAGE)):
            expected = "headers" if page in marked else "notes" if page in noted else kind
            assert region.kind == expected


@given(st.lists(ranges, max_size=3), st.lists(ranges, max_size=5), st.none() | st.integers(1, 64 * PAGE))
def test_special_spans_are_in_order_and_apart(headers: list[Range], notes: list[Range], size: int | None) -> None:
    """Spans are ascending, not empty, disjoint and page aligned, and two of one kind never touch."""
    spans = special_spans(core_of(headers, notes), size)
    for (a, a_kind), (b, b_kind) in pairwise(spans):
        assert a.end < b.offset or (a.end == b.offset and a_kind != b_kind)
    for span, _ in spans:
        assert span.length > 0
        assert span.offset % PAGE == 0
        assert span.end % PAGE == 0 or span.end == size


def test_a_plain_core() -> None:
    """Headers, notes and memory of a usual vmcore, memory cut at the region size."""
    data = write_headers([(PT_NOTE, 0x1000, 0, 0x200), (PT_LOAD, 0x2000, 0, 0x5000)])
    regions = list(plan_regions(parse(reader(data)), 0x7000, 0x2000, "memory"))
    assert regions == [
        Region(0, 0, 0x1000, "headers"), Region(1, 0x1000, 0x1000, "notes"), Region(2, 0x2000, 0x2000, "memory"),
        Region(3, 0x4000, 0x2000, "memory"), Region(4, 0x6000, 0x1000, "memory"),
    ]  # fmt: skip


def test_headers_win_where_notes_share_their_page() -> None:
    """A page that holds program headers and a note is of kind headers."""
    core = core_of([Range(0, 64), Range(64, 112)], [Range(176, 5000)])
    assert special_spans(core, None) == [(Range(0, PAGE), "headers"), (Range(PAGE, PAGE), "notes")]


def test_headers_behind_the_memory_are_found_there() -> None:
    """Program headers at the end of the file are headers there, and memory lies between."""
    data = write_headers([(PT_LOAD, 0x1000, 0, 0x3000)], phoff=0x4000)
    kinds = [(r.offset, r.kind) for r in plan_regions(parse(reader(data)), len(data), 1 << 20, "memory")]
    assert kinds == [(0, "headers"), (0x4000, "headers"), (0x1000, "memory")]


def test_headers_beyond_the_file_are_cut_off() -> None:
    """What headers and notes claim beyond the source's size makes no region."""
    core = core_of([Range(0, 64)], [Range(0x3000, 1 << 40), Range(1 << 50, 1)])
    regions = list(plan_regions(core, 0x3801, 1 << 20, "memory"))
    assert [(r.offset, r.length, r.kind) for r in regions] == [
        (0, 0x1000, "headers"), (0x3000, 0x801, "notes"), (0x1000, 0x2000, "memory"),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["opaque", "flattened"])
def test_a_source_without_headers_is_cut_evenly(kind: str) -> None:
    """Other sources are slices of the region size and a last shorter one."""
    regions = list(plan_regions(None, 3 * PAGE + 1, PAGE, kind))  # type: ignore[arg-type]
    assert [(r.offset, r.length) for r in regions] == [(0, PAGE), (PAGE, PAGE), (2 * PAGE, PAGE), (3 * PAGE, 1)]
    assert {r.kind for r in regions} == {kind}


def test_the_plan_of_a_pipe_does_not_end() -> None:
    """Without a size, whole regions follow each other as long as they are asked for, special spans included."""
    regions = list(islice(plan_regions(core_of([Range(0, 64)], [Range(0x3000, 8)]), None, PAGE, "memory"), 1000))
    assert len(regions) == 1000
    assert all(r.length == PAGE and r.offset == i * PAGE for i, r in enumerate(regions))
    assert [r.kind for r in regions[:5]] == ["headers", "memory", "memory", "notes", "memory"]


def test_a_range_without_bytes_marks_no_page() -> None:
    """A core without program headers, but with an e_phoff, has no headers there."""
    core = parse(reader(write_headers([], phoff=0x3010)))
    assert [r.kind for r in plan_regions(core, 0x5000, 1 << 20, "memory")] == ["headers", "memory"]
