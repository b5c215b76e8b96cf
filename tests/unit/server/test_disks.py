"""What a leader decides about full and slow disks: who has room, what is refused, who leads better."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import pytest

from tests.unit.server.harness import Site, batch, pending, trio
from zmqbroker.config import NodeConfig
from zmqbroker.errors import StorageFull
from zmqbroker.raft import Membership, ProgressState, ProgressStatus
from zmqbroker.raft.messages import Message, MessageType, Role, StorageAppend
from zmqbroker.server.disks import (
    FORGIVING_TICKS,
    RETRY_TICKS,
    SLOW_LATELY_TICKS,
    Disks,
    Lateness,
    fit_successor,
    lacking_room,
)
from zmqbroker.server.space import LOOK_NS, DiskReport, OwnSpace, put_report

ROOM, SHORT, SLOW = DiskReport(100, 10), DiskReport(5, 10, short=True), DiskReport(100, 10, slow=True)
GROUP = 1


# --- who has room ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("short", "present", "membership", "lacking"),
    [
        ((), (1, 2, 3), Membership((1, 2, 3)), ()),
        ((2,), (1, 2, 3), Membership((1, 2, 3)), ()),
        ((2, 3), (1, 2, 3), Membership((1, 2, 3)), (2, 3)),
        ((1, 2, 3), (1, 2, 3), Membership((1, 2, 3)), (1, 2, 3)),
        ((2,), (1, 2), Membership((1, 2, 3)), (2,)),  # the third does not answer
        ((), (1,), Membership((1, 2, 3)), ()),  # nobody answers: that is no matter of disks
        ((1,), (1,), Membership((1,)), (1,)),
        ((2,), (1, 2), Membership((1, 2)), (2,)),
        ((4, 5), (1, 2, 3, 4, 5), Membership((1, 2, 3), learners=(4, 5)), ()),
        ((1, 2), (1, 2, 3, 4, 5), Membership((3, 4, 5), (1, 2, 3)), (1, 2)),  # a majority of either set
        ((4, 1), (1, 2, 3, 4, 5), Membership((3, 4, 5), (1, 2, 3)), ()),
    ],
)
def test_lacking_room_names_the_full_disks_when_no_majority_has_room(
    short: tuple[int, ...], present: tuple[int, ...], membership: Membership, lacking: tuple[int, ...]
) -> None:
    assert lacking_room(short, present, membership) == lacking


def test_follower_has_room_until_it_says_otherwise_in_this_leadership() -> None:
    disks = Disks(NodeConfig.for_test(), OwnSpace("/", 1, lambda: 0))
    assert disks.has_room(2)
    for report in (SHORT, ROOM, SHORT):
        message = Message(MessageType.HEARTBEAT_RESPONSE, to=1, sender=2, group=GROUP, term=1)
        put_report(message, report)
        disks.heard(message)
        assert disks.has_room(2) is (report is ROOM)
        assert disks.has_room(3)
    disks.begin(GROUP)
    assert disks.has_room(2)


# --- a slow disk -----------------------------------------------------------------------------------------------------


def test_lateness_log_that_is_behind_commits_all_the_time_is_too_late_at_the_limit() -> None:
    lateness = Lateness(5)
    assert not lateness.tick(0, 10)  # committed in this very tick: not late yet
    assert [lateness.tick(0, 10) for _ in range(6)] == [False] * 4 + [True] * 2


def test_lateness_log_that_stands_still_with_its_commits_is_never_too_late() -> None:
    lateness = Lateness(1)
    assert not any(lateness.tick(10, 10) for _ in range(100)), "idle, or everybody waits for this disk"


def test_lateness_log_that_is_one_pass_behind_at_every_look_is_not_late() -> None:
    lateness = Lateness(1)
    assert not any(lateness.tick(index, index + 3) for index in range(0, 300, 3))


def test_lateness_single_hiccups_are_forgiven_and_regular_ones_are_not() -> None:
    def too_late(behind: int, in_time: int) -> bool:
        lateness, index = Lateness(10), 0
        for _ in range(50):
            index += 1
            lateness.tick(index, index + 1)
            for _ in range(behind):
                if lateness.tick(index, index + 1):
                    return True
            for _ in range(in_time):
                index += 1
                lateness.tick(index, index)
        return False

    assert not too_late(behind=9, in_time=9 * FORGIVING_TICKS + FORGIVING_TICKS)
    assert too_late(behind=9, in_time=4 * FORGIVING_TICKS)


def test_lateness_without_a_limit_is_never_too_late() -> None:
    lateness = Lateness(0)
    assert not any(lateness.tick(0, 10) for _ in range(100))


# --- who leads better ------------------------------------------------------------------------------------------------


def status(
    match_index: int, state: ProgressState = ProgressState.REPLICATE, *, active: bool = True, learner: bool = False
) -> ProgressStatus:
    """A follower's progress."""
    return ProgressStatus(match_index, match_index + 1, state, active, learner)


