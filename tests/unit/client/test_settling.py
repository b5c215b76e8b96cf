"""Nack, reject, requeue and extend: messages, queues, and more receipts than one request takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.unit.client.fakes import FakeBroker
from tests.unit.client.servers import FakeServer, run
from zmqbroker.client import Client, Message, SyncClient
from zmqbroker.client.session import Answer
from zmqbroker.client.settling import settle
from zmqbroker.commands import ChannelSettings, Extend, Nack, Receipt, Reject, Requeue
from zmqbroker.errors import Busy, InvalidChannel, InvalidRequest, RemoteProtocolError, StaleReceipt
from zmqbroker.wire.requests import SettleRequest


async def received(client: Client, count: int) -> list[Message]:
    """So many messages, sent and held."""
    orders = client.queue("q")
    for number in range(count):
        await orders.send(str(number).encode())
    return await orders.receive(count)


def receipts(*messages: Message) -> tuple[Receipt, ...]:
    """A receipt for each message."""
    return tuple(Receipt(message.assigning, message.sequence, message.sequence) for message in messages)


def settled(broker: FakeBroker) -> list[Any]:
    """What was asked for, without the session, which is that of the connection."""
    assert all(len(command.session) == 16 for command in broker.settled)
    return [type(command)(b"", *[getattr(command, name) for name in _names(command)]) for command in broker.settled]


def _names(command: Any) -> list[str]:
    return [name for name in command.__dataclass_fields__ if name != "session"]


def test_message_settles_itself_in_every_way() -> None:
    seen: list[tuple[Receipt, ...]] = []

    async def test(client: Client, server: FakeServer) -> None:
        server.broker.channel("q").settings = ChannelSettings(dead_letter="dead")
        messages = await received(client, 6)
        seen.extend(receipts(message) for message in messages)
        await messages[0].nack()
        await messages[1].nack(delay_ms=1_500)
        await messages[2].nack(behind=True)
        await messages[3].reject("no such article")
        await messages[4].requeue("slow")
        await messages[5].extend(60_000)

    broker = run(test).broker
    assert settled(broker) == [
        Nack(b"", "q", seen[0]),
        Nack(b"", "q", seen[1], 1_500),
        Nack(b"", "q", seen[2], behind=True),
        Reject(b"", "q", seen[3], "no such article"),
        Requeue(b"", "q", seen[4], "slow"),
        Extend(b"", "q", seen[5], 60_000),
    ]
    assert (broker.channel("dead").bodies, broker.channel("slow").bodies) == ([b"3"], [b"4"])
    assert broker.channel("q").bodies == [b"0", b"1", b"2", b"3", b"4", b"5", b"2"]


def test_sync_message_and_queue_settle_in_every_way() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        server.broker.channel("q").settings = ChannelSettings(dead_letter="dead")
        orders = client.queue("q")
        for number in range(10):
            orders.send(str(number).encode())
        held = orders.receive(10)
        held[0].nack()
        held[1].nack(delay_ms=5)
        held[2].nack(behind=True)
        held[3].reject("why")
        held[4].requeue("slow")
        held[5].extend(100)
        orders.nack(held[6:7], delay_ms=7)
        orders.reject(held[7:8], "too old")
        orders.requeue(held[8:9], "slow")
        orders.extend(held[9:], 200)
    details = [command[3:] for command in map(astuple, settled(server.broker))]
    assert details == [
        *((0, False), (5, False), (0, True), ("why",), ("slow",), (100,)),
        *((7, False), ("too old",), ("slow",), (200,)),
    ]
    assert server.broker.channel("slow").bodies == [b"4", b"8"]


def astuple(command: Any) -> tuple[Any, ...]:
    """The values of a command, in order."""
    return tuple(getattr(command, name) for name in command.__dataclass_fields__)


def test_queue_settles_nothing_without_messages() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await client.queue("q").nack([])
        await client.queue("q").extend([], 5)

    assert run(test).broker.settled == []


def test_queue_requeue_to_what_is_no_channel_is_refused_before_anything_is_sent() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        with pytest.raises(InvalidChannel, match="'a b' holds white space"):
            await client.queue("q").requeue(await received(client, 1), "a b")

    assert run(test).broker.settled == []


def test_message_reject_without_a_dead_letter_channel_is_refused_and_still_held() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        [message] = await received(client, 1)
        with pytest.raises(InvalidRequest):
            await message.reject()
        await message.ack()

    run(test)


def test_queue_nack_of_more_than_4096_messages_is_several_requests() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        orders, count = client.queue("q"), 4096 * 2 + 3
        async with orders.producer() as producer:
            await producer.send_batch([b"x"] * count)
        held = await orders.receive(count)
        assert len(held) == count
        await orders.nack(held)
        assert len(server.broker.channel("q").ready) == count

    broker = run(test).broker
    assert [len(command.receipts) for command in broker.settled] == [4096, 4096, 3]


def test_queue_nack_of_a_stale_message_does_all_the_others_and_names_it() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        orders = client.queue("q")
        held = await received(client, 5)
        await held[2].nack()
        with pytest.raises(StaleReceipt) as caught:
            await orders.nack(held)
        assert not caught.value.outcome_unknown
        stale = [held[2].assigning, held[2].sequence, held[2].sequence]
        assert (caught.value.fields["stale"], caught.value.fields["count"]) == ([stale], 4)
        assert sorted(server.broker.channel("q").ready) == [1, 2, 3, 4, 5]

    run(test)


# --- with nothing but the requests --------------------------------------------------------------------------------------


class Node:
    """Answers requests as told: each answer is None for done, or an error."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Receipt, ...]] = []

    def submit(self, request: SettleRequest) -> asyncio.Future[Answer]:
        self.asked.append(request.command.receipts)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        answer = self.answers.pop(0)
        if answer is None:
            future.set_result(Answer({"count": 1}, []))
        else:
            future.set_exception(answer)
        return future


