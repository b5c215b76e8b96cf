"""Two of three nodes are gone for ever: a new cluster from what the third one holds, all that was confirmed included."""

from __future__ import annotations

from pathlib import Path

import pytest

import zmqbroker
from tests.integration.test_backup import command, made, node_on
from tests.integration.wild import unique_channel
from tests.processes import cluster


@pytest.mark.parametrize("volume", ["persistent", "ephemeral"])
def test_cluster_recovered_from_the_furthest_directory_has_all_that_was_confirmed(tmp_path: Path, volume: str) -> None:
    channel = unique_channel()
    with cluster(tmp_path, 3, volume=volume) as nodes, zmqbroker.SyncClient(nodes.url) as client:
        queue = client.queue(channel)
        for number in range(50):
            queue.send(b"%d" % number)
        queue.ack(queue.receive(max=10))
        for node in nodes.nodes.values():
            node.kill()
    found = {}
    for name in nodes.nodes:
        words = ("cluster", "recover", "--from", tmp_path / name, "--data-dir", tmp_path / f"{name}-new", "--name", "phoenix")
        assert command(*words).returncode == 2, "nothing without --yes"
        found[made(*words, "--yes")["index"]] = tmp_path / f"{name}-new"
        assert made("verify", tmp_path / name)["ok"]
    target = found[max(found)]
    assert made("verify", target)["ok"]

    running = node_on(target, "phoenix", volume=volume)
    try:
        running.start()
        with zmqbroker.SyncClient(running.url) as client:
            queue = client.queue(channel)
            assert queue.stats()["depth"] == 40
            messages = queue.receive(max=100)
            assert [message.body for message in messages] == [b"%d" % number for number in range(10, 50)]
            queue.ack(messages)
            assert queue.send(b"new").sequence == 51
    finally:
        running.close()
