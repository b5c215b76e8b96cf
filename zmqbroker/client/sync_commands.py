"""Commands and queries for threads: what `Command`, `Query` and `Requests` do, one call after the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any

from zmqbroker.client.call_values import Answer, Called
from zmqbroker.client.commands import CONCURRENCY, Command, Query
from zmqbroker.client.requests import Request, Requests
from zmqbroker.errors import LocalProtocolError
from zmqbroker.wire.batch import Buffer

if TYPE_CHECKING:
    from zmqbroker.client.sync import SyncClient

__all__ = ["SyncCommand", "SyncQuery", "SyncRequest", "SyncRequests"]


class SyncRequest(Called):
    """A call that wants an answer; see `Request` for what each method does and raises."""

    __slots__ = ("_client", "_request")

    def __init__(self, client: SyncClient, request: Request) -> None:
        self._client, self._request = client, request
        self._fields, self._ends_s, self.body, self.call = request._fields, request._ends_s, request.body, request.call

    @property
    def remaining_ms(self) -> int:
        """What is left until the deadline, whatever the clocks say; 0 for nothing."""
        return self._request.remaining_ms

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._request.cancelled

    def answer(self, body: Buffer | Answer | None = b"", **options: Any) -> None:
        """Answer, once; or, after parts, end."""
        self._client.run(self._request.answer(body, **options))

    def fail(self, error: str, body: Buffer = b"", *, executed: bool = False) -> None:
        """Answer that it went wrong, and how; `executed`: it was done all the same."""
        self._client.run(self._request.fail(error, body, executed=executed))

    def send_part(self, body: Buffer | Answer) -> None:
        """Answer in part, and wait until that was sent."""
        self._client.run(self._request.send_part(body))


class SyncRequests:
    """Calls on one channel: `for request in …`, best inside `with`."""

    def __init__(self, client: SyncClient, requests: Requests) -> None:
        self._client, self._requests = client, requests

    def __iter__(self) -> Iterator[SyncRequest]:
        return self

    def __next__(self) -> SyncRequest:
        """The next call."""
        request = self._client.run(self._next())
        if request is None:
            raise StopIteration
        return SyncRequest(self._client, request)

    async def _next(self) -> Request | None:
        try:
            return await anext(self._requests)
        except StopAsyncIteration:
            return None

    def stop(self) -> None:
        """Take no more calls; those that are here can still be answered. A thread that iterates ends when it has taken them."""
        self._client.post(self._requests.stop)

    def close(self) -> None:
        """Stop, and answer what nobody has taken with an error. May be repeated."""
        with contextlib.suppress(LocalProtocolError):  # a client that is closed has ended them
            self._client.run(self._requests.close())

    def __enter__(self) -> SyncRequests:
        self._client.run(self._requests.wait_ready())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class SyncCommand:
    """The commands of one name. Made by `SyncClient.command`; see `Command` for what each method does and raises."""

    def __init__(self, client: SyncClient, name: str) -> None:
        self.name = name
        self._client = client
        client.run(self._made())

    async def _made(self) -> Command:
        """The same in the loop of this process."""
        return self._client.inner().command(self.name)

    def call(self, body: Buffer = b"", **options: Any) -> Answer:
        """The first responder's answer."""
        return self._client.run(self._call(body, options))

    async def _call(self, body: Buffer, options: dict[str, Any]) -> Answer:
        return await (await self._made()).call(body, **options)

    def stream(self, body: Buffer = b"", **options: Any) -> Iterator[Answer]:
        """The same, with each part of the answer as it comes; ended early (`close`), it gives the call up."""
        parts = self._client.run(self._stream(body, options))

        async def next_part() -> Answer | None:
            return await anext(parts, None)

        try:
            while (part := self._client.run(next_part())) is not None:
                yield part
        finally:
            self._client.run(parts.aclose())

    async def _stream(self, body: Buffer, options: dict[str, Any]) -> AsyncGenerator[Answer, None]:
        return (await self._made()).stream(body, **options)

    def requests(self, *, group: str = "", concurrency: int = CONCURRENCY) -> SyncRequests:
        """Calls from now on; each wants `request.answer(…)`."""
        return SyncRequests(self._client, self._client.run(self._requests(group, concurrency)))

    async def _requests(self, group: str, concurrency: int) -> Requests:
        return (await self._made()).requests(group=group, concurrency=concurrency)

    def respond(self, handler: Callable[[SyncRequest], Any], *, group: str = "", concurrency: int = CONCURRENCY) -> None:
        """Answer each call with what `handler` gives, in `concurrency` threads, until the client is drained or closed."""
        with ThreadPoolExecutor(concurrency, "zmqbroker-responder") as threads:

            async def serve(request: Request) -> Any:
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(threads, handler, SyncRequest(self._client, request))

            async def respond() -> None:
                await (await self._made()).respond(serve, group=group, concurrency=concurrency)

            self._client.run(respond())


class SyncQuery(SyncCommand):
    """The queries of one name. Made by `SyncClient.query`."""

    async def _made(self) -> Query:
        return self._client.inner().query(self.name)
