"""One node that ends and comes back: all that was confirmed is there. And a log with little room: trimmed, full, trimmed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import zmqbroker
from tests.integration.wild import Wild, batch, only_node, unique_channel
from tests.processes import Cluster, Node, cluster, wait_until
from zmqbroker.errors import StorageFull
from zmqbroker.wire.frames import Reply, Request

LONG_MS = 43_200_000
SEGMENT_BYTES = 64 << 10
BUDGET_BYTES = 16 * SEGMENT_BYTES
#: Files that are ready to become segments.
RESERVE_SEGMENTS = 3

SEND, SEND_BATCH, RECEIVE, ACK = Request.SEND, Request.SEND_BATCH, Request.RECEIVE, Request.ACK


@pytest.fixture(scope="module", params=["persistent", "ephemeral"])
def lasting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp(request.param), 1, volume=request.param) as running:
        yield running


def stopped(node: Node) -> None:
    assert node.stop() == 0


def killed(node: Node) -> None:
    node.kill()


def restart(lasting: Cluster, end: Callable[[Node], None]) -> None:
    """End the node in a way and start it again."""
    node = only_node(lasting)
    end(node)
    node.start()
    lasting.leader()


def ask(endpoint: str, session: bytes, command: Request, fields: dict[str, Any], bodies: list[bytes] | None = None) -> Any:
    """Ask over a new connection that resumes a session; fields and bodies of the reply."""
    with Wild(endpoint) as wild:
        wild.ask(Request.HELLO, {"session": session})
        answer = wild.ask(command, fields, bodies or [])
    assert answer.command != Reply.ERROR, answer.fields
    return answer.fields


def confirm_of(running: Cluster) -> str:
    """What a confirm says in this cluster's mode."""
    volume = only_node(running).environment["ZMQBROKER_CLUSTER_VOLUME"]
    return {"persistent": "quorum+fsync", "ephemeral": "quorum"}[volume]


@pytest.mark.parametrize("end", [stopped, killed])
def test_everything_confirmed_is_there_after_a_restart(lasting: Cluster, end: Callable[[Node], None]) -> None:
    channel, session, other = unique_channel(), os.urandom(16), os.urandom(16)
    endpoint, producer = only_node(lasting).endpoint, 77
    to = {"channel": channel}
    frames = [batch(channel, b"%d" % base, b"and", b"more", producer=producer, base=base) for base in (1, 4, 7)]
    ask(endpoint, session, Request.OPEN_PRODUCER, {**to, "producer": producer})
    first = [ask(endpoint, session, SEND_BATCH, {}, [frame]) for frame in frames[:2]]
    assert {fields["confirm"] for fields in first} == {confirm_of(lasting)}
    held = ask(endpoint, session, RECEIVE, {**to, "max": 4, "visibility_ms": LONG_MS})["pieces"]
    assert [piece[1:4] for piece in held] == [[1, 3, 1], [4, 4, 1]]
    assert ask(endpoint, session, ACK, {**to, "receipts": [[held[0][0], 1, 2]]})["count"] == 2
    returned = ask(endpoint, other, RECEIVE, {**to, "visibility_ms": LONG_MS})["pieces"]
    assert returned[0][1:4] == [5, 5, 1]
    assert ask(endpoint, other, Request.CLOSE, {})["returned"] == 1
    before = ask(endpoint, session, Request.STATS, to)

    restart(lasting, end)

    after = ask(endpoint, session, Request.STATS, to)
    same = ("depth", "ready", "in_flight", "last_sequence", "acked", "redelivered", "size_bytes")
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    assert (after["depth"], after["in_flight"], after["acked"]) == (4, 2, 2)
    again = [ask(endpoint, session, SEND_BATCH, {}, [frame]) for frame in frames]
    assert again[:2] == [{**fields, "duplicate": True} for fields in first]
    assert (again[2]["sequence"], again[2]["duplicate"]) == (7, False)
    assert ask(endpoint, session, ACK, {**to, "receipts": [[held[0][0], 3, 3], [held[1][0], 4, 4]]})["count"] == 2
    rest = ask(endpoint, other, RECEIVE, {**to, "max": 10})["pieces"]
    assert [piece[1:4] for piece in rest] == [[5, 5, 2], [6, 6, 1], [7, 9, 1]]


