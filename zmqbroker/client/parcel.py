"""Messages that were appended together, and how they ended: one object where there would be thousands.

    open ──▶ sealed ──▶ done

While a parcel is open, appending to it is all that a send costs; it is open for one pass of the event loop at most, so that its
messages may share one deadline. Afterwards it is never divided: its messages go into the same batch, and have the same end.
What a single message needs of that, its `SendResult` or an error of its own, is made when somebody asks for it.

It belongs to whoever appends until it is sealed, then to the pipeline. It reads no clock and knows no event loop. Bounds are
the caller's: `size_max` and `count_max` are what may be put into it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from zmqbroker.client.exchange import with_outcome
from zmqbroker.client.message import SendResult
from zmqbroker.errors import BrokerError, LocalProtocolError, MessageTooLarge, RequestError
from zmqbroker.wire.columns import NO_TREATMENT, Treatment

__all__ = ["NO_DUPLICATES", "OVERHEAD_BYTES", "Parcel", "split_bodies"]

Value = TypeVar("Value")

#: Bytes that a message may take in a batch beside body, id, headers and group: four sizes of u32, two times u64 and a priority
#: of u8. The columns are there for all messages of a batch when one of them needs them.
OVERHEAD_BYTES = 33

#: Of a parcel whose messages are all stored.
NO_DUPLICATES: Mapping[int, int] = {}


class Parcel:
    """Some messages of one producer."""

    __slots__ = (
        "appended_ns",
        "bodies",
        "body_size_max",
        "confirm",
        "count",
        "count_max",
        "deadline_ns",
        "done",
        "duplicate",
        "duplicates",
        "error",
        "expected_sequence",
        "first",
        "headers",
        "ids",
        "size",
        "size_max",
        "time_unix_ns",
        "treatments",
        "watchers",
    )

    def __init__(self, bodies: list[bytes], size: int, now_ns: int, deadline_ns: int) -> None:
        self.bodies = bodies  # none any more when it has ended
        self.count = len(bodies)  # messages; right when it is sealed
        self.size = size  # of all messages, each with its overhead
        self.size_max = self.count_max = self.body_size_max = 0  # what an open parcel may grow to
        self.ids: list[bytes] | None = None  # shorter than `bodies` when the last messages have none
        self.headers: list[bytes] | None = None  # values of the headers column, as short
        self.treatments: list[Treatment] | None = None  # as short
        self.expected_sequence: int | None = None  # what the channel's last one must be; then it travels alone
        self.appended_ns = now_ns
        self.deadline_ns = deadline_ns
        self.done = False  # whether it has ended: then `error` is set, or the fields of the confirm are
        self.error: BrokerError | None = None
        self.first = 0  # sequence of the first message in the channel
        self.time_unix_ns = 0
        self.duplicate = False
        self.duplicates = NO_DUPLICATES  # places of messages that are not stored, with the sequences of those that are
        self.confirm = ""
        self.watchers: list[Callable[[], object]] = []  # to be called when it has ended

    def takes(self, body_size: int, size: int) -> bool:
        """Whether it is open for one more message that counts `size` bytes."""
        return len(self.bodies) < self.count_max and self.size + size <= self.size_max and body_size <= self.body_size_max

    def append(self, body: bytes, id: bytes, headers: bytes, treatment: Treatment = NO_TREATMENT) -> int:
        """Put a message in; its place."""
        place = len(self.bodies)
        self.bodies.append(body)
        if id:
            self.ids = _put(self.ids, place, id, b"")
        if headers:
            self.headers = _put(self.headers, place, headers, b"")
        if treatment != NO_TREATMENT:
            self.treatments = _put(self.treatments, place, treatment, NO_TREATMENT)
            self.size += len(treatment.group.encode())
        self.size += len(body) + len(id) + len(headers) + OVERHEAD_BYTES
        return place

    def seal(self) -> None:
        """It takes no more."""
        self.count, self.count_max = len(self.bodies), 0

    def stored(
        self, first: int, time_unix_ns: int, duplicate: bool, confirm: str, duplicates: Mapping[int, int] = NO_DUPLICATES
    ) -> None:
        """All have their sequences, the first one that; those in `duplicates` are not stored."""
        self.first, self.time_unix_ns, self.duplicate, self.confirm = first, time_unix_ns, duplicate, confirm
        self.duplicates = duplicates
        self._end()

    def failed(self, error: BrokerError) -> None:
        """None of them will be confirmed."""
        self.error = error
        self._end()

    def _end(self) -> None:
        self.done = True
        self.bodies, self.ids, self.headers, self.treatments = [], None, None, None  # who keeps a confirm does not keep them

    def tell(self) -> None:
        """Call those who wait for the end."""
        watchers, self.watchers = self.watchers, []
        for watcher in watchers:
            watcher()

    def result(self, place: int) -> SendResult:
        """The result of the message at `place`. Raises its error."""
        error = self.exception()
        if error is not None:
            raise error
        duplicate_of = self.duplicates.get(place, 0)
        return SendResult(self.first + place, self.time_unix_ns, self.duplicate, self.confirm, duplicate_of)

    def exception(self) -> BrokerError | None:
        """A new object for each that asks, since raising one adds to its traceback; None when they are stored."""
        assert self.done
        if isinstance(self.error, RequestError):
            return with_outcome(self.error, self.error.outcome_unknown)
        return self.error


def _put(column: list[Value] | None, place: int, value: Value, nothing: Value) -> list[Value]:
    """The column with `value` at `place`, which is behind all that it has; in between there is nothing."""
    column = [] if column is None else column
    column += [nothing] * (place - len(column))
    column.append(value)
    return column


def split_bodies(
    bodies: Sequence[bytes], headers: bytes, size_max: int, count_max: int, body_size_max: int, now_ns: int, deadline_ns: int
) -> list[Parcel]:
    """Parcels with all these bodies in order, each as large as a batch may be; a body that is larger travels alone.

    `headers` are those of each one. Raises LocalProtocolError or MessageTooLarge.
    """
    bodies = list(bodies)  # what was looked at is what is sent
    if not set(map(type, bodies)) <= {bytes}:
        kind = next(type(body) for body in bodies if type(body) is not bytes)
        raise LocalProtocolError(f"bodies that are sent together must be bytes, not {kind.__name__}")
    sizes = list(map(len, bodies))
    largest = max(sizes, default=0)
    if largest > body_size_max:
        raise MessageTooLarge(f"a message has {largest} bytes, the limit is {body_size_max}", size=largest, limit=body_size_max)
    return list(_split(bodies, sizes, headers, size_max, count_max, largest, now_ns, deadline_ns))


def _split(
    bodies: list[bytes],
    sizes: list[int],
    headers: bytes,
    size_max: int,
    count_max: int,
    largest: int,
    now_ns: int,
    deadline_ns: int,
) -> Iterator[Parcel]:
    # As many as fit whatever their sizes are, found without looking at each; then one by one as long as there is room.
    more = len(headers) + OVERHEAD_BYTES
    step = min(count_max, max(1, size_max // (largest + more)))
    low = 0
    while low < len(bodies):
        high = min(low + step, len(bodies))
        size = sum(sizes[low:high]) + more * (high - low)
        end = min(low + count_max, len(bodies))
        while high < end and size + sizes[high] + more <= size_max:
            size += sizes[high] + more
            high += 1
        parcel = Parcel(bodies[low:high], size, now_ns, deadline_ns)
        parcel.headers = [headers] * parcel.count if headers else None
        yield parcel
        low = high
