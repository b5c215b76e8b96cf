"""What a user sends and gets, as values: results, received messages, and both from and to the bytes on the wire.

Nothing here holds a connection; `Message` of held.py and `SyncMessage` of sync_queue.py add `ack()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, count, repeat
from typing import Any, NamedTuple, TypeVar, overload

from zmqbroker.commands import Receipt
from zmqbroker.errors import (
    InvalidChannel,
    LocalProtocolError,
    MalformedFrame,
    MessageTooLarge,
    RemoteProtocolError,
    RequestError,
    UnreadableBody,
)
from zmqbroker.wire.batch import BODY_SIZE_MAX, ID_SIZE_MAX, SEQUENCE_MAX, BatchContents, Buffer
from zmqbroker.wire.codec import decode_batch
from zmqbroker.wire.columns import GROUP_SIZE_MAX, NO_TREATMENT, PRIORITY_MAX, Treatment, read_groups
from zmqbroker.wire.compression import COMPRESSED, decompress_body
from zmqbroker.wire.frames import channel_fault
from zmqbroker.wire.headers import NO_HEADERS, MessageHeaders, decode_message_headers, encode_message_headers
from zmqbroker.wire.queue_requests import DELAY_MS_MAX
from zmqbroker.wire.send_requests import CONFIRMS

__all__ = [
    "Content",
    "Encoded",
    "Explained",
    "Messages",
    "Origin",
    "Piece",
    "Received",
    "SendResult",
    "check_channel",
    "check_send",
    "encode_message",
    "read_messages",
    "receipts_of",
]

Received = TypeVar("Received", bound="Content")

#: The state of messages that came without one.
_RECEIVED: Mapping[str, Any] = {"state": "in_flight"}


class SendResult(NamedTuple):
    """A message is stored."""

    sequence: int  # its number in the channel, from 1
    time_unix_ns: int  # when it was stored
    duplicate: bool  # True: an earlier attempt of the same send had stored it
    confirm: str  # "quorum", or "quorum+fsync" when a majority has it on disk
    duplicate_of: int = 0  # sequence of the message with the same id that is stored in its place; 0: it is stored itself


class Explained(NamedTuple):
    """A message is stored, and this is where the time went."""

    result: SendResult
    steps_us: Mapping[str, int]  # microseconds from its arrival at the leader to each step, as PROTOCOL §3 names them
    total_us: int  # from the call to its confirm, here


class Encoded(NamedTuple):
    """A message as batch columns hold it."""

    body: bytes
    id: bytes
    headers: bytes
    treatment: Treatment = NO_TREATMENT


class Origin(NamedTuple):
    """Where a message was before it was moved to its channel, and why it is here."""

    channel: str
    sequence: int  # there
    delivery_count: int  # there
    reason: str  # delivery_limit, overflow, requeued, redriven, or what the consumer said that rejected it


class Piece:
    """What messages that came in one batch have in common."""

    __slots__ = (
        *("assigning", "body_size_max", "channel", "compressed", "delivery_count", "due_unix_ns", "first"),
        *("groups", "headers", "ids", "origin", "owner", "state", "time_unix_ns"),
    )

    def __init__(
        self,
        owner: Any,
        channel: str,
        row: Sequence[Any],
        batch: BatchContents,
        groups: list[str] | None = None,
        body_size_max: int = BODY_SIZE_MAX,
    ) -> None:
        self.owner = owner  # what acks its messages
        self.channel = channel
        numbers: list[int] = list(row[:5])
        self.assigning, self.first, _, self.delivery_count, self.time_unix_ns = numbers
        origin = row[5] if len(row) > 5 else None
        self.origin = Origin(*(origin[name] for name in Origin._fields)) if origin is not None else None  # of the first message
        seen: Mapping[str, Any] = row[6] if len(row) > 6 else _RECEIVED
        self.state: str = seen["state"]
        self.due_unix_ns: int = seen.get("due_unix_ns", 0)
        self.ids = batch.ids
        self.groups = groups
        self.headers = batch.headers
        self.compressed = bool(batch.header.flags & COMPRESSED)
        self.body_size_max = body_size_max  # a body that is larger decompressed is not to be had


class Content:
    """A received message, without the way to ack it: a body, and the rest as it is asked for."""

    __slots__ = ("_unpacked", "piece", "place", "raw_body")

    def __init__(self, piece: Piece, place: int, body: bytes) -> None:
        self.piece = piece
        self.place = place  # in the piece, from 0
        self.raw_body = body  # as it was stored: compressed or not

    @property
    def body(self) -> bytes:
        """What was sent. Raises UnreadableBody when it was sent compressed and cannot be decompressed."""
        return self._decompressed() if self.piece.compressed else self.raw_body

    def _decompressed(self) -> bytes:
        """The body, decompressed when it is first asked for: what is only passed on never is."""
        try:
            return self._unpacked
        except AttributeError:
            pass
        try:
            self._unpacked: bytes = decompress_body(self.raw_body, self.piece.body_size_max)
        except UnreadableBody as error:
            raise UnreadableBody(f"the body of message {self.sequence} of {self.channel!r} cannot be read: {error}") from error
        return self._unpacked

    @property
    def channel(self) -> str:
        """The name of its channel."""
        return self.piece.channel

    @property
    def sequence(self) -> int:
        """Its number in the channel, from 1."""
        return self.piece.first + self.place

    @property
    def assigning(self) -> int:
        """With the sequence, what an ack names."""
        return self.piece.assigning

    @property
    def delivery_count(self) -> int:
        """1 for the first delivery."""
        return self.piece.delivery_count

    @property
    def time_unix_ns(self) -> int:
        """When it was stored."""
        return self.piece.time_unix_ns

    @property
    def origin(self) -> Origin | None:
        """Where it was before, and why it is here; None when it was sent to this channel."""
        origin = self.piece.origin
        return origin._replace(sequence=origin.sequence + self.place) if origin is not None else None

    @property
    def state(self) -> str:
        """Of a message that was peeked at: `ready`, `delayed` or `in_flight`; one that was received is in flight."""
        return self.piece.state

    @property
    def due_unix_ns(self) -> int:
        """Of a delayed message that was peeked at: when it will be ready; 0 otherwise."""
        return self.piece.due_unix_ns

    @property
    def compressed(self) -> bool:
        """Whether it was sent compressed."""
        return self.piece.compressed

    @property
    def id(self) -> str:
        """The sender's, empty for none."""
        ids = self.piece.ids
        return ids[self.place].decode() if ids is not None else ""

    @property
    def group(self) -> str:
        """The sender's: of its messages one at a time is received. Empty for none."""
        groups = self.piece.groups
        return groups[self.place] if groups is not None else ""

    key = group  # what it is called where the message is an event

    @property
    def metadata(self) -> str | None:
        """The sender's, None for none."""
        return self._headers().metadata

    @property
    def tags(self) -> Mapping[str, str]:
        """The sender's."""
        return self._headers().tags or {}

    @property
    def client_id(self) -> str:
        """What its sender calls itself, empty for nothing."""
        return self._headers().client_id or ""

    @property
    def trace(self) -> str:
        """The sender's context of a distributed trace, empty for none."""
        return self._headers().trace or ""

    def _headers(self) -> MessageHeaders:
        """Headers of a sender that the broker never looked at: what cannot be read counts as none."""
        headers = self.piece.headers
        if headers is None:
            return NO_HEADERS
        try:
            return decode_message_headers(headers[self.place])
        except MalformedFrame:
            return NO_HEADERS

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.sequence} of {self.channel!r}: {len(self.raw_body)} bytes>"


