"""Votes tell what is committed, so that nobody needs the votes of those who have left (election.learn_commit)."""

from __future__ import annotations

import pytest

from tests.unit.raft.harness import GROUP, MemoryLog, Node, make_leader, make_node, of_type
from zmqbroker.raft.confchange import Change, ChangeType, ConfChange, Transition, encode
from zmqbroker.raft.config import RaftConfig
from zmqbroker.raft.membership import Membership
from zmqbroker.raft.messages import Entry, EntryType, HardState, Message, MessageType, Role

LEAVE = Entry(3, 1, encode(ConfChange()), EntryType.CHANGE)
JOINT = Membership((1, 2), (1, 3, 4), auto_leave=True)


def test_request_for_votes_tells_what_is_committed_and_its_term() -> None:
    node = make_node(terms=[1, 1, 2], hard=HardState(term=2, commit=2))
    node.core.campaign()
    asked = of_type(node.settle(), MessageType.REQUEST_VOTE)
    assert {(message.commit, message.reject_hint) for message in asked} == {(2, 1)}


def test_request_of_a_node_without_commits_tells_nothing_that_anybody_could_learn() -> None:
    node = make_node()
    node.core.campaign()
    assert {(message.commit, message.reject_hint) for message in node.settle()} == {(0, 0)}


@pytest.mark.parametrize("kind", [MessageType.REQUEST_VOTE, MessageType.PRE_VOTE])
def test_refusal_tells_what_is_committed(kind: MessageType) -> None:
    node = make_node(terms=[1, 1, 1], hard=HardState(term=1, commit=2), pre_vote=True)
    (answer,) = node.say(kind, 2, 2, index=1, log_term=1)
    assert (answer.reject, answer.commit, answer.reject_hint) == (True, 2, 1)


def test_reference_mode_tells_nothing() -> None:
    node = make_node(terms=[1, 1], hard=HardState(term=1, commit=2), share_commit_in_votes=False)
    node.core.campaign()
    assert {(message.commit, message.reject_hint) for message in node.settle()} == {(0, 0)}


@pytest.mark.parametrize(
    ("commit", "term", "learned"),
    [(3, 2, 3), (2, 1, 2), (3, 1, 1), (4, 2, 1), (0, 0, 1)],
    ids=["same entry", "earlier entry", "another entry", "beyond the log", "nothing"],
)
def test_voter_learns_the_commit_of_an_entry_that_it_has(commit: int, term: int, learned: int) -> None:
    node = make_node(terms=[1, 1, 2], hard=HardState(term=2, commit=1))
    node.say(MessageType.REQUEST_VOTE, 2, 3, index=2, log_term=1, commit=commit, reject_hint=term)
    assert node.core.commit_index == learned


def test_candidate_learns_it_from_a_refusal() -> None:
    node = make_node(terms=[1, 1], hard=HardState(term=1, commit=1))
    node.core.campaign()
    node.settle()
    node.say(MessageType.REQUEST_VOTE_RESPONSE, 2, 2, reject=True, commit=2, reject_hint=1)
    assert (node.core.commit_index, node.core.role) == (2, Role.CANDIDATE)


def test_leader_learns_nothing_of_it() -> None:
    leader = make_leader()
    leader.say(MessageType.PRE_VOTE, 2, 2, index=1, log_term=1, commit=1, reject_hint=1)
    assert leader.core.commit_index == 0


def joint_node(id: int, entries: int, commit: int) -> Node:
    """A node whose group is leaving the joint membership with entry 3; those behind it are empty."""
    log = MemoryLog([1, 1], HardState(term=1, commit=commit))
    log.held.append(LEAVE)
    log.held += [Entry(index, 1) for index in range(4, entries + 1)]
    config = RaftConfig(id=id, group=GROUP, check_quorum=False)
    return Node(config, JOINT, log, seed=id, applied_index=2)


def test_candidate_that_learns_of_a_change_stops_to_campaign_until_it_is_applied() -> None:
    node = joint_node(1, entries=5, commit=2)
    node.core.campaign()
    node.core.ready()
    refusal = Message(MessageType.PRE_VOTE_RESPONSE, to=1, sender=2, group=GROUP, term=1, reject=True, commit=3, reject_hint=1)
    node.core.step(refusal)
    assert (node.core.role, node.core.commit_index) == (Role.FOLLOWER, 3)
    node.core.campaign()
    assert node.core.role is Role.FOLLOWER


