"""Questions that change nothing: a channel's counters, its messages, which channels, schedules and defaults there are. Any node
answers from its own state; a follower's may be a tick old."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from zmqbroker.broker import Machine
from zmqbroker.broker.peeking import peek
from zmqbroker.commands import DESTINATION_SEPARATOR, is_consumer
from zmqbroker.errors import ChannelNotFound
from zmqbroker.server.rates import Rates
from zmqbroker.server.replies import PLAIN_COUNT_MAX, messages_reply
from zmqbroker.wire import requests
from zmqbroker.wire.frames import Reply
from zmqbroker.wire.queue_requests import PEEK_SIZE_MAX, settings_fields

if TYPE_CHECKING:
    from zmqbroker.server.group import Group
    from zmqbroker.server.node import Node
    from zmqbroker.server.sessions import Connections

__all__ = ["Inquiries", "Inquiry"]

#: Bytes of batch frames in the answer to one PEEK: headers count for no `max_bytes`, and a client may ask for 65,535 messages.
FRAMES_SIZE_MAX = 2 * PEEK_SIZE_MAX

#: The counters that are told of a channel, in this order.
_TOLD = (
    *("channel", "depth", "ready", "in_flight", "delayed", "parked", "waiting_receives", "consumers", "last_sequence"),
    *("sent", "delivered", "acked", "redelivered", "expired", "dead_lettered", "moved", "dropped", "deduplicated"),
    *("size_bytes", "sent_bytes", "delivered_bytes", "oldest_unix_ns"),
)
#: And of durable consumers of events stores.
_TOLD_OF_CONSUMERS = ("position", "unread", "missed")

Listing = requests.ListChannels | requests.ListSchedules | requests.ListDefaults | requests.ListRoutes | requests.ListBindings
Answered = requests.StatsRequest | requests.PeekRequest | Listing
#: READs, which may wait, are answered elsewhere (`reads`).
Inquiry = Answered | requests.ReadRequest


class Inquiries:
    """Answers them for one node, which remembers what it told of channels: their rates are between two answers."""

    def __init__(self, node: Node, connections: Connections) -> None:
        self._node, self._connections = node, connections
        self._rates = Rates()

    def answer(self, group: Group | None, request: Answered) -> tuple[Reply, dict[str, Any], list[bytes]]:
        """Code, fields and body frames of the answer. Raises ChannelNotFound."""
        match request:
            case requests.StatsRequest():
                return Reply.CHANNEL, self._channel(group.machine if group else None, request.channel), []
            case requests.ListChannels():
                return Reply.CHANNELS, self._list(group.machine if group else None, request), []
            case requests.ListSchedules():
                return Reply.SCHEDULES, _list_schedules(group.machine if group else None, request), []
            case requests.ListDefaults():
                rows = group.machine.defaults() if group else ()
                return Reply.DEFAULTS, {"defaults": [{"pattern": name, "settings": dict(said)} for name, said in rows]}, []
            case requests.ListRoutes():
                return Reply.ROUTES, _list_routes(group.machine if group else None, request), []
            case requests.ListBindings():
                return Reply.BINDINGS, _list_bindings(group.machine if group else None, request), []
            case requests.PeekRequest():
                return Reply.MESSAGES, *_peek(self._node, group, request)

    def _channel(self, machine: Machine | None, channel: str) -> dict[str, Any]:
        queue = machine.channel(channel) if machine else None
        if machine is None or queue is None:
            raise ChannelNotFound(f"no channel is called {channel!r}")
        stats = queue.stats()
        rate = self._rates.ask(stats, time.monotonic_ns())
        return {
            **{name: getattr(stats, name) for name in _TOLD},
            "sent_per_s": rate.sent_per_s,
            "delivered_per_s": rate.delivered_per_s,
            "rate_window_ms": rate.window_ms,
            "active": None if stats.active is None else self._consumer(*stats.active),
            **({name: getattr(stats, name) for name in _TOLD_OF_CONSUMERS} if is_consumer(channel) else {}),
            "settings": settings_fields(queue.settings),
            "applied_index": machine.applied_index,
        }

    def _consumer(self, session: bytes, consumer: int) -> dict[str, Any]:
        return {"session": session.hex(), "consumer": consumer, "client_id": self._connections.client_id_of(session)}

    def _list(self, machine: Machine | None, request: requests.ListChannels) -> dict[str, Any]:
        names, after = machine.page(request.search, request.after, request.count_max) if machine else ([], None)
        fields = {"channels": [self._channel(machine, name) for name in names], "more": after is not None}
        return fields if after is None else {**fields, "after": after}


def _list_schedules(machine: Machine | None, request: requests.ListSchedules) -> dict[str, Any]:
    schedules = machine.schedules() if machine else ()
    found = [schedule for schedule in schedules if schedule.name > request.after and request.search in schedule.name]
    rows = [
        {
            "name": schedule.name,
            "channel": schedule.message.header.channel,
            "plan": schedule.plan.said(),
            "next_unix_ns": None if schedule.ended else schedule.instant_unix_ns,
            "times_left": schedule.times_left,
            "stored": schedule.stored,
            "skipped": schedule.skipped,
        }
        for schedule in found[: request.count_max]
    ]
    return {"schedules": rows, "more": len(found) > request.count_max}


def _list_routes(machine: Machine | None, request: requests.ListRoutes) -> dict[str, Any]:
    routes = machine.routes if machine else ()
    rows = [{"name": name, "destinations": text} for name, text in routes if name > request.after and request.search in name]
    return {"routes": rows[: request.count_max], "more": len(rows) > request.count_max}


def _list_bindings(machine: Machine | None, request: requests.ListBindings) -> dict[str, Any]:
    bindings = machine.bindings if machine else ()
    rows = [
        {"source": binding.source, "queues": DESTINATION_SEPARATOR.join(binding.queues), "left_out": binding.left_out}
        for binding in bindings
        if binding.source > request.after and request.search in binding.source
    ]
    return {"bindings": rows[: request.count_max], "more": len(rows) > request.count_max}


def _peek(node: Node, group: Group | None, request: requests.PeekRequest) -> tuple[dict[str, Any], list[bytes]]:
    count_max = min(request.count_max, PLAIN_COUNT_MAX) if request.plain else request.count_max
    queue = group.machine.channel(request.channel) if group else None
    if group is None or queue is None:
        raise ChannelNotFound(f"no channel is called {request.channel!r}")
    found = peek(queue, request.first, request.since_unix_ns, count_max, request.size_max)
    read = partial(node.bodies.read, group.number)
    return messages_reply(found, read, plain=request.plain, size_max=FRAMES_SIZE_MAX)
