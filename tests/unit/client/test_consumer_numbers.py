"""As which consumer the Python client receives: one for all `receive` of a queue, one for each `consume`; and how often."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import cast

import pytest

from tests.unit.client.servers import FakeServer, run, until
from zmqbroker.client import Client, Message
from zmqbroker.client.consumer import Consumer
from zmqbroker.client.driver import Driver
from zmqbroker.client.message import Content, read_messages
from zmqbroker.client.session import Answer
from zmqbroker.errors import LocalProtocolError, RemoteProtocolError
from zmqbroker.wire.codec import encode_batch
from zmqbroker.wire.requests import AnyRequest, CloseRequest, ReceiveRequest

FRAME = encode_batch(b"q", [b"x"])
SEEN = [0, 1, 1, 0, 5, None]


def of(server: FakeServer, kind: type) -> list:  # type: ignore[type-arg]
    """The requests of a kind, in order."""
    return [request for request in server.node.seen if isinstance(request, kind)]


def test_receive_is_one_consumer_from_call_to_call_and_another_on_another_queue() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await client.queue("q").receive(consumer_priority=4)
        await client.queue("q").receive()
        await client.queue("r").receive()

    asked = of(run(test), ReceiveRequest)
    assert [request.consumer_priority for request in asked] == [4, 0, 0]
    assert asked[0].consumer == asked[1].consumer != asked[2].consumer


def test_receive_that_is_cancelled_gives_up_that_request_alone() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        receiving = asyncio.ensure_future(client.queue("q").receive(wait_ms=60_000))
        await until(lambda: server.broker.waiting)
        receiving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await receiving
        await until(lambda: of(server, CloseRequest))

    server = run(test)
    (asked,), (closed, session) = of(server, ReceiveRequest), of(server, CloseRequest)
    assert closed.consumer == asked.consumer
    assert closed.request > 0
    assert session == CloseRequest()


def test_consume_and_handle_ask_with_their_priority_and_close_their_consumer() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        queue = client.queue("q")

        async def handler(message: Message) -> None:
            """Nothing."""

        async with queue.consume(credit=2, priority=7) as consumer:
            coming = asyncio.ensure_future(anext(aiter(consumer)))
            await until(lambda: len(server.broker.waiting) == 2)
            await queue.send(b"x")
            await coming
        working = asyncio.ensure_future(queue.handle(handler, priority=2))
        await until(lambda: server.broker.waiting)
        await client.drain()
        await working
        with pytest.raises(LocalProtocolError, match="priority is 10, allowed is 0 to 9"):
            queue.consume(priority=10)

    server = run(test)
    asked = {(request.consumer, request.consumer_priority) for request in of(server, ReceiveRequest)}
    assert sorted(priority for _, priority in asked) == [2, 7]
    whole = {request.consumer for request in of(server, CloseRequest) if not request.request}
    assert whole >= {consumer for consumer, _ in asked}


class WaitingDriver:
    """A driver whose requests the test answers."""

    def __init__(self) -> None:
        self.under_way: list[asyncio.Future[Answer]] = []

    def submit(self, request: AnyRequest, _timeout_ms: int) -> asyncio.Future[Answer]:
        """As `Driver.submit`; only CLOSE is answered by itself."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if isinstance(request, CloseRequest):
            future.set_result(Answer({}, []))
        else:
            self.under_way.append(future)
        return future

    def forget(self, future: asyncio.Future[Answer]) -> None:
        """As `Driver.forget`."""

    async def answer(self, *numbers: int) -> None:
        """Answer all requests under way, each with so many messages."""
        for future, count in zip(self.under_way, numbers, strict=True):
            pieces = [[9, 1, 1, 1, 5]] * count
            future.set_result(Answer({"pieces": pieces}, [FRAME] * count))
        self.under_way.clear()
        for _ in range(5):
            await asyncio.sleep(0)


def test_consume_keeps_one_receive_waiting_while_nothing_comes_and_two_when_something_does() -> None:
    async def test() -> None:
        driver = WaitingDriver()
        requests = Consumer.requests(ReceiveRequest("q", consumer=1), 4)
        read = partial(read_messages, None, "q", make=Content)
        consumer = Consumer[Content](cast(Driver, driver), requests, 1_000, read, set())
        taking = asyncio.ensure_future(consumer.take())
        await asyncio.sleep(0)
        await driver.answer(0, 0)
        await driver.answer(0)
        assert len(driver.under_way) == 1
        await driver.answer(1)
        assert len(await taking) == 1
        taking = asyncio.ensure_future(consumer.take())
        await asyncio.sleep(0)
        assert len(driver.under_way) == 2
        await consumer.close()
        assert list(await taking) == []

    asyncio.run(test())


def test_message_that_was_received_is_in_flight() -> None:
    (message,) = read_messages(None, "q", {"pieces": [[9, 1, 1, 1, 5]]}, [FRAME], Content)
    assert (message.state, message.due_unix_ns, message.origin) == ("in_flight", 0, None)


def test_message_in_a_state_of_a_later_version_is_read() -> None:
    row = [*SEEN, {"state": "parked", "more": 1}, "more"]
    (message,) = read_messages(None, "q", {"pieces": [row]}, [FRAME], Content)
    assert (message.state, message.due_unix_ns) == ("parked", 0)


@pytest.mark.parametrize("seen", [None, 5, {}, {"state": 1}, {"state": "delayed", "due_unix_ns": "soon"}])
def test_message_in_a_state_that_is_none_is_refused(seen: object) -> None:
    with pytest.raises(RemoteProtocolError, match="in a state that is none"):
        read_messages(None, "q", {"pieces": [[*SEEN, seen]]}, [FRAME], Content)
