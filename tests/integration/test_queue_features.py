"""What a queue does with messages beyond send, receive and ack, through the clients against three nodes.

One test for each row of the feature table; `docs/GUARANTEES.md` links them. What takes a failover is in tests/fault.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

import zmqbroker
from tests.integration.wild import unique_channel
from tests.processes import Cluster, wait_until
from zmqbroker.errors import ChannelExists, ChannelFull, ChannelNotFound, InvalidRequest, StaleReceipt

WAIT_MS = 10_000


@pytest.fixture
def client(trio: Cluster) -> Iterator[zmqbroker.SyncClient]:
    with zmqbroker.SyncClient(trio.url) as made:
        yield made


def bodies(queue: zmqbroker.SyncQueue, count: int = 100, *, wait_ms: int = 0) -> list[bytes]:
    """What can be received now; it is acked."""
    messages = queue.receive(count, wait_ms=wait_ms)
    queue.ack(messages)
    return [message.body for message in messages]


# --- send ------------------------------------------------------------------------------------------------------------


def test_delayed_message_is_not_there_before_its_time_and_is_then(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    sent = queue.send(b"later", delay_ms=300)
    queue.send(b"now")
    assert queue.stats()["delayed"] == 1
    assert bodies(queue) == [b"now"]
    (message,) = queue.receive(wait_ms=WAIT_MS)
    received_ns = time.time_ns()
    message.ack()
    assert (message.body, message.sequence) == (b"later", sent.sequence)
    assert received_ns >= sent.time_unix_ns + 250_000_000, "a node's clock is allowed to be ahead by a little"


def test_delayed_message_is_cancelled_by_its_sequence(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    sent = queue.send(b"never", delay_ms=60_000)
    assert queue.delete([sent.sequence, sent.sequence + 1]) == 1
    assert queue.stats()["depth"] == 0
    assert queue.delete([sent.sequence]) == 0


def test_message_that_expires_is_not_delivered_and_is_counted(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    queue.send(b"short", expiry_ms=50)
    queue.send(b"long", expiry_ms=60_000)
    wait_until(lambda: queue.stats()["expired"] == 1, 10, "the first one to expire")
    assert bodies(queue) == [b"long"]


def test_priorities_are_received_first_and_each_in_order(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    with queue.producer() as producer:
        for number in range(12):
            producer.send(b"%d" % number, priority=number % 3)
    assert bodies(queue) == [b"%d" % number for level in (2, 1, 0) for number in range(level, 12, 3)]


def test_producer_takes_delay_expiry_and_priority_message_by_message(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    with queue.producer() as producer:
        producer.send(b"plain", id="a", tags={"k": "v"})
        producer.send(b"delayed", delay_ms=60_000)
        producer.send(b"urgent", priority=9, expiry_ms=60_000)
    first, second = queue.receive(10)
    assert (first.body, second.body, second.id, second.tags) == (b"urgent", b"plain", "a", {"k": "v"})
    assert (queue.stats()["delayed"], queue.purge(in_flight=True)) == (1, 3)


# --- what a holder does ----------------------------------------------------------------------------------------------


def test_nacked_message_keeps_its_place(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    for number in range(3):
        queue.send(b"%d" % number)
    queue.receive()[0].nack()
    again = queue.receive(3)
    assert [(message.body, message.delivery_count) for message in again] == [(b"0", 2), (b"1", 1), (b"2", 1)]
    queue.ack(again)


def test_nacked_message_goes_behind_when_that_is_asked(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    for number in range(3):
        queue.send(b"%d" % number)
    queue.receive()[0].nack(behind=True)
    again = queue.receive(3)
    assert [(message.body, message.sequence, message.delivery_count) for message in again] == [
        (b"1", 2, 1),
        (b"2", 3, 1),
        (b"0", 4, 2),
    ]
    queue.ack(again)


def test_nacked_message_returns_after_the_delay(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    queue.send(b"again")
    queue.receive()[0].nack(delay_ms=300)
    assert queue.receive() == []
    assert queue.stats()["delayed"] == 1
    (message,) = queue.receive(wait_ms=WAIT_MS)
    assert message.delivery_count == 2
    message.ack()


def test_extended_message_stays_with_its_holder(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    queue.send(b"long work")
    queue.send(b"other")
    kept, lost = queue.receive(2, visibility_ms=400)
    kept.extend(60_000)
    (returned,) = queue.receive(wait_ms=WAIT_MS)
    assert (returned.body, returned.delivery_count) == (b"other", 2)
    kept.ack()
    with pytest.raises(StaleReceipt):
        lost.ack()
    returned.ack()
    assert queue.stats()["depth"] == 0


def test_rejected_message_is_in_the_dead_letter_channel_with_its_origin(client: zmqbroker.SyncClient) -> None:
    name = unique_channel()
    client.channels.create(name, dead_letter=f"{name}.dead")
    queue, dead = client.queue(name), client.queue(f"{name}.dead")
    queue.send(b"good")
    queue.send(b"bad", id="b", metadata="m")
    good, bad = queue.receive(2)
    good.ack()
    bad.reject("cannot be read")
    (message,) = dead.receive(wait_ms=WAIT_MS)
    assert (message.body, message.id, message.metadata, message.delivery_count) == (b"bad", "b", "m", 1)
    assert message.origin == (name, bad.sequence, 1, "cannot be read")
    message.ack()
    assert (queue.stats()["dead_lettered"], queue.stats()["depth"]) == (1, 0)


def test_reject_without_a_dead_letter_channel_is_refused_and_keeps_the_message(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    queue.send(b"kept")
    (message,) = queue.receive()
    with pytest.raises(InvalidRequest, match="no dead-letter channel"):
        message.reject()
    message.nack()
    assert bodies(queue) == [b"kept"]


def test_message_delivered_too_often_is_dead_lettered(client: zmqbroker.SyncClient) -> None:
    name = unique_channel()
    client.channels.create(name, dead_letter=f"{name}.dead", delivery_limit=3)
    queue, dead = client.queue(name), client.queue(f"{name}.dead")
    queue.send(b"poison")
    for count in (1, 2, 3):
        (message,) = queue.receive(wait_ms=WAIT_MS)
        assert message.delivery_count == count
        message.nack()
    assert queue.receive() == []
    (message,) = dead.receive()
    assert message.origin == (name, 1, 3, "delivery_limit")
    message.ack()


def test_message_delivered_too_often_without_a_dead_letter_channel_is_kept_and_counted(client: zmqbroker.SyncClient) -> None:
    name = unique_channel()
    client.channels.create(name, delivery_limit=2)
    queue = client.queue(name)
    queue.send(b"kept")
    for count in (1, 2, 3, 4):
        (message,) = queue.receive()
        assert message.delivery_count == count
        message.nack()
    assert (queue.stats()["depth"], queue.stats()["redelivered"]) == (1, 3)


def test_requeued_message_is_in_the_other_channel(client: zmqbroker.SyncClient) -> None:
    queue, other = client.queue(unique_channel()), client.queue(unique_channel())
    queue.send(b"moves")
    queue.receive()[0].requeue(other.name)
    (message,) = other.receive()
    assert (message.body, message.origin) == (b"moves", (queue.name, 1, 1, "requeued"))
    message.ack()
    assert (queue.stats()["moved"], queue.stats()["depth"]) == (1, 0)


# --- what an operator does -------------------------------------------------------------------------------------------


def test_peek_touches_nothing(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    sent = [queue.send(b"%d" % number, delay_ms=60_000 * (number == 2)) for number in range(4)]
    held = queue.receive()
    before = queue.stats()
    assert [message.body for message in queue.peek(10)] == [b"0", b"1", b"2", b"3"]
    assert [message.body for message in queue.peek(2, first=2)] == [b"1", b"2"]
    assert [message.body for message in queue.peek(10, since_unix_ns=sent[3].time_unix_ns)] == [b"3"]
    after = queue.stats()
    assert {**after, "applied_index": 0} == {**before, "applied_index": 0}
    queue.ack(held)


def test_purge_and_ack_all_finish_what_there_is_at_once(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    for number in range(5):
        queue.send(b"x", delay_ms=60_000 * (number == 4))
    held = queue.receive(2)
    assert queue.purge() == 3
    assert queue.stats()["in_flight"] == 2
    queue.ack(held[:1])
    assert queue.purge(in_flight=True) == 1
    assert (queue.stats()["depth"], queue.stats()["dropped"]) == (0, 4)


def test_redrive_takes_messages_back_to_where_they_came_from_filtered(client: zmqbroker.SyncClient) -> None:
    one, two, dead = unique_channel(), unique_channel(), client.queue(unique_channel())
    for name in (one, two):
        client.channels.create(name, dead_letter=dead.name)
        client.queue(name).send(name.encode())
        client.queue(name).receive()[0].reject()
    assert dead.stats()["depth"] == 2
    assert dead.redrive(origin=two) == 1
    assert bodies(client.queue(two)) == [two.encode()]
    assert client.queue(one).stats()["depth"] == 0
    assert dead.redrive(max=10) == 1
    assert bodies(client.queue(one)) == [one.encode()]


# --- channels --------------------------------------------------------------------------------------------------------


def test_channel_is_created_once_and_a_difference_is_named(client: zmqbroker.SyncClient) -> None:
    name = unique_channel()
    assert client.channels.create(name, max_messages=5)
    assert not client.channels.create(name, max_messages=5)
    with pytest.raises(ChannelExists, match="max_messages is 5 and not 6") as caught:
        client.channels.create(name, max_messages=6)
    assert caught.value.differing == ["max_messages"]
    assert client.channels.update(name, max_bytes=1000)
    assert client.channels.describe(name)["settings"] == {"max_messages": 5, "max_bytes": 1000}
    with pytest.raises(InvalidRequest, match="'max_mesages' is not known"):
        client.channels.update(name, max_mesages=6)


def test_channels_are_listed_by_any_node_and_searched(trio: Cluster) -> None:
    prefix = unique_channel()
    names = [f"{prefix}.{number:02}" for number in range(5)]
    for node in trio.nodes.values():
        with zmqbroker.SyncClient(node.endpoint) as client:
            for name in names:
                client.channels.create(name)
            assert [row["channel"] for row in client.channels.list(prefix)] == names
            assert client.channels.list(f"{prefix}.no") == []


def test_deleted_channel_is_gone_with_its_messages(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    queue.send(b"gone")
    held = queue.receive()
    client.channels.delete(queue.name)
    with pytest.raises(ChannelNotFound):
        queue.stats()
    with pytest.raises(ChannelNotFound):
        queue.ack(held)
    with pytest.raises(ChannelNotFound):
        client.channels.delete(queue.name)
    assert queue.send(b"new").sequence == 1
    assert bodies(queue) == [b"new"]


def test_full_channel_rejects_and_takes_again_when_there_is_room(client: zmqbroker.SyncClient) -> None:
    name = unique_channel()
    client.channels.create(name, max_messages=2)
    queue = client.queue(name)
    queue.send(b"0")
    queue.send(b"1")
    with pytest.raises(ChannelFull, match="max_messages 2"):
        queue.send(b"2", timeout_ms=2_000)
    assert bodies(queue, 1) == [b"0"]
    queue.send(b"3")
    assert bodies(queue) == [b"1", b"3"]


@pytest.mark.parametrize("overflow", ["drop_oldest", "dead_letter"])
def test_full_channel_makes_room_by_its_oldest_messages(client: zmqbroker.SyncClient, overflow: str) -> None:
    name = unique_channel()
    client.channels.create(name, max_messages=2, overflow=overflow, dead_letter=f"{name}.dead")
    queue, dead = client.queue(name), client.queue(f"{name}.dead")
    for number in range(5):
        queue.send(b"%d" % number)
    assert bodies(queue) == [b"3", b"4"]
    expected = [b"0", b"1", b"2"] if overflow == "dead_letter" else []
    assert (bodies(dead), queue.stats()["dropped"]) == (expected, 3 - len(expected))


def test_most_in_flight_of_a_channel_holds_for_all_its_receivers_together(client: zmqbroker.SyncClient) -> None:
    name = unique_channel()
    client.channels.create(name, max_in_flight=2)
    queue = client.queue(name)
    for number in range(4):
        queue.send(b"%d" % number)
    held = queue.receive(10)
    assert [message.body for message in held] == [b"0", b"1"]
    assert queue.receive(10) == []
    held[0].ack()
    (third,) = queue.receive(10, wait_ms=WAIT_MS)
    queue.ack([held[1], third])
    assert bodies(queue) == [b"3"]


def test_defaults_of_a_channel_hold_for_messages_that_say_nothing(client: zmqbroker.SyncClient) -> None:
    name = unique_channel()
    client.channels.create(name, delay_ms=60_000, expiry_ms=120_000)
    queue = client.queue(name)
    queue.send(b"delayed")
    queue.send(b"soon", delay_ms=10)
    assert bodies(queue, wait_ms=WAIT_MS) == [b"soon"]
    assert queue.stats()["delayed"] == 1


def test_message_received_with_auto_ack_is_finished_as_it_is_delivered(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    for number in range(3):
        queue.send(b"%d" % number)
    assert [message.body for message in queue.receive(2, auto_ack=True)] == [b"0", b"1"]
    stats = queue.stats()
    assert (stats["depth"], stats["in_flight"], stats["acked"]) == (1, 0, 2)
    with queue.consume(auto_ack=True) as consumer:
        assert next(iter(consumer)).body == b"2"
    assert queue.stats()["depth"] == 0
