"""Batches of a pipeline: how it makes them, what is kept of one while it is unanswered, and what its answer says."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from zmqbroker.client.exchange import Exchange
from zmqbroker.client.parcel import NO_DUPLICATES, Parcel
from zmqbroker.errors import OutOfSequence, RemoteProtocolError, RequestError, SequenceMismatch

__all__ = ["Batch", "PipelineSettings", "Sent", "closes_gap", "is_settled", "read_sent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSettings:
    """How a producer batches."""

    linger_ns: int = 0  # how long a message may wait for company
    batch_bytes: int = 256 << 10  # bodies and columns; a larger message travels alone
    batch_messages: int = 4096
    window: int = 64  # unanswered batches
    pending_bytes_max: int = 16 << 20  # everything not yet answered
    compress: bool = False  # whether bodies travel compressed; all sizes above are of what was sent


class Batch:
    """Parcels that were sent together, with the numbers they have for good."""

    __slots__ = ("base", "count", "exchange", "flight", "parcels")

    def __init__(self, exchange: Exchange, parcels: list[Parcel], count: int, base: int) -> None:
        self.exchange = exchange
        self.parcels = parcels
        self.count = count  # of their messages
        self.base = base  # the producer's number of the first one
        self.flight = 0  # the flight in which it was last sent

    @property
    def is_conditional(self) -> bool:
        """Whether it is only for a channel with a certain last sequence; then it is a parcel alone."""
        return self.parcels[0].expected_sequence is not None


def closes_gap(error: RequestError, earlier: list[Batch]) -> bool:
    """Whether a batch was refused only since one that was sent before it is missing: to send both again cures it."""
    return isinstance(error, OutOfSequence) and any(batch.base == error.expected for batch in earlier)


def is_settled(error: RequestError) -> bool:
    """Whether no earlier attempt of a conditional batch was stored, or ever will be: the channel has passed its place.

    The producer's own number is compared first, so an attempt that was stored would have been answered as that.
    """
    return isinstance(error, SequenceMismatch) and error.last_sequence > error.expected


class Sent:
    """What SENT says of a batch."""

    __slots__ = ("_places", "_sequences", "confirm", "duplicate", "first", "time_unix_ns")

    def __init__(self, first: int, time_unix_ns: int, duplicate: bool, confirm: str, duplicates: list[list[int]]) -> None:
        self.first, self.time_unix_ns, self.duplicate, self.confirm = first, time_unix_ns, duplicate, confirm
        self._places, self._sequences = [place for place, _ in duplicates], [sequence for _, sequence in duplicates]

    def duplicates(self, place: int, count: int) -> Mapping[int, int]:
        """Of `count` messages from `place` on those that were not stored, by their place among them: the sequences."""
        if not self._places:  # as a rule
            return NO_DUPLICATES
        low, high = bisect_left(self._places, place), bisect_left(self._places, place + count)
        return {self._places[at] - place: self._sequences[at] for at in range(low, high)}


def read_sent(fields: dict[str, Any], count: int) -> Sent:
    """The answer to a batch of `count` messages. Raises RemoteProtocolError."""
    first, time_unix_ns, duplicates = fields.get("sequence"), fields.get("time_unix_ns"), fields.get("duplicates", [])
    if (
        not isinstance(first, int)
        or not isinstance(time_unix_ns, int)
        or fields.get("count") != count
        or not _are_duplicates(duplicates, count)
    ):
        raise RemoteProtocolError(f"SENT for {count} messages says {fields!r}")
    return Sent(first, time_unix_ns, bool(fields.get("duplicate")), str(fields.get("confirm", "")), duplicates)


def _are_duplicates(value: object, count: int) -> bool:
    """Whether these are pairs of a place and a sequence, in ascending order of places."""
    if not isinstance(value, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(type(number) is int for number in pair) for pair in value
    ):
        return False
    places = [-1, *(place for place, _ in value), count]
    return all(low < high for low, high in pairwise(places))
