"""The release map case by case, on a machine of 64 pages: the borders that DESIGN names, with the pages counted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dumpvault.formats import release_region
from dumpvault.formats.elf import Load
from dumpvault.ranges import Ranges
from dumpvault.stages.release.release_map import ReleaseMap
from support.machine import Machine, standard_layout
from support.phyp_kernel import PhypKernel
from support.releasing import Collector

PAGE = 4096
PLAIN = standard_layout(64)
"""Reserve from page 16; CPU pages 44 and 45, HPTE from 46 (+0x20), scratch from 47 (+0x20), memory ends at page 64."""
ONE_LOAD = replace(PLAIN, loads=((0, 64 * PAGE),), table=(0,))


def _file(collector: Collector, start: int, end: int) -> list[tuple[int, int]]:
    """The file ranges of physical memory from page ``start`` to page ``end``."""
    out = []
    for load in collector.loads:
        a, b = max(start * PAGE, load.address), min(end * PAGE, load.address + load.length)
        out.append((load.offset + a - load.address, load.offset + b - load.address))
    return [pair for pair in out if pair[0] < pair[1]]


def test_one_page_less_at_the_end_of_the_reserve() -> None:
    """Everything durable at once: one write, a page short of the end, and the kernel's one page more is the last."""
    collector = Collector(Machine(PLAIN))
    assert collector.step((0, collector.machine.size)) == [(16 * PAGE, 47 * PAGE)]
    assert collector.freed == set(range(16, 64))
    # The price: the kernel's sum of lengths is a page short of the reserve, so it does not register a new dump area.
    assert collector.machine.kernel.registrations == 0


def test_a_piece_ends_one_page_short_of_the_frontier() -> None:
    """Pages 20 to 29 durable: the write names nine, frees ten, and the next one begins at the tenth."""
    collector = Collector(Machine(ONE_LOAD))
    collector.step(*collector.heads)
    assert collector.step(*_file(collector, 20, 30)) == [(20 * PAGE, 9 * PAGE)]
    assert collector.freed == set(range(20, 30))
    assert collector.step() == []
    assert collector.step(*_file(collector, 30, 33)) == [(29 * PAGE, 3 * PAGE)]
    assert collector.freed == set(range(20, 33))


def test_a_piece_that_meets_released_memory_reaches_it() -> None:
    """Where the page after is free already, nothing is kept back."""
    collector = Collector(Machine(ONE_LOAD))
    collector.step(*collector.heads)
    collector.step(*_file(collector, 30, 33))
    assert collector.step(*_file(collector, 25, 30)) == [(25 * PAGE, 5 * PAGE)]


def test_one_page_alone_waits_for_the_next() -> None:
    """A write frees two pages at least, as written here: page 20 goes when page 21 may."""
    collector = Collector(Machine(ONE_LOAD))
    collector.step(*collector.heads)
    assert collector.step(*_file(collector, 20, 21)) == []
    assert collector.step(*_file(collector, 21, 22)) == [(20 * PAGE, PAGE)]
    assert collector.freed == {20, 21}


def test_memory_returns_early_and_in_file_order() -> None:
    """Page by page in file order, something is freed in most steps long before the end."""
    collector = Collector(Machine(ONE_LOAD))
    collector.in_steps(PAGE)
    assert len(collector.machine.kernel.writes) > 40
    assert collector.freed == set(range(16, 64))


def test_nothing_goes_before_headers_and_notes() -> None:
    """Notes may be made of any page: all memory durable, and not one page goes until they are."""
    collector = Collector(Machine(ONE_LOAD))
    assert collector.step(*(Ranges([(0, collector.machine.size)]) - collector.heads)) == []
    collector.step(*collector.heads)
    assert collector.freed == set(range(16, 64))


def test_page_that_two_areas_share_waits_for_both() -> None:
    """Page 47 ends the HPTE area and begins the scratch area: headers, notes and low memory, and its own bytes."""
    plain = Collector(Machine(PLAIN))
    for missing in (Ranges(_file(plain, 0, 1)), Ranges(_file(plain, 46, 49)), plain.heads):
        collector = Collector(Machine(PLAIN))
        collector.step(*(Ranges([(0, collector.machine.size)]) - missing))
        assert 47 not in collector.freed
        collector.step(*missing)
        assert collector.freed == set(range(16, 64))


