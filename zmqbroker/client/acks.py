"""Acks of one queue, gathered: what is acked while an ACK is under way goes out together in the next one.

Neighbouring messages become one receipt. A receipt is refused as a whole when one of its messages is not held any more, so a
refused range is sent again as single messages, and only those that are really stale fail, for their own callers.
Bounds: four ACK requests of at most 4096 messages under way; callers wait for their own.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from zmqbroker.client.exchange import with_outcome
from zmqbroker.client.session import Answer
from zmqbroker.commands import Receipt
from zmqbroker.errors import BrokerError, RemoteProtocolError, RequestError, StaleReceipt
from zmqbroker.wire.requests import RECEIPTS_MAX, AckRequest

__all__ = ["AckGatherer", "Held", "merge"]

_REQUESTS_MAX = 4

#: A message as an ack names it: (assigning, sequence).
Held = tuple[int, int]
Submit = Callable[[AckRequest], asyncio.Future[Answer]]


def merge(held: Iterable[Held]) -> tuple[Receipt, ...]:
    """The fewest receipts that name these messages."""
    receipts: list[Receipt] = []
    for assigning, sequence in sorted(set(held)):
        last = receipts[-1] if receipts else None
        if last is not None and last.assigning == assigning and last.last + 1 == sequence:
            receipts[-1] = Receipt(assigning, last.first, sequence)
        else:
            receipts.append(Receipt(assigning, sequence, sequence))
    return tuple(receipts)


class _Call:
    """Messages that one caller acks and waits for."""

    def __init__(self, held: Sequence[Held]) -> None:
        self.held = held
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

    async def ack(self, held: Sequence[Held]) -> None:
        """Finish messages for good. Raises StaleReceipt naming those that were not held any more; the others are acked."""
        calls = [_Call(held[at : at + RECEIPTS_MAX]) for at in range(0, len(held), RECEIPTS_MAX)]
        self._calls += calls
        self._send()
        results = await asyncio.gather(*(call.future for call in calls), return_exceptions=True)
        failures = [result for result in results if result is not None]
        if failures:
            raise failures[0]

    def _send(self) -> None:
        while self._calls and self._under_way < _REQUESTS_MAX:
            calls = [self._calls.popleft()]
            count = len(calls[0].held)
            while self._calls and count + len(self._calls[0].held) <= RECEIPTS_MAX:
                calls.append(self._calls.popleft())
                count += len(calls[-1].held)
            self._under_way += 1
            self._request(calls, merge(held for call in calls for held in call.held))

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
        named = _receipts(error.fields.get("stale"))
        if named is None:
            self._end(calls, RemoteProtocolError(f"STALE_RECEIPT without its receipts: {error}"))
            return
        stale = [(call, held) for call in calls for held in call.held if _covered(held, named)]
        if stale and ranges and any(receipt.last > receipt.first for receipt in named):
            singles = {Receipt(assigning, sequence, sequence) for _, (assigning, sequence) in stale}
            self._request(calls, tuple(sorted(singles)))
        else:
            self._end_stale(calls, error, {held for _, held in stale})

    def _end_stale(self, calls: list[_Call], error: StaleReceipt, stale: set[Held]) -> None:
        for call in calls:
            own = [held for held in call.held if held in stale]
            named = [[assigning, sequence, sequence] for assigning, sequence in own]
            call.end(StaleReceipt(error.message, stale=named, count=len(call.held) - len(own)) if own else None)
        self._next()

    def _end(self, calls: list[_Call], error: BaseException | None) -> None:
        assert error is None or isinstance(error, BrokerError), error
        for call in calls:
            call.end(error)
        self._next()

    def _next(self) -> None:
        self._under_way -= 1
        self._send()


def _receipts(value: object) -> list[Receipt] | None:
    """The receipts in an error's field; None when it does not hold any."""
    if not isinstance(value, list) or not value:
        return None
    if not all(isinstance(item, list) and len(item) == 3 and all(type(part) is int for part in item) for item in value):
        return None
    return sorted(Receipt(*item) for item in value)


def _covered(held: Held, receipts: list[Receipt]) -> bool:
    """Whether one of these receipts, in order and disjoint, names a message."""
    assigning, sequence = held
    position = bisect_right(receipts, (assigning, sequence), key=lambda receipt: (receipt.assigning, receipt.first)) - 1
    return position >= 0 and receipts[position].assigning == assigning and sequence <= receipts[position].last
