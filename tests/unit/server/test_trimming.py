"""How far the log may be trimmed, as its leader sees it: real cores, no time but ticks."""

from __future__ import annotations

import random

import pytest

from zmqbroker.raft import Membership, RaftConfig, RaftCore
from zmqbroker.raft.messages import Message, MessageType
from zmqbroker.server import trimming
from zmqbroker.server.trimming import AWAY_TICKS, TRIM_INDEXES, WINDOW_MARKS, Trimming
from zmqbroker.storage.memory import MemoryLog

TRIM_BYTES = 1000


class Leader:
    """Node 1 of three leads; what the others hold is what the test says."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        # So rarely that it stays a leader however long nobody answers.
        config = RaftConfig(id=1, group=1, election_ticks=100_000, heartbeat_ticks=50_000)
        self.core = RaftCore(config, Membership((1, 2, 3)), self.log.view(1), random.Random(1))
        self.trimming = Trimming(TRIM_BYTES)
        self.core.campaign()
        self.run()
        for kind in (MessageType.PRE_VOTE_RESPONSE, MessageType.REQUEST_VOTE_RESPONSE):
            self.core.step(Message(kind, to=1, sender=2, group=1, term=1))
            self.run()
        self.trimming.begin(0, 0)

    def run(self) -> None:
        while self.core.has_ready():
            ready = self.core.ready()
            if ready.append is not None:
                self.log.complete(self.log.prepare([ready.append]))
                self.core.advance(ready.append)
            if ready.committed:
                self.core.applied_to(ready.committed[-1].index)

    def write(self, count: int, size: int = 0) -> None:
        """Append entries of `size` bytes and apply them; both followers are said to hold nothing of it yet."""
        for _ in range(count):
            index = self.core.propose(bytes(size))
            self.run()
            self.trimming.applied(index, size, 0)

    def holds(self, member: int, index: int) -> None:
        """A follower answers that it holds the log up to `index`."""
        response = Message(MessageType.APPEND_ENTRIES_RESPONSE, to=1, sender=member, group=1, term=self.core.term, index=index)
        assert self.core.step(response) is None
        self.trimming.heard(member)
        self.run()

    def tick(self, count: int = 1) -> list[int]:
        """What is said in so many ticks."""
        said = (self.trimming.tick(self.core) for _ in range(count))
        return [index for index in said if index is not None]


@pytest.fixture
def leader() -> Leader:
    made = Leader()
    assert made.core.last_index == 1
    return made


def test_trimming_says_nothing_before_there_is_enough_of_it(leader: Leader) -> None:
    leader.write(TRIM_INDEXES - 2)
    for member in (2, 3):
        leader.holds(member, leader.core.last_index)
    assert leader.tick() == []
    leader.write(1)
    for member in (2, 3):
        leader.holds(member, leader.core.last_index)
    assert leader.tick(2) == [TRIM_INDEXES]


def test_trimming_says_it_earlier_where_entries_are_large_and_all_hold_them(leader: Leader) -> None:
    leader.write(2, TRIM_BYTES)
    assert leader.tick() == []
    leader.holds(2, 3)
    assert leader.tick() == [], "the third node does not hold it"
    leader.holds(3, 2)
    assert leader.tick(2) == [2]
    leader.holds(3, 3)
    assert leader.tick(2) == [3]


def test_trimming_says_what_earlier_leaders_left_once(leader: Leader) -> None:
    leader.write(5)
    for member in (2, 3):
        leader.holds(member, 6)
    leader.trimming.begin(applied_index=6, trimmed_index=2)
    assert leader.tick(3) == [6]


def test_trimming_a_silent_member_holds_the_log_only_for_the_window(leader: Leader) -> None:
    leader.write(WINDOW_MARKS, TRIM_BYTES)
    leader.holds(2, leader.core.last_index)
    leader.tick(AWAY_TICKS + 1)
    leader.holds(2, leader.core.last_index)
    assert leader.tick() == [], "as many marks as the window has are held for it, however long it is away"
    leader.write(1, TRIM_BYTES)
    leader.holds(2, leader.core.last_index)
    assert leader.tick(2) == [leader.core.last_index]


def test_trimming_a_silent_member_is_not_away_before_its_time(leader: Leader) -> None:
    leader.write(WINDOW_MARKS + 5, TRIM_BYTES)
    leader.holds(2, leader.core.last_index)
    leader.holds(3, 1)
    assert leader.tick(AWAY_TICKS - 1) == []
    leader.holds(2, leader.core.last_index)
    leader.holds(3, 2)
    assert leader.tick(AWAY_TICKS) == [2], "it was heard of meanwhile, and has taken something"
    leader.holds(2, leader.core.last_index)
    assert leader.tick(2) == [leader.core.last_index]


def test_trimming_a_member_that_answers_and_takes_nothing_holds_the_log_only_for_the_window(leader: Leader) -> None:
    leader.write(WINDOW_MARKS + 5, TRIM_BYTES)
    leader.holds(3, 1)
    leader.tick()
    for _ in range(AWAY_TICKS):
        leader.holds(2, leader.core.last_index)
        leader.trimming.heard(3)  # its heartbeats' responses
        assert leader.tick() == []
    assert leader.tick() == [leader.core.last_index]


def test_trimming_a_member_whose_disk_is_short_holds_the_log_only_for_the_window_and_at_once(leader: Leader) -> None:
    leader.write(WINDOW_MARKS, TRIM_BYTES)
    leader.holds(2, leader.core.last_index)
    leader.holds(3, 1)
    assert leader.trimming.tick(leader.core, {3}) is None
    leader.write(1, TRIM_BYTES)
    leader.holds(2, leader.core.last_index)
    assert leader.tick() == [], "it takes what it lacks, as far as anybody knows"
    assert leader.trimming.tick(leader.core, {3}) == leader.core.last_index


def test_trimming_a_leader_whose_own_disk_is_short_holds_its_log(leader: Leader) -> None:
    leader.write(WINDOW_MARKS + 5, TRIM_BYTES)
    leader.holds(2, leader.core.last_index)
    leader.holds(3, 1)
    assert leader.trimming.tick(leader.core, {1}) is None


def test_trimming_a_member_that_has_all_is_never_stuck(leader: Leader) -> None:
    leader.write(WINDOW_MARKS + 5, TRIM_BYTES)
    for member in (2, 3):
        leader.holds(member, leader.core.last_index)
    leader.tick(2 * AWAY_TICKS)
    leader.write(WINDOW_MARKS + 5, TRIM_BYTES)
    leader.holds(2, leader.core.last_index)
    leader.trimming.heard(3)
    assert leader.tick(AWAY_TICKS) == []


def test_trimming_a_member_that_is_sent_a_snapshot_is_not_stuck(leader: Leader) -> None:
    leader.write(WINDOW_MARKS + 5, TRIM_BYTES)
    leader.core._state.progress[3].become_snapshot(7)
    said = []
    for _ in range(2 * AWAY_TICKS):
        leader.holds(2, leader.core.last_index)
        leader.trimming.heard(3)
        said += leader.tick()
    assert said == [7]


def test_trimming_a_new_leader_waits_as_long_for_members_it_never_heard_of(leader: Leader) -> None:
    leader.write(WINDOW_MARKS + 5, TRIM_BYTES)
    leader.tick(3 * AWAY_TICKS)
    leader.trimming.begin(applied_index=leader.core.last_index, trimmed_index=0)
    leader.holds(2, leader.core.last_index)
    assert leader.tick(AWAY_TICKS) == []
    leader.holds(2, leader.core.last_index)
    assert leader.tick() == [leader.core.last_index]


def test_trimming_a_member_that_is_back_holds_the_log_again(leader: Leader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trimming, "AWAY_TICKS", 5)
    leader.write(WINDOW_MARKS + 1, TRIM_BYTES)
    leader.tick(3)
    leader.holds(2, leader.core.last_index)
    (said,) = leader.tick(4)
    leader.trimming.applied(leader.core.last_index, 0, said)
    leader.write(WINDOW_MARKS + 1, TRIM_BYTES)
    leader.holds(2, leader.core.last_index)
    leader.holds(3, said - 5)
    assert leader.tick() == []


def test_trimming_marks_that_were_trimmed_are_forgotten(leader: Leader) -> None:
    for index in range(1, 1000):
        leader.trimming.applied(index, TRIM_BYTES, trimmed_index=index - 3)
    assert len(leader.trimming._marks) == 3


def test_trimming_at_a_follower_says_nothing(leader: Leader) -> None:
    leader.write(3, TRIM_BYTES)
    leader.core.step(Message(MessageType.HEARTBEAT, to=1, sender=2, group=1, term=leader.core.term + 1))
    assert leader.tick(3) == []


def test_trimming_reset_forgets_what_a_snapshot_has_replaced(leader: Leader) -> None:
    leader.write(3, TRIM_BYTES)
    leader.trimming.reset()
    for member in (2, 3):
        leader.holds(member, 4)
    assert leader.tick() == []


def test_matched_by_all_counts_a_snapshot_under_way_as_far_as_it_brings(leader: Leader) -> None:
    """Else the member that gets it would find the log behind it trimmed, or nothing would be trimmed before it has come."""
    leader.write(10, TRIM_BYTES)
    leader.holds(2, 11)
    assert leader.core.matched_by_all() == 0
    assert leader.core.matched_by_all(but={3}) == 11
    progress = leader.core._state.progress[3]
    progress.become_snapshot(7)
    assert leader.core.matched_by_all() == 7
    leader.core.report_snapshot(3, ok=False)
    assert leader.core.matched_by_all() == 0


def test_matched_by_all_counts_only_what_is_durable_at_the_leader(leader: Leader) -> None:
    index = leader.core.propose(b"not written yet")
    for member in (2, 3):
        response = Message(MessageType.APPEND_ENTRIES_RESPONSE, to=1, sender=member, group=1, term=1, index=index)
        leader.core.step(response)
    assert leader.core.matched_by_all() == index - 1
    assert leader.core.matched_by_all(but={1, 2, 3}) == index - 1
