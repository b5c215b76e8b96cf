"""The session against a scripted cluster under simulated time: finding the leader, retries, deadlines, errors."""

from __future__ import annotations

import pytest

from tests.unit.client.fakes import busy
from tests.unit.client.simulation import MS, Simulation
from zmqbroker.client import session as session_module
from zmqbroker.client.pipeline import PipelineSettings
from zmqbroker.client.search import ASKED_FIRST_SECOND
from zmqbroker.client.session import Answer
from zmqbroker.commands import Receipt
from zmqbroker.errors import (
    Busy,
    ChannelNotFound,
    DeadlineExceeded,
    InvalidRequest,
    NoMajority,
    NotLeader,
    RemoteProtocolError,
    StorageFull,
    UnsupportedVersion,
)
from zmqbroker.wire.frames import Reply, encode_header
from zmqbroker.wire.requests import (
    AckRequest,
    CloseRequest,
    Hello,
    Info,
    OpenProducerRequest,
    Ping,
    ReceiveRequest,
    SendBatch,
    StatsRequest,
)

ACK = AckRequest("q", (Receipt(1, 1, 1),))


def kinds(simulation: Simulation, number: int) -> list[str]:
    """Names of the requests that a node has seen."""
    return [type(request).__name__ for request in simulation.nodes[simulation.endpoints[number]].seen]


def test_session_first_frame_is_hello_with_its_session() -> None:
    simulation = Simulation()
    simulation.submit(CloseRequest(), "close")
    simulation.run(20)
    assert simulation.nodes[simulation.endpoints[0]].seen[0] == Hello(b"s" * 16, "test")
    assert simulation.result("close").fields == {"returned": 0}


def test_session_welcome_with_a_limit_is_remembered() -> None:
    simulation = Simulation()
    simulation.run(10)
    assert simulation.session.message_bytes_max == 1 << 20


@pytest.mark.parametrize("limit", [None, 0, 1 << 40, "x"])
def test_session_welcome_without_a_usable_limit_keeps_the_protocols(limit: object) -> None:
    simulation = Simulation(1)
    simulation.nodes[simulation.endpoints[0]].hello_fields = {"message_bytes_max": limit}
    simulation.run(10)
    assert simulation.session.message_bytes_max == 64 << 20


def test_session_follows_the_hint_to_a_leader_it_did_not_know() -> None:
    simulation = Simulation(3, seeds=1)
    simulation.lead(simulation.endpoints[2], 5)
    simulation.submit(CloseRequest(), "close")
    simulation.run(20)
    assert simulation.result("close").fields == {"returned": 0}
    assert "CloseRequest" in kinds(simulation, 2)


def test_session_first_endpoint_down_goes_on_at_the_next() -> None:
    simulation = Simulation()
    simulation.down.add(simulation.endpoints[0])
    simulation.lead(simulation.endpoints[1], 2)
    simulation.submit(CloseRequest(), "close")
    simulation.run(20)
    assert simulation.result("close").fields == {"returned": 0}


def test_session_leader_killed_sends_again_with_the_same_id_at_the_new_one() -> None:
    simulation = Simulation()
    simulation.submit(ReceiveRequest("q", wait_ms=10_000, consumer=1), "receive")
    simulation.run(20)
    simulation.kill(simulation.endpoints[0])
    simulation.lead(None, 1)
    simulation.run(300)
    simulation.lead(simulation.endpoints[2], 2)
    simulation.run(200)
    waiting = simulation.broker.waiting
    assert [one.session for one in waiting] == [b"s" * 16]
    assert [one.reply_to[0] for one in waiting] == [simulation.endpoints[2]]


def test_session_leader_hangs_finds_the_new_one_by_ping() -> None:
    simulation = Simulation()
    simulation.run(20)
    simulation.hung.add(simulation.endpoints[0])
    simulation.submit(CloseRequest(), "close")
    simulation.lead(simulation.endpoints[1], 2)
    simulation.run(700)
    assert simulation.result("close").fields == {"returned": 0}
    assert "CloseRequest" in kinds(simulation, 1)


