"""A node at its bound says BUSY and goes on; a node listens on a path of the file system beside its port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import zmqbroker
from tests.integration.wild import Wild, counters, only_node, serves, unique_channel
from tests.processes import Cluster
from zmqbroker.wire.frames import Reply, Request

REQUESTS_MAX = 20


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One node that takes few requests at once, and listens on a path too."""
    directory = tmp_path_factory.mktemp("bounded")
    running = Cluster(directory, 1, environment={"ZMQBROKER_LIMITS_REQUESTS_MAX": str(REQUESTS_MAX)})
    only_node(running).environment["ZMQBROKER_LISTEN_CLIENT"] += f",ipc://{directory}/clients"
    try:
        running.start()
        yield running
    finally:
        running.close()


def test_requests_over_the_bound_are_busy_until_there_is_room(bounded: Cluster) -> None:
    node, wait = only_node(bounded), {"channel": unique_channel(), "wait_ms": 60_000}
    with Wild(node.endpoint) as waiting, Wild(node.endpoint) as other:
        numbers = [waiting.send(Request.RECEIVE, wait) for _ in range(2 * REQUESTS_MAX)]
        refused = [waiting.next_answer() for _ in range(REQUESTS_MAX)]
        assert {answer.code for answer in refused} == {"BUSY"}
        assert all(answer.fields["retryable"] and answer.fields["retry_ms"] > 0 for answer in refused)
        assert all(str(REQUESTS_MAX) in answer.fields["message"] for answer in refused)
        assert counters(node)["refused_busy"] == REQUESTS_MAX
        assert other.ask(Request.SEND, {"channel": unique_channel(), "id": "x"}, [b"x"]).code == "BUSY"
        sends = [other.send(Request.SEND, {"channel": unique_channel()}, [b"x"]) for _ in range(100)]
        assert {answer.code for answer in other.receive_all(sends, 20).values()} == {"BUSY"}
        assert other.ask(Request.PING).command == Reply.PONG, "what needs no room is answered"
        assert other.ask(Request.STATS, {"channel": wait["channel"]}).fields["waiting_receives"] == REQUESTS_MAX
        taken = set(numbers) - {answer.request_id for answer in refused}
        answers = waiting.receive_all([waiting.send(Request.CLOSE), *taken], 20)
        assert sorted(answer.command for answer in answers.values()) == [Reply.MESSAGES] * REQUESTS_MAX + [Reply.CLOSED]
    assert serves(node)


def test_client_on_a_path_of_the_file_system_is_served(bounded: Cluster) -> None:
    path = Path(only_node(bounded).environment["ZMQBROKER_LISTEN_CLIENT"].partition(",ipc://")[2])
    assert path.is_socket()
    with zmqbroker.SyncClient(f"ipc://{path}") as client:
        queue = client.queue(unique_channel())
        queue.send(b"by way of a file")
        (message,) = queue.receive()
        assert message.body == b"by way of a file"
        message.ack()
