"""Handing leadership over (thesis §3.10), and the hint that the leader is gone (DESIGN §4)."""

from __future__ import annotations

import pytest

from tests.unit.raft.harness import Group, make_leader, make_node, of_type
from zmqbroker.errors import Busy, InvalidRequest, NotLeader
from zmqbroker.raft.confchange import Change, ChangeType, ConfChange
from zmqbroker.raft.membership import Membership
from zmqbroker.raft.messages import FORCED_ELECTION, Entry, Message, MessageType, Role

TIMEOUT_NOW = MessageType.TIMEOUT_NOW
RESPONSE = MessageType.APPEND_ENTRIES_RESPONSE


def test_transfer_to_an_up_to_date_voter_is_done_at_once() -> None:
    group = Group([[1], [1], [1]], pre_vote=True, check_quorum=True)
    leader = group.elect(1)
    leader.core.transfer_leader(3)
    group.deliver()
    # Neither PreVote nor the fresh leader is in the way.
    assert group.nodes[3].core.role is Role.LEADER
    assert (leader.core.role, leader.core.leader) == (Role.FOLLOWER, 3)


def test_transfer_brings_the_next_leader_up_to_date_first() -> None:
    leader = make_leader()
    leader.say(RESPONSE, 2, 1, index=1)
    index = leader.core.propose(b"x")
    leader.settle()
    leader.core.transfer_leader(2)
    assert of_type(leader.settle(), TIMEOUT_NOW) == []
    assert of_type(leader.say(RESPONSE, 2, 1, index=index), TIMEOUT_NOW) != []
    assert of_type(leader.say(RESPONSE, 2, 1, index=index), TIMEOUT_NOW) == []


def test_voter_with_a_fresh_leader_votes_for_whom_the_leader_chose() -> None:
    # Thesis §3.10 and §4.2.3: a fresh leader is a reason to ignore a campaign, but not one that it asked for itself.
    node = make_node(pre_vote=True, check_quorum=True)
    node.say(MessageType.HEARTBEAT, 2, 1)
    assert node.say(MessageType.REQUEST_VOTE, 3, 2) == []
    [answer] = node.say(MessageType.REQUEST_VOTE, 3, 2, context=FORCED_ELECTION)
    assert (answer.term, answer.reject) == (2, False)


def test_transfer_under_way_takes_no_proposals() -> None:
    leader = make_leader()
    leader.core.transfer_leader(2)
    assert leader.core.transferee == 2
    with pytest.raises(Busy, match="being handed to node 2"):
        leader.core.propose(b"x")
    proposal = Message(MessageType.PROPOSE, to=1, sender=1, entries=(Entry(0, 0, b"x"),))
    assert leader.core.step_local(proposal) == "proposal_dropped"


def test_transfer_that_does_not_succeed_ends_with_the_election_timeout() -> None:
    leader = make_leader()
    leader.core.transfer_leader(2)
    for _ in range(leader.core._state.config.election_ticks):
        leader.core.tick()
    assert (leader.core.role, leader.core.transferee) == (Role.LEADER, 0)
    leader.core.propose(b"x")


def test_transfer_to_another_node_replaces_the_one_under_way() -> None:
    leader = make_leader()
    leader.core.transfer_leader(2)
    leader.core.transfer_leader(2)
    assert "ignores request to same node" in leader.lines[-1]
    leader.core.transfer_leader(3)
    assert leader.core.transferee == 3


@pytest.mark.parametrize("to", [1, 4, 5])
def test_transfer_to_no_other_voter_is_refused(to: int) -> None:
    leader = make_leader()
    leader.core._state.set_membership(Membership((1, 2, 3), learners=(4,)), frozenset())
    with pytest.raises(InvalidRequest):
        leader.core.transfer_leader(to)
    leader.core.step_local(Message(MessageType.TRANSFER_LEADER, to=1, sender=to))
    assert leader.core.transferee == 0


