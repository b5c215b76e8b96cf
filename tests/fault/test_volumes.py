"""What a volume is worth after its machine has died: an ephemeral one is not believed, a persistent one is.

The death of a machine is played: the process is killed, and the boot that its directory names is another one than now.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.fault.damage import flip, has_died
from tests.fault.operator import change, command, verified_cluster
from tests.fault.test_damage import RECOVERING, contents, is_well, log_of
from tests.fault.test_wiped import WATCHED_S, depth, has_no_majority, has_said, members, send
from tests.processes import Cluster, Node, cluster, stays, wait_until
from zmqbroker import SyncClient
from zmqbroker.storage.run_record import read_run, write_run
from zmqbroker.wire.frames import Reply

PATIENCE_S = 60.0


def data_of(nodes: Cluster, node: Node) -> dict[str, Any]:
    """What a node says of its data."""
    info = nodes.info(node.name, timeout_ms=10_000)
    assert info is not None
    found: dict[str, Any] = info["data"]
    return found


def follower_of(nodes: Cluster) -> Node:
    """Some node that does not lead."""
    leader = nodes.leader()
    return next(node for node in nodes.nodes.values() if node is not leader)


@pytest.mark.timeout(120)
def test_ephemeral_node_whose_machine_died_rejoins_and_deletes_what_it_had(tmp_path: Path) -> None:
    with verified_cluster(tmp_path) as nodes:
        assert send(nodes.leader()).command == Reply.SENT
        node, before = follower_of(nodes), members(nodes)
        node.kill()
        has_died(node)
        node.start()
        wait_until(partial(is_well, nodes, node, before), PATIENCE_S, f"{node.name} to vote again")
        assert has_said(node, f"{RECOVERING}{node.directory}: the machine died")
        wait_until(lambda: not list(node.directory.glob("stale-*")), PATIENCE_S, "the old data to be deleted")
        assert data_of(nodes, node) == {"recovering": None, "may_have_lost_since_unix_ns": None, "stale": []}
        assert depth(node) == 1


@pytest.mark.timeout(120)
def test_node_that_is_not_to_rejoin_by_itself_waits_for_the_command(tmp_path: Path) -> None:
    with verified_cluster(tmp_path, environment={"ZMQBROKER_CLUSTER_AUTO_REJOIN": "false"}) as nodes:
        assert send(nodes.leader()).command == Reply.SENT
        node, before = follower_of(nodes), members(nodes)
        node.kill()
        has_died(node)
        node.start()
        wait_until(partial(has_said, node, f"by zmqbroker cluster replace {node.name}"), PATIENCE_S, "what it waits for")
        stays(lambda: members(nodes) == before, 2 * WATCHED_S, "nobody takes it in")
        assert f"{node.name} is recovering: {node.directory}: the machine died" in command(nodes, "status")
        assert sorted(change(nodes, "replace", node.name)) == sorted(before)
        wait_until(partial(is_well, nodes, node, before), PATIENCE_S, f"{node.name} to vote again")


@pytest.mark.timeout(120)
def test_ephemeral_node_that_stopped_in_order_is_itself_after_another_boot(tmp_path: Path) -> None:
    with verified_cluster(tmp_path) as nodes:
        assert send(nodes.leader()).command == Reply.SENT
        node, before = follower_of(nodes), members(nodes)
        assert node.stop() == 0
        has_died(node)
        node.start()
        wait_until(partial(is_well, nodes, node, before), PATIENCE_S, f"{node.name} to be there")
        assert not has_said(node, RECOVERING)


@pytest.mark.timeout(120)
def test_persistent_node_whose_machine_died_is_itself(tmp_path: Path) -> None:
    with verified_cluster(tmp_path, volume="persistent") as nodes:
        assert send(nodes.leader()).command == Reply.SENT
        node, before = follower_of(nodes), members(nodes)
        node.kill()
        has_died(node)
        node.start()
        wait_until(partial(is_well, nodes, node, before), PATIENCE_S, f"{node.name} to be there")
        assert not has_said(node, RECOVERING)


@pytest.mark.timeout(120)
def test_ephemeral_nodes_whose_machines_all_died_wait_for_the_operator(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes:
        assert send(nodes.leader()).command == Reply.SENT
        for node in nodes.nodes.values():
            node.kill()
            has_died(node)
        before = [contents(node) for node in nodes.nodes.values()]
        for node in nodes.nodes.values():
            node.start()
        for node in nodes.nodes.values():
            wait_until(partial(has_said, node, f"{RECOVERING}{node.directory}: the machine died"), PATIENCE_S, node.name)
        stays(lambda: has_no_majority(*nodes.nodes.values()), WATCHED_S, "nobody leads over data that may have holes")
        said = command(nodes, "status", expected=3)
        assert said.count("recovering") >= 3
        for node in nodes.nodes.values():
            assert node.stop() == 0
        assert [contents(node) for node in nodes.nodes.values()] == before


@pytest.mark.timeout(120)
def test_ephemeral_node_that_is_alone_keeps_what_its_checksums_prove_and_says_since_when(tmp_path: Path) -> None:
    with cluster(tmp_path, 1) as nodes:
        node = nodes.leader()
        for _ in range(20):
            assert send(node).command == Reply.SENT
        began = read_run(node.directory)
        node.kill()
        has_died(node)
        path = log_of(node)
        middle = [match.start() for match in re.finditer(rb"ZBCR", path.read_bytes())][-20]
        flip(path, middle + 60)  # all of it had been written: damage, were this boot the same
        node.start()
        wait_until(lambda: nodes.leadership() is not None, PATIENCE_S, f"{node.name} to lead\n{node.log()}")
        assert has_said(node, "may have lost writes since")
        assert began is not None
        assert data_of(nodes, node)["may_have_lost_since_unix_ns"] == began.durable_unix_ns
        assert "may have lost writes since" in command(nodes, "status")
        assert send(node).command == Reply.SENT
        kept = depth(node)
        assert 0 < kept < 20
        with SyncClient(nodes.url) as client:
            got = client.queue("wiped").receive(100, wait_ms=2000)
        assert [message.body for message in got] == [b"new"] * kept, "each of them has its body"
        if has_said(node, "messages are lost"):  # the store had got further than the log: numbers go on behind it
            assert kept < got[-1].sequence <= 21
        else:
            assert got[-1].sequence == kept
        assert node.stop() == 0
        node.start()
        wait_until(lambda: nodes.leadership() is not None, PATIENCE_S, f"{node.name} to lead")
        assert data_of(nodes, node)["may_have_lost_since_unix_ns"] == began.durable_unix_ns, "it stays true"


@pytest.mark.timeout(120)
def test_ephemeral_node_that_is_alone_makes_its_state_anew_where_the_log_has_all(tmp_path: Path) -> None:
    with cluster(tmp_path, 1) as nodes:
        node = nodes.leader()
        for _ in range(5):
            assert send(node).command == Reply.SENT
        assert node.stop() == 0
        record = read_run(node.directory)
        assert record is not None
        write_run(node.directory, type(record)(boot_id="another boot", clean=False, durable_unix_ns=record.durable_unix_ns))
        store = node.directory / "state" / "data.mdb"
        store.write_bytes(b"\xff" * store.stat().st_size)
        node.start()
        wait_until(lambda: nodes.leadership() is not None, PATIENCE_S, f"{node.name} to lead\n{node.log()}")
        assert depth(node) == 5
        assert [name for name in data_of(nodes, node)["stale"] if name.startswith("stale-")]
