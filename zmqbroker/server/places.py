"""Where in an events store a READ begins, and whether it still can."""

from __future__ import annotations

from zmqbroker.broker.queue import Queue
from zmqbroker.broker.reading import event_since, first_event, last_event
from zmqbroker.errors import PositionGone
from zmqbroker.wire.store_requests import ReadRequest

__all__ = ["begin", "check_kept"]


def begin(queue: Queue | None, request: ReadRequest, now_unix_ns: int) -> int:
    """The sequence of the first event that is wanted, whether it is there or not; None: the store has had no event yet.

    Raises PositionGone for a sequence that retention has taken.
    """
    match request.start:
        case "sequence":
            if queue is not None:
                check_kept(queue, request.value)
            return request.value
        case _ if queue is None:
            return 1
        case "first":
            return first_event(queue)
        case "last":
            return last_event(queue)
        case "time":
            return event_since(queue, request.value)
        case "time_delta_ms":
            return event_since(queue, max(now_unix_ns - request.value * 1_000_000, 0))
        case _:
            return queue.next_sequence


def check_kept(queue: Queue, sequence: int) -> None:
    """Raises PositionGone when retention has taken the events from a sequence on."""
    first = first_event(queue)
    if sequence < first:
        text = f"event {sequence} of {queue.name!r} is no longer kept, the first one that is has the sequence {first}"
        raise PositionGone(text, first=first)
