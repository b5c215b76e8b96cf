"""Changing who takes part (Raft §6, thesis chapter 4), a test for each rule."""

from __future__ import annotations

import pytest

from tests.unit.raft.harness import GROUP, Group, MemoryLog, Node, make_leader, make_node
from zmqbroker.errors import Busy, NotLeader
from zmqbroker.raft import RaftConfig
from zmqbroker.raft.confchange import Change, ChangeType, ConfChange, InvalidChange, Transition, encode
from zmqbroker.raft.membership import Membership
from zmqbroker.raft.messages import Entry, EntryType, Message, MessageType, Role

ADD, REMOVE, LEARN = ChangeType.ADD_VOTER, ChangeType.REMOVE, ChangeType.ADD_LEARNER


def change(*changes: tuple[ChangeType, int], transition: Transition = Transition.AUTO) -> ConfChange:
    return ConfChange(tuple(Change(kind, node) for kind, node in changes), transition)


def join(group: Group, id: int) -> Node:
    """An empty node that knows who took part when the log began."""
    config = RaftConfig(id=id, group=GROUP, pre_vote=False, check_quorum=False)
    group.nodes[id] = Node(config, Membership((1, 2, 3)), MemoryLog(), seed=id)
    return group.nodes[id]


def test_change_takes_effect_when_it_is_applied() -> None:
    # Thesis §4.1 would use it when appended; the reference, and we, when applied: a change that is not committed binds nobody.
    leader = make_leader()
    leader.core.propose_change(change((LEARN, 4)))
    leader.settle()
    assert leader.core.membership == Membership((1, 2, 3))
    leader.say(MessageType.APPEND_ENTRIES_RESPONSE, 2, 1, index=2)
    assert leader.core.membership == Membership((1, 2, 3), learners=(4,))


def test_one_change_at_a_time() -> None:
    # Thesis §4.1: the next change waits until the one before is committed; here until it is applied.
    leader = make_leader(terms=[1])
    with pytest.raises(Busy):  # a change of an earlier leader may wait in what is not applied yet
        leader.core.propose_change(change((ADD, 4)))
    leader.say(MessageType.APPEND_ENTRIES_RESPONSE, 2, 2, index=2)
    leader.core.propose_change(change((ADD, 4)))
    with pytest.raises(Busy):
        leader.core.propose_change(change((ADD, 5)))


def test_new_leader_changes_nothing_before_an_entry_of_its_own_term_is_committed() -> None:
    # Thesis §4.1, as corrected in 2015: else two leaders could make changes whose majorities do not overlap.
    leader = make_leader(terms=[1])
    with pytest.raises(Busy, match="not applied yet"):
        leader.core.propose_change(change((ADD, 4)))
    leader.say(MessageType.APPEND_ENTRIES_RESPONSE, 2, 2, index=2)
    assert leader.core.propose_change(change((ADD, 4))) == 3


def test_node_serves_leaders_and_candidates_that_are_no_members_of_what_it_knows() -> None:
    # Thesis §4.1: a newcomer knows of no membership that has the others, and must take the log that tells it.
    node = make_node(1, membership=Membership((1, 2, 3)))
    [answer] = node.say(MessageType.REQUEST_VOTE, 7, 4, index=0, log_term=0)
    assert not answer.reject
    [answer] = node.say(MessageType.APPEND_ENTRIES, 7, 4, entries=(Entry(1, 4, b""),))
    assert (answer.to, answer.index, answer.reject) == (7, 1, False)


def test_change_needs_both_majorities_while_joint() -> None:
    # Raft §6: agreement requires separate majorities from both the old and new configurations.
    leader = make_leader()
    leader.say(MessageType.APPEND_ENTRIES_RESPONSE, 2, 1, index=1)
    leader.core.propose_change(change((ADD, 4), (ADD, 5), (REMOVE, 2), (REMOVE, 3), transition=Transition.JOINT_EXPLICIT))
    leader.settle()
    leader.say(MessageType.APPEND_ENTRIES_RESPONSE, 2, 1, index=2)
    assert str(leader.core.membership) == "voters=(1 4 5)&&(1 2 3)"
    index = leader.core.propose(b"x")
    leader.settle()
    leader.say(MessageType.APPEND_ENTRIES_RESPONSE, 2, 1, index=index)
    leader.say(MessageType.APPEND_ENTRIES_RESPONSE, 3, 1, index=index)
    assert leader.core.commit_index == index - 1
    leader.say(MessageType.APPEND_ENTRIES_RESPONSE, 4, 1, index=index)
    assert leader.core.commit_index == index


