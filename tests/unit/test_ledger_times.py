"""Anchors and doubtful times: what witnesses and other actors had seen, and what a lying clock can and cannot do."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from dumpvault.flows.ledger_times import SLACK, Column, Times, judge_times

NOW = 1_000_000_000
DAY = 24 * 3600
NEVER = lambda number, at: ""  # noqa: E731

#: Time, seen, keys, collected, flagged.
Entry = tuple[int, int, tuple[int, ...], bool, bool]


def entry(time: int, seen: int = 0, *keys: int, collected: bool = False, flagged: bool = False) -> Entry:
    return time, seen, keys or (0,), collected, flagged


def judge(
    *entries: Entry, vouched: tuple[tuple[int, int], ...] = (), ended: Callable[[int, int], str] = NEVER
) -> Times:
    column = Column()
    for time, seen, keys, collected, flagged in entries:
        column.add(time, seen, keys, collected=collected, flagged=flagged)
    return judge_times(column, vouched, ended, NOW)


def ends(key_of: list[int], key: int, end: int) -> Callable[[int, int], str]:
    """The key ends at ``end``."""
    return lambda number, at: "ended" if key_of[number] == key and at >= end else ""


def test_a_witness_anchors_what_its_checkpoint_covers() -> None:
    told = judge(entry(10), entry(20), entry(30), vouched=((2, 25), (3, 35), (1, 90)))
    assert list(told.anchors) == [25, 25, 35]
    assert not told.doubts


def test_another_key_s_entry_anchors_what_it_had_seen_and_its_own_does_not() -> None:
    told = judge(entry(10, 0, 1), entry(20, 1, 1), entry(30, 1, 2), entry(40, 2, 2))
    assert list(told.anchors) == [30, 40, -1, -1]
    told = judge(entry(10, 0, 1), entry(20, 1, 1, 2), entry(30, 1, 2, 1))
    assert list(told.anchors) == [-1, -1, -1], "who shares a key with it is not another"


def test_an_ended_key_counts_where_it_was_seen_in_time() -> None:
    keys = [1, 2, 1]
    told = judge(entry(10, 0, 1), entry(20, 1, 2), entry(30, 2, 1), ended=ends(keys, 1, 25))
    assert told.ended == {2: "ended"}
    told = judge(entry(10, 0, 1), entry(26, 1, 2), entry(30, 2, 1), ended=ends(keys, 1, 25))
    assert told.ended == {0: "ended", 2: "ended"}


def test_a_false_clock_cannot_make_an_ended_key_good() -> None:
    """A thief of an ended key, and an actor who says that it was long ago, behind honest entries of today."""
    today = NOW - 100
    keys = [3, 1, 2]
    told = judge(entry(today, 0, 3), entry(50, 0, 1), entry(60, 2, 2), ended=ends(keys, 1, 1000))
    assert told.ended == {1: "ended"}
    assert told.doubts == {2: "back-dated: entries before it name later times"}


def test_times_that_cannot_be() -> None:
    late = NOW + SLACK
    told = judge(entry(late), entry(late + 1), entry(NOW), entry(NOW - DAY - 1), entry(5, collected=True))
    assert [number for number, why in told.doubts.items() if why.startswith("post")] == [1]
    assert [number for number, why in told.doubts.items() if why.startswith("back")] == [3]
    told = judge(entry(500 + SLACK + 1), entry(20), vouched=((1, 500),))
    assert list(told.doubts) == [0], "what a witness disproves makes nobody else back-dated"
    told = judge(entry(NOW - 10, collected=True), entry(20))
    assert not told.doubts, "the clock of a crash kernel says nothing of others"


def test_flagged_entries_say_nothing() -> None:
    told = judge(entry(10, 0, 1), entry(20, 1, 2, flagged=True), entry(NOW, 0, 3, flagged=True), entry(30, 0, 2))
    assert list(told.anchors) == [-1] * 4
    assert not told.doubts


@given(
    st.lists(st.tuples(st.integers(0, NOW + 2 * DAY), st.integers(0, 12), st.integers(0, 3)), max_size=12),
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, NOW)), max_size=4),
    st.integers(0, NOW),
)
def test_anchors_by_definition(rows: list[tuple[int, int, int]], vouched: list[tuple[int, int]], end: int) -> None:
    """The same as the page says it, word by word and without a plan."""
    entries = [entry(time, min(seen, number), key) for number, (time, seen, key) in enumerate(rows)]
    keys = [key for _, _, key in rows]
    told = judge(*entries, vouched=tuple(vouched), ended=ends(keys, 1, end))
    outside = [min((when for size, when in vouched if size > n), default=-1) for n in range(len(rows))]
    post = {
        n for n, (time, _, _) in enumerate(rows)
        if time > NOW + SLACK or (outside[n] >= 0 and time > outside[n] + SLACK)
    }  # fmt: skip
    back, latest, latest_at = set(), 0, []
    for n, (time, _, _) in enumerate(rows):
        latest_at.append(latest)
        if n in post:
            continue
        if time < latest - SLACK:
            back.add(n)
        else:
            latest = max(latest, time)
    ended: set[int] = set()
    for n in range(len(rows) - 1, -1, -1):
        inside = [
            max(rows[m][0], latest_at[m]) for m in range(n + 1, len(rows))
            if m not in ended | post | back and entries[m][1] > n and keys[m] != keys[n]
        ]  # fmt: skip
        anchor = min([*inside, *([outside[n]] if outside[n] >= 0 else [])], default=-1)
        assert told.anchors[n] == anchor
        if keys[n] == 1 and (NOW if anchor < 0 else min(NOW, anchor)) >= end:
            ended.add(n)
    assert set(told.ended) == ended
    assert set(told.doubts) == (post | back) - ended