def test_loads_that_overlap_mean_later() -> None:
    """A page that stands twice in the file goes when both copies are durable."""
    layout = replace(PLAIN, loads=((0, 64 * PAGE), (20 * PAGE, 4 * PAGE)), table=(1, 0))
    collector = Collector(Machine(layout))
    twice = _file(collector, 20, 24)
    assert len(twice) == 2
    for one in twice:
        collector = Collector(Machine(layout))
        collector.step(*(Ranges([(0, collector.machine.size)]) - Ranges([one])))
        assert collector.freed == set(range(16, 64)) - {20, 21, 22, 23}


def test_low_memory_holds_its_copy_and_nothing_else() -> None:
    """Page 5 of low memory is missing: of all pages just those two stay that its copy, off by 0x20, touches."""
    collector = Collector(Machine(PLAIN))
    missing = Ranges(_file(collector, 5, 6))
    collector.step(*(Ranges([(0, collector.machine.size)]) - missing))
    assert set(range(16, 64)) - collector.freed == {52, 53}


@pytest.mark.parametrize(("bad", "held"), [(20, {20}), (16, {16}), (63, {63}), (62, {62, 63}), (5, set())])
def test_unreadable_page_is_held_alone(bad: int, held: set[int]) -> None:
    """A hole in memory in place is held, what is before and after it goes. The page in front goes as the kernel's one
    page more; a last page behind it has nothing to be reached from. Low memory in place is not in the vmcore."""
    machine = Machine(ONE_LOAD)
    collector = Collector(machine)
    machine.bad_pages = {bad}
    collector.step(*(Ranges([(0, machine.size)]) - machine.unreadable))
    assert set(range(16, 64)) - collector.freed == held


def test_unreadable_page_of_the_copy_is_held() -> None:
    """A hole in the scratch area spoils two pages of low memory, whose copies touch three pages."""
    machine = Machine(PLAIN)
    collector = Collector(machine)
    machine.bad_pages = {55}
    collector.step(*(Ranges([(0, machine.size)]) - machine.unreadable))
    assert set(range(16, 64)) - collector.freed == {55}


@pytest.mark.parametrize(("hold", "left"), [(False, set()), (True, {46, 63, *range(24, 28)})])
def test_pages_that_no_load_describes(hold: bool, left: set[int]) -> None:
    """They go with their neighbours, or they are held: pages 24 to 27, and those with a few bytes that are neither
    described nor saved state nor copy (before the HPTE area, after the scratch area)."""
    low, rest = (0, 24 * PAGE), (28 * PAGE, 16 * PAGE)
    last = (64 * PAGE - 1, 1)  # memory's end is where the last load ends
    collector = Collector(Machine(replace(PLAIN, loads=(low, rest, last), table=(1, 0, 2))), hold=hold)
    collector.step((0, collector.machine.size))
    assert collector.map.refused == []
    assert set(range(16, 64)) - collector.freed == left


LINES = {
    "beyond memory": ("CPU:0x2c000-0x200000", "the CPU area 0x2c000-0x200000 runs past the end of memory at 0x40000"),
    "below the reserve": ("CPU:0xf000-0x2000", "the CPU area 0xf000-0x2000 begins below the reserve at 0x10000"),
}


@pytest.mark.parametrize("case", LINES)
def test_area_that_makes_no_sense_is_refused(case: str) -> None:
    """It is never released by itself, the rest is: the second DUMP range, which the CPU area's pages are not in."""
    shown, why = LINES[case]
    text = Machine(PLAIN).release_region_text().replace("CPU:0x2c000-0x2000", shown)
    collector = Collector(Machine(PLAIN), text)
    assert collector.map.refused == [why]
    # Where the CPU's state is nobody knows: no page goes before headers and notes.
    assert collector.step(*(Ranges([(0, collector.machine.size)]) - collector.heads)) == []
    collector.step(*collector.heads)
    # Page 44 is reached as the kernel's one page more, when it is free to go too.
    assert set(range(16, 64)) - collector.freed == {45}


def test_second_dump_range_that_no_load_describes_is_refused() -> None:
    """Memory that the dump does not hold is not handed back as if it did."""
    layout = replace(PLAIN, loads=((0, 16 * PAGE), (44 * PAGE, 20 * PAGE)), table=(0, 1))
    collector = Collector(Machine(layout))
    assert collector.map.refused == ["the second DUMP area 0x10000-0x1c000 is described by no PT_LOAD"]
    collector.step((0, collector.machine.size))
    assert collector.freed == set(range(44, 64))


