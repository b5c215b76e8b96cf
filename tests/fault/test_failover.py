"""Leaders die and stall under load: nothing acknowledged is lost, doubled, reordered or delivered after its ack.

Four producers and four consumers work through all of it. The leader is killed twice and restarted, then stopped for ten seconds
with requests in its sockets and continued. How long a failover takes is printed.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.fault.conftest import Note
from tests.fault.dev import dev_cluster
from tests.fault.history import History, body_of, check
from tests.fault.load import Load
from tests.fault.operator import verified_cluster, verify
from tests.processes import Cluster, Node, wait_until
from tests.raw import Answer, Raw
from zmqbroker.wire.frames import Request

CHANNEL = "failover"
CONFIRMS_PER_TERM = 10_000
MESSAGES = 100_000
RATE = 1_500  # a second and producer
STOPPED_S = 10.0
AFTER_SECOND_FAILOVER_S = 5.0
#: The load tells its progress every 50 ms; nothing here confirms more than this in that time.
PROGRESS_LAG = 2_000
#: A busy machine may need this long for what takes a second on an idle one.
PATIENCE_S = 60.0

ROUNDS = [pytest.param(1, id="short"), pytest.param(8, id="long", marks=pytest.mark.long)]


class Run:
    """A cluster under load, and the faults it went through."""

    def __init__(self, nodes: Cluster, producers: Load, consumers: Load) -> None:
        self.nodes, self.producers, self.consumers = nodes, producers, consumers
        self.faults: list[tuple[str, int]] = []  # what was done and when
        self.terms: list[tuple[int, int, int]] = []  # a term, and a time at whose begin and end its leader led
        self._end_ns = 0

    def work_in_one_term(self, duration_s: float = 0.0, without: tuple[Node, ...] = ()) -> Node:
        """Let the load run until enough was confirmed in one term, and for a time; the leader of that term."""
        until_ns = time.monotonic_ns() + int(duration_s * 1e9)
        term, leader, begin_ns, target = 0, None, 0, 0

        def enough() -> bool:
            nonlocal term, leader, begin_ns, target
            end_ns, done = time.monotonic_ns(), self.producers.done
            found = self.nodes.leadership(without)
            if found is None:
                return False
            if found[0] != term:
                (term, leader), begin_ns = found, time.monotonic_ns()
                target = self.producers.done + CONFIRMS_PER_TERM + PROGRESS_LAG
                return False
            self._end_ns = end_ns
            return done >= target and end_ns >= until_ns

        wait_until(enough, PATIENCE_S, f"{CONFIRMS_PER_TERM} confirms in one term")
        assert leader is not None
        self.terms.append((term, begin_ns, self._end_ns))
        return leader

    def confirmed_again(self, what: str, fault_ns: int) -> None:
        """Wait until messages are confirmed after a fault."""
        self.faults.append((what, fault_ns))
        done = self.producers.done
        wait_until(lambda: self.producers.done > done + 100, PATIENCE_S, f"confirms after {what}")

    def kill_and_restart(self, duration_s: float = 0.0) -> None:
        """Kill the leader, let the others work, and bring it back."""
        leader = self.nodes.leader()
        fault_ns = time.monotonic_ns()
        leader.kill()
        self.confirmed_again(f"SIGKILL of {leader.name}", fault_ns)
        self.work_in_one_term(duration_s)
        leader.start()
        wait_until(lambda: self.nodes.caught_up(leader), PATIENCE_S, f"{leader.name} to catch up")

    def stop_and_continue(self) -> None:
        """Stop the leader with requests in its sockets, let the others work, and look at what it says when it wakes."""
        leader = self.nodes.leader()
        with Raw(leader.endpoint) as first, Raw(leader.endpoint) as second:
            for raw in (first, second):  # connected, or the requests would stay on this side
                assert raw.ask(Request.PING).fields["role"] == "leader"
            fault_ns = time.monotonic_ns()
            leader.pause()
            asked = [(raw, ask_stopped(raw, name)) for raw, name in ((first, "stopped-1"), (second, "stopped-2"))]
            self.confirmed_again(f"SIGSTOP of {leader.name}", fault_ns)
            self.work_in_one_term(STOPPED_S, without=(leader,))
            assert not first.receive(0), "it answered while it was stopped"
            leader.resume()
            for raw, request_ids in asked:
                nothing_confirmed(raw.receive_all(request_ids, PATIENCE_S), request_ids)
        wait_until(lambda: self.nodes.caught_up(leader), PATIENCE_S, f"{leader.name} to catch up")

    def finish(self) -> History:
        """Empty the queue; what everybody saw."""
        wait_until(lambda: self.producers.done >= MESSAGES, 3 * PATIENCE_S, f"{MESSAGES} messages")
        history = self.producers.finish()
        wait_until(lambda: depth(self.nodes) == 0, PATIENCE_S, "an empty queue")
        return history + self.consumers.finish()


def ask_stopped(raw: Raw, name: str) -> list[int]:
    """Requests for a leader that is stopped: they wait in its socket until it wakes. Their ids."""
    sends = [raw.send(Request.SEND, {"channel": CHANNEL}, [body_of((name, number))]) for number in range(1, 17)]
    opened = raw.send(Request.OPEN_PRODUCER, {"channel": CHANNEL, "producer": sends[0] | 1})
    received = raw.send(Request.RECEIVE, {"channel": CHANNEL, "max": 10, "plain": True})
    return [*sends, opened, received]


def nothing_confirmed(answers: dict[int, Answer], request_ids: list[int]) -> None:
    """A leader that woke up in a later term refused everything that it was asked as a leader.

    It had not led since, or these would be requests to a new leader: it was asked before it woke, and answers in order.
    """
    assert set(answers) == set(request_ids), "every request is answered"
    codes = {answer.code for answer in answers.values()}
    assert codes <= {"NOT_LEADER", "NO_MAJORITY"}, answers


def depth(nodes: Cluster) -> int:
    """Messages in the queue, as the leader knows them."""
    with Raw(nodes.leader().endpoint) as raw:
        return int(raw.ask(Request.STATS, {"channel": CHANNEL}).fields["depth"])


def last_sequence(nodes: Cluster) -> int:
    """How many messages the queue ever stored."""
    with Raw(nodes.leader().endpoint) as raw:
        return int(raw.ask(Request.STATS, {"channel": CHANNEL}).fields["last_sequence"])


def confirmed_between(history: History, begin_ns: int, end_ns: int) -> int:
    """Messages that were confirmed within a time."""
    return sum(begin_ns < send.complete_ns < end_ns for send in history.confirmed)


def gap_ms(history: History, fault_ns: int) -> float:
    """From a fault to the first confirm of a message that was sent after it."""
    return (min(send.complete_ns for send in history.confirmed if send.invoke_ns > fault_ns) - fault_ns) / 1e6


def go_through_faults(nodes: Cluster, directory: Path, note: Note, rounds: int) -> None:
    """Two SIGKILLs and a SIGSTOP of the leader per round under load, then the verdict of the checker."""
    with (
        Load("produce", nodes.url, CHANNEL, directory / "produce", rate=RATE) as producers,
        Load("consume", nodes.url, CHANNEL, directory / "consume") as consumers,
    ):
        run = Run(nodes, producers, consumers)
        run.work_in_one_term()
        for _ in range(rounds):
            run.kill_and_restart()
            run.kill_and_restart(AFTER_SECOND_FAILOVER_S)
            run.stop_and_continue()
        history = run.finish()
    stored = last_sequence(nodes)
    assert {send.producer for send in history.confirmed} == {f"produce-{number}" for number in (1, 2, 3, 4)}
    assert len(history.confirmed) >= MESSAGES
    confirmed = {term: confirmed_between(history, begin_ns, end_ns) for term, begin_ns, end_ns in run.terms}
    assert len(confirmed) >= 1 + 3 * rounds
    assert min(confirmed.values()) >= CONFIRMS_PER_TERM, confirmed
    assert not [delivery for delivery in history.deliveries if delivery.producer.startswith("stopped-")]
    assert check(history, stored) == []
    verify(nodes)
    note(f"{len(history.confirmed)} messages confirmed, {len(history.deliveries) - stored} delivered more than once")
    note(f"confirmed by term: {confirmed}")
    for what, fault_ns in run.faults:
        note(f"{what}: next confirm after {gap_ms(history, fault_ns):.0f} ms")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rounds", ROUNDS)
def test_failover_of_zmqbroker_dev_keeps_every_promise(tmp_path: Path, note: Note, rounds: int) -> None:
    with dev_cluster(tmp_path) as nodes:
        go_through_faults(nodes, tmp_path, note, rounds)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rounds", ROUNDS)
def test_failover_of_persistent_nodes_keeps_every_promise(tmp_path: Path, note: Note, rounds: int) -> None:
    with verified_cluster(tmp_path, volume="persistent") as nodes:
        go_through_faults(nodes, tmp_path, note, rounds)
