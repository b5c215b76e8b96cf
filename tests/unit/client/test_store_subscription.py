"""Subscriptions without a durable position: order, gaps, limits and ends, on a broker that a test plays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from zmqbroker.client.answer import Answer
from zmqbroker.client.consumer import Consuming
from zmqbroker.client.cursor import Cursor, Gap, Start
from zmqbroker.client.store_subscription import StoreSubscription
from zmqbroker.errors import BrokerError, ChannelNotFound, PositionGone, RemoteProtocolError
from zmqbroker.wire.codec import encode_batch
from zmqbroker.wire.requests import ReadRequest

STORE = "events_store:s"
FIRST = Start("sequence", 1)


class Broker:
    """What a driver is to a subscription; the test answers."""

    message_bytes_max = 1 << 20

    def __init__(self) -> None:
        self.asked: list[tuple[ReadRequest, asyncio.Future[Answer]]] = []
        self.forgotten = 0
        self.active: set[Consuming] = set()

    def submit(self, request: ReadRequest, timeout_ms: int) -> asyncio.Future[Answer]:
        assert timeout_ms > request.wait_ms
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.asked.append((request, future))
        return future

    def forget(self, future: asyncio.Future[Answer]) -> None:
        self.forgotten += 1

    def subscription(self, start: Start = FIRST, **options: Any) -> StoreSubscription:
        cursor = Cursor(STORE, start, 10, 1000, options.pop("rate_limit", None))
        return StoreSubscription(self, STORE, cursor, 1000, self.active, **options)  # type: ignore[arg-type]

    async def answer(self, first: int, last: int, *, newest: int = 0) -> None:
        """Answer the READ that is under way with these events; `last` below `first`: with none."""
        fields: dict[str, Any] = {"pieces": [], "next": last + 1, "first": 1, "last": newest or last, "incarnation": 7}
        bodies = []
        if first <= last:
            fields["pieces"] = [[0, first, last, 0, 99]]
            bodies = [encode_batch(STORE.encode(), [b"x"] * (last - first + 1))]
        self.asked[-1][1].set_result(Answer(fields, bodies))
        await asyncio.sleep(0)

    async def fail(self, error: BrokerError) -> None:
        self.asked[-1][1].set_exception(error)
        await asyncio.sleep(0)

    @property
    def places(self) -> list[tuple[str, int]]:
        """Where the READs so far began."""
        return [(request.start, request.value) for request, _ in self.asked]


def play(scene: Callable[[Broker], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(10):
            await scene(Broker())

    asyncio.run(main())


def numbers(events: Any) -> list[int]:
    return [event.sequence for event in events]


def test_events_come_in_order_and_the_next_read_is_under_way_while_they_are_handled() -> None:
    async def scene(broker: Broker) -> None:
        taking = asyncio.create_task(broker.subscription().take())
        await asyncio.sleep(0)
        await broker.answer(1, 3)
        assert broker.places == [("sequence", 1), ("sequence", 4)]
        assert numbers(await taking) == [1, 2, 3]

    play(scene)


def test_answers_that_wait_are_bounded() -> None:
    async def scene(broker: Broker) -> None:
        subscription = broker.subscription()
        taking = asyncio.create_task(subscription.take())
        await asyncio.sleep(0)
        for sequence in (1, 2, 3):
            await broker.answer(sequence, sequence)
        assert numbers(await taking) == [1]
        assert len(broker.asked) == 3  # two answers wait
        assert numbers(await subscription.take()) == [2]
        assert len(broker.asked) == 4
        assert numbers(await subscription.take()) == [3]

    play(scene)


def test_place_is_found_when_the_block_begins() -> None:
    async def scene(broker: Broker) -> None:
        subscription = broker.subscription(Start("new"))
        entering = asyncio.create_task(subscription.__aenter__())
        await asyncio.sleep(0)
        assert not entering.done()
        await broker.answer(8, 7)
        await entering
        assert broker.places == [("new", 0), ("sequence", 8)]
        await subscription.close()

    play(scene)


def test_fault_while_the_place_is_looked_for_ends_the_block_before_it_begins() -> None:
    async def scene(broker: Broker) -> None:
        subscription = broker.subscription(Start("new"))
        entering = asyncio.create_task(subscription.__aenter__())
        await asyncio.sleep(0)
        await broker.fail(ChannelNotFound("none"))
        with pytest.raises(ChannelNotFound):
            await entering
        assert broker.active == set()

    play(scene)


def test_gap_is_told_in_its_place_and_reading_goes_on_behind_it() -> None:
    async def scene(broker: Broker) -> None:
        gaps: list[Gap] = []
        told, raised = broker.subscription(on_gap=gaps.append), broker.subscription()
        for subscription in (told, raised):
            taking = asyncio.create_task(subscription.take())
            await asyncio.sleep(0)
            await broker.answer(1, 2)
            assert numbers(await taking) == [1, 2]
            await broker.fail(PositionGone("gone", first=9))
            taking = asyncio.create_task(subscription.take())
            if subscription is raised:
                with pytest.raises(PositionGone) as gone:
                    await taking
                assert gone.value.first == 9
                taking = asyncio.create_task(subscription.take())
            await asyncio.sleep(0)
            await broker.answer(9, 9)
            assert numbers(await taking) == [9]
        assert gaps == [Gap(3, 9)]

    play(scene)


def test_error_ends_the_iteration_behind_what_came_before_it() -> None:
    async def scene(broker: Broker) -> None:
        found: dict[int, bytes] = {}

        async def iterate() -> None:
            async for event in broker.subscription():
                found[event.sequence] = event.body

        iterating = asyncio.create_task(iterate())
        await asyncio.sleep(0)
        await broker.answer(1, 2)
        await broker.fail(ChannelNotFound("deleted"))
        with pytest.raises(ChannelNotFound):
            await iterating
        assert (list(found), broker.active) == ([1, 2], set())

    play(scene)


def test_events_out_of_order_are_a_fault_of_the_other_side() -> None:
    async def scene(broker: Broker) -> None:
        taking = asyncio.create_task(broker.subscription(Start("sequence", 5)).take())
        await asyncio.sleep(0)
        await broker.answer(4, 5)
        with pytest.raises(RemoteProtocolError):
            await taking

    play(scene)


def test_stopped_iteration_ends_behind_the_event_that_is_handled_and_closes() -> None:
    async def scene(broker: Broker) -> None:
        subscription = broker.subscription()
        found: list[int] = []

        async def iterate() -> None:
            async for event in subscription:
                found.append(event.sequence)
                subscription.stop()

        iterating = asyncio.create_task(iterate())
        await asyncio.sleep(0)
        assert broker.active == {subscription}
        await broker.answer(1, 5)
        await iterating
        await subscription.wait_closed()
        await subscription.close()
        assert (found, broker.active, broker.forgotten) == ([1], set(), 1)
        assert list(await subscription.take()) == []

    play(scene)


def test_limited_reader_asks_again_when_its_time_has_come() -> None:
    async def scene(broker: Broker) -> None:
        subscription = broker.subscription(rate_limit=100)
        taking = asyncio.create_task(subscription.take())
        await asyncio.sleep(0)
        await broker.answer(1, 10, newest=50)
        assert numbers(await taking) == list(range(1, 11))
        assert len(broker.asked) == 1
        taking = asyncio.create_task(subscription.take())
        for _ in range(1000):
            if len(broker.asked) == 2:
                break
            await asyncio.sleep(0.005)
        await broker.answer(11, 11, newest=50)
        assert numbers(await taking) == [11]
        await subscription.close()  # while it must not ask

    play(scene)
