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
from zmqbroker.wire.columns import GROUP_SIZE_MAX, PRIORITY_MAX, Treatment
from zmqbroker.wire.frames import REQUEST_HEADER_SIZE_MAX, flag, integer, shown, text
from zmqbroker.wire.headers import CLIENT_ID_SIZE_MAX, TRACE_SIZE_MAX, MessageHeaders, encode_message_headers, is_tags
from zmqbroker.wire.queue_requests import DELAY_MS_MAX, Fields, read_channel_name, read_receipts

__all__ = [
    "CONFIRMS",
    "HAND_OVER_BATCHES_MAX",
    "NO_CONFIRM",
    "QUORUM",
    "HandOverRequest",
    "Send",
    "SendBatch",
    "read_hand_over",
    "read_send",
    "read_send_batch",
]

#: What a sender wants to hear: that its messages are in the logs of a majority, or nothing at all.
QUORUM, NO_CONFIRM = CONFIRMS = ("quorum", "none")
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
    client_id: str | None = None  # who sends, for the receivers
    trace: str | None = None  # context of a distributed trace
    delay_ms: int = 0
    expiry_ms: int = 0
    priority: int = 0
    forward: bool = False
    explain: bool = False  # SENT tells how long each step took
    group: str = ""
    expected_sequence: int | None = None  # what the channel's last sequence must be; None: any
    confirm: str = QUORUM  # quorum | none, which is not with a producer

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
    expected_sequence: int | None = None  # what the channel's last sequence must be; None: any
    confirm: str = QUORUM  # quorum | none, which is not for a batch with a producer


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
    tags = fields.get("tags")
    if "tags" in fields and not is_tags(tags):
        raise InvalidRequest(f"field tags must be a map of text: {shown(tags)}")
    forward, explain, expected, confirm = _read_common(fields)
    if confirm == NO_CONFIRM and producer:
        raise InvalidRequest(f"field confirm is {shown(NO_CONFIRM)} with producer {producer}: a producer is told how it ends")
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
        forward=forward,
        explain=explain,
        expected_sequence=expected,
        confirm=confirm,
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
    return SendBatch(bodies[0], *_read_common(fields))


def _read_common(fields: Fields) -> tuple[bool, bool, int | None, str]:
    """What both have: forward, explain, expected_sequence, confirm."""
    expected = integer(fields, "expected_sequence", None, 0, SEQUENCE_MAX) if "expected_sequence" in fields else None
    explain, confirm = flag(fields, "explain"), text(fields, "confirm", QUORUM, REQUEST_HEADER_SIZE_MAX)
    if confirm not in CONFIRMS:
        raise InvalidRequest(f"field confirm is {shown(confirm)}, it must be one of {', '.join(CONFIRMS)}")
    if confirm == NO_CONFIRM and explain:
        raise InvalidRequest(f"field explain is true with confirm {shown(confirm)}: there is no answer to explain it in")
    return flag(fields, "forward"), explain, expected, confirm


def read_hand_over(fields: Fields, bodies: Sequence[Buffer]) -> HandOverRequest:
    """A HAND_OVER from its fields and its batch frames. Raises InvalidRequest or InvalidChannel."""
    return HandOverRequest(read_channel_name(fields), read_receipts(fields), tuple(bodies), flag(fields, "forward"))