@pytest.mark.parametrize(
    ("progress", "reports", "successor"),
    [
        ({1: status(5), 2: status(10), 3: status(12)}, {2: ROOM, 3: ROOM}, 3),
        ({1: status(5), 2: status(10), 3: status(12)}, {2: ROOM, 3: SHORT}, 2),
        ({1: status(5), 2: status(10), 3: status(12)}, {2: ROOM, 3: SLOW}, 2),
        ({1: status(5), 2: status(10), 3: status(12)}, {2: ROOM}, 2),  # nothing was heard of the third
        ({1: status(5), 2: status(9), 3: status(12)}, {2: ROOM, 3: SLOW}, None),  # the second lacks what is committed
        ({1: status(5), 2: status(10, ProgressState.PROBE), 3: status(12, active=False)}, {2: ROOM, 3: ROOM}, None),
        ({1: status(12)}, {1: ROOM}, None),
    ],
)
def test_fit_successor_is_current_with_room_and_not_slow(
    progress: Mapping[int, ProgressStatus], reports: Mapping[int, DiskReport], successor: int | None
) -> None:
    assert fit_successor(1, 10, Membership((1, 2, 3)), progress, reports) == successor


# --- nodes -----------------------------------------------------------------------------------------------------------


class Nodes:
    """Three nodes with disks whose free space the test sets; the first leads. They send and tick in step."""

    def __init__(self, **flags: int) -> None:
        config = NodeConfig.for_test({"raft.tick_ms": 20, "storage.low_water_bytes": 1000, **flags})
        self.free_bytes = dict.fromkeys((1, 2, 3), 1 << 20)
        self.stalled: set[int] = set()  # nodes whose log is not written for the moment
        self.down: set[int] = set()
        self.waiting: set[int] = set()  # nodes whose log waits for room
        self._held: dict[int, list[StorageAppend]] = {1: [], 2: [], 3: []}  # what stalled logs have to write
        self.sites = trio(election_ticks=1000, heartbeat_ticks=1)
        self.disks = {number: Disks(config, self._space(number)) for number in self.sites}
        self.now_ns = 0
        self._roles = dict.fromkeys(self.sites, Role.FOLLOWER)
        self.tick(2)

    def _space(self, number: int) -> OwnSpace:
        return OwnSpace(f"/{number}", 1000, lambda: 0, lambda path: (self.free_bytes[number], 1 << 30))

    def tick(self, count: int = 1) -> None:
        """So many ticks pass, and everything that is sent meanwhile arrives."""
        for _ in range(count):
            self.now_ns += LOOK_NS
            for number, site in self.sites.items():
                if number not in self.down:
                    site.group.tick()
                    self.carry()
                    self.disks[number].tick([site.group], self.now_ns, out_of_room=number in self.waiting)
            self.carry()

    def carry(self) -> None:
        """Deliver what is sent until nothing is."""
        while True:
            for number, site in self.sites.items():
                self._run(number, site)
                self._note_role(number)
            messages = [message for site in self.sites.values() for message in site.outgoing]
            for number, site in self.sites.items():
                self.disks[number].stamp(site.outgoing)
                site.outgoing = []
            if not messages:
                return
            for message in messages:
                if message.to not in self.down and message.sender not in self.down:
                    group = self.sites[message.to].group
                    group.step(message)
                    if message.type is MessageType.HEARTBEAT_RESPONSE and group.leading:
                        self.disks[message.to].heard(message)

    def _run(self, number: int, site: Site) -> None:
        held = self._held[number]
        if number in self.stalled:
            site.group.collect(site.outgoing, held)
            return
        if held:
            site.log.complete(site.log.prepare(held))
            for work in held:
                site.outgoing += site.group.advance(work)
            held.clear()
        site.run()

    def _note_role(self, number: int) -> None:
        role = self.sites[number].group.soft_state.role
        if role == Role.LEADER and self._roles[number] != role:
            self.disks[number].begin(GROUP)
        self._roles[number] = role

    def publish(self, number: int = 1) -> None:
        """One message, which is committed if it can be."""
        self.sites[number].group.publish(batch(b"x"), 0, pending(1))
        self.carry()

    def refusal(self, number: int = 1) -> StorageFull | None:
        """Why a node that leads refuses publishes."""
        return self.disks[number].refusal(self.sites[number].group)

    @property
    def leaders(self) -> list[int]:
        """Who leads."""
        return [number for number, site in self.sites.items() if site.group.leading]