def campaign(node: Node, others: dict[int, Node]) -> None:
    """Let one campaign, and carry every message between those who are there."""
    node.core.campaign()
    messages = node.settle()
    while messages:
        answers = []
        for message in messages:
            if message.to in others:
                others[message.to].core.step(message)
                answers += others[message.to].settle()
        messages = answers


def test_two_voters_that_are_left_go_on_though_only_one_of_them_knew_that_the_others_had_left() -> None:
    longest, knowing = joint_node(1, entries=5, commit=2), joint_node(2, entries=4, commit=3)
    both = {1: longest, 2: knowing}
    for node in both.values():
        node.settle()
    assert (longest.core.membership, knowing.core.membership) == (JOINT, Membership((1, 2)))
    campaign(longest, both)
    assert not longest.core.leader, "it still asks for the votes of those who have left"
    campaign(knowing, both)
    assert longest.core.membership == Membership((1, 2))
    campaign(longest, both)
    assert longest.core.role is Role.LEADER


def test_node_that_may_not_campaign_tells_what_is_committed_once_in_an_election_timeout() -> None:
    learner = make_node(4, terms=[1, 2], hard=HardState(term=2, commit=2), membership=Membership((1, 2, 3), learners=(4,)))
    sent = []
    for _ in range(40):
        learner.core.tick()
        sent += learner.settle()
    told = [message for message in sent if message.to == 1]
    assert {(message.type, message.commit, message.reject_hint) for message in told} == {(MessageType.PRE_VOTE, 2, 2)}
    assert 2 <= len(told) <= 4
    assert {message.to for message in sent} == {1, 2, 3}


def test_node_that_may_not_campaign_tells_nothing_in_reference_mode() -> None:
    membership = Membership((1, 2, 3), learners=(4,))
    learner = make_node(4, terms=[1], hard=HardState(term=1, commit=1), membership=membership, share_commit_in_votes=False)
    for _ in range(40):
        learner.core.tick()
    assert learner.settle() == []


def test_node_that_may_not_campaign_does_not_take_a_leader_for_fresh_that_it_has_missed() -> None:
    learner = make_node(4, membership=Membership((1, 2, 3), learners=(4,)), check_quorum=True)
    learner.say(MessageType.HEARTBEAT, 1, 1)
    assert learner.core.leader == 1
    for _ in range(20):
        learner.core.tick()
    assert learner.core.leader == 0
    learner.settle()
    (answer,) = learner.say(MessageType.REQUEST_VOTE, 2, 2)
    assert not answer.reject


def test_last_voter_that_does_not_know_that_it_is_one_learns_it_from_the_leader_that_was_removed() -> None:
    removed, learner = replaced_node(2, commit=3), replaced_node(3, commit=1)
    for node in (removed, learner):
        node.settle()
    assert (removed.core.membership, learner.core.membership) == (Membership((3,)), BEFORE)
    for _ in range(60):
        for node, other in ((removed, learner), (learner, removed)):
            node.core.tick()
            for message in node.settle():
                if message.to == other.core.id:
                    other.core.step(message)
                    other.settle()
    assert (learner.core.role, removed.core.role) == (Role.LEADER, Role.FOLLOWER)


BEFORE = Membership((2,), learners=(3,))


def replaced_node(id: int, commit: int) -> Node:
    """A node of a group whose entry 3 makes node 3 the only voter, in place of node 2."""
    swap = ConfChange((Change(ChangeType.REMOVE, 2), Change(ChangeType.ADD_VOTER, 3)), Transition.JOINT_IMPLICIT)
    log = MemoryLog([1], HardState(term=1, commit=commit))
    log.held += [Entry(2, 1, encode(swap), EntryType.CHANGE), Entry(3, 1, encode(ConfChange()), EntryType.CHANGE)]
    return Node(RaftConfig(id=id, group=GROUP), BEFORE, log, seed=id, applied_index=1)
