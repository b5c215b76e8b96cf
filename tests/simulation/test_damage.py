"""What the simulated disk does to bytes, and what a node makes of it.

A node that comes across damage stays down, and the others go on; damage that nobody did is a violation.
"""

from __future__ import annotations

from random import Random

import pytest

from tests.simulation.cluster import Cluster
from tests.simulation.disk import SECTOR_SIZE
from tests.simulation.failure import Violation
from tests.simulation.node import SimNode
from tests.simulation.options import DAMAGE, FAULTS, Options, draw
from tests.simulation.simulation import run
from tests.simulation.small_disk import FILE, make, new_disk
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


def test_flip_read_changes_one_bit_on_the_way_and_none_on_the_disk() -> None:
    disk = new_disk(flip_read=1.0)
    content = b"\xff" * 3 + bytes(600)
    descriptor = make(disk, FILE, content)
    for _ in range(50):
        read = disk.pread(descriptor, 603, 0)
        assert (int.from_bytes(read[:3], "big").bit_count(), read[3:]) == (23, bytes(600))
    assert disk.pread(descriptor, 10, 603) == b""
    assert (disk.durable_bytes(FILE), disk.counts["flip_read"]) == (content, 50)


def test_overwritten_sector_holds_no_zeros_and_is_the_only_one() -> None:
    disk = new_disk()
    descriptor = make(disk, FILE, bytes(511) + b"a" * 600)
    found = disk.overwrite_sector(Random(1))
    assert found is not None
    path, offset = found
    assert (path, offset % SECTOR_SIZE) == (FILE, 0)
    content = disk.pread(descriptor, 2000, 0)
    end = min(offset + SECTOR_SIZE, 1111)
    assert 0 not in content[offset:end]
    before = bytes(511) + b"a" * 600
    assert content[:offset] + content[end:] == before[:offset] + before[end:]
    assert disk.durable_bytes(FILE) == content


def test_overwriting_needs_a_file_with_bytes_and_a_durable_name() -> None:
    disk = new_disk()
    make(disk, FILE, b"content", sync=False)
    assert disk.overwrite_sector(Random(1), FILE) is None
