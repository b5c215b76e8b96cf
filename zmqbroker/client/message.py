"""What a user sends and gets, as values: results, received messages, and both from and to the bytes on the wire.

Nothing here holds a connection; `Message` of queue.py and `SyncMessage` of sync.py add `ack()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from zmqbroker.errors import (
    InvalidChannel,
    LocalProtocolError,
    MalformedFrame,
    MessageTooLarge,
    RemoteProtocolError,
    RequestError,
)
from zmqbroker.wire.batch import ID_SIZE_MAX, Buffer
from zmqbroker.wire.codec import decode_batch
from zmqbroker.wire.frames import channel_fault
from zmqbroker.wire.headers import NO_HEADERS, MessageHeaders, decode_message_headers, encode_message_headers

__all__ = ["Content", "Received", "SendResult", "check_channel", "encode_message", "read_messages"]

Received = TypeVar("Received", bound="Content")


class SendResult(NamedTuple):
    """A message is stored."""

    sequence: int  # its number in the channel, from 1
    time_unix_ns: int  # when it was stored
    duplicate: bool  # True: an earlier attempt of the same send had stored it
    confirm: str  # "quorum", or "quorum+fsync" when a majority has it on disk


class Content:
    """A received message, without the way to ack it."""

    __slots__ = ("assigning", "body", "channel", "delivery_count", "id", "metadata", "sequence", "tags", "time_unix_ns")

    def __init__(
        self,
        channel: str,
        body: bytes,
        sequence: int,
        assigning: int,
        delivery_count: int,
        time_unix_ns: int,
        id: str,
        headers: MessageHeaders,
    ) -> None:
        self.channel = channel
        self.body = body
        self.sequence = sequence  # its number in the channel, from 1
        self.assigning = assigning  # with the sequence, what an ack names
        self.delivery_count = delivery_count  # 1 for the first delivery
        self.time_unix_ns = time_unix_ns  # when it was stored
        self.id = id  # the sender's, empty for none
        self.metadata = headers.metadata
        self.tags: Mapping[str, str] = headers.tags or {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.sequence} of {self.channel!r}: {len(self.body)} bytes>"


def check_channel(name: str) -> None:
    """Raises InvalidChannel when `name` cannot name a channel."""
    fault = channel_fault(name)
    if fault is not None:
        raise InvalidChannel(fault)


def encode_message(
    body: Buffer, id: str | None, metadata: str | None, tags: Mapping[str, str] | None, body_size_max: int
) -> tuple[bytes, bytes, bytes]:
    """Body, id and headers as batch columns hold them. Raises LocalProtocolError or MessageTooLarge."""
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
    if metadata is None and not tags:
        return data, encoded_id, b""
    return data, encoded_id, encode_message_headers(MessageHeaders(metadata, tags))


def read_messages(
    channel: str, fields: Mapping[str, Any], bodies: Sequence[Buffer], make: Callable[..., Received]
) -> list[Received]:
    """The messages of a MESSAGES reply, in order, each made by `make`, which is called like `Content`.

    Raises RemoteProtocolError when it is not such a reply.
    """
    pieces = fields.get("pieces", [])
    if not isinstance(pieces, list) or len(pieces) != len(bodies):
        raise RemoteProtocolError(f"MESSAGES has {len(bodies)} body frames for pieces {pieces!r}")
    found: list[Received] = []
    for piece, frame in zip(pieces, bodies, strict=True):
        found += _read_piece(channel, piece, frame, make)
    return found


def _read_piece(channel: str, piece: object, frame: Buffer, make: Callable[..., Received]) -> list[Received]:
    if not isinstance(piece, list) or len(piece) != 5 or not all(type(number) is int for number in piece):
        raise RemoteProtocolError(f"MESSAGES has a piece that is not five numbers: {piece!r}")
    assigning, first, last, delivery_count, time_unix_ns = piece
    try:
        batch = decode_batch(frame)
    except RequestError as error:  # malformed, or damaged on its way
        raise RemoteProtocolError(f"MESSAGES has a body frame that is not a batch: {error}") from error
    if last - first + 1 != len(batch.bodies):
        raise RemoteProtocolError(f"MESSAGES has {len(batch.bodies)} messages for {first} to {last}")
    return [
        make(
            channel,
            body,
            first + at,
            assigning,
            delivery_count,
            time_unix_ns,
            batch.ids[at].decode() if batch.ids else "",
            _headers(batch.headers[at]) if batch.headers else NO_HEADERS,
        )
        for at, body in enumerate(batch.bodies)
    ]


def _headers(value: bytes) -> MessageHeaders:
    """Headers of a sender that the broker never looked at: what cannot be read counts as none."""
    try:
        return decode_message_headers(value)
    except MalformedFrame:
        return NO_HEADERS
