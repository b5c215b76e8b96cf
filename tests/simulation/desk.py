"""The clients' side of a simulated node: the twin of server/desk.py for requests that need no frames.

Requests are served by the real `Group`, and its answers travel back over the simulated network. Before a confirm leaves, what
it says must be true of the committed log (I19).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zmqbroker.commands import (
    Ack,
    Close,
    CreateChannel,
    Delivery,
    OpenConsumer,
    OpenProducer,
    Receive,
    SetBinding,
    Settle,
    UpdateChannel,
)
from zmqbroker.errors import NoMajority, NotLeader, RequestError
from zmqbroker.raft.messages import Role, SoftState
from zmqbroker.server.replies import messages_reply
from zmqbroker.server.routes import Pending, Route, Waiter
from zmqbroker.server.sessions import Liveness
from zmqbroker.wire import codec
from zmqbroker.wire.frames import Reply
from zmqbroker.wire.publish_all import PublishAllFrames

if TYPE_CHECKING:
    from tests.simulation.node import SimNode

__all__ = ["Answer", "ClientCommand", "Request", "SimDesk"]


#: What clients ask for beside to store a batch.
ClientCommand = OpenProducer | OpenConsumer | Receive | Ack | Settle | Close | CreateChannel | UpdateChannel | SetBinding


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks of a node: a batch to store, or a command."""

    client: int
    number: int  # request id
    session: bytes
    command: ClientCommand | None = None
    batches: tuple[bytes, ...] = ()  # several: of one message, each for another channel


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node says: a reply, or an error."""

    node: int
    number: int  # request id
    code: Reply
    fields: dict[str, Any]
    frames: tuple[bytes, ...] = ()
    error: RequestError | None = None


class SimDesk:
    """Serves clients, and is the `group.Host` of the node's group."""

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self.liveness = Liveness(node.cluster.options.session_timeout_ns)
        self._leaderless_ns = node.clock.monotonic_ns()

    def serve(self, request: Request) -> None:
        """A request has arrived."""
        node = self._node
        key = None
        if isinstance(request.command, Receive):
            key = request.command.key
        pending = Pending(Route(request.client.to_bytes(4, "big"), False), request.number, request.session, key)
        group = node.group
        if not group.leading:
            self.refuse(pending, self.not_leading(group.number, outcome_unknown=False))
            return
        self.liveness.heard(request.session, node.clock.monotonic_ns())
        command = request.command
        if command is None:
            for batch in request.batches:
                codec.read_batch(batch)
            if len(request.batches) > 1:
                group.submit(PublishAllFrames(request.batches), pending)
            else:
                group.publish(request.batches[0], 0, pending)
        else:
            if isinstance(command, Close):
                group.end_receives(command)
            group.submit(command, None if isinstance(command, OpenConsumer) else pending)

    def sweep(self) -> None:
        """Give up sessions that were silent, as server.node does about once a second."""
        group = self._node.group
        if group.leading:
            waiting = {key.session for key in group.receivers}
            now_ns = self._node.clock.monotonic_ns()
            for session in self.liveness.expired(group.machine.sessions(), waiting, now_ns):
                group.submit(Close(session))

    # --- group.Host ----------------------------------------------------------------------------------------------------

    def reply(self, pending: Waiter, code: Reply, fields: dict[str, Any], frames: Iterable[bytes] = ()) -> None:
        """Answer a request."""
        assert isinstance(pending, Pending)  # no client here sends plain SENDs
        answer = Answer(self._node.id, pending.request_id, code, fields, tuple(frames))
        self._node.cluster.answer(int.from_bytes(pending.route.routing_id, "big"), answer)

    def refuse(self, pending: Waiter, error: RequestError) -> None:
        """Answer a request with an error."""
        assert isinstance(pending, Pending)
        answer = Answer(self._node.id, pending.request_id, Reply.ERROR, {}, (), error)
        self._node.cluster.answer(int.from_bytes(pending.route.routing_id, "big"), answer)

    def deliver(self, pending: Pending, delivery: Delivery, group: int) -> None:
        """Answer a receive with its messages: what the machine wants done is done by the leader alone."""
        node = self._node
        if node.core.role is not Role.LEADER:
            node.cluster.raft.fail("I19", f"{delivery.key} is answered by a node that does not lead", node.id)
        fields, frames = messages_reply(delivery.pieces, self._node.flushing.read, plain=False)
        self.reply(pending, Reply.MESSAGES, fields, frames)

    def not_leading(self, group: int, *, outcome_unknown: bool) -> RequestError:
        """NOT_LEADER with the leader's id, or NO_MAJORITY after an election timeout without one."""
        node = self._node
        leader = node.group.soft_state.leader if node.group is not None else 0
        if not leader:
            leaderless_ns = node.clock.monotonic_ns() - self._leaderless_ns
            if node.group.lost_majority or leaderless_ns >= node.cluster.options.election_ns:
                return NoMajority("no leader", outcome_unknown=outcome_unknown)
        return NotLeader("another node leads", outcome_unknown=outcome_unknown, leader=str(leader) if leader else None)

    def members_changed(self, group: int) -> None:
        """Every machine knows where all others are."""

    def role_changed(self, group: int, soft_state: SoftState) -> None:
        """Note since when there is no leader; a new leadership starts every session's timer afresh."""
        if not soft_state.leader:
            self._leaderless_ns = self._node.clock.monotonic_ns()
        if soft_state.role == Role.LEADER:
            self.liveness.restart()
