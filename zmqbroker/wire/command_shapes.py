"""How every command but Publish lies in an entry: a msgpack array, with a check for each item. Source: docs/PROTOCOL.md §9."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, fields
from typing import Any, NamedTuple

from zmqbroker.commands import (
    CREATE_ON_USE,
    EVENTS,
    EVENTS_STORE,
    STARTS,
    Ack,
    ChannelSettings,
    Close,
    CreateChannel,
    DeleteBinding,
    DeleteChannel,
    DeleteMessages,
    DeleteRoute,
    DeleteSchedule,
    Extend,
    Manage,
    Nack,
    NewSchedule,
    OpenConsumer,
    OpenProducer,
    Plan,
    Purge,
    Receipt,
    Receive,
    ReceiveKey,
    Redrive,
    Reject,
    Requeue,
    ResetConsumer,
    RoutingRule,
    SetBinding,
    SetDefaults,
    SetRoute,
    Settle,
    TakeAudit,
    Tick,
    Trim,
    UpdateChannel,
    settings_said,
)
from zmqbroker.wire.batch import CHANNEL_SIZE_MAX
from zmqbroker.wire.destinations import DESTINATIONS_SIZE_MAX
from zmqbroker.wire.frames import U64_MAX
from zmqbroker.wire.queue_requests import REASON_SIZE_MAX, explicit_settings
from zmqbroker.wire.requests import SESSION_SIZE

__all__ = ["SHAPES", "SHAPE_OF_TYPE", "Shape", "SmallCommand", "fits", "is_u64"]

#: Every command but Publish; a schedule is proposed with its message.
SmallCommand = (
    OpenProducer
    | Receive
    | Ack
    | Settle
    | Manage
    | SetDefaults
    | NewSchedule
    | DeleteSchedule
    | OpenConsumer
    | ResetConsumer
    | RoutingRule
    | Close
    | Tick
    | Trim
    | TakeAudit
)


def is_u64(value: object) -> bool:
    """True for an integer, which a truth value is not, of 64 bits without a sign."""
    return type(value) is int and 0 <= value <= U64_MAX


def _is_u64_or_nil(value: object) -> bool:
    return value is None or is_u64(value)


def _is_session(value: object) -> bool:
    return type(value) is bytes and len(value) == SESSION_SIZE


def _is_channel(value: object) -> bool:
    return type(value) is str and 1 <= len(value) <= CHANNEL_SIZE_MAX


def _is_source(value: object) -> bool:
    """A prefix, and a pattern of names."""
    return type(value) is str and value.startswith((f"{EVENTS}:", f"{EVENTS_STORE}:")) and len(value) <= 2 * CHANNEL_SIZE_MAX


def _is_list(value: object) -> bool:
    return type(value) is str and 1 <= len(value) <= DESTINATIONS_SIZE_MAX


def _is_channel_or_empty(value: object) -> bool:
    return value == "" or _is_channel(value)


def _is_reason(value: object) -> bool:
    return type(value) is str and len(value.encode(errors="replace")) <= REASON_SIZE_MAX


def _is_bool(value: object) -> bool:
    return type(value) is bool


def _is_spans(value: object) -> bool:
    return type(value) is list and all(type(item) is list and len(item) == 2 and all(map(is_u64, item)) for item in value)


_SETTINGS = {field.name: type(field.default) for field in fields(ChannelSettings)}


def _is_settings(value: object) -> bool:
    return type(value) is dict and all(
        type(item) is _SETTINGS.get(name) and (type(item) is not int or is_u64(item)) for name, item in value.items()
    )


def _is_said(value: object) -> bool:
    """What defaults say: settings, and whether use creates."""
    if type(value) is not dict or type(value.get(CREATE_ON_USE, False)) is not bool:
        return False
    return _is_settings({name: item for name, item in value.items() if name != CREATE_ON_USE})


def _is_plan(value: object) -> bool:
    kinds = [type(field.default) for field in fields(Plan)]
    return type(value) is list and [type(item) for item in value] == kinds and all(type(i) is str or is_u64(i) for i in value)


def _is_frame(value: object) -> bool:
    return type(value) is bytes


def _is_receipts(value: object) -> bool:
    return type(value) is list and all(type(item) is list and len(item) == 3 and all(map(is_u64, item)) for item in value)


class Shape(NamedTuple):
    """How one command lies in its array: a check for each item, and the ways there and back."""

    type: int
    checks: tuple[Callable[[object], bool], ...]
    items: Callable[[Any], list[Any]]
    command: Callable[..., SmallCommand]
    optional: int = 0  # items at the end that are missing where they say nothing


def _open_producer_items(command: OpenProducer) -> list[Any]:
    return [command.channel, command.producer, command.incarnation]


def _receive_items(command: Receive) -> list[Any]:
    key = command.key
    counts = [command.count_min, command.count_max, command.size_max]
    return [
        *(key.session, key.consumer, key.request, command.channel),
        *counts,
        *(command.wait_ms, command.visibility_ms, command.incarnation),
        *([command.consumer_priority] if command.consumer_priority or command.auto_ack else []),
        *([True] if command.auto_ack else []),
    ]


def _receive(session: bytes, consumer: int, request: int, *rest: Any) -> Receive:
    return Receive(ReceiveKey(session, consumer, request), *rest)


def _ack_items(command: Ack) -> list[Any]:
    receipts = [[receipt.assigning, receipt.first, receipt.last] for receipt in command.receipts]
    return [command.session, command.channel, receipts]


def _ack(session: bytes, channel: str, receipts: list[list[int]]) -> Ack:
    return Ack(session, channel, tuple(Receipt(*receipt) for receipt in receipts))


def _settle_items(command: Settle) -> list[Any]:
    receipts = [[receipt.assigning, receipt.first, receipt.last] for receipt in command.receipts]
    return [command.session, command.channel, receipts, *(getattr(command, field.name) for field in fields(command)[3:])]


def _settle(kind: Callable[..., Settle]) -> Callable[..., Settle]:
    def made(session: bytes, channel: str, receipts: list[list[int]], *rest: Any) -> Settle:
        return kind(session, channel, tuple(Receipt(*receipt) for receipt in receipts), *rest)

    return made


def _plain_items(
    command: Purge | Redrive | DeleteChannel | SetDefaults | DeleteSchedule | ResetConsumer | RoutingRule,
) -> list[Any]:
    return [getattr(command, field.name) for field in fields(command)]


def _delete_items(command: DeleteMessages) -> list[Any]:
    return [command.channel, [list(span) for span in command.sequences]]


def _delete(channel: str, sequences: list[list[int]]) -> DeleteMessages:
    return DeleteMessages(channel, tuple((first, last) for first, last in sequences))


def _update_items(command: UpdateChannel) -> list[Any]:
    return [command.channel, settings_said(command.settings, command.explicit)]


def _create_items(command: CreateChannel) -> list[Any]:
    return [command.channel, settings_said(command.settings, command.explicit)]


def _create(channel: str, settings: dict[str, Any]) -> CreateChannel:
    return CreateChannel(channel, ChannelSettings(**settings), explicit_settings(settings))


def _update(channel: str, settings: dict[str, Any]) -> UpdateChannel:
    return UpdateChannel(channel, ChannelSettings(**settings), explicit_settings(settings))


def _schedule_items(command: NewSchedule) -> list[Any]:
    return [command.name, list(astuple(command.plan)), command.frame]


def _schedule(name: str, plan: list[Any], frame: bytes) -> NewSchedule:
    return NewSchedule(name, Plan(*plan), frame)


def _is_start(value: object) -> bool:
    return value in STARTS


def _open_items(command: OpenConsumer) -> list[Any]:
    place = [command.store, command.consumer, command.start, command.value]
    reader = [command.exclusive, command.session, command.number]
    return [*place, *reader, settings_said(command.settings, command.explicit)]


def _open(store: str, consumer: str, start: str, value: int, *reader: Any) -> OpenConsumer:
    exclusive, session, number, settings = reader
    said = ChannelSettings(**settings), explicit_settings(settings)
    return OpenConsumer(store, consumer, start, value, exclusive, session, number, *said)


_HELD = (_is_session, _is_channel, _is_receipts)
_PLACE = (_is_channel, _is_channel, _is_start, is_u64)


def _close_items(command: Close) -> list[Any]:
    return [command.session, command.consumer, *([command.request] if command.request else [])]


def _trim_items(command: Trim) -> list[Any]:
    return [command.index]


def _no_items(_command: Tick | TakeAudit) -> list[Any]:
    return []


SHAPES: dict[type[SmallCommand], Shape] = {
    OpenProducer: Shape(2, (_is_channel, is_u64, is_u64), _open_producer_items, OpenProducer),
    Receive: Shape(
        3, (_is_session, is_u64, is_u64, _is_channel, *(is_u64,) * 7, _is_bool), _receive_items, _receive, optional=2
    ),
    Ack: Shape(4, (_is_session, _is_channel, _is_receipts), _ack_items, _ack),
    Close: Shape(5, (_is_session, _is_u64_or_nil, is_u64), _close_items, Close, optional=1),
    Tick: Shape(6, (), _no_items, Tick),
    Trim: Shape(7, (is_u64,), _trim_items, Trim),
    TakeAudit: Shape(8, (), _no_items, TakeAudit),
    Nack: Shape(9, (*_HELD, is_u64, _is_bool), _settle_items, _settle(Nack)),
    Reject: Shape(10, (*_HELD, _is_reason), _settle_items, _settle(Reject)),
    Requeue: Shape(11, (*_HELD, _is_channel), _settle_items, _settle(Requeue)),
    Extend: Shape(12, (*_HELD, is_u64), _settle_items, _settle(Extend)),
    Purge: Shape(13, (_is_channel, _is_bool), _plain_items, Purge),
    DeleteMessages: Shape(14, (_is_channel, _is_spans), _delete_items, _delete),
    Redrive: Shape(15, (_is_channel, _is_channel_or_empty, _is_channel_or_empty, is_u64, is_u64), _plain_items, Redrive),
    CreateChannel: Shape(16, (_is_channel, _is_settings), _create_items, _create),
    UpdateChannel: Shape(17, (_is_channel, _is_settings), _update_items, _update),
    DeleteChannel: Shape(18, (_is_channel,), _plain_items, DeleteChannel),
    SetDefaults: Shape(20, (_is_channel, _is_said, _is_bool), _plain_items, SetDefaults),
    NewSchedule: Shape(21, (_is_channel, _is_plan, _is_frame), _schedule_items, _schedule),  # the frame ends the payload
    DeleteSchedule: Shape(22, (_is_channel,), _plain_items, DeleteSchedule),
    OpenConsumer: Shape(23, (*_PLACE, _is_bool, _is_session, is_u64, _is_settings), _open_items, _open),
    ResetConsumer: Shape(24, _PLACE, _plain_items, ResetConsumer),
    SetRoute: Shape(25, (_is_channel, _is_list), _plain_items, SetRoute),
    DeleteRoute: Shape(26, (_is_channel,), _plain_items, DeleteRoute),
    SetBinding: Shape(27, (_is_source, _is_list), _plain_items, SetBinding),
    DeleteBinding: Shape(28, (_is_source,), _plain_items, DeleteBinding),
}
SHAPE_OF_TYPE: dict[int, tuple[str, Shape]] = {shape.type: (kind.__name__, shape) for kind, shape in SHAPES.items()}


def fits(shape: Shape, items: object) -> bool:
    """True when these are the items of such a command, each as its check wants it."""
    if type(items) is not list or not len(shape.checks) - shape.optional <= len(items) <= len(shape.checks):
        return False
    return all(check(item) for check, item in zip(shape.checks, items, strict=False))