def test_joint_membership_ends_by_itself() -> None:
    # Raft §6: once the joint configuration is committed, the leader creates the entry of the new one.
    group = Group([[1], [1], [1]])
    leader = group.elect(1)
    join(group, 4)
    leader.core.propose_change(change((ADD, 4), (REMOVE, 3)))
    group.deliver()
    assert leader.core.membership == Membership((1, 2, 4))
    assert group.nodes[4].core.membership == Membership((1, 2, 4))


def test_joint_membership_left_by_hand_stays_until_then() -> None:
    group = Group([[1], [1], [1]])
    leader = group.elect(1)
    leader.core.propose_change(change((REMOVE, 3), transition=Transition.JOINT_EXPLICIT))
    group.deliver()
    assert leader.core.membership.joint
    with pytest.raises(InvalidChange):
        leader.core.propose_change(change((REMOVE, 2)))
    leader.core.propose_change(ConfChange())
    group.deliver()
    assert leader.core.membership == Membership((1, 2))


def test_leaving_waits_for_the_end_of_a_transfer() -> None:
    group = Group([[1], [1], [1]])
    leader = group.elect(1)
    leader.core.propose_change(change((REMOVE, 3), (LEARN, 2)))
    leader.core._state.transferee = 2
    group.deliver()
    assert leader.core.membership.joint
    assert any("not initiating automatic transition" in line for line in leader.lines)
    leader.core._state.transferee = 0
    leader.core.propose(b"x")
    group.deliver()
    assert leader.core.membership == Membership((1,), learners=(2,))


def test_next_leader_ends_a_joint_membership_that_it_found() -> None:
    group = Group([[1], [1], [1]])
    leader = group.elect(1)
    leader.core.propose_change(change((REMOVE, 3), (LEARN, 4)))
    group.isolate(1)
    group.deliver()
    group.cut = set()
    second = group.elect(2)
    group.deliver()
    assert second.core.term > leader.core._state.config.id
    assert not second.core.membership.joint


def test_new_node_catches_up_as_a_learner_and_counts_for_nothing() -> None:
    # Thesis §4.2.1: servers that join get the log before they count towards majorities.
    group = Group([[1], [1], [1]])
    leader = group.elect(1)
    learner = join(group, 4)
    leader.core.propose_change(change((LEARN, 4)))
    group.deliver()
    assert learner.core.last_index == leader.core.last_index
    assert leader.core.progress()[4].learner
    group.isolate(1, 4)
    index = leader.core.propose(b"x")
    group.deliver()
    assert learner.core.last_index == index
    assert leader.core.commit_index < index


def test_learner_does_not_campaign() -> None:
    learner = make_node(4, membership=Membership((1, 2, 3), learners=(4,)))
    for _ in range(100):
        learner.core.tick()
    learner.core.campaign()
    assert learner.core.role is Role.FOLLOWER
    assert {message.type for message in learner.settle()} == {MessageType.PRE_VOTE}, "it only tells what it knows (tell_commit)"
    learner.say(MessageType.PRE_VOTE_RESPONSE, 1, 1)
    learner.say(MessageType.PRE_VOTE_RESPONSE, 2, 1)
    assert (learner.core.role, learner.core.term) == (Role.FOLLOWER, 0)
    assert "unpromotable" in learner.lines[-1]


def test_learner_votes_when_it_is_asked() -> None:
    # It may have been promoted without knowing (reference/raft.md §4, 17).
    learner = make_node(4, membership=Membership((1, 2, 3), learners=(4,)))
    (answer,) = learner.say(MessageType.REQUEST_VOTE, 1, 1)
    assert (answer.type, answer.reject) == (MessageType.REQUEST_VOTE_RESPONSE, False)


def test_leader_that_is_removed_steps_down_when_that_is_applied() -> None:
    # Thesis §4.2.2: it leads until the entry is committed, and does not count itself for it.
    group = Group([[1], [1], [1]])
    leader = group.elect(1)
    leader.core.propose_change(change((REMOVE, 1)))
    group.deliver()
    assert leader.core.role is Role.FOLLOWER
    assert leader.core.commit_index == leader.core.last_index
    for _ in range(100):
        leader.core.tick()
    assert {message.type for message in leader.settle()} == {MessageType.PRE_VOTE}, "it only tells what is committed"
    assert leader.core.role is Role.FOLLOWER


