"""Disks that have little room: sends are refused by name, everything else goes on and frees room, and no process ends.

Every node has a small file system of its own. Segments are tiny, so that what was acked is dropped from the log soon.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.fault.conftest import Note
from tests.fault.operator import command, verify
from tests.fault.small_disks import (
    LOW_WATER_BYTES,
    MIB,
    PATIENCE_S,
    SETTINGS,
    Jobs,
    disk,
    others,
    processes,
    refused_by,
    small_disks,
)
from tests.fault.volumes import fill, free_bytes, small_volume, why_not
from tests.processes import Cluster, stays, wait_until
from zmqbroker import SyncClient


@pytest.mark.parametrize(
    ("volume", "kind", "size"),
    [("persistent", "tmpfs", 3), ("persistent", "ext4", 3), ("ephemeral", "tmpfs", 3), ("persistent", "tmpfs", 1)],
)
def test_disks_that_messages_fill_refuse_sends_until_these_were_acked(
    tmp_path: Path, note: Note, volume: str, kind: str, size: int
) -> None:
    with small_disks(tmp_path, size, volume=volume, kind=kind) as nodes, SyncClient(nodes.url) as client:
        jobs = Jobs(client)
        error = jobs.send_until_refused()
        assert jobs.sent > 100
        assert len(error.fields["nodes"]) >= size // 2 + 1
        for row in error.fields["nodes"]:
            assert 0 < row["free_bytes"] < row["low_water_bytes"] * 5 // 4, row
            assert row["node"] in error.message
        assert refused_by(nodes)
        assert all(free_bytes(node.directory) > LOW_WATER_BYTES // 2 for node in nodes.nodes.values())
        first, acked_s = jobs.sent, time.monotonic()
        jobs.consume()
        wait_until(lambda: not refused_by(nodes), PATIENCE_S, "sends to be taken again")
        note(f"{volume}, {kind}: {first} messages; {time.monotonic() - acked_s:.2f} s from the first ack to sends again")
        jobs.send_until_refused()
        assert jobs.sent - first > 100, "and not only for one"
        jobs.consume()
        if size > 1:
            verify(nodes)


def test_two_disks_with_little_room_refuse_sends_until_there_is_more(tmp_path: Path) -> None:
    with small_disks(tmp_path) as nodes, SyncClient(nodes.url) as client:
        jobs, short = Jobs(client), others(nodes, nodes.leader())
        jobs.send(20)
        fillers = [fill(node.directory, LOW_WATER_BYTES // 2) for node in short]
        error = jobs.send_until_refused()
        assert [row["node"] for row in error.fields["nodes"]] == [node.name for node in short]
        command(nodes, "cluster", "transfer", short[0].name)
        error = jobs.send_until_refused()  # whoever leads learns it from the first answers
        assert [row["node"] for row in error.fields["nodes"]] == [node.name for node in short]
        jobs.consume()
        jobs.send_until_refused()
        fillers[0].unlink()
        wait_until(lambda: not refused_by(nodes), PATIENCE_S, "sends to be taken again")
        jobs.send(20)
        jobs.consume()
        verify(nodes)


def test_leader_with_little_room_hands_over_and_sends_go_on(tmp_path: Path) -> None:
    with small_disks(tmp_path) as nodes, SyncClient(nodes.url) as client:
        jobs, first = Jobs(client), nodes.leader()
        jobs.send(20)
        fill(first.directory, LOW_WATER_BYTES // 2)
        wait_until(lambda: disk(nodes, first)["short"], PATIENCE_S, "the disk to be found full")
        wait_until(lambda: nodes.leader() is not first, PATIENCE_S, "another leader")
        jobs.send(100)
        jobs.consume()
        assert "has no room for more messages: leadership goes to" in first.log()
        assert refused_by(nodes) == []


def test_status_shows_free_space_and_who_has_none(tmp_path: Path) -> None:
    with small_disks(tmp_path) as nodes:
        short = others(nodes, nodes.leader())
        assert "free MiB" in command(nodes, "status")
        for node in short:
            fill(node.directory, LOW_WATER_BYTES // 2)
        wait_until(lambda: len(refused_by(nodes)) == 2, PATIENCE_S, "sends to be refused")
        found = command(nodes, "status", "--json")
        assert f'"sends_refused_by": ["{short[0].name}", "{short[1].name}"]' in found
        assert disk(nodes, short[0])["free_bytes"] <= LOW_WATER_BYTES // 2 + MIB


def test_new_node_on_a_full_disk_waits_for_room_and_says_so(tmp_path: Path) -> None:
    if reason := why_not("tmpfs"):
        pytest.skip(reason)
    with small_volume(tmp_path / "node-1", 8 * MIB, "tmpfs"):
        filler = fill(tmp_path / "node-1", 0)
        nodes = Cluster(tmp_path, 1, environment=SETTINGS)
        (node,) = nodes.nodes.values()
        try:
            node.start()
            wait_until(lambda: "this node waits for room" in node.log(), PATIENCE_S, "a word on the disk")
            stays(lambda: node.running, 3, "the process, which looks again and again")
            assert node.log().count("this node waits for room") == 1
            pid = processes(nodes)
            filler.unlink()
            nodes.leader()
            assert processes(nodes) == pid
            assert node.stop() == 0
            fill(tmp_path / "node-1", 0)
            (tmp_path / "node-1" / "ballast").write_bytes(b"")
            fill(tmp_path / "node-1", 0)
            node.start()
            wait_until(lambda: node.log().count("this node waits for room") == 2, PATIENCE_S, "a word on the disk")
            assert node.stop() == 0, "it can be stopped while it waits"
        finally:
            node.close()