class Messages(Sequence[Received]):
    """Received messages in order. Each is made when it is looked at: thousands that only wait are no work for anyone."""

    __slots__ = ("_count", "_make", "_parts")

    def __init__(self, parts: Sequence[tuple[Piece, list[bytes]]], make: type[Received]) -> None:
        self._parts = parts  # pieces, each with the bodies of all its messages
        self._make = make
        self._count = sum(len(bodies) for _, bodies in parts)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Received]:
        return chain.from_iterable(map(self._make, repeat(piece), count(), bodies) for piece, bodies in self._parts)

    @overload
    def __getitem__(self, at: int) -> Received: ...
    @overload
    def __getitem__(self, at: slice) -> list[Received]: ...
    def __getitem__(self, at: int | slice) -> Received | list[Received]:
        """A message, made anew; of a slice, a list."""
        if isinstance(at, slice):
            return list(self)[at]
        place = at + self._count if at < 0 else at
        if not 0 <= place < self._count:
            raise IndexError(f"message {at} of {self._count}")
        number = 0
        while place >= len(self._parts[number][1]):
            place -= len(self._parts[number][1])
            number += 1
        piece, bodies = self._parts[number]
        return self._make(piece, place, bodies[place])

    @property
    def receipts(self) -> list[Receipt]:
        """One for each piece."""
        return [Receipt(piece.assigning, piece.first, piece.first + len(bodies) - 1) for piece, bodies in self._parts]


def check_channel(name: str) -> None:
    """Raises InvalidChannel when `name` cannot name a channel."""
    fault = channel_fault(name)
    if fault is not None:
        raise InvalidChannel(fault)


def encode_message(
    body: Buffer, id: str | None, headers: MessageHeaders, body_size_max: int, treatment: Treatment = NO_TREATMENT
) -> Encoded:
    """A message as batch columns hold it. Raises LocalProtocolError or MessageTooLarge."""
    if not isinstance(body, bytes | bytearray | memoryview):
        raise LocalProtocolError(f"a body must be bytes, not {type(body).__name__}")
    data = bytes(body)
    if len(data) > body_size_max:
        raise MessageTooLarge(
            f"a message has {len(data)} bytes, the limit is {body_size_max}", size=len(data), limit=body_size_max
        )
    encoded_id = (id or "").encode()
    if len(encoded_id) > ID_SIZE_MAX:
        raise LocalProtocolError(f"a message id has {len(encoded_id)} bytes, the limit is {ID_SIZE_MAX}")
    if treatment != NO_TREATMENT:
        _check_treatment(treatment)
    return Encoded(data, encoded_id, encode_message_headers(headers) if headers != NO_HEADERS else b"", treatment)


