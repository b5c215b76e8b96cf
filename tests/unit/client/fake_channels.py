"""What the fake broker does with channels, and with messages besides to send, receive and ack (PROTOCOL §3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from zmqbroker.commands import (
    CreateChannel,
    DeleteBinding,
    DeleteChannel,
    DeleteMessages,
    DeleteRoute,
    DeleteSchedule,
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
)
from zmqbroker.errors import ChannelExists, ChannelNotFound, InvalidRequest, RouteNotFound, ScheduleNotFound, StaleReceipt
from zmqbroker.wire.codec import encode_batch
from zmqbroker.wire.compression import mark_compressed
from zmqbroker.wire.frames import Reply
from zmqbroker.wire.queue_requests import Managed, settings_fields
from zmqbroker.wire.requests import (
    CreateScheduleRequest,
    ListBindings,
    ListChannels,
    ListRoutes,
    ListSchedules,
    PeekRequest,
)

if TYPE_CHECKING:
    from tests.unit.client.fakes import FakeBroker, FakeChannel

__all__ = ["create_schedule", "list_channels", "list_defaults", "list_schedules", "manage", "peek", "settle"]

Reply3 = tuple[Reply, dict[str, Any], list[bytes]]


def _found(broker: FakeBroker, name: str) -> FakeChannel:
    channel = broker.channels.get(name)
    if channel is None:
        raise ChannelNotFound(f"no channel {name!r}")
    return channel


def _done(count: int) -> Reply3:
    return Reply.DONE, {"count": count, "confirm": "quorum"}, []


def settle(broker: FakeBroker, command: Settle, session: bytes) -> Reply3:
    """NACK, REJECT, REQUEUE, EXTEND: whole receipts that are held, or finished; the others are stale."""
    channel, stale, count = _found(broker, command.channel), [], 0
    broker.settled.append(replace(command, session=session))
    to = channel.settings.dead_letter if isinstance(command, Reject) else command.to if isinstance(command, Requeue) else ""
    if isinstance(command, Reject) and not to:
        raise InvalidRequest("no dead-letter channel")
    for receipt in command.receipts:
        if _held(channel, receipt, session):
            held = [at for at in range(receipt.first, receipt.last + 1) if at in channel.in_flight]
            count += len(held)
            _settle(broker, channel, command, to, held)
        else:
            stale.append([receipt.assigning, receipt.first, receipt.last])
    if stale:
        raise StaleReceipt(f"{len(stale)} receipts are stale", stale=stale, count=count)
    return _done(count)


def _held(channel: FakeChannel, receipt: Receipt, session: bytes) -> bool:
    sequences = range(receipt.first, receipt.last + 1)
    mine = (channel.in_flight.get(at, (0, b"", 0))[:2] == (receipt.assigning, session) for at in sequences)
    return all(one or at in channel.acked for one, at in zip(mine, sequences, strict=True))


def _settle(broker: FakeBroker, channel: FakeChannel, command: Settle, to: str, held: Iterable[int]) -> None:
    for sequence in held:
        message = channel.messages[sequence - 1]
        if isinstance(command, Nack) and not command.behind:
            del channel.in_flight[sequence]
            channel.ready.append(sequence)
        elif isinstance(command, Nack | Reject | Requeue):
            del channel.in_flight[sequence]
            channel.acked.add(sequence)
            target = broker.channel(to) if to else channel
            target.messages.append(replace(message, delivery_count=0))
            target.ready.append(len(target.messages))


def manage(broker: FakeBroker, command: Managed) -> Reply3:
    """What is done with whole channels, and rules for several of them."""
    broker.managed.append(command)
    if isinstance(command, SetDefaults):
        changed = broker.defaults.get(command.pattern, {}) != command.settings
        broker.defaults[command.pattern] = command.settings
        return Reply.CHANGED, {"pattern": command.pattern, "changed": changed, "confirm": "quorum"}, []
    if isinstance(command, DeleteSchedule):
        if broker.schedules.pop(command.name, None) is None:
            raise ScheduleNotFound(f"no schedule {command.name!r}")
        return Reply.CHANGED, {"schedule": command.name, "changed": True, "confirm": "quorum"}, []
    if isinstance(command, CreateChannel):
        return _create(broker, command)
    if isinstance(command, RoutingRule):
        return set_routing(broker, command)
    channel = _found(broker, command.channel)
    match command:
        case Purge():
            return _done(_finish(channel, set(channel.ready) | (set(channel.in_flight) if command.in_flight else set())))
        case DeleteMessages():
            wanted = {at for first, last in command.sequences for at in range(first, last + 1)}
            return _done(_finish(channel, wanted & set(channel.ready)))
        case Redrive():
            taken = [at for at in channel.ready if at >= command.first][: command.count_max or None]
            left = [at for at in taken if at >= command.first + broker.page]
            taken = [at for at in taken if at not in left]
            for sequence in taken:
                target = broker.channel(command.to or "origin")
                target.messages.append(channel.messages[sequence - 1])
                target.ready.append(len(target.messages))
            code, fields, frames = _done(_finish(channel, set(taken)))
            return code, {**fields, "next": left[0]} if left else fields, frames
        case UpdateChannel():
            changed = channel.settings != command.settings
            channel.settings = command.settings
        case DeleteChannel():
            changed = True
            del broker.channels[command.channel]
    return Reply.CHANGED, {"channel": command.channel, "changed": changed, "confirm": "quorum"}, []


def set_routing(broker: FakeBroker, command: RoutingRule) -> Reply3:
    """SET_ROUTE, DELETE_ROUTE, SET_BINDING and DELETE_BINDING."""
    if isinstance(command, SetBinding | DeleteBinding):
        wanted = command.queues if isinstance(command, SetBinding) else None
        changed = broker.bindings.get(command.source) != wanted
        _put(broker.bindings, command.source, wanted)
        return Reply.CHANGED, {"binding": command.source, "changed": changed, "confirm": "quorum"}, []
    if isinstance(command, DeleteRoute) and command.name not in broker.routes:
        raise RouteNotFound(f"no route is called {command.name!r}")
    wanted = command.destinations if isinstance(command, SetRoute) else None
    changed = broker.routes.get(command.name) != wanted
    _put(broker.routes, command.name, wanted)
    return Reply.CHANGED, {"route": command.name, "changed": changed, "confirm": "quorum"}, []


def _put(rules: dict[str, str], name: str, wanted: str | None) -> None:
    rules.pop(name, None)
    if wanted is not None:
        rules[name] = wanted


def list_routes(broker: FakeBroker, request: ListRoutes) -> Reply3:
    """LIST_ROUTES, in pages of `broker.page` at most."""
    names = sorted(name for name in broker.routes if name > request.after and request.search in name)
    count = min(request.count_max, broker.page)
    rows = [{"name": name, "destinations": broker.routes[name]} for name in names[:count]]
    return Reply.ROUTES, {"routes": rows, "more": len(names) > count}, []


def list_bindings(broker: FakeBroker, request: ListBindings) -> Reply3:
    """LIST_BINDINGS, in pages of `broker.page` at most."""
    names = sorted(name for name in broker.bindings if name > request.after and request.search in name)
    count = min(request.count_max, broker.page)
    rows = [{"source": name, "queues": broker.bindings[name], "left_out": 0} for name in names[:count]]
    return Reply.BINDINGS, {"bindings": rows, "more": len(names) > count}, []


def _finish(channel: FakeChannel, sequences: set[int]) -> int:
    for sequence in sequences:
        channel.in_flight.pop(sequence, None)
        if sequence in channel.ready:
            channel.ready.remove(sequence)
    channel.acked |= sequences
    return len(sequences)


def _create(broker: FakeBroker, command: CreateChannel) -> Reply3:
    there = broker.channels.get(command.channel)
    if there is not None and there.settings != command.settings:
        raise ChannelExists("it has other settings", differing=["delay_ms"])
    broker.channel(command.channel).settings = command.settings
    return Reply.CHANGED, {"channel": command.channel, "changed": there is None, "confirm": "quorum"}, []


def row(broker: FakeBroker, name: str) -> dict[str, Any]:
    """A channel as CHANNEL and CHANNELS tell it."""
    channel = _found(broker, name)
    counts = {"ready": len(channel.ready), "in_flight": len(channel.in_flight)}
    return {"channel": name, **counts, "settings": settings_fields(channel.settings)}


def list_channels(broker: FakeBroker, request: ListChannels) -> Reply3:
    """LIST_CHANNELS, in pages of `broker.page` at most."""
    names = sorted(name for name in broker.channels if name > request.after and request.search in name)
    count = min(request.count_max, broker.page)
    return Reply.CHANNELS, {"channels": [row(broker, name) for name in names[:count]], "more": len(names) > count}, []


def create_schedule(broker: FakeBroker, request: CreateScheduleRequest) -> Reply3:
    """CREATE_SCHEDULE, which is remembered."""
    changed = broker.schedules.get(request.name) != request
    broker.schedules[request.name] = request
    return Reply.CHANGED, {"schedule": request.name, "changed": changed, "confirm": "quorum"}, []


def list_schedules(broker: FakeBroker, request: ListSchedules) -> Reply3:
    """LIST_SCHEDULES, in pages of `broker.page` at most."""
    names = sorted(name for name in broker.schedules if name > request.after and request.search in name)
    count = min(request.count_max, broker.page)
    rows = [{"name": name, "channel": broker.schedules[name].message.channel} for name in names[:count]]
    return Reply.SCHEDULES, {"schedules": rows, "more": len(names) > count}, []


def list_defaults(broker: FakeBroker) -> Reply3:
    """LIST_DEFAULTS."""
    return Reply.DEFAULTS, {"defaults": [{"pattern": p, "settings": s} for p, s in sorted(broker.defaults.items()) if s]}, []


def peek(broker: FakeBroker, request: PeekRequest) -> Reply3:
    """PEEK: the messages that are ready, each in a piece of its own."""
    channel, pieces, frames = _found(broker, request.channel), [], []
    for sequence in [at for at in sorted(channel.ready) if at >= max(request.first, request.since_unix_ns)][
        : request.count_max
    ]:
        stored = channel.messages[sequence - 1]
        pieces.append([0, sequence, sequence, stored.delivery_count, sequence])
        frame = encode_batch(request.channel.encode(), [stored.body], 0, 0, [stored.id], [stored.headers])
        frames.append(mark_compressed(frame) if stored.compressed else frame)
    return Reply.MESSAGES, {"pieces": pieces}, frames