def test_session_target_hangs_and_nobody_leads_goes_where_it_is_answered() -> None:
    simulation = Simulation()
    simulation.run(20)
    simulation.hung.add(simulation.endpoints[0])
    simulation.lead(None, 1)
    simulation.submit(CloseRequest(), "close", timeout_ms=2_000)
    simulation.run(3_000)
    assert isinstance(simulation.result("close"), DeadlineExceeded)  # the first attempt may have been taken
    assert "CloseRequest" in kinds(simulation, 1)


def test_session_connection_never_made_asks_the_others() -> None:
    simulation = Simulation()
    simulation.hung.add(simulation.endpoints[0])  # connects, but never answers HELLO
    simulation.lead(simulation.endpoints[2], 3)
    simulation.submit(CloseRequest(), "close")
    simulation.run(700)
    assert simulation.result("close").fields == {"returned": 0}


def test_session_leader_killed_moves_over_a_connection_that_stands() -> None:
    simulation = Simulation()
    pipeline = simulation.session.pipeline("q", PipelineSettings())
    simulation.run(600)
    hellos = [kinds(simulation, number).count("Hello") for number in range(3)]
    simulation.kill(simulation.endpoints[0])
    simulation.lead(None, 1)
    simulation.send(pipeline, "message")
    simulation.run(30)
    assert simulation.ended() == set()
    simulation.lead(simulation.endpoints[2], 2)
    simulation.run(20)  # half of the time that it searched, then ask, move, open the producer and send
    assert simulation.result("message").sequence == 1
    assert [kinds(simulation, number).count("Hello") for number in range(3)] == hellos == [1, 1, 1]


def test_session_leader_hangs_moves_as_soon_as_another_one_leads() -> None:
    simulation = Simulation()
    simulation.run(600)
    simulation.hung.add(simulation.endpoints[0])
    simulation.submit(CloseRequest(), "close")
    simulation.run(300)
    assert kinds(simulation, 1).count("CloseRequest") == kinds(simulation, 2).count("CloseRequest") == 0
    assert kinds(simulation, 1).count("Ping") > 3, "it asks"
    simulation.lead(simulation.endpoints[1], 2)
    simulation.run(75)
    assert simulation.result("close").fields == {"returned": 0}


def test_session_leader_is_slow_asks_the_others_and_stays() -> None:
    simulation = Simulation()
    simulation.run(600)
    simulation.hung.add(simulation.endpoints[0])
    simulation.submit(CloseRequest(), "close", timeout_ms=390)
    simulation.run(400)
    simulation.hung.clear()
    simulation.submit(CloseRequest(), "again")
    simulation.run(1_000)
    asked = [kinds(simulation, number).count("Ping") for number in (1, 2)]
    simulation.run(2_000)
    assert simulation.result("again").fields == {"returned": 0}
    assert "CloseRequest" not in kinds(simulation, 1) + kinds(simulation, 2)
    assert [kinds(simulation, number).count("Ping") for number in (1, 2)] == asked, "nobody is asked any more"


def test_session_nobody_leads_for_a_minute_asks_within_bounds() -> None:
    simulation = Simulation()
    simulation.run(600)
    simulation.lead(None, 1)
    simulation.kill(simulation.endpoints[0])
    simulation.run(1_000)
    for number in (1, 2):
        assert kinds(simulation, number).count("Ping") <= ASKED_FIRST_SECOND + 2
    simulation.run(59_000)
    for number in (1, 2):
        assert kinds(simulation, number).count("Ping") <= 120


def test_session_nobody_there_for_long_sleeps_with_a_batch_that_is_overdue() -> None:
    simulation = Simulation(1)
    pipeline = simulation.session.pipeline("q", PipelineSettings())
    simulation.send(pipeline, "first")
    simulation.run(20)
    simulation.hung.add(simulation.endpoints[0])
    simulation.send(pipeline, "second")
    simulation.kill(simulation.endpoints[0])
    simulation.run(7_000)
    assert simulation.session.wake_ns(simulation.now_ns) > simulation.now_ns
    simulation.hung.clear()
    simulation.down.clear()
    simulation.run(100)
    assert simulation.result("second").sequence == 2


