"""Producers: numbering, batches, go-back-N and what becomes of batches that are given up (PROTOCOL §4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.client.fakes import busy
from tests.unit.client.simulation import MS, Simulation
from zmqbroker.client.message import SendResult
from zmqbroker.client.parcel import OVERHEAD_BYTES, Parcel
from zmqbroker.client.pipeline import FOREVER_NS, Pipeline, PipelineSettings
from zmqbroker.errors import (
    Busy,
    DeadlineExceeded,
    Duplicate,
    MessageTooLarge,
    NoMajority,
    NotLeader,
    RemoteProtocolError,
    RequestError,
    StorageFull,
    UnknownProducer,
)
from zmqbroker.wire.batch import BATCH_MARGIN
from zmqbroker.wire.codec import decode_batch
from zmqbroker.wire.columns import Treatment
from zmqbroker.wire.frames import Reply, encode_header
from zmqbroker.wire.requests import OpenProducerRequest, SendBatch


def pipeline_of(simulation: Simulation, **options: Any) -> Pipeline:
    """A producer for channel q."""
    return simulation.session.pipeline("q", PipelineSettings(**options))


def batches(simulation: Simulation) -> list[tuple[int, int, int]]:
    """(producer, base sequence, count) of every batch that the first node has seen."""
    seen = simulation.nodes[simulation.endpoints[0]].seen
    headers = [decode_batch(request.batch).header for request in seen if isinstance(request, SendBatch)]
    return [(header.producer, header.base_sequence, header.count) for header in headers]


def stored(simulation: Simulation) -> list[str]:
    """Bodies of channel q."""
    return [body.decode() for body in simulation.broker.channel("q").bodies]


def ready(simulation: Simulation, pipeline: Pipeline) -> None:
    """Open the producer with a first message."""
    simulation.send(pipeline, "first")
    simulation.run(20)
    assert simulation.result("first").sequence == 1


def test_pipeline_first_send_opens_a_producer_and_numbers_from_one() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation)
    for number in range(3):
        simulation.send(pipeline, number)
        simulation.run(20)
    opened = [one for one in simulation.nodes[simulation.endpoints[0]].seen if isinstance(one, OpenProducerRequest)]
    assert len(opened) == 1
    assert batches(simulation) == [(opened[0].producer, base, 1) for base in (1, 2, 3)]
    assert simulation.result(2) == SendResult(3, 3, False, "quorum")


def test_pipeline_linger_fills_one_batch() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation, linger_ns=30 * MS)
    for number in range(3):
        simulation.send(pipeline, number)
        simulation.run(5)
    assert batches(simulation) == []
    simulation.run(20)
    assert [count for _, _, count in batches(simulation)] == [3]


@pytest.mark.parametrize(
    ("options", "counts"),
    [({"batch_messages": 2}, [2, 2]), ({"batch_bytes": 3 * (1 + OVERHEAD_BYTES)}, [3, 1]), ({"batch_bytes": 1}, [1, 1, 1, 1])],
)
def test_pipeline_full_batch_goes_before_its_linger(options: dict[str, int], counts: list[int]) -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation, linger_ns=1000 * MS, **options)
    for number in range(4):
        simulation.send(pipeline, number)
    simulation.run(1_100)
    assert [count for _, _, count in batches(simulation)] == counts


def test_pipeline_full_batch_fits_the_smallest_limit_whatever_columns_it_has() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation, batch_bytes=1_000_000, batch_messages=65_535)
    parcel = Parcel([], 0, simulation.now_ns, simulation.now_ns + 10_000 * MS)
    parcel.append(b"", b"i", b"h", Treatment(1, 2, 3, "g"))  # all others have these columns too
    while parcel.size + OVERHEAD_BYTES <= 1_000_000:
        parcel.append(b"", b"", b"")
    parcel.seal()
    pipeline.append(parcel)
    simulation.session.activate(pipeline)
    simulation.run(100)
    seen = simulation.nodes[simulation.endpoints[0]].seen
    (size,) = [len(request.batch) for request in seen if isinstance(request, SendBatch)]
    smallest = 1 << 10  # `limits.message_bytes_max` may be that
    assert 1_000_000 < size <= smallest + BATCH_MARGIN


def test_parcel_counts_all_that_a_message_takes_in_a_batch() -> None:
    parcel = Parcel([], 0, 0, 0)
    parcel.append(b"body", b"id", b"h", Treatment(group="é"))
    assert parcel.size == 4 + 2 + 1 + 2 + OVERHEAD_BYTES


def test_pipeline_what_a_full_batch_leaves_lingers() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation, linger_ns=1000 * MS, batch_messages=2)
    for number in range(3):
        simulation.send(pipeline, number)
    simulation.run(900)
    assert [count for _, _, count in batches(simulation)] == [2]


def test_pipeline_flush_does_not_linger() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation, linger_ns=1000 * MS)
    pipeline.flushing = True
    simulation.send(pipeline, "a")
    simulation.run(20)
    assert simulation.result("a").sequence == 1
    assert not pipeline.flushing


def test_pipeline_window_full_gathers_what_waits() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation, window=2)
    ready(simulation, pipeline)
    for number in range(10):
        simulation.send(pipeline, number)
    simulation.run(50)
    assert [count for _, _, count in batches(simulation)] == [1, 1, 1, 8]
    assert stored(simulation) == ["first", *map(str, range(10))]


def test_pipeline_room_is_bounded_but_never_zero() -> None:
    pipeline = Pipeline("q", PipelineSettings(pending_bytes_max=100), [], {})
    assert pipeline.has_room(1 << 30)
    pipeline.append(Parcel([b"x" * 50], 66, 0, 10))
    assert pipeline.has_room(34)
    assert not pipeline.has_room(35)


def test_pipeline_ids_and_headers_travel() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation, linger_ns=MS)
    extras = [(b"", b""), (b"one", b""), (b"", b"\x80"), (b"", b"")]
    for some in (extras[:3], extras[3:]):
        parcel = Parcel([], 0, simulation.now_ns, simulation.now_ns + 1000 * MS)
        places = [parcel.append(b"body", id, headers) for id, headers in some]
        assert places == list(range(len(some)))
        parcel.seal()
        pipeline.append(parcel)
    simulation.session.activate(pipeline)
    simulation.run(20)
    messages = simulation.broker.channel("q").messages
    assert [(message.id, message.headers) for message in messages] == extras
    assert [count for _, _, count in batches(simulation)] == [4]


@pytest.mark.parametrize("error", [busy(), NotLeader("no", leader=None), NoMajority("no"), StorageFull("full")])
def test_pipeline_refused_batch_is_sent_again_before_later_ones(error: RequestError) -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    simulation.nodes[simulation.endpoints[0]].refusals.append(error)
    for number in range(5):
        simulation.send(pipeline, number)
    simulation.run(500)
    assert stored(simulation) == ["first", "0", "1", "2", "3", "4"]
    assert [base for _, base, _ in batches(simulation)] == [1, 2, 3, 4, 5, 6, 2, 3, 4, 5, 6]
    assert simulation.result(4).sequence == 6


def test_pipeline_connection_lost_sends_all_again_with_the_same_boundaries() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    simulation.lose_reply = lambda endpoint, frames: frames[0][3] == Reply.SENT
    for number in range(3):
        simulation.send(pipeline, number)
    simulation.run(5)
    simulation.lose_reply = lambda endpoint, frames: False
    simulation.cut(simulation.endpoints[0])
    simulation.run(200)
    assert stored(simulation) == ["first", "0", "1", "2"]
    assert [simulation.result(number).duplicate for number in range(3)] == [True, True, True]
    assert [base for _, base, _ in batches(simulation)] == [1, 2, 3, 4, 2, 3, 4]


def test_pipeline_one_reply_lost_on_a_living_connection_asks_again() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    lost: list[bytes] = []

    def lose(endpoint: str, frames: list[bytes]) -> bool:
        if frames[0][3] == Reply.SENT and not lost:
            lost.append(frames[0])
            return True
        return False

    simulation.lose_reply = lose
    for number in range(3):
        simulation.send(pipeline, number)
    simulation.run(6_000)
    assert stored(simulation) == ["first", "0", "1", "2"]
    assert simulation.result(0).duplicate
    assert not simulation.result(1).duplicate


def test_pipeline_leader_moves_goes_on_with_the_same_producer() -> None:
    simulation = Simulation(3)
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    simulation.kill(simulation.endpoints[0])
    simulation.lead(None, 1)
    for number in range(5):
        simulation.send(pipeline, number)
    simulation.run(300)
    simulation.lead(simulation.endpoints[1], 2)
    simulation.run(300)
    assert stored(simulation) == ["first", "0", "1", "2", "3", "4"]
    assert len(simulation.broker.channel("q").producers) == 1


@pytest.mark.parametrize("window", [2, 64])
def test_pipeline_evicted_producer_is_replaced_unseen_when_nothing_was_lost(window: int) -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation, window=window)
    ready(simulation, pipeline)
    simulation.broker.channel("q").producers.clear()
    for number in range(5):
        simulation.send(pipeline, number)
    simulation.run(500)
    assert stored(simulation) == ["first", "0", "1", "2", "3", "4"]
    assert not any(isinstance(simulation.result(number), RequestError) for number in range(5))


def test_pipeline_evicted_producer_with_lost_attempts_fails_them_as_unknown() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation, window=2)
    ready(simulation, pipeline)
    simulation.lose_reply = lambda endpoint, frames: frames[0][3] == Reply.SENT
    for number in range(5):
        simulation.send(pipeline, number)
    simulation.run(5)
    simulation.lose_reply = lambda endpoint, frames: False
    simulation.broker.channel("q").producers.clear()
    simulation.cut(simulation.endpoints[0])
    simulation.run(500)
    assert [type(simulation.result(number)) for number in range(5)] == [UnknownProducer] * 2 + [SendResult] * 3
    assert simulation.result(0).outcome_unknown
    assert simulation.result(0) is not simulation.result(1)
    assert stored(simulation) == ["first", "0", "1", "2", "3", "4"]


def test_pipeline_refused_for_good_fails_that_batch_alone() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    simulation.nodes[simulation.endpoints[0]].refusals.append(MessageTooLarge("too large", size=9, limit=8))
    for number in range(4):
        simulation.send(pipeline, number)
    simulation.run(500)
    assert isinstance(simulation.result(0), MessageTooLarge)
    assert stored(simulation) == ["first", "1", "2", "3"]
    assert len(simulation.broker.channel("q").producers) == 2


def test_pipeline_refused_for_good_in_the_middle_keeps_the_order() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    node = simulation.nodes[simulation.endpoints[0]]
    simulation.send(pipeline, 0)
    simulation.send(pipeline, 1)
    simulation.lose_reply = lambda endpoint, frames: frames[0][3] == Reply.SENT
    simulation.run(2)
    node.refusals.append(MessageTooLarge("too large", size=9, limit=8))
    for number in range(2, 6):
        simulation.send(pipeline, number)
    simulation.run(10)
    assert isinstance(simulation.result(2), MessageTooLarge)
    simulation.lose_reply = lambda endpoint, frames: False
    simulation.run(6_000)
    assert stored(simulation) == ["first", "0", "1", "3", "4", "5"]
    assert simulation.ended() == {"first", 0, 1, 2, 3, 4, 5}


def test_pipeline_duplicate_keeps_its_place() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    simulation.hung.add(simulation.endpoints[0])
    simulation.send(pipeline, "a")
    simulation.hung.clear()
    [request_id] = simulation.session._batches
    refusal = {"code": "DUPLICATE", "message": "stored long ago"}
    simulation.session.received(simulation.endpoints[0], [encode_header(Reply.ERROR, request_id, refusal)], simulation.now_ns)
    simulation.run(20)
    assert isinstance(simulation.result("a"), Duplicate)
    simulation.send(pipeline, "b")
    simulation.run(20)
    assert stored(simulation) == ["first", "a", "b"]
    assert len(simulation.broker.channel("q").producers) == 1


@pytest.mark.parametrize("wrong", [{"sequence": "x"}, {"time_unix_ns": None}, {"count": 2}])
def test_pipeline_sent_reply_that_does_not_fit_is_the_nodes_fault(wrong: dict[str, Any]) -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    simulation.hung.add(simulation.endpoints[0])
    simulation.send(pipeline, "a")
    [request_id] = simulation.session._batches
    fields = {"sequence": 2, "count": 1, "time_unix_ns": 5, **wrong}
    simulation.session.received(simulation.endpoints[0], [encode_header(Reply.SENT, request_id, fields)], simulation.now_ns)
    simulation.run(1)
    assert isinstance(simulation.result("a"), RemoteProtocolError)


def test_pipeline_deadline_never_sent_was_not_stored() -> None:
    simulation = Simulation(1)
    simulation.down.add(simulation.endpoints[0])
    pipeline = pipeline_of(simulation)
    simulation.send(pipeline, "short", timeout_ms=100)
    simulation.send(pipeline, "long", timeout_ms=5_000)
    simulation.run(300)
    assert isinstance(simulation.result("short"), DeadlineExceeded)
    assert not simulation.result("short").outcome_unknown
    simulation.down.clear()
    simulation.run(500)
    assert stored(simulation) == ["long"]


def test_pipeline_deadline_with_an_attempt_lost_is_unknown_and_later_ones_follow_it() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    simulation.hung.add(simulation.endpoints[0])
    simulation.send(pipeline, "short", timeout_ms=100)
    simulation.send(pipeline, "long", timeout_ms=20_000)
    simulation.run(300)
    assert isinstance(simulation.result("short"), DeadlineExceeded)
    assert simulation.result("short").outcome_unknown
    simulation.hung.clear()
    simulation.run(6_000)
    assert stored(simulation) == ["first", "short", "long"]
    assert simulation.result("long").sequence == 3
    assert simulation.session._batches == {}


def test_pipeline_deadline_of_all_opens_a_new_producer_for_later_ones() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation, window=1)
    ready(simulation, pipeline)
    simulation.hung.add(simulation.endpoints[0])
    simulation.send(pipeline, "lost", timeout_ms=100)
    simulation.send(pipeline, "never sent", timeout_ms=20_000)
    simulation.run(300)
    simulation.hung.clear()
    simulation.run(6_000)
    assert stored(simulation) == ["first", "never sent"]
    assert isinstance(simulation.result("lost"), DeadlineExceeded)
    assert len(simulation.broker.channel("q").producers) == 2


def test_pipeline_last_waiting_answered_lets_go_of_the_abandoned() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    simulation.hung.add(simulation.endpoints[0])
    simulation.send(pipeline, "short", timeout_ms=100)
    simulation.send(pipeline, "long")
    simulation.run(300)
    request_ids = list(simulation.session._batches)
    fields = {"sequence": 3, "count": 1, "time_unix_ns": 5, "confirm": "quorum"}
    simulation.session.received(simulation.endpoints[0], [encode_header(Reply.SENT, request_ids[1], fields)], simulation.now_ns)
    simulation.run(1)
    assert simulation.result("long").sequence == 3
    assert simulation.session._batches == {}


def test_pipeline_deadline_when_always_refused_is_that_refusal_and_not_stored() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation, linger_ns=MS)
    ready(simulation, pipeline)
    node = simulation.nodes[simulation.endpoints[0]]
    node.refusals += [busy(100) for _ in range(6)]
    simulation.send(pipeline, "short", timeout_ms=150)
    simulation.send(pipeline, "long")
    simulation.run(20)
    simulation.send(pipeline, "later")
    simulation.run(2_000)
    error = simulation.result("short")
    assert isinstance(error, Busy)
    assert not error.outcome_unknown
    assert stored(simulation) == ["first", "long", "later"]


def test_pipeline_part_of_a_batch_past_its_deadline_ends_once() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation, linger_ns=MS)
    ready(simulation, pipeline)
    simulation.hung.add(simulation.endpoints[0])
    simulation.send(pipeline, "short", timeout_ms=100)
    simulation.send(pipeline, "long")
    simulation.run(300)
    [request_id] = simulation.session._batches
    refusal = encode_header(Reply.ERROR, request_id, {"code": "MESSAGE_TOO_LARGE", "message": "too large"})
    simulation.cut(simulation.endpoints[0])
    simulation.session.received(simulation.endpoints[0], [refusal], simulation.now_ns)
    simulation.run(1)
    assert isinstance(simulation.result("short"), DeadlineExceeded)
    assert isinstance(simulation.result("long"), MessageTooLarge)
    assert simulation.result("long").outcome_unknown


def test_pipeline_no_majority_at_the_deadline_is_raised_with_unknown_outcome() -> None:
    simulation = Simulation(1)
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    simulation.lose_reply = lambda endpoint, frames: frames[0][3] == Reply.SENT
    simulation.send(pipeline, "a", timeout_ms=1_000)
    simulation.run(5)
    simulation.lose_reply = lambda endpoint, frames: False
    simulation.nodes[simulation.endpoints[0]].majority = False
    simulation.cut(simulation.endpoints[0])
    simulation.run(1_100)
    error = simulation.result("a")
    assert isinstance(error, NoMajority)
    assert error.outcome_unknown


def test_pipeline_failure_remembers_the_first() -> None:
    simulation = Simulation(1)
    simulation.down.add(simulation.endpoints[0])
    pipeline = pipeline_of(simulation)
    simulation.send(pipeline, "a", timeout_ms=100)
    simulation.send(pipeline, "b", timeout_ms=200)
    simulation.run(300)
    assert isinstance(pipeline.failure, DeadlineExceeded)
    assert simulation.result("a").message == pipeline.failure.message


def test_pipeline_refusal_of_an_attempt_elsewhere_does_not_rewind() -> None:
    simulation = Simulation(2)
    first, second = simulation.endpoints
    pipeline = pipeline_of(simulation)
    ready(simulation, pipeline)
    simulation.hung.add(first)
    simulation.send(pipeline, "a")
    simulation.run(5)
    [request_id] = simulation.session._batches
    simulation.hung.add(second)
    simulation.lead(second, 2)
    simulation.cut(first)
    simulation.run(30)
    refusal = encode_header(Reply.ERROR, request_id, {"code": "BUSY", "message": "late", "retry_ms": 4_000})
    simulation.session.received(first, [refusal], simulation.now_ns)
    simulation.hung.clear()
    simulation.run(1_000)
    assert simulation.result("a").sequence == 2


def test_pipeline_abort_without_anything_is_quiet() -> None:
    completions: list[Any] = []
    pipeline = Pipeline("q", PipelineSettings(), completions, {})
    pipeline.abort(lambda unknown: DeadlineExceeded("closed", outcome_unknown=unknown))
    assert completions == []
    assert pipeline.wake_ns(0) == FOREVER_NS


SCHEDULE = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "send",
                "send",
                "send together",
                "kill",
                "revive",
                "cut",
                "hang",
                "lead",
                "nobody",
                "busy",
                "evict",
                "lose",
                "keep",
            ]
        ),
        st.integers(0, 2),
        st.integers(0, 120),
    ),
    max_size=40,
)


def play(
    simulation: Simulation, pipeline: Pipeline, steps: list[tuple[str, int, int]], timeouts_ms: Sequence[int] = (600_000,)
) -> int:
    """Do what a schedule says, with these time limits in turn; the number of messages sent."""
    sent, term = 0, 1
    for action, number, pause_ms in steps:
        endpoint = simulation.endpoints[number]
        match action:
            case "send":
                for _ in range(1 + number):
                    simulation.send(pipeline, sent, timeouts_ms[sent % len(timeouts_ms)])
                    sent += 1
            case "send together":
                messages = [(sent + at, b"%d" % (sent + at)) for at in range(1 + number)]
                simulation.append(pipeline, messages, timeouts_ms[sent % len(timeouts_ms)])
                sent += 1 + number
            case "kill":
                simulation.kill(endpoint)
            case "revive":
                simulation.down.discard(endpoint)
                simulation.hung.discard(endpoint)
            case "cut":
                simulation.cut(endpoint)
            case "hang":
                simulation.hung.add(endpoint)
            case "lead" | "nobody":
                term += 1
                simulation.lead(endpoint if action == "lead" else None, term)
            case "busy":
                simulation.nodes[endpoint].refusals += [busy(pause_ms)] * (1 + number)
            case "lose":
                simulation.lose_reply = lambda _, frames, at=[number]: at.append(at[-1] + 1) or at[-1] % 3 == 0  # type: ignore[misc]
            case "keep":
                simulation.lose_reply = lambda _, frames: False
        simulation.run(pause_ms)
    simulation.down.clear()
    simulation.hung.clear()
    simulation.lose_reply = lambda _, frames: False
    simulation.lead(simulation.endpoints[1], term + 1)
    simulation.run(20_000)
    return sent


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=SCHEDULE, window=st.integers(1, 5), linger_ms=st.sampled_from([0, 3]))
def test_pipeline_any_faults_store_each_message_once_and_in_order(
    steps: list[tuple[str, int, int]], window: int, linger_ms: int
) -> None:
    simulation = Simulation(3)
    pipeline = pipeline_of(simulation, window=window, linger_ns=linger_ms * MS, batch_messages=3)
    sent = play(simulation, pipeline, steps)
    assert stored(simulation) == [str(number) for number in range(sent)]
    assert [simulation.result(number).sequence for number in range(sent)] == list(range(1, sent + 1))
    assert simulation.session._batches == {}
    assert (pipeline.pending_count, pipeline.pending_bytes) == (0, 0)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=SCHEDULE, timeouts=st.lists(st.sampled_from([30, 200, 3_000]), min_size=1, max_size=5), window=st.integers(1, 5))
def test_pipeline_any_faults_with_deadlines_never_lie(
    steps: list[tuple[str, int, int]], timeouts: list[int], window: int
) -> None:
    simulation = Simulation(3)
    pipeline = pipeline_of(simulation, window=window, linger_ns=MS, batch_messages=3)
    sent = play(simulation, pipeline, steps, timeouts)
    found = [int(body) for body in stored(simulation)]
    assert len(found) == len(set(found)), "stored twice"
    ends = [simulation.result(number) for number in range(sent)]
    confirmed = [number for number, end in enumerate(ends) if isinstance(end, SendResult)]
    assert [found[ends[number].sequence - 1] for number in confirmed] == confirmed
    assert [number for number in found if number in set(confirmed)] == confirmed, "confirmed out of order"
    for number, end in enumerate(ends):
        if isinstance(end, RequestError) and not end.outcome_unknown:
            assert number not in found, f"{number} is stored, but {end!r} says that it is not"
    assert simulation.session._batches == {}