def _check_treatment(treatment: Treatment) -> None:
    *numbers, group = treatment
    for name, value, high in zip(Treatment._fields, numbers, (DELAY_MS_MAX, DELAY_MS_MAX, PRIORITY_MAX), strict=False):
        if type(value) is not int or not 0 <= value <= high:
            raise LocalProtocolError(f"{name} is {value!r}, allowed is 0 to {high}")
    if type(group) is not str:
        raise LocalProtocolError(f"group must be text, not {type(group).__name__}")
    try:
        size = len(group.encode())
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"group {group!r} cannot be encoded as UTF-8") from error
    if size > GROUP_SIZE_MAX:
        raise LocalProtocolError(f"a group has {size} bytes, the limit is {GROUP_SIZE_MAX}")


def check_send(expected_sequence: int | None, confirm: str) -> None:
    """Raises LocalProtocolError when a send cannot be asked for so."""
    if expected_sequence is not None and not (type(expected_sequence) is int and 0 <= expected_sequence <= SEQUENCE_MAX):
        raise LocalProtocolError(f"expected_sequence is {expected_sequence!r}, allowed is 0 to {SEQUENCE_MAX}")
    if confirm not in CONFIRMS:
        raise LocalProtocolError(f"confirm is {confirm!r}, allowed is {' or '.join(CONFIRMS)}")


def read_messages(
    owner: Any,
    channel: str,
    fields: Mapping[str, Any],
    bodies: Sequence[Buffer],
    make: type[Received],
    body_size_max: int = BODY_SIZE_MAX,
) -> Messages[Received]:
    """The messages of a MESSAGES reply, in order; `owner` acks them. No body has more bytes than that decompressed.

    Raises RemoteProtocolError when it is not such a reply.
    """
    pieces = fields.get("pieces", [])
    if not isinstance(pieces, list) or len(pieces) != len(bodies):
        raise RemoteProtocolError(f"MESSAGES has {len(bodies)} body frames for pieces {pieces!r}")
    parts = []
    for row, frame in zip(pieces, bodies, strict=True):
        batch = _read_piece(row, frame)
        parts.append((Piece(owner, channel, row, batch, read_groups(frame, batch.header), body_size_max), batch.bodies))
    return Messages(parts, make)


def _read_piece(row: object, frame: Buffer) -> BatchContents:
    if not isinstance(row, list) or len(row) < 5 or not all(type(number) is int for number in row[:5]):
        raise RemoteProtocolError(f"MESSAGES has a piece that is not five numbers: {row!r}")
    if len(row) > 5 and not _is_origin(row[5]) and (len(row) == 6 or row[5] is not None):
        raise RemoteProtocolError(f"MESSAGES has a piece of an origin that is none: {row!r}")
    if len(row) > 6 and not _is_state(row[6]):
        raise RemoteProtocolError(f"MESSAGES has a piece in a state that is none: {row!r}")
    first, last = row[1:3]
    try:
        batch = decode_batch(frame)
    except RequestError as error:  # malformed, or damaged on its way
        raise RemoteProtocolError(f"MESSAGES has a body frame that is not a batch: {error}") from error
    if last - first + 1 != len(batch.bodies):
        raise RemoteProtocolError(f"MESSAGES has {len(batch.bodies)} messages for {first} to {last}")
    return batch


def _is_origin(value: object) -> bool:
    """Whether a piece's sixth element tells an origin; a later version may tell more."""
    return isinstance(value, dict) and [type(value.get(name)) for name in Origin._fields] == [str, int, int, str]


def _is_state(value: object) -> bool:
    """Whether a piece's seventh element tells a state; a later version may know others, and tell more."""
    return isinstance(value, dict) and type(value.get("state")) is str and type(value.get("due_unix_ns", 0)) is int


def receipts_of(messages: Iterable[Content]) -> list[Receipt]:
    """Receipts for all messages: one for each run of neighbours."""
    if isinstance(messages, Messages):
        return messages.receipts
    receipts: list[Receipt] = []
    piece, first, last = None, 0, -1
    for message in messages:
        if message.piece is piece and message.place == last + 1:
            last += 1
            continue
        if piece is not None:
            receipts.append(Receipt(piece.assigning, piece.first + first, piece.first + last))
        piece, first = message.piece, message.place
        last = first
    if piece is not None:
        receipts.append(Receipt(piece.assigning, piece.first + first, piece.first + last))
    return receipts
