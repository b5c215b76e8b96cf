"""One simulated node: the real core, group, machine and log, on simulated disk, network and clock.

The twin of server/node.py: messages leave before the disk has done anything, works go to the log, and what becomes durable
releases the messages that waited for it. `SimNode` outlives its process: disk and store stay through crashes. `_start` is the
one place where the product's parts are put together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from tests.simulation.clock import SkewedClock
from tests.simulation.core_watch import WatchedCore
from tests.simulation.desk import Request, SimDesk
from tests.simulation.disk import ProcessDied
from tests.simulation.flushing import Flushing, restored
from tests.simulation.machine_watch import WatchedMachine
from tests.simulation.messages import pack, unpack
from tests.simulation.network import Packet
from tests.simulation.pipeline import Pipeline
from tests.simulation.snapshots import Arrivals, SnapshotView, images_of, reconcile
from tests.simulation.stores import Device, Image, StateKeeper
from zmqbroker.errors import Busy, Compacted, Corruption, NotLeader, RequestError, StorageError
from zmqbroker.raft import RaftConfig
from zmqbroker.raft.messages import Membership, Message, Snapshot, StorageAppend
from zmqbroker.server.group import ENTRY_BYTES, Group
from zmqbroker.server.membership import best_successor
from zmqbroker.storage.interfaces import LogStore

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

__all__ = ["GROUP", "STALL_MAX_NS", "SimNode"]

GROUP = 1
#: Rounds of "what the log finished makes new work" in one pass, when the log is written inline.
_ROUNDS_MAX = 64
#: The longest that a disk stands still, in nanoseconds.
STALL_MAX_NS = 3_000_000_000
#: Nanoseconds after which a snapshot under way is given up.
_SNAPSHOT_PATIENCE_NS = 300_000_000
_CONFIRM = {True: "quorum+fsync", False: "quorum"}


class SimNode:
    """A node of the cluster under one Raft id, running or not."""

    group: Group
    core: WatchedCore
    log: LogStore

    def __init__(self, cluster: Cluster, id: int, device: Device, membership: Membership, clock: SkewedClock) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.id = id
        self.uid = id.to_bytes(16, "big")
        self.device = device
        self.keeper = StateKeeper(membership)
        self.clock = clock
        self.watch = cluster.raft.watch(id)
        self.up = False
        self.paused = False
        self.gone = False  # its disk was wiped, or it was removed for good: it never starts again
        self.spoiled = False  # bytes on its disk were changed, or cannot be read: it may find that out at any time
        self.damaged = False  # it has found damage: it stays down
        self.was_member = False  # a change that names it was proposed: it may be a member, or have been one
        self.boots = 0  # processes so far; what belongs to an earlier one never happens
        self.sync_delay_factor = 1
        self.lost_writes = False  # what was written may not be there: the machine lost power, or a sync failed
        self._stalled: list[Callable[[], object]] = []  # what happened while it stood still

    # --- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a process on what the disk holds."""
        assert not self.up
        assert not self.gone
        assert not self.damaged
        self.boots += 1
        try:
            self.log = self.device.open()
            self.cluster.raft.recovered(self.id, self.log.view(GROUP), whole=not self.lost_writes)
            self.lost_writes = False
            first = reconcile(self.log, self.keeper, GROUP)
            if first is not None:
                self._write_now(first)
        except Corruption as error:
            self.device.crash(power=False)
            self._found_damage(error)
            return
        except (StorageError, OSError, ProcessDied) as error:
            self.lost_writes = True
            self.device.crash(power=False)
            self.cluster.start_failed(self, error)
            return
        self.up, self.paused = True, False
        self._stalled.clear()
        self.pipeline = Pipeline(self.log, self, sync=self.cluster.options.sync)
        self.arrivals = Arrivals()
        self.run(self._start)
        if not self.up:
            return
        self.flushing = Flushing(self, GROUP)
        self._reads: dict[int, tuple[int, Callable[[int | None], object]]] = {}
        self._reading: list[tuple[int, Callable[[int | None], object]]] = []  # index to be applied, whom to tell
        options = self.cluster.options
        self.plan(self.cluster.chance.below(options.tick_ns), self._tick)
        self.plan(options.flush_ns + self.cluster.chance.below(options.flush_ns), self.flushing.begin)
        self.plan(options.session_timeout_ns // 4, self._sweep)
        self.pump()

    def _write_now(self, work: StorageAppend) -> None:
        job = self.log.prepare([work])
        self.watch.durable.writing([work])
        job.write()
        self.written([work])
        job.sync()
        self.synced()
        self.log.complete(job)

    def _start(self) -> None:
        cluster, options, keeper = self.cluster, self.cluster.options, self.keeper
        applied_index = keeper.applied_index(GROUP)
        machine = restored(self, GROUP)
        if not machine.roster.membership:
            machine.found(cluster.founding)
        raft = RaftConfig(
            id=self.id,
            group=GROUP,
            election_ticks=options.election_ticks,
            heartbeat_ticks=options.heartbeat_ticks,
            inflight_messages_max=options.inflight_messages_max,
            inflight_bytes_max=options.inflight_bytes_max,
            message_bytes_max=options.message_bytes_max,
            uncommitted_bytes_max=options.uncommitted_bytes_max,
            committed_bytes_max=options.committed_bytes_max,
            reads_max=options.reads_max,
        )
        view = SnapshotView(self.log.view(GROUP), keeper, GROUP, partial(cluster.raft.read, self.id))
        self.core = core = WatchedCore(raft, keeper.membership, view, cluster.election_random(self), applied_index)
        core.raft_watch, core.watch, core.reads = cluster.raft, self.watch, []
        self.watch.started(core)
        self.desk = SimDesk(self)
        self.group = self._make_group(machine)

    def _make_group(self, machine: WatchedMachine) -> Group:
        machine.report, machine.watch = self.cluster.machines, self.watch
        options = self.cluster.options
        return Group(
            GROUP,
            self.core,
            machine,
            self.desk,
            _CONFIRM[options.sync],
            self.clock,
            requests_max=options.requests_max,
            trim_bytes=options.trim_bytes,
        )

    def crash(self, *, power: bool) -> None:
        """The process ends now; with `power` the machine fails with it."""
        if not self.up:
            return
        self.up = self.paused = False
        self.lost_writes = self.lost_writes or power
        self.device.crash(power=power)
        self.cluster.network_gone(self.id)
        self.world.note(f"node {self.id} {'loses power' if power else 'is killed'}")

    def pause(self) -> None:
        """Stand still."""
        self.paused = self.up

    def resume(self) -> None:
        """Go on: what happened meanwhile is dealt with at once, then there is one tick."""
        if not self.paused:
            return
        self.paused = False
        stalled, self._stalled = self._stalled, []
        for call in sorted(stalled, key=self._is_tick):
            if self.up:
                self.run(call)

    def _is_tick(self, call: Callable[[], object]) -> bool:
        return call == self._tick

    def wipe(self) -> None:
        """The disk is lost: this identity never comes back."""
        self.crash(power=True)
        self.device.wipe()
        self.gone = True

    @property
    def lost(self) -> bool:
        """Whether its disk can be relied on no more: others must be a majority without it."""
        return self.gone or self.spoiled

    def describe(self) -> str:
        """One node in a line, for whoever reads a failure."""
        if not self.up:
            return f"{self.id} {'gone' if self.gone else 'damaged' if self.damaged else 'down'}"
        core, standing = self.core, " standing still" if self.paused else ""
        indexes = f"{core.applied_index}/{core.commit_index}/{core.last_index}"
        return f"{self.id} {core.role.name.lower()} of {core.leader} at term {core.term}, {indexes}{standing}"

    # --- events --------------------------------------------------------------------------------------------------------

    def plan(self, delay_ns: int, call: Callable[[], object]) -> None:
        """Call later, unless the process has ended by then."""
        self.world.after(delay_ns, self._happen, self.boots, call)

    def _happen(self, boots: int, call: Callable[[], object]) -> None:
        if boots == self.boots and self.up:
            if self.paused:
                self._stalled.append(call)
            else:
                self.run(call)

    def run(self, call: Callable[[], object]) -> None:
        """Do something that may read the disk: the process ends when it comes across damage, or cannot read."""
        try:
            call()
        except Compacted:
            raise
        except StorageError as error:
            if self.up:
                self.crash(power=False)
                self._found_damage(error)

    def _found_damage(self, error: StorageError) -> None:
        """It stays down, for somebody to look at its disk; after an error of reading it tries again later."""
        if not self.spoiled:
            self.cluster.raft.fail("I21", f"found damage that nobody did: {error}", self.id)
        self.cluster.counters["damage_found"] += 1
        self.damaged = isinstance(error, Corruption)
        self.world.note(f"node {self.id}: {error!r}")
        if not self.damaged:
            self.cluster.start_later(self)

    def arrive(self, packet: Packet) -> None:
        """A bundle of another node is here."""
        if self.paused:
            self._stalled.append(lambda: self.arrive(packet))
        elif self.up:
            self.run(partial(self._receive, packet))

    def _receive(self, packet: Packet) -> None:
        cluster, watch = self.cluster, self.watch
        sender = cluster.nodes[packet.sender]
        try:
            messages = unpack(packet.bundle, cluster.uid, sender.uid, self.uid)
        except RequestError:
            cluster.counters["frames_refused"] += 1
            return
        if isinstance(packet.attachment, Image):
            self.keeper.state.put_bodies(GROUP, packet.attachment.bodies.items())
            self.arrivals.keep(packet.attachment)
        raft, group = cluster.raft, self.group
        for message in messages:
            reason = group.step(message)
            if reason is not None:
                cluster.counters[f"dropped_{reason}"] += 1
            raft.observe(watch)
            raft.leader_heard(watch, message.sender)
        self.pump()

    def request(self, request: Request) -> None:
        """A client asks."""
        if self.paused:
            self._stalled.append(lambda: self.request(request))
        elif self.up:
            self.run(partial(self.desk.serve, request))
            self.pump()

    def read_index(self, number: int, tell: Callable[[int | None], object]) -> None:
        """A client wants to read: `tell` gets an index that makes it linearizable, or None."""
        if self.paused:
            self._stalled.append(lambda: self.read_index(number, tell))
        elif self.up:
            try:
                self.core.read_index(number)
            except (NotLeader, Busy):
                tell(None)
                return
            self._reads[number] = (self.cluster.raft.commit_index, tell)
            self.pump()

    def _tick(self) -> None:
        options = self.cluster.options
        self.plan(self.clock.interval_ns(options.tick_ns), self._tick)
        self.group.tick()
        if self.pipeline.out_of_room:
            self._hand_over()
        self.cluster.raft.observe(self.watch)
        self.cluster.raft.bounds(self.watch, ENTRY_BYTES)
        waiting = self.group._waiting_count + len(self.group.receivers)
        if waiting > options.requests_max:
            self.cluster.raft.fail("I20", f"{waiting} requests wait, allowed are {options.requests_max}", self.id)
        self.pump()

    def _hand_over(self) -> None:
        """As server.node: a leader that cannot store confirms nothing."""
        core = self.core
        successor = best_successor(core.membership, core.id, core.progress())
        if successor is not None and not core.transferee:
            core.transfer_leader(successor)

    def _sweep(self) -> None:
        self.plan(self.cluster.options.session_timeout_ns // 4, self._sweep)
        self.desk.sweep()
        self.pump()

    # --- the loop --------------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Let the group do all it can, and hand out what it wants sent and stored."""
        if self.up:
            self.run(self._pump)

    def _pump(self) -> None:
        cluster = self.cluster
        raft, watch, group = cluster.raft, self.watch, self.group
        for _ in range(_ROUNDS_MAX):
            messages: list[Message] = []
            works: list[StorageAppend] = []
            for work in self.pipeline.take_durable():
                if work.snapshot is not None:
                    group = self._installed(work.snapshot)
                messages.extend(group.advance(work))
                raft.observe(watch)
                raft.leader_heard(watch, self.id)
            group.collect(messages, works)
            raft.observe(watch)
            if self.core.reads or self._reading:
                self._answer_reads()
            if messages:
                self._send(messages)
            if not works:
                if group.apply():
                    continue
                break
            for work in works:
                if work.snapshot is not None:
                    group.apply()
                    self.arrivals.want(work.snapshot)
            self.pipeline.submit(works)
            if not self.up:
                return
        state = watch.state
        log = state.log
        self.world.trace.record(self.world.now_ns, state.role, self.id, state.term, log.commit_index, log.last_index)

    def _send(self, messages: list[Message]) -> None:
        cluster, raft, watch = self.cluster, self.cluster.raft, self.watch
        by_node: dict[int, list[Message]] = {}
        for message in messages:
            raft.sent(watch, message)
            by_node.setdefault(message.to, []).append(message)
        for to, bundle in by_node.items():
            receiver = cluster.nodes.get(to)
            if receiver is not None:
                image = images_of(bundle, self.keeper, GROUP, self.flushing.read)
                if image is not None:
                    self.plan(_SNAPSHOT_PATIENCE_NS, partial(self._give_up, to, image.snapshot.index))
                packed = pack(bundle, cluster.uid, self.uid, receiver.uid, encode=cluster.options.encode)
                cluster.network.send(Packet(self.id, to, packed, image))
        if self.world.trace.text:
            for message in messages:
                self.world.note(f"{self.id} -> {message}")

    def _give_up(self, to: int, index: int) -> None:
        """A snapshot that was not answered for so long counts as lost: the leader may send another."""
        progress = self.watch.state.progress.get(to)
        if progress is not None and progress.pending_snapshot == index:
            self.core.report_snapshot(to, ok=False)
            self.pump()

    def _answer_reads(self) -> None:
        """Reads whose index is known wait until it is applied here."""
        reads, self.core.reads = self.core.reads, []
        for read in reads:
            known = self._reads.pop(read.request, None)
            if known is not None:
                least, tell = known
                if read.index < least:
                    self.cluster.raft.fail(
                        "I18", f"read {read.request} gets index {read.index}, committed was {least}", self.id
                    )
                self._reading.append((read.index, tell))
        applied_index = self.group.machine.applied_index
        waiting = self._reading
        self._reading = [item for item in waiting if item[0] > applied_index]
        for index, tell in waiting:
            if index <= applied_index:
                tell(index)

    # --- disk ------------------------------------------------------------------------------------------------------------

    def sync_delay_ns(self) -> int:
        """How long the next sync takes."""
        mean = self.cluster.options.sync_delay_ns
        return min(mean // 4 + self.cluster.disk_chance.around(mean) * self.sync_delay_factor, STALL_MAX_NS)

    def writing(self, works: Sequence[StorageAppend]) -> None:
        """Works are about to be written; a snapshot's state is durable before its record is."""
        self.watch.durable.writing(works)
        for work in works:
            if work.snapshot is not None:
                image = self.arrivals.take(work.snapshot)
                assert self.keeper.applied_index(GROUP) < work.snapshot.index
                self.keeper.install(GROUP, image)

    def written(self, works: Sequence[StorageAppend]) -> None:
        """Works are written."""
        self.watch.durable.written(works, self.device.writes)
        self.watch.durable.durable(self.device.durable_writes)

    def synced(self) -> None:
        """A sync has returned: what is durable now the disk says, not the log."""
        self.watch.durable.durable(self.device.durable_writes)

    def found_no_room(self) -> None:
        """Works wait for room on the disk."""
        self.cluster.counters["waits_for_room"] += 1

    def disk_failed(self, error: OSError | ProcessDied) -> None:
        """The disk refused, or the process ended in a call of it: it ends, as the log's writer would have it."""
        self.world.note(f"node {self.id}: {error!r}")
        self.lost_writes = self.lost_writes or isinstance(error, OSError)
        self.cluster.disk_failed(self, error)

    def _installed(self, snapshot: Snapshot) -> Group:
        """A snapshot is durable: it is what the machine holds from now on."""
        old = self.group
        if snapshot.index > old.machine.applied_index:
            machine = restored(self, GROUP)
            self.group = self._make_group(machine)
            self.group.soft_state = old.soft_state
            self.group.lost_majority = old.lost_majority
            self.cluster.counters["snapshots_installed"] += 1
            self.cluster.raft.membership_applied(self.watch, snapshot.index, snapshot.membership)
        return self.group
