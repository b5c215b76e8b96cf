"""Storing messages, as requests: one that comes without the batch format, a whole batch, and batches instead of held messages.

Ranges and defaults are those of docs/PROTOCOL.md §3. `requests` reads and writes them with all others. Nothing here looks
into a batch frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zmqbroker.commands import Receipt
from zmqbroker.errors import InvalidRequest, LocalProtocolError
from zmqbroker.wire.batch import ID_SIZE_MAX, SEQUENCE_MAX, Buffer
from zmqbroker.wire.columns import PRIORITY_MAX, Treatment
from zmqbroker.wire.frames import REQUEST_HEADER_SIZE_MAX, flag, integer, shown, text
from zmqbroker.wire.headers import MessageHeaders, encode_message_headers, is_tags
from zmqbroker.wire.queue_requests import DELAY_MS_MAX, Fields, read_channel_name, read_receipts

__all__ = ["HAND_OVER_BATCHES_MAX", "HandOverRequest", "Send", "SendBatch", "read_hand_over", "read_send", "read_send_batch"]

#: Batches of one hand-over: half of the results that a channel keeps of a producer, so that all of them are kept.
HAND_OVER_BATCHES_MAX = 64


@dataclass(slots=True, frozen=True)
class Send:
    """Store one message, given without the batch format."""

    channel: str
    body: bytes
    producer: int = 0  # 0 for none, and then `sequence` is 0 too
    sequence: int = 0
    id: str = ""
    metadata: str | None = None
    tags: Mapping[str, str] | None = None
    delay_ms: int = 0
    expiry_ms: int = 0
    priority: int = 0
    forward: bool = False
    explain: bool = False  # SENT tells how long each step took

    @property
    def headers(self) -> MessageHeaders:
        """What belongs into the headers column."""
        return MessageHeaders(self.metadata, self.tags)

    @property
    def treatment(self) -> Treatment:
        """What belongs into the columns for delay, expiry and priority."""
        return Treatment(self.delay_ms, self.expiry_ms, self.priority)


@dataclass(slots=True, frozen=True)
class SendBatch:
    """Store all messages of a batch frame, which nobody has looked into yet."""

    batch: Buffer
    forward: bool = False
    explain: bool = False  # SENT tells how long each step took


@dataclass(slots=True, frozen=True)
class HandOverRequest:
    """Finish messages and store the batches, which nobody has looked into yet: all of it, or nothing."""

    channel: str
    receipts: tuple[Receipt, ...]
    batches: tuple[Buffer, ...]
    forward: bool = False


def read_send(fields: Fields, bodies: Sequence[Buffer]) -> Send:
    """A SEND from its fields and its body. Raises InvalidRequest or InvalidChannel."""
    channel = read_channel_name(fields)
    producer = integer(fields, "producer", 0, 0, SEQUENCE_MAX)
    sequence = integer(fields, "sequence", 0, 0, SEQUENCE_MAX)
    if (producer == 0) != (sequence == 0):
        raise InvalidRequest(f"field sequence is {sequence} with producer {producer}: both are 0 or neither is")
    identity = text(fields, "id", "", ID_SIZE_MAX)
    metadata = text(fields, "metadata", None, REQUEST_HEADER_SIZE_MAX) if "metadata" in fields else None
    tags = fields.get("tags")
    if "tags" in fields and not is_tags(tags):
        raise InvalidRequest(f"field tags must be a map of text: {shown(tags)}")
    treatment = (
        integer(fields, "delay_ms", 0, 0, DELAY_MS_MAX),
        integer(fields, "expiry_ms", 0, 0, DELAY_MS_MAX),
        integer(fields, "priority", 0, 0, PRIORITY_MAX),
    )
    flags = flag(fields, "forward"), flag(fields, "explain")
    request = Send(channel, bytes(bodies[0]), producer, sequence, identity, metadata, tags, *treatment, *flags)
    try:
        encode_message_headers(request.headers)
    except LocalProtocolError as error:
        raise InvalidRequest(f"fields metadata and tags: {error}") from error
    return request


def read_send_batch(fields: Fields, bodies: Sequence[Buffer]) -> SendBatch:
    """A SEND_BATCH from its fields and its batch frame. Raises InvalidRequest."""
    return SendBatch(bodies[0], flag(fields, "forward"), flag(fields, "explain"))


def read_hand_over(fields: Fields, bodies: Sequence[Buffer]) -> HandOverRequest:
    """A HAND_OVER from its fields and its batch frames. Raises InvalidRequest or InvalidChannel."""
    return HandOverRequest(read_channel_name(fields), read_receipts(fields), tuple(bodies), flag(fields, "forward"))