def test_leader_that_was_removed_takes_nothing_when_it_goes_on() -> None:
    group = Group([[1], [1], [1]], step_down_on_removal=False)
    leader = group.elect(1)
    leader.core.propose_change(change((REMOVE, 1)))
    group.deliver()
    assert leader.core.role is Role.LEADER
    with pytest.raises(NotLeader):
        leader.core.propose(b"x")
    proposal = Message(MessageType.PROPOSE, to=1, sender=1, entries=(Entry(0, 0, b"x"),))
    assert leader.core.step_local(proposal) == "proposal_dropped"
    assert leader.core.step_local(Message(MessageType.APPEND_ENTRIES_RESPONSE, to=1, sender=1, term=1)) == "unknown_sender"


def test_smaller_majority_commits_what_waited_for_the_larger_one() -> None:
    leader = make_leader(size=4)
    for voter in (2, 3):
        leader.say(MessageType.APPEND_ENTRIES_RESPONSE, voter, 1, index=1)
    leader.core.propose_change(change((REMOVE, 4)))
    index = leader.core.propose(b"x")
    leader.settle()
    leader.say(MessageType.APPEND_ENTRIES_RESPONSE, 2, 1, index=index)
    assert leader.core.commit_index == 1
    leader.say(MessageType.APPEND_ENTRIES_RESPONSE, 3, 1, index=index - 1)
    assert leader.core.membership == Membership((1, 2, 3))
    assert leader.core.commit_index == index


def test_node_with_an_unapplied_change_does_not_campaign() -> None:
    entries = [Entry(1, 1, b""), Entry(2, 1, encode(change((ADD, 4))), EntryType.CHANGE)]
    node = make_node(terms=[1])
    node.log.held[:] = entries
    node.core._state.log.commit_index = 2
    node.core._state.log.unstable.offset = node.core._state.log.unstable.in_progress = 3
    node.core.campaign()
    assert node.core.role is Role.FOLLOWER
    assert "pending configuration changes" in node.lines[-1]


def test_removed_node_does_not_disturb_the_others() -> None:
    # Thesis §4.2.3: with PreVote and CheckQuorum its campaigns change nobody's term.
    group = Group([[1], [1], [1]], pre_vote=True, check_quorum=True)
    leader = group.elect(1)
    group.isolate(3)
    leader.core.propose_change(change((REMOVE, 3)))
    group.deliver()
    term = leader.core.term
    group.cut = set()
    for _ in range(60):
        group.nodes[3].core.tick()
        leader.core.tick()
        group.deliver()
    assert (leader.core.role, leader.core.term) == (Role.LEADER, term)


@pytest.mark.parametrize("payload", [b"\xff", encode(change((REMOVE, 1), (REMOVE, 2), (REMOVE, 3)))])
def test_committed_change_that_cannot_be_made_changes_nothing_anywhere(payload: bytes) -> None:
    group = Group([[1], [1], [1]])
    leader = group.elect(1)
    state = leader.core._state
    state.log.append((Entry(state.log.last_index + 1, state.term, payload, EntryType.CHANGE),))
    state.send(Message(MessageType.APPEND_ENTRIES_RESPONSE, to=1, index=state.log.last_index))
    leader.core.propose(b"behind it")
    group.deliver()
    group.tick()  # by which all hear that it is committed
    for node in group.nodes.values():
        assert node.core.membership == Membership((1, 2, 3))
        assert node.committed[-1].data == b"behind it"


def test_change_is_refused_at_a_follower_and_when_impossible() -> None:
    with pytest.raises(NotLeader):
        make_node().core.propose_change(change((ADD, 4)))
    leader = make_leader()
    leader.say(MessageType.APPEND_ENTRIES_RESPONSE, 2, 1, index=1)
    with pytest.raises(InvalidChange):
        leader.core.propose_change(change((REMOVE, 1), (REMOVE, 2), (REMOVE, 3)))
    with pytest.raises(InvalidChange):
        leader.core.propose_change(ConfChange())
    assert leader.core.last_index == 1
