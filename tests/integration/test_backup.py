"""A backup of a running cluster, checked, restored to a cluster of one, and gone on with; and everything in its way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import zmqbroker
from tests.integration.test_restart import ask
from tests.integration.wild import batch, unique_channel
from tests.processes import Cluster, Node, cluster, free_ports, wait_until
from tests.raw import Raw
from zmqbroker.wire.frames import Reply, Request

LONG_MS = 43_200_000
SHORT_MS = 1_000
#: So that sessions of clients that are gone end within a test.
SESSION_MS = "2000"


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "zmqbroker", *map(str, words)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


def made(*words: str | Path) -> dict[str, Any]:
    """What a command that must succeed prints with --json."""
    ended = command(*words, "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


def node_on(
    directory: Path, name: str, *, volume: str, cluster_name: str = "zmqbroker", peer: int = 0, others: str = ""
) -> Cluster:
    """One node that serves a data directory; `others` are peers as configurations have them."""
    client, free = free_ports(2)
    peer = peer or free
    environment = {
        "ZMQBROKER_NODE_NAME": name,
        "ZMQBROKER_NODE_DATA_DIR": str(directory),
        "ZMQBROKER_CLUSTER_NAME": cluster_name,
        "ZMQBROKER_CLUSTER_PEERS": f"{name}=127.0.0.1:{peer}{others}",
        "ZMQBROKER_CLUSTER_VOLUME": volume,
        "ZMQBROKER_LISTEN_CLIENT": f"tcp://127.0.0.1:{client}",
        "ZMQBROKER_LISTEN_PEER": f"127.0.0.1:{peer}",
        "ZMQBROKER_LIMITS_SESSION_TIMEOUT_MS": SESSION_MS,
    }
    return Cluster.of({name: Node(name, client, environment, directory.parent)})


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("trio"), volume="persistent") as running:
        yield running


def test_backup_restored_serves_every_message_with_counts_and_producers(trio: Cluster, tmp_path: Path) -> None:
    channel, session, endpoint = unique_channel(), os.urandom(16), trio.leader().endpoint
    to = {"channel": channel}
    frames = [batch(channel, b"%d" % base, b"and", b"more", producer=77, base=base) for base in (1, 4, 7)]
    ask(endpoint, session, Request.OPEN_PRODUCER, {**to, "producer": 77})
    for frame in frames[:2]:
        ask(endpoint, session, Request.SEND_BATCH, {}, [frame])
    held = ask(endpoint, session, Request.RECEIVE, {**to, "max": 4, "visibility_ms": LONG_MS})["pieces"]
    assert ask(endpoint, session, Request.ACK, {**to, "receipts": [[held[0][0], 1, 2]]})["count"] == 2
    before = ask(endpoint, session, Request.STATS, to)

    told = made("backup", "--url", trio.url, tmp_path / "file")
    assert (told["bytes"], told["cluster"]) == ((tmp_path / "file").stat().st_size, "zmqbroker")
    assert command("verify", tmp_path / "file").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
    restored = made("restore", tmp_path / "file", "--data-dir", tmp_path / "data", "--name", "phoenix", "--cluster", "second")
    assert restored["messages"][channel] == 4
    assert made("verify", tmp_path / "data")["ok"]

    running = node_on(tmp_path / "data", "phoenix", volume="persistent", cluster_name="second")
    try:
        running.start()
        endpoint = running.nodes["phoenix"].endpoint
        after = ask(endpoint, os.urandom(16), Request.STATS, to)
        same = ("depth", "last_sequence", "acked", "redelivered", "size_bytes")
        assert {key: after[key] for key in same} == {key: before[key] for key in same}
        # The session that held 3 and 4 is dead: they come back when the node has not heard it for its timeout.
        wait_until(lambda: ask(endpoint, os.urandom(16), Request.STATS, to)["ready"] == 4, 30, "all are ready")
        again = [ask(endpoint, session, Request.SEND_BATCH, {}, [frame]) for frame in frames]
        assert [fields["duplicate"] for fields in again] == [True, True, False]
        with zmqbroker.SyncClient(running.url) as client:
            messages = client.queue(channel).receive(max=20)
            found = [(message.sequence, message.body, message.delivery_count) for message in messages]
            assert found == [
                *((3, b"more", 2), (4, b"4", 2), (5, b"and", 1), (6, b"more", 1)),
                *((7, b"7", 1), (8, b"and", 1), (9, b"more", 1)),
            ]
            client.queue(channel).ack(messages)
    finally:
        running.close()
    assert made("verify", tmp_path / "data")["ok"]


def test_restored_cluster_takes_in_new_nodes_with_all_that_it_has(trio: Cluster, tmp_path: Path) -> None:
    channel, (first_port, second_port) = unique_channel(), free_ports(2)
    with zmqbroker.SyncClient(trio.url) as client:
        for number in range(20):
            client.queue(channel).send(b"%d" % number)
    made("backup", "--url", trio.url, tmp_path / "file")
    words = ("--data-dir", tmp_path / "first", "--name", "first", "--peer", f"127.0.0.1:{first_port}")
    made("restore", tmp_path / "file", *words)
    first = node_on(tmp_path / "first", "first", volume="persistent", peer=first_port)
    others = f",first=127.0.0.1:{first_port}"
    second = node_on(tmp_path / "second", "second", volume="persistent", peer=second_port, others=others)
    both = Cluster.of({**first.nodes, **second.nodes})
    try:
        first.start()
        second.nodes["second"].start()
        members = made("cluster", "add", "second", "--url", first.url)["members"]
        assert [(member["name"], member["voter"]) for member in members] == [("first", True), ("second", True)]
        assert made("cluster", "transfer", "second", "--url", both.url)["leader"] == "second"
        with zmqbroker.SyncClient(both.url) as client:
            messages = client.queue(channel).receive(max=100)
            assert [message.body for message in messages] == [b"%d" % number for number in range(20)]
            client.queue(channel).ack(messages)
    finally:
        both.close()


def test_backup_under_load_has_all_that_was_confirmed_before(trio: Cluster, tmp_path: Path) -> None:
    channel, stopping = unique_channel(), threading.Event()
    confirmed: list[int] = []

    def load() -> None:
        with zmqbroker.SyncClient(trio.url) as client:
            while not stopping.is_set():
                confirmed.append(client.queue(channel).send(os.urandom(10_000)).sequence)

    sender = threading.Thread(target=load)
    sender.start()
    try:
        for name in trio.nodes:
            wait_until(lambda: len(confirmed) > 20, 30, "some messages")
            before = len(confirmed)
            told = made("backup", "--url", trio.url, "--node", name, tmp_path / name)
            assert told["node"] == name
            messages = made("verify", tmp_path / name)["messages"][channel]
            assert before <= messages <= len(confirmed) + 1
    finally:
        stopping.set()
        sender.join()
    for node in trio.nodes.values():
        assert list((node.directory / "snapshots").iterdir()) == []


def test_second_backup_waits_and_a_lost_one_is_begun_anew(trio: Cluster, tmp_path: Path) -> None:
    leader = trio.leader()
    with Raw(leader.endpoint) as raw:

        def chunk() -> bool:
            return raw.ask(Request.BACKUP, {"id": bytes(16)}).command == Reply.BACKED_UP

        wait_until(chunk, 30, "the backup is made")
        ended = command("backup", "--url", leader.endpoint, tmp_path / "file", "--timeout-ms", "2000")
        assert ended.returncode == 1
        assert "another backup is being taken" in ended.stderr
        assert list(tmp_path.iterdir()) == []
        assert leader.stop() == 0
        assert list((leader.directory / "snapshots").iterdir()) == []
        leader.start()
        trio.leader()
        wait_until(lambda: trio.caught_up(leader), 30, "the node is back")
        answer = raw.ask(Request.BACKUP, {"id": bytes(16), "offset": 100})
        assert (answer.code, "begin a new one" in answer.fields["message"]) == ("INVALID_REQUEST", True)
