"""Where a reader of an events store is, and what it asks for next: no position is kept by the broker.

    request ──READ──▶ any node ──▶ answered ──▶ request behind what came …
                               ──▶ gone     ──▶ request from the first event that is still kept

The first READ only finds the place, and does not wait: a repeat of it would find another one. All others name a sequence and
the incarnation of the store, so that what comes is the same whichever node answers, and however often it is asked.

It sends nothing and reads no clock. Source: PROTOCOL §3, READ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from zmqbroker.client.answer import Answer
from zmqbroker.commands import Receipt
from zmqbroker.errors import LocalProtocolError, PositionGone, RemoteProtocolError
from zmqbroker.wire.batch import COUNT_MAX, SEQUENCE_MAX
from zmqbroker.wire.store_requests import ReadRequest, start_fault

__all__ = ["Cursor", "Gap", "Start", "start_of"]

#: How long one READ waits at the broker before it is asked anew.
WAIT_MS = 10_000
#: A limited reader asks for so many parts of a second's events at a time.
_PARTS = 10
_SECOND_NS = 1_000_000_000


class Gap(NamedTuple):
    """Events that this reader never got, since they are no longer kept."""

    missed: int  # sequence of the first of them
    first: int  # of the event that comes next


class Start(NamedTuple):
    """Where reading begins, as requests say it."""

    start: str
    value: int = 0


def start_of(
    start: str | None, sequence: int | None, time_unix_ns: int | None, time_delta_ms: int | None, default: str = "new"
) -> Start:
    """The one place that a caller names in one of these ways. Raises LocalProtocolError when there are two, or it is none."""
    given = {"start": start, "sequence": sequence, "time_unix_ns": time_unix_ns, "time_delta_ms": time_delta_ms}
    said = [name for name, value in given.items() if value is not None]
    if len(said) > 1:
        raise LocalProtocolError(f"{' and '.join(said)} are given: an events store is read from one place on")
    found = Start(default)
    if start is not None:
        found = Start(start)
    elif sequence is not None:
        found = Start("sequence", sequence)
    elif time_unix_ns is not None:
        found = Start("time", time_unix_ns)
    elif time_delta_ms is not None:
        found = Start("time_delta_ms", time_delta_ms)
    if type(found.value) is not int:
        raise LocalProtocolError(f"{said[0]} is {found.value!r}, it must be an integer")
    if fault := start_fault(*found):
        raise LocalProtocolError(fault)
    return found


class Cursor:
    """One reader's place in one store."""

    def __init__(self, channel: str, start: Start, count_max: int, size_max: int, rate_limit: int | None = None) -> None:
        """`rate_limit`: so many events a second while it is behind. Raises LocalProtocolError."""
        if not 1 <= count_max <= COUNT_MAX:
            raise LocalProtocolError(f"max is {count_max}, allowed is 1 to {COUNT_MAX}")
        if rate_limit is not None and rate_limit < 1:
            raise LocalProtocolError(f"rate_limit is {rate_limit}, it must be at least 1 event a second")
        self.position = start.value if start.start == "sequence" else 0  # of the next event; 0: it is not known yet
        self.ready_ns = 0  # before that nothing is to be asked
        self._channel, self._start, self._size_max = channel, start, size_max
        self._rate = rate_limit
        self._count_max = count_max if rate_limit is None else min(count_max, max(1, rate_limit // _PARTS))
        self._incarnation = 0

    def request(self) -> ReadRequest:
        """What to ask next; the same until it is answered."""
        common: dict[str, Any] = {"count_max": self._count_max, "size_max": self._size_max}
        if not self.position:  # of the leader: what was confirmed before is not new
            return ReadRequest(self._channel, *self._start, forward=True, **common)
        return ReadRequest(self._channel, "sequence", self.position, wait_ms=WAIT_MS, incarnation=self._incarnation, **common)

    def answered(self, answer: Answer, receipts: Sequence[Receipt], now_ns: int) -> None:
        """These events came. Raises RemoteProtocolError when they are not what was asked for."""
        following, last = answer.field("next", int), answer.field("last", int)
        incarnation, count, before = answer.field("incarnation", int), 0, self.position - 1
        asked = f"a READ from {self.position} on brought event"
        for receipt in receipts:
            if receipt.first <= before:
                raise RemoteProtocolError(f"{asked} {receipt.first} behind {before}")
            count, before = count + receipt.last - receipt.first + 1, receipt.last
        if not max(before, 0) < following <= SEQUENCE_MAX + 1:
            raise RemoteProtocolError(f"{asked}s up to {before} and goes on from {following}")
        self.position = following
        self._incarnation = incarnation or self._incarnation
        if self._rate is not None and following <= last:  # behind
            self.ready_ns = max(self.ready_ns, now_ns) + count * _SECOND_NS // self._rate

    def gone(self, error: PositionGone) -> Gap:
        """The place is gone: go on from the first event that is there."""
        gap = Gap(self.position, error.first)
        self.position, self._incarnation = max(error.first, 1), 0
        return gap
