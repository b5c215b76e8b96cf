"""When followers hear of a commit: with the next entries, or at the next tick; of a change of members at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.unit.raft.harness import Node, make_leader, of_type
from zmqbroker.raft.confchange import Change, ChangeType, ConfChange
from zmqbroker.raft.messages import Message, MessageType

APPEND, RESPONSE, HEARTBEAT = MessageType.APPEND_ENTRIES, MessageType.APPEND_ENTRIES_RESPONSE, MessageType.HEARTBEAT


def replicating(**options: Any) -> Node:
    """A leader of three whose first entry, at index 1, all hold and know to be committed."""
    leader = make_leader(size=3, heartbeat_ticks=3, election_ticks=20, **options)
    for follower in (2, 3):
        leader.say(RESPONSE, follower, 1, index=1)
    leader.core.tick()
    leader.settle()
    return leader


def commits(messages: Sequence[Message]) -> list[tuple[int, int, int]]:
    """Who is sent what commit index, with how many entries."""
    return [(message.to, message.commit, len(message.entries)) for message in of_type(messages, APPEND)]


def test_commit_is_told_at_the_next_tick_and_once() -> None:
    leader = replicating()
    leader.core.propose(b"one")
    assert commits(leader.settle()) == [(2, 1, 1), (3, 1, 1)]
    assert leader.say(RESPONSE, 2, 1, index=2) == []
    assert leader.core.commit_index == 2
    assert leader.say(RESPONSE, 3, 1, index=2) == []
    leader.core.tick()
    assert commits(leader.settle()) == [(2, 2, 0), (3, 2, 0)]
    for follower in (2, 3):
        assert leader.say(RESPONSE, follower, 1, index=2) == []
    leader.core.tick()
    assert of_type(leader.settle(), APPEND) == []


def test_commit_goes_with_the_next_entries() -> None:
    leader = replicating()
    leader.core.propose(b"one")
    leader.settle()
    leader.say(RESPONSE, 2, 1, index=2)
    leader.core.propose(b"two")
    assert commits(leader.settle()) == [(2, 2, 1), (3, 2, 1)]


def test_commit_that_a_heartbeat_tells_is_not_told_again() -> None:
    leader = replicating()
    leader.core.propose(b"one")
    leader.settle()
    leader.say(RESPONSE, 2, 1, index=2)
    leader.core._state.heartbeat_elapsed = 2
    leader.core.tick()
    messages = leader.settle()
    assert [(message.to, message.commit) for message in of_type(messages, HEARTBEAT)] == [(2, 2), (3, 1)]
    assert commits(messages) == [(3, 2, 0)]  # what it has not answered for, no heartbeat may tell


def test_commit_is_told_at_once_until_a_change_of_members_is_applied() -> None:
    leader = replicating()
    leader.core.propose_change(ConfChange((Change(ChangeType.ADD_LEARNER, 4),)))
    assert commits(leader.settle()) == [(2, 1, 1), (3, 1, 1)]
    assert commits(leader.say(RESPONSE, 2, 1, index=2)) == [(2, 2, 0), (3, 2, 0), (4, 2, 1)]


def test_entries_that_wait_for_room_in_the_window_go_out_with_the_answer() -> None:
    leader = replicating(inflight_messages_max=1)
    leader.core.propose(b"one")
    leader.settle()
    leader.core.propose(b"two")
    assert leader.settle() == []
    assert commits(leader.say(RESPONSE, 2, 1, index=2)) == [(2, 2, 1)]
