"""Snapshots (Raft §7): when one is sent, how it is installed, and the races of both."""

from __future__ import annotations

import pytest

from tests.unit.raft.harness import Node, entries_of, make_leader, make_node, of_type
from zmqbroker.errors import Compacted
from zmqbroker.raft import ProgressState
from zmqbroker.raft.membership import Membership
from zmqbroker.raft.messages import HardState, Message, MessageType, Role, Snapshot

INSTALL = MessageType.INSTALL_SNAPSHOT
RESPONSE = MessageType.APPEND_ENTRIES_RESPONSE
HEARTBEAT_RESPONSE = MessageType.HEARTBEAT_RESPONSE
TRIO = Membership((1, 2, 3))


def short_leader() -> Node:
    """A leader of term 1 with entries 1 to 5 committed, of which 1 to 4 are dropped; node 3 has not answered yet."""
    leader = make_leader()
    for _ in range(4):
        leader.core.propose(b"x")
    leader.settle()
    leader.say(RESPONSE, 2, 1, index=5)
    leader.log.compact(4)
    leader.log.newest = Snapshot(5, 1, TRIO)
    return leader


def reject(leader: Node, voter: int = 3) -> list[Message]:
    """A follower with an empty log refuses what it was sent."""
    progress = leader.core._state.progress[voter]
    return leader.say(RESPONSE, voter, 1, index=progress.next_index - 1, reject=True, reject_hint=0)


def test_follower_that_needs_dropped_entries_is_sent_a_snapshot() -> None:
    leader = short_leader()
    (sent,) = of_type(reject(leader), INSTALL)
    assert (sent.to, sent.snapshot) == (3, Snapshot(5, 1, TRIO))
    status = leader.core.progress()[3]
    assert (status.state, status.next_index) == (ProgressState.SNAPSHOT, 6)
    assert leader.core.matched_by_all() == 5
    leader.core.propose(b"y")
    assert [message for message in leader.settle() if message.to == 3] == []


def test_snapshot_is_not_sent_to_a_node_that_does_not_answer() -> None:
    leader = short_leader()
    progress = leader.core._state.progress[3]
    progress.become_probe()
    progress.next_index = 2
    leader.core.propose(b"y")
    assert of_type(leader.settle(), INSTALL) == []
    assert any("not recently active" in line for line in leader.lines)


def test_snapshot_of_before_a_member_came_is_not_sent_to_it() -> None:
    leader = short_leader()
    leader.log.newest = Snapshot(5, 1, Membership((1, 2)))
    assert of_type(reject(leader), INSTALL) == []
    assert leader.core.compacted_probes == 1
    leader.log.newest = Snapshot(5, 1, Membership((1, 2), learners=(3,)))
    (sent,) = of_type(leader.say(HEARTBEAT_RESPONSE, 3, 1), INSTALL)
    assert sent.to == 3


@pytest.mark.parametrize("index", [4, 5, 6])
def test_follower_that_reaches_the_log_by_any_snapshot_is_replicated_to(index: int) -> None:
    leader = short_leader()
    reject(leader)
    leader.core.propose(b"y")
    leader.settle()
    sent = leader.say(RESPONSE, 3, 1, index=index)
    assert leader.core.progress()[3].state is ProgressState.REPLICATE
    assert [entry.index for message in of_type(sent, MessageType.APPEND_ENTRIES) for entry in message.entries] == list(
        range(index + 1, 7)
    )


def test_follower_that_is_still_behind_the_log_stays_in_the_snapshot() -> None:
    leader = short_leader()
    reject(leader)
    leader.say(RESPONSE, 3, 1, index=2)
    assert leader.core.progress()[3].state is ProgressState.SNAPSHOT


@pytest.mark.parametrize(("ok", "next_index"), [(True, 6), (False, 1)])
def test_report_of_a_snapshot_lets_the_leader_probe_again(ok: bool, next_index: int) -> None:
    leader = short_leader()
    reject(leader)
    leader.core.report_snapshot(3, ok=ok)
    progress = leader.core._state.progress[3]
    assert (progress.state, progress.next_index, progress.paused) == (ProgressState.PROBE, next_index, True)
    leader.core.report_snapshot(3, ok=ok)  # of what ended already: nothing
    leader.core.report_snapshot(9, ok=ok)
    sent = leader.say(HEARTBEAT_RESPONSE, 3, 1)
    assert [message.type for message in sent if message.to == 3] == [MessageType.APPEND_ENTRIES if ok else INSTALL]


def install(node: Node, snapshot: Snapshot, term: int = 3) -> None:
    node.core.step(Message(INSTALL, to=1, sender=2, group=7, term=term, snapshot=snapshot))


def follower() -> Node:
    """Node 1 at term 3, entries of terms 1, 1, 2 of which one is committed."""
    node = make_node(terms=[1, 1, 2], hard=HardState(term=3, commit=1))
    node.settle()
    return node