def test_disks_sends_are_refused_while_no_majority_has_room_and_the_refusal_says_where(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "zmqbroker")
    nodes = Nodes()
    assert nodes.refusal() is None
    nodes.free_bytes[2] = 999
    nodes.tick(3)
    assert nodes.refusal() is None, "one full follower is no reason"
    nodes.free_bytes[3] = 0
    nodes.tick(3)
    refusal = nodes.refusal()
    assert refusal is not None
    assert refusal.retryable
    assert refusal.fields["nodes"] == [
        {"node": "n2", "free_bytes": 999, "low_water_bytes": 1000},
        {"node": "n3", "free_bytes": 0, "low_water_bytes": 1000},
    ]
    assert refusal.message == (
        "fewer than 2 of 3 nodes have room for more messages: n2 has 999 bytes free and needs 1000, "
        "n3 has 0 bytes free and needs 1000"
    )
    assert nodes.disks[1].refused_by(nodes.sites[1].group) == ["n2", "n3"]
    assert nodes.disks[2].refused_by(nodes.sites[2].group) == []
    nodes.free_bytes[3] = 1249
    nodes.tick(3)
    assert nodes.refusal() is not None, "not before there is a quarter more"
    nodes.free_bytes[3] = 1250
    nodes.tick(3)
    assert nodes.refusal() is None
    assert nodes.leaders == [1]
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("sends")]
    assert [text.partition(":")[0] for text in said] == ["sends are refused", "sends are taken again"]


def test_disks_of_followers_that_are_short_are_known_by_their_reports() -> None:
    nodes = Nodes()
    nodes.free_bytes[2] = 999
    nodes.tick(3)
    assert nodes.disks[1].short_members == {2}
    nodes.free_bytes[2] = 2000
    nodes.tick(3)
    assert nodes.disks[1].short_members == set()


def test_disks_log_that_waits_for_room_counts_as_full_whatever_is_free() -> None:
    nodes = Nodes()
    nodes.waiting = {2, 3}
    nodes.tick(3)
    assert nodes.refusal() is not None
    nodes.waiting = {3}
    nodes.tick(3)
    assert nodes.refusal() is None


def test_disks_follower_that_does_not_answer_is_no_help() -> None:
    nodes = Nodes()
    nodes.tick(2 * NodeConfig.for_test().raft.election_ticks)
    nodes.free_bytes[2] = 0
    nodes.down = {3}
    nodes.tick(3)
    assert nodes.refusal() is None, "it may answer yet"
    nodes.tick(2 * NodeConfig.for_test().raft.election_ticks)
    refusal = nodes.refusal()
    assert refusal is not None
    assert [row["node"] for row in refusal.fields["nodes"]] == ["n2"]
    nodes.down = set()
    nodes.tick(2)
    assert nodes.refusal() is None


def test_disks_new_leader_that_was_not_answered_yet_expects_room() -> None:
    nodes = Nodes()
    nodes.free_bytes[1] = 0
    nodes.disks[1].begin(GROUP)
    nodes.disks[1].tick([nodes.sites[1].group], nodes.now_ns + LOOK_NS, out_of_room=False)
    assert nodes.disks[1].own.short
    assert nodes.refusal() is None


