"""Lengths are counted within a sixteenth of what they were, in a bounded number of counts."""

from __future__ import annotations

from typing import Any

import pytest

from zmqbroker.server.durations import Durations, Histogram, timed

LONGEST_US = 67_108_863


def fields_of(*lengths_us: int) -> Any:
    """NODE's fields of these lengths."""
    histogram = Histogram()
    for length_us in lengths_us:
        histogram.note(length_us * 1000 + 999)
    return histogram.fields()


def test_histogram_of_nothing_has_no_buckets() -> None:
    assert fields_of() == {"count": 0, "sum_us": 0, "buckets": []}


def test_histogram_counts_lengths_by_ascending_bounds() -> None:
    found = fields_of(1000, 31, 31, 0, 1001)
    assert found == {"count": 5, "sum_us": 2063, "buckets": [[0, 1], [31, 2], [1023, 2]]}


@pytest.mark.parametrize(
    "length_us", [0, 1, 15, 16, 31, 32, 33, 34, 63, 64, 65, 1000, 65_535, 65_536, LONGEST_US - 1, LONGEST_US]
)
def test_histogram_bound_is_at_most_a_sixteenth_above_the_length(length_us: int) -> None:
    ((bound, count),) = fields_of(length_us)["buckets"]
    assert count == 1
    assert length_us <= bound <= length_us * 17 / 16


def test_histogram_longer_than_the_longest_counts_as_that() -> None:
    assert fields_of(LONGEST_US + 1, 1 << 40)["buckets"] == [[LONGEST_US, 2]]


def test_histogram_bounds_do_not_overlap_and_are_few() -> None:
    lengths_us = [base << shift for shift in range(27) for base in range(1, 64)]
    buckets = fields_of(*lengths_us)["buckets"]
    assert len(buckets) < 400
    for bound, _ in buckets:
        (same,) = fields_of(bound)["buckets"]
        above = fields_of(bound + 1)["buckets"][0][0]
        assert (same[0], above > bound) == (bound, bound < LONGEST_US)


def test_durations_have_a_histogram_for_each_name() -> None:
    durations = Durations()
    durations.state_flush.note(5_000)
    found: Any = durations.fields()
    assert {name: fields["count"] for name, fields in found.items()} == {
        "log_write": 0,
        "state_flush": 1,
        "bodies_stored": 0,
        "bodies_dropped": 0,
    }


def test_timed_counts_what_ends_and_not_what_fails() -> None:
    histogram = Histogram()
    with timed(histogram):
        pass
    with pytest.raises(ZeroDivisionError), timed(histogram):
        raise ZeroDivisionError
    assert histogram.fields()["count"] == 1
