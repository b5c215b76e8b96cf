"""One node: its sockets, its groups and the loop that joins them (DESIGN §2).

A pass drains the sockets, lets every group propose, step and apply, sends what may leave before the disk, and gives the rest to
the log; what the log made durable releases the messages that waited for it. Nothing in a pass blocks. After a pause, missed
ticks are not made up: the sockets are drained, then there is one tick.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from zmqbroker.commands import Close, Delivery
from zmqbroker.config import NodeConfig, majority_of
from zmqbroker.errors import MalformedFrame, NoMajority, NotLeader, RequestError
from zmqbroker.raft.messages import Message, MessageType, Role, SoftState, StorageAppend
from zmqbroker.server.backups import Backups
from zmqbroker.server.bodies import Bodies
from zmqbroker.server.data import NodeData
from zmqbroker.server.desk import Desk
from zmqbroker.server.disks import Disks
from zmqbroker.server.durations import Durations
from zmqbroker.server.formation import Formation
from zmqbroker.server.group import Group
from zmqbroker.server.log_pipeline import LogPipeline
from zmqbroker.server.log_room import LogRoom
from zmqbroker.server.membership import best_successor
from zmqbroker.server.peers import PeerNetwork
from zmqbroker.server.realtime import REALTIME_KINDS, Realtime
from zmqbroker.server.rejoining import Rejoining
from zmqbroker.server.replies import messages_reply
from zmqbroker.server.routes import Pending, Waiter
from zmqbroker.server.sessions import Liveness
from zmqbroker.server.snapshots import Snapshots
from zmqbroker.server.sockets import ClientPort
from zmqbroker.server.succession import Succession
from zmqbroker.storage.interfaces import LogStore, StateStore
from zmqbroker.wire.frames import Reply
from zmqbroker.wire.peer import PeerKind

__all__ = ["Node"]

#: Messages drained per socket and pass: about a millisecond's worth, so that ticks and the other socket stay punctual.
DRAIN_COUNT = 256
#: Rounds of "what the log finished makes new work" in one pass, when the log is written inline.
ROUNDS_MAX = 64
#: Seconds between tries to send what full pipes refused.
BLOCKED_RETRY_S = 0.005

journal = logging.getLogger("zmqbroker")


class Node:
    """Runs until `stop`. Everything happens on one event loop."""

    def __init__(
        self,
        config: NodeConfig,
        loop: asyncio.AbstractEventLoop,
        *,
        formation: Formation,
        network: PeerNetwork,
        port: ClientPort,
        log: LogStore,
        state: StateStore,
        disks: Disks,
        housekeep: Callable[[], None],
        counters: Counter[str],
        on_failure: Callable[[BaseException], None],
        on_change: Callable[[], None],
        data: NodeData | None = None,
    ) -> None:
        self.config, self.formation, self.network, self.log, self.counters = config, formation, network, log, counters
        self.groups: dict[int, Group] = {}  # empty until the cluster is formed
        self.snapshots: Snapshots | None = None  # until then, too
        self.backups: Backups | None = None  # and these
        self.disks, self.log_room = disks, LogRoom(config.storage.log_budget_bytes)
        self.bodies = Bodies(log, state)
        self.data = data
        self.started_ns = time.monotonic_ns()
        self._loop, self._port, self._on_change = loop, port, on_change
        sync = config.cluster.volume == "persistent"
        self.confirm = "quorum+fsync" if sync else "quorum"
        self._pipeline = LogPipeline(log, loop, sync=sync, housekeep=housekeep, on_durable=self._go_on, on_failure=on_failure)
        self.durations = Durations(self._pipeline.durations)
        self._desk = Desk(self, port)
        self.realtime, self.routing = Realtime(self, port, self._desk.connections), self._desk.leading.routing
        self._liveness = Liveness(config.limits.session_timeout_ms * 1_000_000)
        self._succession = Succession(loop.call_later, self._wake, random.Random())
        self._rejoining = Rejoining(config.raft.tick_ms) if config.cluster.auto_rejoin else None
        self._leaderless_ns: dict[int, int] = {}  # group -> since when this node knows no leader; absent while it knows one
        self._tick_s = config.raft.tick_ms / 1000
        self._next_tick_s = 0.0  # on the loop's clock
        self._wake_planned = self._retry_planned = self._stopped = False

    # --- the loop ----------------------------------------------------------------------------------------------------

    def start(self, clients: int, peers: int) -> None:
        """Begin to listen on the descriptors of the two ports, and to tick."""
        self._loop.add_reader(clients, self._hear_clients)
        self._loop.add_reader(peers, self._hear_peers)
        self._loop.call_soon(self._pass)
        self._next_tick_s = self._loop.time() + self._tick_s
        self._loop.call_at(self._next_tick_s, self._tick)

    def stop(self, descriptors: Iterable[int]) -> None:
        """Stop listening and wait for the log; the sockets belong to the caller."""
        self._stopped = True
        for descriptor in descriptors:
            self._loop.remove_reader(descriptor)
        self._pipeline.close()

    def add_group(self, group: Group) -> None:
        """Run one more group."""
        self.groups[group.number] = group
        self._leaderless_ns[group.number] = time.monotonic_ns()

    def _wake(self) -> None:
        if not self._wake_planned and not self._stopped:
            self._wake_planned = True
            self._loop.call_soon(self._pass)

    def _pass(self) -> None:
        self._wake_planned = False
        if not self._stopped:
            self._drain_peers(time.monotonic_ns())
            self._desk.handle_all(self._port.drain(DRAIN_COUNT), time.monotonic_ns())
            self._go_on()

    def _hear_clients(self) -> None:
        self._go_on(pump=self._desk.handle_all(self._port.drain(DRAIN_COUNT), time.monotonic_ns()))

    def _hear_peers(self) -> None:
        self._go_on(pump=self._drain_peers(time.monotonic_ns()))

    def _go_on(self, *, pump: bool = True) -> None:
        """What follows from what came, from clients, other nodes or the log; without `pump` nothing was for the groups."""
        self.realtime.calls.flush()
        if pump:
            self._pump()
            self.realtime.announce()
            if (pause_s := self._desk.serve_reads()) is not None:
                self._loop.call_later(pause_s, self._wake)
        # More may be waiting than one pass takes, and a send may have swallowed the edge that announces it: look once more.
        if self._port.readable() or self.network.readable():
            self._wake()
        if self._port.blocked or self.network.blocked:
            self._port.flush()
            self.network.flush()
            self._plan_retry()

    def _plan_retry(self) -> None:
        """One try is planned at a time, however many passes find a client blocked meanwhile."""
        if not self._retry_planned:
            self._retry_planned = True
            self._loop.call_later(BLOCKED_RETRY_S, self._retry)

    def _retry(self) -> None:
        self._retry_planned = False
        self._wake()

    def _drain_peers(self, now_ns: int) -> bool:
        """Take what other nodes sent; whether any of it was for the groups."""
        others = False
        for item in self.network.receive(DRAIN_COUNT, now_ns):
            if isinstance(item, list):
                for message in item:
                    if message.type is MessageType.INSTALL_SNAPSHOT:
                        self.counters["raft_messages_dropped_without_state"] += 1  # its chunks bring it
                    else:
                        self._step(message)
            elif item[0] in (PeerKind.SNAPSHOT, PeerKind.SNAPSHOT_ACK):
                self._transfer(item, now_ns)
            elif item[0] in REALTIME_KINDS:
                self.realtime.on_peer(item, now_ns)
                continue
            else:
                self._desk.handle_forwarded(item, now_ns)
            others = True
        return others

    def _step(self, message: Message) -> None:
        group = self.groups.get(message.group)
        if group is None:
            self.counters["peer_messages_dropped_unknown_group"] += 1
        elif reason := group.step(message):
            self.counters[f"raft_messages_dropped_{reason}"] += 1
        elif message.type is MessageType.HEARTBEAT_RESPONSE and group.leading:
            self.disks.heard(message)

    def _transfer(self, item: tuple[PeerKind, bytes, dict[str, Any], list[bytes]], now_ns: int) -> None:
        """A piece of a snapshot, or the wish for the next one."""
        kind, sender_uid, fields, frames = item
        member, peer = self.formation.member_with(sender_uid), self.network.peer_with(sender_uid)
        if self.snapshots is None or member is None or peer is None:
            self.counters["peer_frames_dropped_unexpected_snapshot"] += 1
            return
        if kind == PeerKind.SNAPSHOT_ACK:
            self.snapshots.on_ack(member.id, fields, now_ns)
            return
        try:
            ack = self.snapshots.on_chunk(member.id, fields, frames, now_ns)
        except MalformedFrame as error:
            self.counters["peer_frames_dropped_bad_snapshot"] += 1
            journal.warning("from %s: %s", peer.name, error)
            return
        if ack is not None:
            self.network.send_forward(PeerKind.SNAPSHOT_ACK, peer, ack, ())

    def take_snapshot(self, message: Message) -> None:
        """Give the core a snapshot whose state is here, complete and right."""
        self._step(message)
        self._pump()

    def _pump(self) -> None:
        """Let the groups do all they can, and hand out what they want sent and stored."""
        for _ in range(ROUNDS_MAX):
            messages: list[Message] = []
            works: list[StorageAppend] = []
            for work in self._pipeline.take_durable():
                messages.extend(self.groups[work.group].advance(work, self._pipeline.written_ns))
            for group in self.groups.values():
                group.collect(messages, works)
            if messages:
                self._send(messages)
            for work in works:
                if work.snapshot is not None:
                    self._install(work.group)
            # The state can wait while there is something to store: others hear of this node's log when that is written.
            if works:
                self._pipeline.submit(works)
            elif not any(group.apply() for group in self.groups.values()):
                return
        self._wake()

    def _send(self, messages: list[Message]) -> None:
        """Snapshots go their own way, in chunks; answers to heartbeats tell of this node's disk."""
        self.disks.stamp(messages)
        for message in messages:
            if message.type is MessageType.INSTALL_SNAPSHOT and self.snapshots is not None:
                self.snapshots.send(message, time.monotonic_ns())
        self.network.send_raft([message for message in messages if message.type is not MessageType.INSTALL_SNAPSHOT])

    def _install(self, number: int) -> None:
        """The log of a group waits until its state is replaced."""
        assert self.snapshots is not None
        self.groups[number].apply()  # what was committed before

        def release() -> None:
            self._pipeline.release(number)
            self._wake()

        self._pipeline.hold(number)
        self.snapshots.install(number, release)

    def _tick(self) -> None:
        if self._stopped:
            return
        self._pass()
        for group in self.groups.values():
            group.tick(self.disks.short_members)
        now_ns = time.monotonic_ns()
        self.realtime.calls.tick(now_ns)
        self.disks.tick(self.groups.values(), now_ns, out_of_room=self._pipeline.out_of_room)
        if self.snapshots is not None:
            self.snapshots.tick(now_ns)
            self.log_room.tick(self.snapshots.bytes_under_way, short=self.disks.own.short)
        if self.backups is not None:
            self.backups.tick(now_ns)
        self._pump()
        # On time when this tick was; after a pause one interval from now, so that missed ticks are not made up.
        now_s = self._loop.time()
        self._next_tick_s = max(self._next_tick_s, now_s - self._tick_s) + self._tick_s
        self._loop.call_at(self._next_tick_s, self._tick)

    def hand_over(self) -> bool:
        """Begin to hand every leadership to the voter that is furthest; False when there is none, or nobody, to hand over."""
        begun = False
        for group in self.groups.values():
            core = group.core
            successor = best_successor(core.membership, core.id, core.progress())
            if successor is not None and not core.transferee:
                core.transfer_leader(successor)
            begun = begun or successor is not None
        self._wake()
        return begun

    @property
    def settled(self) -> bool:
        """True when this node leads nothing and knows who does."""
        return all(not group.leading and group.soft_state.leader for group in self.groups.values())

    def leader_lost(self, member: int) -> None:
        """A hint: the process of a member seems to be gone. Where it led, this node campaigns soon."""
        for group in self.groups.values():
            self._succession.leader_lost(group.core, member)
        if (peer := self.network.peer_of(member)) is not None:
            self.realtime.node_gone(peer.uid)

    # --- once a second -----------------------------------------------------------------------------------------------

    def heard(self, session: bytes, now_ns: int) -> None:
        """A session spoke, here or through another node."""
        self._liveness.heard(session, now_ns)

    def sweep(self) -> None:
        """Expire silent sessions; call about once a second."""
        now_ns = time.monotonic_ns()
        for group in self.groups.values():
            if self._rejoining is not None:
                self._rejoining.look(group, self.formation.known, now_ns)
            if group.leading:
                waiting = {key.session for key in group.receivers}
                for session in self._liveness.expired(group.machine.sessions(), waiting, now_ns):
                    group.submit(Close(session))
        self._desk.sweep(now_ns)
        self.realtime.sweep(now_ns)
        self._wake()

    # --- what groups need (group.Host) -----------------------------------------------------------------------------------

    def reply(self, pending: Waiter, code: Reply, fields: dict[str, Any], frames: Iterable[bytes] = ()) -> None:
        """Answer a request, here or through the node that forwarded it."""
        self._desk.answer(pending, code, fields, frames)

    def refuse(self, pending: Waiter, error: RequestError) -> None:
        """Answer a request with ERROR."""
        self._desk.refuse(pending, error)

    def deliver(self, pending: Pending, delivery: Delivery, group: int) -> None:
        """Answer a RECEIVE with its messages."""
        fields, frames = messages_reply(delivery.pieces, lambda index: self.bodies.read(group, index), plain=pending.plain)
        self.counters["messages_out"] += sum(piece.receipt.last - piece.receipt.first + 1 for piece in delivery.pieces)
        self.reply(pending, Reply.MESSAGES, fields, frames)

    def leader_endpoint(self, group: Group) -> str | None:
        """Client endpoint of the group's leader, if it is known."""
        leader = group.soft_state.leader
        if leader == group.core.id:
            return self.formation.client
        peer = self.network.peer_of(leader)
        return peer.client or None if peer is not None else None

    def not_leading(self, number: int, *, outcome_unknown: bool) -> RequestError:
        """Why this node cannot serve a request now: NOT_LEADER, or NO_MAJORITY after an election timeout without a leader."""
        group = self.groups.get(number)
        if group is None and self.formation.recovering:
            return NoMajority(
                f"{self.config.node.name} is recovering: {self.formation.recovering}", outcome_unknown=outcome_unknown
            )
        if group is None:
            missing = ", ".join(self.formation.missing(time.monotonic_ns()))
            text = "the cluster is being formed" + (f", waiting for {missing}" if missing else "")
            return NoMajority(text, outcome_unknown=outcome_unknown)
        if (leader := self.leader_endpoint(group)) is None:
            now_ns = time.monotonic_ns()
            leaderless_ms = (now_ns - self._leaderless_ns.get(number, now_ns)) // 1_000_000
            if group.lost_majority or leaderless_ms >= self.config.raft.election_ticks * self.config.raft.tick_ms:
                needed = f"{majority_of(self.voters)} of {self.voters} nodes must be up"
                return NoMajority(f"no leader for {leaderless_ms} ms: {needed}", outcome_unknown=outcome_unknown)
        text = f"{self.config.node.name} does not lead this channel"
        return NotLeader(text, outcome_unknown=outcome_unknown, leader=leader)

    @property
    def voters(self) -> int:
        """Nodes that vote, of the newer set while two are in force; before the cluster is formed those configured."""
        return next((len(group.core.membership.voters) for group in self.groups.values()), self.config.size)

    def members_changed(self, number: int) -> None:
        """Follow the roster: links, names, and the record on disk."""
        roster = self.groups[number].machine.roster
        self.formation.learn(roster.index, roster.members)
        self._on_change()

    def role_changed(self, number: int, soft_state: SoftState) -> None:
        """Note since when there is no leader; a new leadership starts every session's timer afresh."""
        if soft_state.leader:
            self._leaderless_ns.pop(number, None)
        else:
            self._leaderless_ns.setdefault(number, time.monotonic_ns())
        if soft_state.role == Role.LEADER:
            self._liveness.restart()
            self.disks.begin(number)
            self.log_room.begin(self.log.size_bytes)
            self._desk.leading.begin(self.groups[number])
        self._on_change()
