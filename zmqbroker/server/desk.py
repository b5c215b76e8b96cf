"""The client's side of a node: requests in, checked; replies out, to here or to the node that forwarded the request.

Whatever a client sends, it gets a named error and the node goes on; nothing is believed before it is checked. Requests for the
leader are refused with its endpoint, or passed on when they ask for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from zmqbroker.errors import (
    RequestError,
    UnknownCommand,
)
from zmqbroker.server import event_runs, operators
from zmqbroker.server.admission import pending_of
from zmqbroker.server.calls import is_call
from zmqbroker.server.event_sends import is_event_send, serve_event_send
from zmqbroker.server.inquiries import Inquiries, Inquiry
from zmqbroker.server.leading import LeaderRequest, Leading
from zmqbroker.server.reads import Reads
from zmqbroker.server.routes import Pending, PendingSends, Route, Waiter
from zmqbroker.server.sessions import Connections
from zmqbroker.server.sockets import ClientPort
from zmqbroker.server.status import node_fields, pong_fields
from zmqbroker.wire import codec, requests, sends
from zmqbroker.wire.frames import (
    Reply,
    decode_header,
    encode_header,
    error_fields,
    request_id_of,
    split_delimiter,
)
from zmqbroker.wire.peer import PeerKind

if TYPE_CHECKING:
    from zmqbroker.server.group import Group
    from zmqbroker.server.node import Node

__all__ = ["DATA_GROUP", "Desk"]

#: The group that holds every channel. Group 0 is kept for the cluster's own metadata.
DATA_GROUP = 1

#: Bodies of plain SENDs that are taken at a time, so that they do not outgrow an entry; the last one may go over it.
SENDS_BYTES = 1 << 20


class Desk:
    """Checks and dispatches requests of clients."""

    def __init__(self, node: Node, port: ClientPort) -> None:
        self._node, self._port = node, port
        limits = node.config.limits
        self.connections = Connections(limits.sessions_max, limits.session_timeout_ms * 1_000_000)
        self._inquiries = Inquiries(node, self.connections)
        self.leading = Leading(node)
        self.reads = Reads(node.bodies, node.counters, self.put, self.refuse)

    # --- in ----------------------------------------------------------------------------------------------------------

    def handle_all(self, messages: list[list[bytes]], now_ns: int) -> bool:
        """Serve what clients of this node sent, in order; plain SENDs next to each other become batches.

        Whether there was anything but calls and answers to calls.
        """
        others = False
        group = self._node.groups.get(DATA_GROUP)
        position = 0
        while position < len(messages):
            message = messages[position]
            if len(message) > 2 and is_call(message[-2]) and self._take_call(message, now_ns):
                position += 1
                continue
            others = True
            began = position
            if group is not None and group.leading:
                position = self._take_sends(group, messages, position, now_ns)
            position = self._take_events(messages, position, now_ns)
            if position == began:
                self.handle(message, now_ns)
                position += 1
        return others

    def _take_call(self, message: list[bytes], now_ns: int) -> bool:
        """Serve a CALL or a RESPOND, which take a shorter way; False when it has not the frames that it must have."""
        return self._node.realtime.calls.take(message, self.connections.heard(message[0], now_ns).client_id, now_ns)

    def _take_events(self, messages: list[list[bytes]], position: int, now_ns: int) -> int:
        """Publish the simple PUBLISHes from `position` on, a batch for each name; where the first other message is."""
        position, runs, clients = event_runs.gather(messages, position, self._node.config.limits.message_bytes_max)
        for routing_id in clients:
            self.connections.heard(routing_id, now_ns)
        for run in runs:
            self._node.realtime.events.publish(run.joined())
        return position

    def _take_sends(self, group: Group, messages: list[list[bytes]], position: int, now_ns: int) -> int:
        """Publish the plain SENDs from `position` on, a batch for each channel; where the first other message is."""
        position, runs = sends.gather(messages, position, self._node.config.limits.message_bytes_max, SENDS_BYTES)
        for channel, bodies, waiters in runs:
            for routing_id in {frames[0] for frames in waiters}:
                self._node.heard(self.connections.heard(routing_id, now_ns).session, now_ns)
            batch = codec.encode_batch(channel.encode(), bodies)
            pending = PendingSends(waiters)
            try:
                self.leading.store(group, codec.read_batch(batch, verify=False), batch, pending)
            except RequestError as error:
                self.refuse(pending, error)
        return position

    def handle(self, frames: list[bytes], now_ns: int) -> None:
        """Serve one message of a client of this node: [routing id, frames …]."""
        delimiter, body = split_delimiter(frames[1:])
        connection = self.connections.heard(frames[0], now_ns)
        route = Route(frames[0], delimiter)
        pending = Pending(route, request_id_of(body[0]) if body else 0, connection.session)
        try:
            code, _, fields = decode_header(body[0] if body else b"", from_client=True)
            request = requests.decode_request(code, fields, body[1:], self._node.config.limits.message_bytes_max)
            if isinstance(request, requests.Hello):
                connection = self.connections.hello(frames[0], request.session or b"", request.client_id, now_ns)
            pending = pending_of(request, route, pending.request_id, connection.session, now_ns)
            self._dispatch(request, pending, body, now_ns)
        except RequestError as error:
            self._refuse_request(pending, error)

    def handle_forwarded(self, item: tuple[PeerKind, bytes, dict[str, Any], list[bytes]], now_ns: int) -> None:
        """Serve a request that another node forwarded, or relay a reply to the client behind it."""
        kind, sender_uid, fields, frames = item
        packed, session = fields.get("route"), fields.get("session")
        if not isinstance(packed, bytes) or len(packed) < 2 or not frames:
            self._node.counters["peer_frames_dropped_bad_forward"] += 1
        elif kind == PeerKind.FORWARD_REPLY:
            self._port.send(packed[1:], [b"", *frames] if packed[0] else frames)
        elif not isinstance(session, bytes) or len(session) != 16:
            self._node.counters["peer_frames_dropped_bad_forward"] += 1
        else:
            self._serve_forwarded(Route(packed[1:], packed[0] == 1, sender_uid), session, frames, now_ns)

    def _serve_forwarded(self, route: Route, session: bytes, frames: list[bytes], now_ns: int) -> None:
        pending = Pending(route, request_id_of(frames[0]), session)
        try:
            code, _, fields = decode_header(frames[0], from_client=True)
            request = requests.decode_request(code, fields, frames[1:], self._node.config.limits.message_bytes_max)
            if isinstance(request, requests.Ping):
                self._node.heard(session, now_ns)  # the other node answers it; here it keeps the session alive
            elif isinstance(request, Inquiry):
                self._inquire(request, pending, frames, now_ns, forwarded=True)
            elif is_event_send(request):
                serve_event_send(self._node, request, pending)
            else:
                pending = pending_of(request, route, pending.request_id, session, now_ns)
                self._lead(request, pending, frames, now_ns, forwarded=True)
        except RequestError as error:
            self._refuse_request(pending, error)

    def _dispatch(self, request: requests.AnyRequest, pending: Pending, frames: Sequence[bytes], now_ns: int) -> None:
        node = self._node
        if isinstance(request, Inquiry):
            self._inquire(request, pending, frames, now_ns)
            return
        if is_event_send(request):
            serve_event_send(node, request, pending)
            return
        if isinstance(request, requests.RealtimeRequest):
            node.realtime.serve(request, pending)
            return
        if isinstance(request, requests.AnyCallRequest):
            if (found := node.realtime.calls.serve(request, pending)) is not None:
                self.send(pending.route, Reply.CACHE, pending.request_id, found)
            return
        match request:
            case requests.Hello():
                self.send(pending.route, Reply.WELCOME, pending.request_id, self._welcome(pending.session))
            case requests.Ping():
                self._keep_alive(pending, frames, now_ns)
                self.send(pending.route, Reply.PONG, pending.request_id, pong_fields(node))
            case requests.Info():
                self.send(pending.route, Reply.NODE, pending.request_id, node_fields(node))
            case requests.AuditRequest() if request.index:
                group = node.groups.get(DATA_GROUP)
                if group is None:
                    raise node.not_leading(DATA_GROUP, outcome_unknown=False)
                fields = operators.audit_fields(node, group, request)
                self.send(pending.route, Reply.AUDITED, pending.request_id, fields)
            case requests.BackupRequest():
                group = node.groups.get(DATA_GROUP)
                if group is None or node.backups is None:
                    raise node.not_leading(DATA_GROUP, outcome_unknown=False)
                fields, chunk = node.backups.serve(group, request, now_ns)
                self.send(pending.route, Reply.BACKED_UP, pending.request_id, fields, [chunk])
            case _:
                self._lead(request, pending, frames, now_ns, forwarded=False)

    def _keep_alive(self, pending: Pending, frames: Sequence[bytes], now_ns: int) -> None:
        """A session that holds something lives by being heard at the leader, wherever its client is connected."""
        for group in self._node.groups.values():
            if group.leading:
                self._node.heard(pending.session, now_ns)
            elif group.machine.holds(pending.session):
                self._forward(group, pending, frames)

    def _welcome(self, session: bytes) -> dict[str, Any]:
        limits = self._node.config.limits
        return {
            "session": session,
            "protocol": 1,
            "session_timeout_ms": limits.session_timeout_ms,
            "message_bytes_max": limits.message_bytes_max,
            "batch_bytes_max": limits.batch_bytes_max,
            "node": self._node.config.node.name,
            "cluster": self._node.formation.cluster_uid.hex(),
        }

    def _inquire(
        self, request: Inquiry, pending: Pending, frames: Sequence[bytes], now_ns: int, *, forwarded: bool = False
    ) -> None:
        """A follower's state may be a tick old: the leader's is told instead when that is asked for and one is known."""
        group = self._node.groups.get(DATA_GROUP)
        passes_on = request.forward and not forwarded and group is not None and not group.leading
        if passes_on and group is not None and self._forward(group, pending, frames):
            return
        if isinstance(request, requests.ReadRequest):
            if group is None:
                raise self._node.not_leading(DATA_GROUP, outcome_unknown=False)
            self.reads.ask(group, request, pending, now_ns)
            return
        code, fields, bodies = self._inquiries.answer(group, request)
        self.send(pending.route, code, pending.request_id, fields, bodies)

    def serve_reads(self) -> float | None:
        """Once in a pass: answer READs whose events have come; seconds until there is more to be done, None for nothing."""
        group = self._node.groups.get(DATA_GROUP)
        pause_ns = self.reads.serve(group, time.monotonic_ns()) if group is not None else None
        return None if pause_ns is None else pause_ns / 1e9

    # --- requests for the leader -------------------------------------------------------------------------------------

    def _lead(
        self, request: requests.AnyRequest, pending: Pending, frames: Sequence[bytes], now_ns: int, *, forwarded: bool
    ) -> None:
        if not isinstance(request, LeaderRequest):
            raise UnknownCommand(f"{type(request).__name__} is not a request that one node forwards to another")
        number = DATA_GROUP
        group = self._node.groups.get(number)
        if group is not None and group.leading:
            self._node.heard(pending.session, now_ns)
            self.leading.serve(group, request, pending)
            return
        if request.forward and not forwarded and group is not None and self._forward(group, pending, frames):
            return
        if group is None or pending.silent or not group.park(pending):
            raise self._node.not_leading(number, outcome_unknown=False)

    def _forward(self, group: Group, pending: Pending, frames: Sequence[bytes]) -> bool:
        peer = self._node.network.peer_of(group.soft_state.leader)
        if peer is None:
            return False
        packed = (b"\1" if pending.route.delimiter else b"\0") + pending.route.routing_id
        fields = {"route": packed, "session": pending.session}
        return self._node.network.send_forward(PeerKind.FORWARD, peer, fields, frames)

    # --- out ---------------------------------------------------------------------------------------------------------

    def send(self, route: Route, code: Reply, request_id: int, fields: dict[str, Any], frames: Iterable[bytes] = ()) -> None:
        """Send one reply to wherever its request came from; a client that is gone gets nothing."""
        self.put(route, [encode_header(code, request_id, fields), *frames])

    def put(self, route: Route, out: Sequence[bytes]) -> None:
        """The same with the frames of the reply."""
        if not route.origin:
            self._port.send(route.routing_id, [b"", *out] if route.delimiter else out)
            return
        peer = self._node.network.peer_with(route.origin)
        if peer is not None:
            packed = (b"\1" if route.delimiter else b"\0") + route.routing_id
            self._node.network.send_forward(PeerKind.FORWARD_REPLY, peer, {"route": packed}, out)

    def answer(self, pending: Waiter, code: Reply, fields: dict[str, Any], frames: Iterable[bytes] = ()) -> None:
        """Send whoever waits for a request its reply; of SENDs that became one batch each its own."""
        if isinstance(pending, PendingSends):
            sends.put_confirms(pending.waiters, fields["sequence"], fields["time_unix_ns"], fields["confirm"])
            self._port.send_all(pending.waiters)
            return
        if pending.routed is not None:
            fields = self.leading.routing.told(pending.routed, fields)
        if not pending.silent:
            self.send(pending.route, code, pending.request_id, fields, frames)

    def refuse(self, pending: Waiter, error: RequestError) -> None:
        """Send whoever waits for a request ERROR, and count it."""
        self._node.counters[f"refused_{error.code.lower()}"] += pending.count or 1
        if isinstance(pending, PendingSends):
            for routing_id, *delimiter, header in pending.waiters:
                self.send(Route(routing_id, bool(delimiter)), Reply.ERROR, request_id_of(header), error_fields(error))
        elif pending.silent:
            self._node.counters["sends_refused_unanswered"] += 1
        else:
            self.send(pending.route, Reply.ERROR, pending.request_id, error_fields(error))

    def _refuse_request(self, pending: Pending, error: RequestError) -> None:
        """Refuse a request as it is read; who wants no answer hears of a fault of his own all the same."""
        self.refuse(pending if error.retryable else replace(pending, silent=False), error)

    def sweep(self, now_ns: int) -> None:
        """Forget connections that were silent too long and wait for nothing."""
        waiting = {key.session for group in self._node.groups.values() for key in group.receivers}
        waiting |= self.reads.sessions()
        self.connections.sweep(now_ns, waiting)
