"""What requests of clients must be before a node takes them, and what is made of them. Nothing here knows what is stored."""

from __future__ import annotations

from zmqbroker.commands import BatchHeader
from zmqbroker.config import LimitsConfig
from zmqbroker.errors import InvalidChannel, InvalidRequest, MessageTooLarge, Unsupported
from zmqbroker.server.placement import group_of
from zmqbroker.server.routes import Pending, Route
from zmqbroker.wire import codec, requests
from zmqbroker.wire.batch import COLUMNS_SERVED, Buffer
from zmqbroker.wire.columns import add_columns
from zmqbroker.wire.frames import channel_fault
from zmqbroker.wire.headers import encode_message_headers
from zmqbroker.wire.realtime_requests import name_fault
from zmqbroker.wire.send_requests import NO_CONFIRM, HandOverRequest

__all__ = ["EVENT_COLUMNS", "admit_batch", "admit_hand_over", "batch_of", "check_events", "pending_of"]

#: Columns of a batch of events: ids and headers. The others say what becomes of a message in a queue.
EVENT_COLUMNS = 0x0003


def admit_batch(batch: Buffer, body_size_max: int) -> BatchHeader:
    """The header of a batch frame with which nothing is wrong.

    Raises what `codec.read_batch` raises, InvalidChannel, or Unsupported.
    """
    header = codec.read_batch(batch, body_size_max=body_size_max)
    if fault := channel_fault(header.channel):
        raise InvalidChannel(fault)
    if header.columns & ~COLUMNS_SERVED:
        raise Unsupported(f"batch columns {header.columns:#x}: this version serves {COLUMNS_SERVED:#x}")
    return header


def admit_hand_over(request: HandOverRequest, limits: LimitsConfig, groups: int) -> tuple[tuple[bytes, ...], list[BatchHeader]]:
    """Frames and headers of a hand-over with which nothing is wrong, among `groups` groups that hold channels.

    Raises what `admit_batch` raises, MessageTooLarge or InvalidRequest.
    """
    frames = tuple(map(bytes, request.batches))
    size, limit = sum(map(len, frames)), limits.batch_bytes_max
    if size > limit:
        text = f"the batches of a hand-over have {size} bytes together, the limit is {limit}"
        raise MessageTooLarge(text, size=size, limit=limit)
    headers = [admit_batch(frame, limits.message_bytes_max) for frame in frames]
    home = group_of(request.channel, groups)
    for header in headers:
        group = group_of(header.channel, groups)
        if group != home:
            raise InvalidRequest(
                f"channel {header.channel!r} is in group {group} and channel {request.channel!r} in group {home}: "
                "a hand-over stays in one group, which channels with the same {tag} in their names share"
            )
    if len({header.producer == 0 for header in headers}) > 1:
        raise InvalidRequest("some batches of a hand-over have a producer and others none: all have one, or none has")
    return frames, headers


def check_events(header: BatchHeader) -> None:
    """Raises InvalidChannel, InvalidRequest or Unsupported for a batch that cannot be published."""
    if fault := name_fault(header.channel):
        raise InvalidChannel(fault)
    if header.producer:
        raise InvalidRequest(f"producer of a batch of events is {header.producer}: events are not stored and have none")
    if header.columns & ~EVENT_COLUMNS:
        raise Unsupported(
            f"columns of a batch of events are {header.columns:#x}, allowed are {EVENT_COLUMNS:#x}: id and headers"
        )


def pending_of(request: requests.AnyRequest, route: Route, request_id: int, session: bytes, now_ns: int) -> Pending:
    """Who waits for a request that came now, and how."""
    send = request.message if isinstance(request, requests.RoutedSend) else request
    if not isinstance(send, requests.Send | requests.SendBatch):
        return Pending(route, request_id, session)
    received_ns = now_ns if send.explain else 0
    return Pending(route, request_id, session, received_ns=received_ns, silent=send.confirm == NO_CONFIRM)


def batch_of(request: requests.Send) -> bytes:
    """The batch frame of a message that came without one."""
    headers = encode_message_headers(request.headers)
    batch = codec.encode_batch(
        request.channel.encode(),
        [request.body],
        request.producer,
        request.sequence,
        [request.id.encode()] if request.id else None,
        [headers] if headers else None,
    )
    return add_columns(batch, len(request.body), [request.treatment])
