"""HAND_OVER from the client's side: producers that number its batches, and one request that is repeated until it is answered.

A hand-over needs a producer on every channel that it sends to, so that a repeat after a lost answer gets the first one.
Producers are used by one hand-over at a time, and again by later ones, so that a channel has no more of them than hand-overs
are under way at once. A hand-over that was certainly refused has used no numbers (PROTOCOL §3); after any other failure its
producers are forgotten, since nobody knows which number is next.

Bounds: `UNDER_WAY_MAX` hand-overs of a client at once, others wait.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from zmqbroker.client.driver import Driver
from zmqbroker.client.exchange import not_sent
from zmqbroker.client.idle_producers import IdleProducers, Numbers
from zmqbroker.client.message import Encoded, SendResult
from zmqbroker.client.session import Answer
from zmqbroker.commands import Receipt
from zmqbroker.errors import BrokerError, MessageTooLarge, RemoteProtocolError, RequestError, UnknownProducer
from zmqbroker.wire.batch import BATCH_MARGIN
from zmqbroker.wire.codec import encode_batch
from zmqbroker.wire.columns import add_columns
from zmqbroker.wire.requests import HandOverRequest, OpenProducerRequest

__all__ = ["HandOvers", "Order"]

UNDER_WAY_MAX = 16


class Order(NamedTuple):
    """What is to be done in one step."""

    channel: str  # of the receipts
    receipts: tuple[Receipt, ...]
    batches: Mapping[str, Sequence[Encoded]]  # by channel


class HandOvers:
    """The hand-overs of one client."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(UNDER_WAY_MAX)
        self._idle = IdleProducers()  # by channel

    async def run(self, driver: Driver, order: Order, timeout_ms: int) -> dict[str, list[SendResult]]:
        """Ack and send; the results for each channel.

        Raises RequestError: nothing happened, unless it says `outcome_unknown`.
        """
        deadline_s = time.monotonic() + timeout_ms / 1000
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await self._slots.acquire()
        except TimeoutError:
            raise not_sent("a hand-over", None) from None
        try:
            try:
                return await self._attempt(driver, order, deadline_s)
            except UnknownProducer as error:  # a channel has forgotten the producer since it was used last, or was deleted
                if error.outcome_unknown:
                    raise
            return await self._attempt(driver, order, deadline_s)
        finally:
            self._slots.release()

    async def _attempt(self, driver: Driver, order: Order, deadline_s: float) -> dict[str, list[SendResult]]:
        used: dict[str, Numbers] = {}
        try:
            for name in order.batches:
                used[name] = self._idle.take(name) or await self._open(driver, name, deadline_s)
            frames = tuple(_frame(name, messages, used[name]) for name, messages in order.batches.items())
            _check_size(sum(map(len, frames)), driver.message_bytes_max + BATCH_MARGIN)
            future = driver.submit(HandOverRequest(order.channel, order.receipts, frames), _left_ms(deadline_s))
        except BrokerError:
            self._put_back(used)  # nothing was sent under them
            raise
        try:
            answer = await future
        except asyncio.CancelledError:
            driver.forget(future)
            raise
        except RequestError as error:
            if not error.outcome_unknown and not isinstance(error, UnknownProducer):
                self._put_back(used)
            raise
        results = _results(answer, order.batches)
        self._put_back({name: used[name]._replace(following=used[name].following + len(results[name])) for name in used})
        return results

    async def _open(self, driver: Driver, channel: str, deadline_s: float) -> Numbers:
        producer = int.from_bytes(os.urandom(8), "big") or 1
        answer = await driver.submit(OpenProducerRequest(channel, producer), _left_ms(deadline_s))
        return Numbers(producer, answer.field("last_sequence", int) + 1)

    def _put_back(self, used: Mapping[str, Numbers]) -> None:
        for channel, numbers in used.items():
            self._idle.put_back(channel, numbers)


def _left_ms(deadline_s: float) -> int:
    return max(0, int((deadline_s - time.monotonic()) * 1000))


def _frame(channel: str, messages: Sequence[Encoded], numbers: Numbers) -> bytes:
    bodies = [message.body for message in messages]
    ids, headers = [message.id for message in messages], [message.headers for message in messages]
    frame = encode_batch(
        channel.encode(), bodies, *numbers, ids=ids if any(ids) else None, headers=headers if any(headers) else None
    )
    return add_columns(frame, sum(map(len, bodies)), [message.treatment for message in messages])


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        text = f"the messages of a hand-over have {size} bytes together, the limit is {limit}"
        raise MessageTooLarge(text, size=size, limit=limit)


def _results(answer: Answer, batches: Mapping[str, Sequence[Encoded]]) -> dict[str, list[SendResult]]:
    sent, time_unix_ns = answer.field("sent", list), answer.field("time_unix_ns", int)
    duplicate, confirm = answer.field("duplicate", bool), answer.field("confirm", str)
    expected = [[name, len(messages)] for name, messages in batches.items()]
    if not all(isinstance(row, list) and len(row) == 3 and isinstance(row[1], int) for row in sent):
        raise RemoteProtocolError(f"HANDED_OVER has what is not [channel, sequence, count]: {sent!r}")
    if [[name, count] for name, _, count in sent] != expected:
        raise RemoteProtocolError(f"HANDED_OVER for {expected!r} tells of {sent!r}")
    return {
        name: [SendResult(first + place, time_unix_ns, duplicate, confirm) for place in range(count)]
        for name, first, count in sent
    }
