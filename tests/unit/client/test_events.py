"""Events at a client whose home is a list: batches per pass, credit given back, and what a subscription is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from zmqbroker.client.answer import Answer
from zmqbroker.client.events import Events, EventsSubscription, PublishResult
from zmqbroker.client.home import Pushed
from zmqbroker.client.home_driver import HomeDriver, Subscriber
from zmqbroker.errors import (
    BrokerError,
    Busy,
    DeadlineExceeded,
    InvalidChannel,
    LocalProtocolError,
    MessageTooLarge,
    RemoteProtocolError,
)
from zmqbroker.wire.codec import decode_batch, encode_batch
from zmqbroker.wire.frames import Reply
from zmqbroker.wire.headers import decode_message_headers
from zmqbroker.wire.requests import AnyRequest, GrantRequest, PublishRequest, SubscribeRequest


class FakeHome:
    """A `HomeDriver` that keeps what it is given."""

    client_id = "till"
    message_bytes_max = 1000
    closed = False

    def __init__(self) -> None:
        self.given: list[AnyRequest] = []
        self.said: list[AnyRequest] = []
        self.subscribed: list[tuple[SubscribeRequest, Subscriber]] = []
        self.ended: list[int] = []
        self.fault: BrokerError | None = None

    def check_usable(self) -> None:
        if self.closed:
            raise LocalProtocolError("this client is closed")

    async def give(self, request: AnyRequest, timeout_ms: int) -> None:
        if self.fault is not None:
            raise self.fault
        self.given.append(request)

    async def ask(self, request: AnyRequest, timeout_ms: int) -> Answer:
        self.given.append(request)
        return Answer({"nodes": 2, "subscribers": 5}, [])

    def say(self, request: AnyRequest) -> None:
        self.said.append(request)

    def subscribe(self, request: SubscribeRequest, subscriber: Subscriber) -> int:
        self.subscribed.append((request, subscriber))
        return len(self.subscribed)

    def unsubscribe(self, number: int) -> None:
        self.ended.append(number)


def with_home(test: Callable[[FakeHome, Callable[[str], Events]], Coroutine[Any, Any, None]]) -> None:
    """Run a test in a loop."""

    async def run() -> None:
        home = FakeHome()
        await test(home, lambda name: Events(name, cast(HomeDriver, home), set(), 1000))

    asyncio.run(run())


def batches(home: FakeHome) -> list[PublishRequest]:
    return [request for request in home.given if isinstance(request, PublishRequest)]


def pushed(*bodies: bytes, missed: int = 0) -> Pushed:
    fields = {"subscription": 1, "missed": missed, "time_unix_ns": 7}
    return Pushed(Reply.EVENTS, fields, [encode_batch(b"orders.new", list(bodies))])


def test_events_of_one_pass_are_one_batch_with_all_they_carry() -> None:
    async def test(home: FakeHome, events: Callable[[str], Events]) -> None:
        source = events("orders.new")
        sent = [source.publish(b"1", id="i", metadata="m", tags={"k": "v"}, trace="t"), source.publish(b"2")]
        assert await asyncio.gather(*sent) == [None, None]
        ((batch),) = batches(home)
        contents = decode_batch(batch.batch)
        assert (contents.header.channel, contents.header.producer, contents.bodies) == ("orders.new", 0, [b"1", b"2"])
        assert contents.ids == [b"i", b""]
        assert contents.headers is not None
        assert decode_message_headers(contents.headers[0]) == ("m", {"k": "v"}, "till", "t")
        assert not batch.confirm
        await source.publish(b"3")
        assert len(batches(home)) == 2

    with_home(test)


def test_confirmed_events_are_told_where_they_went() -> None:
    async def test(home: FakeHome, events: Callable[[str], Events]) -> None:
        source = events("a")
        told = PublishResult(2, 5)
        sent = (source.publish(body, confirm=confirm) for body, confirm in ((b"1", True), (b"2", False), (b"3", True)))
        assert list(await asyncio.gather(*sent)) == [told, None, told]
        counts = {batch.confirm: decode_batch(batch.batch).header.count for batch in batches(home)}
        assert counts == {False: 1, True: 2}

    with_home(test)


def test_large_events_begin_a_batch_of_their_own() -> None:
    async def test(home: FakeHome, events: Callable[[str], Events]) -> None:
        home.message_bytes_max = 1 << 20
        source, large = events("a"), bytes(200 << 10)
        await asyncio.gather(source.publish(large), source.publish(large), source.publish(b""))
        assert [decode_batch(batch.batch).header.count for batch in batches(home)] == [1, 2]

    with_home(test)


@pytest.mark.parametrize("name", ["a.*", "", "a b", "events:a"])
def test_name_that_nothing_can_be_published_under_is_refused(name: str) -> None:
    async def test(home: FakeHome, events: Callable[[str], Events]) -> None:
        with pytest.raises(InvalidChannel, match="events name"):
            await events(name).publish(b"")

    with_home(test)


def test_event_that_cannot_be_sent_raises() -> None:
    async def test(home: FakeHome, events: Callable[[str], Events]) -> None:
        with pytest.raises(MessageTooLarge):
            await events("a").publish(bytes(1001))
        home.fault = DeadlineExceeded("no node took it", outcome_unknown=False)
        with pytest.raises(DeadlineExceeded):
            await events("a").publish(b"1")
        home.closed = True
        with pytest.raises(LocalProtocolError):
            await events("a").publish(b"1")
        assert home.given == []

    with_home(test)


def test_subscription_that_cannot_be_is_refused_at_once() -> None:
    async def test(home: FakeHome, events: Callable[[str], Events]) -> None:
        with pytest.raises(InvalidChannel, match="holds '>' before its end"):
            events("a.>.b").subscribe()
        for name, value in (("credit", 0), ("credit", True), ("credit_bytes", 1 << 30)):
            with pytest.raises(LocalProtocolError, match=f"{name} is {value}, allowed is 1 to"):
                events("a").subscribe(**cast(Any, {name: value}))
        assert home.subscribed == []

    with_home(test)


async def standing(home: FakeHome, source: Events, **options: Any) -> EventsSubscription:
    subscription = source.subscribe(**options)
    ready = asyncio.create_task(subscription.wait_ready())
    await asyncio.sleep(0)
    subscription.on_subscribed(None)
    assert await ready is subscription
    return subscription


def test_subscription_gives_events_and_then_back_what_was_taken() -> None:
    async def test(home: FakeHome, events: Callable[[str], Events]) -> None:
        subscription = await standing(home, events("orders.*"), group="g", credit=4)
        ((request, _),) = home.subscribed
        assert (request.pattern, request.group, request.credit) == ("orders.*", "g", 4)
        subscription.on_pushed(pushed(b"1", b"2"))
        subscription.on_pushed(pushed(b"3", missed=5))
        event = await anext(subscription)
        assert (event.body, event.channel, event.time_unix_ns, subscription.missed) == (b"1", "orders.new", 7, 5)
        assert repr(event) == "<Event of 'orders.new': 1 bytes>"
        assert (await anext(subscription)).body == b"2"
        assert home.said == []
        assert (await anext(subscription)).body == b"3"
        (grant,) = home.said
        assert grant == GrantRequest(1, 6, len(pushed(b"1", b"2").bodies[0]) + (16 << 20))

    with_home(test)


def test_take_brings_all_that_is_here() -> None:
    async def test(home: FakeHome, events: Callable[[str], Events]) -> None:
        subscription = await standing(home, events("a"), credit_bytes=100)
        assert await subscription.take(wait_ms=1) == []
        subscription.on_pushed(pushed(b"1", b"2"))
        subscription.on_pushed(pushed(b"3"))
        assert [event.body for event in await subscription.take()] == [b"1", b"2", b"3"]
        assert len(home.said) == 2
        await subscription.close()
        await subscription.close()
        assert (await subscription.take(), home.ended) == ([], [1])
        assert [event async for event in subscription] == []

    with_home(test)


def test_subscription_after_a_move_has_its_credit_anew_and_adds_up_what_it_missed() -> None:
    async def test(home: FakeHome, events: Callable[[str], Events]) -> None:
        subscription = await standing(home, events("a"), credit=2)
        subscription.on_pushed(pushed(b"1", b"2", missed=3))
        subscription.on_subscribed(None)
        subscription.on_pushed(pushed(b"3", b"4", missed=1))
        assert subscription.missed == 4
        got = [(await anext(subscription)).body for _ in range(3)]
        assert (got, home.said) == ([b"1", b"2", b"3"], [])  # what came before the move is no credit any more
        subscription.on_pushed(Pushed(Reply.EVENTS, {"subscription": 1, "missed": 2}, []))
        await anext(subscription)
        waiting = asyncio.create_task(anext(subscription))
        await asyncio.sleep(0)
        assert (subscription.missed, len(home.said)) == (5, 1)
        waiting.cancel()

    with_home(test)


def test_subscription_that_is_refused_raises_and_so_does_one_of_a_closed_client() -> None:
    async def test(home: FakeHome, events: Callable[[str], Events]) -> None:
        subscription = events("a").subscribe()
        waiting = asyncio.create_task(subscription.wait_ready())
        await asyncio.sleep(0)
        subscription.on_subscribed(Busy("full"))
        subscription.on_subscribed(Busy("again"))
        with pytest.raises(Busy, match="full"):
            await waiting
        with pytest.raises(Busy, match="full"):
            await anext(subscription)

    with_home(test)


def test_subscription_that_nobody_takes_in_time_says_so() -> None:
    async def test(home: FakeHome, events: Callable[[str], Events]) -> None:
        source = Events("a", cast(HomeDriver, home), set(), 1)
        with pytest.raises(DeadlineExceeded, match="no node took the subscription in time"):
            await source.subscribe().wait_ready()

    with_home(test)


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({"missed": 0, "time_unix_ns": "now"}, encode_batch(b"a", [b""])),
        ({"missed": 0, "time_unix_ns": 1}, b"no batch"),
        ({"missed": "many"}, b""),
    ],
)
def test_what_is_no_event_ends_the_subscription(fields: dict[str, Any], body: bytes) -> None:
    async def test(home: FakeHome, events: Callable[[str], Events]) -> None:
        async with await standing(home, events("a")) as subscription:
            subscription.on_pushed(Pushed(Reply.EVENTS, fields, [body]))
            with pytest.raises(RemoteProtocolError, match="EVENTS"):
                await anext(subscription)
            assert (home.ended, subscription.missed) == ([1], 0)

    with_home(test)
