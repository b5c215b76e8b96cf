"""PUBLISHes of single events on their way into batches: neighbours under one name become one batch.

A client that knows no batches, or has nothing to put into one, pays for its own encoding only: what a node does for each batch,
and each subscriber's node and socket after it, is done once for all that came in a pass. What is not so simple (a confirm, a
large frame, anything wrong) is left to `events`, which knows all rules and names every fault.
"""

from __future__ import annotations

from collections.abc import Sequence

from zmqbroker.commands import BatchHeader
from zmqbroker.errors import RequestError
from zmqbroker.server.admission import check_events
from zmqbroker.wire import codec
from zmqbroker.wire.batch import COUNT_MAX, BatchContents
from zmqbroker.wire.compression import COMPRESSED, mark_compressed
from zmqbroker.wire.frames import MAGIC, PROTOCOL_VERSION, Request

__all__ = ["EventRun", "gather"]

_START = MAGIC + bytes((PROTOCOL_VERSION, Request.PUBLISH))
#: A header frame without fields, so without a confirm.
_HEADER_SIZE = 12
#: A frame from this size on is a batch already; to take it apart and copy it costs more than it spares.
_SMALL_SIZE_MAX = 16 << 10
#: Bytes of frames that become one: below every node's limit for a batch.
_RUN_BYTES_MAX = 512 << 10


class EventRun:
    """Frames of one name, alike in flags, that become one."""

    __slots__ = ("_bodies", "_flags", "_frames", "_headers", "_ids", "_name", "_room")

    def __init__(self, header: BatchHeader) -> None:
        self._name, self._flags = header.channel, header.flags
        self._frames: list[bytes] = []
        self._room = _RUN_BYTES_MAX  # bytes
        self._bodies: list[bytes] = []
        self._ids: list[bytes] | None = None  # shorter than the bodies when the last ones have none
        self._headers: list[bytes] | None = None

    def takes(self, header: BatchHeader, frame: bytes) -> bool:
        """Whether one more may be put in."""
        fits = len(frame) <= self._room and len(self._bodies) + header.count <= COUNT_MAX
        return fits and header.flags == self._flags

    def add(self, contents: BatchContents, frame: bytes) -> None:
        """Put one in."""
        self._frames.append(frame)
        self._room -= len(frame)
        self._ids = _extended(self._ids, len(self._bodies), contents.ids)
        self._headers = _extended(self._headers, len(self._bodies), contents.headers)
        self._bodies += contents.bodies

    def joined(self) -> bytes:
        """One frame with all that was put in; of one the very frame."""
        if len(self._frames) == 1:
            return self._frames[0]
        count = len(self._bodies)
        ids, headers = (None if column is None else _padded(column, count) for column in (self._ids, self._headers))
        frame = codec.encode_batch(self._name.encode(), self._bodies, 0, 0, ids, headers)
        return mark_compressed(frame) if self._flags & COMPRESSED else frame


def _extended(column: list[bytes] | None, count: int, values: list[bytes] | None) -> list[bytes] | None:
    """A column with the values of one more frame behind those of `count` messages."""
    if values is None:
        return column
    column = _padded([] if column is None else column, count)
    column += values
    return column


def _padded(column: list[bytes], count: int) -> list[bytes]:
    """A column with a value, empty or not, for each message."""
    column += [b""] * (count - len(column))
    return column


def gather(messages: Sequence[list[bytes]], start: int, body_size_max: int) -> tuple[int, list[EventRun], set[bytes]]:
    """Simple PUBLISHes from messages[start] on, [routing id, frames …] each, and where the first message is that is none.

    With them come the routing ids of their clients.
    """
    runs: list[EventRun] = []
    open_runs: dict[str, EventRun] = {}
    clients: set[bytes] = set()
    for position in range(start, len(messages)):
        frames = messages[position]
        if len(frames) != 3 or frames[1][:4] != _START or len(frames[1]) != _HEADER_SIZE or len(frames[2]) >= _SMALL_SIZE_MAX:
            return position, runs, clients
        try:
            contents = codec.decode_batch(frames[2])
            check_events(contents.header)
        except RequestError:
            return position, runs, clients
        header = contents.header
        if header.body_size_max > body_size_max:
            return position, runs, clients
        run = open_runs.get(header.channel)
        if run is None or not run.takes(header, frames[2]):
            run = open_runs[header.channel] = EventRun(header)
            runs.append(run)
        run.add(contents, frames[2])
        clients.add(frames[0])
    return len(messages), runs, clients