def test_session_with_one_address_learns_the_others_and_outlives_it() -> None:
    simulation = Simulation(3, seeds=1)
    members: list[object] = [{"name": "n", "client": endpoint} for endpoint in simulation.endpoints]
    simulation.nodes[simulation.endpoints[0]].members = [*members, {"client": None}, {"client": ""}, "nonsense"]
    simulation.run(600)
    simulation.lead(simulation.endpoints[2], 2)
    simulation.kill(simulation.endpoints[0])
    simulation.submit(CloseRequest(), "close")
    simulation.run(10)
    assert simulation.result("close").fields == {"returned": 0}


@pytest.mark.parametrize("members", [None, "nonsense", []])
def test_session_without_usable_members_forgets_nobody(members: object) -> None:
    simulation = Simulation(1)
    simulation.lead("tcp://10.9.9.9:1", 1)
    simulation.nodes[simulation.endpoints[0]].members = members
    simulation.run(1_000)
    assert simulation.session.wanted() == [simulation.endpoints[0], "tcp://10.9.9.9:1"]


def test_session_leader_that_is_connected_to_again_is_urgent_once() -> None:
    simulation = Simulation(2)
    simulation.run(600)
    simulation.kill(simulation.endpoints[0])
    simulation.run(100)
    simulation.lead(simulation.endpoints[0], 2)
    simulation.run(100)
    assert simulation.session.take_urgent() == [simulation.endpoints[0]]
    assert simulation.session.take_urgent() == []


def test_session_hello_reply_lost_greets_again() -> None:
    simulation = Simulation(1)
    lost: list[int] = []

    def lose(endpoint: str, frames: list[bytes]) -> bool:
        lost.append(frames[0][3])
        return len(lost) == 1

    simulation.lose_reply = lose
    simulation.submit(CloseRequest(), "close")
    simulation.run(800)
    assert simulation.result("close").fields == {"returned": 0}
    assert lost[:2] == [Reply.WELCOME, Reply.WELCOME]


def test_session_no_leader_until_deadline_raises_not_leader() -> None:
    simulation = Simulation()
    simulation.lead(None, 1)
    simulation.submit(CloseRequest(), "close", timeout_ms=1_000)
    simulation.run(1_100)
    error = simulation.result("close")
    assert isinstance(error, NotLeader)
    assert not error.outcome_unknown


def test_session_no_leader_for_a_while_retries_with_pauses() -> None:
    simulation = Simulation()
    simulation.lead(None, 1)
    simulation.submit(CloseRequest(), "close")
    simulation.run(1_000)
    attempts = sum(kinds(simulation, number).count("CloseRequest") for number in range(3))
    assert 8 <= attempts <= 21  # one in 50 to 100 ms
    simulation.lead(simulation.endpoints[1], 2)
    simulation.run(200)
    assert simulation.result("close").fields == {"returned": 0}


def test_session_no_majority_until_deadline_raises_no_majority() -> None:
    simulation = Simulation(1)
    simulation.nodes[simulation.endpoints[0]].majority = False
    simulation.submit(CloseRequest(), "close", timeout_ms=500)
    simulation.run(600)
    error = simulation.result("close")
    assert isinstance(error, NoMajority)
    assert not error.outcome_unknown


def test_session_no_majority_with_unknown_outcome_stays_unknown() -> None:
    simulation = Simulation(1)
    node = simulation.nodes[simulation.endpoints[0]]
    node.refusals.append(NoMajority("it went", outcome_unknown=True))
    simulation.submit(CloseRequest(), "close", timeout_ms=500)
    simulation.run(20)
    node.majority = False
    simulation.run(600)
    error = simulation.result("close")
    assert isinstance(error, NoMajority)
    assert error.outcome_unknown


def test_session_no_answer_until_deadline_is_outcome_unknown() -> None:
    simulation = Simulation(1)
    simulation.run(20)
    simulation.hung.add(simulation.endpoints[0])
    simulation.submit(CloseRequest(), "close", timeout_ms=1_000)
    simulation.run(1_100)
    error = simulation.result("close")
    assert isinstance(error, DeadlineExceeded)
    assert error.outcome_unknown


