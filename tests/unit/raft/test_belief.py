"""What no correct member can have sent is dropped with its reason, and nothing that anybody sends ends a node."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.raft.harness import GROUP, Group, MemoryLog, Node, entries_of, make_leader, make_node
from zmqbroker.raft.belief import TERM_MAX
from zmqbroker.raft.confchange import Change, ChangeType, ConfChange, encode
from zmqbroker.raft.membership import Membership
from zmqbroker.raft.messages import DropReason, Entry, EntryType, HardState, Message, MessageType, Role, Snapshot

APPEND = MessageType.APPEND_ENTRIES
RESPONSE = MessageType.APPEND_ENTRIES_RESPONSE
HEARTBEAT = MessageType.HEARTBEAT
INSTALL = MessageType.INSTALL_SNAPSHOT
TRIO = Membership((1, 2, 3))


def follower() -> Node:
    """Node 1 of three at term 3, with entries of terms 1, 1, 2, the first two committed."""
    return make_node(terms=[1, 1, 2], hard=HardState(term=3, commit=2))


def message(kind: MessageType, **fields: Any) -> Message:
    """A message from node 2 at term 3."""
    return Message(kind, **{"to": 1, "sender": 2, "group": GROUP, "term": 3, **fields})


DROPPED = [
    (DropReason.OTHER_GROUP, message(HEARTBEAT, group=GROUP + 1)),
    (DropReason.OTHER_RECEIVER, message(HEARTBEAT, to=2)),
    (DropReason.OWN_MESSAGE, message(HEARTBEAT, sender=1)),
    (DropReason.LOCAL_TYPE, message(MessageType.STORAGE_APPEND_RESPONSE)),
    (DropReason.NOT_FORWARDED, message(MessageType.PROPOSE, term=0, entries=(Entry(0, 0, b"x"),))),
    (DropReason.NOT_FORWARDED, message(MessageType.TRANSFER_LEADER)),
    (DropReason.NO_TERM, message(HEARTBEAT, term=0)),
    (DropReason.IMPOSSIBLE_TERM, message(HEARTBEAT, term=TERM_MAX + 1)),
    (DropReason.IMPOSSIBLE_TERM, message(APPEND, index=3, log_term=4)),
    (DropReason.IMPOSSIBLE_TERM, message(MessageType.REQUEST_VOTE, index=3, log_term=4)),
    (DropReason.IMPOSSIBLE_TERM, message(MessageType.PRE_VOTE, term=4, index=3, log_term=5)),
    (DropReason.UNKNOWN_SENDER, message(RESPONSE, sender=4)),
    (DropReason.UNKNOWN_SENDER, message(MessageType.REQUEST_VOTE_RESPONSE, sender=4)),
    (DropReason.UNKNOWN_SENDER, message(MessageType.READ_INDEX_RESPONSE, sender=4)),
    (DropReason.BAD_ENTRIES, message(APPEND, index=3, log_term=2, entries=entries_of([3], first=5))),
    (DropReason.BAD_ENTRIES, message(APPEND, index=3, log_term=2, entries=entries_of([3, 2], first=4))),
    (DropReason.BAD_ENTRIES, message(APPEND, index=3, log_term=2, entries=entries_of([1], first=4))),
    (DropReason.BAD_ENTRIES, message(APPEND, index=3, log_term=2, entries=entries_of([4], first=4))),
    (DropReason.COMMIT_BEYOND_LOG, message(HEARTBEAT, commit=4)),
    (DropReason.COMMITTED_CONFLICT, message(APPEND, index=2, log_term=2)),
    (DropReason.BAD_SNAPSHOT, message(INSTALL)),
    (DropReason.BAD_SNAPSHOT, message(INSTALL, snapshot=Snapshot(5, 4, TRIO))),
    (DropReason.BAD_SNAPSHOT, message(INSTALL, snapshot=Snapshot(0, 1, TRIO))),
    (DropReason.BAD_SNAPSHOT, message(INSTALL, snapshot=Snapshot(5, 3, Membership()))),
    (DropReason.BAD_SNAPSHOT, message(INSTALL, snapshot=Snapshot(5, 3, Membership((3, 1))))),
]


@pytest.mark.parametrize(("reason", "sent"), DROPPED)
def test_message_that_no_member_can_have_sent_is_dropped_with_its_reason(reason: DropReason, sent: Message) -> None:
    node = follower()
    node.settle()
    assert node.core.step(sent) is reason
    assert not node.core.has_ready()
    assert (node.core.term, node.core.leader, node.terms()) == (3, 0, [1, 1, 2])


def test_response_beyond_the_leaders_log_is_dropped() -> None:
    leader = make_leader()
    assert leader.core.step(message(RESPONSE, term=1, index=2)) is DropReason.INDEX_BEYOND_LOG
    assert leader.core.step(message(RESPONSE, term=1, index=1)) is None
    assert leader.core.commit_index == 1


@pytest.mark.parametrize("kind", [APPEND, HEARTBEAT, INSTALL])
def test_second_leader_of_a_term_is_not_believed(kind: MessageType) -> None:
    leader = make_leader()
    assert leader.core.step(message(kind, term=1, snapshot=Snapshot(1, 1, TRIO))) is DropReason.SECOND_LEADER
    assert leader.core.role is Role.LEADER


def test_forwarded_messages_are_taken_where_that_is_configured() -> None:
    leader = make_leader(forward_to_leader=True)
    entries = (Entry(0, 0, b"x"),)
    assert leader.core.step(message(MessageType.PROPOSE, term=0, entries=entries)) is None
    assert leader.core.step(message(MessageType.TRANSFER_LEADER, term=1, sender=1)) is None
    assert leader.core.last_index == 2


def test_content_of_an_earlier_term_is_answered_by_its_term_not_judged() -> None:
    node = make_node(terms=[1], hard=HardState(term=3), check_quorum=True)
    assert node.core.step(message(HEARTBEAT, term=2, commit=99)) is None
    (answer,) = node.settle()
    assert (answer.type, answer.term) == (RESPONSE, 3)


def test_every_reason_has_its_test() -> None:
    # These three need a leader: the tests above, and those of proposals.
    elsewhere = {DropReason.INDEX_BEYOND_LOG, DropReason.SECOND_LEADER, DropReason.PROPOSAL_DROPPED}
    assert {reason for reason, _ in DROPPED} | elsewhere == set(DropReason)


def test_reasons_are_usable_as_metric_names() -> None:
    assert all(str(reason).replace("_", "").isalpha() and str(reason).islower() for reason in DropReason)


# --- whatever anybody sends ------------------------------------------------------------------------------------------

NUMBERS = st.integers(0, 6) | st.sampled_from([TERM_MAX, TERM_MAX + 1, (1 << 64) - 1])
CHANGES = st.sampled_from(
    [
        b"",
        b"\xff\xff",
        encode(ConfChange((Change(ChangeType.REMOVE, 1), Change(ChangeType.REMOVE, 2)))),
        encode(ConfChange((Change(ChangeType.ADD_LEARNER, 4),))),
    ]
)
MEMBERSHIPS = st.builds(
    Membership, *(st.lists(st.integers(0, 4), max_size=3).map(lambda ids: tuple(sorted(ids))) for _ in range(4)), st.booleans()
)
MESSAGES = st.builds(
    Message,
    st.sampled_from(MessageType),
    to=st.integers(1, 4),
    sender=st.integers(0, 5),
    group=st.sampled_from([GROUP, GROUP, GROUP, 0]),
    term=NUMBERS,
    log_term=NUMBERS,
    index=NUMBERS,
    commit=NUMBERS,
    reject_hint=NUMBERS,
    reject=st.booleans(),
    context=NUMBERS,
    entries=st.lists(st.builds(Entry, NUMBERS, NUMBERS, CHANGES, st.sampled_from(EntryType)), max_size=3).map(tuple),
    snapshot=st.none() | st.builds(Snapshot, NUMBERS, NUMBERS, MEMBERSHIPS),
)


def nodes_of_every_kind() -> list[Node]:
    """A follower, a candidate, a pre-candidate, a leader with a transfer under way, and a learner."""
    candidate, pre_candidate = make_node(terms=[1]), make_node(terms=[1], pre_vote=True)
    candidate.core.campaign()
    pre_candidate.core.campaign()
    leader = make_leader()
    leader.core.transfer_leader(2)
    learner = make_node(4, membership=Membership((1, 2, 3), learners=(4,)))
    return [follower(), candidate, pre_candidate, leader, learner]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 4), st.lists(MESSAGES, max_size=8))
def test_no_message_of_a_member_ends_a_node(kind: int, messages: list[Message]) -> None:
    node = nodes_of_every_kind()[kind]
    node.settle()
    for sent in messages:
        sent.to = node.core.id
        node.core.step(sent)
        node.settle()
        node.core.tick()
        node.settle()


def test_group_goes_on_after_messages_that_were_dropped() -> None:
    group = Group([[1], [1], [1]])
    leader = group.elect(1)
    for sent in (message(RESPONSE, term=leader.core.term, index=99), message(HEARTBEAT, term=leader.core.term)):
        assert leader.core.step(sent) is not None
    index = leader.core.propose(b"still here")
    group.deliver()
    assert leader.core.commit_index == index
    assert isinstance(leader.log, MemoryLog)
