"""Sends to several destinations: a producer for each list, and one request that is repeated until it is answered.

A list has producers of its own, which are open on every stored destination of it, so that a repeat after a lost answer stores
nothing twice. One is used by one send at a time, and again by later ones. A send that was certainly refused has used no number
(PROTOCOL §3, "Destinations"); after any other failure its producer is forgotten.

Bounds: `UNDER_WAY_MAX` such sends of a client at once, others wait.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from zmqbroker.client.driver import Driver
from zmqbroker.client.exchange import not_sent
from zmqbroker.client.idle_producers import IdleProducers, Numbers
from zmqbroker.client.message import check_send, encode_message
from zmqbroker.client.session import Answer
from zmqbroker.client.transaction import SendOptions
from zmqbroker.commands import EVENTS, Destination
from zmqbroker.errors import (
    BrokerError,
    Duplicate,
    OutOfSequence,
    RemoteProtocolError,
    RequestError,
    UnknownProducer,
    error_from_wire,
)
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.columns import Treatment
from zmqbroker.wire.destinations import joined
from zmqbroker.wire.headers import MessageHeaders
from zmqbroker.wire.requests import OpenProducers, RoutedSend, Send
from zmqbroker.wire.send_requests import QUORUM

__all__ = ["DestinationResult", "RoutedSends", "routed_message"]

UNDER_WAY_MAX = 64
#: What a channel says of numbers that are not the next ones.
_MISNUMBERED = (UnknownProducer, OutOfSequence, Duplicate)


class DestinationResult(NamedTuple):
    """What became of a message at one destination."""

    destination: str  # in its shortest form
    sequence: int = 0  # its number there, from 1; 0 where it is not stored
    time_unix_ns: int = 0  # when it was stored
    duplicate: bool = False  # True: an earlier attempt of the same send had brought it there
    duplicate_of: int = 0  # sequence of the message with the same id that is stored in its place; 0: it is stored itself
    subscribers: int | None = None  # of events: who are known to get it; None of what is stored
    error: RequestError | None = None  # why it did not get there; of what is stored, either all have one or none


def routed_message(
    body: Buffer, body_size_max: int, client_id: str, expected_sequence: int | None, options: SendOptions
) -> Send:
    """A message without its producer. Raises LocalProtocolError or MessageTooLarge."""
    headers = MessageHeaders(options.get("metadata"), options.get("tags"), client_id or None, options.get("trace"))
    treatment = Treatment(**{name: options[name] for name in Treatment._fields if name in options})  # type: ignore[literal-required]
    encoded = encode_message(body, options.get("id"), headers, body_size_max, treatment)
    check_send(expected_sequence, QUORUM)
    said: dict[str, Any] = {**headers._asdict(), **treatment._asdict(), "expected_sequence": expected_sequence}
    return Send("", encoded.body, id=options.get("id") or "", **said)


class RoutedSends:
    """The sends of one client to lists of destinations."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(UNDER_WAY_MAX)
        self._idle = IdleProducers()

    async def run(
        self, driver: Driver, destinations: Sequence[Destination], message: Send, timeout_ms: int
    ) -> list[DestinationResult]:
        """Send to all of them; what became of it at each, in order, routes in the places of what they stand for.

        Raises RequestError: nothing happened, unless it says `outcome_unknown`.
        """
        deadline_s = time.monotonic() + timeout_ms / 1000
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await self._slots.acquire()
        except TimeoutError:
            raise not_sent("a send to destinations", None) from None
        try:
            try:
                return await self._attempt(driver, destinations, message, deadline_s)
            except UnknownProducer as error:  # a channel has forgotten it, was deleted, or a route has one more
                if error.outcome_unknown:
                    raise
            return await self._attempt(driver, destinations, message, deadline_s)
        finally:
            self._slots.release()

    async def _attempt(
        self, driver: Driver, destinations: Sequence[Destination], message: Send, deadline_s: float
    ) -> list[DestinationResult]:
        name, numbers = joined(destinations), None
        if any(destination.kind != EVENTS for destination in destinations):  # else there is nothing to be stored once
            numbers = self._idle.take(name) or await _open(driver, destinations, deadline_s)
            message = replace(message, producer=numbers.producer, sequence=numbers.following)
        try:
            future = driver.submit(RoutedSend(tuple(destinations), message), _left_ms(deadline_s))
        except BrokerError:
            self._put_back(name, numbers)  # nothing was sent under it
            raise
        try:
            answer = await future
        except asyncio.CancelledError:
            driver.forget(future)
            raise
        except RequestError as error:
            if not error.outcome_unknown and not isinstance(error, _MISNUMBERED):
                self._put_back(name, numbers)
            raise
        results = _results(answer)
        if not any(isinstance(result.error, _MISNUMBERED) for result in results):
            self._put_back(name, numbers, used=any(result.sequence for result in results))
        return results

    def _put_back(self, name: str, numbers: Numbers | None, *, used: bool = False) -> None:
        if numbers is not None:
            self._idle.put_back(name, numbers._replace(following=numbers.following + used))


async def _open(driver: Driver, destinations: Sequence[Destination], deadline_s: float) -> Numbers:
    producer = int.from_bytes(os.urandom(8), "big") or 1
    answer = await driver.submit(OpenProducers(tuple(destinations), producer), _left_ms(deadline_s))
    return Numbers(producer, answer.field("last_sequence", int) + 1)


def _left_ms(deadline_s: float) -> int:
    return max(0, int((deadline_s - time.monotonic()) * 1000))


def _results(answer: Answer) -> list[DestinationResult]:
    return [_result(row) for row in answer.field("results", list)]


def _result(row: Any) -> DestinationResult:
    match row:
        case {"destination": str(destination), "code": str()}:
            fields = {name: value for name, value in row.items() if name != "destination"}
            return DestinationResult(destination, error=error_from_wire(fields))
        case {"destination": str(destination), "subscribers": int(subscribers), "duplicate": bool(duplicate)}:
            return DestinationResult(destination, duplicate=duplicate, subscribers=subscribers)
        case {
            "destination": str(destination),
            "sequence": int(sequence),
            "time_unix_ns": int(time_unix_ns),
            "duplicate": bool(duplicate),
        }:
            return DestinationResult(destination, sequence, time_unix_ns, duplicate, _duplicate_of(row))
        case _:
            raise RemoteProtocolError(f"ROUTED has what is no result of a destination: {row!r}")


def _duplicate_of(row: Mapping[str, Any]) -> int:
    """The sequence of the message that is stored in the place of the only one that was sent; 0: there is none."""
    match row.get("duplicates", []):
        case []:
            return 0
        case [[0, int(sequence)]]:
            return sequence
        case duplicates:
            raise RemoteProtocolError(f"ROUTED tells duplicates {duplicates!r} of 1 message")
