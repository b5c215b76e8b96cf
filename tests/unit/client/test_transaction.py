"""Acks and sends in one step, as users write them: done when the block ends, once, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.unit.client.fakes import FakeBroker, busy
from tests.unit.client.servers import FakeServer, run, until
from zmqbroker.client import Client, Message, SendResult, SyncClient, Transaction
from zmqbroker.client.handing import UNDER_WAY_MAX
from zmqbroker.client.idle_producers import IDLE_MAX
from zmqbroker.commands import Run
from zmqbroker.errors import (
    BrokerError,
    ChannelFull,
    DeadlineExceeded,
    InvalidChannel,
    InvalidRequest,
    LocalProtocolError,
    MessageTooLarge,
    RemoteProtocolError,
    StaleReceipt,
    UnknownProducer,
)
from zmqbroker.wire.frames import Reply, encode_header
from zmqbroker.wire.requests import AckRequest, HandOverRequest, OpenProducerRequest


async def received(client: Client, count: int = 1) -> list[Message]:
    """So many messages of queue q, sent and held."""
    orders = client.queue("q")
    for number in range(count):
        await orders.send(str(number).encode())
    return await orders.receive(count)


async def failing(step: Transaction) -> None:
    """A block that sends and then fails."""
    async with step:
        step.send("paid", b"1")
        raise ZeroDivisionError


def asked(server: FakeServer, kind: type) -> list[Any]:
    return [request for request in server.node.seen if isinstance(request, kind)]


def test_transaction_acks_and_sends_when_its_block_ends() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        messages = await received(client, 3)
        async with client.queue("q").transaction(*messages) as step:
            step.send("paid", b"1", id="a", metadata="m", tags={"k": "v"})
            step.send("audit", b"2", delay_ms=5, priority=3)
            step.send("paid", bytearray(b"3"))
            assert asked(server, HandOverRequest) == []
        assert step.results == [SendResult(number, 5, False, "quorum") for number in (1, 1, 2)]
        assert step.ended

    broker = run(test).broker
    assert broker.channel("q").acked == {1, 2, 3}
    assert broker.channel("paid").bodies == [b"1", b"3"]
    assert [message.id for message in broker.channel("paid").messages] == [b"a", b""]
    assert broker.channel("paid").messages[0].headers
    assert broker.channel("audit").runs == [Run(1, delay_ms=5, priority=3)]


def test_transaction_left_by_an_exception_does_nothing() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        (message,) = await received(client)
        step = client.queue("q").transaction(message)
        with pytest.raises(ZeroDivisionError):
            await failing(step)
        with pytest.raises(LocalProtocolError, match="this transaction has ended"):
            step.send("paid", b"2")
        with pytest.raises(LocalProtocolError, match="this transaction is not done"):
            _ = step.results
        assert asked(server, HandOverRequest) == []
        await message.nack()

    assert run(test).broker.channel("q").in_flight == {}


def test_transaction_abandoned_or_committed_in_its_block_does_no_more() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        first, second = await received(client, 2)
        async with client.queue("q").transaction(first) as step:
            step.send("paid", b"1")
            step.abandon()
        assert asked(server, HandOverRequest) == []
        async with client.queue("q").transaction(second) as step:
            step.send("paid", b"2")
            await step.commit()
            assert [result.sequence for result in step.results] == [1]
        with pytest.raises(LocalProtocolError, match="this transaction has ended"):
            await step.commit()

    assert run(test).broker.channel("paid").bodies == [b"2"]


def test_transaction_without_sends_acks() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        messages = await received(client, 2)
        async with client.queue("q").transaction(*messages) as step:
            pass
        assert step.results == []
        assert (len(asked(server, AckRequest)), asked(server, HandOverRequest)) == (1, [])

    assert run(test).broker.channel("q").acked == {1, 2}


def test_transaction_acks_a_message_that_it_is_given_twice_once() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        first, second = await received(client, 2)
        async with client.queue("q").transaction(second, first, second) as step:
            step.send("paid", b"1")
        ((receipt, *others),) = [request.receipts for request in asked(server, HandOverRequest)]
        assert (receipt.first, receipt.last, others) == (1, 2, [])

    assert run(test).broker.channel("q").acked == {1, 2}


def test_message_acks_and_sends_in_one_call() -> None:
    async def test(client: Client, _server: FakeServer) -> None:
        first, *others = await received(client, 3)
        assert (await first.ack_and_send("paid", b"1", id="a")).sequence == 1
        assert (await client.queue("q").ack_and_send(others, "paid", b"2", timeout_ms=9_000)).sequence == 2

    broker = run(test).broker
    assert (broker.channel("q").acked, broker.channel("paid").bodies) == ({1, 2, 3}, [b"1", b"2"])


def test_sync_transaction_and_messages_hand_over() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        orders = client.queue("q")
        for number in range(5):
            orders.send(str(number).encode())
        first, second, third, fourth, fifth = orders.receive(5)
        with orders.transaction(first) as step:
            step.send("paid", b"1", id="a")
        assert [result.sequence for result in step.results] == [1]
        assert second.ack_and_send("paid", b"2", priority=3).sequence == 2
        assert orders.ack_and_send([third], "paid", b"3").sequence == 3
        with orders.transaction(fourth) as step:
            step.abandon()
        with pytest.raises(ZeroDivisionError), orders.transaction(fifth):
            raise ZeroDivisionError
        with orders.transaction(fourth) as step:
            step.send("paid", b"4")
            step.commit()
    assert server.broker.channel("paid").bodies == [b"1", b"2", b"3", b"4"]
    assert server.broker.channel("q").acked == {1, 2, 3, 4}


# --- producers -------------------------------------------------------------------------------------------------------


def test_transactions_one_after_the_other_share_a_producer_for_each_channel() -> None:
    async def test(client: Client, _server: FakeServer) -> None:
        for message in await received(client, 5):
            async with client.queue("q").transaction(message) as step:
                step.send("paid", b"1")
                step.send("audit", b"2")
                step.send("audit", b"3")

    server = run(test)
    assert sorted(request.channel for request in asked(server, OpenProducerRequest)) == ["audit", "paid", "q"]
    (producer,) = server.broker.channel("audit").producers.values()
    assert producer.last == 10


def test_transactions_at_the_same_time_are_bounded_and_each_has_its_producer() -> None:
    most = 0

    def look(server: FakeServer, _frames: Any) -> None:
        nonlocal most
        most = max(most, len(server.broker.channel("paid").producers))

    async def test(client: Client, server: FakeServer) -> None:
        server.before = look
        messages = await received(client, 3 * UNDER_WAY_MAX)
        await asyncio.gather(*(message.ack_and_send("paid", message.body) for message in messages))

    broker = run(test).broker
    assert sorted(broker.channel("paid").bodies) == sorted(str(number).encode() for number in range(3 * UNDER_WAY_MAX))
    assert 1 < most <= UNDER_WAY_MAX
    assert {producer.last > 0 for producer in broker.channel("paid").producers.values()} == {True}


def test_transaction_whose_producer_was_forgotten_opens_another_one() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        first, second = await received(client, 2)
        await first.ack_and_send("paid", b"1")
        server.broker.channel("paid").producers.clear()
        assert (await second.ack_and_send("paid", b"2")).sequence == 2

    assert len(asked(run(test), HandOverRequest)) == 3


def test_transaction_that_was_certainly_refused_has_used_no_numbers() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        first, second = await received(client, 2)
        await first.ack()
        with pytest.raises(StaleReceipt) as caught:
            await first.ack_and_send("paid", b"1")
        assert not caught.value.outcome_unknown
        server.node.refusals = [InvalidRequest("no")]
        with pytest.raises(InvalidRequest):
            await second.ack_and_send("paid", b"2")
        await second.ack_and_send("paid", b"3")

    server = run(test)
    assert [request.channel for request in asked(server, OpenProducerRequest)] == ["q", "paid"]
    assert server.broker.channel("paid").bodies == [b"3"]


def test_producers_that_are_not_used_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqbroker.client.idle_producers.IDLE_MAX", 2)

    async def test(client: Client, _server: FakeServer) -> None:
        channels = ["a", "b", "c", "c", "b", "a"]
        for message, channel in zip(await received(client, 6), channels, strict=True):
            await message.ack_and_send(channel, b"x")

    assert [request.channel for request in asked(run(test), OpenProducerRequest)] == ["q", "a", "b", "c", "a"]
    assert IDLE_MAX > UNDER_WAY_MAX


# --- lost answers ----------------------------------------------------------------------------------------------------


def lose_answers(server: FakeServer) -> list[Any]:
    """From now on: the first HAND_OVER is served and its answer lost; those that were."""
    lost: list[Any] = []
    handle = server.node.handle

    def handled(connection: Any, frames: Sequence[Any]) -> Any:
        answers = handle(connection, frames)
        if lost or not isinstance(server.node.seen[-1], HandOverRequest):
            return answers
        lost.append(frames)
        return []

    server.node.handle = handled  # type: ignore[method-assign]
    return lost


def again(server: FakeServer) -> None:
    """All connections break; the node is there again."""
    server.stop()
    server.start()


def test_transaction_whose_answer_was_lost_is_done_once_and_gets_the_first_answer() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        (message,) = await received(client)
        lost = lose_answers(server)
        sending = asyncio.create_task(message.ack_and_send("paid", b"1"))
        await until(lambda: lost)
        again(server)
        assert await sending == SendResult(1, 5, True, "quorum")

    server = run(test)
    assert server.broker.channel("paid").bodies == [b"1"]
    first, second = asked(server, HandOverRequest)
    assert first == second


@pytest.mark.parametrize("spoil", ["results", "producer", "channel", "evicted"])
def test_transaction_that_may_have_been_done_says_so_whatever_the_repeat_is_refused_with(spoil: str) -> None:
    async def test(client: Client, server: FakeServer) -> None:
        (message,) = await received(client)
        lost = lose_answers(server)
        sending = asyncio.create_task(message.ack_and_send("paid", b"1"))
        await until(lambda: lost)
        if spoil == "channel":
            server.node.refusals = [InvalidRequest("no channel")]
        elif spoil == "evicted":
            server.node.refusals = [UnknownProducer("no producer")]
        elif spoil == "producer":
            server.broker.channel("paid").producers.clear()
        else:
            for producer in server.broker.channel("paid").producers.values():
                producer.results.clear()
        again(server)
        with pytest.raises(BrokerError) as caught:
            await sending
        assert getattr(caught.value, "outcome_unknown", False)
        assert len(asked(server, HandOverRequest)) == 2
        (other,) = await received(client)
        assert (await other.ack_and_send("paid", b"2")).sequence == 2

    server = run(test)
    assert server.broker.channel("paid").bodies == [b"1", b"2"]
    opened = [request for request in asked(server, OpenProducerRequest) if request.channel == "paid"]
    assert len(opened) == 2, "whose next number nobody knows is not used again"


def test_transaction_refused_for_a_while_is_repeated() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        (message,) = await received(client)
        server.node.refusals = [busy(1), busy(1), ChannelFull("full")]
        await message.ack_and_send("paid", b"1")

    assert run(test).broker.channel("paid").bodies == [b"1"]


def test_transaction_without_an_answer_until_its_deadline_is_of_unknown_outcome() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        first, second = await received(client, 2)
        await first.ack_and_send("paid", b"1")
        server.silent = True
        with pytest.raises(DeadlineExceeded) as caught:
            await second.ack_and_send("paid", b"2", timeout_ms=50)
        assert caught.value.outcome_unknown

    run(test)


def test_transaction_that_gets_no_slot_in_time_was_certainly_not_done() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        messages = await received(client, UNDER_WAY_MAX + 1)
        server.silent = True
        waiting = [asyncio.create_task(message.ack_and_send("paid", b"x")) for message in messages[1:]]
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded, match="a hand-over was not sent in time") as caught:
            await messages[0].ack_and_send("paid", b"x", timeout_ms=10)
        assert not caught.value.outcome_unknown
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    run(test)


def test_transaction_that_was_cancelled_forgets_its_request_and_its_producers() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        first, second = await received(client, 2)
        lost = lose_answers(server)
        sending = asyncio.create_task(first.ack_and_send("paid", b"1"))
        await until(lambda: lost)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        again(server)
        assert (await second.ack_and_send("paid", b"2")).sequence == 2

    server = run(test)
    assert len(asked(server, HandOverRequest)) == 2
    assert len([request for request in asked(server, OpenProducerRequest) if request.channel == "paid"]) == 2


# --- what cannot be --------------------------------------------------------------------------------------------------


def test_transaction_of_what_cannot_be_is_refused_before_anything_is_sent() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        orders, (message,) = client.queue("q"), await received(client)
        count = len(server.node.seen)
        with pytest.raises(LocalProtocolError, match="acks at least one message"):
            orders.transaction()
        with pytest.raises(LocalProtocolError, match="of queue 'other' was given a message of 'q'"):
            client.queue("other").transaction(message)
        step = orders.transaction(message)
        with pytest.raises(InvalidChannel):
            step.send("a b", b"x")
        with pytest.raises(LocalProtocolError, match="a body must be bytes"):
            step.send("paid", "text")  # type: ignore[arg-type]
        with pytest.raises(LocalProtocolError, match="priority is 10"):
            step.send("paid", b"x", priority=10)
        with pytest.raises(MessageTooLarge):
            step.send("paid", bytes((1 << 20) + 1))
        for number in range(64):
            step.send(f"paid.{number}", b"x")
        step.send("paid.0", b"x")
        with pytest.raises(LocalProtocolError, match="sends to 64 channels at most"):
            step.send("paid.64", b"x")
        assert len(server.node.seen) == count

    run(test)


def test_transaction_with_too_many_messages_for_a_channel_or_receipts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqbroker.client.transaction.COUNT_MAX", 2)
    monkeypatch.setattr("zmqbroker.client.transaction.RECEIPTS_MAX", 2)

    async def test(client: Client, _server: FakeServer) -> None:
        messages = await received(client, 6)
        step = client.queue("q").transaction(*messages[:2])
        for body in (b"1", b"2"):
            step.send("paid", body)
        with pytest.raises(LocalProtocolError, match="sends 2 messages to a channel at most"):
            step.send("paid", b"3")
        with pytest.raises(LocalProtocolError, match="of 3 runs of messages, the limit is 2"):
            client.queue("q").transaction(*messages[::2])

    run(test)


def test_transaction_over_the_bytes_of_one_is_refused_and_its_messages_are_held() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        (message,) = await received(client)
        step = client.queue("q").transaction(message)
        for _ in range(3):
            step.send("paid", bytes(1 << 20))
        with pytest.raises(MessageTooLarge, match="the messages of a hand-over have") as caught:
            await step.commit()
        assert caught.value.fields["limit"] == 2 << 20
        assert asked(server, HandOverRequest) == []
        await message.ack_and_send("paid", b"1")

    server = run(test)
    assert len([request for request in asked(server, OpenProducerRequest) if request.channel == "paid"]) == 1


GOOD = {"count": 1, "sent": [["paid", 1, 1]], "time_unix_ns": 5, "duplicate": False, "confirm": "quorum"}


@pytest.mark.parametrize(
    "change",
    [
        {"sent": None},
        {"sent": [["paid", 1]]},
        {"sent": [["paid", "1", 1]]},
        {"sent": ["paid"]},
        {"sent": [["paid", 1, 2]]},
        {"sent": [["other", 1, 1]]},
        {"sent": []},
        {"time_unix_ns": "now"},
        {"duplicate": 0},
        {"confirm": None},
    ],
    ids=str,
)
def test_transaction_answered_with_what_cannot_be_is_an_error_of_the_node(change: dict[str, Any]) -> None:
    async def test(client: Client, server: FakeServer) -> None:
        (message,) = await received(client)
        server.broker.apply = answering(server.broker, {**GOOD, **change})  # type: ignore[method-assign]
        with pytest.raises(RemoteProtocolError):
            await message.ack_and_send("paid", b"1")

    run(test)


def answering(broker: FakeBroker, fields: dict[str, Any]) -> Callable[..., list[bytes] | None]:
    """Serve as before, but answer hand-overs with these fields."""
    serve = broker.apply

    def apply(request: Any, request_id: int, session: bytes, reply_to: Any) -> list[bytes] | None:
        if isinstance(request, HandOverRequest):
            return [encode_header(Reply.HANDED_OVER, request_id, fields)]
        return serve(request, request_id, session, reply_to)

    return apply
