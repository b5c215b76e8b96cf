"""All five patterns and what joins them, at work on a cluster: a line each, for people who see it for the first time.

Everything goes through different nodes: what is sent at one is received at the next. A part that does not arrive is an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from zmqbroker.cli.output import body_text
from zmqbroker.errors import NoMajority, NoResponder

if TYPE_CHECKING:
    from zmqbroker.cli.local_cluster import NodePlan
    from zmqbroker.cli.options import CommandContext
    from zmqbroker.client import Answer, Client, Command, Events, Request

__all__ = ["demonstrate"]

_CHANNEL = "demo"
#: How long anything may take to arrive: a slow machine that has just elected a leader needs a second.
_WAIT_MS = 10_000
_CACHED_MS = 60_000
#: A node hears of a responder at another one a moment after it has subscribed.
_ASKED_AGAIN_S = 0.05
_ATTEMPTS = 200


class _Guest(NamedTuple):
    """A client, and the node that it is connected to."""

    node: str
    client: Client


async def demonstrate(context: CommandContext, plans: Sequence[NodePlan]) -> list[str]:
    """Use the cluster in every way; what to tell of it. Raises BrokerError when something does not arrive."""
    async with AsyncExitStack() as stack:
        guests = [_Guest(plan.name, await stack.enter_async_context(context.connect(plan.endpoint))) for plan in plans]
        one, other = guests[0], guests[1 % len(guests)]
        last = guests[-1]
        return [
            await _queue(guests),
            await _events(one, other),
            await _store(other, last),
            await _command(one, last),
            await _query(one, last),
            await _routes(last, one),
        ]


async def _queue(guests: Sequence[_Guest]) -> str:
    confirm, arrived = "", []
    for number, sender in enumerate(guests):
        receiver = guests[(number + 1) % len(guests)]
        body = f"hello from {sender.node}".encode()
        confirm = (await sender.client.queue(_CHANNEL).send(body)).confirm
        for message in await receiver.client.queue(_CHANNEL).receive(max=1, wait_ms=_WAIT_MS):
            await message.ack()
            arrived.append(body_text(message.body))
    if len(arrived) != len(guests):
        raise NoMajority(f"only {len(arrived)} of {len(guests)} messages arrived")
    word = "messages" if len(guests) > 1 else "message"
    nodes = "each through another node" if len(guests) > 1 else "through the node"
    return f"queue         {len(guests)} {word} sent and received, {nodes}, confirmed by {confirm}: {arrived[-1]!r}"


async def _events(publisher: _Guest, subscriber: _Guest) -> str:
    events = publisher.client.events(f"{_CHANNEL}.news")
    async with subscriber.client.events(f"{_CHANNEL}.*").subscribe() as subscription:
        # What is published before the node has heard of the subscription is lost to it.
        for _ in range(_ATTEMPTS):
            if await _reaches_anybody(events):
                break
            await asyncio.sleep(_ASKED_AGAIN_S)
        arrived = await subscription.take(wait_ms=_WAIT_MS)
    if not arrived:
        raise NoMajority(f"an event from {publisher.node} did not arrive at {subscriber.node}")
    told = f"{body_text(arrived[0].body)!r} published to {arrived[0].channel} at {publisher.node}"
    return f"events        {told}, received by a subscriber of {_CHANNEL}.* at {subscriber.node}"


async def _reaches_anybody(events: Events) -> bool:
    published = await events.publish(b"good news", confirm=True)
    return published is not None and published.subscribers > 0


async def _store(publisher: _Guest, reader: _Guest) -> str:
    result = await publisher.client.store(_CHANNEL).publish(b"kept for later", key="note")
    event = await reader.client.store(_CHANNEL).get(result.sequence)
    if event is None:
        raise NoMajority(f"event {result.sequence} from {publisher.node} is not there for {reader.node}")
    told = f"event {event.sequence} {body_text(event.body)!r} published at {publisher.node}"
    return f"events store  {told}, confirmed by {result.confirm}, read again at {reader.node}"


async def _command(caller: _Guest, responder: _Guest) -> str:
    call = partial(caller.client.command(_CHANNEL).call, b"restart")
    answer = await _answered(call, responder.client.command(_CHANNEL))
    return f"command       'restart' called at {caller.node}, executed at {responder.node}: {body_text(answer.body)!r}"


async def _query(caller: _Guest, responder: _Guest) -> str:
    call = partial(caller.client.query(_CHANNEL).call, b"price", cache_key="price", cache_ttl_ms=_CACHED_MS)
    answer = await _answered(call, responder.client.query(_CHANNEL))
    again = await call()  # nobody responds any more
    if not again.cache_hit:
        raise NoMajority(f"the answer to a query was not kept at {caller.node}")
    told = f"'price' asked at {caller.node}, answered at {responder.node}: {body_text(answer.body)!r}"
    return f"query         {told}; asked again, answered from the cache"


async def _answered(call: Callable[[], Awaitable[Answer]], responder: Command) -> Answer:
    """Call until a responder answers that begins just now: a node hears of one at another node a moment later."""
    working = asyncio.ensure_future(responder.respond(_work))
    try:
        for _ in range(_ATTEMPTS):
            with suppress(NoResponder):
                return await call()
            await asyncio.sleep(_ASKED_AGAIN_S)
        return await call()
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def _work(request: Request) -> bytes:
    return request.body + b": done"


async def _routes(sender: _Guest, receiver: _Guest) -> str:
    to = f"{_CHANNEL};events_store:{_CHANNEL};events:{_CHANNEL}.news"
    results = await sender.client.send(to, b"to all of you")
    if refused := [result.error for result in results if result.error is not None]:
        raise refused[0]
    for message in await receiver.client.queue(_CHANNEL).receive(max=1, wait_ms=_WAIT_MS):
        await message.ack()
        return f"routing       {body_text(message.body)!r} sent to {to} at {sender.node} in one step"
    raise NoMajority(f"what was sent to {to} did not arrive in queue {_CHANNEL}")
