"""How much a leader sends: probing, the window, message sizes, and what happens when everything is lost."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.raft.harness import Node, entries_of, make_leader, of_type
from zmqbroker.errors import Busy
from zmqbroker.raft.log import ENTRY_OVERHEAD_BYTES
from zmqbroker.raft.messages import Message, MessageType
from zmqbroker.raft.progress import ProgressState

APPEND = MessageType.APPEND_ENTRIES
RESPONSE = MessageType.APPEND_ENTRIES_RESPONSE
HEARTBEAT_RESPONSE = MessageType.HEARTBEAT_RESPONSE


def replicating(**options: Any) -> Node:
    """A leader of two that knows that 2 has its first entry."""
    leader = make_leader(size=2, **options)
    leader.say(RESPONSE, 2, 1, index=1)
    assert leader.core.progress()[2].state is ProgressState.REPLICATE
    return leader


def propose(leader: Node, count: int, size: int = 10) -> list[Message]:
    for _ in range(count):
        leader.core.propose(b"x" * size)
    return of_type(leader.settle(), APPEND)


def shape(messages: list[Message]) -> list[tuple[int, int]]:
    """(prev_log_index, number of entries) of each."""
    return [(message.index, len(message.entries)) for message in messages]


def test_follower_being_probed_gets_one_message_at_a_time() -> None:
    leader = make_leader(size=2)
    assert propose(leader, 3) == []
    [again] = leader.say(HEARTBEAT_RESPONSE, 2, 1)
    assert (again.type, again.index, len(again.entries)) == (APPEND, 0, 4)
    assert propose(leader, 1) == []


def test_follower_replicated_to_gets_messages_without_waiting() -> None:
    assert shape(propose(replicating(), 3)) == [(1, 1), (2, 1), (3, 1)]


def test_window_full_by_messages_stops_until_one_is_answered() -> None:
    leader = replicating(inflight_messages_max=2)
    assert shape(propose(leader, 5)) == [(1, 1), (2, 1)]
    assert shape(of_type(leader.say(RESPONSE, 2, 1, index=2), APPEND))[-1] == (3, 3)


def test_window_full_by_bytes_stops_until_one_is_answered() -> None:
    leader = replicating(inflight_bytes_max=25, message_bytes_max=20)
    assert shape(propose(leader, 5)) == [(1, 1), (2, 1), (3, 1)]
    sent = of_type(leader.say(RESPONSE, 2, 1, index=3), APPEND)
    assert [item for item in shape(sent) if item[1]] == [(4, 1), (5, 1)]


def test_window_full_and_all_of_it_lost_recovers_after_a_heartbeat() -> None:
    leader = replicating(inflight_messages_max=2)
    propose(leader, 5)
    [probe] = leader.say(HEARTBEAT_RESPONSE, 2, 1)
    assert (probe.type, probe.index, probe.entries) == (APPEND, 3, ())
    assert propose(leader, 1) == []
    [first] = of_type(leader.say(RESPONSE, 2, 1, index=3, reject=True, reject_hint=1, log_term=1), APPEND)
    assert (first.index, len(first.entries)) == (1, 6)
    assert leader.core.progress()[2].state is ProgressState.PROBE
    leader.say(RESPONSE, 2, 1, index=7)
    assert leader.core.progress()[2].match_index == 7
    assert leader.core.commit_index == 7


def test_refusal_that_is_late_changes_nothing() -> None:
    leader = replicating()
    propose(leader, 3)
    leader.say(RESPONSE, 2, 1, index=3)
    before = leader.core.progress()[2]
    assert leader.say(RESPONSE, 2, 1, index=2, reject=True, reject_hint=1, log_term=1) == []
    assert leader.core.progress()[2] == before


def test_answer_that_is_late_changes_nothing() -> None:
    leader = replicating()
    propose(leader, 3)
    leader.say(RESPONSE, 2, 1, index=4)
    before = leader.core.progress()[2]
    assert leader.say(RESPONSE, 2, 1, index=2) == []
    assert leader.core.progress()[2] == before


def test_refusal_without_a_term_steps_to_its_hint() -> None:
    leader = make_leader(size=2, terms=[1, 1, 1, 1])
    [probe] = leader.say(RESPONSE, 2, 2, index=4, reject=True, reject_hint=2)
    assert (probe.index, len(probe.entries)) == (2, 3)


def test_messages_hold_no_more_than_their_limit() -> None:
    leader = make_leader(size=2, message_bytes_max=2 * (10 + ENTRY_OVERHEAD_BYTES))
    propose(leader, 5)
    sent = of_type(leader.say(RESPONSE, 2, 1, index=1), APPEND)
    assert shape(sent) == [(1, 2), (3, 2), (5, 1)]


def test_message_with_one_large_entry_travels_all_the_same() -> None:
    leader = replicating(message_bytes_max=50, inflight_bytes_max=50)
    assert shape(propose(leader, 1, size=500)) == [(1, 1)]


def test_follower_missing_only_the_commit_index_is_told_once() -> None:
    leader = make_leader(size=3, commit_at_tick=False)
    leader.say(RESPONSE, 2, 1, index=1)
    sent = of_type(leader.say(RESPONSE, 3, 1, index=1), APPEND)
    assert [(message.to, message.commit, message.entries) for message in sent] == [(3, 1, ())]
    assert leader.say(RESPONSE, 3, 1, index=1) == []


def test_follower_caught_up_gets_nothing_after_a_heartbeat() -> None:
    assert replicating().say(HEARTBEAT_RESPONSE, 2, 1) == []


def test_follower_caught_up_but_probed_gets_an_empty_message() -> None:
    leader = replicating()
    leader.core._state.progress[2].become_probe()
    [probe] = leader.say(HEARTBEAT_RESPONSE, 2, 1)
    assert (probe.type, probe.index, probe.entries) == (APPEND, 1, ())
    leader.say(RESPONSE, 2, 1, index=1)
    assert leader.core.progress()[2].state is ProgressState.REPLICATE


def test_uncommitted_bytes_over_the_limit_are_refused_until_applied() -> None:
    leader = replicating(uncommitted_bytes_max=100)
    propose(leader, 10)
    assert leader.core.uncommitted_bytes == 100
    with pytest.raises(Busy) as caught:
        leader.core.propose(b"x")
    assert caught.value.retry_ms > 0
    assert leader.core.propose(b"") == 12
    leader.say(RESPONSE, 2, 1, index=6)
    assert leader.core.uncommitted_bytes == 50
    leader.core.propose(b"x" * 50)


def test_uncommitted_nothing_admits_an_entry_of_any_size() -> None:
    leader = replicating(uncommitted_bytes_max=100)
    leader.core.propose(b"x" * 1000)
    with pytest.raises(Busy):
        leader.core.propose(b"x")


def test_follower_needing_dropped_entries_without_a_snapshot_is_counted() -> None:
    leader = replicating()
    propose(leader, 5)
    leader.log.compact(4)
    leader.core._state.progress[2].become_probe()
    assert leader.say(HEARTBEAT_RESPONSE, 2, 1) == []
    assert leader.core.compacted_probes == 1
    assert leader.core.progress()[2].state is ProgressState.PROBE
    assert "snapshot is temporarily unavailable" in leader.lines[-1]


def test_follower_at_the_edge_of_the_dropped_entries_is_still_served() -> None:
    leader = replicating()
    propose(leader, 5)
    leader.log.compact(4)
    leader.core._state.progress[2].become_probe()
    leader.core._state.progress[2].next_index = 5
    [sent] = leader.say(HEARTBEAT_RESPONSE, 2, 1)
    assert [entry.index for entry in sent.entries] == [5, 6]


def test_entries_already_durable_are_sent_from_the_log() -> None:
    leader = make_leader(size=2, terms=[1, 1])
    [sent] = leader.say(RESPONSE, 2, 2, index=2, reject=True, reject_hint=0)
    assert sent.entries == (*entries_of([1, 1]), leader.log.held[2])
