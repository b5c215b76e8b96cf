"""Queues through the clients against three nodes: what is sent arrives, once it is acked it is gone, and counters say so."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

import zmqbroker
from tests.integration.wild import Wild, batch, unique_channel
from tests.processes import Cluster, wait_until
from tests.raw import Answer, new_request_id
from zmqbroker.errors import ChannelNotFound, InvalidChannel, MessageTooLarge, StaleReceipt
from zmqbroker.wire.frames import Request

LONG_MS = 43_200_000
WAIT_MS = 10_000


@pytest.fixture
def client(trio: Cluster) -> Iterator[zmqbroker.SyncClient]:
    with zmqbroker.SyncClient(trio.url) as made:
        yield made


@pytest.fixture
def other(trio: Cluster) -> Iterator[zmqbroker.SyncClient]:
    with zmqbroker.SyncClient(trio.url) as made:
        yield made


# --- send, receive, ack ----------------------------------------------------------------------------------------------


def test_message_sent_is_received_and_acked_once(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    sent = queue.send(b"hello")
    assert (sent.sequence, sent.duplicate, sent.confirm) == (1, False, "quorum")
    (message,) = queue.receive()
    assert (message.body, message.sequence, message.delivery_count) == (b"hello", 1, 1)
    assert (message.channel, message.time_unix_ns) == (queue.name, sent.time_unix_ns)
    assert queue.receive() == []
    message.ack()
    shows(queue, depth=0, ready=0, in_flight=0, last_sequence=1, acked=1, size_bytes=0)


@pytest.mark.parametrize("body", [b"", bytes(range(256)), b"\0", "€ – ü 世界".encode(), os.urandom(100_000)], ids=len)
def test_body_of_any_bytes_arrives_as_it_was_sent(client: zmqbroker.SyncClient, body: bytes) -> None:
    queue = client.queue(unique_channel())
    queue.send(body)
    (message,) = queue.receive()
    assert message.body == body
    message.ack()


def test_id_metadata_and_tags_arrive_as_they_were_sent(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    tags = {"colour": "blå", "": "empty key", "n": ""}
    queue.send(b"1", id="id-ü", metadata="über", tags=tags)
    queue.send(b"2")
    with queue.producer() as producer:
        producer.send(b"3", tags={"only": "tags"})
        producer.send(b"4", id="x" * 255, metadata="m" * 60_000)
    found = [(message.body, message.id, message.metadata, dict(message.tags)) for message in queue.receive(max=10)]
    assert found == [
        (b"1", "id-ü", "über", tags),
        (b"2", "", None, {}),
        (b"3", "", None, {"only": "tags"}),
        (b"4", "x" * 255, "m" * 60_000, {}),
    ]


def test_message_of_the_largest_size_arrives_and_a_larger_one_is_refused(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    body = os.urandom(4 << 20)
    queue.send(body)
    with pytest.raises(MessageTooLarge, match=str(len(body) + 1)):
        queue.send(body + b"x")
    (message,) = queue.receive(max=5)
    assert message.body == body
    message.ack()


@pytest.mark.parametrize("name", ["Größe", "订单.東京", "🐰/hops", "ü" * 127])
def test_channel_with_a_unicode_name_is_a_channel_of_its_own(client: zmqbroker.SyncClient, name: str) -> None:
    queue = client.queue(name)
    queue.send(name.encode())
    (message,) = queue.receive()
    assert (message.body, message.channel, queue.name) == (name.encode(), name, name)
    message.ack()


def test_channel_name_that_cannot_be_and_channel_that_nobody_used_are_refused(client: zmqbroker.SyncClient) -> None:
    with pytest.raises(InvalidChannel, match="a b"):
        client.queue("a b")
    with pytest.raises(ChannelNotFound, match="nobody"):
        client.queue(unique_channel("nobody")).stats()


def test_many_channels_keep_their_messages_apart(client: zmqbroker.SyncClient) -> None:
    names = [unique_channel(f"many-{number}") for number in range(100)]
    for name in names:
        with client.queue(name).producer() as producer:
            for part in range(3):
                producer.send(f"{name}/{part}".encode())
    for name in names:
        messages = client.queue(name).receive(max=10)
        assert [message.body.decode() for message in messages] == [f"{name}/{part}" for part in range(3)]
        client.queue(name).ack(messages)


# --- how much, and when ----------------------------------------------------------------------------------------------


def test_receive_takes_at_most_max_in_order(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    for number in range(10):
        queue.send(b"%d" % number)
    taken = [[message.sequence for message in queue.receive(max=limit)] for limit in (1, 4, 3, 10, 10)]
    assert taken == [[1], [2, 3, 4, 5], [6, 7, 8], [9, 10], []]


@pytest.mark.parametrize(("max_bytes", "count"), [(1, 1), (100, 1), (222, 1), (230, 2), (350, 3), (10_000, 8)])
def test_receive_takes_at_most_max_bytes_but_always_one(client: zmqbroker.SyncClient, max_bytes: int, count: int) -> None:
    """Each counts its body and some 12 bytes: an eighth of the rest of its batch frame."""
    queue = client.queue(unique_channel())
    with queue.producer() as producer:
        producer.send_batch([bytes(100)] * 8)  # one frame, whatever the clock does
    assert len(queue.receive(max=100, max_bytes=max_bytes)) == count


def test_receive_with_min_waits_for_so_many_or_takes_what_there_is(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    for number in range(3):
        queue.send(b"%d" % number)
    assert len(queue.receive(max=10, min=4, wait_ms=200)) == 3, "the wait ended"
    with waiting_receive(queue, max=10, min=2, wait_ms=WAIT_MS) as answer:
        queue.send(b"3")
        shows(queue, ready=1, waiting_receives=1)  # one is not enough
        queue.send(b"4")
    assert [message.sequence for message in answer] == [4, 5]


def test_receive_that_waits_is_answered_when_a_message_arrives(
    client: zmqbroker.SyncClient, other: zmqbroker.SyncClient
) -> None:
    queue = client.queue(unique_channel())
    with waiting_receive(queue, wait_ms=WAIT_MS) as answer:
        other.queue(queue.name).send(b"at last")
    assert [message.body for message in answer] == [b"at last"]
    shows(queue, in_flight=1, waiting_receives=0)


def test_receives_that_wait_are_answered_in_their_order(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    with waiting_receive(queue, wait_ms=WAIT_MS) as first, waiting_receive(queue, 2, wait_ms=WAIT_MS) as second:
        queue.send(b"1")
        queue.send(b"2")
    assert [[message.body for message in answer] for answer in (first, second)] == [[b"1"], [b"2"]]


# --- again, and back -------------------------------------------------------------------------------------------------


def test_message_not_acked_in_time_is_delivered_again_and_the_old_receipt_is_stale(
    client: zmqbroker.SyncClient, other: zmqbroker.SyncClient
) -> None:
    queue = client.queue(unique_channel())
    queue.send(b"again")
    (first,) = queue.receive(visibility_ms=100)
    (second,) = other.queue(queue.name).receive(wait_ms=WAIT_MS)
    assert (first.delivery_count, second.delivery_count, second.sequence) == (1, 2, first.sequence)
    with pytest.raises(StaleReceipt) as caught:
        first.ack()
    assert caught.value.fields["stale"] == [[first.assigning, 1, 1]]
    second.ack()
    second.ack()
    shows(queue, depth=0, redelivered=1, acked=1)


def test_messages_not_acked_keep_their_place(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    for number in range(1, 6):
        queue.send(b"%d" % number)
    taken = queue.receive(max=3, visibility_ms=100)
    taken[1].ack()
    shows(queue, ready=4, in_flight=0)
    assert [(message.sequence, message.delivery_count) for message in queue.receive(max=9)] == [(1, 2), (3, 2), (4, 1), (5, 1)]


def test_close_returns_what_is_in_flight_at_once(trio: Cluster, client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    for number in range(4):
        queue.send(b"%d" % number)
    with zmqbroker.SyncClient(trio.url) as leaving:
        taken = leaving.queue(queue.name).receive(max=3, visibility_ms=LONG_MS)
        taken[0].ack()
    found = queue.receive(max=9, min=3, wait_ms=WAIT_MS)
    assert [(message.sequence, message.delivery_count) for message in found] == [(2, 2), (3, 2), (4, 1)]


def test_receive_retried_with_its_request_id_gets_the_same_messages_at_any_node(trio: Cluster) -> None:
    channel, session = unique_channel(), os.urandom(16)
    ask = {"channel": channel, "max": 2, "visibility_ms": LONG_MS, "forward": True}
    answers: list[Answer] = []
    for node in trio.nodes.values():
        with Wild(node.endpoint) as wild:
            if not answers:
                wild.ask(Request.SEND_BATCH, {"forward": True}, [batch(channel, b"1", b"2", b"3")])
            wild.ask(Request.HELLO, {"session": session})
            answers.append(wild.ask(Request.RECEIVE, ask, request_id=99))
    assert [answer.fields["pieces"] for answer in answers] == [answers[0].fields["pieces"]] * 3
    assert [piece[1:4] for piece in answers[0].fields["pieces"]] == [[1, 2, 1]]
    assert [answer.bodies for answer in answers] == [answers[0].bodies] * 3


def test_batch_repeated_through_every_node_is_stored_once(trio: Cluster, client: zmqbroker.SyncClient) -> None:
    channel, producer = unique_channel(), new_request_id() | 1
    frames = [batch(channel, b"%d" % base, b"more", producer=producer, base=base) for base in (1, 3, 5)]
    results: list[list[tuple[int, bool]]] = []
    for node in trio.nodes.values():
        with Wild(node.endpoint) as wild:
            wild.ask(Request.OPEN_PRODUCER, {"channel": channel, "producer": producer, "forward": True})
            sent = [wild.ask(Request.SEND_BATCH, {"forward": True}, [frame]).fields for frame in frames]
            results.append([(fields["sequence"], fields["duplicate"]) for fields in sent])
    assert results == [[(1, False), (3, False), (5, False)], *[[(1, True), (3, True), (5, True)]] * 2]
    assert len(client.queue(channel).receive(max=100)) == 6


def test_counters_of_every_node_come_to_the_same(trio: Cluster, client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    for _ in range(5):
        queue.send(bytes(10))
    taken = queue.receive(max=3, visibility_ms=LONG_MS)
    taken[0].ack()
    for node in trio.nodes.values():
        with zmqbroker.SyncClient(node.endpoint) as asking:
            shows(asking.queue(queue.name), depth=4, ready=2, in_flight=2, last_sequence=5, acked=1, waiting_receives=0)


# --- several at once -------------------------------------------------------------------------------------------------


def test_two_consumers_share_without_overlap(trio: Cluster) -> None:
    channel, count = unique_channel(), 600
    shares: list[list[int]] = [[], []]

    async def consume(client: zmqbroker.Client, share: list[int], complete: asyncio.Event) -> None:
        async for message in client.queue(channel).consume(credit=32):
            share.append(message.sequence)
            await message.ack()
            if sum(map(len, shares)) == count:
                complete.set()

    async def scenario() -> None:
        complete = asyncio.Event()
        async with zmqbroker.Client(trio.url) as sender, zmqbroker.Client(trio.url) as one, zmqbroker.Client(trio.url) as two:
            tasks = [asyncio.ensure_future(consume(*pair, complete)) for pair in zip((one, two), shares, strict=True)]
            async with sender.queue(channel).producer(batch_messages=20) as producer:
                for number in range(count):
                    await producer.send(b"%d" % number)
            await asyncio.wait_for(complete.wait(), 60)
            for client in (one, two):
                await client.drain()
            await asyncio.gather(*tasks)

    asyncio.run(scenario())
    assert sorted(shares[0] + shares[1]) == list(range(1, count + 1))
    assert all(shares), "both got some"
    with zmqbroker.SyncClient(trio.url) as client:
        shows(client.queue(channel), depth=0, acked=count, redelivered=0)


def test_sends_at_the_same_time_are_each_stored_once_in_their_order(trio: Cluster) -> None:
    async def scenario() -> None:
        async with zmqbroker.Client(trio.url) as client:
            queue = client.queue(unique_channel())
            results = await asyncio.gather(*(queue.send(b"%d" % number) for number in range(500)))
            assert [result.sequence for result in results] == list(range(1, 501))
            messages = await queue.receive(max=1000)
            assert [message.body for message in messages] == [b"%d" % number for number in range(500)]
            await queue.ack(messages)

    asyncio.run(scenario())


def test_threads_that_share_a_client_each_get_their_own(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    found: list[int] = []

    def work(number: int) -> None:
        queue.send(b"%d" % number)
        (message,) = queue.receive(wait_ms=WAIT_MS)
        message.ack()
        found.append(message.sequence)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(found) == list(range(1, 17))


@pytest.mark.parametrize("batch_messages", [1, 7, 4096])
def test_producer_stores_all_messages_in_order(client: zmqbroker.SyncClient, batch_messages: int) -> None:
    queue, count = client.queue(unique_channel()), 2_000
    with queue.producer(batch_messages=batch_messages) as producer:
        confirms = [producer.send(b"%d" % number) for number in range(count)]
    assert [confirm.result().sequence for confirm in confirms] == list(range(1, count + 1))
    messages = queue.receive(max=count)
    assert [message.body for message in messages] == [b"%d" % number for number in range(count)]
    queue.ack(messages)
    shows(queue, depth=0, acked=count)


def test_consumer_that_stops_returns_what_it_did_not_ack(client: zmqbroker.SyncClient, other: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    for number in range(10):
        queue.send(b"%d" % number)
    with queue.consume(credit=6, visibility_ms=LONG_MS) as consumer:
        for message in consumer:
            message.ack()
            if message.sequence == 2:
                break
    left = other.queue(queue.name).receive(max=10, min=8, wait_ms=WAIT_MS)
    assert [message.sequence for message in left] == list(range(3, 11))


def test_receive_that_is_cancelled_leaves_its_messages_to_others(trio: Cluster) -> None:
    async def scenario() -> None:
        async with zmqbroker.Client(trio.url) as client:
            queue = client.queue(unique_channel())
            waiting = asyncio.ensure_future(queue.receive(wait_ms=60_000, visibility_ms=LONG_MS))
            await queue.send(b"0")
            (message,) = await waiting
            await message.ack()
            waiting = asyncio.ensure_future(queue.receive(wait_ms=60_000, visibility_ms=LONG_MS))
            while not (await queue.stats())["waiting_receives"]:
                assert not waiting.done()
            waiting.cancel()
            await queue.send(b"1")
            (message,) = await queue.receive(wait_ms=WAIT_MS)
            assert message.body == b"1"

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_send_that_is_explained_tells_where_its_time_went(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    explained = queue.explain(b"why so slow")
    assert explained.result.confirm == "quorum"
    assert explained.result.sequence >= 1  # without a producer a repeat, when the machine is slow, is stored again
    assert {"proposed", "quorum", "applied", "sent"} <= explained.steps_us.keys()
    assert 0 <= explained.steps_us["proposed"] <= explained.steps_us["sent"] <= explained.total_us
    (message,) = queue.receive()
    assert message.body == b"why so slow"


def test_stats_of_any_node_contain_whatever_was_confirmed_before(trio: Cluster, client: zmqbroker.SyncClient) -> None:
    name = unique_channel()
    with ExitStack() as stack:
        nodes = [stack.enter_context(zmqbroker.SyncClient(node.endpoint)) for node in trio.nodes.values()]
        for count in range(1, 21):
            client.queue(name).send(b"counted")
            assert [node.queue(name).stats()["last_sequence"] for node in nodes] == [count] * 3


# --- helpers ---------------------------------------------------------------------------------------------------------


def shows(queue: Any, **wanted: int) -> None:
    """Wait until the counters are these: some change with time."""

    def equal() -> bool:
        stats = queue.stats()
        return all(stats[key] == value for key, value in wanted.items())

    wait_until(equal, 10, f"{wanted} on {queue.name}")


def waits(queue: Any) -> int:
    """How many receives wait."""
    try:
        return int(queue.stats()["waiting_receives"])
    except ChannelNotFound:
        return 0


@contextmanager
def waiting_receive(queue: Any, number: int = 1, **options: Any) -> Iterator[list[Any]]:
    """A receive in a thread of its own: it waits at the broker (the `number`th to do so) when the block begins, and has ended
    after it."""
    answer: list[Any] = []
    thread = threading.Thread(target=lambda: answer.extend(queue.receive(**options)))
    thread.start()
    wait_until(lambda: waits(queue) == number, 10, "the receive waits")
    yield answer
    thread.join(2 * WAIT_MS / 1000)
    assert not thread.is_alive()
