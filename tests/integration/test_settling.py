"""Settling, delaying, moving and managing through the clients against three nodes, as docs/PROTOCOL.md §3 says."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

import zmqbroker
from tests.integration.wild import unique_channel
from tests.processes import Cluster, wait_until
from tests.raw import Raw
from zmqbroker.client import SyncQueue
from zmqbroker.errors import ChannelExists, ChannelFull, ChannelNotFound, InvalidRequest, StaleReceipt
from zmqbroker.wire.frames import Reply, Request

WAIT_MS = 10_000
HOUR_MS = 3_600_000


@pytest.fixture
def client(trio: Cluster) -> Iterator[zmqbroker.SyncClient]:
    with zmqbroker.SyncClient(trio.url) as made:
        yield made


@pytest.fixture
def queue(client: zmqbroker.SyncClient) -> SyncQueue:
    """A queue that no other test uses."""
    return client.queue(unique_channel())


def fill(queue: SyncQueue, count: int) -> None:
    """Send messages whose bodies are their sequences."""
    with queue.producer() as producer:
        for number in range(1, count + 1):
            producer.send(b"%d" % number)


def bodies(messages: Any) -> list[int]:
    """The bodies of messages."""
    return [int(message.body) for message in messages]


def counts(queue: SyncQueue, *names: str) -> tuple[int, ...]:
    """Counters of a queue."""
    stats = queue.stats()
    return tuple(stats[name] for name in names)


# --- settling ----------------------------------------------------------------------------------------------------------


def test_nacked_messages_keep_their_places_and_their_counts(queue: SyncQueue) -> None:
    fill(queue, 5)
    held = queue.receive(3)
    queue.nack(held[1:])
    again = queue.receive(9)
    assert [(message.sequence, message.delivery_count) for message in again] == [(2, 2), (3, 2), (4, 1), (5, 1)]
    held[0].ack()
    with pytest.raises(StaleReceipt):
        held[1].ack()


def test_nacked_behind_goes_behind_all_others(queue: SyncQueue) -> None:
    fill(queue, 3)
    (first,) = queue.receive()
    first.nack(behind=True)
    again = queue.receive(9)
    assert (bodies(again), [message.sequence for message in again]) == ([2, 3, 1], [2, 3, 4])
    assert again[2].delivery_count == 2


def test_nacked_with_a_delay_comes_later(queue: SyncQueue) -> None:
    fill(queue, 2)
    first, second = queue.receive(2)
    first.nack(delay_ms=HOUR_MS)
    second.nack(delay_ms=50)
    assert bodies(queue.receive(9, wait_ms=WAIT_MS)) == [2]
    assert counts(queue, "depth", "ready", "in_flight", "delayed") == (2, 0, 1, 1)


def test_rejected_message_is_in_the_dead_letter_channel_with_its_origin(client: zmqbroker.SyncClient) -> None:
    name, dead = unique_channel(), unique_channel("dead")
    client.channels.create(name, dead_letter=dead)
    queue = client.queue(name)
    queue.send(b"bad", id="a-1", metadata="m")
    (message,) = queue.receive()
    message.reject("no such article")
    (moved,) = client.queue(dead).receive()
    assert (moved.body, moved.id, moved.metadata, moved.delivery_count) == (b"bad", "a-1", "m", 1)
    assert moved.time_unix_ns == message.time_unix_ns
    assert moved.origin == (name, 1, 1, "no such article")
    assert counts(queue, "depth", "dead_lettered") == (0, 1)


def test_rejected_without_a_dead_letter_channel_is_refused_and_still_held(queue: SyncQueue) -> None:
    fill(queue, 1)
    (message,) = queue.receive()
    with pytest.raises(InvalidRequest, match="has no dead-letter channel"):
        message.reject()
    message.ack()


def test_message_delivered_as_often_as_it_may_be_moves_and_redrive_brings_it_back(client: zmqbroker.SyncClient) -> None:
    name, dead = unique_channel(), unique_channel("dead")
    client.channels.create(name, dead_letter=dead, delivery_limit=2)
    queue, graves = client.queue(name), client.queue(dead)
    fill(queue, 3)
    for _ in range(2):
        queue.nack(queue.receive(9))
    found = graves.receive(9)
    assert bodies(found) == [1, 2, 3]
    assert [message.origin for message in found] == [(name, number, 2, "delivery_limit") for number in (1, 2, 3)]
    graves.nack(found)
    assert graves.redrive(origin="another") == 0
    assert graves.redrive(origin=name, max=2) == 2
    assert graves.redrive() == 1
    back = queue.receive(9)
    assert (bodies(back), [message.delivery_count for message in back]) == ([1, 2, 3], [1, 1, 1])
    assert back[0].origin == (dead, 1, 1, "redriven")


def test_requeued_message_moves(client: zmqbroker.SyncClient, queue: SyncQueue) -> None:
    fill(queue, 2)
    to = unique_channel("to")
    queue.requeue(queue.receive(2), to)
    found = client.queue(to).receive(9)
    assert bodies(found) == [1, 2]
    assert [message.origin for message in found] == [(queue.name, 1, 1, "requeued"), (queue.name, 2, 1, "requeued")]
    assert counts(queue, "depth", "moved") == (0, 2)


def test_extended_message_is_held_for_longer(queue: SyncQueue) -> None:
    fill(queue, 2)
    first, _ = queue.receive(2, visibility_ms=1_000)
    first.extend(HOUR_MS)
    assert bodies(queue.receive(9, wait_ms=WAIT_MS)) == [2]
    first.ack()


def test_settled_twice_is_told_as_the_protocol_says(trio: Cluster) -> None:
    channel = unique_channel()
    with Raw(trio.leader().endpoint) as raw:
        for _ in range(4):
            raw.ask(Request.SEND, {"channel": channel}, [b"x"])
        ((assigning, *_),) = raw.ask(Request.RECEIVE, {"channel": channel, "max": 4}).fields["pieces"][:1]
        wishes: list[tuple[Request, dict[str, Any]]] = [
            (Request.NACK, {"delay_ms": HOUR_MS}),
            (Request.NACK, {"behind": True}),
            (Request.REQUEUE, {"to": unique_channel("to")}),
            (Request.EXTEND, {"visibility_ms": HOUR_MS}),
        ]
        told = []
        for number, (command, fields) in enumerate(wishes, 1):
            asked = {"channel": channel, "receipts": [[assigning, number, number]], **fields}
            answers = [raw.ask(command, asked) for _ in range(2)]
            told.append([answer.code or answer.fields["count"] for answer in answers])
    assert told == [[1, "STALE_RECEIPT"], [1, 0], [1, 0], [1, 1]]


# --- how a message wants to be treated ------------------------------------------------------------------------------------


def test_delayed_expiring_and_prioritized_messages(queue: SyncQueue) -> None:
    queue.send(b"1", delay_ms=HOUR_MS)
    queue.send(b"2")
    queue.send(b"3", priority=5)
    queue.send(b"4", expiry_ms=10)
    queue.send(b"5", delay_ms=50, priority=9)
    wait_until(lambda: counts(queue, "ready", "delayed", "expired") == (3, 1, 1), 10, "what is due is due")
    assert bodies(queue.receive(9)) == [5, 3, 2]
    assert queue.delete([1]) == 1
    assert counts(queue, "depth", "dropped") == (3, 1)


def test_producers_messages_are_each_treated_as_they_say(queue: SyncQueue) -> None:
    with queue.producer(linger_ms=50) as producer:
        for number in range(1, 7):
            producer.send(b"%d" % number, priority=number % 3)
    assert bodies(queue.receive(9)) == [2, 5, 1, 4, 3, 6]


def test_plain_sends_carry_what_batches_do(trio: Cluster) -> None:
    channel = unique_channel()
    with Raw(trio.leader().endpoint) as raw:
        for body, fields in ((b"1", {}), (b"2", {"priority": 3}), (b"3", {"delay_ms": HOUR_MS})):
            assert raw.ask(Request.SEND, {"channel": channel, **fields}, [body]).command == Reply.SENT
        answer = raw.ask(Request.RECEIVE, {"channel": channel, "max": 9, "plain": True})
    assert answer.bodies == [b"2", b"1"]


# --- channels --------------------------------------------------------------------------------------------------------------


def test_channel_is_created_once_changed_listed_and_deleted(client: zmqbroker.SyncClient) -> None:
    name, channels = unique_channel("managed"), client.channels
    assert channels.create(name, delivery_limit=3)
    assert not channels.create(name, delivery_limit=3)
    with pytest.raises(ChannelExists, match="delivery_limit is 3 and not 4") as caught:
        channels.create(name, delivery_limit=4)
    assert caught.value.differing == ["delivery_limit"]
    assert channels.update(name, max_messages=2)
    settings = {"delivery_limit": 3, "max_messages": 2}
    assert channels.describe(name)["settings"] == settings
    (row,) = channels.list(name)
    assert (row["channel"], row["settings"]) == (name, settings)
    channels.delete(name)
    assert channels.list(name) == []
    with pytest.raises(ChannelNotFound):
        channels.describe(name)


def test_channel_that_was_deleted_begins_anew_for_a_producer_that_goes_on(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    assert [queue.send(b"1").sequence, queue.send(b"2").sequence] == [1, 2]
    client.channels.delete(queue.name)
    assert queue.send(b"3").sequence == 1
    assert bodies(queue.receive(9)) == [3]


@pytest.mark.parametrize("overflow", ["reject", "drop_oldest", "dead_letter"])
def test_full_channel_does_what_its_settings_say(client: zmqbroker.SyncClient, overflow: str) -> None:
    name, dead = unique_channel(), unique_channel("dead")
    client.channels.create(name, max_messages=2, overflow=overflow, dead_letter=dead)
    queue = client.queue(name)
    fill(queue, 2)
    if overflow == "reject":
        with pytest.raises(ChannelFull) as caught:
            queue.send(b"3", timeout_ms=2_000)
        assert (caught.value.fields["depth"], caught.value.fields["max_messages"]) == (2, 2)
        assert not caught.value.outcome_unknown
        assert bodies(queue.receive(9)) == [1, 2]
    else:
        queue.send(b"3")
        assert bodies(queue.receive(9)) == [2, 3]
        assert bodies(client.queue(dead).receive(9)) == ([1] if overflow == "dead_letter" else [])


def test_purge_and_max_in_flight(client: zmqbroker.SyncClient) -> None:
    name = unique_channel()
    client.channels.create(name, max_in_flight=2)
    queue = client.queue(name)
    fill(queue, 5)
    held = queue.receive(9)
    assert bodies(held) == [1, 2]
    assert queue.receive(9) == []
    assert queue.purge() == 3
    assert queue.purge(in_flight=True) == 2
    queue.ack(held)
    assert counts(queue, "depth", "dropped", "acked") == (0, 5, 0)


def test_every_node_tells_the_same_of_messages_and_channels(trio: Cluster, queue: SyncQueue) -> None:
    fill(queue, 3)
    queue.receive()
    queue.send(b"4", delay_ms=HOUR_MS)
    told: list[Any] = []
    for node in trio.nodes.values():
        with Raw(node.endpoint) as raw:
            for forward in (False, True):
                asked = {"channel": queue.name, "max": 9, "plain": True, "forward": forward}
                told.append(wait_until(partial(_peeked, raw, asked, 4), 10, "it knows all"))
                listed = raw.ask(Request.LIST_CHANNELS, {"search": queue.name, "forward": forward}).fields
                assert [(row["depth"], row["in_flight"], row["delayed"]) for row in listed["channels"]] == [(4, 1, 1)]
    assert told[0][0] == [b"1", b"2", b"3", b"4"]
    assert all(seen == told[0] for seen in told)
    assert [(message["sequence"], message["delivery_count"], message["assigning"]) for message in told[0][1]] == [
        *((1, 1, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0)),
    ]


def _peeked(raw: Raw, fields: dict[str, Any], count: int) -> tuple[list[bytes], Any] | None:
    answer = raw.ask(Request.PEEK, fields)
    complete = answer.command == Reply.MESSAGES and len(answer.bodies) == count
    return (answer.bodies, answer.fields["messages"]) if complete else None
