"""What a leader does with requests that change something: each is checked against the room there is and becomes a command.

Only the leader is asked; who it is, and how the others pass requests on, is the desk's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from zmqbroker.commands import (
    CONSUMER_MARK,
    CREATE_ON_USE,
    Ack,
    BatchHeader,
    Close,
    NewSchedule,
    OpenConsumer,
    OpenProducer,
    Receive,
    ReceiveKey,
    ResetConsumer,
    SetDefaults,
    TakeAudit,
)
from zmqbroker.errors import InvalidRequest, StorageFull
from zmqbroker.server import operators
from zmqbroker.server.admission import admit_batch, admit_hand_over, batch_of
from zmqbroker.server.replies import PLAIN_COUNT_MAX, result_reply
from zmqbroker.server.routes import Pending, Waiter
from zmqbroker.server.routing import Routing
from zmqbroker.wire import requests
from zmqbroker.wire.batch import COUNT_MAX
from zmqbroker.wire.frames import Reply
from zmqbroker.wire.hand_overs import HandOverFrames

if TYPE_CHECKING:
    from zmqbroker.server.group import Group
    from zmqbroker.server.node import Node

__all__ = ["LeaderRequest", "Leading"]

LeaderRequest = (
    requests.Send
    | requests.SendBatch
    | requests.HandOverRequest
    | requests.ReceiveRequest
    | requests.AckRequest
    | requests.SettleRequest
    | requests.ManageRequest
    | requests.CreateScheduleRequest
    | requests.OpenProducerRequest
    | requests.OpenConsumerRequest
    | requests.ResetConsumerRequest
    | requests.CloseRequest
    | requests.ChangeMembers
    | requests.Transfer
    | requests.AuditRequest
    | requests.RoutedSend
    | requests.OpenProducers
)


def _place_of(
    request: requests.OpenConsumerRequest | requests.ResetConsumerRequest, session: bytes
) -> OpenConsumer | ResetConsumer:
    """What a request about a durable consumer becomes in the log."""
    store, _, name = request.channel.partition(CONSUMER_MARK)
    if isinstance(request, requests.ResetConsumerRequest):
        return ResetConsumer(store, name, request.start, request.value)
    return OpenConsumer(store, name, request.start, request.value, request.exclusive, session, request.consumer)


class Leading:
    """Serves the requests for the leader, at the node that leads their group."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.routing = Routing(node, self)

    def serve(self, group: Group, request: LeaderRequest, pending: Pending) -> None:
        """Make of a request what its kind wants. Raises what it is refused with at once."""
        match request:
            case requests.SendBatch():
                self._publish(group, bytes(request.batch), pending, request.expected_sequence)
            case requests.Send():
                self._publish(group, batch_of(request), pending, request.expected_sequence)
            case requests.HandOverRequest():
                self._hand_over(group, request, pending)
            case requests.ReceiveRequest():
                self._receive(group, request, pending)
            case requests.AckRequest():
                group.submit(Ack(pending.session, request.channel, request.receipts), pending)
            case requests.SettleRequest():
                group.submit(replace(request.command, session=pending.session), pending)
            case requests.ManageRequest():
                group.submit(request.command, pending)
            case requests.CreateScheduleRequest():
                self._schedule(group, request, pending)
            case requests.OpenProducerRequest():
                group.submit(OpenProducer(request.channel, request.producer), pending)
            case requests.RoutedSend():
                self.routing.send(group, request, pending)
            case requests.OpenProducers():
                self.routing.open(group, request, pending)
            case requests.OpenConsumerRequest() | requests.ResetConsumerRequest():
                group.submit(_place_of(request, pending.session), pending)
            case requests.CloseRequest():
                close = Close(pending.session, request.consumer, request.request)
                group.end_receives(close)
                group.submit(close, pending)
            case requests.ChangeMembers():
                operators.change_members(self._node, group, request, pending)
            case requests.AuditRequest():
                group.submit(TakeAudit(), pending)
            case requests.Transfer():
                to = operators.transfer(group, request)
                self._node.reply(pending, Reply.TRANSFERRING, {"to": to})

    def _publish(self, group: Group, batch: bytes, pending: Pending, expected_sequence: int | None) -> None:
        header = admit_batch(batch, self._node.config.limits.message_bytes_max)
        if pending.silent and header.producer:
            raise InvalidRequest(
                f"field confirm is 'none' for a batch of producer {header.producer}, which is told how it ends"
            )
        self.store(group, header, batch, pending, expected_sequence)

    def store(
        self, group: Group, header: BatchHeader, batch: bytes, pending: Waiter, expected_sequence: int | None = None
    ) -> None:
        """Hand a good batch to the group, if there is room for it. Raises StorageFull."""
        node = self._node
        if full := self.no_room(group, len(batch)):
            # A repeat takes no room, and without its result the client could only say that the outcome is unknown.
            stored = group.machine.stored(header)
            if stored is None:
                raise full
            code, fields = result_reply(stored, node.confirm)
            node.reply(pending, code, fields)
            return
        node.counters["messages_in"] += header.count
        node.log_room.taken(len(batch))
        group.publish(batch, 0, pending, expected_sequence)

    def _hand_over(self, group: Group, request: requests.HandOverRequest, pending: Pending) -> None:
        """As `_publish` and `_store`, for a hand-over."""
        node = self._node
        frames, headers = admit_hand_over(request, node.config.limits, node.config.cluster.groups)
        size = sum(map(len, frames))
        if full := self.no_room(group, size):
            done = group.machine.handed_over(request.channel, request.receipts, headers)
            if done is None:
                raise full
            code, fields = result_reply(done, node.confirm)
            node.reply(pending, code, fields)
            return
        node.counters["messages_in"] += sum(header.count for header in headers)
        node.log_room.taken(size)
        group.submit(HandOverFrames(pending.session, request.channel, request.receipts, frames), pending)

    def _schedule(self, group: Group, request: requests.CreateScheduleRequest, pending: Pending) -> None:
        """Its message takes room once, however often it is sent. Raises StorageFull."""
        frame = batch_of(request.message)
        if full := self.no_room(group, len(frame)):
            raise full
        self._node.log_room.taken(len(frame))
        group.submit(NewSchedule(request.name, request.plan, frame), pending)

    def no_room(self, group: Group, size: int) -> StorageFull | None:
        """Why a batch of `size` bytes cannot be taken now."""
        used, limit = self._node.log.size_bytes, self._node.log_room.limit_bytes
        if used + size > limit:
            return StorageFull(f"the log has {used} of {limit} bytes in use", used_bytes=used, budget_bytes=limit)
        return self._node.disks.refusal(group)

    def _receive(self, group: Group, request: requests.ReceiveRequest, pending: Pending) -> None:
        key = ReceiveKey(pending.session, request.consumer, pending.request_id)
        most = PLAIN_COUNT_MAX if request.plain else COUNT_MAX
        command = Receive(
            key,
            request.channel,
            count_min=min(request.count_min, most),
            count_max=min(request.count_max, most),
            size_max=request.size_max,
            wait_ms=request.wait_ms,
            visibility_ms=request.visibility_ms,
            consumer_priority=request.consumer_priority,
            auto_ack=request.auto_ack,
        )
        group.submit(command, Pending(pending.route, pending.request_id, pending.session, key, request.plain))

    def begin(self, group: Group) -> None:
        """A leadership begins, with what the configuration says of the cluster as a whole: before all that clients want."""
        if not self._node.config.channels.create_on_use:
            group.submit(SetDefaults(">", {CREATE_ON_USE: False}, keep=True))
