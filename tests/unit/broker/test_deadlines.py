"""Deadlines: order, ties and the memory of dead entries."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from zmqbroker.broker.deadlines import SLACK, Deadlines


def test_deadlines_equal_instants_fall_due_in_order_of_creation() -> None:
    deadlines = Deadlines()
    for order, instant in ((3, 50), (1, 50), (2, 40), (4, 51)):
        deadlines.add(order, instant)
    assert deadlines.take_due(50) == [2, 1, 3]
    assert deadlines.earliest() == 51


def test_deadlines_discarded_one_is_neither_earliest_nor_due() -> None:
    deadlines = Deadlines()
    deadlines.add(1, 10)
    deadlines.add(2, 20)
    deadlines.discard(1)
    assert deadlines.earliest() == 20
    deadlines.discard(2)
    assert deadlines.take_due(100) == []
    assert deadlines.earliest() is None


def test_deadlines_taken_one_may_be_discarded() -> None:
    deadlines = Deadlines()
    deadlines.add(1, 10)
    deadlines.take_due(10)
    deadlines.discard(1)
    assert deadlines.earliest() is None


def test_deadlines_many_discarded_keeps_the_heap_small() -> None:
    deadlines = Deadlines()
    deadlines.add(0, 1)
    for order in range(1, 10_000):
        deadlines.add(order, 1000)
        deadlines.discard(order)
    assert len(deadlines._heap) <= 2 + SLACK


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=200), st.integers(0, 30))
def test_deadlines_random_set_falls_due_sorted(instants: list[tuple[int, bool]], now: int) -> None:
    deadlines = Deadlines()
    for order, (instant, _) in enumerate(instants):
        deadlines.add(order, instant)
    for order, (_, discarded) in enumerate(instants):
        if discarded:
            deadlines.discard(order)
    left = sorted((instant, order) for order, (instant, discarded) in enumerate(instants) if not discarded)
    assert deadlines.earliest() == (left[0][0] if left else None)
    assert deadlines.take_due(now) == [order for instant, order in left if instant <= now]
    assert deadlines.earliest() == next((instant for instant, _ in left if instant > now), None)
