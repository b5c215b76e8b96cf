"""Responding: calls that came to this client, and their answers.

    async for request in client.command("restart").requests():
        await request.answer(b"done")

The node gives no more calls at a time than the subscription's credit, so what waits here is bounded by it. A call belongs to
the connection that it came over: when that is lost, it is cancelled, and its caller has been told.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from types import TracebackType

from zmqbroker.client.book import Book
from zmqbroker.client.call_values import Answer, Called, as_answer, respond_request
from zmqbroker.client.home import Pushed
from zmqbroker.client.home_driver import HomeDriver
from zmqbroker.errors import BrokerError, DeadlineExceeded, MessageTooLarge, UnknownCall
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.frames import Reply
from zmqbroker.wire.requests import SubscribeRequest

__all__ = ["Request", "Requests"]


class Request(Called):
    """A call that wants an answer."""

    __slots__ = ("_cancelled", "_home", "_over", "_owner")

    def __init__(self, owner: Requests, home: HomeDriver, fields: Mapping[str, object], body: bytes, call: int) -> None:
        super().__init__(fields, body, call, time.monotonic())
        self._owner, self._home = owner, home
        self._over = False  # it was answered
        self._cancelled = asyncio.Event()

    @property
    def remaining_ms(self) -> int:
        """What is left until the deadline, whatever the clocks say; 0 for nothing."""
        return self.left_ms(time.monotonic())

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._cancelled.is_set()

    async def wait_cancelled(self) -> None:
        """Wait until nobody waits for the answer any more."""
        await self._cancelled.wait()

    def cancel(self) -> None:
        """Nobody waits any more."""
        self._cancelled.set()

    async def answer(
        self,
        body: Buffer | Answer | None = b"",
        *,
        metadata: str | None = None,
        tags: Mapping[str, str] | None = None,
        executed: bool = True,
    ) -> None:
        """Answer, once; or, after parts, end. Raises UnknownCall when that was done, or nobody waits any more."""
        given = as_answer(body)
        if not isinstance(body, Answer):
            given = given._replace(metadata=metadata, tags=tags or {}, executed=executed)
        self._end(given)

    async def fail(self, error: str, body: Buffer = b"", *, executed: bool = False) -> None:
        """Answer that it went wrong, and how; `executed`: it was done all the same. Raises UnknownCall."""
        self._end(as_answer(body)._replace(error=error or "failed"), executed=executed)

    async def send_part(self, body: Buffer | Answer) -> None:
        """Answer in part, and wait until that was sent. Raises UnknownCall or DeadlineExceeded."""
        given = as_answer(body)
        self._check(given)
        await self._home.give(respond_request(self.call, given, last=False), max(1, self.remaining_ms))

    def _end(self, answer: Answer, *, executed: bool = False) -> None:
        self._check(answer)
        request = respond_request(self.call, answer, last=True, executed=executed)
        self._over = True
        self._owner.ended(self)
        self._home.say(request)

    def _check(self, answer: Answer) -> None:
        if self._over or self.cancelled:
            why = "was answered already" if self._over else "is over: its caller waits no longer"
            raise UnknownCall(f"call {self.call} on {self.channel!r} {why}")
        size, limit = len(answer.body), self._home.message_bytes_max
        if size > limit:
            raise MessageTooLarge(f"an answer has {size} bytes, the limit is {limit}", size=size, limit=limit)

    def __repr__(self) -> str:
        return f"<Request {self.call} on {self.channel!r}: {len(self.body)} bytes>"


class Requests:
    """Calls on one channel. It subscribes when it is first used, and again when the connection was lost."""

    def __init__(self, home: HomeDriver, book: Book, request: SubscribeRequest, timeout_ms: int) -> None:
        self._home, self._book, self._request, self._timeout_ms = home, book, request, timeout_ms
        self._number = 0  # of the subscription; 0: not subscribed yet
        self._stands = asyncio.Event()  # the node has said so, or it has ended
        self._arrived: deque[Request] = deque()  # at most the credit
        self._held: dict[int, Request] = {}  # by number: not answered and not cancelled
        self._came = asyncio.Event()
        self._idle = asyncio.Event()  # set while nothing is held
        self._idle.set()
        self._ended = False
        self._error: BrokerError | None = None

    async def wait_ready(self) -> Requests:
        """Wait until the node has the subscription; other nodes hear of it within milliseconds. Raises BrokerError."""
        self._start()
        try:
            async with asyncio.timeout(self._timeout_ms / 1000):
                await self._stands.wait()
        except TimeoutError as error:
            raise DeadlineExceeded("no node took the subscription in time", outcome_unknown=False) from error
        if self._error is not None:
            raise self._error
        return self

    def __aiter__(self) -> AsyncIterator[Request]:
        self._start()
        return self

    async def __anext__(self) -> Request:
        """The next call. Raises BrokerError when the subscription was refused or the client closed."""
        self._start()
        while not self._arrived:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._came.clear()
            await self._came.wait()
        return self._arrived.popleft()

    def stop(self) -> None:
        """Take no more calls; those that are here can still be answered. May be repeated."""
        if not self._ended:
            self._end(None)
            if self._number and not self._home.closed:
                self._home.unsubscribe(self._number, keep=True)

    async def wait_closed(self) -> None:
        """Wait until every call that came was answered, or is over."""
        await self._idle.wait()

    async def close(self) -> None:
        """Stop, and answer what nobody has taken with an error. May be repeated."""
        self.stop()
        while self._arrived:
            request = self._arrived.popleft()
            if not request.cancelled:
                await request.fail("the responder has stopped")

    async def abandon(self) -> None:
        """Close, and answer all that was not answered with an error."""
        await self.close()
        for request in list(self._held.values()):
            await request.fail("the responder has stopped")

    async def __aenter__(self) -> Requests:
        return await self.wait_ready()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _start(self) -> None:
        if not self._number and not self._ended:
            self._number = self._home.subscribe(self._request, self)
            self._book.consumers.add(self)  # draining the client stops it

    def _end(self, error: BrokerError | None) -> None:
        self._ended, self._error = True, error
        self._book.consumers.discard(self)
        self._stands.set()
        self._came.set()

    def ended(self, request: Request) -> None:
        """A call was answered, or is over."""
        self._held.pop(request.call, None)
        if not self._held:
            self._idle.set()
            if self._ended:
                self._home.let_go(self._number)

    # --- as a Subscriber -----------------------------------------------------------------------------------------------------

    def on_subscribed(self, error: BrokerError | None) -> None:
        """It stands (again), or has ended: what came over another connection is over."""
        self._cancel(list(self._held.values()))
        if error is not None:
            if not self._ended:
                self._end(error)
            return
        self._stands.set()

    def on_pushed(self, pushed: Pushed) -> None:
        """A call came, or one is over."""
        call = pushed.fields.get("call")
        if not isinstance(call, int):
            return
        if pushed.command == Reply.CANCELLED:
            held = self._held.get(call)
            self._cancel([] if held is None else [held])
        elif pushed.command == Reply.CALLED and len(pushed.bodies) == 1:
            request = Request(self, self._home, pushed.fields, bytes(pushed.bodies[0]), call)
            self._held[call] = request
            self._idle.clear()
            self._arrived.append(request)
            self._came.set()

    def _cancel(self, requests: list[Request]) -> None:
        for request in requests:
            request.cancel()
            self.ended(request)
        if requests:
            self._arrived = deque(request for request in self._arrived if not request.cancelled)
