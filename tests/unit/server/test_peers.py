"""What goes to one node in one pass goes in one ZeroMQ message: the heartbeats of all its groups, too (DESIGN §4)."""

from __future__ import annotations

from collections import Counter
from random import Random
from types import SimpleNamespace
from typing import Any

from zmqbroker.commands import Member
from zmqbroker.raft import Membership, RaftConfig, RaftCore
from zmqbroker.raft.messages import Message, MessageType
from zmqbroker.server.acquaintances import Acquaintances
from zmqbroker.server.peers import PeerNetwork
from zmqbroker.storage import MemoryLog
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.peer import decode_raft

MEMBERS = tuple(Member(id, f"n{id}", bytes([id]) * 16, f"n{id}:5591") for id in (1, 2, 3))
GROUPS = (0, 1, 2)


class Link:
    """A `PeerLink` that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[list[Buffer]] = []

    def send(self, frames: list[Buffer]) -> bool:
        self.sent.append(frames)
        return True


def network() -> tuple[PeerNetwork, dict[int, Link]]:
    """The network of node 1, with links that keep what is sent."""
    known = Acquaintances("n1", MEMBERS[0].uid, {member.name: member.peer for member in MEMBERS})
    known.follow(MEMBERS)
    formation: Any = SimpleNamespace(known=known, cluster_uid=b"c" * 16, uid=MEMBERS[0].uid, formed=True)
    nothing: Any = None
    made = PeerNetwork(nothing, nothing, formation, Counter())
    links = {}
    for peer in known.everybody():
        link: Any = Link()
        made.links[peer.key] = link
        links[peer.uid[0]] = link
    return made, links


def leader(group: int) -> RaftCore:
    """A core that has just begun to lead its group of three, and has said all that this makes it say."""
    log = MemoryLog()
    config = RaftConfig(id=1, group=group, pre_vote=False)
    core = RaftCore(config, Membership((1, 2, 3)), log.view(group), Random(group))
    core.campaign()
    settle(core, log)
    core.step(Message(MessageType.REQUEST_VOTE_RESPONSE, to=1, sender=2, group=group, term=1))
    settle(core, log)
    return core


def settle(core: RaftCore, log: MemoryLog) -> None:
    while core.has_ready():
        work = core.ready().append
        if work is not None:
            log.complete(log.prepare([work]))
            core.advance(work)


def test_heartbeats_of_all_groups_to_one_node_are_one_message() -> None:
    made, links = network()
    messages: list[Message] = []
    for core in [leader(group) for group in GROUPS]:
        core.tick()
        messages += core.ready().messages
    made.send_raft(messages)
    for node in (2, 3):
        (frames,) = links[node].sent
        beats = decode_raft(frames)
        assert [(beat.type, beat.group, beat.to) for beat in beats] == [
            (MessageType.HEARTBEAT, group, node) for group in GROUPS
        ]


def test_message_to_nobody_that_is_known_is_not_sent() -> None:
    made, links = network()
    made.send_raft([Message(MessageType.HEARTBEAT, to=9, sender=1, group=1, term=1)])
    assert [link.sent for link in links.values()] == [[], []]
