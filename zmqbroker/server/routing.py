"""Smart routing at a node: one message to several destinations, and what is published as an event to the queues bound to it.

The leader serves it. It looks routes up when a request comes, and writes one entry with a frame for each stored destination;
events leave when that is applied, and not when it is refused. Source: docs/PROTOCOL.md §3, "Destinations" and SET_BINDING.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from zmqbroker.commands import (
    EVENTS,
    QUEUES,
    ROUTES,
    BatchHeader,
    Destination,
    OpenProducer,
)
from zmqbroker.errors import InvalidRequest, MessageTooLarge, RequestError, RouteNotFound
from zmqbroker.server.admission import admit_batch, batch_of
from zmqbroker.server.placement import group_of
from zmqbroker.server.replies import result_reply
from zmqbroker.server.routes import Pending, Route, Routed
from zmqbroker.wire import codec
from zmqbroker.wire.compression import mark_compressed
from zmqbroker.wire.destinations import DESTINATIONS_MAX, joined, read_destinations
from zmqbroker.wire.frames import Reply, error_fields
from zmqbroker.wire.peer import PeerKind
from zmqbroker.wire.publish_all import PublishAllFrames
from zmqbroker.wire.renaming import rename_batch
from zmqbroker.wire.requests import OpenProducers, RoutedSend, Send, SendBatch, encode_request
from zmqbroker.wire.send_requests import NO_CONFIRM

if TYPE_CHECKING:
    from zmqbroker.broker.routes import Routes
    from zmqbroker.server.group import Group
    from zmqbroker.server.leading import Leading
    from zmqbroker.server.node import Node

__all__ = ["Routing", "expanded"]

#: What a node sends on by itself has no client: nobody is answered, and nothing is held.
_NOBODY = Pending(Route(b"", False), 0, bytes(16), silent=True)
_NO_ROUTE = {"route": b"\0\0", "session": bytes(16)}


class Routing:
    """Serves requests with destinations at the node that leads, and feeds queues with events at any."""

    def __init__(self, node: Node, leading: Leading) -> None:
        self._node, self._leading = node, leading

    # --- sends -----------------------------------------------------------------------------------------------------------

    def send(self, group: Group, request: RoutedSend, pending: Pending) -> None:
        """Send a message to each of its destinations. Raises RequestError."""
        destinations, message = expanded(request.destinations, group.machine.routes), request.message
        pending = replace(pending, routed=Routed(destinations, message))
        stored = [destination for destination in destinations if destination.is_stored]
        batch, header = self._admitted(message, pending)
        if not stored:
            self._node.reply(pending, Reply.ROUTED, {"results": [], "confirm": NO_CONFIRM})
            return
        _check_groups(stored, self._node.config.cluster.groups)
        frames, headers = self._frames(stored, batch, header)
        size = sum(map(len, frames))
        if full := self._leading.no_room(group, size):
            done = group.machine.stored_all(headers)
            if done is None:
                raise full
            self._node.reply(pending, *result_reply(done, self._node.confirm))
            return
        self._node.counters["messages_in"] += header.count * len(frames)
        self._node.log_room.taken(size)
        group.submit(PublishAllFrames(frames, message.expected_sequence), pending)

    def _admitted(self, message: Send | SendBatch, pending: Pending) -> tuple[bytes, BatchHeader]:
        """The message as a batch frame, for some channel, with which nothing is wrong."""
        batch = batch_of(replace(message, channel="x")) if isinstance(message, Send) else bytes(message.batch)
        header = admit_batch(batch, self._node.config.limits.message_bytes_max)
        if pending.silent and header.producer:
            raise InvalidRequest(
                f"field confirm is 'none' for a batch of producer {header.producer}, which is told how it ends"
            )
        return batch, header

    def _frames(
        self, stored: Sequence[Destination], batch: bytes, header: BatchHeader
    ) -> tuple[tuple[bytes, ...], list[BatchHeader]]:
        """The batch for each of these. Raises MessageTooLarge."""
        channels = list(map(str, stored))
        rest, limit = len(batch) - len(header.channel.encode()), self._node.config.limits.batch_bytes_max
        size = sum(rest + len(channel.encode()) for channel in channels)
        if size > limit:
            text = f"{len(channels)} stored destinations make {size} bytes of one message, the limit is {limit}"
            raise MessageTooLarge(text, size=size, limit=limit)
        frames = tuple(rename_batch(batch, channel.encode()) for channel in channels)
        return frames, [replace(header, channel=channel) for channel in channels]

    def open(self, group: Group, request: OpenProducers, pending: Pending) -> None:
        """Make a producer known to each stored destination; the last one answers. Raises RequestError."""
        destinations = expanded(request.destinations, group.machine.routes)
        channels = [str(destination) for destination in destinations if destination.is_stored]
        if not channels:
            self._node.reply(pending, Reply.PRODUCER, {"last_sequence": 0})  # nothing there knows producers
            return
        for channel in channels[:-1]:
            group.submit(OpenProducer(channel, request.producer))
        group.submit(OpenProducer(channels[-1], request.producer), pending)

    # --- what became of it -----------------------------------------------------------------------------------------------

    def told(self, routed: Routed, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields of ROUTED with what became of events, which leave now that everything is stored."""
        stored: list[dict[str, Any]] = fields["results"]
        refused = next((one for one in stored if "code" in one), None)
        repeated = any(one.get("duplicate") for one in stored)
        rows = iter(stored)
        results = [
            next(rows) if destination.is_stored else self._event(destination, routed.message, refused, repeated=repeated)
            for destination in routed.destinations
        ]
        return {**fields, "results": results}

    def _event(
        self, destination: Destination, message: Send | SendBatch, refused: dict[str, Any] | None, *, repeated: bool
    ) -> dict[str, Any]:
        row: dict[str, Any] = {"destination": str(destination)}
        if repeated:  # it left when that was stored, or is lost: it leaves once at most
            return {**row, "subscribers": 0, "duplicate": True}
        if refused is not None:
            return {**refused, **row}
        try:
            return {**row, "subscribers": self._publish_event(destination.name, message), "duplicate": False}
        except RequestError as error:
            return {**row, **error_fields(error)}

    def _publish_event(self, name: str, message: Send | SendBatch) -> int:
        """Publish as an event; how many subscribers are known to get it."""
        _nodes, subscribers = self._node.realtime.events.publish(event_frame(message, name))
        return subscribers

    # --- events to queues ------------------------------------------------------------------------------------------------

    def feed(self, frame: bytes, header: BatchHeader) -> None:
        """Send what is published as an event, a good batch frame, to the queues that are bound to its name.

        Nobody is answered: what a queue refuses, or what meets no leader, is lost and counted. Each is a send of its own, so
        that a queue without room keeps nothing from the others.
        """
        for group in self._node.groups.values():
            for queue in group.machine.bindings.fed(EVENTS, header.channel):  # as a rule none
                self._feed_one(group, Destination(QUEUES, queue), frame, header)

    def bound_count(self, frame: bytes) -> int:
        """How many queues a good batch of events is sent to."""
        name = codec.read_batch(frame, verify=False).channel
        return sum(len(group.machine.bindings.fed(EVENTS, name)) for group in self._node.groups.values())

    def _feed_one(self, group: Group, queue: Destination, frame: bytes, header: BatchHeader) -> None:
        request = SendBatch(rename_batch(frame, str(queue).encode()), forward=True, confirm=NO_CONFIRM)
        if group.leading:
            try:
                self._leading.serve(group, request, _NOBODY)
            except RequestError:
                self._node.counters["bound_events_lost"] += header.count
            return
        peer = self._node.network.peer_of(group.soft_state.leader)
        frames = list(map(bytes, encode_request(0, request)))
        if peer is None or not self._node.network.send_forward(PeerKind.FORWARD, peer, _NO_ROUTE, frames):
            self._node.counters["bound_events_lost"] += header.count


