"""Defaults and schedules, as both clients offer them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.unit.client.servers import FakeServer, run
from zmqbroker.client import Client, SyncClient
from zmqbroker.commands import ChannelSettings, CreateChannel, DeleteSchedule, Plan, SetDefaults
from zmqbroker.errors import InvalidChannel, InvalidRequest, RemoteProtocolError, ScheduleNotFound
from zmqbroker.wire.frames import Reply, Request, decode_header, encode_header
from zmqbroker.wire.requests import CreateScheduleRequest, ListDefaults, ListSchedules, Send


def test_channels_create_says_which_settings_were_given() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        await client.channels.create("q", max_messages=0, delay_ms=5)

    assert run(test).broker.managed == [CreateChannel("q", ChannelSettings(delay_ms=5), ("max_messages",))]


def test_defaults_are_set_listed_and_deleted() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        channels = client.channels
        assert await channels.set_defaults("orders.>", delivery_limit=5, create_on_use=False)
        assert not await channels.set_defaults("orders.>", delivery_limit=5, create_on_use=False)
        assert await channels.set_defaults("a.*", max_messages=0)
        assert await channels.list_defaults() == {
            "a.*": {"max_messages": 0},
            "orders.>": {"delivery_limit": 5, "create_on_use": False},
        }
        assert await channels.delete_defaults("a.*")
        assert not await channels.delete_defaults("a.*")

    server = run(test)
    assert server.broker.managed[-1] == SetDefaults("a.*")
    assert [request.forward for request in server.node.seen if isinstance(request, ListDefaults)] == [True]


@pytest.mark.parametrize("pattern", ["", "a b", "a*", "a.>.b", ">>", "_sys.>", "a.", "x" * 256])
def test_defaults_for_what_is_no_pattern_are_refused_before_anything_is_sent(pattern: str) -> None:
    async def test(client: Client, server: FakeServer) -> None:
        with pytest.raises(InvalidRequest, match="pattern"):
            await client.channels.set_defaults(pattern, delay_ms=1)
        with pytest.raises(InvalidRequest, match="'colour' is not known"):
            await client.channels.set_defaults("a", colour=1)

    assert run(test).broker.managed == []


def test_schedules_are_created_listed_and_deleted() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        schedules = client.schedules
        assert await schedules.create("nightly", "q", b"go", cron="0 3 * * *")
        assert not await schedules.create("nightly", "q", b"go", cron="0 3 * * *")
        options: dict[str, Any] = {"id": "i", "metadata": "m", "tags": {"a": "b"}, "expiry_ms": 9, "priority": 3}
        assert await schedules.create("s", "r", b"", every_ms=5000, delay_ms=7, times=2, until_unix_ns=2**63, **options)
        assert [row["name"] async for row in schedules.list()] == ["nightly", "s"]
        assert [row["channel"] async for row in schedules.list("night")] == ["q"]
        await schedules.delete("s")
        with pytest.raises(ScheduleNotFound):
            await schedules.delete("s")

    server = run(test)
    message = Send("r", b"", id="i", metadata="m", tags={"a": "b"}, expiry_ms=9, priority=3)
    made = [request for request in server.node.seen if isinstance(request, CreateScheduleRequest)]
    assert made[0] == CreateScheduleRequest("nightly", Plan(cron="0 3 * * *"), Send("q", b"go"))
    assert made[2] == CreateScheduleRequest("s", Plan(5000, 0, 7, "", 2, 2**63), message)
    assert server.broker.managed == [DeleteSchedule("s"), DeleteSchedule("s")]


@pytest.mark.parametrize("page", [1, 2, 1000])
def test_schedules_list_goes_on_until_the_last_page(page: int) -> None:
    async def test(client: Client, server: FakeServer) -> None:
        server.broker.page = page
        for name in ("c", "a", "b"):
            await client.schedules.create(name, "q", b"", every_ms=1000)
        assert [row["name"] async for row in client.schedules.list()] == ["a", "b", "c"]
        assert [row async for row in client.schedules.list("none")] == []

    asked = [request for request in run(test).node.seen if isinstance(request, ListSchedules)]
    assert asked[-1] == ListSchedules("none", forward=True)


def test_schedules_what_is_wrong_is_refused_before_anything_is_sent() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        create = client.schedules.create
        with pytest.raises(InvalidChannel):
            await create("s", "a b", b"", every_ms=1000)
        with pytest.raises(InvalidRequest, match="schedule name 'a b' holds white space"):
            await create("a b", "q", b"", every_ms=1000)
        with pytest.raises(InvalidRequest, match="every_ms is 999, allowed is 1000 and more"):
            await create("s", "q", b"", every_ms=999)
        with pytest.raises(InvalidRequest, match="cron: hour '24'"):
            await create("s", "q", b"", cron="0 24 * * *")

    assert not any(isinstance(request, CreateScheduleRequest) for request in run(test).node.seen)


def test_sync_client_has_defaults_and_schedules() -> None:
    with FakeServer() as server, SyncClient(server.endpoint) as client:
        assert client.channels.set_defaults("a", delay_ms=5)
        assert client.channels.list_defaults() == {"a": {"delay_ms": 5}}
        assert client.channels.delete_defaults("a")
        assert client.schedules.create("s", "q", b"x", every_ms=1000)
        assert [row["name"] for row in client.schedules.list()] == ["s"]
        client.schedules.delete("s")
        assert client.schedules.list("s") == []


REPLIES = {
    Request.SET_DEFAULTS: Reply.CHANGED,
    Request.CREATE_SCHEDULE: Reply.CHANGED,
    Request.LIST_DEFAULTS: Reply.DEFAULTS,
    Request.LIST_SCHEDULES: Reply.SCHEDULES,
}


@pytest.mark.parametrize(
    ("fields", "action"),
    [
        ({}, lambda client: client.channels.set_defaults("a", delay_ms=1)),
        ({"changed": 1}, lambda client: client.schedules.create("s", "q", b"", every_ms=1000)),
        ({}, lambda client: client.channels.list_defaults()),
        ({"defaults": [5]}, lambda client: client.channels.list_defaults()),
        ({"defaults": [{"pattern": "a"}]}, lambda client: client.channels.list_defaults()),
        ({"defaults": [{"pattern": [], "settings": {}}]}, lambda client: client.channels.list_defaults()),
        ({"schedules": [], "more": None}, lambda client: anext(client.schedules.list())),
        ({"schedules": ["s"], "more": False}, lambda client: anext(client.schedules.list())),
        ({"schedules": [{"name": ""}], "more": False}, lambda client: anext(client.schedules.list())),
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
