"""Calling: one command or query, its answer or its parts, and giving it up.

A call goes over the home connection once. One that was sent when the connection broke ends with DeadlineExceeded and
`outcome_unknown`, and is never repeated here; one that was not waits for the next connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

from zmqbroker.client.answer import Answer as Reply
from zmqbroker.client.call_values import Answer, read_answer
from zmqbroker.client.home_driver import HomeDriver
from zmqbroker.errors import DeadlineExceeded
from zmqbroker.wire.requests import CallRequest, CancelRequest

__all__ = ["call_once", "call_parts"]


@asynccontextmanager
async def _admitted(gate: asyncio.Semaphore, request: CallRequest) -> AsyncGenerator[CallRequest, None]:
    """The request when it may be sent, with what is left of its time. Raises DeadlineExceeded when there is none."""
    if gate.locked():
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(request.timeout_ms / 1000):
                await gate.acquire()
        except TimeoutError as error:
            text = f"too many calls of this client are under way: this one has waited {request.timeout_ms} ms for its turn"
            raise DeadlineExceeded(text, outcome_unknown=False) from error
        waited_ms = int((time.monotonic() - began_s) * 1000)
        request = replace(request, timeout_ms=max(1, request.timeout_ms - waited_ms))
    else:
        await gate.acquire()
    try:
        yield request
    finally:
        gate.release()


async def call_once(home: HomeDriver, gate: asyncio.Semaphore, request: CallRequest) -> Answer:
    """The whole answer; one in parts is put together, with what the last one says besides. Raises BrokerError."""
    parts: list[Reply] = []
    async with _admitted(gate, request) as admitted:
        future, request_id = home.submit(admitted, admitted.timeout_ms, parts.append)
        reply = await _until_over(home, future, request_id)
    answer = read_answer(reply)
    if not parts:
        return answer
    return answer._replace(body=b"".join((*(read_answer(part).body for part in parts), answer.body)), part=1)


async def call_parts(home: HomeDriver, gate: asyncio.Semaphore, request: CallRequest) -> AsyncGenerator[Answer, None]:
    """The parts of an answer as they come. Raises BrokerError; ended early, it gives the call up."""
    async with _admitted(gate, request) as admitted, aclosing(_parts(home, admitted)) as parts:
        async for part in parts:
            yield part


async def _parts(home: HomeDriver, request: CallRequest) -> AsyncGenerator[Answer, None]:
    parts: asyncio.Queue[Reply | None] = asyncio.Queue()  # bounded by what the node keeps for a client that does not read
    future, request_id = home.submit(request, request.timeout_ms, parts.put_nowait)
    future.add_done_callback(lambda _: parts.put_nowait(None))
    try:
        while (part := await parts.get()) is not None:
            yield read_answer(part)
    finally:
        if not future.done():
            future.cancel()
            _give_up(home, request_id)
    answer = read_answer(await _until_over(home, future, request_id))
    if answer.part == 1 or answer != Answer(part=answer.part):  # else it says only that nothing comes any more
        yield answer


async def _until_over(home: HomeDriver, future: asyncio.Future[Reply], request_id: int) -> Reply:
    """The last answer; a call that nobody waits for any more is given up."""
    try:
        return await future
    except (asyncio.CancelledError, DeadlineExceeded):
        _give_up(home, request_id)
        raise


def _give_up(home: HomeDriver, request_id: int) -> None:
    home.forget(request_id)
    if not home.closed:
        home.say(CancelRequest(request_id))