def test_session_nobody_there_until_deadline_was_certainly_not_sent() -> None:
    simulation = Simulation()
    simulation.down.update(simulation.endpoints)
    simulation.submit(CloseRequest(), "close", timeout_ms=1_000)
    simulation.run(1_100)
    error = simulation.result("close")
    assert isinstance(error, DeadlineExceeded)
    assert not error.outcome_unknown


def test_session_two_nodes_disagree_about_the_leader_makes_no_storm() -> None:
    simulation = Simulation(2)
    first, second = simulation.endpoints
    simulation.nodes[first].leader, simulation.nodes[second].leader = second, first
    simulation.submit(CloseRequest(), "close", timeout_ms=2_000)
    simulation.run(1_000)
    attempts = sum(kinds(simulation, number).count("CloseRequest") for number in range(2))
    assert attempts <= 100
    simulation.lead(second, 9)
    simulation.run(200)
    assert simulation.result("close").fields == {"returned": 0}


def test_session_hint_to_a_node_that_is_down_waits_for_an_election() -> None:
    simulation = Simulation()
    simulation.run(20)
    simulation.kill(simulation.endpoints[0])  # the others still believe in it
    simulation.submit(CloseRequest(), "close")
    simulation.run(400)
    attempts = sum(kinds(simulation, number).count("CloseRequest") for number in (1, 2))
    assert 2 <= attempts <= 12
    simulation.lead(simulation.endpoints[1], 2)
    simulation.run(150)
    assert simulation.result("close").fields == {"returned": 0}


def test_session_busy_waits_as_long_as_the_node_asks() -> None:
    simulation = Simulation(1)
    node = simulation.nodes[simulation.endpoints[0]]
    node.refusals.append(busy(300))
    simulation.submit(CloseRequest(), "close")
    simulation.run(250)
    assert simulation.ended() == set()
    simulation.run(100)
    assert simulation.result("close").fields == {"returned": 0}


@pytest.mark.parametrize("error", [Busy("full", retry_ms=0), StorageFull("full", used_bytes=1, budget_bytes=1)])
def test_session_retryable_error_without_a_time_pauses(error: Busy) -> None:
    simulation = Simulation(1)
    simulation.nodes[simulation.endpoints[0]].refusals.append(error)
    simulation.submit(CloseRequest(), "close")
    simulation.run(40)
    assert simulation.ended() == set()
    simulation.run(120)
    assert simulation.result("close").fields == {"returned": 0}


def test_session_busy_until_deadline_raises_busy() -> None:
    simulation = Simulation(1)
    simulation.nodes[simulation.endpoints[0]].refusals += [busy(300) for _ in range(9)]
    simulation.submit(CloseRequest(), "close", timeout_ms=1_000)
    simulation.run(1_100)
    error = simulation.result("close")
    assert isinstance(error, Busy)
    assert error.retry_ms == 300


def test_session_error_that_is_not_retryable_ends_at_once() -> None:
    simulation = Simulation()
    simulation.submit(StatsRequest("nobody"), "stats")
    simulation.submit(Info(), "info")
    simulation.run(20)
    assert isinstance(simulation.result("stats"), ChannelNotFound)
    assert simulation.result("info").fields["node"]["name"] == simulation.endpoints[0]


def test_session_info_is_answered_by_the_node_that_was_asked() -> None:
    simulation = Simulation(3, seeds=1)
    simulation.lead(simulation.endpoints[1], 2)
    simulation.submit(Info(), "info")
    simulation.run(20)
    assert simulation.result("info").fields["node"]["name"] == simulation.endpoints[0]


def test_session_reply_lost_on_a_living_connection_asks_again() -> None:
    simulation = Simulation(1)
    simulation.run(20)
    lost: list[bytes] = []

    def lose(endpoint: str, frames: list[bytes]) -> bool:
        if frames[0][3] == Reply.CLOSED and not lost:
            lost.append(frames[0])
            return True
        return False

    simulation.lose_reply = lose
    simulation.submit(CloseRequest(), "close")
    simulation.run(6_000)
    assert len(lost) == 1
    assert simulation.result("close").fields == {"returned": 0}


