"""A broken link whose port refuses is a hint, and no more than that.

The nodes that would have to wait for an election timeout wait for minutes here, so what happens earlier is due to the hint.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.processes import Cluster, free_ports, stays, wait_until
from tests.raw import Raw
from zmqbroker.wire.frames import Request

#: 200 to 400 seconds: longer than any test.
PATIENT = {"ZMQBROKER_RAFT_ELECTION_TICKS": "10000"}
#: Longer than the turns that a hint gives, so that a follower takes them before it hears that its leader is there.
RARELY_HEARD = {"ZMQBROKER_RAFT_HEARTBEAT_TICKS": "20", "ZMQBROKER_RAFT_ELECTION_TICKS": "40"}
#: Much longer than all turns that a hint gives, and than a heartbeat's interval.
AFTER_S = 1.0
FOLLOWERS = ("node-2", "node-3")


class Relay:
    """A port that passes everything on to another one, until it is cut."""

    def __init__(self, to: int) -> None:
        (self.port,) = free_ports(1)
        self._to = to
        self._sockets: list[socket.socket] = [socket.create_server(("127.0.0.1", self.port))]
        self._cut, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        listener, other = self._sockets[0], dict[socket.socket, socket.socket]()
        while True:
            readable = select.select([self._cut, listener, *other], [], [])[0]
            if self._cut in readable:
                break
            for found in readable:
                if found is listener:
                    self._take(listener, other)
                elif found in other:
                    self._pass(found, other)
        for each in self._sockets:  # the port first, so that it refuses when the connections end
            each.close()

    def _take(self, listener: socket.socket, other: dict[socket.socket, socket.socket]) -> None:
        incoming = listener.accept()[0]
        try:
            outgoing = socket.create_connection(("127.0.0.1", self._to))
        except OSError:  # not up yet
            incoming.close()
            return
        other[incoming], other[outgoing] = outgoing, incoming
        self._sockets += [incoming, outgoing]

    def _pass(self, found: socket.socket, other: dict[socket.socket, socket.socket]) -> None:
        try:
            data = found.recv(1 << 16)
            other[found].sendall(data)
        except OSError:
            data = b""
        if not data:
            partner = other.pop(found)
            other.pop(partner)
            found.close()
            partner.close()

    def cut(self) -> None:
        """End the connections and refuse new ones. May be repeated."""
        self._wake.close()
        self._thread.join(10)
        self._cut.close()


@contextmanager
def led_by_the_first(directory: Path) -> Iterator[tuple[Cluster, int, Relay]]:
    """Three nodes, of which only the first is in a hurry, so that it leads; its term; and the third node's way to it."""
    cluster = Cluster(directory)
    cluster.nodes["node-1"].environment.update(RARELY_HEARD)
    for name in FOLLOWERS:
        cluster.nodes[name].environment.update(PATIENT)
    peers = cluster.nodes["node-3"].environment["ZMQBROKER_CLUSTER_PEERS"].split(",")
    relay = Relay(int(peers[0].rpartition(":")[2]))
    peers[0] = f"node-1=127.0.0.1:{relay.port}"
    cluster.nodes["node-3"].environment["ZMQBROKER_CLUSTER_PEERS"] = ",".join(peers)
    try:
        cluster.start()
        for name in FOLLOWERS:
            wait_until(partial(follows, cluster, name, "node-1"), 20, f"{name} to follow")
        term, leader = wait_until(cluster.leadership, 20, "a leader")
        assert leader.name == "node-1"
        yield cluster, term, relay
    finally:
        cluster.close()
        relay.cut()


def group_of(cluster: Cluster, name: str) -> dict[str, Any]:
    """What a node says of its group; empty when it says nothing."""
    info = cluster.info(name)
    return dict(info["groups"][0]) if info and info["groups"] else {}


def follows(cluster: Cluster, name: str, leader: str) -> bool:
    """Whether a node knows that leader."""
    return bool(group_of(cluster, name).get("leader") == leader)


def confirms(cluster: Cluster) -> bool:
    """Whether the leader confirms a message."""
    with Raw(cluster.leader().endpoint) as raw:
        return "sequence" in raw.ask(Request.SEND, {"channel": "hint"}, [b"x"]).fields


def refusals_seen(cluster: Cluster, name: str) -> int:
    """Broken links of a node whose port refused."""
    info = cluster.info(name)
    return int(info["counters"].get("peer_links_refused", 0)) if info else 0


def test_link_loss_killed_leader_is_replaced_long_before_the_election_timeout(tmp_path: Path) -> None:
    with led_by_the_first(tmp_path) as (cluster, term, _):
        cluster.nodes["node-1"].kill()
        later, leader = wait_until(cluster.leadership, 20, "another leader")
        assert later > term
        assert leader.name in FOLLOWERS
        assert confirms(cluster)


def test_link_loss_killed_follower_deposes_nobody(tmp_path: Path) -> None:
    with led_by_the_first(tmp_path) as (cluster, term, _):
        cluster.nodes["node-3"].kill()
        for name in ("node-1", "node-2"):
            wait_until(partial(refusals_seen, cluster, name), 20, f"{name} to see the refusal")
        stays(lambda: cluster.leadership() == (term, cluster.nodes["node-1"]), AFTER_S, "the same leader")
        assert confirms(cluster)


def test_link_loss_of_one_follower_to_a_living_leader_deposes_nobody(tmp_path: Path) -> None:
    with led_by_the_first(tmp_path) as (cluster, term, relay):
        relay.cut()
        wait_until(lambda: refusals_seen(cluster, "node-3"), 20, "node-3 to see the refusal")
        stays(lambda: cluster.leadership() == (term, cluster.nodes["node-1"]), AFTER_S, "the same leader")
        wait_until(lambda: follows(cluster, "node-3", "node-1"), 20, "node-3 to follow again")
        assert group_of(cluster, "node-3")["term"] == term
        assert confirms(cluster)
