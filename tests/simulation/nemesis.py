"""What goes wrong in a run: faults of the mix that the seed drew, at random times, each for a random while.

It never destroys what is committed on a majority: only disks of a minority are wiped or damaged, and of the others only what
was not synced is lost. All else is allowed, all at once. When it stops, whatever it broke stays broken until somebody heals it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import combinations
from random import Random
from typing import TYPE_CHECKING

from tests.simulation.disk import SimDisk
from tests.simulation.members import Members
from tests.simulation.node import SimNode
from tests.simulation.stores import MemoryDevice, SegmentDevice
from tests.simulation.world import MILLISECOND, SECOND
from zmqbroker.errors import InvalidRequest, NotLeader
from zmqbroker.raft.messages import Role

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

__all__ = ["Nemesis"]

#: How long a fault lasts, on average, in election timeouts: some end before anybody notices, some do not.
_LASTS = 4
#: Between two tries of an operator to change the membership, on average.
_OPERATOR_NS = 150 * MILLISECOND
#: Parts per million; quartz is a thousand times better, so that seconds of a run show what takes hours.
_RATE_PPM_MAX = 50_000


class Nemesis:
    """Causes faults until it is stopped."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._chance = cluster.world.chance(6)
        self._members = Members(cluster, cluster.world.chance(7))
        self._damage = Random(cluster.options.seed)  # of where on a disk
        self.stopped = False
        self.caused: Counter[str] = Counter()  # faults so far, by kind
        faults = cluster.options.faults
        self._faults: list[tuple[str, Callable[[], bool]]] = [(fault, getattr(self, f"_{fault}")) for fault in faults]
        if self._faults:
            self._plan()
        if "membership" in faults:
            self._world.after(self._chance.around(SECOND), self._operate)

    def _plan(self) -> None:
        self._world.after(self._chance.around(self._cluster.options.fault_interval_ns), self._act)

    def _act(self) -> None:
        if self.stopped:
            return
        fault, cause = self._chance.choice(self._faults)
        if cause():
            self.caused[fault] += 1
            self._world.note(f"fault: {fault}")
        self._plan()

    def _operate(self) -> None:
        """Operators go on changing the membership, beside all else."""
        if not self.stopped:
            self.caused["membership"] += self._membership()
            self._world.after(self._chance.around(_OPERATOR_NS), self._operate)

    def _later(self, undo: Callable[..., object], *arguments: object) -> None:
        """Undo a fault after a while, unless the run is in its end by then: there the healer decides."""
        delay = self._chance.around(_LASTS * self._cluster.options.election_ns)
        self._world.after(delay, self._undo, undo, arguments)

    def _undo(self, undo: Callable[..., object], arguments: tuple[object, ...]) -> None:
        if not self.stopped:
            undo(*arguments)

    def _victim(self) -> SimNode | None:
        """A node that runs; often one at which a fault hurts more: it leads, or has written what it has not synced."""
        up = [node for node in self._cluster.nodes.values() if node.up]
        if self._chance.happens(0.5):
            up = [node for node in up if node.watch.durable.pending or node.core.role is Role.LEADER] or up
        return self._chance.choice(up) if up else None

    def _on_victim(self, act: Callable[[SimNode], object]) -> bool:
        victim = self._victim()
        if victim is not None:
            victim.run(partial(act, victim))
        return victim is not None

    def _ids(self) -> list[int]:
        return [node.id for node in self._cluster.nodes.values() if not node.gone]

    # --- processes and machines ----------------------------------------------------------------------------------------

    def _kill(self) -> bool:
        return self._on_victim(lambda node: self._end(node, power=False))

    def _power_cut(self) -> bool:
        return self._on_victim(lambda node: self._end(node, power=True))

    def _power_cut_all(self) -> bool:
        for node in self._cluster.nodes.values():
            if node.up:
                self._end(node, power=True)
        return True

    def _end(self, node: SimNode, *, power: bool) -> None:
        node.crash(power=power)
        self._later(self._cluster.start, node)

    def _pause(self) -> bool:
        def pause(node: SimNode) -> None:
            node.pause()
            self._later(node.resume)

        return self._on_victim(pause)

    def _wipe(self) -> bool:
        victim = self._members.may_be_lost()
        if victim is None:
            return False
        victim.wipe()
        return True

    def _clock_jump(self) -> bool:
        return self._on_victim(lambda node: node.clock.jump(self._chance.between(-20, 20) * SECOND))

    def _clock_rate(self) -> bool:
        return self._on_victim(lambda node: node.clock.change_rate(self._chance.between(-_RATE_PPM_MAX, _RATE_PPM_MAX)))

    # --- the network ---------------------------------------------------------------------------------------------------

    def _partition(self) -> bool:
        """Two or three groups, each whole in itself."""
        ids, network = self._ids(), self._cluster.network
        sides = {id: self._chance.below(self._chance.choice((2, 2, 3))) for id in ids}
        cut = [pair for pair in combinations(ids, 2) if sides[pair[0]] != sides[pair[1]]]
        for one, other in cut:
            network.block(one, other)
            network.block(other, one)
        self._later(self._open, cut)
        return bool(cut)

    def _open(self, pairs: list[tuple[int, int]]) -> None:
        for one, other in pairs:
            self._cluster.network.open(one, other)
            self._cluster.network.open(other, one)

    def _pair(self) -> tuple[int, int] | None:
        ids = self._ids()
        if len(ids) < 2:
            return None
        one, other = self._chance.some(ids, 2)
        return one, other

    def _one_way(self) -> bool:
        pair = self._pair()
        if pair is not None:
            self._cluster.network.block(*pair)
            self._later(self._cluster.network.open, *pair)
        return pair is not None

    def _partial(self) -> bool:
        pair = self._pair()
        if pair is not None:
            self._cluster.network.block(*pair)
            self._cluster.network.block(*reversed(pair))
            self._later(self._open, [pair])
        return pair is not None

    def _reset(self) -> bool:
        pair = self._pair()
        if pair is not None:
            self._cluster.network.reset(*pair)
        return pair is not None

    def _storm(self) -> bool:
        pair = self._pair()
        if pair is None:
            return False
        link = self._cluster.network.link(*pair)
        before = (link.loss, link.repeat, link.delay_factor)
        link.loss, link.repeat, link.delay_factor = 0.4, 0.2, self._chance.choice((1, 10, 100))

        def calm() -> None:
            link.loss, link.repeat, link.delay_factor = before

        self._later(calm)
        return True

    def _old_frames(self) -> bool:
        self._cluster.network.replay(self._chance.between(1, 20))
        return True

    def _garble(self) -> bool:
        network = self._cluster.network
        network.garble = 0.1

        def clean() -> None:
            network.garble = 0.0

        self._later(clean)
        return self._cluster.options.encode

    def _unreachable(self) -> bool:
        def report(node: SimNode) -> None:
            node.core.report_unreachable(self._chance.choice(self._ids()))

        return self._on_victim(report)

    # --- disks ---------------------------------------------------------------------------------------------------------

    def _slow_disk(self) -> bool:
        def slow(node: SimNode) -> None:
            node.sync_delay_factor = self._chance.choice((20, 200, 1000))
            self._later(self._fast, node)

        return self._on_victim(slow)

    def _fast(self, node: SimNode) -> None:
        node.sync_delay_factor = 1

    def _sync_error(self) -> bool:
        def break_sync(node: SimNode) -> None:
            if isinstance(node.device, MemoryDevice):
                node.device.broken = True
            elif isinstance(node.device, SegmentDevice):
                self._disk_faults(node.device, sync_error=0.5)

        return self._on_victim(break_sync)

    def _disk_faults(self, device: SegmentDevice, **chances: float) -> None:
        faults = device.disk.faults
        device.disk.faults = replace(faults, **chances)
        self._later(self._repair, device)

    def _repair(self, device: SegmentDevice) -> None:
        device.repair()

    def _disk_full(self) -> bool:
        victim = self._victim()
        if victim is None or not isinstance(victim.device, SegmentDevice):
            return False
        self._disk_faults(victim.device, no_space=self._chance.choice((0.1, 1.0)))
        return True

    def _short_io(self) -> bool:
        victim = self._victim()
        if victim is None or not isinstance(victim.device, SegmentDevice):
            return False
        self._disk_faults(victim.device, short_write=0.3, short_read=0.3)
        return True

    def _torn_call(self) -> bool:
        """The process, or the machine, ends between two calls of its disk, wherever that is in the log's code."""
        victim = self._victim()
        if victim is None or not isinstance(victim.device, SegmentDevice):
            return False
        victim.device.disk.die_in(self._chance.below(8))
        return True

    # --- damage ----------------------------------------------------------------------------------------------------------

    def _spoil(self, harm: Callable[[SimDisk], object]) -> bool:
        """Harm the disk of one of a minority; more often one that was harmed before."""
        spoiled = [node for node in self._cluster.nodes.values() if node.spoiled and not node.gone and not node.damaged]
        victim = self._chance.choice(spoiled) if spoiled else self._members.may_be_lost()
        if victim is None or not isinstance(victim.device, SegmentDevice) or not harm(victim.device.disk):
            return False
        victim.spoiled = True
        if self._chance.happens(0.5):  # so that it is read
            self._end(victim, power=self._cluster.options.sync and self._chance.happens(0.5))
        return True

    def _bit_flip(self) -> bool:
        return self._spoil(lambda disk: disk.flip_bit(self._damage))

    def _stray_write(self) -> bool:
        return self._spoil(lambda disk: disk.overwrite_sector(self._damage))

    def _bad_sector(self) -> bool:
        return self._spoil(lambda disk: disk.spoil_sector(self._damage))

    def _flip_read(self) -> bool:
        def harm(disk: SimDisk) -> bool:
            disk.faults = replace(disk.faults, flip_read=self._chance.choice((0.02, 0.2)))
            return True

        return self._spoil(harm)

    # --- what an operator does -----------------------------------------------------------------------------------------

    def _leader(self) -> SimNode | None:
        leaders = [node for node in self._cluster.live() if node.core.role is Role.LEADER]
        return self._chance.choice(leaders) if leaders else None

    def _transfer(self) -> bool:
        leader = self._leader()
        if leader is None:
            return False
        try:
            leader.run(partial(leader.core.transfer_leader, self._chance.choice(self._ids())))
        except (NotLeader, InvalidRequest):
            return False
        leader.pump()
        return True

    def _forget_leader(self) -> bool:
        """A hint that the leader is gone; sometimes the node also campaigns at once."""

        def forget(node: SimNode) -> None:
            node.core.forget_leader()
            if self._chance.happens(0.5):
                node.core.campaign()
            if not node.paused:
                node.pump()

        return self._on_victim(forget)

    def _membership(self) -> bool:
        leader = self._leader()
        return leader is not None and self._members.change(leader)

    def _bad_change(self) -> bool:
        leader = self._leader()
        return leader is not None and self._members.bad_change(leader)

    def _compact(self) -> bool:
        return self._on_victim(lambda node: node.flushing.compact())

    def _consumer_crash(self) -> bool:
        self._chance.choice(self._cluster.consumers).crash()
        return True

    def _producer_crash(self) -> bool:
        self._chance.choice(self._cluster.producers).abandon()
        return True