def test_session_reply_that_comes_twice_is_dropped_once() -> None:
    simulation = Simulation(1)
    simulation.submit(CloseRequest(), "close")
    simulation.run(20)
    dropped = simulation.session.dropped
    for request_id in range(1, 5):
        frames = [encode_header(Reply.CLOSED, request_id, {})]
        simulation.session.received(simulation.endpoints[0], frames, simulation.now_ns)
    assert simulation.session.dropped == dropped + 4
    simulation.run(10)
    assert simulation.result("close").fields == {"returned": 0}


def test_session_bytes_that_are_no_frame_are_dropped() -> None:
    simulation = Simulation(1)
    simulation.run(20)
    for frame in (b"", b"ZB", b"garbage garbage", b"ZB\x07\x81" + bytes(8)):
        simulation.session.received(simulation.endpoints[0], [frame], simulation.now_ns)
    simulation.session.received("tcp://1.2.3.4:5", [encode_header(Reply.PONG, 1, {})], simulation.now_ns)
    simulation.session.connected("tcp://1.2.3.4:5", simulation.now_ns)
    simulation.session.lost("tcp://1.2.3.4:5", simulation.now_ns)
    assert simulation.session.dropped == 5
    simulation.submit(CloseRequest(), "close")
    simulation.run(10)
    assert simulation.result("close").fields == {"returned": 0}


def test_session_wrong_reply_code_is_the_nodes_fault() -> None:
    simulation = Simulation(1)
    simulation.run(20)
    simulation.hung.add(simulation.endpoints[0])
    simulation.submit(CloseRequest(), "close")
    for request_id in range(1, 9):
        frames = [encode_header(Reply.ACKED, request_id, {})]
        simulation.session.received(simulation.endpoints[0], frames, simulation.now_ns)
    simulation.run(1)
    assert isinstance(simulation.result("close"), RemoteProtocolError)


def test_session_late_refusal_of_an_earlier_attempt_changes_nothing() -> None:
    simulation = Simulation(2)
    first, second = simulation.endpoints
    simulation.run(20)
    simulation.hung.add(first)
    simulation.submit(ReceiveRequest("q", wait_ms=60_000), "receive", 60_000)
    simulation.lead(second, 2)
    simulation.run(4_000)
    request_id = simulation.broker.waiting[0].request_id
    late = encode_header(Reply.ERROR, request_id, {"code": "NOT_LEADER", "message": "late", "leader": None})
    simulation.session.received(first, [late], simulation.now_ns)
    simulation.run(100)
    assert [type(request).__name__ for request in simulation.nodes[second].seen].count("ReceiveRequest") == 1


@pytest.mark.parametrize(("timeout_ms", "pings"), [(900, 4), (None, 1), (0, 1), ("x", 1)])
def test_session_pings_three_times_in_a_session_timeout(timeout_ms: object, pings: int) -> None:
    simulation = Simulation(1)
    simulation.nodes[simulation.endpoints[0]].hello_fields = {"session_timeout_ms": timeout_ms}
    simulation.run(1_100)
    assert kinds(simulation, 0).count("Ping") == pings  # the first follows WELCOME


def test_session_idle_pings_and_notices_a_new_leader() -> None:
    simulation = Simulation()
    simulation.run(100)
    simulation.lead(simulation.endpoints[1], 2)
    simulation.run(6_000)
    assert kinds(simulation, 0).count("Ping") == 2  # after WELCOME, and after 5 s of silence
    assert kinds(simulation, 1)[:1] == ["Hello"]
    simulation.submit(CloseRequest(), "close")
    simulation.run(3)
    assert simulation.result("close").fields == {"returned": 0}, "it asks the new leader at once"


def test_session_waiting_receives_only_ping_more_often() -> None:
    simulation = Simulation(1)
    simulation.submit(ReceiveRequest("q", wait_ms=10_000), "receive", 60_000)
    simulation.run(9_000)
    assert 3 <= kinds(simulation, 0).count("Ping") <= 6
    assert simulation.ended() == set()
    assert kinds(simulation, 0).count("ReceiveRequest") == 1


