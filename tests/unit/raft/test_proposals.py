"""PROPOSE as the reference's scripts use it: what a leader takes, what it turns into an empty entry, what it drops."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.raft.harness import Node, make_leader, make_node
from zmqbroker.raft.confchange import Change, ChangeType, ConfChange, Transition, encode
from zmqbroker.raft.membership import Membership
from zmqbroker.raft.messages import DropReason, Entry, EntryType, Message, MessageType
from zmqbroker.raft.trace import describe_change

LEARN_4 = ConfChange((Change(ChangeType.ADD_LEARNER, 4),))


def ready_leader(**options: Any) -> Node:
    """A leader of three whose first entry is committed and applied."""
    leader = make_leader(**options)
    leader.say(MessageType.APPEND_ENTRIES_RESPONSE, 2, 1, index=1)
    return leader


def propose(leader: Node, *entries: tuple[EntryType, bytes]) -> DropReason | None:
    proposal = Message(MessageType.PROPOSE, to=1, sender=1)
    proposal.entries = tuple(Entry(0, 0, data, kind) for kind, data in entries)
    return leader.core.step_local(proposal)


def kinds(leader: Node) -> list[tuple[EntryType, bytes]]:
    """Type and payload of everything after the leader's first entry."""
    leader.settle()
    return [(entry.type, entry.data) for entry in leader.log.held[1:]]


def test_proposal_of_several_entries_is_appended_in_order() -> None:
    leader = ready_leader()
    change = (EntryType.CHANGE, encode(LEARN_4))
    assert propose(leader, (EntryType.NORMAL, b"a"), change, (EntryType.NORMAL, b"b")) is None
    assert kinds(leader) == [(EntryType.NORMAL, b"a"), change, (EntryType.NORMAL, b"b")]
    assert leader.core._state.pending_change_index == 3


@pytest.mark.parametrize(
    ("membership", "pending", "change", "words"),
    [
        (Membership((1, 2, 3)), 9, LEARN_4, "possible unapplied conf change at index 9 (applied to 1)"),
        (Membership((1, 2), (1, 2, 3)), 1, LEARN_4, "must transition out of joint config first"),
        (Membership((1, 2, 3)), 1, ConfChange(), "not in joint state; refusing empty conf change"),
    ],
)
def test_change_that_cannot_follow_becomes_an_empty_entry(
    membership: Membership, pending: int, change: ConfChange, words: str
) -> None:
    leader = ready_leader()
    leader.core._state.set_membership(membership, frozenset())
    leader.core._state.pending_change_index = pending
    assert propose(leader, (EntryType.CHANGE, encode(change))) is None
    assert words in leader.lines[-1]
    assert kinds(leader) == [(EntryType.NORMAL, b"")]


def test_change_that_cannot_follow_is_taken_without_validation() -> None:
    leader = ready_leader(validate_changes=False)
    leader.core._state.pending_change_index = 9
    assert propose(leader, (EntryType.SIMPLE_CHANGE, encode(LEARN_4))) is None
    assert kinds(leader) == [(EntryType.SIMPLE_CHANGE, encode(LEARN_4))]


def test_proposal_without_a_leader_is_dropped() -> None:
    candidate = make_node()
    assert propose(candidate, (EntryType.NORMAL, b"x")) is DropReason.PROPOSAL_DROPPED
    candidate.core.campaign()
    assert propose(candidate, (EntryType.NORMAL, b"x")) is DropReason.PROPOSAL_DROPPED
    assert "no leader at term 1" in candidate.lines[-1]


def test_proposal_beyond_the_uncommitted_bytes_is_dropped() -> None:
    leader = ready_leader(uncommitted_bytes_max=100)
    assert propose(leader, (EntryType.NORMAL, bytes(90))) is None
    assert propose(leader, (EntryType.NORMAL, bytes(20))) is DropReason.PROPOSAL_DROPPED
    assert propose(leader, (EntryType.NORMAL, b"")) is None
    assert kinds(leader) == [(EntryType.NORMAL, bytes(90)), (EntryType.NORMAL, b"")]


def test_changes_are_described_as_the_reference_does() -> None:
    pair = ConfChange((Change(ChangeType.ADD_VOTER, 1), Change(ChangeType.REMOVE, 2)), Transition.JOINT_EXPLICIT)
    text = "{ConfChangeTransitionJointExplicit [{ConfChangeAddNode 1} {ConfChangeRemoveNode 2}] []}"
    assert describe_change(EntryType.CHANGE, pair) == text
    assert describe_change(EntryType.SIMPLE_CHANGE, LEARN_4) == "{ConfChangeAddLearnerNode 4 [] 0}"


# --- what the shell reports ------------------------------------------------------------------------------------------


def test_unreachable_follower_is_probed() -> None:
    leader = ready_leader()
    leader.core.propose(b"x")
    leader.settle()
    assert str(leader.core._state.progress[2]) == "StateReplicate match=1 next=3 inflight=1"
    leader.core.report_unreachable(2)
    assert str(leader.core._state.progress[2]) == "StateProbe match=1 next=2"
    leader.core.report_unreachable(3)
    leader.core.report_unreachable(9)
    assert leader.lines[-1] == "DEBUG 1 no progress available for 9"
    leader.say(MessageType.HEARTBEAT, 2, 2)
    leader.core.report_unreachable(2)
    assert "unreachable" not in leader.lines[-1]


def test_own_acknowledgement_of_a_removed_leader_is_nobodys() -> None:
    leader = ready_leader(step_down_on_removal=False)
    leader.core.propose(b"x")
    leader.ready()
    leader.core._state.set_membership(Membership((2, 3)), frozenset())
    leader.complete()
    assert leader.lines[-1] == "DEBUG 1 no progress available for 1"


def test_checksum_of_a_proposal_goes_with_its_entry_to_followers_and_log() -> None:
    leader = ready_leader()
    leader.core.propose(b"known", 7)
    leader.core.propose(b"unknown")
    ready = leader.core.ready()
    assert ready.append is not None
    assert [entry.data_crc for entry in ready.append.entries] == [7, None]
    sent = [entry for message in ready.messages if message.to == 2 for entry in message.entries]
    assert [entry.data_crc for entry in sent] == [7, None]
    assert sent[0] == Entry(sent[0].index, sent[0].term, b"known"), "the checksum is no part of what an entry says"


def test_checksum_of_a_change_that_becomes_an_empty_entry_is_forgotten() -> None:
    leader = ready_leader()
    leader.core._state.pending_change_index = 9
    proposal = Message(MessageType.PROPOSE, to=1, sender=1)
    proposal.entries = (Entry(0, 0, encode(LEARN_4), EntryType.CHANGE, 7), Entry(0, 0, b"x", data_crc=8))
    assert leader.core.step_local(proposal) is None
    leader.settle()
    assert [(entry.data, entry.data_crc) for entry in leader.log.held[1:]] == [(b"", None), (b"x", 8)]
