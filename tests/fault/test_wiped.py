"""Nodes whose disk is gone: they never vote under their old identity, and never form an empty cluster beside the data."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from tests.fault.operator import verify
from tests.processes import Cluster, Node, cluster, stays, wait_until
from tests.raw import Answer, Raw
from zmqbroker.wire.frames import Reply, Request

#: Several election timeouts: as long as a majority would need, and more, to elect a leader if it were allowed to.
WATCHED_S = 2.5
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


def test_wiped_node_does_not_vote_and_says_so(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes:
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


def test_two_wiped_nodes_form_no_empty_cluster_without_the_third(tmp_path: Path) -> None:
    with cluster(tmp_path) as nodes:
        assert send(nodes.leader()).command == Reply.SENT
        holder = nodes.nodes["node-3"]
        wait_until(lambda: depth(holder) == 1, 20, "the message on node-3")
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
        assert depth(holder) == 1, "what was acknowledged is still there"
