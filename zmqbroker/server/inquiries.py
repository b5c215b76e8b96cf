"""Questions that change nothing: a channel's counters, its messages, which channels there are. Any node answers from its own
state; a follower's may be a tick old."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from zmqbroker.broker import Machine
from zmqbroker.broker.peeking import peek
from zmqbroker.errors import ChannelNotFound
from zmqbroker.server.replies import PLAIN_COUNT_MAX, messages_reply
from zmqbroker.wire import requests
from zmqbroker.wire.frames import Reply
from zmqbroker.wire.queue_requests import PEEK_SIZE_MAX, settings_fields

if TYPE_CHECKING:
    from zmqbroker.server.group import Group
    from zmqbroker.server.node import Node

__all__ = ["Inquiry", "inquire"]

#: Bytes of batch frames in the answer to one PEEK: headers count for no `max_bytes`, and a client may ask for 65,535 messages.
FRAMES_SIZE_MAX = 2 * PEEK_SIZE_MAX

Inquiry = requests.StatsRequest | requests.PeekRequest | requests.ListChannels


def inquire(node: Node, group: Group | None, request: Inquiry) -> tuple[Reply, dict[str, Any], list[bytes]]:
    """Code, fields and body frames of the answer. Raises ChannelNotFound."""
    match request:
        case requests.StatsRequest():
            return Reply.CHANNEL, _channel(group.machine if group else None, request.channel), []
        case requests.ListChannels():
            return Reply.CHANNELS, _list(group.machine if group else None, request), []
        case requests.PeekRequest():
            return Reply.MESSAGES, *_peek(node, group, request)


def _channel(machine: Machine | None, channel: str) -> dict[str, Any]:
    queue = machine.channel(channel) if machine else None
    if machine is None or queue is None:
        raise ChannelNotFound(f"no channel is called {channel!r}")
    stats = queue.stats()
    return {
        "channel": stats.channel,
        "depth": stats.depth,
        "ready": stats.ready,
        "in_flight": stats.in_flight,
        "delayed": stats.delayed,
        "waiting_receives": stats.waiting_receives,
        "last_sequence": stats.last_sequence,
        "acked": stats.acked,
        "redelivered": stats.redelivered,
        "expired": stats.expired,
        "dead_lettered": stats.dead_lettered,
        "moved": stats.moved,
        "dropped": stats.dropped,
        "size_bytes": stats.size_bytes,
        "oldest_unix_ns": stats.oldest_unix_ns,
        "settings": settings_fields(queue.settings),
        "applied_index": machine.applied_index,
    }


def _list(machine: Machine | None, request: requests.ListChannels) -> dict[str, Any]:
    names, after = machine.page(request.search, request.after, request.count_max) if machine else ([], None)
    fields = {"channels": [_channel(machine, name) for name in names], "more": after is not None}
    return fields if after is None else {**fields, "after": after}


def _peek(node: Node, group: Group | None, request: requests.PeekRequest) -> tuple[dict[str, Any], list[bytes]]:
    count_max = min(request.count_max, PLAIN_COUNT_MAX) if request.plain else request.count_max
    queue = group.machine.channel(request.channel) if group else None
    if group is None or queue is None:
        raise ChannelNotFound(f"no channel is called {request.channel!r}")
    found = peek(queue, request.first, request.since_unix_ns, count_max, request.size_max)
    read = partial(node.read, group.number)
    return messages_reply(found, read, plain=request.plain, size_max=FRAMES_SIZE_MAX)
