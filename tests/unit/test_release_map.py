"""The release map against an emulated kernel and machine: nothing goes before it is durable, nothing twice, all in the end.

The machine says from first principles which vmcore bytes stand in a page (``Machine.from_page``, itself proved by
changing them in test_machine.py); it knows nothing of the map.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpvault.ranges import Ranges
from dumpvault.stages.release import release_map
from dumpvault.stages.release.release_map import ReleaseMap
from support.layouts import PAGE, durable_steps, layouts
from support.machine import Form, Layout, Machine, standard_layout
from support.releasing import Collector

FORMS: tuple[Form, ...] = ("one-line", "wrapped", "dump-boot")


def _expected(collector: Collector, *, hold: bool) -> tuple[set[int], set[int]]:
    """The pages of all areas that can be accounted for, and those of them that are left when everything is durable."""
    areas = collector.areas
    left_out = " ".join(["", *collector.map.unknown, *collector.map.refused])
    good = [a for a in (areas.cpu, areas.hpte, areas.scratch, areas.crashed) if f" {a.name}" not in left_out]
    # A page that is partly below the reserve is also the running kernel's.
    numbers = collector.pages((area.start, area.end) for area in good)
    targets = {number for number in numbers if number * PAGE >= areas.crashed.start}
    held: set[int] = set()
    if hold:
        in_place = [(load.address, load.address + load.length) for load in collector.loads]
        copied = Ranges(in_place) & Ranges([(0, areas.scratch.length if areas.scratch in good else 0)])
        described = [*in_place, *copied.shifted(areas.scratch.start)]
        described += [(area.start, area.end) for area in (areas.cpu, areas.hpte) if area in good]
        held = collector.pages(Ranges([(0, collector.machine.layout.end)]) - Ranges(described))
    may = targets - held
    alone = {n for n in may if n - 1 not in may and (n + 1 in held or n == max(targets))}
    return targets, (targets & held) | alone


@settings(deadline=None, max_examples=150)
@given(layouts(), st.sampled_from(FORMS), st.booleans(), st.data())
def test_nothing_is_lost_and_all_comes_back(layout: Layout, form: Form, hold: bool, data: st.DataObject) -> None:
    """For any machine and any order of durability: invariants A and B after every write, and liveness at the end.

    Once all is durable, exactly this is left of the areas: pages that are held, and a page that may go by itself
    alone, without the page after it (the kernel would free both) and without one before it to reach it from.
    """
    machine = Machine(layout)
    collector = Collector(machine, machine.release_region_text(form), hold=hold)
    if data.draw(st.booleans()):
        collector.step(*collector.heads)  # as a capture begins; else in any order at all
    for step in data.draw(durable_steps(machine.size)):
        collector.step(step)
    collector.step((0, machine.size))
    assert collector.step() == []
    assert collector.copy == machine.pristine
    targets, left = _expected(collector, hold=hold)
    assert targets - collector.freed == left


@settings(deadline=None, max_examples=60)
@given(layouts(), st.data())
def test_a_second_attempt_repeats_nothing(layout: Layout, data: st.DataObject) -> None:
    """Cut off after authorising, with releases made or not: the next attempt names none of it again, and loses nothing."""
    machine = Machine(layout)
    first = Collector(machine)
    for step in data.draw(durable_steps(machine.size)):
        first.step(step, perform=data.draw(st.booleans()))
    second = Collector(machine)
    second.gone, second.durable, second.copy = first.gone, first.durable, first.copy
    pieces = second.step()
    pieces += second.step((0, machine.size))
    assert not Ranges((start, start + length) for start, length in pieces) & first.gone
    assert second.copy == machine.pristine
    targets, left = _expected(second, hold=False)
    # Of what the first attempt authorised nobody knows; beside that, only the last page can lack one to reach it from.
    assert targets - second.freed <= left | second.pages(first.gone) | {max(targets, default=0)}


@settings(deadline=None, max_examples=60)
@given(layouts(ragged=False), st.data())
def test_unreadable_pages_are_held(layout: Layout, data: st.DataObject) -> None:
    """A page whose bytes could not be read is never freed, whatever else becomes durable around it."""
    bad = data.draw(st.sets(st.integers(layout.reserve // PAGE, layout.pages - 1), min_size=1, max_size=4))
    machine = Machine(layout)
    collector = Collector(machine)
    machine.bad_pages = {n for n in bad if machine.from_page(n) - collector.heads}
    readable = Ranges([(0, machine.size)]) - machine.unreadable
    for step in data.draw(durable_steps(machine.size)):
        collector.step(*(Ranges([step]) & readable))
    collector.step(*readable)
    assert not machine.bad_pages & collector.freed


@settings(deadline=None, max_examples=100)
@given(layouts(), st.data())
def test_nonsense_never_runs_away(layout: Layout, data: st.DataObject) -> None:
    """Whatever numbers stand for CPU, HPTE, first and second DUMP: no write below the reserve, past it, or twice."""
    number = st.integers(0, 2 * layout.end) | st.integers(2**64 - 2 * layout.end, 2**64 - 1)
    cpu, hpte, scratch = (f"{data.draw(number):#x}-{data.draw(number):#x}" for _ in range(3))
    text = f"CPU:{cpu}: HPTE:{hpte}: DUMP:{scratch}, {layout.reserve:#x}-{data.draw(number):#x}:\n"
    machine = Machine(layout)
    try:
        collector = Collector(machine, text, checked=False)
    except ValueError:
        return
    for step in data.draw(durable_steps(machine.size)):
        collector.step(step)
    collector.step((0, machine.size))
    kernel = machine.kernel
    assert not (kernel.below or kernel.beyond or kernel.runaway or kernel.double_released)


# A proof that cannot fail proves nothing: four maps with one rule taken out, and the machine finds the page they lose.


def _lost(order: str) -> set[int]:
    """The pages lost on a plain machine when the file becomes durable in file order, or with one part of it last."""
    layout = standard_layout(64, PAGE)
    form: Form = "one-line"
    if order == "low memory last, on a dump boot":
        # The one range that is known runs over the copy of which nothing is.
        layout, form = replace(layout, crashed=(layout.reserve, layout.end - layout.reserve)), "dump-boot"
    machine = Machine(layout)
    collector = Collector(machine, machine.release_region_text(form), checked=False)
    everything = Ranges([(0, machine.size)])
    last = Ranges()
    if order.startswith("low memory last"):
        last = Ranges((load.offset, load.offset + load.length) for load in collector.loads if load.address == 0)
    elif order == "headers and notes last":
        last = collector.heads
    for start, end in everything - last:
        for at in range(start, end, PAGE):
            collector.step((at, min(at + PAGE, end)))
    collector.step(*last)
    assert bool(collector.lost) is (collector.copy != machine.pristine)
    return collector.lost


def _without_overreach(monkeypatch: pytest.MonkeyPatch) -> None:
    def pieces(self: ReleaseMap, durable: Ranges, gone: Ranges) -> list[tuple[int, int]]:
        return [(start, end - start) for start, end in (self.freeable(durable) & self.target) - gone]

    monkeypatch.setattr(ReleaseMap, "pieces", pieces)


def _without_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release_map, "_copies", lambda scratch, loads: [])


def _without_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    build = ReleaseMap.build
    monkeypatch.setattr(
        ReleaseMap, "build", lambda areas, loads, heads, page, **more: build(areas, loads, Ranges(), page, **more)
    )


def _without_waiting_for_what_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    build = ReleaseMap.build

    def forgetful(*given: Any, **more: Any) -> ReleaseMap:
        the_map = build(*given, **more)
        the_map._before_all = Ranges()
        return the_map

    monkeypatch.setattr(ReleaseMap, "build", forgetful)


MUTANTS = {
    "in file order": _without_overreach,
    "low memory last": _without_scratch,
    "headers and notes last": _without_heads,
    "low memory last, on a dump boot": _without_waiting_for_what_is_unknown,
}


@pytest.mark.parametrize("order", MUTANTS)
def test_machine_catches_a_map_with_one_rule_missing(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The true map loses nothing in this order; without that one rule, bytes of the vmcore are gone."""
    assert _lost(order) == set()
    MUTANTS[order](monkeypatch)
    assert _lost(order) != set()