def test_snapshot_replaces_the_log_and_is_acknowledged_when_durable() -> None:
    node = follower()
    snapshot = Snapshot(9, 3, Membership((1, 2), learners=(4,)))
    install(node, snapshot)
    ready = node.ready()
    assert ready.messages == []
    assert ready.append is not None
    assert ready.append.snapshot == snapshot
    assert ready.append.hard_state == HardState(3, 0, 9)
    assert (node.core.commit_index, node.core.applied_index, node.core.membership) == (9, 1, snapshot.membership)
    assert node.core._state.promotable is False  # until it is installed
    (answer,) = node.complete()
    assert (answer.type, answer.index, answer.to) == (RESPONSE, 9, 2)
    assert (node.core.applied_index, node.core.last_index) == (9, 9)
    assert node.core._state.promotable


def test_snapshot_under_way_hides_the_log_that_it_replaces() -> None:
    node = follower()
    install(node, Snapshot(9, 3, TRIO))
    log = node.core._state.log
    assert (log.first_index, log.last_index, log.last_term, log.term(9)) == (10, 9, 3, 3)
    assert log.snapshot() == Snapshot(9, 3, TRIO)
    assert not log.has_committed
    with pytest.raises(Compacted):
        log.term(3)
    with pytest.raises(Compacted):
        log.entries(2, 4, 1000)


def test_entries_after_a_snapshot_wait_for_it() -> None:
    node = follower()
    install(node, Snapshot(9, 3, TRIO))
    work = node.ready().append
    node.core.step(
        Message(
            MessageType.APPEND_ENTRIES,
            to=1,
            sender=2,
            group=7,
            term=3,
            index=9,
            log_term=3,
            commit=10,
            entries=entries_of([3], first=10),
        )
    )
    assert node.ready().committed == ()
    assert work is not None
    node.complete()
    node.complete()
    assert [entry.index for entry in node.ready().committed] == [10]


def test_snapshot_that_tells_nothing_new_is_ignored_and_answered() -> None:
    node = follower()
    install(node, Snapshot(1, 1, TRIO))
    (answer,) = node.settle()
    assert (answer.type, answer.index) == (RESPONSE, 1)
    assert node.terms() == [1, 1, 2]


def test_snapshot_that_the_log_reaches_already_moves_the_commit_index_only() -> None:
    node = follower()
    install(node, Snapshot(3, 2, TRIO))
    (answer,) = node.settle()
    assert answer.index == 3
    assert (node.core.commit_index, node.terms()) == (3, [1, 1, 2])


def test_snapshot_without_this_node_is_not_installed() -> None:
    node = follower()
    install(node, Snapshot(9, 3, Membership((2, 3))))
    assert node.terms() == [1, 1, 2]
    assert node.core.commit_index == 1


def test_older_snapshot_after_a_newer_one_changes_nothing() -> None:
    node = follower()
    install(node, Snapshot(9, 3, TRIO))
    install(node, Snapshot(7, 3, TRIO))
    node.settle()
    assert (node.core.applied_index, node.log.base) == (9, 9)


def test_newer_snapshot_while_one_is_being_written_wins() -> None:
    node = follower()
    install(node, Snapshot(9, 3, TRIO))
    node.ready()
    install(node, Snapshot(12, 3, TRIO))
    node.ready()
    node.complete()
    assert (node.core.applied_index, node.core.last_index) == (9, 12)
    node.complete()
    assert (node.core.applied_index, node.core._state.log.unstable.snapshot) == (12, None)


def test_snapshot_written_in_an_earlier_term_counts() -> None:
    node = follower()
    install(node, Snapshot(9, 3, TRIO))
    node.ready()
    node.core.step(Message(MessageType.HEARTBEAT, to=1, sender=3, group=7, term=4))
    node.complete()
    assert node.core.applied_index == 9
    assert not any("ignored entry appends" in line for line in node.lines)


def test_entries_written_for_the_log_that_a_snapshot_replaced_are_not_counted() -> None:
    node = make_node()
    node.core.step(
        Message(
            MessageType.APPEND_ENTRIES,
            to=1,
            sender=2,
            group=7,
            term=3,
            index=0,
            log_term=0,
            entries=entries_of([1, 1, 1, 1, 1, 1, 1, 1, 2]),
        )
    )
    node.ready()
    install(node, Snapshot(9, 3, TRIO))
    node.ready()
    node.complete()
    assert node.core._state.log.unstable.snapshot == Snapshot(9, 3, TRIO)
    node.complete()
    assert node.core.applied_index == 9


def test_candidate_that_is_sent_a_snapshot_follows() -> None:
    node = follower()
    node.core.campaign()
    install(node, Snapshot(9, 3, TRIO), term=4)
    assert (node.core.role, node.core.leader) == (Role.FOLLOWER, 2)
