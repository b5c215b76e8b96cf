"""What a producer's `send` gives: a message's confirm, to be awaited, asked, or let go.

It is a view of the parcel that the message travels in. Letting it go costs nothing: the producer's `flush` tells of a failure
that nobody looked at. Cancelling a wait ends the wait, never the send.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from zmqbroker.client.message import SendResult
from zmqbroker.client.parcel import Parcel
from zmqbroker.errors import BrokerError

__all__ = ["BatchConfirm", "Confirm", "find_place"]


class Confirm:
    """The confirm of one message. Belongs to the event loop of its producer."""

    __slots__ = ("_parcel", "_place")

    def __init__(self, parcel: Parcel, place: int) -> None:
        self._parcel = parcel
        self._place = place

    def done(self) -> bool:
        """Whether the message has ended: stored or failed."""
        return self._parcel.done

    def result(self) -> SendResult:
        """How it ended. Raises its error, or asyncio.InvalidStateError while it has not ended."""
        _check_done(self._parcel.done)
        return self._parcel.result(self._place)

    def exception(self) -> BrokerError | None:
        """The error it ended with, None for none. Raises asyncio.InvalidStateError while it has not ended."""
        _check_done(self._parcel.done)
        return self._parcel.exception()

    def add_done_callback(self, callback: Callable[[Confirm], object]) -> None:
        """Have the loop call `callback` with this confirm when the message has ended, or soon if it has."""
        call = partial(asyncio.get_running_loop().call_soon, callback, self)
        if self._parcel.done:
            call()
        else:
            self._parcel.watchers.append(call)

    def __await__(self) -> Generator[Any, None, SendResult]:
        if not self._parcel.done:
            yield from _end(self._parcel)
        return self._parcel.result(self._place)


class BatchConfirm:
    """The confirms of messages that were sent together, in their order; awaited, the results of all of them."""

    def __init__(self, parcels: Sequence[Parcel]) -> None:
        self._parcels = parcels
        self._ends = list(accumulate(parcel.count for parcel in parcels))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, at: int) -> Confirm:
        return Confirm(*find_place(self._parcels, self._ends, at))

    def __iter__(self) -> Iterator[Confirm]:
        return map(self.__getitem__, range(len(self)))

    def done(self) -> bool:
        """Whether every message has ended."""
        return all(parcel.done for parcel in self._parcels)

    def __await__(self) -> Generator[Any, None, list[SendResult]]:
        for parcel in self._parcels:
            if not parcel.done:
                yield from _end(parcel)
        return [parcel.result(place) for parcel in self._parcels for place in range(parcel.count)]


def find_place(parcels: Sequence[Parcel], ends: Sequence[int], at: int) -> tuple[Parcel, int]:
    """The parcel of the message at `at`, counted as in a list, and its place there; `ends` are the parcels' ends.

    Raises IndexError.
    """
    count = ends[-1] if ends else 0
    place = at + count if at < 0 else at
    if not 0 <= place < count:
        raise IndexError(f"message {at} of {count}")
    number = bisect_right(ends, place)
    return parcels[number], place - ends[number] + parcels[number].count


def _end(parcel: Parcel) -> Generator[Any, None, None]:
    """Wait until a parcel has ended, each waiter by itself."""
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    parcel.watchers.append(partial(_wake, waiter))
    yield from waiter


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():  # cancelled by its owner otherwise
        waiter.set_result(None)


def _check_done(done: bool) -> None:
    if not done:
        raise asyncio.InvalidStateError("the message has not ended yet")
