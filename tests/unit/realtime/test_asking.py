"""Calls at their caller's node: each one ends once, with the right end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqbroker.errors import Busy, DeadlineExceeded, NoResponder
from zmqbroker.realtime.asking import CALLS_PER_CALLER_MAX, Call, Calls, Ended, Failure
from zmqbroker.realtime.deadlines import STEP_NS

A, B, HERE = b"a", b"b", b""
NOBODY, GIVEN, BUSY = Failure(given=False, busy=False), Failure(given=True, busy=False), Failure(given=False, busy=True)


def opened(calls: Calls, nodes: set[bytes], request_id: int = 1, deadline_ns: int = 10) -> Call:
    call = calls.open(b"caller", request_id, set(nodes), deadline_ns, "token")
    assert call is not None
    return call


def error_of(ended: Ended | None) -> tuple[type | None, bool]:
    assert ended is not None
    return (type(ended.error), ended.error.outcome_unknown) if ended.error else (None, False)


def test_call_that_is_answered_ends_and_its_number_is_not_known_any_more() -> None:
    calls = Calls(10)
    call = opened(calls, {A})
    assert calls.get(call.number) is call
    assert calls.answered(call.number, A, 1, last=True) == (call, (), None)
    assert len(calls) == 0
    assert calls.get(call.number) is None
    with pytest.raises(KeyError):
        calls.answered(call.number, A, 1, last=True)
    assert calls.expire(10 * STEP_NS) == []


def test_call_answered_first_by_one_node_takes_nothing_from_the_others() -> None:
    calls = Calls(10)
    call = opened(calls, {A, B, HERE})
    assert calls.answered(call.number, A, 1, last=False) == (call, [HERE, B], None)
    with pytest.raises(KeyError):
        calls.answered(call.number, B, 1, last=True)
    assert calls.failed(call.number, B, NOBODY) is None
    assert calls.answered(call.number, A, 2, last=False) == (call, (), None)
    assert calls.answered(call.number, A, 3, last=True) == (call, (), None)
    assert len(calls) == 0


def test_call_takes_no_answer_from_a_node_that_was_not_asked() -> None:
    calls = Calls(10)
    call = opened(calls, {A})
    with pytest.raises(KeyError):
        calls.answered(call.number, B, 1, last=True)
    assert calls.failed(call.number, B, NOBODY) is None
    assert calls.failed(call.number + 1, A, NOBODY) is None
    assert len(calls) == 1


def test_call_with_a_part_lost_ends_with_an_unknown_outcome() -> None:
    calls = Calls(10)
    call = opened(calls, {A, B})
    found, nodes, error = calls.answered(call.number, A, 2, last=False)
    assert (found, list(nodes)) == (call, [B, A])
    assert isinstance(error, DeadlineExceeded)
    assert error.outcome_unknown
    assert len(calls) == 0


@pytest.mark.parametrize(
    ("failures", "error"),
    [
        ((NOBODY, NOBODY), (NoResponder, False)),
        ((NOBODY, BUSY), (Busy, False)),
        ((BUSY, GIVEN), (NoResponder, True)),
        ((GIVEN, NOBODY), (NoResponder, True)),
    ],
)
def test_call_that_nobody_can_answer_any_more_ends_at_once(failures: tuple[Failure, Failure], error: tuple[type, bool]) -> None:
    calls = Calls(10)
    call = opened(calls, {A, B})
    assert calls.failed(call.number, A, failures[0]) is None
    assert error_of(calls.failed(call.number, B, failures[1])) == error


def test_call_whose_node_is_gone_ends_with_an_unknown_outcome_if_no_other_is_left() -> None:
    calls = Calls(10)
    opened(calls, {A}, 1)
    both = opened(calls, {A, B}, 2)
    ended = calls.node_gone(A)
    assert [each.call.request_id for each in ended] == [1]
    assert error_of(ended[0]) == (NoResponder, True)
    assert both.asked == {B}


def test_call_whose_owner_fails_in_the_middle_of_its_answer_ends_with_an_unknown_outcome() -> None:
    calls = Calls(10)
    call = opened(calls, {A})
    calls.answered(call.number, A, 1, last=False)
    ended = calls.failed(call.number, A, GIVEN)
    assert error_of(ended) == (NoResponder, True)
    assert ended is not None
    assert "middle of its answer" in str(ended.error)


def test_call_expires_at_its_deadline_and_tells_whom_it_asked() -> None:
    calls = Calls(10)
    call = opened(calls, {A, B}, deadline_ns=STEP_NS)
    assert calls.expire(STEP_NS - 1) == []
    (ended,) = calls.expire(3 * STEP_NS)
    assert (ended.call, ended.nodes) == (call, [A, B])
    assert error_of(ended) == (DeadlineExceeded, True)


def test_call_given_up_by_its_caller_tells_whom_it_asked_and_nobody_else() -> None:
    calls = Calls(10)
    call = opened(calls, {A})
    assert calls.cancel(b"caller", 2) is None
    assert calls.cancel(b"stranger", 1) is None
    assert calls.cancel(b"caller", 1) == Ended(call, None, [A])
    first, second = opened(calls, {A}, 1), opened(calls, {B}, 2)
    assert calls.caller_gone(b"caller") == [Ended(first, None, [A]), Ended(second, None, [B])]
    assert calls.caller_gone(b"caller") == []
    assert len(calls) == 0


def test_call_repeated_while_it_is_under_way_is_no_other_call() -> None:
    calls = Calls(10)
    opened(calls, {A}, 1)
    assert calls.open(b"caller", 1, {A}, 10, None) is None
    assert len(calls) == 1


def test_call_without_responders_or_over_a_bound_is_refused_and_leaves_nothing() -> None:
    calls = Calls(CALLS_PER_CALLER_MAX + 1)
    with pytest.raises(NoResponder, match="nobody answers on that channel now"):
        calls.open(b"x", 1, set(), 10, None)
    for request_id in range(CALLS_PER_CALLER_MAX):
        opened(calls, {A}, request_id)
    with pytest.raises(
        Busy, match="1000 calls of this connection and 1000 of the node are under way, allowed are 1000 and 1001"
    ):
        opened(calls, {A}, CALLS_PER_CALLER_MAX)
    calls.open(b"other", 1, {A}, 10, None)
    with pytest.raises(Busy, match="0 calls of this connection and 1001"):
        calls.open(b"third", 1, {A}, 10, None)
    assert [call.caller for call in calls.waiting_since(calls.newest)] == [b"caller", b"other"]
    assert [call.caller for call in calls.waiting_since(calls.newest - 1)] == [b"caller"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("open", "answer", "part", "fail", "gone", "cancel", "leave", "expire")),
        st.integers(0, 7),
        st.sampled_from((A, B)),
    ),
    max_size=60,
)


@given(STEPS)
def test_calls_each_end_exactly_once_whatever_happens(steps: list[tuple[str, int, bytes]]) -> None:
    calls, parts = Calls(4), dict.fromkeys(range(100), 0)
    started: set[int] = set()
    over: list[int] = []

    def note(ended: list[Ended] | Ended | None) -> None:
        over.extend(each.call.number for each in (ended if isinstance(ended, list) else [ended]) if each)

    for now, (what, number, node) in enumerate(steps):
        match what:
            case "open":
                try:
                    call = calls.open(b"c%d" % (number % 2), number, {A, B} if number % 3 else {node}, now + number, None)
                except Busy:
                    call = None
                if call is not None:
                    started.add(call.number)
            case "answer" | "part":
                try:
                    calls.answered(number, node, parts[number] + 1, last=what == "answer")
                except KeyError:
                    continue
                parts[number] += 1
                over.extend([number] if what == "answer" else [])
            case "fail":
                note(calls.failed(number, node, NOBODY))
            case "gone":
                note(calls.node_gone(node))
            case "cancel":
                note(calls.cancel(b"c%d" % (number % 2), number))
            case "leave":
                note(calls.caller_gone(b"c%d" % (number % 2)))
            case _:
                note(calls.expire(now * STEP_NS))
    note(calls.caller_gone(b"c0"))
    note(calls.caller_gone(b"c1"))
    assert sorted(over) == sorted(started)
    assert len(calls) == 0
    assert calls.waiting_since(calls.newest) == []
