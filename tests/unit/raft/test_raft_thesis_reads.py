"""Reads that are as fresh as their arrival without a log entry (thesis §6.4), and the ways that has gone wrong elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.raft.harness import Group, Node, make_leader, make_node, of_type
from zmqbroker.errors import Busy, NotLeader
from zmqbroker.raft.membership import Membership
from zmqbroker.raft.messages import Message, MessageType, ReadState

HEARTBEAT = MessageType.HEARTBEAT
HEARTBEAT_RESPONSE = MessageType.HEARTBEAT_RESPONSE
RESPONSE = MessageType.APPEND_ENTRIES_RESPONSE
READ_INDEX = MessageType.READ_INDEX


def committed_leader(size: int = 3, **options: Any) -> Node:
    """A leader of term 1 whose first entry is committed."""
    leader = make_leader(size, **options)
    for voter in range(2, size // 2 + 2):
        leader.say(RESPONSE, voter, 1, index=1)
    assert leader.core.commit_index == 1
    return leader


def reads(node: Node) -> list[ReadState]:
    """What a node's next Readies answer."""
    found: list[ReadState] = []
    while node.core.has_ready():
        found += node.ready().read_states
        while node.works:
            node.complete()
    return found


def answer(leader: Node, voter: int, round: int) -> list[ReadState]:
    leader.core.step(Message(HEARTBEAT_RESPONSE, to=1, sender=voter, group=7, term=1, context=round))
    return reads(leader)


def test_read_is_answered_when_a_majority_confirms_the_leader() -> None:
    leader = committed_leader(5)
    leader.core.read_index(70)
    beats = of_type(leader.ready().messages, HEARTBEAT)
    assert [(beat.to, beat.context) for beat in beats] == [(2, 1), (3, 1), (4, 1), (5, 1)]
    assert answer(leader, 2, 1) == []
    assert answer(leader, 2, 1) == []  # the same voter twice is one voter
    assert answer(leader, 3, 1) == [ReadState(70, 1)]
    assert answer(leader, 4, 1) == []


def test_read_is_answered_with_the_commit_index_of_its_arrival() -> None:
    leader = committed_leader()
    leader.core.read_index(70)
    leader.settle()
    index = leader.core.propose(b"x")
    leader.settle()
    leader.say(RESPONSE, 2, 1, index=index)
    assert leader.core.commit_index == index
    assert answer(leader, 2, 1) == [ReadState(70, 1)]


def test_reads_of_one_pass_share_a_round() -> None:
    leader = committed_leader()
    leader.core.read_index(70)
    leader.core.read_index(71)
    assert len(of_type(leader.ready().messages, HEARTBEAT)) == 2
    assert answer(leader, 2, 1) == [ReadState(70, 1), ReadState(71, 1)]


def test_read_after_a_round_began_needs_the_next_one() -> None:
    # A late answer to an earlier heartbeat says nothing about now (etcd#20418).
    leader = committed_leader()
    leader.core.read_index(70)
    leader.core.tick()  # the periodic heartbeat carries round 1 and begins it
    leader.core.read_index(71)
    leader.settle()
    assert answer(leader, 2, 1) == [ReadState(70, 1)]
    assert answer(leader, 3, 1) == []
    assert answer(leader, 3, 2) == [ReadState(71, 1)]


def test_read_asked_twice_is_answered_twice_and_confirms_nothing_later() -> None:
    leader = committed_leader()
    leader.core.read_index(70)
    leader.settle()
    leader.core.read_index(70)
    leader.settle()
    assert answer(leader, 2, 1) == [ReadState(70, 1)]
    assert answer(leader, 2, 2) == [ReadState(70, 1)]


def test_answers_of_an_earlier_term_confirm_nothing() -> None:
    group = Group([[1], [1], [1]])
    leader = group.elect(1)
    leader.core.read_index(70)
    group.elect(2)
    leader = group.elect(1)
    leader.core.read_index(71)
    leader.ready()
    late = Message(HEARTBEAT_RESPONSE, to=1, sender=2, group=7, term=leader.core.term - 2, context=99)
    leader.core.step(late)
    assert reads(leader) == []


