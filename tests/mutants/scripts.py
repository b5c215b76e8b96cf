"""The scripts. Each plays without a defect to its end; with the one that it is meant for, an invariant breaks."""

from __future__ import annotations

from tests.mutants.stage import Stage
from tests.simulation.network import Packet
from tests.simulation.node import SimNode
from tests.simulation.world import SECOND
from zmqbroker.raft.messages import Message, MessageType, Role

__all__ = [
    "heartbeats_at_outdated_entries",
    "late_acknowledgement",
    "longer_log_of_earlier_term",
    "snapshot_over_durable_entries",
    "snapshot_over_unstable_entries",
    "work_torn_behind_its_hard_state",
    "write_of_replaced_entries",
]


def longer_log_of_earlier_term(seed: int) -> None:
    """A cut-off leader has many entries that nobody else has; the next leader commits a few, and dies."""
    stage = Stage(seed, 3)
    old = stage.leader_of(stage.nodes)
    rest = stage.others(old)
    stage.cut([old], rest)
    stage.propose(old, 20)
    new = stage.leader_of(rest)
    stage.propose(new, 2)
    stage.leader_of(rest)
    new.crash(power=False)
    stage.join([old], rest)
    stage.leader_of(stage.nodes)


def late_acknowledgement(seed: int) -> None:
    """A leader that lost its entries leads again; then an acknowledgement of the lost ones arrives, of its earlier term."""
    stage = Stage(seed, 5)
    kept: list[Packet] = []
    send = stage.cluster.network.send

    def sent(packet: Packet) -> None:
        if any(isinstance(item, Message) and item.type is MessageType.APPEND_ENTRIES_RESPONSE for item in packet.bundle):
            kept.append(packet)
        send(packet)

    stage.cluster.network.send = sent  # type: ignore[method-assign]
    old, beside, new = stage.divide()
    late = [packet for packet in kept if (packet.sender, packet.receiver) == (beside.id, old.id)][-1]
    stage.join([old], stage.others(beside))
    stage.leader_of(stage.others(beside))
    new.core.transfer_leader(old.id)
    new.pump()
    stage.until(lambda: old.core.role is Role.LEADER)
    stage.leader_of(stage.others(beside))
    stage.propose(old, 30)
    old.arrive(late)
    stage.pause(SECOND // 10)


def heartbeats_at_outdated_entries(seed: int) -> None:
    """A node with entries of an earlier leader hears the new one, whose committed entries have the same indexes."""
    stage = Stage(seed, 5)
    _, outdated, new = stage.divide()
    last_index = stage.propose(new, 3)
    stage.until(lambda: new.core.commit_index == last_index)
    stage.join([outdated], stage.others(outdated))
    stage.until(lambda: outdated.core.applied_index == last_index)


def _outdated(stage: Stage, *, stalled: bool) -> tuple[SimNode, SimNode]:
    """One with many entries of an earlier leader, and the new leader, whose log begins behind what they have in common."""
    _, outdated, new = stage.divide(stalled=stalled)
    last_index = stage.propose(new, 5, body_bytes=2000)
    stage.until(lambda: new.keeper.applied_index(1) == last_index)
    return outdated, new


def snapshot_over_unstable_entries(seed: int) -> None:
    """A snapshot comes to a node whose disk has stood still since it got the entries that the snapshot replaces."""
    stage = Stage(seed, 5, keep_entries=1, segment_bytes=1 << 12)
    outdated, new = _outdated(stage, stalled=True)
    stage.join([outdated], stage.others(outdated))
    stage.until(lambda: outdated.core.commit_index >= new.keeper.applied_index(1))
    stage.pause(SECOND // 10)


def snapshot_over_durable_entries(seed: int) -> None:
    """A node with entries of an earlier leader on its disk installs a snapshot, and starts again."""
    stage = Stage(seed, 5, keep_entries=1, segment_bytes=1 << 12)
    outdated, new = _outdated(stage, stalled=False)
    stage.join([outdated], stage.others(outdated))
    stage.until(lambda: outdated.group.machine.applied_index >= new.keeper.applied_index(1))
    outdated.crash(power=False)
    outdated.start()
    stage.pause(SECOND // 10)


def work_torn_behind_its_hard_state(seed: int) -> None:
    """A node with an entry that nobody else has is sent the committed one in its place, and loses power as it writes that."""
    stage = Stage(seed, 5)
    first = stage.leader_of(stage.nodes)
    beside, *rest = stage.others(first)
    stage.cut([first, beside], rest)
    index = stage.propose(first, 1, body_bytes=4000)  # of many sectors, so that it is torn more easily than what is before it
    stage.until(lambda: beside.watch.durable.last_index == index)
    stage.until(lambda: any(node.core.role is Role.LEADER for node in rest))
    alone = next(node for node in rest if node.core.role is Role.LEADER)
    stage.cut([alone], rest)
    stage.until(lambda: alone.watch.durable.last_index == index)
    others = stage.others(alone)
    stage.join([first, beside], others)
    stage.leader_of(others)
    stage.join([alone], others)
    pending = alone.watch.durable.pending
    stage.until(lambda: any(write <= alone.device.writes and work.entries for write, work in pending))
    alone.crash(power=True)
    alone.start()
    stage.pause(SECOND)


def write_of_replaced_entries(seed: int) -> None:
    """A node's disk ends a work of the new term in which the node still had the entries that were replaced meanwhile."""
    stage = Stage(seed, 5)
    _, outdated, new = stage.divide(entries=1, stalled=True)
    network = stage.cluster.network
    network.open(new.id, outdated.id)
    stage.until(lambda: outdated.core.term == new.core.term)
    stage.until(lambda: outdated.watch.durable.last_index == outdated.core.last_index)  # of the old term: counts for nothing
    network.open(outdated.id, new.id)
    stage.until(lambda: outdated.core.commit_index >= new.core.commit_index)
    stage.pause(3 * SECOND)
