"""Requests as values: fields and body frames become frozen dataclasses and back.

Ranges, defaults and the number of body frames are those of docs/PROTOCOL.md §3 and are enforced when reading; what a client
builds is trusted to be in range and refused by the node otherwise. Nothing here looks into a batch frame (`codec.read_batch`)
or knows whether a channel exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zmqbroker.errors import MalformedFrame, MessageTooLarge, UnknownCommand
from zmqbroker.wire.batch import BODY_SIZE_MAX, Buffer
from zmqbroker.wire.call_requests import (
    CALL_REQUESTS,
    AnyCallRequest,
    CacheStatsRequest,
    CallRequest,
    CallTableRequest,
    CancelRequest,
    RespondRequest,
    RespondTableRequest,
)
from zmqbroker.wire.consuming_requests import (
    CONSUMER_PRIORITY_MAX,
    CONSUMING_REQUESTS,
    RECEIVE_SIZE_MAX,
    AckRequest,
    CloseRequest,
    OpenProducerRequest,
    ReceiveRequest,
    StatsRequest,
)
from zmqbroker.wire.frames import REPLY_BIT, Reply, Request, binary, encode_header, text
from zmqbroker.wire.headers import CLIENT_ID_SIZE_MAX
from zmqbroker.wire.operator_requests import (
    AuditRequest,
    BackupRequest,
    ChangeMembers,
    Transfer,
    read_audit,
    read_backup,
    read_change_members,
    read_transfer,
)
from zmqbroker.wire.queue_requests import (
    COMMAND_CODES,
    QUEUE_REQUESTS,
    RECEIPTS_MAX,
    ListChannels,
    ManageRequest,
    PeekRequest,
    QueueRequest,
    SettleRequest,
    fields_of_command,
    reply_to,
)
from zmqbroker.wire.realtime_requests import (
    REALTIME_REQUESTS,
    GrantRequest,
    PublishRequest,
    RealtimeRequest,
    SubscribeRequest,
    UnsubscribeRequest,
)
from zmqbroker.wire.routing_requests import (
    ROUTING_REQUESTS,
    ListBindings,
    ListRoutes,
    OpenProducers,
    RoutedSend,
    fields_of_open_producers,
    fields_of_routed,
    read_any_send,
    read_any_send_batch,
)
from zmqbroker.wire.rule_requests import (
    RULE_REQUESTS,
    CreateScheduleRequest,
    ListDefaults,
    ListSchedules,
    fields_of_schedule,
    read_create_schedule,
)
from zmqbroker.wire.send_requests import (
    HAND_OVER_BATCHES_MAX,
    HandOverRequest,
    Send,
    SendBatch,
    read_hand_over,
)
from zmqbroker.wire.store_requests import STORE_REQUESTS, OpenConsumerRequest, ReadRequest, ResetConsumerRequest, StoreRequest

__all__ = [
    "CONSUMER_PRIORITY_MAX",
    "RECEIPTS_MAX",
    "RECEIVE_SIZE_MAX",
    "SESSION_SIZE",
    "AckRequest",
    "AnyCallRequest",
    "AnyRequest",
    "AuditRequest",
    "BackupRequest",
    "CacheStatsRequest",
    "CallRequest",
    "CallTableRequest",
    "CancelRequest",
    "ChangeMembers",
    "CloseRequest",
    "CreateScheduleRequest",
    "GrantRequest",
    "HandOverRequest",
    "Hello",
    "Info",
    "ListBindings",
    "ListChannels",
    "ListDefaults",
    "ListRoutes",
    "ListSchedules",
    "ManageRequest",
    "OpenConsumerRequest",
    "OpenProducerRequest",
    "OpenProducers",
    "PeekRequest",
    "Ping",
    "PublishRequest",
    "ReadRequest",
    "RealtimeRequest",
    "ReceiveRequest",
    "ResetConsumerRequest",
    "RespondRequest",
    "RespondTableRequest",
    "RoutedSend",
    "Send",
    "SendBatch",
    "SettleRequest",
    "StatsRequest",
    "SubscribeRequest",
    "Transfer",
    "UnsubscribeRequest",
    "command_of",
    "decode_request",
    "encode_request",
    "reply_of",
]

SESSION_SIZE = 16


@dataclass(slots=True, frozen=True)
class Hello:
    """Name the session of this connection; without one the node makes it."""

    session: bytes | None = None
    client_id: str = ""


@dataclass(slots=True, frozen=True)
class Ping:
    """Ask for a sign of life, and who leads."""


@dataclass(slots=True, frozen=True)
class Info:
    """Ask a node about itself and its cluster."""


AnyRequest = (
    Hello
    | Ping
    | Info
    | Send
    | SendBatch
    | HandOverRequest
    | ReceiveRequest
    | AckRequest
    | OpenProducerRequest
    | StatsRequest
    | CloseRequest
    | ChangeMembers
    | Transfer
    | AuditRequest
    | BackupRequest
    | QueueRequest
    | CreateScheduleRequest
    | ListSchedules
    | ListDefaults
    | RealtimeRequest
    | AnyCallRequest
    | RoutedSend
    | OpenProducers
    | ListRoutes
    | ListBindings
    | StoreRequest
)

_Fields = Mapping[str, Any]


# --- reading ---------------------------------------------------------------------------------------------------------


def decode_request(command: int, fields: _Fields, bodies: Sequence[Buffer], body_size_max: int = BODY_SIZE_MAX) -> AnyRequest:
    """The request that a decoded header and its body frames make.

    Raises UnknownCommand, MalformedFrame (wrong number of body frames), InvalidRequest, InvalidChannel, or MessageTooLarge
    when the body of a message is over `body_size_max`. A batch's own limits are checked by `codec.read_batch`.
    """
    reader = _READERS.get(command)
    if reader is None:
        raise UnknownCommand(f"command {command:#04x} is not defined")
    least, most = _BODY_COUNTS.get(command, (0, 0))
    if not least <= len(bodies) <= most:
        allowed = f"{least}" if least == most else f"{least} to {most}"
        raise MalformedFrame(f"{Request(command).name} has {len(bodies)} body frames, it must have {allowed}")
    request = reader(fields, bodies)
    message = request.message if isinstance(request, CreateScheduleRequest | RoutedSend) else request
    if isinstance(message, Send) and len(message.body) > body_size_max:
        size = len(message.body)
        raise MessageTooLarge(f"a message has {size} bytes, the limit is {body_size_max}", size=size, limit=body_size_max)
    return request


#: How many body frames a request must have: at least, at most. The others have none.
_BODY_COUNTS: dict[int, tuple[int, int]] = {
    Request.SEND: (1, 1),
    Request.SEND_BATCH: (1, 1),
    Request.CREATE_SCHEDULE: (1, 1),
    Request.HAND_OVER: (1, HAND_OVER_BATCHES_MAX),
    Request.PUBLISH: (1, 1),
    Request.CALL: (1, 1),
    Request.RESPOND: (1, 1),
    Request.CALL_TABLE: (1, 1),
    Request.RESPOND_TABLE: (1, 1),
}


def _read_hello(fields: _Fields, _bodies: Sequence[Buffer]) -> Hello:
    return Hello(binary(fields, "session", SESSION_SIZE), text(fields, "client_id", "", CLIENT_ID_SIZE_MAX))


def _read_ping(_fields: _Fields, _bodies: Sequence[Buffer]) -> Ping:
    return Ping()


def _read_info(_fields: _Fields, _bodies: Sequence[Buffer]) -> Info:
    return Info()


_READERS: dict[int, Callable[[_Fields, Sequence[Buffer]], AnyRequest]] = {
    Request.HELLO: _read_hello,
    Request.PING: _read_ping,
    Request.INFO: _read_info,
    Request.SEND: read_any_send,
    Request.SEND_BATCH: read_any_send_batch,
    Request.HAND_OVER: read_hand_over,
    Request.CHANGE_MEMBERS: read_change_members,
    Request.TRANSFER: read_transfer,
    Request.AUDIT: read_audit,
    Request.BACKUP: read_backup,
    Request.CREATE_SCHEDULE: read_create_schedule,
    **REALTIME_REQUESTS,
    **CALL_REQUESTS,
}


def _without_bodies(read: Callable[[_Fields], AnyRequest]) -> Callable[[_Fields, Sequence[Buffer]], AnyRequest]:
    return lambda fields, _bodies: read(fields)


_BODILESS: tuple[Mapping[Any, Callable[[_Fields], AnyRequest]], ...] = (
    *(CONSUMING_REQUESTS, QUEUE_REQUESTS, RULE_REQUESTS),
    ROUTING_REQUESTS,
    STORE_REQUESTS,
)
for _readers in _BODILESS:
    _READERS.update((code, _without_bodies(read)) for code, read in _readers.items())


# --- writing ---------------------------------------------------------------------------------------------------------

_COMMANDS: dict[type[AnyRequest], Request] = {
    Hello: Request.HELLO,
    Ping: Request.PING,
    Info: Request.INFO,
    Send: Request.SEND,
    SendBatch: Request.SEND_BATCH,
    HandOverRequest: Request.HAND_OVER,
    ReceiveRequest: Request.RECEIVE,
    AckRequest: Request.ACK,
    OpenProducerRequest: Request.OPEN_PRODUCER,
    StatsRequest: Request.STATS,
    CloseRequest: Request.CLOSE,
    ChangeMembers: Request.CHANGE_MEMBERS,
    Transfer: Request.TRANSFER,
    AuditRequest: Request.AUDIT,
    BackupRequest: Request.BACKUP,
    PeekRequest: Request.PEEK,
    ListChannels: Request.LIST_CHANNELS,
    CreateScheduleRequest: Request.CREATE_SCHEDULE,
    ListSchedules: Request.LIST_SCHEDULES,
    ListDefaults: Request.LIST_DEFAULTS,
    SubscribeRequest: Request.SUBSCRIBE,
    UnsubscribeRequest: Request.UNSUBSCRIBE,
    GrantRequest: Request.GRANT,
    PublishRequest: Request.PUBLISH,
    CallRequest: Request.CALL,
    RespondRequest: Request.RESPOND,
    CancelRequest: Request.CANCEL,
    CacheStatsRequest: Request.CACHE_STATS,
    CallTableRequest: Request.CALL_TABLE,
    RespondTableRequest: Request.RESPOND_TABLE,
    OpenProducers: Request.OPEN_PRODUCER,
    ListRoutes: Request.LIST_ROUTES,
    ListBindings: Request.LIST_BINDINGS,
    ReadRequest: Request.READ,
    OpenConsumerRequest: Request.OPEN_CONSUMER,
    ResetConsumerRequest: Request.RESET_CONSUMER,
}


def command_of(request: AnyRequest) -> Request:
    """The command code of a request."""
    if isinstance(request, SettleRequest | ManageRequest):
        return COMMAND_CODES[type(request.command)]
    if isinstance(request, RoutedSend):
        return command_of(request.message)
    return _COMMANDS[type(request)]


def reply_of(request: AnyRequest) -> int:
    """The command code of the reply that fits a request; as a rule its own with bit 7 set."""
    if isinstance(request, CreateScheduleRequest):
        return Reply.CHANGED
    if isinstance(request, RoutedSend):
        return Reply.ROUTED
    if isinstance(request, ResetConsumerRequest):
        return Reply.CONSUMER
    return reply_to(request) if isinstance(request, QueueRequest) else command_of(request) | REPLY_BIT


def encode_request(request_id: int, request: AnyRequest) -> list[Buffer]:
    """The frames of a request: header, then body frames. Raises LocalProtocolError on what msgpack cannot carry."""
    bodies: list[Buffer] = []
    message = request.message if isinstance(request, CreateScheduleRequest | RoutedSend) else request
    if isinstance(message, Send | CallRequest | RespondRequest | CallTableRequest | RespondTableRequest):
        bodies = [message.body]
    elif isinstance(message, SendBatch | PublishRequest):
        bodies = [message.batch]
    elif isinstance(message, HandOverRequest):
        bodies = [*message.batches]
    return [encode_header(command_of(request), request_id, _fields_of(request)), *bodies]


#: Names of attributes whose field on the wire is called otherwise; the ones mapped to "" are body frames.
_FIELD_NAMES = {"count_min": "min", "count_max": "max", "size_max": "max_bytes", "body": "", "batch": "", "batches": ""}


def _fields_of(request: AnyRequest) -> dict[str, Any]:
    """Attributes that differ from their default, which the other side fills in."""
    if isinstance(request, SettleRequest | ManageRequest):
        return fields_of_command(request.command) | ({"forward": True} if request.forward else {})
    if isinstance(request, CreateScheduleRequest):
        return fields_of_schedule(request)
    if isinstance(request, RoutedSend):
        return fields_of_routed(request, _fields_of(request.message))
    if isinstance(request, OpenProducers):
        return fields_of_open_producers(request)
    fields: dict[str, Any] = {}
    for name, attribute in request.__dataclass_fields__.items():
        value = getattr(request, name)
        wire_name = _FIELD_NAMES.get(name, name)
        if wire_name and value != attribute.default:
            fields[wire_name] = value
    if isinstance(request, AckRequest | HandOverRequest):
        fields["receipts"] = [[receipt.assigning, receipt.first, receipt.last] for receipt in request.receipts]
    return fields
