"""What the Python clients promise, on three real nodes."""

from __future__ import annotations

import os
import random
import threading
import zlib
from collections.abc import Iterator

import pytest
import zmq

import zmqbroker
from tests.integration.wild import Wild, header, unique_channel
from tests.processes import Cluster
from zmqbroker.errors import UnreadableBody, Unsupported
from zmqbroker.wire.codec import encode_batch
from zmqbroker.wire.compression import mark_compressed
from zmqbroker.wire.frames import Request

WAIT_MS = 10_000
LONG = b"the same words again, " * 50


@pytest.fixture
def client(trio: Cluster) -> Iterator[zmqbroker.SyncClient]:
    """A client of the cluster, for threads."""
    with zmqbroker.SyncClient(trio.url) as running:
        yield running


def test_compressed_messages_are_received_as_they_were_sent(client: zmqbroker.SyncClient) -> None:
    queue, noise = client.queue(unique_channel()), random.Random(1).randbytes(500)
    queue.send(LONG, compression="zlib", metadata="with headers", priority=3)
    with queue.producer(compression="zlib") as producer:
        producer.send_batch([LONG, b"", noise])
    assert queue.stats()["size_bytes"] < len(LONG) + len(noise)
    looked_at, received = queue.peek(10), queue.receive(10)
    for messages in (looked_at, received):
        assert [(message.body, message.compressed) for message in messages] == [
            (body, True) for body in (LONG, LONG, b"", noise)
        ]
    assert zlib.decompress(received[0].raw_body) == LONG


def test_body_that_cannot_be_decompressed_stops_no_consumer(trio: Cluster, client: zmqbroker.SyncClient) -> None:
    channel = unique_channel()
    client.channels.create(channel, dead_letter=f"{channel}.dead", delivery_limit=1)
    frame = mark_compressed(encode_batch(channel.encode(), [zlib.compress(b"one"), b"nonsense", zlib.compress(b"three")]))
    with Wild(trio.leader().endpoint) as wild:
        assert wild.ask(Request.SEND_BATCH, {}, [frame]).fields["count"] == 3
    handled: list[bytes] = []

    def handler(message: zmqbroker.SyncMessage) -> None:
        handled.append(message.body)
        if len(handled) == 2:
            threading.Thread(target=client.drain).start()

    client.queue(channel).handle(handler, concurrency=1)
    assert handled == [b"one", b"three"]
    with zmqbroker.SyncClient(trio.url) as other:
        [dead] = other.queue(f"{channel}.dead").receive(wait_ms=WAIT_MS)
        with pytest.raises(UnreadableBody, match="it is no zlib stream"):
            dead.body  # noqa: B018 - asking is the subject
        assert dead.raw_body == b"nonsense"


def test_redrive_of_more_batches_than_a_node_moves_at_once_is_complete_and_in_order(client: zmqbroker.SyncClient) -> None:
    source, target = client.queue(unique_channel()), client.queue(unique_channel())
    with source.producer(batch_messages=1, linger_ms=0) as producer:
        for number in range(1_100):
            producer.send(b"%d" % number)
    assert source.redrive(to=target.name, max=600) == 600
    assert source.redrive(to=target.name) == 500
    assert [message.body for message in target.receive(2_000)] == [b"%d" % number for number in range(1_100)]


def test_forked_workers_share_a_queue_through_clients_of_their_own(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    for number in range(40):
        queue.send(b"%d" % number)
    [own] = queue.receive()
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            status = 1
            try:
                for message in queue.receive(20, min=19, wait_ms=WAIT_MS)[:19]:
                    message.ack()
                client.drain()
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    own.ack()
    stats = queue.stats()
    assert (stats["acked"], stats["in_flight"], stats["ready"]) == (39, 0, 1)


# --- the wrong place ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.REQ])
def test_port_of_the_nodes_tells_clients_that_it_is_not_theirs(trio: Cluster, kind: int) -> None:
    peer = f"tcp://{trio.leader().environment['ZMQBROKER_LISTEN_PEER']}"
    with Wild(peer, kind) as wild:
        answer = wild.ask(Request.PING)
        assert (answer.code, answer.fields["retryable"]) == ("UNSUPPORTED", False)
    with zmqbroker.SyncClient(peer) as lost, pytest.raises(Unsupported, match="clients connect to that of listen"):
        lost.queue("q").send(b"x")
    with zmqbroker.SyncClient(trio.url) as client:
        client.queue(unique_channel()).send(b"the cluster goes on")


def test_node_refuses_another_version_of_the_protocol_by_name(trio: Cluster) -> None:
    with Wild(trio.leader().endpoint) as wild:
        wild.send_frames([header(Request.HELLO, b"", version=2, request_id=5)])
        answer = wild.next_answer()
        assert (answer.code, answer.request_id) == ("UNSUPPORTED_VERSION", 5)
        assert (answer.fields["minimum"], answer.fields["maximum"]) == (1, 1)
