"""What state which part of the captured memory is in, as far as what stands in the clear tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dumpvault.errors import VaultError
from dumpvault.flows.verified import Report
from dumpvault.formats import sealed
from dumpvault.formats.commit import Regions
from dumpvault.formats.event import Granted, Released, expand
from dumpvault.formats.report_facts import Lane, MemoryMap
from dumpvault.model import RegionRecord
from dumpvault.ranges import Ranges
from dumpvault.stages.examine import gaps

__all__ = ["memory_map"]


def memory_map(report: Report) -> MemoryMap | None:
    """The map by physical address where the header tells which bytes of the source are which memory, else by offset.

    Lanes may overlap: memory can be sealed, granted and released. None where no region is believed to be there.
    """
    examiner = report.examiner
    records = list(examiner.records())
    if not records:
        return None
    memory = examiner.header.source.memory
    notes = []
    if memory:
        bounds = Ranges((load.address, load.address + load.length) for load in memory)
        notes.append("By physical address, as the signed header says which bytes of the source are which memory.")
    else:
        bounds = Ranges([(0, max(examiner.totals.size, examiner.header.source.size or 0))])
        notes.append(
            "By offset in the source: the header does not say which physical memory that is, and only a key would show it."
        )
    if report.steps[2].state != "held":
        notes.append(f"Only what the {len(examiner.commits)} commits that could be believed speak of.")

    def located(ranges: Ranges) -> Ranges:
        """Offsets in the source as numbers of the map's axis; headers and notes are at no physical address."""
        if not memory:
            return ranges
        parts: list[tuple[int, int]] = []
        for load in memory:
            within = ranges & Ranges([(load.offset, load.offset + load.length)])
            parts.extend(within.shifted(load.address - load.offset))
        return Ranges(parts)

    def lane(key: str, name: str, offsets: Ranges, note: str = "") -> Lane:
        found = located(offsets)
        if found.total < offsets.total and memory:
            beside = f"{offsets.total - found.total} bytes of it are headers and notes, at no physical address"
            note = f"{note}; {beside}" if note else beside
        return Lane(key, name, tuple(found), offsets.total, note)

    shredded = examiner.current.shredded
    bad = [(region.offset, region.end) for attempt, region in records if (attempt, region.index) in report.bad_regions]
    granted = {
        region for event in examiner.events if isinstance(event.body, Granted) for region in expand(event.body.regions)
    }
    lanes = [
        lane("sealed", "Sealed", Ranges((r.offset, r.end) for _, r in records) - Ranges(bad), "durable, encrypted, signed for"),
        lane("missing", "Missing or damaged", Ranges(bad) | _gaps(report)),
        _zero(records, examiner.header.frame_size, located),
        lane(
            "unreadable", "Unreadable", Ranges((u.offset, u.end) for _, r in records for u in r.unreadable),
            "could not be read when it was captured; stands as zeros",
        ),
        _released(report, bool(memory), bounds),
        lane(
            "granted", "Granted", Ranges((r.offset, r.end) for a, r in records if (a, r.index) in granted),
            "somebody was given the keys of these regions alone",
        ),
        lane(
            "shredded", "Shredded", Ranges((r.offset, r.end) for a, r in records if (a, r.index) in shredded),
            "the keys were destroyed",
        ),
    ]  # fmt: skip
    return MemoryMap("physical" if memory else "file", tuple(bounds), tuple(lanes), tuple(notes))


def _gaps(report: Report) -> Ranges:
    examiner = report.examiner
    try:
        missing = gaps((record for _, record in examiner.records()), examiner.totals.size)
    except VaultError:
        return Ranges()  # regions overlap: step 7 says so
    return Ranges((gap.offset, gap.end) for gap in missing)


def _zero(records: Iterable[tuple[int, RegionRecord]], frame: int, located: Callable[[Ranges], Ranges]) -> Lane:
    """No map of zero pages stands in the clear, on purpose; whole regions give themselves away by how small they are."""
    from dumpvault.formats.seekable import rle_frame

    found = []
    compressed = False
    for _, record in records:
        if record.codec != "zstd" or record.kind == "flattened":
            continue
        compressed = True
        full, rest = divmod(record.length, frame)
        frames = full + bool(rest)
        stream = full * len(rle_frame(frame)) + (len(rle_frame(rest)) if rest else 0) + 8 * frames + 17
        if record.message == sealed.message_bytes(stream):
            found.append((record.offset, record.end))
    if not compressed:
        return Lane("zero", "Zero", None, 0, "not known without a key: stored sizes tell nothing here")
    offsets = Ranges(found)
    note = "whole regions, by their stored size, which is that of one repeated byte"
    note += "; zero pages in other regions are not known without a key"
    return Lane("zero", "Zero, by size", tuple(located(offsets)), offsets.total, note)


def _released(report: Report, physical: bool, bounds: Ranges) -> Lane:
    examiner = report.examiner
    told = examiner.release_bytes()
    ends = [event.body.result for event in examiner.events if isinstance(event.body, Released)]
    if "released" in ends:
        return Lane(
            "released", "Released", tuple(bounds), bounds.total, "all memory at once, by fadump, after the manifest"
        )
    results = {
        (outcome.commit, outcome.release): outcome.result
        for commit in examiner.commits if isinstance(commit.body, Regions)
        for outcome in commit.body.outcomes
    }  # fmt: skip
    ranges = Ranges(
        (release.start, release.start + release.length)
        for commit in examiner.commits if isinstance(commit.body, Regions)
        for number, release in enumerate(commit.body.releases)
        if results.get((commit.number, number)) == "released"
    )  # fmt: skip
    note = "handed back to the system once it was durable"
    for state in ("failed", "unknown"):
        if told[state]:
            note += f"; {told[state]} bytes authorised with outcome {state}"
    if not physical and ranges:
        return Lane(
            "released", "Released", None, told["released"], f"{note}; by physical address, which this map has not"
        )
    return Lane("released", "Released", tuple(ranges & bounds if physical else ranges), told["released"], note)
