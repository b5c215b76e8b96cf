"""What waits for the disk and what does not: two outboxes, the order of works, and overlapping writes (ABA)."""

from __future__ import annotations

import pytest

from tests.unit.raft.harness import GROUP, entries_of, make_leader, make_node, of_type
from zmqbroker.raft.messages import HardState, Message, MessageType, Role, StorageAppend

APPEND = MessageType.APPEND_ENTRIES
RESPONSE = MessageType.APPEND_ENTRIES_RESPONSE
VOTE = MessageType.REQUEST_VOTE


def test_leader_sends_entries_before_its_own_disk_and_counts_itself_after() -> None:
    leader = make_leader()
    leader.say(RESPONSE, 2, 1, index=1)
    index = leader.core.propose(b"x")
    assert len(of_type(leader.ready().messages, APPEND)) == 1
    leader.core.step(Message(RESPONSE, to=1, sender=2, group=GROUP, term=1, index=index))
    assert leader.core.commit_index == 1
    assert leader.core.progress()[1].match_index == 1
    assert leader.complete() == []
    assert leader.core.commit_index == index


def test_single_voter_commits_only_what_its_disk_holds() -> None:
    node = make_node(size=1)
    node.core.campaign()
    assert node.core.role is Role.CANDIDATE
    node.settle()
    index = node.core.propose(b"x")
    assert node.ready().committed == ()
    assert node.core.commit_index == 1
    node.complete()
    assert node.core.commit_index == index
    assert [entry.index for entry in node.ready().committed] == [index]


def test_single_voter_with_pre_vote_elects_itself() -> None:
    node = make_node(size=1, pre_vote=True, check_quorum=True, election_ticks=3)
    for _ in range(40):
        node.core.tick()
        assert node.settle() == []
    assert (node.core.role, node.core.term, node.core.commit_index) == (Role.LEADER, 1, 1)


def test_candidate_counts_its_own_vote_only_when_durable() -> None:
    node = make_node(campaign_before_durable=True)
    node.core.campaign()
    sent = node.ready().messages
    assert [message.to for message in sent] == [2, 3]
    node.core.step(Message(MessageType.REQUEST_VOTE_RESPONSE, to=1, sender=2, group=GROUP, term=1))
    assert node.core.leader == 0
    node.complete()
    assert (node.core.role, node.core.leader) == (Role.LEADER, 1)


def test_candidate_asks_for_votes_only_when_its_own_and_its_log_are_durable() -> None:
    # Else, after a crash, votes under way to it would be for a log that it has lost, or for a term that it has led already.
    node = make_node()
    node.core.step(Message(APPEND, to=1, sender=2, group=GROUP, term=1, entries=entries_of([1])))
    assert node.ready().messages == []
    node.core.campaign()
    assert node.ready().messages == []
    assert of_type(node.complete(), VOTE) == []
    asked = of_type(node.complete(), VOTE)
    assert [(request.to, request.term, request.index, request.log_term) for request in asked] == [(2, 2, 1, 1), (3, 2, 1, 1)]
    assert (node.terms(), node.log.state) == ([1], HardState(2, 1))


def test_follower_acknowledges_only_what_is_durable() -> None:
    node = make_node()
    node.core.step(Message(APPEND, to=1, sender=2, group=GROUP, term=1, entries=entries_of([1, 1])))
    ready = node.ready()
    assert ready.messages == []
    assert ready.append is not None
    assert ready.append.must_sync
    assert ready.append.hard_state == HardState(term=1)
    assert [message.index for message in node.complete()] == [2]


def test_committed_entries_wait_for_the_local_disk() -> None:
    node = make_node()
    node.core.step(Message(APPEND, to=1, sender=2, group=GROUP, term=1, entries=entries_of([1, 1]), commit=2))
    assert node.ready().committed == ()
    node.complete()
    assert [entry.index for entry in node.ready().committed] == [1, 2]


def test_commit_index_alone_is_written_at_the_next_tick_and_needs_no_sync() -> None:
    node = make_node()
    node.say(APPEND, 2, 1, entries=entries_of([1]))
    node.core.step(Message(MessageType.HEARTBEAT, to=1, sender=2, group=GROUP, term=1, commit=1))
    assert node.ready().append is None
    assert not node.core.has_ready()
    node.core.tick()
    work = node.ready().append
    assert work == StorageAppend(GROUP, (), HardState(1, 0, 1), must_sync=False)


