"""Disks on which not a byte is free: no process ends, what waits can be consumed, that frees room, and nothing is lost.

Here somebody else has taken all the room, so that nodes live from what they have kept back: segments of the log, free pages of
the store, and the ballast.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.operator import verify
from tests.fault.small_disks import (
    MIB,
    PATIENCE_S,
    Jobs,
    disk,
    others,
    processes,
    refused_by,
    small_disks,
)
from tests.fault.volumes import fill
from tests.processes import Cluster, Node, wait_until
from zmqbroker import SyncClient

#: Messages of 8 KiB that wait when the disks become full: room for more than the low-water mark and a quarter of it.
BACKLOG = 1600


def all_have_all(nodes: Cluster) -> None:
    """Wait until every node has what the leader has committed."""
    for node in nodes.nodes.values():
        wait_until(lambda node=node: nodes.caught_up(node), PATIENCE_S, f"{node.name} to have all")  # type: ignore[misc]


def test_full_follower_stops_nobody_and_catches_up_when_there_is_room(tmp_path: Path) -> None:
    with small_disks(tmp_path, mib=32) as nodes, SyncClient(nodes.url) as client:
        jobs, full = Jobs(client), others(nodes, nodes.leader())[0]
        jobs.send(200)
        filler = fill(full.directory, 0)
        wait_until(lambda: disk(nodes, full)["short"], PATIENCE_S, "the disk to be found full")
        jobs.send(BACKLOG // 2)  # several times its reserve
        jobs.consume()
        jobs.send(200)
        assert full.running, full.log()[-2000:]
        filler.unlink()
        all_have_all(nodes)
        jobs.consume()
        verify(nodes)


#: Ticks of 5 ms, so that a member is soon taken for one that is away.
SOON_AWAY = {
    "ZMQBROKER_RAFT_TICK_MS": "5",
    "ZMQBROKER_RAFT_HEARTBEAT_TICKS": "10",
    "ZMQBROKER_RAFT_ELECTION_TICKS": "100",
}


def test_full_follower_does_not_hold_the_others_log_and_comes_back(tmp_path: Path) -> None:
    with small_disks(tmp_path, mib=28, settings=SOON_AWAY) as nodes, SyncClient(nodes.url) as client:
        jobs, full = Jobs(client), others(nodes, nodes.leader())[0]
        jobs.send(200)
        filler = fill(full.directory, 0)
        wait_until(lambda: disk(nodes, full)["short"], PATIENCE_S, "the disk to be found full")
        jobs.send(600)  # more than it can store
        for _ in range(30):  # and more than the others' disks have room for
            jobs.send(100)
            jobs.consume()
        filler.unlink()
        wait_until(lambda: nodes.caught_up(full), PATIENCE_S, f"{full.name} to have all")
        verify(nodes)


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
@pytest.mark.parametrize("volume", ["persistent", "ephemeral"])
@pytest.mark.parametrize("count", [2, 3])
def test_full_disks_of_a_majority_refuse_sends_and_are_emptied_by_consuming(
    tmp_path: Path, count: int, volume: str, kind: str
) -> None:
    with small_disks(tmp_path, mib=32, volume=volume, kind=kind) as nodes, SyncClient(nodes.url) as client:
        jobs = Jobs(client)
        jobs.send(BACKLOG)
        all_have_all(nodes)
        for node in list(nodes.nodes.values())[-count:]:
            fill(node.directory, 0)
        wait_until(lambda: len(refused_by(nodes)) == count, PATIENCE_S, "sends to be refused")
        jobs.send_until_refused()
        jobs.consume()
        wait_until(lambda: not refused_by(nodes), PATIENCE_S, "sends to be taken again")
        jobs.send(100)
        jobs.consume()
        verify(nodes)


def test_full_disks_of_all_do_not_stop_a_start(tmp_path: Path) -> None:
    with small_disks(tmp_path, mib=32, the_same_processes=False) as nodes, SyncClient(nodes.url) as client:
        jobs = Jobs(client)
        jobs.send(BACKLOG)
        all_have_all(nodes)
        for end in (Node.stop, Node.kill):  # in order, and not
            for node in nodes.nodes.values():
                fill(node.directory, 0)
            wait_until(lambda: len(refused_by(nodes)) == 3, PATIENCE_S, "sends to be refused")
            for node in nodes.nodes.values():
                end(node)
                fill(node.directory, 0)
            nodes.start()
        pids = processes(nodes)
        wait_until(lambda: len(refused_by(nodes)) == 3, PATIENCE_S, "sends to be refused")
        jobs.send_until_refused()
        jobs.consume()
        wait_until(lambda: not refused_by(nodes), PATIENCE_S, "sends to be taken again")
        jobs.send(100)
        jobs.consume()
        assert processes(nodes) == pids
        verify(nodes)


def test_backlog_in_the_store_leaves_room_for_sends_when_it_is_consumed(tmp_path: Path) -> None:
    budget = {"ZMQBROKER_STORAGE_LOG_BUDGET_BYTES": str(2 * MIB)}
    with small_disks(tmp_path, settings=budget) as nodes, SyncClient(nodes.url) as client:
        jobs = Jobs(client)
        error = jobs.send_until_refused()
        assert error.fields.get("nodes"), error.message  # the disks, and not the log's budget
        jobs.consume()
        wait_until(lambda: not refused_by(nodes), PATIENCE_S, "sends to be taken again, though no file of the store is smaller")
        first = jobs.sent
        jobs.send_until_refused()
        assert jobs.sent - first > 100, "and not only for one"
        jobs.consume()
        verify(nodes)
