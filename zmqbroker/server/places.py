"""Where in an events store a READ begins, and whether it still can."""

from __future__ import annotations

from zmqbroker.broker.opening import start_of
from zmqbroker.broker.store import EventsStore
from zmqbroker.errors import InvalidRequest, PositionGone
from zmqbroker.wire.store_requests import ReadRequest

__all__ = ["begin", "check_kept"]


def begin(store: EventsStore | None, request: ReadRequest, now_unix_ns: int) -> int:
    """The sequence of the first event that is wanted, whether it is there or not; `store` is None before it has had one.

    Raises InvalidRequest when it is asked for by key and no index of keys is kept.
    """
    if request.start == "sequence":
        return request.value
    if store is None:
        return 1
    if not request.key:
        place = start_of(store, request.start, request.value, now_unix_ns)
        assert isinstance(place, int), place  # only a sequence can be refused
        return place
    if not store.settings.keep_latest:
        text = f"field key is {request.key!r}, and {store.name!r} has no index of keys: its setting keep_latest is false"
        raise InvalidRequest(text)
    return store.newest_of_key(request.key) or store.next_sequence


def check_kept(store: EventsStore, sequence: int) -> None:
    """Raises PositionGone when retention has taken the event of a sequence, and not only a newer one of its key its place."""
    first = store.first_sequence
    if sequence < first and not store.settings.keep_latest:
        text = f"event {sequence} of {store.name!r} is no longer kept, the first one that is has the sequence {first}"
        raise PositionGone(text, first=first)