def test_clients_go_on_through_restarts_and_find_all_messages(lasting: Cluster) -> None:
    with zmqbroker.SyncClient(lasting.url) as client:
        queue = client.queue(unique_channel())
        sent = 0
        for end in (stopped, killed):
            with queue.producer(batch_messages=10) as producer:
                confirms = [producer.send(b"%d" % number) for number in range(sent + 1, sent + 51)]
            assert [confirm.result().sequence for confirm in confirms] == list(range(sent + 1, sent + 51))
            sent += 50
            restart(lasting, end)
            sent += 1
            assert queue.send(b"%d" % sent).sequence == sent
        messages = queue.receive(max=200)
        assert [(message.sequence, message.body) for message in messages] == [(n, b"%d" % n) for n in range(1, sent + 1)]
        queue.ack(messages)
        assert queue.receive(max=10) == []
        assert queue.stats()["acked"] == sent


# --- the size of the log ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[1, 3])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose log has room for little."""
    environment = {
        "ZMQBROKER_STORAGE_SEGMENT_BYTES": str(SEGMENT_BYTES),
        "ZMQBROKER_STORAGE_LOG_BUDGET_BYTES": str(BUDGET_BYTES),
        "ZMQBROKER_STORAGE_RESERVE_SEGMENTS": str(RESERVE_SEGMENTS),
        "ZMQBROKER_STORAGE_CACHE_BYTES_MAX": "0",
        "ZMQBROKER_LIMITS_MESSAGE_BYTES_MAX": str(SEGMENT_BYTES),
    }
    with cluster(tmp_path_factory.mktemp("small"), request.param, environment=environment) as running:
        yield running


def segments(node: Node) -> set[str]:
    """The names of the log's segments."""
    return {path.name for path in Path(node.directory, "log").glob("*.segment")}


def has_its_reserve(node: Node) -> bool:
    """Whether as many files are ready to become segments as was asked for, or up to two more."""
    return RESERVE_SEGMENTS <= len(list(Path(node.directory, "log").glob("spare-*"))) <= RESERVE_SEGMENTS + 2


def are_gone(names: set[str], node: Node) -> bool:
    """Whether no segment has any of these names."""
    return names.isdisjoint(segments(node))