def test_session_connection_made_again_begins_with_hello_of_the_same_session() -> None:
    simulation = Simulation(1)
    simulation.run(20)
    simulation.cut(simulation.endpoints[0])
    simulation.submit(CloseRequest(), "close")
    simulation.run(100)
    seen = simulation.nodes[simulation.endpoints[0]].seen
    hellos = [at for at, request in enumerate(seen) if isinstance(request, Hello)]
    assert [seen[at] for at in hellos] == [Hello(b"s" * 16, "test")] * 2
    assert seen.index(CloseRequest()) > hellos[1]


def test_session_unwelcome_everywhere_raises_why() -> None:
    simulation = Simulation(1)
    refusal = UnsupportedVersion("version 1 is not spoken here", minimum=2, maximum=2)
    simulation.nodes[simulation.endpoints[0]].hello_errors += [refusal] * 20
    pipeline = simulation.session.pipeline("q", PipelineSettings())
    simulation.submit(CloseRequest(), "close", timeout_ms=1_000)
    simulation.send(pipeline, "message", timeout_ms=1_000)
    simulation.run(1_500)
    assert isinstance(simulation.result("close"), UnsupportedVersion)
    assert simulation.result("close").fields == {"minimum": 2, "maximum": 2}
    assert isinstance(simulation.result("message"), UnsupportedVersion)
    assert 2 <= kinds(simulation, 0).count("Hello") <= 5


def test_session_unwelcome_at_one_node_goes_on_at_another() -> None:
    simulation = Simulation(2)
    simulation.nodes[simulation.endpoints[0]].hello_errors += [busy()] * 50
    simulation.lead(simulation.endpoints[1], 2)
    simulation.submit(CloseRequest(), "close")
    simulation.run(300)
    assert simulation.result("close").fields == {"returned": 0}


def test_session_too_many_requests_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "BACKLOG_MAX", 2)
    simulation = Simulation(1)
    simulation.submit(CloseRequest(), "a")
    simulation.submit(CloseRequest(), "b")
    with pytest.raises(Busy):
        simulation.submit(CloseRequest(), "c")
    simulation.run(20)
    assert simulation.ended() == {"a", "b"}


def test_session_more_requests_than_slots_wait_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "SLOTS", 4)
    simulation = Simulation(1)
    pipeline = simulation.session.pipeline("q", PipelineSettings())
    for number in range(20):
        simulation.submit(CloseRequest(number), f"close {number}")
        simulation.send(pipeline, f"message {number}")
    simulation.run(3)
    assert simulation.ended() == set()
    simulation.run(200)
    assert len(simulation.ended()) == 40
    assert simulation.broker.channel("q").bodies == [f"message {number}".encode() for number in range(20)]


def test_session_forget_sends_no_more_and_completes_nothing() -> None:
    simulation = Simulation(1)
    simulation.submit(ReceiveRequest("q", wait_ms=1_000), "receive")
    simulation.run(20)
    simulation.session.forget("receive")
    simulation.session.forget("receive")
    simulation.cut(simulation.endpoints[0])
    simulation.run(2_000)
    assert simulation.ended() == set()
    assert kinds(simulation, 0).count("ReceiveRequest") == 1


def test_session_abort_ends_everything_and_says_what_is_unknown() -> None:
    simulation = Simulation(1)
    sent, opening = (simulation.session.pipeline(name, PipelineSettings()) for name in ("q", "r"))
    simulation.send(sent, "message")
    simulation.run(20)
    simulation.hung.add(simulation.endpoints[0])
    simulation.send(sent, "open")
    simulation.send(opening, "opening")
    simulation.submit(CloseRequest(), "sent")
    simulation.session.abort()
    simulation.run(1)
    unknown = {token: simulation.result(token).outcome_unknown for token in ("sent", "opening", "open")}
    assert unknown == {"sent": True, "opening": False, "open": True}


def test_session_worth_closing_only_after_a_receive_and_with_a_node() -> None:
    simulation = Simulation(1)
    simulation.run(20)
    assert not simulation.session.worth_closing
    simulation.submit(ReceiveRequest("q"), "receive")
    assert simulation.session.worth_closing
    simulation.kill(simulation.endpoints[0])
    assert not simulation.session.worth_closing


