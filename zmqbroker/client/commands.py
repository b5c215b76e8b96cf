"""Commands and queries as a user of asyncio meets them: call, and respond to the calls of others.

    answer = await client.query("price").call(b"eur", timeout_ms=500)
    await client.command("restart").respond(handler)

All of it goes over the client's home connection, to responders at any node.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, ClassVar

from zmqbroker.client.book import Book
from zmqbroker.client.call_values import Answer
from zmqbroker.client.calling import call_once, call_parts
from zmqbroker.client.home_driver import HomeDriver
from zmqbroker.client.requests import Request, Requests
from zmqbroker.errors import BrokerError, InvalidChannel, LocalProtocolError, MessageTooLarge, UnknownCall
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.call_requests import check_call
from zmqbroker.wire.realtime_requests import CREDIT_MAX, name_fault
from zmqbroker.wire.requests import CallRequest, SubscribeRequest

__all__ = ["Command", "Handler", "Query"]

#: Handlers at a time, unless it is said otherwise.
CONCURRENCY = 16

#: Gets a request; gives bytes, an Answer or None, awaited where it must be, or parts of an answer as an async iterator.
Handler = Callable[[Request], Any]

log = logging.getLogger("zmqbroker.client")


class Command:
    """The commands of one name. Made by `Client.command`."""

    kind: ClassVar[str] = "commands"

    def __init__(self, name: str, home: HomeDriver, book: Book, timeout_ms: int) -> None:
        if fault := name_fault(name, self.kind):
            raise InvalidChannel(fault)
        self.name = name
        self._home, self._book, self._timeout_ms = home, book, timeout_ms

    # --- calling -------------------------------------------------------------------------------------------------------------

    async def call(
        self,
        body: Buffer = b"",
        *,
        timeout_ms: int | None = None,
        id: str = "",
        metadata: str | None = None,
        tags: Mapping[str, str] | None = None,
        trace: str = "",
    ) -> Answer:
        """The first responder's answer. One that says that it failed is an answer, too: look at `error` and `executed`.

        Raises NoResponder, DeadlineExceeded, Busy, MessageTooLarge or InvalidRequest. With `outcome_unknown` the command may
        have been executed: it is never sent a second time here. A task that is cancelled gives its call up.
        """
        return await call_once(self._home, self._book.calls, self._request(body, timeout_ms, id, metadata, tags, trace))

    def stream(
        self,
        body: Buffer = b"",
        *,
        timeout_ms: int | None = None,
        id: str = "",
        metadata: str | None = None,
        tags: Mapping[str, str] | None = None,
        trace: str = "",
    ) -> AsyncGenerator[Answer, None]:
        """The same, with each part of the answer as it comes: `async for part in …`."""
        return call_parts(self._home, self._book.calls, self._request(body, timeout_ms, id, metadata, tags, trace))

    def _request(
        self,
        body: Buffer,
        timeout_ms: int | None,
        id: str,
        metadata: str | None,
        tags: Mapping[str, str] | None,
        trace: str,
        cache_key: str = "",
        cache_ttl_ms: int = 0,
    ) -> CallRequest:
        """A call. Raises LocalProtocolError, InvalidRequest or MessageTooLarge."""
        if not isinstance(body, bytes | bytearray | memoryview):
            raise LocalProtocolError(f"a body must be bytes, not {type(body).__name__}")
        size, limit = len(body), self._home.message_bytes_max
        if size > limit:
            raise MessageTooLarge(f"a message has {size} bytes, the limit is {limit}", size=size, limit=limit)
        request = CallRequest(
            self.kind,
            self.name,
            bytes(body),
            self._timeout_ms if timeout_ms is None else timeout_ms,
            id=id,
            metadata=metadata,
            tags=dict(tags) if tags else None,
            trace=trace,
            cache_key=cache_key,
            cache_ttl_ms=cache_ttl_ms,
        )
        check_call(request)
        return request

    # --- responding ----------------------------------------------------------------------------------------------------------

    def requests(self, *, group: str = "", concurrency: int = CONCURRENCY) -> Requests:
        """Calls from now on: `async for request in …`, best inside `async with`. Each wants `await request.answer(…)`.

        All that respond without a group get each call; of those with the same `group` one does. Up to `concurrency` calls
        are here at a time. Raises LocalProtocolError.
        """
        if type(concurrency) is not int or not 1 <= concurrency <= CREDIT_MAX:
            raise LocalProtocolError(f"concurrency is {concurrency!r}, allowed is 1 to {CREDIT_MAX}")
        request = SubscribeRequest(0, self.name, self.kind, group, concurrency, tables=True)
        return Requests(self._home, self._book, request, self._timeout_ms)

    async def respond(self, handler: Handler, *, group: str = "", concurrency: int = CONCURRENCY) -> None:
        """Answer each call with what `handler` gives, until the task is cancelled or the client drained.

        A handler that raises answers with the error's name and text. One whose caller waits no longer is cancelled. Raises
        DeadlineExceeded when no node could be reached to begin with; later it waits for one.
        """
        requests = self.requests(group=group, concurrency=concurrency)
        tasks: set[asyncio.Task[None]] = set()
        try:
            async with requests:
                async for request in requests:
                    task = asyncio.create_task(_serve(handler, request))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await requests.abandon()


class Query(Command):
    """The queries of one name. Made by `Client.query`."""

    kind: ClassVar[str] = "queries"

    async def call(
        self,
        body: Buffer = b"",
        *,
        timeout_ms: int | None = None,
        id: str = "",
        metadata: str | None = None,
        tags: Mapping[str, str] | None = None,
        trace: str = "",
        cache_key: str = "",
        cache_ttl_ms: int = 0,
    ) -> Answer:
        """As `Command.call`. With both of them the answer is kept at the node under `cache_key` for `cache_ttl_ms`, and may
        itself be one that was kept: then `cache_hit` is true."""
        request = self._request(body, timeout_ms, id, metadata, tags, trace, cache_key, cache_ttl_ms)
        return await call_once(self._home, self._book.calls, request)


async def _serve(handler: Handler, request: Request) -> None:
    """Answer one call, whatever its handler does."""
    work = asyncio.create_task(_work(handler, request))
    over = asyncio.create_task(request.wait_cancelled())
    try:
        await asyncio.wait((work, over), return_when=asyncio.FIRST_COMPLETED)
    finally:
        work.cancel()
        over.cancel()
        await asyncio.gather(work, over, return_exceptions=True)


async def _work(handler: Handler, request: Request) -> None:
    (outcome,) = await asyncio.gather(_answer(handler, request), return_exceptions=True)
    if isinstance(outcome, UnknownCall) or outcome is None:
        return  # its caller waits no longer, or has its answer
    if not isinstance(outcome, Exception | asyncio.CancelledError):  # the handler's own: who cancels it waits for no outcome
        raise outcome
    log.error("%s: the handler of call %d failed", request.channel, request.call, exc_info=outcome)
    with contextlib.suppress(BrokerError):  # it had answered before it failed
        await request.fail(f"{type(outcome).__name__}: {outcome}")


async def _answer(handler: Handler, request: Request) -> None:
    found = handler(request)
    if hasattr(found, "__aiter__"):
        async for part in found:
            await request.send_part(part)
        found = None
    elif inspect.isawaitable(found):
        found = await found
    await request.answer(found)
