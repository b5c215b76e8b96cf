"""SEND and SEND_BATCH to `events:NAME`: what simple clients, and whoever routes, publish events with.

Any node serves them, whoever leads, since nothing of it is stored. Whatever says how a message is stored is refused.
Source: docs/PROTOCOL.md §3, SEND.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeGuard

from zmqbroker.commands import EVENTS_PREFIX
from zmqbroker.errors import InvalidRequest
from zmqbroker.server.admission import batch_of
from zmqbroker.server.routes import Pending
from zmqbroker.wire import codec, requests
from zmqbroker.wire.batch import HEADER_SIZE
from zmqbroker.wire.frames import Reply
from zmqbroker.wire.renaming import rename_batch

if TYPE_CHECKING:
    from zmqbroker.server.node import Node

__all__ = ["is_event_send", "serve_event_send"]

_PREFIX = EVENTS_PREFIX.encode()
#: Fields of SEND that say how a message is stored, or how that went.
_STORING = ("producer", "sequence", "delay_ms", "expiry_ms", "priority", "group", "expected_sequence", "explain")


def is_event_send(request: requests.AnyRequest) -> TypeGuard[requests.Send | requests.SendBatch]:
    """Whether a request is a send whose destination is a name of events."""
    if isinstance(request, requests.Send):
        return request.channel.startswith(EVENTS_PREFIX)
    if isinstance(request, requests.SendBatch):
        return bytes(request.batch[HEADER_SIZE : HEADER_SIZE + len(_PREFIX)]) == _PREFIX
    return False


def serve_event_send(node: Node, request: requests.Send | requests.SendBatch, pending: Pending) -> None:
    """Publish what such a request brings. Raises RequestError."""
    batch = batch_of(request) if isinstance(request, requests.Send) else bytes(request.batch)
    _refuse_storing(request)
    header = codec.read_batch(batch, body_size_max=node.config.limits.message_bytes_max)
    nodes, subscribers = node.realtime.events.publish(rename_batch(batch, header.channel.removeprefix(EVENTS_PREFIX).encode()))
    fields = {"sequence": 0, "count": header.count, "time_unix_ns": time.time_ns(), "duplicate": False, "confirm": "none"}
    node.reply(pending, Reply.SENT, {**fields, "nodes": nodes, "subscribers": subscribers})


def _refuse_storing(request: requests.Send | requests.SendBatch) -> None:
    for name in _STORING:
        field = request.__dataclass_fields__.get(name)
        if field is not None and (value := getattr(request, name)) != field.default:
            raise InvalidRequest(f"field {name} is {value!r}: events are not stored and have none")