def test_session_open_producer_with_a_wrong_reply_fails_the_sends() -> None:
    simulation = Simulation(1)
    pipeline = simulation.session.pipeline("q", PipelineSettings())
    simulation.run(20)
    simulation.hung.add(simulation.endpoints[0])
    simulation.send(pipeline, "message")
    for request_id in range(1, 9):
        frames = [encode_header(Reply.PRODUCER, request_id, {"last_sequence": "x"})]
        simulation.session.received(simulation.endpoints[0], frames, simulation.now_ns)
    simulation.run(1)
    assert isinstance(simulation.result("message"), RemoteProtocolError)


def test_session_open_producer_refused_for_good_fails_the_sends() -> None:
    simulation = Simulation(1)
    simulation.nodes[simulation.endpoints[0]].refusals.append(InvalidRequest("no"))
    pipeline = simulation.session.pipeline("q", PipelineSettings())
    simulation.send(pipeline, "first")
    simulation.run(20)
    assert isinstance(simulation.result("first"), InvalidRequest)
    simulation.send(pipeline, "second")
    simulation.run(20)
    assert simulation.result("second").sequence == 1


def test_session_open_producer_without_majority_ends_the_sends_as_that_and_is_given_up() -> None:
    simulation = Simulation(1)
    simulation.nodes[simulation.endpoints[0]].majority = False
    pipeline = simulation.session.pipeline("q", PipelineSettings())
    simulation.send(pipeline, "message", timeout_ms=300)
    simulation.run(400)
    error = simulation.result("message")
    assert isinstance(error, NoMajority)
    assert not error.outcome_unknown
    before = kinds(simulation, 0).count("OpenProducerRequest")
    simulation.run(1_000)
    assert kinds(simulation, 0).count("OpenProducerRequest") == before


def test_session_batch_answered_with_another_command_fails_the_sends() -> None:
    simulation = Simulation(1)
    pipeline = simulation.session.pipeline("q", PipelineSettings())
    simulation.send(pipeline, "a")
    simulation.run(20)
    simulation.hung.add(simulation.endpoints[0])
    simulation.send(pipeline, "b")
    for request_id in range(1, 9):
        frames = [encode_header(Reply.ACKED, request_id, {})]
        simulation.session.received(simulation.endpoints[0], frames, simulation.now_ns)
    simulation.run(1)
    assert isinstance(simulation.result("b"), RemoteProtocolError)


def test_session_receive_and_ack_go_through() -> None:
    simulation = Simulation(3)
    pipeline = simulation.session.pipeline("q", PipelineSettings())
    simulation.send(pipeline, "a")
    simulation.submit(ReceiveRequest("q", wait_ms=1_000), "receive")
    simulation.run(50)
    answer = simulation.result("receive")
    assert isinstance(answer, Answer)
    [[assigning, first, last, delivery_count, _]] = answer.fields["pieces"]
    assert (first, last, delivery_count) == (1, 1, 1)
    simulation.submit(AckRequest("q", (Receipt(assigning, 1, 1),)), "ack")
    simulation.run(50)
    assert simulation.result("ack").fields["count"] == 1
    assert [type(request) for request in simulation.nodes[simulation.endpoints[0]].seen].count(SendBatch) == 1


def test_session_sends_nothing_before_it_is_welcome() -> None:
    simulation = Simulation(1)
    simulation.lose_reply = lambda endpoint, frames: True
    simulation.submit(CloseRequest(), "close", timeout_ms=2_000)
    simulation.run(2_500)
    assert set(kinds(simulation, 0)) == {"Hello"}
    assert isinstance(simulation.result("close"), DeadlineExceeded)


def test_session_wake_without_anything_to_do_is_the_next_ping() -> None:
    simulation = Simulation(1)
    simulation.run(600)
    wake_ns = simulation.session.wake_ns(simulation.now_ns)
    assert 4_000 * MS < wake_ns - simulation.now_ns <= 5_000 * MS
    assert kinds(simulation, 0) == ["Hello", "Ping", "Info"]
    assert Ping() in simulation.nodes[simulation.endpoints[0]].seen
    assert OpenProducerRequest("q", 1) not in simulation.nodes[simulation.endpoints[0]].seen
