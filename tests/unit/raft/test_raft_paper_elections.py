"""One test per claim of the Raft paper (extended version) on terms and elections: §5.1 and §5.2."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.raft.harness import entries_of, make_leader, make_node
from zmqbroker.raft.membership import Membership
from zmqbroker.raft.messages import HardState, Message, MessageType, Role, Snapshot

APPEND = MessageType.APPEND_ENTRIES
VOTE = MessageType.REQUEST_VOTE
VOTE_RESPONSE = MessageType.REQUEST_VOTE_RESPONSE
HEARTBEAT = MessageType.HEARTBEAT

# --- §5.1: terms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE, Role.LEADER])
def test_any_role_seeing_a_higher_term_becomes_follower(role: Role) -> None:
    node = make_leader() if role is Role.LEADER else make_node()
    if role is Role.CANDIDATE:
        node.core.campaign()
    node.settle()
    assert node.core.role is role
    node.say(APPEND, 2, 5)
    assert (node.core.role, node.core.term, node.core.leader) == (Role.FOLLOWER, 5, 2)
    assert node.log.hard_state().term == 5


def test_follower_getting_an_old_term_ignores_it() -> None:
    node = make_node(terms=[1], hard=HardState(term=3))
    assert node.say(APPEND, 2, 2, index=1, log_term=1, entries=entries_of([2], first=2)) == []
    assert node.terms() == [1]
    assert node.core.leader == 0


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (VOTE, {}),
        (VOTE_RESPONSE, {"reject": True}),
        (MessageType.APPEND_ENTRIES_RESPONSE, {"index": 1}),
        (MessageType.HEARTBEAT_RESPONSE, {}),
        (MessageType.TIMEOUT_NOW, {}),
    ],
)
def test_leader_seeing_a_higher_term_in_any_message_steps_down(kind: MessageType, fields: dict[str, Any]) -> None:
    leader = make_leader()
    leader.core.step(Message(kind, to=1, sender=2, group=7, term=5, **fields))
    assert leader.core.term >= 5
    assert leader.core.role is not Role.LEADER


@pytest.mark.parametrize("kind", [VOTE, VOTE_RESPONSE, HEARTBEAT, MessageType.INSTALL_SNAPSHOT, MessageType.TIMEOUT_NOW])
def test_message_of_an_old_term_is_rejected(kind: MessageType) -> None:
    node = make_node(terms=[1], hard=HardState(term=3))
    node.core.campaign()
    node.settle()
    assert node.say(kind, 2, 3, index=9, log_term=3, commit=1, snapshot=Snapshot(9, 3, Membership((1, 2, 3)))) == []
    assert (node.core.role, node.core.term, node.core.vote, node.core.commit_index) == (Role.CANDIDATE, 4, 1, 0)
    assert node.terms() == [1]


# --- §5.2: leader election -----------------------------------------------------------------------------------------


def test_node_starting_is_a_follower() -> None:
    assert make_node(hard=HardState(term=4)).core.role is Role.FOLLOWER


def test_leader_every_heartbeat_interval_writes_to_all() -> None:
    leader = make_leader(size=5, heartbeat_ticks=2)
    leader.core.tick()
    assert leader.settle() == []
    leader.core.tick()
    assert [(message.type, message.to) for message in leader.settle()] == [(HEARTBEAT, voter) for voter in (2, 3, 4, 5)]


def test_follower_without_a_leader_starts_an_election() -> None:
    node = make_node(election_ticks=10)
    sent: list[Message] = []
    for _ in range(19):
        node.core.tick()
        sent += node.settle()
    assert (node.core.role, node.core.term, node.core.vote) == (Role.CANDIDATE, 1, 1)
    assert [(message.type, message.to, message.term) for message in sent] == [(VOTE, 2, 1), (VOTE, 3, 1)]


def test_candidate_without_a_result_starts_another_election() -> None:
    node = make_node(election_ticks=10)
    for _ in range(40):
        node.core.tick()
        node.settle()
    assert node.core.role is Role.CANDIDATE
    assert node.core.term >= 2


@pytest.mark.parametrize(
    ("size", "granted", "refused", "role"),
    [
        (1, 0, 0, Role.LEADER),
        (3, 1, 0, Role.LEADER),
        (3, 0, 1, Role.CANDIDATE),
        (3, 0, 2, Role.FOLLOWER),
        (5, 1, 2, Role.CANDIDATE),
        (5, 2, 1, Role.LEADER),
        (5, 1, 3, Role.FOLLOWER),
        (4, 1, 1, Role.CANDIDATE),
        (4, 1, 2, Role.FOLLOWER),
    ],
)
def test_candidate_with_votes_becomes_what_they_make_it(size: int, granted: int, refused: int, role: Role) -> None:
    node = make_node(size=size)
    node.core.campaign()
    node.settle()
    for voter in range(2, 2 + granted + refused):
        node.say(VOTE_RESPONSE, voter, 1, reject=voter >= 2 + granted)
    assert (node.core.role, node.core.term) == (role, 1)


def test_candidate_given_one_vote_twice_counts_it_once() -> None:
    node = make_node(size=5)
    node.core.campaign()
    node.settle()
    node.say(VOTE_RESPONSE, 2, 1)
    node.say(VOTE_RESPONSE, 2, 1)
    assert node.core.role is Role.CANDIDATE


@pytest.mark.parametrize(("vote", "candidate", "granted"), [(0, 2, True), (2, 2, True), (3, 2, False), (1, 2, False)])
def test_voter_votes_once_per_term(vote: int, candidate: int, granted: bool) -> None:
    node = make_node(hard=HardState(term=4, vote=vote))
    node.core.step(Message(VOTE, to=1, sender=candidate, group=7, term=4))
    assert node.ready().messages == []
    answers = node.complete()
    assert [(answer.type, answer.to, answer.term, answer.reject) for answer in answers] == [
        (VOTE_RESPONSE, candidate, 4, not granted)
    ]
    assert node.log.hard_state().vote == (candidate if granted else vote)


def test_voter_following_a_leader_does_not_vote_in_its_term() -> None:
    node = make_node()
    node.say(HEARTBEAT, 3, 4)
    [answer] = node.say(VOTE, 2, 4)
    assert answer.reject


def test_vote_in_the_same_term_survives_a_restart() -> None:
    node = make_node()
    node.say(VOTE, 2, 4)
    again = make_node(hard=node.log.hard_state())
    [answer] = again.say(VOTE, 3, 4)
    assert answer.reject


def test_candidate_hearing_the_leader_of_its_term_follows_it() -> None:
    for kind in (APPEND, HEARTBEAT):
        node = make_node()
        node.core.campaign()
        node.say(kind, 2, 1)
        assert (node.core.role, node.core.term, node.core.leader) == (Role.FOLLOWER, 1, 2)


def test_election_timeouts_are_drawn_at_random_between_one_and_two() -> None:
    drawn = set()
    node = make_node(election_ticks=10)
    for term in range(1, 400):
        node.say(HEARTBEAT, 2, term)
        ticks = 0
        while node.core.role is Role.FOLLOWER:
            node.core.tick()
            ticks += 1
        drawn.add(ticks)
    assert drawn == set(range(10, 20))


def test_election_timer_at_a_vote_or_a_leaders_message_starts_again() -> None:
    for kind in (VOTE, APPEND, HEARTBEAT):
        node = make_node(election_ticks=10)
        node.say(kind, 2, 1)
        node.core._state.election_timeout = 10
        for _ in range(9):
            node.core.tick()
        node.say(kind, 2, 1)
        for _ in range(9):
            node.core.tick()
        assert node.core.role is Role.FOLLOWER
