"""A node that comes across damage on its disk stays down, and the others go on; damage that nobody did is a violation."""

from __future__ import annotations

from random import Random

import pytest

from tests.simulation.cluster import Cluster
from tests.simulation.failure import Violation
from tests.simulation.node import SimNode
from tests.simulation.options import DAMAGE, FAULTS, Options, draw
from tests.simulation.simulation import run
from tests.simulation.stores import SegmentDevice
from tests.simulation.trace import Trace
from tests.simulation.world import SECOND


def working_cluster() -> Cluster:
    """Three nodes, a second after their start."""
    cluster = Cluster(Options(seed=1, nodes=3, producers=2, consumers=1), Trace(), "pytest")
    cluster.boot()
    run_for(cluster, SECOND)
    return cluster


def run_for(cluster: Cluster, duration_ns: int) -> None:
    """Let so much time pass."""
    end_ns = cluster.world.now_ns + duration_ns
    while cluster.world.now_ns < end_ns:
        cluster.world.step()


def overwritten(cluster: Cluster) -> SimNode:
    """A node that is down, with a stray write on its disk."""
    node = cluster.nodes[2]
    node.crash(power=False)
    assert isinstance(node.device, SegmentDevice)
    assert node.device.disk.overwrite_sector(Random(1))
    return node


def test_damage_found_at_a_start_keeps_the_node_down_and_the_others_go_on() -> None:
    cluster = working_cluster()
    node = overwritten(cluster)
    node.spoiled = True
    node.start()
    assert (node.up, node.damaged, node.describe()) == (False, True, "2 damaged")
    before = cluster.raft.commit_index
    cluster.start(node)
    run_for(cluster, 2 * SECOND)
    assert not node.up
    assert cluster.raft.commit_index > before


def test_damage_that_nobody_did_is_a_violation() -> None:
    cluster = working_cluster()
    node = overwritten(cluster)
    with pytest.raises(Violation, match="I21: found damage that nobody did"):
        node.start()


def test_unreadable_sector_is_tried_again_and_the_node_comes_back_when_it_was_repaired() -> None:
    cluster = working_cluster()
    node = cluster.nodes[2]
    node.crash(power=False)
    assert isinstance(node.device, SegmentDevice)
    node.device.disk.spoil_sector(Random(1))
    node.spoiled = True
    node.start()
    assert (node.up, node.damaged, cluster.counters["starts_failed"]) == (False, False, 1)
    for path in node.device.disk.paths():
        node.device.disk._find_file(path).bad.clear()
    run_for(cluster, 4 * SECOND)
    assert node.up


def test_flipped_reads_of_a_minority_are_never_served_nor_applied() -> None:
    options = Options(seed=3, nodes=3, faults=("flip_read", "partition", "kill"), keep_entries=20)
    report = run(options)
    assert report.faults["flip_read"] > 0
    assert report.counters["damage_found"] == 1


def test_draw_damages_no_disk_of_small_clusters_and_none_in_memory() -> None:
    drawn = [draw(seed) for seed in range(300)]
    damaged = [options for options in drawn if set(options.faults) & set(DAMAGE)]
    assert damaged
    assert all(options.nodes > 2 and options.segments for options in damaged)
    assert not set(DAMAGE) & set(FAULTS)
