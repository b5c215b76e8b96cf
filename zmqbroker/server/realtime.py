"""What never enters the log, at one node: subscriptions of its clients, what the other nodes want, and the ways to both.

Subscriptions end with their connection: when the client is silent for a session's timeout, or a message to it is refused since
it is gone. What the nodes tell each other of their interest, and all messages of this kind, go on connections beside those for
Raft, so that no heartbeat waits behind them. Events themselves are in `events`. Source: docs/PROTOCOL.md §3 and §8.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from zmqbroker.commands import BatchHeader, Want
from zmqbroker.errors import InvalidRequest, RequestError
from zmqbroker.realtime import Interest, Subscription
from zmqbroker.server.calls import CALL_PEER_KINDS, CallDesk
from zmqbroker.server.events import Events
from zmqbroker.server.routes import Pending
from zmqbroker.wire.frames import Reply
from zmqbroker.wire.interest import announcement_fields, read_announcement
from zmqbroker.wire.peer import PeerKind
from zmqbroker.wire.realtime_requests import (
    KINDS,
    GrantRequest,
    PublishRequest,
    RealtimeRequest,
    SubscribeRequest,
    UnsubscribeRequest,
)

if TYPE_CHECKING:
    from zmqbroker.server.acquaintances import PeerState
    from zmqbroker.server.node import Node
    from zmqbroker.server.sessions import Connections
    from zmqbroker.server.sockets import ClientPort
    from zmqbroker.wire.batch import Buffer

__all__ = ["REALTIME_KINDS", "Realtime"]

#: Kinds of peer frames that are for this module.
REALTIME_KINDS = frozenset((PeerKind.INTEREST, PeerKind.EVENTS, *CALL_PEER_KINDS))
#: A node that has told nothing for so long is gone; each tells where it stands about once a second.
SILENT_NS = 4_000_000_000
#: A node is asked for its whole interest no more often: the answer to the last time may be on its way.
ASK_INTERVAL_NS = 200_000_000

PeerItem = tuple[PeerKind, bytes, dict[str, Any], list[bytes]]


class Realtime:
    """Serves requests about subscriptions and events; keeps this node's interest and that of the others together."""

    def __init__(self, node: Node, port: ClientPort, connections: Connections) -> None:
        self._node, self._port, self._connections = node, port, connections
        self.interest = Interest(os.urandom(16))
        self.events = Events(self, node.config.limits.message_bytes_max)
        self.calls = CallDesk(self, port, node.config.limits)
        self._asked_ns: dict[
            bytes, int
        ] = {}  # node uid -> when it was asked for its whole interest; one item per member ever heard

    # --- requests of clients ---------------------------------------------------------------------------------------------

    def serve(self, request: RealtimeRequest, pending: Pending) -> None:
        """Serve a request of a client of this node. Raises RequestError."""
        match request:
            case SubscribeRequest():
                self._subscribe(request, pending)
            case UnsubscribeRequest():
                ended = self.interest.unsubscribe(pending.route.routing_id, request.subscription)
                if ended is not None:
                    self.calls.leave(ended)
                self._node.reply(pending, Reply.UNSUBSCRIBED, {"missed": ended.missed if ended is not None else 0})
            case GrantRequest():
                self._grant(request, pending)
            case PublishRequest():
                nodes, subscribers = self.events.publish(bytes(request.batch))
                if request.confirm:
                    queues = self._node.routing.bound_count(bytes(request.batch))
                    self._node.reply(pending, Reply.PUBLISHED, {"nodes": nodes, "subscribers": subscribers, "queues": queues})

    def _subscribe(self, request: SubscribeRequest, pending: Pending) -> None:
        route, want = pending.route, Want(KINDS[request.kind], request.pattern, request.group)
        asked = Subscription(
            route.routing_id,
            request.subscription,
            want,
            request.credit,
            request.credit_bytes,
            plain=request.plain,
            tables=request.tables,
            delimiter=route.delimiter,
        )
        if self.interest.subscribe(asked) is asked:
            self.calls.join(asked)
        self._node.reply(pending, Reply.SUBSCRIBED, {"subscription": request.subscription})

    def _grant(self, request: GrantRequest, pending: Pending) -> None:
        """No answer: a client grants while it reads. One that was not told of what it missed hears of that now."""
        subscription = self.interest.get(pending.route.routing_id, request.subscription)
        if subscription is None:
            raise InvalidRequest(f"field subscription is {request.subscription}, which this connection has not subscribed with")
        subscription.grant(request.credit, request.credit_bytes)
        if subscription.missed != subscription.told_missed:
            self.events.tell_missed(subscription)

    # --- to clients and other nodes --------------------------------------------------------------------------------------

    def push(self, messages: Sequence[Sequence[bytes]]) -> list[int]:
        """Send clients messages, [routing id, frames …] each; the places of those that were refused.

        Whoever is gone has no subscriptions any more.
        """
        refused = self._port.offer_all(messages)
        for place, fault in refused:
            if fault == errno.EHOSTUNREACH:
                self.gone(messages[place][0])
        return [place for place, _ in refused]

    def gone(self, routing_id: bytes, unreached: Iterable[int] = ()) -> None:
        """A connection is no more; the calls under the numbers `unreached` have not come to it."""
        self.interest.drop(routing_id)
        self.calls.gone(routing_id, unreached)

    def tell(self, kind: PeerKind, uid: bytes, fields: dict[str, Any], frames: Sequence[Buffer] = ()) -> bool:
        """Send another node something; False when it cannot be reached now."""
        peer = self._node.network.peer_with(uid)
        return peer is not None and self._node.network.send_realtime(kind, peer, fields, frames)

    def feed(self, frame: bytes, header: BatchHeader) -> None:
        """Send what a client has published to the queues that are bound to its name."""
        self._node.routing.feed(frame, header)

    def count(self, what: str, count: int = 1) -> None:
        """Add to a counter that INFO tells."""
        self._node.counters[what] += count

    # --- from other nodes ------------------------------------------------------------------------------------------------

    def on_peer(self, item: PeerItem, now_ns: int) -> None:
        """Take what a member sent."""
        kind, uid, fields, frames = item
        try:
            if kind == PeerKind.INTEREST:
                self._hear(uid, fields, now_ns)
            elif kind == PeerKind.EVENTS:
                self.events.on_peer(fields, frames)
            else:
                self.calls.on_peer(kind, uid, fields, frames, now_ns)
        except RequestError as error:
            self.count(f"peer_frames_dropped_{error.code.lower()}")

    def _hear(self, uid: bytes, fields: dict[str, Any], now_ns: int) -> None:
        told = read_announcement(fields)
        behind = self.interest.hear(uid, told, now_ns)
        self.calls.hear_run(uid, told.run)
        if told.ask:
            self.announce()
            for piece in self.interest.own.whole():
                self.tell(PeerKind.INTEREST, uid, announcement_fields(piece))
        if behind and now_ns - self._asked_ns.get(uid, -ASK_INTERVAL_NS) >= ASK_INTERVAL_NS:
            self._asked_ns[uid] = now_ns
            self.tell(PeerKind.INTEREST, uid, announcement_fields(self.interest.own.stand(ask=True)))

    # --- interest ----------------------------------------------------------------------------------------------------------

    def announce(self) -> None:
        """Tell all other nodes what has changed since this was last called."""
        for told in self.interest.own.take_changes():
            self._tell_all(announcement_fields(told))

    def sweep(self, now_ns: int) -> None:
        """End what belongs to nobody any more, and tell the others where this node stands; call about once a second."""
        for owner in self.interest.owners():
            if owner not in self._connections:
                self.gone(owner)
        for uid in self.interest.silent(now_ns - SILENT_NS):
            self.node_gone(uid)
        self.announce()
        self.events.report_losses()
        self._tell_all(announcement_fields(self.interest.own.stand()))

    def node_gone(self, uid: bytes) -> None:
        """Another node is gone; if it is not, it is heard again within a second."""
        self.interest.forget(uid)
        self.events.forget(uid)
        self.calls.node_gone(uid)

    def _tell_all(self, fields: dict[str, Any]) -> None:
        for peer in self._members():
            self._node.network.send_realtime(PeerKind.INTEREST, peer, fields)

    def _members(self) -> list[PeerState]:
        """The other members, once the cluster is formed."""
        formation = self._node.formation
        return [peer for peer in formation.known.peers.values() if peer.uid] if formation.formed else []
