"""RaftCore from outside: what it refuses, reports and hands out."""

from __future__ import annotations

from random import Random

import pytest

from tests.unit.raft.harness import GROUP, MemoryLog, entries_of, make_leader, make_node
from zmqbroker.errors import NotLeader
from zmqbroker.raft import ProgressState, ProgressStatus, RaftConfig, RaftCore
from zmqbroker.raft.membership import Membership
from zmqbroker.raft.messages import HardState, Message, MessageType, Role, SoftState
from zmqbroker.raft.trace import MESSAGE_NAMES

APPEND = MessageType.APPEND_ENTRIES
RESPONSE = MessageType.APPEND_ENTRIES_RESPONSE


def test_core_of_a_used_log_starts_where_it_stopped() -> None:
    log = MemoryLog([1, 2, 2], HardState(term=5, vote=3, commit=2))
    core = RaftCore(RaftConfig(id=2, group=GROUP), Membership((1, 2, 3)), log, Random(1), applied_index=1)
    assert (core.id, core.term, core.vote, core.leader) == (2, 5, 3, 0)
    assert (core.commit_index, core.applied_index, core.last_index) == (2, 1, 3)
    assert [core.term_of(index) for index in range(5)] == [0, 1, 2, 2, None]
    assert core.has_ready()
    ready = core.ready()
    assert [entry.index for entry in ready.committed] == [2]
    assert (ready.soft_state, ready.append, ready.messages) == (None, None, [])


def test_core_with_nothing_to_do_has_no_ready() -> None:
    node = make_node()
    assert not node.core.has_ready()
    assert node.core.ready() == type(node.core.ready())()


def test_ready_is_handed_out_once() -> None:
    node = make_node()
    node.core.campaign()
    assert node.ready().soft_state == SoftState(0, Role.CANDIDATE)
    assert not node.core.has_ready()


@pytest.mark.parametrize("happening", ["message", "response", "entry", "commit", "soft", "committed"])
def test_has_ready_sees_each_kind_of_news(happening: str) -> None:
    node = make_node(terms=[1, 1])
    node.say(MessageType.HEARTBEAT, 2, 1)
    assert not node.core.has_ready()
    if happening == "message":
        node.core.step(Message(MessageType.HEARTBEAT, to=1, sender=2, group=GROUP, term=1))
    elif happening == "response":
        node.core.step(Message(MessageType.PRE_VOTE, to=1, sender=2, group=GROUP, term=1))
    elif happening == "entry":
        node.core._state.log.append(entries_of([1], first=3))
    elif happening == "commit":
        node.core._state.term = 2
    elif happening == "soft":
        node.core._state.leader = 3
    else:
        node.core._state.log.commit_to(1)
    assert node.core.has_ready()


def test_propose_at_a_follower_is_refused() -> None:
    node = make_node()
    with pytest.raises(NotLeader) as caught:
        node.core.propose(b"x")
    assert caught.value.leader_hint is None


@pytest.mark.parametrize("kind", [RESPONSE, MessageType.HEARTBEAT_RESPONSE, MessageType.REQUEST_VOTE_RESPONSE])
def test_answer_at_a_follower_is_ignored(kind: MessageType) -> None:
    node = make_node(hard=HardState(term=2))
    assert node.say(kind, 2, 2, index=1) == []
    assert node.core.role is Role.FOLLOWER


def test_answer_of_an_older_term_is_ignored() -> None:
    leader = make_leader(terms=[3])
    leader.say(RESPONSE, 2, 3, index=1)
    assert leader.core.term == 4
    assert leader.core.progress()[2].match_index == 0


@pytest.mark.parametrize("kind", [APPEND, MessageType.HEARTBEAT])
def test_leader_hearing_a_leader_of_its_own_term_ignores_it(kind: MessageType) -> None:
    leader = make_leader()
    assert leader.say(kind, 2, 1) == []
    assert leader.core.role is Role.LEADER


def test_progress_is_the_leaders_alone() -> None:
    leader = make_leader()
    leader.say(RESPONSE, 2, 1, index=1)
    assert leader.core.progress() == {
        1: ProgressStatus(1, 2, ProgressState.REPLICATE, True, False),
        2: ProgressStatus(1, 2, ProgressState.REPLICATE, True, False),
        3: ProgressStatus(0, 1, ProgressState.PROBE, False, False),
    }
    leader.say(APPEND, 2, 2)
    assert leader.core.progress() == {}


def test_matched_by_all_is_the_lowest_match_at_a_leader() -> None:
    leader = make_leader()
    assert leader.core.matched_by_all() == 0
    leader.say(RESPONSE, 2, 1, index=1)
    leader.say(RESPONSE, 3, 1, index=1)
    assert leader.core.matched_by_all() == 1
    leader.say(APPEND, 2, 2)
    assert leader.core.matched_by_all() == 0


def test_matched_by_all_counts_nothing_that_is_not_durable_here() -> None:
    # Elected by 2 and 3 alone: this node's own log is still on its way to the disk.
    node = make_node(campaign_before_durable=True)
    node.core.step(Message(APPEND, to=1, sender=2, group=GROUP, term=1, entries=entries_of([1])))
    node.core.campaign()
    node.ready()
    for voter in (2, 3):
        node.core.step(Message(MessageType.REQUEST_VOTE_RESPONSE, to=1, sender=voter, group=GROUP, term=2))
    assert node.core.role is Role.LEADER
    for voter in (2, 3):
        node.core.step(Message(RESPONSE, to=1, sender=voter, group=GROUP, term=2, index=1))
    assert node.core.matched_by_all() == 0


def test_messages_carry_group_sender_and_term() -> None:
    leader = make_leader(size=3)
    leader.core.tick()
    leader.core.propose(b"x")
    sent = leader.settle()
    assert sent
    assert {(message.group, message.sender, message.term) for message in sent} == {(GROUP, 1, 1)}


def test_trace_absent_changes_nothing() -> None:
    traced = make_node(terms=[1])
    silent = RaftCore(RaftConfig(id=1, group=GROUP), Membership((1, 2, 3)), MemoryLog([1]), Random(1))
    for _ in range(20):
        silent.tick()
    assert silent.role is Role.PRE_CANDIDATE
    assert traced.lines[-1] == "INFO newRaft 1 [peers: [1,2,3], term: 1, commit: 0, applied: 0, lastindex: 1, lastterm: 1]"


def test_trace_has_a_name_for_every_message() -> None:
    assert set(MESSAGE_NAMES) == set(MessageType)


def test_uncommitted_bytes_of_an_earlier_leader_do_not_go_below_zero() -> None:
    leader = make_leader(size=2, terms=[1, 1])
    leader.say(RESPONSE, 2, 2, index=3)
    assert leader.core.applied_index == 3
    assert leader.core.uncommitted_bytes == 0
