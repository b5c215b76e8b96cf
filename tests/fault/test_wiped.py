"""Nodes whose disk is gone: they never vote under their old identity, and never form an empty cluster beside the data.

While a majority works without it, such a node comes back by itself; without one everybody waits for the operator.
"""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path

import pytest

from tests.fault.conftest import Note
from tests.fault.history import check
from tests.fault.load import Load
from tests.fault.operator import verified_cluster, verify
from tests.fault.test_failover import depth as last_depth
from tests.fault.test_failover import last_sequence
from tests.processes import Cluster, Node, cluster, stays, wait_until
from tests.raw import Answer, Raw
from zmqbroker.wire.frames import Reply, Request

#: Several election timeouts: as long as a majority would need, and more, to elect a leader if it were allowed to.
WATCHED_S = 2.5
#: A node that starts, is silent as its old self for 3 s, and copies what there is, on a machine that is busy with the load.
REJOIN_S = 60.0
CHANNEL = "failover"
RATE, CONFIRMS = 300, 500
NO_VOTE = "this node does not vote"


def wipe(node: Node) -> None:
    """Kill a node and delete its disk."""
    node.kill()
    shutil.rmtree(node.directory)


def has_said(node: Node, text: str) -> bool:
    """Whether a node has said something on standard error."""
    return text in node.log()


def send(node: Node) -> Answer:
    """A node's own answer to a SEND."""
    with Raw(node.endpoint) as raw:
        return raw.ask(Request.SEND, {"channel": "wiped"}, [b"new"])


def depth(node: Node) -> int:
    """Messages in the queue, as a node knows them."""
    with Raw(node.endpoint) as raw:
        return int(raw.ask(Request.STATS, {"channel": "wiped"}).fields.get("depth", 0))


def is_outside(nodes: Cluster, node: Node) -> bool:
    """Whether a node belongs to no cluster, by its own word."""
    info = nodes.info(node.name, timeout_ms=10_000)
    assert info is not None
    return not info["cluster"]["formed"] and not info["groups"]


def has_no_majority(*running: Node) -> bool:
    """Whether no node of these confirms anything."""
    return all(send(node).code == "NO_MAJORITY" for node in running)


def members(nodes: Cluster) -> dict[str, int]:
    """Raft ids of the voters, by name, as the leader knows them."""
    info = nodes.info(nodes.leader().name, timeout_ms=10_000)
    return {row["name"]: row["id"] for row in info["members"] if row["voter"]} if info else {}


def has_rejoined(nodes: Cluster, node: Node, before: dict[str, int]) -> bool:
    """Whether a node votes under another id than before, beside the same others, and has caught up."""
    now = members(nodes)
    changed = {name for name in before if now.get(name) != before[name]}
    return set(now) == set(before) and changed == {node.name} and nodes.caught_up(node)


def work(producers: Load) -> None:
    """Let some messages be confirmed."""
    target = producers.done + CONFIRMS
    wait_until(lambda: producers.done >= target, REJOIN_S, f"{CONFIRMS} confirms")


def test_wiped_node_does_not_vote_and_says_so(tmp_path: Path) -> None:
    with cluster(tmp_path, environment={"ZMQBROKER_CLUSTER_AUTO_REJOIN": "false"}) as nodes:
        leader = nodes.leader()
        assert send(leader).command == Reply.SENT
        wiped, other = [node for node in nodes.nodes.values() if node is not leader]
        wipe(wiped)
        wiped.start()
        wait_until(partial(has_said, wiped, NO_VOTE), 20, "the wiped node to say that it does not vote")
        wait_until(partial(has_said, leader, "does not vote; to take it in"), 20, "the others to say that it does not vote")
        assert send(leader).command == Reply.SENT, "two of three nodes are a majority"
        leader.kill()
        wait_until(lambda: has_no_majority(other), 20, "NO_MAJORITY of the only member that is up")
        stays(lambda: has_no_majority(other, wiped), WATCHED_S, "one member and a wiped node have no majority")
        assert is_outside(nodes, wiped)
        leader.start()
        wait_until(lambda: send(nodes.leader()).command == Reply.SENT, 20, "a confirm of the two members")
        assert depth(nodes.leader()) >= 3, "what was acknowledged before is there too"
        verify(nodes, [wiped])


@pytest.mark.timeout(300)
def test_wiped_follower_rejoins_by_itself_under_load(tmp_path: Path, note: Note) -> None:
    with (
        verified_cluster(tmp_path) as nodes,
        Load("produce", nodes.url, CHANNEL, tmp_path / "produce", rate=RATE) as producers,
        Load("consume", nodes.url, CHANNEL, tmp_path / "consume") as consumers,
    ):
        wiped = next(node for node in nodes.nodes.values() if node is not nodes.leader())
        for _ in range(2):  # its new self can be lost just as well
            work(producers)
            before = members(nodes)
            wipe(wiped)
            work(producers)
            begin_s = time.monotonic()
            wiped.start()
            wait_until(partial(has_rejoined, nodes, wiped, before), REJOIN_S, f"{wiped.name} to vote again\n{wiped.log()}")
            note(f"a wiped follower votes again after {time.monotonic() - begin_s:.1f} s")
        work(producers)
        sent = producers.finish()
        wait_until(lambda: last_depth(nodes) == 0, REJOIN_S, "an empty queue")
        history = sent + consumers.finish()
        assert len(history.confirmed) == len(history.sends), "an error that a retrying client sees"
        assert check(history, last_sequence(nodes)) == []


def test_two_wiped_nodes_form_no_empty_cluster_without_the_third(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes:
        assert send(nodes.leader()).command == Reply.SENT
        holder = nodes.nodes["node-3"]
        wait_until(lambda: depth(holder) == 1, 20, "the message on node-3")
        assert send(nodes.leader()).command == Reply.SENT  # what is stored of it tells that the first one is committed
        wait_until(lambda: depth(holder) == 2, 20, "both messages on node-3")
        emptied = [nodes.nodes["node-1"], nodes.nodes["node-2"]]
        holder.kill()
        for node in emptied:
            wipe(node)
        for node in emptied:
            node.start()
        for node in emptied:
            wait_until(partial(has_said, node, "waiting for node-3"), 30, f"{node.name} to wait for the holder")
        stays(lambda: all(is_outside(nodes, node) for node in emptied), WATCHED_S, "two empty nodes form no cluster")
        assert "waiting for node-3" in send(emptied[0]).fields["message"]
        holder.start()
        for node in emptied:
            wait_until(partial(has_said, node, NO_VOTE), 20, f"{node.name} not to vote")
        wait_until(lambda: has_no_majority(holder), 20, "NO_MAJORITY of the holder")
        stays(lambda: has_no_majority(holder, *emptied), WATCHED_S, "no majority is left")
        assert all(is_outside(nodes, node) for node in emptied)
        assert depth(holder) >= 1, "what was acknowledged is still there"
