"""PreVote and CheckQuorum: a node that was away disturbs nobody, a leader without a majority steps down (thesis §6.2, §9.6)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.raft.harness import Group, entries_of, make_leader, make_node
from zmqbroker.raft.messages import HardState, Message, MessageType, Role

BOTH: dict[str, Any] = {"pre_vote": True, "check_quorum": True}
APPEND_RESPONSE = MessageType.APPEND_ENTRIES_RESPONSE
PRE_VOTE = MessageType.PRE_VOTE
PRE_VOTE_RESPONSE = MessageType.PRE_VOTE_RESPONSE


def test_pre_candidate_keeps_term_and_vote() -> None:
    node = make_node(hard=HardState(term=3, vote=2), pre_vote=True)
    node.core.campaign()
    sent = node.settle()
    assert (node.core.role, node.core.term, node.core.vote) == (Role.PRE_CANDIDATE, 3, 2)
    assert [(message.type, message.to, message.term) for message in sent] == [(PRE_VOTE, 2, 4), (PRE_VOTE, 3, 4)]
    assert node.log.hard_state() == HardState(term=3, vote=2)


def test_pre_candidate_with_a_majority_becomes_candidate_then_leader() -> None:
    node = make_node(pre_vote=True)
    node.core.campaign()
    node.settle()
    sent = node.say(PRE_VOTE_RESPONSE, 2, 1)
    assert (node.core.role, node.core.term) == (Role.CANDIDATE, 1)
    assert {message.type for message in sent} == {MessageType.REQUEST_VOTE}
    node.say(PRE_VOTE_RESPONSE, 3, 1)
    assert node.core.leader == 0
    node.say(MessageType.REQUEST_VOTE_RESPONSE, 3, 1)
    assert node.core.leader == 1


def test_pre_candidate_refused_by_a_majority_follows_in_its_own_term() -> None:
    node = make_node(hard=HardState(term=3), pre_vote=True)
    node.core.campaign()
    node.settle()
    for voter in (2, 3):
        node.say(PRE_VOTE_RESPONSE, voter, 3, reject=True)
    assert (node.core.role, node.core.term) == (Role.FOLLOWER, 3)


def test_pre_candidate_refused_with_a_higher_term_enters_it() -> None:
    node = make_node(pre_vote=True)
    node.core.campaign()
    node.say(PRE_VOTE_RESPONSE, 2, 8, reject=True)
    assert (node.core.role, node.core.term) == (Role.FOLLOWER, 8)


def test_voter_granting_a_pre_vote_changes_nothing() -> None:
    node = make_node(hard=HardState(term=3, vote=3), pre_vote=True)
    [answer] = node.say(PRE_VOTE, 2, 4)
    assert (answer.type, answer.term, answer.reject) == (PRE_VOTE_RESPONSE, 4, False)
    assert (node.core.term, node.core.vote) == (3, 3)
    [other] = node.say(PRE_VOTE, 3, 4)
    assert not other.reject


def test_voter_refuses_a_pre_vote_of_a_log_that_is_behind() -> None:
    node = make_node(terms=[1, 1], pre_vote=True)
    [answer] = node.say(PRE_VOTE, 2, 2, index=1, log_term=1)
    assert (answer.term, answer.reject) == (1, True)


@pytest.mark.parametrize("pre_vote", [True, False])
def test_voter_refuses_a_pre_vote_of_a_lower_term_with_its_own(pre_vote: bool) -> None:
    node = make_node(hard=HardState(term=5), pre_vote=pre_vote)
    [answer] = node.say(PRE_VOTE, 2, 3)
    assert (answer.type, answer.term, answer.reject) == (PRE_VOTE_RESPONSE, 5, True)


@pytest.mark.parametrize("kind", [PRE_VOTE, MessageType.REQUEST_VOTE])
def test_voter_with_a_fresh_leader_ignores_campaigns(kind: MessageType) -> None:
    node = make_node(election_ticks=10, **BOTH)
    node.say(MessageType.HEARTBEAT, 2, 1)
    for _ in range(9):
        node.core.tick()
    assert node.say(kind, 3, 9) == []
    assert (node.core.term, node.core.leader) == (1, 2)
    node.core._state.election_timeout = 99  # so that it does not campaign itself
    node.core.tick()
    [answer] = node.say(kind, 3, 9)
    assert not answer.reject


def test_voter_without_check_quorum_is_not_sticky() -> None:
    node = make_node(pre_vote=True)
    node.say(MessageType.HEARTBEAT, 2, 1)
    [answer] = node.say(PRE_VOTE, 3, 2)
    assert not answer.reject


def test_leader_without_a_majority_steps_down_in_its_term() -> None:
    leader = make_leader(election_ticks=5, **BOTH)
    for _ in range(10):
        leader.core.tick()
    assert (leader.core.role, leader.core.term, leader.core.leader) == (Role.FOLLOWER, 1, 0)


def test_leader_without_check_quorum_stays() -> None:
    leader = make_leader(election_ticks=5)
    for _ in range(50):
        leader.core.tick()
    assert leader.core.role is Role.LEADER


@pytest.mark.parametrize("kind", [MessageType.HEARTBEAT_RESPONSE, APPEND_RESPONSE])
def test_leader_hearing_a_majority_stays(kind: MessageType) -> None:
    leader = make_leader(size=5, election_ticks=5, **BOTH)
    for _ in range(20):
        for voter in (2, 4):
            leader.say(kind, voter, 1)
        for _ in range(5):
            leader.core.tick()
    assert leader.core.leader == 1
    for _ in range(10):
        leader.say(kind, 2, 1)
        leader.core.tick()
    assert leader.core.leader == 0


@pytest.mark.parametrize("options", [{"pre_vote": True}, {"check_quorum": True}, BOTH])
@pytest.mark.parametrize("kind", [MessageType.HEARTBEAT, MessageType.APPEND_ENTRIES])
def test_node_ahead_of_its_leaders_term_tells_it(options: dict[str, Any], kind: MessageType) -> None:
    node = make_node(terms=[1], hard=HardState(term=6), **options)
    [answer] = node.say(kind, 2, 5, commit=1)
    assert (answer.type, answer.term, answer.reject, answer.index) == (APPEND_RESPONSE, 6, False, 0)
    assert node.core.leader == 0


def test_leader_told_of_a_higher_term_steps_down() -> None:
    leader = make_leader(**BOTH)
    leader.say(APPEND_RESPONSE, 2, 6)
    assert (leader.core.role, leader.core.term) == (Role.FOLLOWER, 6)


def test_group_after_a_partition_keeps_leader_and_term() -> None:
    group = Group([[], [], []], election_ticks=5, **BOTH)
    leader = group.elect(1)
    group.isolate(3)
    group.tick(40)
    assert group.nodes[3].core.role is Role.PRE_CANDIDATE
    leader.core.propose(b"meanwhile")
    group.cut.clear()
    group.tick(20)
    assert [node.core.term for node in group.nodes.values()] == [1, 1, 1]
    assert [node.core.leader for node in group.nodes.values()] == [1, 1, 1]
    assert group.nodes[3].committed == leader.committed


def test_group_with_a_node_stuck_in_a_higher_term_lets_it_in_again() -> None:
    group = Group([[], [], []], election_ticks=5, **BOTH)
    leader = group.elect(1)
    stuck = make_node(3, terms=[], hard=HardState(term=9), **BOTH)
    group.nodes[3] = stuck
    group.tick(40)
    after = group.leader()
    assert after is not None
    assert after.core.term > 9
    after.core.propose(b"again")
    group.deliver()
    group.tick()
    assert leader.committed == stuck.committed
    assert stuck.committed[-1].data == b"again"


def test_group_whose_leader_dies_elects_another_within_a_few_timeouts() -> None:
    group = Group([[], [], [], [], []], election_ticks=5, **BOTH)
    group.elect(1)
    group.isolate(1)
    group.tick(60)
    after = group.leader()
    assert after is not None
    assert after.core.id != 1
    assert group.nodes[1].core.role is not Role.LEADER


def test_group_in_partial_connectivity_finds_a_stable_leader() -> None:
    # 4 hears only 2, 5 hears only 3; 1, 2 and 3 hear each other (reference §4, row 11).
    group = Group([[], [], [], [], []], election_ticks=5, **BOTH)
    links = [(1, 2), (1, 3), (2, 3), (2, 4), (3, 5)]
    whole = {frozenset(link) for link in links}
    group.cut = {frozenset((a, b)) for a in range(1, 6) for b in range(1, a)} - whole
    group.tick(100)
    leader = group.leader()
    assert leader is not None
    term = leader.core.term
    group.tick(200)
    assert group.leader() is leader
    assert leader.core.term == term
    index = leader.core.propose(b"works")
    group.deliver()
    assert leader.core.commit_index == index


def test_leader_campaigning_goes_on_leading() -> None:
    leader = make_leader(**BOTH)
    leader.core.campaign()
    assert leader.settle() == []
    assert (leader.core.role, leader.core.term) == (Role.LEADER, 1)


def test_follower_getting_an_answer_to_a_campaign_it_left_ignores_it() -> None:
    node = make_node(**BOTH)
    node.core.campaign()
    node.settle()
    node.say(MessageType.APPEND_ENTRIES, 3, 1, entries=entries_of([1]))
    node.say(PRE_VOTE_RESPONSE, 2, 1)
    node.core.step(Message(PRE_VOTE_RESPONSE, to=1, sender=2, group=7, term=2))
    assert (node.core.role, node.core.term, node.core.leader) == (Role.FOLLOWER, 1, 3)
