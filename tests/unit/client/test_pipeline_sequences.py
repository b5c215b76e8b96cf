"""Batches whose sequences the channel does not expect: the producer's, or the channel's (PROTOCOL §3 and §4)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.client.fakes import FakeProducer
from tests.unit.client.simulation import MS, Simulation
from tests.unit.client.test_pipeline import batches, pipeline_of, ready, stored
from zmqbroker.client.batch import read_sent
from zmqbroker.client.message import SendResult
from zmqbroker.client.pipeline import Pipeline
from zmqbroker.errors import (
    DeadlineExceeded,
    NotLeader,
    OutOfSequence,
    RemoteProtocolError,
    RequestError,
    SequenceMismatch,
    StorageFull,
)
from zmqbroker.wire.frames import Reply, encode_header, error_fields


def send_if(simulation: Simulation, pipeline: Pipeline, token: Any, expected: int, timeout_ms: int = 30_000) -> None:
    """Append a message that is only for a channel with that last sequence."""
    simulation.append(pipeline, [(token, str(token).encode())], timeout_ms, expected)
    simulation.run(0)


def lose_answers(simulation: Simulation, *, lost: bool) -> None:
    """Whether SENT is lost on its way."""
    simulation.lose_reply = lambda endpoint, frames: lost and frames[0][3] == Reply.SENT


# --- the producer's ----------------------------------------------------------------------------------------------------


def test_batch_behind_one_that_was_refused_is_sent_again_with_it() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    simulation.nodes[simulation.endpoints[0]].refusals.append(NotLeader("no", leader=None))
    for number in range(3):
        simulation.send(pipeline, number)
    simulation.run(500)
    assert stored(simulation) == ["first", "0", "1", "2"]
    assert len(simulation.broker.channel("q").producers) == 1, "OUT_OF_SEQUENCE of the others was a gap and nothing else"


def test_gap_alone_sends_again_what_is_missing() -> None:
    """The answer that a first batch was refused is lost; only the gap is heard of."""
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    simulation.lose_request = lambda endpoint, frames: len(batches(simulation)) == 1 and frames[0][3] == 5
    simulation.send(pipeline, 0)
    simulation.run(5)
    simulation.lose_request = lambda endpoint, frames: False
    simulation.send(pipeline, 1)
    simulation.run(100)
    assert stored(simulation) == ["first", "0", "1"]
    assert len(simulation.broker.channel("q").producers) == 1


def test_channel_that_is_behind_gets_a_new_producer() -> None:
    """A backup was restored: it knows the producer, and not its last batches."""
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    channel = simulation.broker.channel("q")
    channel.messages.clear()
    for number in channel.producers:
        channel.producers[number] = FakeProducer()
    for number in range(3):
        simulation.send(pipeline, number)
    simulation.run(500)
    assert stored(simulation) == ["0", "1", "2"]
    assert [simulation.result(number).sequence for number in range(3)] == [1, 2, 3]
    assert len(channel.producers) == 2


def test_channel_that_is_ahead_gets_a_new_producer() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    for producer in simulation.broker.channel("q").producers.values():
        producer.last = 50
    simulation.send(pipeline, 0)
    simulation.run(500)
    assert simulation.result(0).sequence == 2


def test_channel_that_is_behind_after_a_lost_answer_leaves_the_outcome_unknown() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    lose_answers(simulation, lost=True)
    simulation.send(pipeline, 0)
    simulation.run(5)
    lose_answers(simulation, lost=False)
    channel = simulation.broker.channel("q")
    for number in channel.producers:
        channel.producers[number] = FakeProducer()
    simulation.cut(simulation.endpoints[0])
    simulation.run(500)
    error = simulation.result(0)
    assert isinstance(error, OutOfSequence)
    assert (error.outcome_unknown, error.retryable) == (True, False)


def test_answer_of_an_attempt_elsewhere_changes_nothing() -> None:
    simulation = Simulation(2)
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    simulation.hung.add(simulation.endpoints[0])
    simulation.send(pipeline, 0)
    simulation.run(1)
    [request_id] = simulation.session._batches
    late = encode_header(Reply.ERROR, request_id, error_fields(OutOfSequence("late", expected=1)))
    simulation.session.received(simulation.endpoints[1], [late], simulation.now_ns)
    simulation.hung.clear()
    simulation.run(10_000)
    assert stored(simulation) == ["first", "0"]
    assert isinstance(simulation.result(0), SendResult)
    assert len(simulation.broker.channel("q").producers) == 1


# --- the channel's -----------------------------------------------------------------------------------------------------


def test_conditional_send_is_stored_alone_and_what_follows_waits_for_it() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation, linger_ns=MS)
    simulation.append(pipeline, [("a", b"a")])
    simulation.append(pipeline, [("b", b"b")], expected=1)
    simulation.append(pipeline, [("c", b"c")])
    simulation.append(pipeline, [("d", b"d")])
    simulation.append(pipeline, [("e", b"e")], expected=4)
    simulation.run(100)
    assert stored(simulation) == ["a", "b", "c", "d", "e"]
    assert [count for _, _, count in batches(simulation)] == [1, 1, 2, 1]


def test_conditional_send_that_is_refused_frees_its_number() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    send_if(simulation, pipeline, "late", 0)
    simulation.send(pipeline, "next")
    simulation.run(100)
    error = simulation.result("late")
    assert isinstance(error, SequenceMismatch)
    assert (error.expected, error.last_sequence, error.outcome_unknown) == (0, 1, False)
    assert stored(simulation) == ["first", "next"]
    assert len({producer for producer, _, _ in batches(simulation)}) == 1
    assert [base for _, base, _ in batches(simulation)] == [1, 2, 2]


def test_conditional_send_whose_answer_was_lost_gets_the_first_result() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    lose_answers(simulation, lost=True)
    send_if(simulation, pipeline, "a", 1)
    simulation.run(5)
    lose_answers(simulation, lost=False)
    simulation.cut(simulation.endpoints[0])
    simulation.run(200)
    assert (simulation.result("a").sequence, simulation.result("a").duplicate) == (2, True)


def test_conditional_send_whose_request_was_lost_is_certainly_not_stored_when_the_channel_has_passed_it() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    simulation.lose_request = lambda endpoint, frames: frames[0][3] == 5
    send_if(simulation, pipeline, "a", 1)
    simulation.run(5)
    simulation.lose_request = lambda endpoint, frames: False
    simulation.broker.channel("q").messages *= 2  # somebody else sends
    simulation.cut(simulation.endpoints[0])
    simulation.run(200)
    error = simulation.result("a")
    assert isinstance(error, SequenceMismatch)
    assert not error.outcome_unknown
    simulation.send(pipeline, "b")
    simulation.run(20)
    assert stored(simulation) == ["first", "first", "b"]


def test_conditional_send_that_may_yet_be_stored_has_an_unknown_outcome() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    simulation.lose_request = lambda endpoint, frames: frames[0][3] == 5
    send_if(simulation, pipeline, "a", 7)  # which the channel has not reached: a late attempt may still find it there
    simulation.run(5)
    simulation.lose_request = lambda endpoint, frames: False
    simulation.cut(simulation.endpoints[0])
    simulation.run(200)
    assert simulation.result("a").outcome_unknown
    simulation.send(pipeline, "b")
    simulation.run(200)
    assert stored(simulation) == ["first", "b"]


def test_conditional_send_past_its_deadline_lets_the_others_go_on() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    simulation.nodes[simulation.endpoints[0]].refusals += [StorageFull("full")] * 50
    send_if(simulation, pipeline, "a", 1, timeout_ms=300)
    simulation.send(pipeline, "b")
    simulation.run(20_000)
    assert isinstance(simulation.result("a"), StorageFull | DeadlineExceeded)
    assert stored(simulation)[-1] == "b"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "send if", "send if", "lose answers", "lose requests", "keep", "cut", "lead"]),
        st.integers(0, 2),
        st.integers(0, 90),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS, timeouts=st.lists(st.sampled_from([100, 3_000, 600_000]), min_size=1, max_size=3))
def test_conditional_sends_under_any_faults_never_lie(steps: list[tuple[str, int, int]], timeouts: list[int]) -> None:
    simulation = Simulation(3)
    pipeline = pipeline_of(simulation, linger_ns=MS, batch_messages=3)
    expected: list[int | None] = []
    for term, (action, number, pause_ms) in enumerate(steps, 2):
        match action:
            case "send" | "send if":
                token, last = len(expected), len(simulation.broker.channel("q").messages)
                expected.append(max(0, last + 1 - number) if action == "send if" else None)
                timeout_ms = timeouts[token % len(timeouts)]
                simulation.append(pipeline, [(token, b"%d" % token)], timeout_ms, expected[-1])
            case "lose answers":
                lose_answers(simulation, lost=True)
            case "lose requests":
                simulation.lose_request = lambda endpoint, frames: frames[0][3] == 5
            case "keep":
                lose_answers(simulation, lost=False)
                simulation.lose_request = lambda endpoint, frames: False
            case "cut":
                simulation.cut(simulation.endpoints[number])
            case "lead":
                simulation.lead(simulation.endpoints[number], term)
        simulation.run(pause_ms)
    lose_answers(simulation, lost=False)
    simulation.lose_request = lambda endpoint, frames: False
    simulation.run(20_000)
    found = [int(body) for body in stored(simulation)]
    assert len(found) == len(set(found)), "stored twice"
    for token, place in enumerate(expected):
        end = simulation.result(token)
        if isinstance(end, SendResult):
            assert found[end.sequence - 1] == token
            assert place in (None, end.sequence - 1), "stored in another place"
        elif isinstance(end, RequestError) and not end.outcome_unknown:
            assert token not in found, f"{token} is stored, but {end!r} says that it is not"
    assert simulation.session._batches == {}


# --- what SENT says ------------------------------------------------------------------------------------------------------


def test_duplicates_are_told_message_by_message() -> None:
    fields = {"sequence": 7, "count": 6, "time_unix_ns": 1, "duplicates": [[0, 3], [2, 4], [5, 7]]}
    sent = read_sent(fields, 6)
    assert [dict(sent.duplicates(place, 2)) for place in (0, 2, 4)] == [{0: 3}, {0: 4}, {1: 7}]
    assert sent.duplicates(3, 2) == {}
    assert read_sent({**fields, "duplicates": []}, 6).duplicates(0, 6) == {}


@pytest.mark.parametrize(
    "duplicates",
    [None, {}, 5, [5], [[0]], [[0, 1, 2]], [[0, "1"]], [[0, True]], [[-1, 3]], [[2, 3]], [[1, 3], [0, 3]], [[0, 3], [0, 3]]],
)
def test_duplicates_that_cannot_be_are_the_nodes_fault(duplicates: object) -> None:
    with pytest.raises(RemoteProtocolError, match="SENT for 2 messages says"):
        read_sent({"sequence": 1, "count": 2, "time_unix_ns": 1, "duplicates": duplicates}, 2)


def test_result_of_a_duplicate_names_the_message_that_is_stored() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation, linger_ns=5 * MS)
    ready(simulation, pipeline)
    simulation.hung.add(simulation.endpoints[0])
    simulation.append(pipeline, [("a", b"a"), ("b", b"b")])
    simulation.append(pipeline, [("c", b"c")])
    simulation.run(10)
    [request_id] = simulation.session._batches
    fields = {"sequence": 5, "count": 3, "time_unix_ns": 1, "confirm": "quorum", "duplicates": [[1, 2], [2, 1]]}
    simulation.session.received(simulation.endpoints[0], [encode_header(Reply.SENT, request_id, fields)], simulation.now_ns)
    simulation.run(1)
    results = [simulation.result(token) for token in "abc"]
    assert [(result.sequence, result.duplicate_of, result.duplicate) for result in results] == [
        (5, 0, False),
        (6, 2, False),
        (7, 1, False),
    ]
