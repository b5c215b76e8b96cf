"""Clients that are used as they should not be: each mistake is named where it is made, and nobody waits in vain."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

import zmqbroker
from tests.integration.wild import only_node, unique_channel
from tests.processes import Cluster
from zmqbroker.errors import LocalProtocolError, NoResponder

WAIT_MS = 15_000


async def cancels_itself(request: Any) -> bytes:
    raise asyncio.CancelledError


async def says_too_much(request: Any) -> zmqbroker.Answer:
    return zmqbroker.Answer(b"", metadata="m" * 65_536)


async def has_wrong_tags(request: Any) -> zmqbroker.Answer:
    return zmqbroker.Answer(b"", tags={"a": 1})  # type: ignore[dict-item]


async def error_of(client: zmqbroker.Client, handler: Any) -> str:
    """What a caller hears went wrong."""
    name = unique_channel()
    responding = asyncio.create_task(client.command(name).respond(handler))
    try:
        async with asyncio.timeout(WAIT_MS / 1000):
            while True:
                try:
                    return (await client.command(name).call(b"", timeout_ms=WAIT_MS)).error
                except NoResponder:
                    await asyncio.sleep(0.01)
    finally:
        responding.cancel()
        await asyncio.gather(responding, return_exceptions=True)


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (cancels_itself, "CancelledError: "),
        (says_too_much, "InvalidRequest: field metadata has 65536 bytes, the limit is 65535"),
        (has_wrong_tags, "InvalidRequest: field tags must be a map of text: {'a': 1}"),
    ],
    ids=["cancelled", "metadata", "tags"],
)
def test_caller_hears_of_a_handler_that_ends_without_a_good_answer(solo: Cluster, handler: Any, said: str) -> None:
    async def test() -> str:
        async with zmqbroker.Client(only_node(solo).endpoint) as client:
            return await error_of(client, handler)

    assert asyncio.run(test()).startswith(said)


def test_client_of_another_event_loop_is_refused_at_once(solo: Cluster) -> None:
    async def begin() -> tuple[zmqbroker.Client, list[Callable[[], Awaitable[Any]]]]:
        client, name = zmqbroker.Client(only_node(solo).endpoint), unique_channel()
        events, command, queue, store = client.events(name), client.command(name), client.queue(name), client.store(name)
        await events.publish(b"1", confirm=True)
        await queue.send(b"1")
        tries: list[Callable[[], Awaitable[Any]]] = [
            lambda: events.publish(b"2"),
            lambda: events.publish(b"2", confirm=True),
            lambda: events.subscribe().wait_ready(),
            lambda: command.call(b""),
            lambda: command.requests().wait_ready(),
            lambda: queue.send(b"2"),
            lambda: queue.receive(),
            lambda: store.publish(b"2"),
            lambda: store.read(),
            lambda: client.routes.delete(name),
        ]
        return client, tries

    async def refused(wrong: Callable[[], Awaitable[Any]]) -> None:
        async with asyncio.timeout(WAIT_MS / 1000):
            with pytest.raises(LocalProtocolError, match="this client belongs to another event loop"):
                await wrong()

    with asyncio.Runner() as own:
        client, tries = own.run(begin())
        for wrong in tries:
            with asyncio.Runner() as other:
                other.run(refused(wrong))
        own.run(client.close())


def in_child(tries: Iterable[Callable[[], object]]) -> list[str]:
    """What a forked child gets for each: the message of a LocalProtocolError, or nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = []
        for one in tries:
            try:
                one()
            except LocalProtocolError as error:
                said.append(str(error))
            else:
                said.append("")
        os.write(writing, "\n".join(said).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    return found.split("\n")


def test_forked_child_is_refused_the_subscriptions_of_its_parent(solo: Cluster) -> None:
    with zmqbroker.SyncClient(only_node(solo).endpoint) as client:
        store = client.store(unique_channel())
        for body in (b"1", b"2", b"3"):
            store.publish(body)
        with store.subscribe(start="first") as reader, store.subscribe(start="first", consumer="c", ack="auto") as durable:
            read, taken = iter(reader), iter(durable)
            assert [next(read).body, next(taken).body] == [b"1", b"1"]
            begin, close = "this subscription belongs to process", ""
            said = in_child([lambda: list(reader), lambda: list(durable), reader.close, durable.close])
            assert [line[: len(begin)] for line in said] == [begin, begin, close, close]
            assert [next(read).body, next(taken).body] == [b"2", b"2"], "what the child did is nothing to its parent"
