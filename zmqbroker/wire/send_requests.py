"""Storing messages, as requests: one that comes without the batch format, and a whole batch.

Ranges and defaults are those of docs/PROTOCOL.md §3. `requests` reads and writes them with all others. Nothing here looks
into a batch frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zmqbroker.errors import InvalidRequest, LocalProtocolError
from zmqbroker.wire.batch import ID_SIZE_MAX, SEQUENCE_MAX, Buffer
from zmqbroker.wire.columns import GROUP_SIZE_MAX, PRIORITY_MAX, Treatment
from zmqbroker.wire.frames import REQUEST_HEADER_SIZE_MAX, flag, integer, shown, text
from zmqbroker.wire.headers import CLIENT_ID_SIZE_MAX, TRACE_SIZE_MAX, MessageHeaders, encode_message_headers, is_tags
from zmqbroker.wire.queue_requests import DELAY_MS_MAX, Fields, read_channel_name

__all__ = ["Send", "SendBatch", "read_send", "read_send_batch"]


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
    client_id: str | None = None  # who sends, for the receivers
    trace: str | None = None  # context of a distributed trace
    delay_ms: int = 0
    expiry_ms: int = 0
    priority: int = 0
    forward: bool = False
    explain: bool = False  # SENT tells how long each step took
    group: str = ""

    @property
    def headers(self) -> MessageHeaders:
        """What belongs into the headers column."""
        return MessageHeaders(self.metadata, self.tags, self.client_id, self.trace)

    @property
    def treatment(self) -> Treatment:
        """What belongs into the columns for delay, expiry, priority and group."""
        return Treatment(self.delay_ms, self.expiry_ms, self.priority, self.group)


@dataclass(slots=True, frozen=True)
class SendBatch:
    """Store all messages of a batch frame, which nobody has looked into yet."""

    batch: Buffer
    forward: bool = False
    explain: bool = False  # SENT tells how long each step took


def read_send(fields: Fields, bodies: Sequence[Buffer]) -> Send:
    """A SEND from its fields and its body. Raises InvalidRequest or InvalidChannel."""
    channel = read_channel_name(fields)
    producer = integer(fields, "producer", 0, 0, SEQUENCE_MAX)
    sequence = integer(fields, "sequence", 0, 0, SEQUENCE_MAX)
    if (producer == 0) != (sequence == 0):
        raise InvalidRequest(f"field sequence is {sequence} with producer {producer}: both are 0 or neither is")
    tags = fields.get("tags")
    if "tags" in fields and not is_tags(tags):
        raise InvalidRequest(f"field tags must be a map of text: {shown(tags)}")
    request = Send(
        channel,
        bytes(bodies[0]),
        producer,
        sequence,
        id=text(fields, "id", "", ID_SIZE_MAX),
        metadata=_text_or_none(fields, "metadata", REQUEST_HEADER_SIZE_MAX),
        tags=tags,
        client_id=_text_or_none(fields, "client_id", CLIENT_ID_SIZE_MAX),
        trace=_text_or_none(fields, "trace", TRACE_SIZE_MAX),
        delay_ms=integer(fields, "delay_ms", 0, 0, DELAY_MS_MAX),
        expiry_ms=integer(fields, "expiry_ms", 0, 0, DELAY_MS_MAX),
        priority=integer(fields, "priority", 0, 0, PRIORITY_MAX),
        group=text(fields, "group", "", GROUP_SIZE_MAX),
        forward=flag(fields, "forward"),
        explain=flag(fields, "explain"),
    )
    try:
        encode_message_headers(request.headers)
    except LocalProtocolError as error:
        raise InvalidRequest(f"fields metadata, tags, client_id and trace: {error}") from error
    return request


def _text_or_none(fields: Fields, name: str, size_max: int) -> str | None:
    return text(fields, name, None, size_max) if name in fields else None


def read_send_batch(fields: Fields, bodies: Sequence[Buffer]) -> SendBatch:
    """A SEND_BATCH from its fields and its batch frame. Raises InvalidRequest."""
    return SendBatch(bodies[0], flag(fields, "forward"), flag(fields, "explain"))
