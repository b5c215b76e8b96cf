"""Range maps against a plain dict of single sequences."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zmqbroker.broker import ranges
from zmqbroker.broker.ranges import Range, RangeMap, SortedKeys, TrackedRangeMap, cut_from_list

SEQUENCE_MAX = 40

steps = st.lists(
    st.tuples(st.booleans(), st.integers(1, SEQUENCE_MAX), st.integers(0, 8), st.integers(0, 1)),
    max_size=60,
)


def runs(singles: dict[int, int]) -> list[Range[int]]:
    """The longest runs of neighbours with equal values."""
    found: list[Range[int]] = []
    for sequence in sorted(singles):
        value = singles[sequence]
        if found and found[-1].last == sequence - 1 and found[-1].value == value:
            found[-1] = Range(found[-1].first, sequence, value)
        else:
            found.append(Range(sequence, sequence, value))
    return found


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "CHUNK_MAX", 4)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_range_map_random_adds_and_cuts_equal_single_sequences(moves: list[tuple[bool, int, int, int]]) -> None:
    tracked: TrackedRangeMap[int] = TrackedRangeMap()
    singles: dict[int, int] = {}
    stored: dict[int, Range[int]] = {}
    for number, (adding, first, extra, value) in enumerate(moves):
        span = range(first, first + extra + 1)
        if adding and not any(sequence in singles for sequence in span):
            tracked.add(first, first + extra, value)
            singles |= dict.fromkeys(span, value)
        elif not adding:
            expected = list(tracked)
            cut_from_list(expected, first, first + extra)
            inside = {sequence: singles.pop(sequence) for sequence in span if sequence in singles}
            assert tracked.cut(first, first + extra) == runs(inside)
            assert list(tracked) == expected
        expected = runs(singles)
        assert list(tracked) == expected
        assert tracked.count == len(singles)
        assert tracked.overlaps(first, first + extra) == any(sequence in singles for sequence in span)
        assert tracked.overlapping(first, first + extra) == [r for r in expected if r.first <= span[-1] and r.last >= first]
        if number % 3 == 0:
            store_changes(tracked, stored)
            assert stored == {part.first: part for part in expected}


def store_changes(tracked: TrackedRangeMap[int], stored: dict[int, Range[int]]) -> None:
    """Bring `stored` up to date by nothing but the dirty keys."""
    for key in tracked.dirty.take():
        part = tracked.get(key)
        if part is None:
            del stored[key]  # fails for a key that was never stored: those must not be reported
        else:
            stored[key] = part


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 60)), max_size=120), st.integers(0, 61))
def test_sorted_keys_random_changes_equal_a_set(moves: list[tuple[bool, int]], probe: int) -> None:
    keys, expected = SortedKeys[int](), set[int]()
    for adding, key in moves:
        if adding and key not in expected:
            keys.add(key)
            expected.add(key)
        elif not adding and key in expected:
            keys.remove(key)
            expected.remove(key)
    assert list(keys.start_from(probe)) == sorted(key for key in expected if key >= probe)
    assert keys.floor(probe) == max((key for key in expected if key <= probe), default=None)
    assert [key for part in keys.parts_above(probe) for key in part] == sorted(key for key in expected if key > probe)


def test_range_map_add_over_a_present_range_trips_an_assert() -> None:
    ranges_map: RangeMap[int] = RangeMap()
    ranges_map.add(5, 9, 0)
    with pytest.raises(AssertionError):
        ranges_map.add(1, 5, 0)


def test_range_map_appended_neighbours_of_equal_value_are_one_range() -> None:
    ranges_map: RangeMap[int] = RangeMap()
    for first in range(1, 1001, 10):
        ranges_map.add(first, first + 9, 0)
    assert list(ranges_map) == [Range(1, 1000, 0)]


def test_next_range_from_a_sequence_on() -> None:
    ranges: RangeMap[int] = RangeMap()
    assert ranges.next_from(1) is None
    ranges.add(3, 5, 0)
    ranges.add(8, 8, 0)
    found = [ranges.next_from(low) for low in (1, 3, 5, 6, 8, 9)]
    assert found == [Range(3, 5, 0), Range(3, 5, 0), Range(3, 5, 0), Range(8, 8, 0), Range(8, 8, 0), None]


def test_keys_are_true_while_there_is_one() -> None:
    keys = SortedKeys()
    assert not keys
    keys.add(1)
    assert keys
    keys.remove(1)
    assert not keys


# --- looking for the first of what rises ------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 4), max_size=40), st.integers(0, 50), st.integers(2, 5))
def test_first_where_and_floor_are_those_of_a_look_at_all(lengths: list[int], wanted: int, chunk_max: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("zmqbroker.broker.ranges.CHUNK_MAX", chunk_max)
        some, low = RangeMap[int](), 1
        for place, length in enumerate(lengths):
            some.add(low, low + length - 1, place // 2)
            low += length + 1
    found = list(some)
    assert some.first_where(lambda value: value >= wanted) == next((part for part in found if part.value >= wanted), None)
    assert some.floor(wanted) == next((part for part in reversed(found) if part.first <= wanted), None)