def test_nothing_is_released_without_loads() -> None:
    """A vmcore without (believable) PT_LOADs accounts for no page: all four areas are refused."""
    areas = release_region.parse(Machine(PLAIN).release_region_text())
    empty = ReleaseMap.build(areas, [], Ranges(), PAGE)
    assert len(empty.refused) == 4
    assert empty.pieces(Ranges([(0, 2**63)]), Ranges()) == []


def test_reserve_that_begins_in_mid_page_keeps_that_page() -> None:
    """The page is the running kernel's as well, and a write there would begin below the reserve."""
    layout = replace(ONE_LOAD, reserve=PLAIN.reserve + 0x20, crashed=(PLAIN.reserve + 0x20, PLAIN.crashed[1] - 0x20))
    collector = Collector(Machine(layout))
    collector.step((0, collector.machine.size))
    assert set(range(16, 64)) - collector.freed == {16}


def test_second_dump_range_of_no_length_still_says_where_the_reserve_begins() -> None:
    """An area below it is refused: the kernel would raise its start and free what nobody asked for."""
    text = "CPU:0xf000-0x2000: HPTE:0x2e020-0x1000: DUMP:0x2f020-0x10000, 0x10000-0x0:\n"
    collector = Collector(Machine(PLAIN), text)
    collector.step((0, collector.machine.size))
    assert collector.map.unknown == ["second DUMP"]
    assert "below the reserve" in collector.map.refused[0]
    assert collector.freed == set(range(46, 64))


@pytest.mark.parametrize(
    "areas",
    ["CPU:0x0-0x0: HPTE:0x2000-0x0: DUMP:0x3000-0x0", "CPU:0x0-0x2000: HPTE:0x2000-0x1000: DUMP:0x3000-0x10000"],
)
def test_dump_boot_waits_for_low_memory_and_saved_state(areas: str) -> None:
    """Zero lengths, or addresses from 0: where the areas are is unknown, so not a page before headers, notes and the
    last byte of low memory; then the second DUMP range, early and in pieces, though one PT_LOAD spans it all."""
    machine = Machine(ONE_LOAD)
    collector = Collector(machine, f"{areas}, 0x10000-0x1c000:\n")
    assert collector.map.unknown == ["CPU", "HPTE", "first DUMP"]
    assert collector.map.refused == []
    low, high = _file(collector, 0, 16), _file(collector, 16, 64)
    last = (low[0][1] - 1, low[0][1])
    collector.step(*high, *(Ranges(low) - Ranges([last])), *collector.heads)
    assert collector.freed == set()
    collector.step(last)
    assert collector.freed == set(range(16, 44))

    collector = Collector(Machine(ONE_LOAD), f"{areas}, 0x10000-0x1c000:\n")
    assert collector.step(*low, *high) == []
    collector = Collector(Machine(ONE_LOAD), f"{areas}, 0x10000-0x1c000:\n")
    collector.step(*collector.heads, *low)
    assert collector.step(*_file(collector, 16, 20)) == [(16 * PAGE, 3 * PAGE)]


def test_the_documentations_example() -> None:
    """With 64 KiB pages: the second DUMP range runs over the scratch area, so its pages wait for low memory as well."""
    text = "CPU:0x177fee000-0x10000: HPTE:0x177ffe020-0x1000:/\nDUMP:0x177fff020-0x10000000, 0x10000000-0x16F1D370A/"
    page, end = 0x10000, 0x188000000
    areas = release_region.parse(text)
    assert areas.crashed.end > areas.scratch.start
    loads = [Load(page, 0, end)]
    the_map = ReleaseMap.build(areas, loads, Ranges([(0, page)]), page)
    assert the_map.refused == the_map.unknown == []

    kernel = PhypKernel(page, end // page, 0x10000000, end - 0x10000000, 0x177FEE000, 0x10011000)
    gone = Ranges()
    low = Ranges([(page, page + 0x10000000)])
    first = Ranges([(0, page + end)]) - low
    for durable in (first, first | low):
        for start, length in the_map.pieces(durable, gone):
            kernel.store(release_region.command(start, length))
            gone |= Ranges([(start, start + length)])
        if durable is first:
            # Nothing of the copy; of the page in which it begins, nothing either.
            assert max(kernel.freed) == 0x177FFF020 // page - 1
    assert kernel.freed == set(kernel.reserved)
    assert not (kernel.below or kernel.beyond or kernel.runaway or kernel.double_released)


def test_layout_of_these_cases() -> None:
    """The page numbers that the cases above count on."""
    assert [n // PAGE for n in (PLAIN.reserve, PLAIN.cpu[0], PLAIN.hpte[0], PLAIN.scratch[0])] == [16, 44, 46, 47]