def test_read_waits_for_the_terms_first_commit() -> None:
    # Thesis §6.4 step 1: before, the leader may not know all that is committed (etcd#7331).
    leader = make_leader()
    leader.core.read_index(70)
    leader.settle()
    assert answer(leader, 2, 0) == []
    leader.say(RESPONSE, 2, 1, index=1)
    assert answer(leader, 2, 1) == [ReadState(70, 1)]


def test_read_of_a_group_of_one_is_answered_at_once() -> None:
    leader = make_leader(1)
    leader.core.read_index(70)
    assert reads(leader) == [ReadState(70, 1)]


def test_read_under_a_lease_is_answered_at_once() -> None:
    leader = committed_leader(lease_reads=True)
    leader.core.read_index(70)
    assert reads(leader) == [ReadState(70, 1)]


def test_read_in_a_joint_membership_needs_both_majorities() -> None:
    leader = committed_leader()
    leader.core._state.set_membership(Membership((1, 4, 5), (1, 2, 3)), frozenset())
    leader.core.read_index(70)
    leader.settle()
    assert answer(leader, 2, 1) == []
    assert answer(leader, 3, 1) == []
    assert answer(leader, 4, 1) == [ReadState(70, 1)]


def test_answers_of_learners_do_not_count() -> None:
    leader = committed_leader()
    leader.core._state.set_membership(Membership((1, 2, 3), learners=(4,)), frozenset())
    leader.core.read_index(70)
    leader.settle()
    assert answer(leader, 4, 1) == []


def test_follower_asks_its_leader_and_is_answered() -> None:
    group = Group([[1], [1], [1]])
    leader = group.elect(1)
    follower = group.nodes[2]
    follower.core.read_index(70)
    asked = of_type(follower.settle(), READ_INDEX)
    assert [(message.to, message.term, message.context) for message in asked] == [(1, 0, 70)]
    leader.core.step(asked[0])
    (beat, *_) = of_type(leader.settle(), HEARTBEAT)
    (back,) = of_type(follower.say(HEARTBEAT, 1, 2, context=beat.context), HEARTBEAT_RESPONSE)
    (found,) = of_type(leader.say(HEARTBEAT_RESPONSE, 2, 2, context=back.context), MessageType.READ_INDEX_RESPONSE)
    follower.core.step(found)
    assert reads(follower) == [ReadState(70, leader.core.commit_index)]


def test_read_without_a_leader_is_refused() -> None:
    node = make_node()
    with pytest.raises(NotLeader):
        node.core.read_index(70)
    node.core.campaign()
    with pytest.raises(NotLeader):
        node.core.read_index(70)


def test_read_asked_of_a_node_that_does_not_lead_is_not_answered() -> None:
    node = make_node()
    assert node.say(READ_INDEX, 2, 0, context=70) == []
    candidate = make_node()
    candidate.core.campaign()
    candidate.settle()
    assert candidate.say(MessageType.READ_INDEX_RESPONSE, 2, 1, context=70, index=5) == []
    assert reads(candidate) == []


def test_reads_are_bounded() -> None:
    leader = make_leader(reads_max=2)
    leader.core.read_index(70)
    leader.core.read_index(71)
    with pytest.raises(Busy):
        leader.core.read_index(72)
    leader.say(READ_INDEX, 2, 0, context=73)
    leader.say(RESPONSE, 2, 1, index=1)
    assert answer(leader, 2, 1) == [ReadState(70, 1), ReadState(71, 1)]
    leader.core.read_index(74)


def test_reads_end_with_the_leadership() -> None:
    leader = committed_leader()
    leader.core.read_index(70)
    leader.settle()
    leader.say(HEARTBEAT, 2, 2)
    assert answer(leader, 2, 1) == []
    assert answer(leader, 3, 1) == []
