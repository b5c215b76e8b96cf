"""Acks of one queue, gathered: what is acked while an ACK is under way goes out together in the next one.

Neighbouring messages become one receipt. A receipt is refused as a whole when one of its messages is not held any more, so a
refused range is sent again as single messages, and only those that are really stale fail, for their own callers.
Bounds: four ACK requests of at most 4096 messages under way; callers wait for their own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from zmqbroker.client.exchange import with_outcome
from zmqbroker.client.receipts import covered, merge, portions, singles, stale_of
from zmqbroker.client.session import Answer
from zmqbroker.commands import Receipt
from zmqbroker.errors import BrokerError, RemoteProtocolError, RequestError, StaleReceipt
from zmqbroker.wire.requests import RECEIPTS_MAX, AckRequest

__all__ = ["AckGatherer"]

_REQUESTS_MAX = 4

Submit = Callable[[AckRequest], asyncio.Future[Answer]]


class _Call:
    """Messages that one caller acks and waits for."""

    def __init__(self, receipts: Sequence[Receipt]) -> None:
        self.receipts = receipts
        self.count = sum(receipt.last - receipt.first + 1 for receipt in receipts)
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self, error: BrokerError | None) -> None:
        if self.future.done():
            return  # cancelled by its caller
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(with_outcome(error, error.outcome_unknown) if isinstance(error, RequestError) else error)


class AckGatherer:
    """Collects and sends the acks of one queue."""

    def __init__(self, channel: str, submit: Submit) -> None:
        self._channel = channel
        self._submit = submit
        self._calls: deque[_Call] = deque()  # not yet sent
        self._under_way = 0  # groups of calls whose answer is awaited

    async def ack(self, receipts: Iterable[Receipt]) -> None:
        """Finish messages for good. Raises StaleReceipt naming those that were not held any more; the others are acked."""
        calls = [_Call(portion) for portion in portions(receipts, RECEIPTS_MAX)]
        self._calls += calls
        self._send()
        results = await asyncio.gather(*(call.future for call in calls), return_exceptions=True)
        failures = [result for result in results if result is not None]
        if failures:
            raise failures[0]

    def _send(self) -> None:
        while self._calls and self._under_way < _REQUESTS_MAX:
            calls = [self._calls.popleft()]
            count = calls[0].count
            while self._calls and count + self._calls[0].count <= RECEIPTS_MAX:
                calls.append(self._calls.popleft())
                count += calls[-1].count
            self._under_way += 1
            self._request(calls, merge(receipt for call in calls for receipt in call.receipts))

    def _request(self, calls: list[_Call], receipts: tuple[Receipt, ...]) -> None:
        try:
            future = self._submit(AckRequest(self._channel, receipts))
        except BrokerError as error:
            self._end(calls, error)
        else:
            ranges = any(receipt.last > receipt.first for receipt in receipts)
            future.add_done_callback(lambda done: self._answered(calls, ranges, done))

    def _answered(self, calls: list[_Call], ranges: bool, future: asyncio.Future[Answer]) -> None:
        error = future.exception()
        if not isinstance(error, StaleReceipt):
            self._end(calls, error)
            return
        try:
            named = stale_of(error)
        except RemoteProtocolError as fault:
            self._end(calls, fault)
            return
        stale = {single for call in calls for single in singles(call.receipts) if covered(single, named)}
        if stale and ranges and any(receipt.last > receipt.first for receipt in named):
            self._request(calls, tuple(sorted(stale)))
        else:
            self._end_stale(calls, error, stale)

    def _end_stale(self, calls: list[_Call], error: StaleReceipt, stale: set[Receipt]) -> None:
        for call in calls:
            own = [single for single in singles(call.receipts) if single in stale]
            named = [[single.assigning, single.first, single.last] for single in own]
            call.end(StaleReceipt(error.message, stale=named, count=call.count - len(own)) if own else None)
        self._next()

    def _end(self, calls: list[_Call], error: BaseException | None) -> None:
        assert error is None or isinstance(error, BrokerError), error
        for call in calls:
            call.end(error)
        self._next()

    def _next(self) -> None:
        self._under_way -= 1
        self._send()
