"""What is done with messages and channels, as requests: settle what is held, manage what is not.

A request is the command that it becomes in the log; a SETTLE kind gets its session from the connection. Ranges and defaults are
those of docs/PROTOCOL.md §3. `requests` reads and writes them with all others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from zmqbroker.commands import (
    ChannelSettings,
    CreateChannel,
    DeleteBinding,
    DeleteChannel,
    DeleteMessages,
    DeleteRoute,
    DeleteSchedule,
    Extend,
    Manage,
    Nack,
    Purge,
    Receipt,
    Redrive,
    Reject,
    Requeue,
    RoutingRule,
    SetBinding,
    SetDefaults,
    SetRoute,
    Settle,
    UpdateChannel,
    settings_said,
)
from zmqbroker.errors import InvalidChannel, InvalidRequest
from zmqbroker.wire.batch import COUNT_MAX, SEQUENCE_MAX
from zmqbroker.wire.frames import (
    REQUEST_HEADER_SIZE_MAX,
    U32_MAX,
    U64_MAX,
    Reply,
    Request,
    channel_fault,
    flag,
    integer,
    shown,
    text,
)

__all__ = [
    "COMMAND_CODES",
    "DELAY_MS_MAX",
    "LIST_MAX",
    "OVERFLOWS",
    "PEEK_SIZE_MAX",
    "QUEUE_REQUESTS",
    "REASON_SIZE_MAX",
    "RECEIPTS_MAX",
    "VISIBILITY_MS_MAX",
    "VISIBILITY_MS_MIN",
    "Fields",
    "ListChannels",
    "ManageRequest",
    "Managed",
    "PeekRequest",
    "QueueRequest",
    "SettleRequest",
    "explicit_settings",
    "fields_of_command",
    "read_channel_name",
    "read_given_settings",
    "read_receipts",
    "read_settings",
    "reply_to",
    "settings_fields",
]

#: Receipts of one request; also ranges of sequences.
RECEIPTS_MAX = 4096
#: Ten years.
DELAY_MS_MAX = 315_576_000_000
REASON_SIZE_MAX = 255
#: Twelve hours.
VISIBILITY_MS_MIN, VISIBILITY_MS_MAX = 100, 43_200_000
#: Bytes of bodies in one MESSAGES reply, when the first message is not larger.
PEEK_SIZE_MAX, PEEK_SIZE_DEFAULT = 16 << 20, 1 << 20
#: What a send does that would exceed `max_messages` or `max_bytes`.
OVERFLOWS = ("reject", "drop_oldest", "dead_letter")
LIST_MAX = 1000

Fields = Mapping[str, Any]
#: Commands that are requests as they are.
Managed = Manage | SetDefaults | DeleteSchedule | RoutingRule


@dataclass(slots=True, frozen=True)
class SettleRequest:
    """NACK, REJECT, REQUEUE or EXTEND; the session of the command is that of the connection."""

    command: Settle
    forward: bool = False


@dataclass(slots=True, frozen=True)
class ManageRequest:
    """PURGE, DELETE_MESSAGES, REDRIVE, or what makes, changes or deletes a channel, or a rule for several of them."""

    command: Managed
    forward: bool = False


@dataclass(slots=True, frozen=True)
class PeekRequest:
    """Look at live messages without touching them: those from a sequence on that were stored at an instant or later."""

    channel: str
    first: int = 1
    since_unix_ns: int = 0
    count_max: int = 1
    size_max: int = PEEK_SIZE_DEFAULT
    plain: bool = False
    forward: bool = False


@dataclass(slots=True, frozen=True)
class ListChannels:
    """Names of channels with a text in them, from the one after `after` on, ascending."""

    search: str = ""
    after: str = ""
    count_max: int = LIST_MAX
    forward: bool = False


# --- parts -----------------------------------------------------------------------------------------------------------


def read_channel_name(fields: Fields, name: str = "channel") -> str:
    """The name of a channel. Raises InvalidRequest, or InvalidChannel when it breaks a rule for names."""
    # Only the type is asked for here: a name that is too long breaks a channel rule, not a field rule.
    channel = text(fields, name, None, REQUEST_HEADER_SIZE_MAX)
    if fault := channel_fault(channel):
        raise InvalidChannel(fault)
    return channel


def _channel_or_empty(fields: Fields, name: str) -> str:
    return read_channel_name(fields, name) if fields.get(name, "") != "" else ""


def read_receipts(fields: Fields) -> tuple[Receipt, ...]:
    """The receipts of a request. Raises InvalidRequest."""
    value = fields.get("receipts")
    if not isinstance(value, list) or not 1 <= len(value) <= RECEIPTS_MAX:
        raise InvalidRequest(f"field receipts must be a list of 1 to {RECEIPTS_MAX} receipts: {shown(value)}")
    return tuple(map(_receipt, value))


def _receipt(value: object) -> Receipt:
    if isinstance(value, list) and len(value) == 3 and all(type(part) is int and 0 <= part <= SEQUENCE_MAX for part in value):
        return Receipt(*value)
    raise InvalidRequest(f"field receipts holds what is not [assigning, first, last]: {shown(value)}")


_SETTINGS_HIGH = {
    "delivery_limit": U32_MAX,
    "delay_ms": DELAY_MS_MAX,
    "expiry_ms": DELAY_MS_MAX,
    "max_messages": U64_MAX,
    "max_bytes": U64_MAX,
    "max_in_flight": U32_MAX,
    "dedup_window_ms": DELAY_MS_MAX,
    "max_age_ms": DELAY_MS_MAX,
}
_SETTINGS_FLAGS = ("single_active", "keep_latest")


def read_settings(fields: Fields, channel: str) -> ChannelSettings:
    """Settings of a channel, those that are missing at their default. Raises InvalidRequest or InvalidChannel."""
    settings = read_given_settings(fields.get("settings", {}))
    if fault := settings.contradiction(channel):
        raise InvalidRequest(fault)
    return settings


def read_given_settings(given: object) -> ChannelSettings:
    """Settings of some channel, each right by itself. Raises InvalidRequest or InvalidChannel."""
    if not isinstance(given, dict):
        raise InvalidRequest(f"field settings must be a map: {shown(given)}")
    known = ChannelSettings.__dataclass_fields__
    for name, value in given.items():  # a key may be binary, so there is no order among them
        if name not in known:
            raise InvalidRequest(f"setting {shown(name)} is not known, it is {shown(value)}; there are {', '.join(known)}")
    values: dict[str, Any] = {name: integer(given, name, 0, 0, high) for name, high in _SETTINGS_HIGH.items()}
    overflow = text(given, "overflow", OVERFLOWS[0], REASON_SIZE_MAX)
    values |= {name: flag(given, name) for name in _SETTINGS_FLAGS}
    settings = ChannelSettings(dead_letter=_channel_or_empty(given, "dead_letter"), overflow=overflow, **values)
    if overflow not in OVERFLOWS:
        raise InvalidRequest(f"setting overflow is {shown(overflow)}, it must be one of {', '.join(OVERFLOWS)}")
    return settings


def explicit_settings(given: Fields) -> tuple[str, ...]:
    """Which of these settings are said although they have their default, as `CreateChannel` has them."""
    known = ChannelSettings.__dataclass_fields__
    return tuple(sorted(name for name, value in given.items() if value == known[name].default))


def settings_fields(settings: ChannelSettings) -> dict[str, Any]:
    """The settings that differ from their default, as `read_settings` reads them."""
    values = ((name, getattr(settings, name), field.default) for name, field in settings.__dataclass_fields__.items())
    return {name: value for name, value, default in values if value != default}


# --- reading ---------------------------------------------------------------------------------------------------------


def _settled(fields: Fields) -> tuple[bytes, str, tuple[Receipt, ...]]:
    return b"", read_channel_name(fields), read_receipts(fields)


def _read_nack(fields: Fields) -> SettleRequest:
    delay_ms = integer(fields, "delay_ms", 0, 0, DELAY_MS_MAX)
    behind = flag(fields, "behind")
    if delay_ms and behind:
        raise InvalidRequest(f"field behind is true and delay_ms {delay_ms}: a message that waits keeps its place")
    return SettleRequest(Nack(*_settled(fields), delay_ms, behind), flag(fields, "forward"))


def _read_reject(fields: Fields) -> SettleRequest:
    reason = text(fields, "reason", "", REASON_SIZE_MAX)
    return SettleRequest(Reject(*_settled(fields), reason), flag(fields, "forward"))


def _read_requeue(fields: Fields) -> SettleRequest:
    command = Requeue(*_settled(fields), read_channel_name(fields, "to"))
    if command.to == command.channel:
        raise InvalidRequest(f"field to is {shown(command.to)}, which is the channel itself: nack with behind instead")
    return SettleRequest(command, flag(fields, "forward"))


def _read_extend(fields: Fields) -> SettleRequest:
    visibility_ms = integer(fields, "visibility_ms", None, VISIBILITY_MS_MIN, VISIBILITY_MS_MAX)
    return SettleRequest(Extend(*_settled(fields), visibility_ms), flag(fields, "forward"))


def _read_purge(fields: Fields) -> ManageRequest:
    return ManageRequest(Purge(read_channel_name(fields), flag(fields, "in_flight")), flag(fields, "forward"))


def _read_delete_messages(fields: Fields) -> ManageRequest:
    value = fields.get("sequences")
    if not isinstance(value, list) or not 1 <= len(value) <= RECEIPTS_MAX:
        raise InvalidRequest(f"field sequences must be a list of 1 to {RECEIPTS_MAX} ranges: {shown(value)}")
    command = DeleteMessages(read_channel_name(fields), tuple(map(_sequences, value)))
    return ManageRequest(command, flag(fields, "forward"))


def _sequences(value: object) -> tuple[int, int]:
    if isinstance(value, list) and len(value) == 2 and all(type(part) is int for part in value):
        first, last = value
        if 1 <= first <= last <= SEQUENCE_MAX:
            return first, last
    raise InvalidRequest(f"field sequences holds what is not [first, last]: {shown(value)}")


def _read_redrive(fields: Fields) -> ManageRequest:
    channel, to, origin = (read_channel_name(fields), _channel_or_empty(fields, "to"), _channel_or_empty(fields, "origin"))
    if to == channel:
        raise InvalidRequest(f"field to is {shown(to)}, which is the channel itself")
    count_max, first = integer(fields, "max", 0, 0, U64_MAX), integer(fields, "first", 1, 1, SEQUENCE_MAX)
    command = Redrive(channel, to, origin, count_max, first)
    return ManageRequest(command, flag(fields, "forward"))


def _read_create_channel(fields: Fields) -> ManageRequest:
    channel = read_channel_name(fields)
    command = CreateChannel(channel, read_settings(fields, channel), explicit_settings(fields.get("settings", {})))
    return ManageRequest(command, flag(fields, "forward"))


def _read_update_channel(fields: Fields) -> ManageRequest:
    channel = read_channel_name(fields)
    command = UpdateChannel(channel, read_settings(fields, channel), explicit_settings(fields.get("settings", {})))
    return ManageRequest(command, flag(fields, "forward"))


def _read_delete_channel(fields: Fields) -> ManageRequest:
    return ManageRequest(DeleteChannel(read_channel_name(fields)), flag(fields, "forward"))


def _read_peek(fields: Fields) -> PeekRequest:
    return PeekRequest(
        channel=read_channel_name(fields),
        first=integer(fields, "first", 1, 1, SEQUENCE_MAX),
        since_unix_ns=integer(fields, "since_unix_ns", 0, 0, U64_MAX),
        count_max=integer(fields, "max", 1, 1, COUNT_MAX),
        size_max=integer(fields, "max_bytes", PEEK_SIZE_DEFAULT, 1, PEEK_SIZE_MAX),
        plain=flag(fields, "plain"),
        forward=flag(fields, "forward"),
    )


def _read_list_channels(fields: Fields) -> ListChannels:
    return ListChannels(
        search=text(fields, "search", "", REASON_SIZE_MAX),
        after=text(fields, "after", "", REASON_SIZE_MAX),
        count_max=integer(fields, "max", LIST_MAX, 1, LIST_MAX),
        forward=flag(fields, "forward"),
    )


QueueRequest = SettleRequest | ManageRequest | PeekRequest | ListChannels


#: How each of them is read, by command code; none has a body frame.
QUEUE_REQUESTS: dict[Request, Callable[[Fields], QueueRequest]] = {
    Request.NACK: _read_nack,
    Request.REJECT: _read_reject,
    Request.REQUEUE: _read_requeue,
    Request.EXTEND: _read_extend,
    Request.PURGE: _read_purge,
    Request.DELETE_MESSAGES: _read_delete_messages,
    Request.REDRIVE: _read_redrive,
    Request.PEEK: _read_peek,
    Request.CREATE_CHANNEL: _read_create_channel,
    Request.UPDATE_CHANNEL: _read_update_channel,
    Request.DELETE_CHANNEL: _read_delete_channel,
    Request.LIST_CHANNELS: _read_list_channels,
}


# --- writing ---------------------------------------------------------------------------------------------------------


def fields_of_command(command: Settle | Managed) -> dict[str, Any]:
    """The fields of a command that differ from their default, as the readers above expect them."""
    found: dict[str, Any] = {}
    for field in fields(command):
        value = getattr(command, field.name)
        if field.name in ("session", "explicit") or value == field.default:
            continue
        if isinstance(value, ChannelSettings):
            value = settings_fields(value)
        elif field.name == "receipts":
            value = [[receipt.assigning, receipt.first, receipt.last] for receipt in value]
        elif field.name == "sequences":
            value = [list(span) for span in value]
        found["max" if field.name == "count_max" else field.name] = value
    if isinstance(command, CreateChannel | UpdateChannel) and command.explicit:
        found["settings"] = settings_said(command.settings, command.explicit)
    return found


#: The command code of each.
COMMAND_CODES: dict[type[Settle | Managed], Request] = {
    Nack: Request.NACK,
    Reject: Request.REJECT,
    Requeue: Request.REQUEUE,
    Extend: Request.EXTEND,
    Purge: Request.PURGE,
    DeleteMessages: Request.DELETE_MESSAGES,
    Redrive: Request.REDRIVE,
    CreateChannel: Request.CREATE_CHANNEL,
    UpdateChannel: Request.UPDATE_CHANNEL,
    DeleteChannel: Request.DELETE_CHANNEL,
    SetDefaults: Request.SET_DEFAULTS,
    DeleteSchedule: Request.DELETE_SCHEDULE,
    SetRoute: Request.SET_ROUTE,
    DeleteRoute: Request.DELETE_ROUTE,
    SetBinding: Request.SET_BINDING,
    DeleteBinding: Request.DELETE_BINDING,
}


def reply_to(request: QueueRequest) -> Reply:
    """The reply that fits; these requests share three of them."""
    if isinstance(request, PeekRequest):
        return Reply.MESSAGES
    if isinstance(request, ListChannels):
        return Reply.CHANNELS
    counts = isinstance(request, SettleRequest) or isinstance(request.command, Purge | DeleteMessages | Redrive)
    return Reply.DONE if counts else Reply.CHANGED