def stale(*receipts: Receipt, outcome_unknown: bool = False) -> StaleReceipt:
    """A refusal of receipts."""
    named = [[receipt.assigning, receipt.first, receipt.last] for receipt in receipts]
    return StaleReceipt("stale", outcome_unknown=outcome_unknown, stale=named, count=0)


def nack(receipts: tuple[Receipt, ...]) -> Nack:
    """The command that is made of receipts here."""
    return Nack(b"", "q", receipts)


def error_of(action: Callable[[], Awaitable[None]]) -> Exception | None:
    """What an action raises."""

    async def main() -> Exception | None:
        try:
            await action()
        except Exception as error:
            return error
        return None

    return asyncio.run(main())


def test_settle_range_that_is_refused_is_asked_for_message_by_message() -> None:
    whole = Receipt(7, 1, 3)
    node = Node(stale(whole), stale(Receipt(7, 2, 2)))
    error = error_of(lambda: settle(node.submit, nack, [whole, Receipt(8, 9, 9)]))
    assert node.asked == [(whole, Receipt(8, 9, 9)), (Receipt(7, 1, 1), Receipt(7, 2, 2), Receipt(7, 3, 3))]
    assert isinstance(error, StaleReceipt)
    assert error.fields == {"stale": [[7, 2, 2]], "count": 3}


def test_settle_range_of_messages_that_were_all_held_one_by_one_is_no_error() -> None:
    whole = Receipt(7, 1, 2)
    node = Node(stale(whole), None)
    assert error_of(lambda: settle(node.submit, nack, [whole])) is None


def test_settle_goes_on_after_a_part_that_was_stale() -> None:
    many = [Receipt(number, 1, 1) for number in range(1, 4098)]
    node = Node(stale(many[0]), stale(many[-1]))
    error = error_of(lambda: settle(node.submit, nack, many))
    assert isinstance(error, StaleReceipt)
    assert error.fields == {"stale": [[1, 1, 1], [4097, 1, 1]], "count": 4095}
    assert [len(asked) for asked in node.asked] == [4096, 1]


def test_settle_outcome_that_is_unknown_in_any_part_is_unknown() -> None:
    whole = Receipt(7, 1, 2)
    node = Node(stale(whole, outcome_unknown=True), stale(Receipt(7, 1, 1), Receipt(7, 2, 2)))
    error = error_of(lambda: settle(node.submit, nack, [whole]))
    assert isinstance(error, StaleReceipt)
    assert error.outcome_unknown
    assert error.fields["stale"] == [[7, 1, 1], [7, 2, 2]]


def test_settle_refusal_of_what_was_not_asked_is_not_the_callers() -> None:
    node = Node(stale(Receipt(9, 9, 9)))
    assert error_of(lambda: settle(node.submit, nack, [Receipt(7, 1, 1)])) is None


@pytest.mark.parametrize("named", [None, [], [[1, 2]], "all"])
def test_settle_refusal_without_receipts_is_the_nodes_fault(named: object) -> None:
    node = Node(StaleReceipt("stale", stale=named))
    assert isinstance(error_of(lambda: settle(node.submit, nack, [Receipt(7, 1, 1)])), RemoteProtocolError)


def test_settle_other_errors_end_it() -> None:
    node = Node(Busy("full"))
    assert isinstance(error_of(lambda: settle(node.submit, nack, [Receipt(7, 1, 1)])), Busy)
