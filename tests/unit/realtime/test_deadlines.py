"""Deadlines in steps: never too early, at most a step late."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zmqbroker.realtime.deadlines import STEP_NS, Deadlines


@given(st.lists(st.integers(0, 40 * STEP_NS // 4), max_size=20), st.data())
def test_deadlines_tell_each_item_once_not_early_and_at_most_a_step_late(times: list[int], data: st.DataObject) -> None:
    deadlines: Deadlines[int] = Deadlines()
    for item, at_ns in enumerate(times):
        deadlines.add(item, at_ns)
    gone = data.draw(st.sets(st.sampled_from(range(len(times))))) if times else set()
    for item in gone:
        deadlines.discard(item, times[item])
    told: list[int] = []
    for now_ns in range(0, 12 * STEP_NS, STEP_NS // 3):
        for item in deadlines.due(now_ns):
            assert now_ns - STEP_NS - STEP_NS // 3 <= times[item] <= now_ns
            told.append(item)
    assert sorted(told) == [item for item in range(len(times)) if item not in gone]


def test_deadlines_of_what_was_told_can_be_discarded_in_vain() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.add("a", 0)
    assert deadlines.due(STEP_NS) == ["a"]
    deadlines.discard("a", 0)
    assert deadlines.due(10 * STEP_NS) == []
