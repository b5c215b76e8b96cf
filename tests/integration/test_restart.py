"""One persistent node that ends and comes back: all that was confirmed is there; and a log that is trimmed, full, and trimmed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
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

SEND, SEND_BATCH, RECEIVE, ACK = Request.SEND, Request.SEND_BATCH, Request.RECEIVE, Request.ACK


@pytest.fixture(scope="module", params=["persistent", "ephemeral"])
def lasting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp(request.param), 1, volume=request.param) as running:
        yield running


def stopped(node: Node) -> None:
    assert node.stop() == 0


def killed(node: Node) -> None:
    node.kill()


@pytest.fixture(params=[stopped, killed])
def restart(request: pytest.FixtureRequest, lasting: Cluster) -> Callable[[], None]:
    """End the node in one of two ways and start it again."""

    def again() -> None:
        node = only_node(lasting)
        request.param(node)
        node.start()
        lasting.leader()

    return again


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


def test_everything_confirmed_is_there_after_a_restart(lasting: Cluster, restart: Callable[[], None]) -> None:
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

    restart()

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


def test_messages_of_many_restarts_are_all_there(lasting: Cluster, restart: Callable[[], None]) -> None:
    channel = unique_channel()
    with zmqbroker.SyncClient(lasting.url) as client:
        queue = client.queue(channel)
        for round_number in range(3):
            bodies = [b"%d/%d" % (round_number, number) for number in range(50)]
            with queue.producer(batch_messages=10) as producer:
                for body in bodies:
                    producer.send(body)
            restart()
        messages = queue.receive(max=200)
        assert [message.sequence for message in messages] == list(range(1, 151))
        assert messages[-1].body == b"2/49"
        queue.ack(messages)
        restart()
        assert queue.receive(max=10) == []
        assert queue.stats()["acked"] == 150


def test_client_that_was_sending_and_waiting_goes_on_after_a_restart(lasting: Cluster, restart: Callable[[], None]) -> None:
    with zmqbroker.SyncClient(lasting.url) as client:
        queue = client.queue(unique_channel())
        assert queue.send(b"before").sequence == 1
        restart()
        assert queue.send(b"after").sequence == 2
        assert [message.body for message in queue.receive(max=5)] == [b"before", b"after"]


# --- the size of the log ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[1, 3])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose log has room for little."""
    environment = {
        "ZMQBROKER_STORAGE_SEGMENT_BYTES": str(SEGMENT_BYTES),
        "ZMQBROKER_STORAGE_LOG_BUDGET_BYTES": str(BUDGET_BYTES),
        "ZMQBROKER_STORAGE_CACHE_BYTES_MAX": "0",
        "ZMQBROKER_LIMITS_MESSAGE_BYTES_MAX": str(SEGMENT_BYTES),
    }
    with cluster(tmp_path_factory.mktemp("small"), request.param, environment=environment) as running:
        yield running


def segments(node: Node) -> set[str]:
    """The names of the log's segments."""
    return {path.name for path in Path(node.directory, "log").glob("*.segment")}


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
        wait_until(lambda name=name, node=node: not first[name] & segments(node), 15, "the first segments are gone")
        assert len(segments(node)) <= BUDGET_BYTES // SEGMENT_BYTES


def test_full_log_refuses_sends_until_messages_were_acked(small: Cluster) -> None:
    body = os.urandom(SEGMENT_BYTES // 4)
    with zmqbroker.SyncClient(small.url) as client:
        queue = client.queue(unique_channel())
        sent = fill(queue, body)
        assert sent > 10
        info = small.info(small.leader().name)
        assert info is not None
        assert info["log"]["budget_bytes"] == BUDGET_BYTES
        assert info["counters"]["refused_storage_full"] > 0
        assert [message.sequence for message in queue.receive(max=3, visibility_ms=100)] == [1, 2, 3], "receiving goes on"
        while messages := queue.receive(max=100, wait_ms=500):
            assert all(message.body == body for message in messages), "out of the log's files: the cache holds nothing"
            queue.ack(messages)
        assert queue.stats()["depth"] == 0
        assert queue.send(b"there is room again").sequence == sent + 1
        assert fill(queue, body) > 5, "and not only for one"
        while messages := queue.receive(max=100):
            queue.ack(messages)


def fill(queue: Any, body: bytes) -> int:
    """Send until the log is full; how many were stored."""
    sent = 0
    with pytest.raises(StorageFull) as caught:
        while sent < 1000:
            queue.send(body, timeout_ms=1_000)
            sent += 1
    assert caught.value.fields["budget_bytes"] == BUDGET_BYTES
    assert caught.value.fields["used_bytes"] + len(body) > BUDGET_BYTES
    return sent