@pytest.mark.parametrize(("kind", "must_sync"), [(VOTE, True), (MessageType.PRE_VOTE, False)])
def test_work_for_a_vote_syncs_when_a_vote_was_given(kind: MessageType, must_sync: bool) -> None:
    node = make_node(hard=HardState(term=4))
    node.core.step(Message(kind, to=1, sender=2, group=GROUP, term=4))
    work = node.ready().append
    assert work is not None
    assert work.must_sync is must_sync
    assert work.responses[0].type in (
        MessageType.REQUEST_VOTE_RESPONSE,
        MessageType.PRE_VOTE_RESPONSE,
    )


def test_works_may_pile_up_and_are_done_in_order() -> None:
    leader = make_leader(size=2)
    leader.say(RESPONSE, 2, 1, index=1)
    for index in (2, 3, 4):
        leader.core.propose(b"x")
        ready = leader.ready()
        assert ready.append is not None
        assert [entry.index for entry in ready.append.entries] == [index]
    leader.core.step(Message(RESPONSE, to=1, sender=2, group=GROUP, term=1, index=4))
    assert leader.core.commit_index == 1
    for index in (2, 3, 4):
        leader.complete()
        assert leader.core.commit_index == index
    with pytest.raises(AssertionError):
        leader.core.advance(StorageAppend(GROUP))


def test_work_advanced_out_of_order_is_refused() -> None:
    leader = make_leader()
    for _ in range(2):
        leader.core.propose(b"x")
        leader.ready()
    with pytest.raises(AssertionError, match="order"):
        leader.core.advance(leader.works[1])


def test_write_of_an_old_term_completing_late_does_not_make_newer_entries_stable() -> None:
    # The race of etcd/raft's newStorageAppendRespMsg: three leaders write index 2, all writes are still under way.
    node = make_node(size=7, terms=[1])
    node.core.step(Message(APPEND, to=1, sender=2, group=GROUP, term=1, index=1, log_term=1, entries=entries_of([1], first=2)))
    node.ready()
    node.core.step(Message(APPEND, to=1, sender=3, group=GROUP, term=2, index=1, log_term=1, entries=entries_of([2], first=2)))
    node.ready()
    node.core.step(Message(MessageType.HEARTBEAT, to=1, sender=4, group=GROUP, term=3))
    node.ready()
    node.core.step(Message(APPEND, to=1, sender=4, group=GROUP, term=3, index=1, log_term=1, entries=entries_of([3], first=2)))
    node.ready()
    assert len(node.works) == 4
    for durable in ([1, 1], [1, 2], [1, 2]):
        node.complete()
        # The durable log shows an entry that a write under way will replace; the core must not look at it.
        assert node.terms() == durable
        assert node.core.term_of(2) == 3
        assert node.core._state.log.stable_index == 1
    answers = node.complete()
    assert [(answer.to, answer.term, answer.index) for answer in answers] == [(4, 3, 2)]
    assert node.terms() == [1, 3]
    assert node.core._state.log.stable_index == 2


def test_write_completed_under_a_newer_term_is_made_stable_by_the_next_work() -> None:
    node = make_node()
    node.core.step(Message(APPEND, to=1, sender=2, group=GROUP, term=1, entries=entries_of([1])))
    node.ready()
    node.core.step(Message(MessageType.HEARTBEAT, to=1, sender=3, group=GROUP, term=2))
    node.ready()
    node.complete()
    assert node.core._state.log.stable_index == 0
    node.complete()
    assert node.core._state.log.stable_index == 1


def test_answer_to_a_leader_of_an_old_term_still_tells_the_truth() -> None:
    node = make_node()
    node.core.step(Message(APPEND, to=1, sender=2, group=GROUP, term=1, entries=entries_of([1])))
    node.ready()
    node.core.step(Message(MessageType.HEARTBEAT, to=1, sender=3, group=GROUP, term=2))
    [answer] = node.complete()
    assert (answer.to, answer.term, answer.index) == (2, 1, 1)


def test_commit_index_rides_with_whatever_is_written_next() -> None:
    node = make_node()
    node.say(APPEND, 2, 1, entries=entries_of([1]))
    node.core.step(Message(MessageType.HEARTBEAT, to=1, sender=2, group=GROUP, term=1, commit=1))
    assert node.ready().append is None
    message = Message(
        APPEND, to=1, sender=2, group=GROUP, term=1, index=1, log_term=1, commit=1, entries=entries_of([1], first=2)
    )
    node.core.step(message)
    work = node.ready().append
    assert work is not None
    assert (work.hard_state, work.must_sync) == (HardState(1, 0, 1), True)