def test_transfer_at_a_follower_is_refused() -> None:
    node = make_node()
    with pytest.raises(NotLeader):
        node.core.transfer_leader(2)
    node.core.step_local(Message(MessageType.TRANSFER_LEADER, to=1, sender=2))
    assert "no leader at term 0" in node.lines[-1]
    node.say(MessageType.HEARTBEAT, 3, 1)
    node.core.step_local(Message(MessageType.TRANSFER_LEADER, to=1, sender=2))
    assert node.settle() == []


def test_transfer_and_proposal_are_sent_on_where_that_is_configured() -> None:
    node = make_node(forward_to_leader=True)
    node.say(MessageType.HEARTBEAT, 3, 1)
    node.core.step_local(Message(MessageType.TRANSFER_LEADER, to=1, sender=2))
    node.core.step_local(Message(MessageType.PROPOSE, to=1, sender=1, entries=(Entry(0, 0, b"x"),)))
    transfer, proposal = node.settle()
    assert (transfer.type, transfer.to, transfer.sender, transfer.term) == (MessageType.TRANSFER_LEADER, 3, 2, 1)
    assert (proposal.type, proposal.to, proposal.sender, proposal.term) == (MessageType.PROPOSE, 3, 1, 0)
    silent = make_node()
    silent.say(MessageType.HEARTBEAT, 3, 1)
    dropped = silent.core.step_local(Message(MessageType.PROPOSE, to=1, sender=1, entries=(Entry(0, 0, b"x"),)))
    assert dropped == "proposal_dropped"
    assert silent.settle() == []


def test_transfer_to_a_node_that_is_removed_ends() -> None:
    leader = make_leader(size=4)
    leader.say(RESPONSE, 2, 1, index=1)
    leader.say(RESPONSE, 3, 1, index=1)
    leader.core.propose_change(ConfChange((Change(ChangeType.REMOVE, 4),)))
    leader.settle()
    leader.core.transfer_leader(4)
    leader.say(RESPONSE, 2, 1, index=2)
    leader.say(RESPONSE, 3, 1, index=2)
    assert leader.core.membership == Membership((1, 2, 3))
    assert leader.core.transferee == 0


def test_timeout_now_is_for_followers() -> None:
    follower = make_node(pre_vote=True, check_quorum=True)
    follower.say(MessageType.HEARTBEAT, 2, 1)
    requests = of_type(follower.say(TIMEOUT_NOW, 2, 1), MessageType.REQUEST_VOTE)
    assert [request.context for request in requests] == [FORCED_ELECTION] * 2
    candidate = make_node()
    candidate.core.campaign()
    assert candidate.say(TIMEOUT_NOW, 2, 1) != []  # its own requests only
    assert "ignored MsgTimeoutNow" in "".join(candidate.lines)
    leader = make_leader()
    assert leader.say(TIMEOUT_NOW, 2, 1) == []


# --- the link-loss hint ----------------------------------------------------------------------------------------------


def test_leader_forgotten_by_a_majority_is_replaced_before_the_timeout() -> None:
    group = Group([[1], [1], [1]], pre_vote=True, check_quorum=True)
    group.elect(1)
    group.isolate(1)
    for id in (2, 3):
        group.nodes[id].core.forget_leader()
    group.nodes[2].core.campaign()
    group.deliver()
    assert group.nodes[2].core.role is Role.LEADER


def test_leader_forgotten_by_one_node_alone_stays() -> None:
    group = Group([[1], [1], [1]], pre_vote=True, check_quorum=True)
    leader = group.elect(1)
    term = leader.core.term
    group.nodes[2].core.forget_leader()
    group.nodes[2].core.campaign()
    group.deliver()
    assert (leader.core.role, leader.core.term) == (Role.LEADER, term)
    group.tick(2)
    assert group.nodes[2].core.leader == 1


def test_leader_is_not_forgotten_by_itself_nor_under_a_lease() -> None:
    leader = make_leader()
    leader.core.forget_leader()
    assert leader.core.leader == 1
    follower = make_node(lease_reads=True)
    follower.say(MessageType.HEARTBEAT, 2, 1)
    follower.core.forget_leader()
    assert follower.core.leader == 2
    nobody = make_node()
    nobody.core.forget_leader()
    assert nobody.core.leader == 0