def event_frame(message: Send | SendBatch, name: str) -> bytes:
    """The message as a batch frame of events, which says nothing of how it is stored."""
    if isinstance(message, Send):
        said = {field: getattr(message, field) for field in ("id", "metadata", "tags", "client_id", "trace")}
        return batch_of(Send(name, message.body, **said))
    contents = codec.decode_batch(message.batch, verify=False)
    frame = codec.encode_batch(name.encode(), list(map(bytes, contents.bodies)), ids=contents.ids, headers=contents.headers)
    return mark_compressed(frame) if contents.header.flags & 1 else frame


def expanded(destinations: Sequence[Destination], routes: Routes) -> tuple[Destination, ...]:
    """The destinations with those that routes stand for in their places, each once. Raises RouteNotFound or InvalidRequest."""
    found = tuple(dict.fromkeys(_expand(destinations, routes)))
    if len(found) > DESTINATIONS_MAX:
        text = f"{joined(destinations)!r} stands for {len(found)} destinations, the limit is {DESTINATIONS_MAX}"
        raise InvalidRequest(text)
    return found


def _expand(destinations: Sequence[Destination], routes: Routes) -> Iterator[Destination]:
    for destination in destinations:
        if destination.kind != ROUTES:
            yield destination
            continue
        text = routes.get(destination.name)
        if text is None:
            raise RouteNotFound(f"no route is called {destination.name!r}")
        yield from read_destinations(text)


def _check_groups(stored: Sequence[Destination], groups: int) -> None:
    """Raises InvalidRequest unless all are in one group."""
    home = group_of(str(stored[0]), groups)
    for destination in stored[1:]:
        if (group := group_of(str(destination), groups)) != home:
            raise InvalidRequest(
                f"destination {str(destination)!r} is in group {group} and {str(stored[0])!r} in group {home}: "
                "what stores one message is in one group, which channels with the same {tag} in their names share"
            )
