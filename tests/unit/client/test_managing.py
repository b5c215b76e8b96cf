"""Channels as a whole, messages that nobody holds, and how a message wants to be treated: both clients."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.unit.client import fake_channels
from tests.unit.client.servers import FakeServer, run
from zmqbroker.client import Client, SyncClient
from zmqbroker.commands import (
    ChannelSettings,
    CreateChannel,
    DeleteChannel,
    DeleteMessages,
    Purge,
    Redrive,
    Run,
    UpdateChannel,
)
from zmqbroker.errors import (
    ChannelExists,
    ChannelNotFound,
    InvalidChannel,
    InvalidRequest,
    LocalProtocolError,
    RemoteProtocolError,
)
from zmqbroker.wire.frames import Reply, Request, decode_header, encode_header
from zmqbroker.wire.requests import ListChannels, PeekRequest, SendBatch


async def fill(client: Client, count: int, name: str = "q") -> None:
    """Send messages to a queue."""
    for number in range(count):
        await client.queue(name).send(str(number).encode())


# --- messages that nobody holds -----------------------------------------------------------------------------------------


def test_queue_peek_tells_messages_and_touches_none() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await fill(client, 5)
        orders = client.queue("q")
        found = await orders.peek(3, first=2)
        assert [(message.sequence, message.body, message.delivery_count) for message in found] == [
            (2, b"1", 0),
            (3, b"2", 0),
            (4, b"3", 0),
        ]
        assert [message.sequence for message in await orders.peek(9, since_unix_ns=5, max_bytes=10)] == [5]
        assert not hasattr(found[0], "ack")
        assert (await orders.stats())["ready"] == 5
        with pytest.raises(ChannelNotFound):
            await client.queue("nobody").peek()

    asked = [request for request in run(test).node.seen if isinstance(request, PeekRequest)]
    assert asked == [
        PeekRequest("q", 2, 0, 3, forward=True),
        PeekRequest("q", 1, 5, 9, 10, forward=True),
        PeekRequest("nobody", forward=True),
    ]


def test_queue_purge_delete_and_redrive_say_how_many() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await fill(client, 9)
        orders = client.queue("q")
        await orders.receive(2)
        assert await orders.delete([3, 5, 99]) == 2
        assert await orders.redrive(max=1) == 1
        assert await orders.redrive(to="other", origin="q", max=2) == 2
        assert await orders.purge() == 2
        assert await orders.purge(in_flight=True) == 2
        with pytest.raises(ChannelNotFound):
            await client.queue("nobody").purge()

    broker = run(test).broker
    assert broker.managed == [
        DeleteMessages("q", ((3, 3), (5, 5), (99, 99))),
        Redrive("q", count_max=1),
        Redrive("q", "other", "q", 2),
        Purge("q"),
        Purge("q", in_flight=True),
        Purge("nobody"),
    ]
    assert broker.channel("other").bodies == [b"5", b"6"]


def test_queue_redrive_goes_on_until_it_is_through() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        server.broker.page = 4
        await fill(client, 10)
        assert await client.queue("q").redrive(to="other", max=5) == 5
        assert await client.queue("q").redrive(to="other") == 5

    broker = run(test).broker
    assert broker.managed == [
        *(Redrive("q", "other", "", 5), Redrive("q", "other", "", 1, 5)),
        *(Redrive("q", "other"), Redrive("q", "other", "", 0, 6), Redrive("q", "other", "", 0, 10)),
    ]
    assert broker.channel("other").bodies == [b"%d" % number for number in range(10)]


@pytest.mark.parametrize("goes_on", [1, -1, "x", None])
def test_queue_redrive_that_does_not_get_on_is_the_nodes_fault(goes_on: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def manage(*_: object) -> tuple[Reply, dict[str, object], list[bytes]]:
        return Reply.DONE, {"count": 1, "next": goes_on, "confirm": "quorum"}, []

    monkeypatch.setattr(fake_channels, "manage", manage)

    async def test(client: Client, server: FakeServer) -> None:
        with pytest.raises(RemoteProtocolError, match="a redrive from sequence 1 on goes on from"):
            await client.queue("q").redrive()

    run(test)


def test_queue_delete_of_more_than_4096_sequences_is_several_requests() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await fill(client, 3)
        assert await client.queue("q").delete(range(1, 4098)) == 3
        assert await client.queue("q").delete([]) == 0

    commands = run(test).broker.managed
    assert [len(command.sequences) for command in commands if isinstance(command, DeleteMessages)] == [4096, 1]


def test_sync_queue_peek_purge_delete_and_redrive() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        orders = client.queue("q")
        for number in range(6):
            orders.send(str(number).encode())
        assert [message.body for message in orders.peek(2, first=5)] == [b"4", b"5"]
        assert orders.delete([1]) == 1
        assert orders.redrive(to="other", max=2) == 2
        assert orders.purge() == 3
        assert orders.purge(in_flight=True) == 0
    assert server.broker.channel("other").bodies == [b"1", b"2"]


# --- channels -----------------------------------------------------------------------------------------------------------


def test_channels_create_update_describe_delete() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        channels = client.channels
        assert await channels.create("q", delivery_limit=5, dead_letter="dead")
        assert not await channels.create("q", delivery_limit=5, dead_letter="dead")
        with pytest.raises(ChannelExists) as caught:
            await channels.create("q", delay_ms=1)
        assert caught.value.differing == ["delay_ms"]
        assert await channels.update("q", max_bytes=7)
        assert not await channels.update("q", max_bytes=7)
        assert await channels.update("q", delivery_limit=0)
        assert (await channels.describe("q"))["settings"] == {"dead_letter": "dead", "max_bytes": 7}
        await channels.delete("q")
        for gone in (channels.describe("q"), channels.delete("q"), channels.update("q", delay_ms=1)):
            with pytest.raises(ChannelNotFound):
                await gone

    settings = ChannelSettings(delivery_limit=5, dead_letter="dead")
    assert run(test).broker.managed == [
        CreateChannel("q", settings),
        CreateChannel("q", settings),
        CreateChannel("q", ChannelSettings(delay_ms=1)),
        UpdateChannel("q", ChannelSettings(delivery_limit=5, dead_letter="dead", max_bytes=7)),
        UpdateChannel("q", ChannelSettings(delivery_limit=5, dead_letter="dead", max_bytes=7)),
        UpdateChannel("q", ChannelSettings(dead_letter="dead", max_bytes=7), ("delivery_limit",)),
        DeleteChannel("q"),
        DeleteChannel("q"),
    ]


def test_channels_what_is_wrong_is_refused_before_anything_is_sent() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        channels = client.channels
        for wrong in (channels.create("a b"), channels.update("a b"), channels.delete("a b"), channels.describe("a b")):
            with pytest.raises(InvalidChannel):
                await wrong
        for unknown in (channels.create("q", colour=1), channels.update("q", colour=1)):
            with pytest.raises(InvalidRequest, match="setting 'colour' is not known; there are delivery_limit, dead_letter"):
                await unknown

    assert run(test).broker.managed == []


@pytest.mark.parametrize("page", [1, 2, 3, 1000])
def test_channels_list_goes_on_until_the_last_page(page: int) -> None:
    async def test(client: Client, server: FakeServer) -> None:
        server.broker.page = page
        for name in ("b", "a", "orders.b", "orders.a", "orders.c"):
            await client.channels.create(name)
        assert [row["channel"] async for row in client.channels.list()] == ["a", "b", "orders.a", "orders.b", "orders.c"]
        rows = [row async for row in client.channels.list("orders")]
        assert rows == [{"channel": f"orders.{one}", "ready": 0, "in_flight": 0, "settings": {}} for one in "abc"]
        assert [row async for row in client.channels.list("nothing")] == []

    asked = [request for request in run(test).node.seen if isinstance(request, ListChannels)]
    assert all(request.forward for request in asked)
    assert asked[-1] == ListChannels("nothing", count_max=250, forward=True)


def test_sync_channels_create_update_describe_list_delete() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        channels = client.channels
        assert channels.create("q", delay_ms=5)
        assert channels.create("r")
        assert channels.update("q", expiry_ms=9)
        assert channels.describe("q")["settings"] == {"delay_ms": 5, "expiry_ms": 9}
        assert [row["channel"] for row in channels.list()] == ["q", "r"]
        assert [row["channel"] for row in channels.list("r")] == ["r"]
        channels.delete("q")
        with pytest.raises(ChannelNotFound):
            channels.describe("q")


# --- how a message wants to be treated ----------------------------------------------------------------------------------


def test_queue_send_says_delay_expiry_priority_and_group() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        orders = client.queue("q")
        await orders.send(b"plain")
        await orders.send(b"x", delay_ms=5, expiry_ms=6, priority=7)
        await orders.send(b"x", priority=9, id="i", metadata="m")
        await orders.send(b"x", group="g")

    channel = run(test).broker.channel("q")
    assert channel.runs == [Run(1, 5, 6, 7), Run(1, 0, 0, 9), Run(1, group="g")]
    assert channel.messages[2].id == b"i"


def test_producer_send_says_delay_expiry_priority_and_group() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        async with client.queue("q").producer(linger_ms=1_000) as producer:
            await producer.send(b"1")
            await producer.send(b"2", delay_ms=5)
            await producer.send(b"3", delay_ms=5)
            await producer.send(b"4", expiry_ms=6, priority=7)
            await producer.send(b"5")
            await producer.send(b"6", group="g")

    channel = run(test).broker.channel("q")
    assert channel.runs == [Run(1), Run(2, 5), Run(1, 0, 6, 7), Run(1), Run(1, group="g")]
    assert channel.bodies == [b"1", b"2", b"3", b"4", b"5", b"6"]


def test_sync_sends_say_delay_expiry_priority_and_group() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        orders = client.queue("q")
        orders.send(b"0", delay_ms=1, expiry_ms=2, priority=3, group="g")
        with orders.producer(linger_ms=1_000) as producer:
            producer.send(b"1")
            producer.send(b"2", delay_ms=5, expiry_ms=6, priority=7)
            producer.send(b"3")
            producer.send(b"4", group="h")
    channel = server.broker.channel("q")
    assert channel.runs[0] == Run(1, 1, 2, 3, "g")
    spelled = [(run.delay_ms, run.expiry_ms, run.priority) for run in channel.runs[1:] for _ in range(run.count)]
    assert (5, 6, 7) in spelled
    assert channel.runs[-1].group == "h"
    assert channel.bodies == [b"0", b"1", b"2", b"3", b"4"]


DELAY_MAX = 315_576_000_000
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"delay_ms": -1}, "delay_ms is -1, allowed is 0 to 315576000000"),
    ({"delay_ms": DELAY_MAX + 1}, "delay_ms is 315576000001, allowed is 0 to 315576000000"),
    ({"delay_ms": "5"}, "delay_ms is '5', allowed is 0 to 315576000000"),
    ({"expiry_ms": -1}, "expiry_ms is -1, allowed is 0 to 315576000000"),
    ({"expiry_ms": DELAY_MAX + 1}, "expiry_ms is 315576000001, allowed is 0 to 315576000000"),
    ({"expiry_ms": 0.5}, "expiry_ms is 0.5, allowed is 0 to 315576000000"),
    ({"priority": -1}, "priority is -1, allowed is 0 to 9"),
    ({"priority": 10}, "priority is 10, allowed is 0 to 9"),
    ({"priority": True}, "priority is True, allowed is 0 to 9"),
    ({"group": "é" * 128}, "a group has 256 bytes, the limit is 255"),
    ({"group": b"g"}, "group must be text, not bytes"),
    ({"group": "\ud800"}, "group '\\ud800' cannot be encoded as UTF-8"),
]


@pytest.mark.parametrize(("treatment", "said"), WRONG)
def test_sends_with_a_value_out_of_its_range_send_nothing(treatment: dict[str, Any], said: str) -> None:
    async def test(client: Client, server: FakeServer) -> None:
        async with client.queue("q").producer() as producer:
            sends: list[Callable[..., Awaitable[object]]] = [client.queue("q").send, producer.send]
            for send in sends:
                with pytest.raises(LocalProtocolError) as caught:
                    await send(b"x", **treatment)
                assert said in str(caught.value)

    assert not any(isinstance(request, SendBatch) for request in run(test).node.seen)


@pytest.mark.parametrize(("treatment", "said"), WRONG[:1] + WRONG[-3:])
def test_sync_sends_with_a_value_out_of_its_range_send_nothing(treatment: dict[str, Any], said: str) -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client, client.queue("q").producer() as producer:
        sends: list[Callable[..., object]] = [client.queue("q").send, producer.send]
        for send in sends:
            with pytest.raises(LocalProtocolError) as caught:
                send(b"x", **treatment)
            assert said in str(caught.value)
    assert not any(isinstance(request, SendBatch) for request in server.node.seen)


# --- a node that breaks the rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "action"),
    [
        ({}, lambda client: client.queue("q").purge()),
        ({"count": "5"}, lambda client: client.queue("q").delete([1])),
        ({}, lambda client: client.channels.create("q")),
        ({"changed": 1}, lambda client: client.channels.delete("q")),
        ({"settings": []}, lambda client: client.channels.update("q", delay_ms=1)),
        ({}, lambda client: anext(client.channels.list())),
        ({"channels": [], "more": None}, lambda client: anext(client.channels.list())),
        ({"channels": ["q"], "more": False}, lambda client: anext(client.channels.list())),
        ({"channels": [{"channel": 5}], "more": False}, lambda client: anext(client.channels.list())),
        ({"channels": [{"channel": ""}], "more": False}, lambda client: anext(client.channels.list())),
    ],
)
def test_reply_without_its_fields_is_the_nodes_fault(
    fields: dict[str, Any], action: Callable[[Client], Awaitable[Any]]
) -> None:
    async def test(client: Client, server: FakeServer) -> None:
        def handle(connection: Any, frames: Any) -> Any:
            command, request_id, _ = decode_header(frames[0])
            code = REPLIES.get(Request(command))
            return original(connection, frames) if code is None else [(connection, [encode_header(code, request_id, fields)])]

        original, server.node.handle = server.node.handle, handle  # type: ignore[method-assign]
        with pytest.raises(RemoteProtocolError):
            await action(client)

    run(test)


REPLIES = {
    Request.PURGE: Reply.DONE,
    Request.DELETE_MESSAGES: Reply.DONE,
    Request.CREATE_CHANNEL: Reply.CHANGED,
    Request.DELETE_CHANNEL: Reply.CHANGED,
    Request.STATS: Reply.CHANNEL,
    Request.LIST_CHANNELS: Reply.CHANNELS,
}


@pytest.mark.parametrize("after", [None, "", "a", "b", 5])
def test_channels_list_that_does_not_get_on_is_the_nodes_fault(after: object, monkeypatch: pytest.MonkeyPatch) -> None:
    original = fake_channels.list_channels

    def stuck(broker: Any, request: ListChannels) -> Any:
        code, fields, frames = original(broker, request)
        return code, {**fields, "more": True, "after": after}, frames

    async def test(client: Client, server: FakeServer) -> None:
        for name in "abc":
            await client.channels.create(name)
        with pytest.raises(RemoteProtocolError, match="CHANNELS behind '' goes on behind"):
            async for _ in client.channels.list():
                pass

    monkeypatch.setattr(fake_channels, "list_channels", stuck)
    run(test)


def test_channels_list_goes_on_behind_a_page_on_which_nothing_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = fake_channels.list_channels

    def nothing_first(broker: Any, request: ListChannels) -> Any:
        if not request.after:
            return Reply.CHANNELS, {"channels": [], "more": True, "after": "a"}, []
        return original(broker, request)

    async def test(client: Client, server: FakeServer) -> None:
        for name in "abc":
            await client.channels.create(name)
        assert [row["channel"] async for row in client.channels.list()] == ["b", "c"]

    monkeypatch.setattr(fake_channels, "list_channels", nothing_first)
    run(test)


def test_channels_list_that_begins_anew_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    original = fake_channels.list_channels

    def first_page_again(broker: Any, request: ListChannels) -> Any:
        code, fields, frames = original(broker, ListChannels())
        return code, {**fields, "more": True}, frames

    async def test(client: Client, server: FakeServer) -> None:
        await client.channels.create("a")
        rows = client.channels.list()
        assert (await anext(rows))["channel"] == "a"
        with pytest.raises(RemoteProtocolError, match="no channel behind 'a'"):
            await anext(rows)

    monkeypatch.setattr(fake_channels, "list_channels", first_page_again)
    run(test)
