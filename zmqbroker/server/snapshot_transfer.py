"""A snapshot on its way from one node to another: chunks with checksums, a small window, and the way back to where it was cut.

Sans-IO: who calls gives bytes and time in and sends what comes out. The receiver says after every chunk which offset it wants
next; the sender goes on from there, and again after a silence, so that whatever is lost on the way costs only its own repeat.
When every byte is there the receiver looks at the whole, which takes its time: the sender repeats the last chunk now and then
and ends when it hears what came of it. Source: docs/PROTOCOL.md §8, SNAPSHOT and SNAPSHOT_ACK.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from zmqbroker.checksum import crc32c
from zmqbroker.errors import MalformedFrame
from zmqbroker.raft.messages import Message

__all__ = ["CHUNK_BYTES", "Chunk", "Incoming", "Outgoing", "read_chunk"]

#: Large enough that a chunk's cost vanishes, small enough that heartbeats on the same connection's node stay punctual.
CHUNK_BYTES = 256 << 10
#: Chunks on their way at a time: about what a local network and a disk hold in a millisecond or two.
WINDOW = 4
#: Nanoseconds of silence after which the sender repeats from the last offset that was asked for, and after which it gives up;
#: a receiver that answers and yet wants nothing more is given up after STUCK_NS.
REPEAT_NS, GIVE_UP_NS, STUCK_NS = 500_000_000, 10_000_000_000, 600_000_000_000
_ID_SIZE = 16


@dataclass(slots=True, frozen=True)
class Chunk:
    """A piece of a snapshot, with what the whole stands for."""

    id: bytes  # of the transfer's file, 16 bytes
    group: int
    term: int  # the sender's, as a leader
    size: int  # bytes of the whole
    offset: int
    data: bytes

    def fields(self) -> dict[str, Any]:
        """The fields of the SNAPSHOT frame; `data` follows as a frame of its own."""
        return {
            "id": self.id,
            "group": self.group,
            "term": self.term,
            "size": self.size,
            "offset": self.offset,
            "crc32c": crc32c(self.data),
        }


def read_chunk(fields: dict[str, Any], frames: list[bytes]) -> Chunk:
    """The chunk in a SNAPSHOT frame. Raises MalformedFrame for what cannot be one, or is damaged."""
    id, checksum = fields.get("id"), fields.get("crc32c")
    numbers: list[Any] = [fields.get(name) for name in ("group", "term", "size", "offset")]
    if not (isinstance(id, bytes) and len(id) == _ID_SIZE and len(frames) == 1):
        raise MalformedFrame(f"a snapshot's chunk has id {id!r} and {len(frames)} frames")
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise MalformedFrame(f"a snapshot's chunk has group, term, size and offset {numbers}")
    group, term, size, offset = numbers
    data = bytes(frames[0])
    if not 0 < len(data) <= CHUNK_BYTES or offset + len(data) > size or crc32c(data) != checksum:
        raise MalformedFrame(f"a snapshot's chunk of {len(data)} bytes at {offset} of {size} is damaged")
    return Chunk(id, group, term, size, offset, data)


class Outgoing:
    """One transfer, at the leader. `message` is the INSTALL_SNAPSHOT that the core wanted sent."""

    def __init__(self, message: Message, id: bytes, file: BinaryIO, size: int, now_ns: int) -> None:
        self.message = message
        self.id, self.size = id, size
        self.outcome: bool | None = None  # what the receiver made of the whole: it is right, or not; None while unknown
        self._file = file
        self._wanted = 0  # the receiver has everything below
        self._sent = 0  # everything below was sent at least once since the last repeat
        self._heard_ns = now_ns  # when the receiver last said anything
        self._moved_ns = now_ns  # when it last wanted something else
        self._repeated_ns = now_ns

    def failed(self, now_ns: int) -> bool:
        """True when the receiver has been silent for too long, or has wanted nothing more for very long."""
        return now_ns - self._heard_ns > GIVE_UP_NS or now_ns - self._moved_ns > STUCK_NS

    def heard(self, fields: dict[str, Any], now_ns: int) -> None:
        """A SNAPSHOT_ACK has come; nonsense, and what is of another transfer, is ignored."""
        offset, done = fields.get("offset"), fields.get("done")
        if fields.get("id") != self.id or type(offset) is not int or not 0 <= offset <= self.size:
            return
        self._heard_ns = now_ns
        if isinstance(done, bool):
            self.outcome = done
        if offset != self._wanted:
            self._wanted = offset
            self._sent = max(self._sent, offset) if offset else 0  # 0: it began anew
            self._moved_ns = self._repeated_ns = now_ns

    def unsent(self, chunk: Chunk) -> None:
        """The link did not take a chunk: it is the next one again."""
        self._sent = min(self._sent, chunk.offset)

    def chunks(self, now_ns: int) -> Iterator[Chunk]:
        """What is to be sent now. Raises OSError."""
        if now_ns - self._repeated_ns > REPEAT_NS:
            # With nothing wanted the last chunk asks what came of the whole.
            self._sent = min(self._wanted, (self.size - 1) // CHUNK_BYTES * CHUNK_BYTES)
            self._repeated_ns = now_ns
        while self._sent < self.size and self._sent < self._wanted + WINDOW * CHUNK_BYTES:
            self._file.seek(self._sent)
            data = self._file.read(CHUNK_BYTES)
            if len(data) != min(CHUNK_BYTES, self.size - self._sent):
                raise OSError(f"a snapshot's file of {self.size} bytes ends after {self._sent + len(data)}")
            chunk = Chunk(self.id, self.message.group, self.message.term, self.size, self._sent, data)
            self._sent += len(data)
            yield chunk


class Incoming:
    """One transfer, at the receiver. Bytes go into `file` in order; nothing is kept that came too early."""

    def __init__(self, chunk: Chunk, sender: int, file: BinaryIO, now_ns: int) -> None:
        self.id, self.group, self.term, self.size = chunk.id, chunk.group, chunk.term, chunk.size
        self.sender = sender
        self.heard_ns = now_ns
        self.offset = 0  # what is wanted next
        self._file = file

    @property
    def complete(self) -> bool:
        """True when every byte is there."""
        return self.offset == self.size

    def take(self, chunk: Chunk, now_ns: int) -> None:
        """Write a chunk if it is the next one. Raises OSError."""
        self.heard_ns, self.term = now_ns, max(self.term, chunk.term)
        if chunk.offset == self.offset and chunk.size == self.size:
            self._file.write(chunk.data)
            self.offset += len(chunk.data)

    def ack(self) -> dict[str, Any]:
        """The fields of the SNAPSHOT_ACK."""
        return {"id": self.id, "group": self.group, "offset": self.offset}

    def verdict(self, *, done: bool) -> dict[str, Any]:
        """The same when it is known whether the whole is right."""
        return {**self.ack(), "done": done}
