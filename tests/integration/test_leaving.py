"""Clients that leave in good order, on three real nodes: the node has what they said last, and nobody else loses by it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import zmqbroker
from tests.integration.test_events import bodies, client_at, until_known
from tests.integration.wild import unique_channel
from tests.processes import Cluster
from zmqbroker.errors import NoResponder

WAIT_MS = 15_000


def endpoints(cluster: Cluster) -> Sequence[str]:
    return [node.endpoint for node in cluster.nodes.values()]


async def come_and_go(endpoint: str, name: str) -> None:
    """A member of the group that is gone when this returns."""
    async with zmqbroker.Client(endpoint) as client, client.events(name).subscribe(group="g"):
        pass


def test_events_of_a_group_go_to_those_who_stay_when_a_member_has_closed_its_client(trio: Cluster) -> None:
    name = unique_channel()
    with client_at(trio, 0) as publisher, client_at(trio, 1) as other, other.events(name).subscribe(group="g") as stays:
        until_known(publisher, name, 1)
        for turn in range(5):
            asyncio.run(come_and_go(endpoints(trio)[0], name))
            publisher.events(name).publish(b"%d" % turn, confirm=True)
        publisher.events(name).publish(b"last", confirm=True)
        assert bodies(stays, b"last") == [b"0", b"1", b"2", b"3", b"4", b"last"]


async def answer_one(endpoint: str, name: str, ready: asyncio.Event) -> None:
    """A responder that answers one call and is gone."""
    async with zmqbroker.Client(endpoint) as client, client.command(name).requests() as requests:
        ready.set()
        async for request in requests:
            await request.answer(b"done")
            break


async def called(command: zmqbroker.client.Command) -> bytes:
    """What a call is answered with, once its node knows of the responder."""
    async with asyncio.timeout(WAIT_MS / 1000):
        while True:
            try:
                return (await command.call(b"", timeout_ms=WAIT_MS)).body
            except NoResponder as error:
                if error.outcome_unknown:  # the responder had the call, and its answer was lost
                    raise
                await asyncio.sleep(0.01)


def test_call_has_its_answer_though_the_responder_leaves_behind_it(trio: Cluster) -> None:
    async def test() -> None:
        first, second, _ = endpoints(trio)
        async with zmqbroker.Client(first) as caller:
            for _ in range(5):
                name, ready = unique_channel(), asyncio.Event()
                responder = asyncio.create_task(answer_one(second, name, ready))
                await ready.wait()
                assert await called(caller.command(name)) == b"done"
                await responder

    asyncio.run(test())