def test_disks_what_an_earlier_leadership_heard_is_forgotten() -> None:
    nodes = Nodes()
    nodes.free_bytes[2] = nodes.free_bytes[3] = 0
    nodes.tick(3)
    nodes.disks[1].begin(GROUP)
    assert list(nodes.disks[1].reports(1)) == [1]
    assert nodes.refusal() is None
    nodes.tick(2)
    assert nodes.refusal() is not None, "they say it again"


def test_disks_leader_without_room_leaves_a_handover_alone_that_is_under_way() -> None:
    nodes = Nodes()
    nodes.tick(RETRY_TICKS)
    core = nodes.sites[1].group.core
    nodes.down = {3}
    core.transfer_leader(3)  # as an operator may; it does not answer
    nodes.free_bytes[1] = 0
    nodes.tick(3)
    assert (nodes.leaders, core.transferee) == ([1], 3)


def test_disks_node_that_does_not_lead_refuses_nothing() -> None:
    nodes = Nodes()
    nodes.free_bytes = {1: 0, 2: 0, 3: 0}
    nodes.tick(3)
    assert nodes.refusal(1) is not None
    assert nodes.refusal(2) is None


def test_disks_leader_without_room_hands_over_to_a_node_with_room() -> None:
    nodes = Nodes()
    nodes.free_bytes[1] = nodes.free_bytes[3] = 0
    nodes.tick(RETRY_TICKS - 3)
    assert nodes.leaders == [1]
    nodes.tick(6)
    assert nodes.leaders == [2]
    nodes.tick(3 * RETRY_TICKS)
    assert nodes.leaders == [2]


def test_disks_leader_without_room_stays_when_all_are_full() -> None:
    nodes = Nodes()
    nodes.free_bytes = {1: 0, 2: 0, 3: 0}
    nodes.tick(3 * RETRY_TICKS)
    assert nodes.leaders == [1]


def test_disks_leader_whose_log_stands_still_hands_over_and_does_not_get_it_back() -> None:
    nodes = Nodes(**{"raft.slow_disk_ms": 100})
    nodes.tick(RETRY_TICKS)
    nodes.stalled = {1}
    nodes.publish()
    assert nodes.sites[1].group.core.commit_index == nodes.sites[1].group.core.last_index, "the others have it"
    nodes.tick(4)
    assert nodes.leaders == [1]
    nodes.tick(4)
    (leader,) = nodes.leaders
    assert leader != 1
    assert nodes.disks[1].own.slow
    nodes.stalled = set()
    nodes.tick(RETRY_TICKS)
    nodes.stalled = {leader}  # of the two others one is fast, and one was slow lately
    nodes.publish(leader)
    nodes.tick(10)
    assert nodes.leaders == [5 - leader]
    nodes.stalled = set()
    nodes.tick(SLOW_LATELY_TICKS)
    assert not nodes.disks[1].own.slow, "a minute later nothing is held against it"


def test_disks_leader_stays_when_its_disk_is_no_slower_than_all_others() -> None:
    nodes = Nodes(**{"raft.slow_disk_ms": 20})
    nodes.tick(RETRY_TICKS)
    nodes.stalled = {1, 2, 3}
    nodes.publish()
    nodes.tick(2 * RETRY_TICKS)
    assert nodes.leaders == [1]
    assert not nodes.disks[1].own.slow


def test_disks_slow_follower_leaves_leadership_where_it_is() -> None:
    nodes = Nodes(**{"raft.slow_disk_ms": 20})
    nodes.stalled = {3}
    for _ in range(RETRY_TICKS + 10):
        nodes.publish()
        nodes.tick()
    assert nodes.leaders == [1]


def test_disks_slow_leader_stays_when_nobody_else_is_fit() -> None:
    nodes = Nodes(**{"raft.slow_disk_ms": 20})
    nodes.free_bytes[2] = nodes.free_bytes[3] = 0
    nodes.tick(RETRY_TICKS)
    nodes.stalled = {1}
    nodes.sites[1].group.publish(batch(b"x"), 0, pending(1))
    nodes.tick(RETRY_TICKS)
    assert nodes.leaders == [1]
    assert nodes.disks[1].own.slow