def test_log_of_what_was_acked_is_dropped_on_every_node(small: Cluster) -> None:
    body = os.urandom(SEGMENT_BYTES // 4)
    first = {name: segments(node) for name, node in small.nodes.items()}
    with zmqbroker.SyncClient(small.url) as client:
        queue = client.queue(unique_channel())
        for _ in range(3 * BUDGET_BYTES // len(body)):
            queue.send(body)
            (message,) = queue.receive()
            assert message.body == body
            message.ack()
    for name, node in small.nodes.items():
        wait_until(partial(are_gone, first[name], node), 15, f"the first segments of {name} are gone")
        wait_until(partial(has_its_reserve, node), 15, f"{name} has its reserve")
        wait_until(partial(within_budget, small, name), 15, f"the log of {name} has its budget")


def receive_all(queue: Any, count: int) -> Iterator[bytes]:
    """The bodies of all messages, in the order in which they come."""
    found = 0
    while found < count:
        messages = queue.receive(max=min(50, count - found), wait_ms=10_000)
        assert messages, f"only {found} of {count}"
        yield from (message.body for message in messages)
        found += len(messages)
        queue.ack(messages)


def test_backlog_of_many_budgets_is_received_whole_and_in_order_also_after_restarts(small: Cluster) -> None:
    size, channel = SEGMENT_BYTES // 4, unique_channel()
    bodies = [number.to_bytes(4, "big") * (size // 4) for number in range(5 * BUDGET_BYTES // size)]
    with zmqbroker.SyncClient(small.url) as client:
        queue = client.queue(channel)
        for body in bodies:
            queue.send(body)
        for name in small.nodes:
            wait_until(partial(within_budget, small, name), 15, f"the log of {name} has its budget")
        received = receive_all(queue, len(bodies) // 2)
        assert list(received) == bodies[: len(bodies) // 2]
    for end in (stopped, killed):
        for node in small.nodes.values():
            end(node)
        for node in small.nodes.values():
            node.start()
        small.leader()
    with zmqbroker.SyncClient(small.url) as client:
        queue = client.queue(channel)
        queue.send(b"and one more")
        rest = [*bodies[len(bodies) // 2 :], b"and one more"]
        assert list(receive_all(queue, len(rest))) == rest
        assert queue.stats()["depth"] == 0


def log_bytes(running: Cluster, name: str) -> int:
    """What a node's log occupies."""
    info = running.info(name)
    return int(info["log"]["used_bytes"]) if info else 1 << 60


def within_budget(running: Cluster, name: str) -> bool:
    """Whether a node's log is as small as it is to be."""
    return log_bytes(running, name) <= BUDGET_BYTES


def test_log_that_a_member_holds_back_refuses_sends_until_the_member_is_back(small: Cluster) -> None:
    if len(small.nodes) == 1:
        pytest.skip("nobody holds the log of a single node")
    body = os.urandom(SEGMENT_BYTES // 4)
    with zmqbroker.SyncClient(small.url) as client:
        queue = client.queue(unique_channel())
        away = next(node for node in small.nodes.values() if node is not small.leader())
        away.kill()
        sent, refusal = fill(queue, body)
        assert sent > 10
        assert refusal.fields["used_bytes"] + len(body) > refusal.fields["budget_bytes"] == 2 * BUDGET_BYTES
        info = small.info(small.leader().name)
        assert info is not None
        assert info["log"]["budget_bytes"] == BUDGET_BYTES
        assert info["counters"]["refused_storage_full"] > 0
        assert [message.sequence for message in queue.receive(max=3, visibility_ms=100)] == [1, 2, 3], "receiving goes on"
        away.start()
        assert queue.send(b"there is room again", timeout_ms=30_000).sequence == sent + 1
        assert list(receive_all(queue, sent + 1)) == [body] * sent + [b"there is room again"]


def test_full_log_answers_a_repeat_of_what_is_stored(small: Cluster) -> None:
    if len(small.nodes) == 1:
        pytest.skip("nobody holds the log of a single node")
    body, channel, endpoint = os.urandom(SEGMENT_BYTES // 4), unique_channel(), small.leader().endpoint
    frame = batch(channel, b"once", producer=77, base=1)
    with zmqbroker.SyncClient(small.url) as client, Wild(endpoint) as wild:
        queue = client.queue(channel)
        queue.send(b"as soon as there is room")
        assert wild.ask(Request.OPEN_PRODUCER, {"channel": channel, "producer": 77}).command == Reply.PRODUCER
        stored = wild.ask(SEND_BATCH, {}, [frame])
        assert stored.command == Reply.SENT, stored.fields
        away = next(node for node in small.nodes.values() if node is not small.leader())
        away.kill()
        fill(queue, body)
        again = wild.ask(SEND_BATCH, {}, [frame])
        assert (again.command, again.fields) == (Reply.SENT, {**stored.fields, "duplicate": True})
        assert wild.ask(SEND_BATCH, {}, [batch(channel, body, producer=77, base=2)]).code == "STORAGE_FULL"
        away.start()
        while messages := queue.receive(max=100, wait_ms=500):
            queue.ack(messages)


def fill(queue: Any, body: bytes) -> tuple[int, StorageFull]:
    """Send until the log is full; how many were stored, and the refusal."""
    for sent in range(1000):
        try:
            queue.send(body, timeout_ms=1_000)
        except StorageFull as error:
            return sent, error
    raise AssertionError("the log is never full")
