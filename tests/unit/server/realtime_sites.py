"""Nodes that share what never enters the log, without sockets: ports that keep what clients are sent, links that can break."""

from __future__ import annotations

import errno
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from zmqbroker.config import NodeConfig
from zmqbroker.server.event_sends import is_event_send, serve_event_send
from zmqbroker.server.node import Node
from zmqbroker.server.realtime import Realtime
from zmqbroker.server.routes import Pending, Route
from zmqbroker.server.sessions import Connections
from zmqbroker.server.sockets import ClientPort
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.frames import Reply, decode_header, split_delimiter
from zmqbroker.wire.peer import PeerKind
from zmqbroker.wire.requests import AnyRequest, RealtimeRequest, decode_request, encode_request

TIMEOUT_NS = 15_000_000_000


class Pushed(NamedTuple):
    """A message that a client was sent without asking."""

    subscription: int
    missed: int
    fields: dict[str, Any]
    bodies: list[bytes]


class Site:
    """One node; `Sites` joins them."""

    def __init__(self, uid: bytes, sites: Sites) -> None:
        self.uid, self._sites = uid, sites
        self.replies: list[tuple[Reply, dict[str, Any]]] = []
        self.sent: dict[bytes, list[list[bytes]]] = {}  # routing id -> messages
        self.refusing: dict[bytes, int] = {}  # routing id -> why
        self.counters: Counter[str] = Counter()
        self.connections = Connections(100, TIMEOUT_NS)
        config = NodeConfig.for_test()
        peers = SimpleNamespace(peers=sites.peers_of(uid))
        node = SimpleNamespace(
            config=config,
            counters=self.counters,
            network=self,
            reply=self._reply,
            formation=SimpleNamespace(formed=True, known=peers),
            routing=SimpleNamespace(feed=lambda _frame, _header: None, bound_count=lambda _frame: 3),
        )
        self.realtime = Realtime(cast(Node, node), cast(ClientPort, self), self.connections)
        node.realtime = self.realtime
        self._node = cast(Node, node)

    def _reply(self, _pending: Pending, code: Reply, fields: dict[str, Any], _frames: Iterable[bytes] = ()) -> None:
        self.replies.append((code, fields))

    # --- as a network and as a port --------------------------------------------------------------------------------------

    def peer_with(self, uid: bytes) -> SimpleNamespace | None:
        return self._sites.peers_of(self.uid).get(uid)

    def send_realtime(
        self, kind: PeerKind, peer: SimpleNamespace, fields: dict[str, Any], frames: Sequence[Buffer] = ()
    ) -> bool:
        return self._sites.send(self.uid, peer.uid, kind, fields, list(map(bytes, frames)))

    def offer_all(self, messages: Sequence[Sequence[bytes]]) -> list[tuple[int, int]]:
        refused = []
        for place, (routing_id, *frames) in enumerate(messages):
            if fault := self.refusing.get(routing_id):
                refused.append((place, fault))
            else:
                self.sent.setdefault(routing_id, []).append(frames)
        return refused

    # --- for tests ---------------------------------------------------------------------------------------------------------

    def ask(self, request: AnyRequest, client: bytes = b"client", *, delimiter: bool = False) -> None:
        """A client sends a request."""
        self.connections.heard(client, 0)
        frames = encode_request(1, request)
        code, _, fields = decode_header(frames[0])
        read = decode_request(code, fields, frames[1:])
        pending = Pending(Route(client, delimiter), 1, b"s" * 16)
        if is_event_send(read):
            serve_event_send(self._node, read, pending)
        else:
            self.realtime.serve(cast(RealtimeRequest, read), pending)
        self.realtime.announce()
        self._sites.run()

    def pushed(self, client: bytes = b"client") -> list[Pushed]:
        """What a client was sent since this was last asked."""
        found = []
        for message in self.sent.pop(client, []):
            _, frames = split_delimiter(message)
            command, request_id, fields = decode_header(frames[0])
            assert (command, request_id) == (Reply.EVENTS, 0)
            found.append(Pushed(fields.pop("subscription"), fields.pop("missed"), fields, list(frames[1:])))
        return found

    def lose(self, client: bytes) -> None:
        """A client's connection is gone."""
        self.refusing[client] = errno.EHOSTUNREACH

    def fill(self, client: bytes) -> None:
        """There is no room for a client's messages."""
        self.refusing[client] = errno.ENOBUFS


class Sites:
    """Some nodes, and what is on its way between them."""

    def __init__(self, *names: str) -> None:
        self._uids = [name.encode() * 16 for name in names]
        self.broken: set[bytes] = set()  # nothing reaches these
        self._under_way: deque[tuple[bytes, tuple[PeerKind, bytes, dict[str, Any], list[bytes]]]] = deque()
        self.travelled: list[tuple[bytes, PeerKind, dict[str, Any]]] = []  # to whom, what
        self.nodes = {uid: Site(uid, self) for uid in self._uids}

    def __iter__(self) -> Any:
        return iter(self.nodes.values())

    def peers_of(self, uid: bytes) -> dict[bytes, SimpleNamespace]:
        return {other: SimpleNamespace(uid=other) for other in self._uids if other != uid}

    def send(self, sender: bytes, to: bytes, kind: PeerKind, fields: dict[str, Any], frames: list[bytes]) -> bool:
        if to in self.broken:
            return False
        self._under_way.append((to, (kind, sender, fields, frames)))
        return True

    def run(self, now_ns: int = 0) -> None:
        """Everything arrives."""
        while self._under_way:
            to, item = self._under_way.popleft()
            self.travelled.append((to, item[0], item[2]))
            self.nodes[to].realtime.on_peer(item, now_ns)

    def sweep(self, now_ns: int) -> None:
        """A second has passed at each."""
        for uid, node in self.nodes.items():
            if uid not in self.broken:
                node.realtime.sweep(now_ns)
        self.run(now_ns)
