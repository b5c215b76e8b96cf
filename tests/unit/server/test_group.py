"""One group between its core, its machine and the requests that wait: gathered, answered once, refused when leadership goes."""

from __future__ import annotations

import pytest

from tests.unit.server.harness import (
    ALICE,
    BOB,
    GROUP,
    Clocks,
    Site,
    batch,
    commands_at,
    exchange,
    lose_leadership,
    pending,
    receive,
    sends,
    trio,
    waiting,
)
from zmqbroker.broker import MachineLimits
from zmqbroker.commands import Ack, Close, OpenProducer, Receipt, Tick
from zmqbroker.errors import Busy, NotLeader, StaleReceipt, UnknownProducer
from zmqbroker.raft.messages import Message, MessageType, Role, StorageAppend
from zmqbroker.server import group as group_module
from zmqbroker.server.routes import Pending, Route
from zmqbroker.wire.frames import Reply

MILLISECOND = 1_000_000


def test_publish_is_answered_when_it_is_applied() -> None:
    site = Site().lead()
    site.group.publish(batch(b"x", b"y"), 0, pending(1))
    assert site.host.replies == []
    site.run()
    ((request, code, fields),) = site.host.replies
    assert (request, code) == (1, Reply.SENT)
    assert (fields["sequence"], fields["count"], fields["duplicate"], fields["confirm"]) == (1, 2, False, "quorum")


def test_requests_of_one_pass_share_an_entry_and_are_answered_in_order() -> None:
    site = Site().lead()
    before = site.group.core.last_index
    site.group.submit(OpenProducer("c", 7), pending(1))
    site.group.publish(batch(b"x", producer=7, base=1), 0, pending(2))
    site.group.submit(Tick())
    site.group.publish(batch(b"y", producer=7, base=2), 0, pending(3))
    site.run()
    assert site.group.core.last_index == before + 1
    assert [(request, code) for request, code, _ in site.host.replies] == [
        (1, Reply.PRODUCER),
        (2, Reply.SENT),
        (3, Reply.SENT),
    ]


def test_commands_wait_for_company_while_two_entries_are_under_way() -> None:
    site = Site().lead()
    before = site.group.core.last_index
    for number in range(1, 6):
        site.group.publish(batch(b"%d" % number), 0, pending(number))
        site.group.propose()
    assert site.group.core.last_index == before + 2
    site.run()
    assert [len(commands_at(site, before + n)) for n in (1, 2, 3)] == [1, 1, 3]
    assert [request for request, _, _ in site.host.replies] == [1, 2, 3, 4, 5]


def test_entry_that_is_full_does_not_wait_for_those_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_module, "ENTRY_COMMANDS_MAX", 1)
    site = Site().lead()
    before = site.group.core.last_index
    for number in range(1, 6):
        site.group.publish(batch(b"x"), 0, pending(number))
    assert site.group.core.last_index == before + 5


def test_entry_that_is_full_is_proposed_and_the_next_one_begun() -> None:
    site = Site().lead()
    before = site.group.core.last_index
    for request in range(4):
        site.group.publish(batch(bytes(group_module.ENTRY_BYTES // 2)), 0, pending(request))
    site.run()
    assert site.group.core.last_index == before + 2
    assert [fields["sequence"] for _, _, fields in site.host.replies] == [1, 2, 3, 4]


def test_entry_with_the_most_commands_is_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_module, "ENTRY_COMMANDS_MAX", 2)
    site = Site().lead()
    before = site.group.core.last_index
    for request in range(5):
        site.group.submit(OpenProducer("c", request + 1), pending(request))
    site.run()
    assert site.group.core.last_index == before + 3
    assert len(site.host.replies) == 5


def test_result_that_is_a_refusal_refuses_the_request_and_no_other() -> None:
    site = Site().lead()
    site.group.publish(batch(b"x", producer=9, base=1), 0, pending(1))
    site.group.publish(batch(b"y"), 0, pending(2))
    site.group.submit(Ack(ALICE, "c", (Receipt(5, 1, 1),)), pending(3))
    site.run()
    assert [(request, type(error)) for request, error in site.host.refused] == [(1, UnknownProducer), (3, StaleReceipt)]
    assert [request for request, _, _ in site.host.replies] == [2]


def test_receive_is_answered_by_its_delivery_and_by_nothing_else() -> None:
    site = Site().lead()
    asked = waiting(1)
    site.group.submit(receive(asked, wait_ms=60_000), asked)
    site.run()
    assert (site.host.delivered, site.host.replies) == ([], [])
    site.group.publish(batch(b"x"), 0, pending(2, BOB))
    site.run()
    ((answered, delivery),) = site.host.delivered
    assert answered is asked
    assert [(piece.receipt.first, piece.receipt.last) for piece in delivery.pieces] == [(1, 1)]
    assert site.group.receivers == {}


def test_receive_without_a_wait_of_an_empty_channel_is_answered_with_nothing() -> None:
    site = Site().lead()
    asked = waiting(1)
    site.group.submit(receive(asked), asked)
    site.run()
    assert [delivery.pieces for _, delivery in site.host.delivered] == [()]


def test_receive_repeated_while_it_waits_is_answered_at_its_latest_route() -> None:
    site = Site().lead()
    for route in (b"old", b"new"):
        asked = waiting(1, route=route)
        site.group.submit(receive(asked, wait_ms=60_000), asked)
        site.run()
    site.group.publish(batch(b"x"), 0, pending(2, BOB))
    site.run()
    assert [answered.route.routing_id for answered, _ in site.host.delivered] == [b"new"]


def test_receive_repeated_after_its_answer_gets_the_same_messages() -> None:
    site = Site().lead()
    site.group.publish(batch(b"x", b"y"), 0, pending(1))
    for _ in range(2):
        asked = waiting(2)
        site.group.submit(receive(asked, count_max=1), asked)
        site.run()
    (_, first), (_, second) = site.host.delivered
    assert first.pieces == second.pieces


def test_receive_that_the_machine_refuses_is_refused_and_forgotten() -> None:
    site = Site(limits=MachineLimits(waiting_max=1)).lead()
    for request in (1, 2):
        asked = waiting(request)
        site.group.submit(receive(asked, wait_ms=60_000), asked)
    site.run()
    assert [(request, type(error)) for request, error in site.host.refused] == [(2, Busy)]
    assert [key.request for key in site.group.receivers] == [1]


def test_requests_over_the_bound_are_busy_until_others_are_answered() -> None:
    site = Site(requests_max=2).lead()
    asked = waiting(1)
    site.group.submit(receive(asked, wait_ms=60_000), asked)
    site.run()
    site.group.publish(batch(b"x"), 0, pending(2, BOB))
    site.group.publish(batch(b"y"), 0, pending(3, BOB))
    site.group.submit(Close(BOB), pending(4, BOB))
    ((request, first), (other, _)) = site.host.refused
    assert (request, other, type(first)) == (3, 4, Busy)
    assert isinstance(first, Busy)
    assert first.retry_ms > 0
    site.run()
    for number in (5, 6):
        site.group.publish(batch(b"z"), 0, pending(number, BOB))
    site.run()
    assert [request for request, _, _ in site.host.replies] == [2, 5, 6]


def test_plain_sends_count_one_by_one_against_the_bound() -> None:
    site = Site(requests_max=5).lead()
    site.group.publish(batch(b"a", b"b", b"c"), 0, sends(1, 2, 3))
    site.group.publish(batch(b"d", b"e", b"f"), 0, sends(4, 5, 6))
    site.group.publish(batch(b"g", b"h"), 0, sends(7, 8))
    assert [(request, type(error)) for request, error in site.host.refused] == [(number, Busy) for number in (4, 5, 6)]
    site.run()
    assert [request for request, _, _ in site.host.replies] == [1, 2, 3, 7, 8]
    site.group.publish(batch(b"i", b"j", b"k", b"l", b"m"), 0, sends(9, 10, 11, 12, 13))
    site.run()
    assert [request for request, _, _ in site.host.replies][5:] == [9, 10, 11, 12, 13]


def test_confirm_tells_its_timeline_to_who_asked_and_to_nobody_else() -> None:
    clock = Clocks(0)
    site = Site(requests_max=5, clock=clock).lead()
    site.group.publish(batch(b"a"), 0, Pending(Route(b"r", False), 1, ALICE, received_ns=500_000))
    site.group.publish(batch(b"b"), 0, pending(2))
    clock.steady = 1_000_000
    site.group.propose()
    clock.steady = 4_000_000
    site.run()
    (_, _, asked), (_, _, other) = site.host.replies
    assert asked["explain"] == {"proposed": 500, "quorum": 3_500, "applied": 3_500, "sent": 3_500}
    assert "explain" not in other
    site.group.publish(batch(b"c"), 0, pending(3))
    site.run()
    assert "explain" not in site.host.replies[-1][2]


@pytest.mark.parametrize("sync", [False, True])
def test_timeline_tells_when_the_log_had_written_and_synced(sync: bool) -> None:
    clock = Clocks(0)
    site = Site(clock=clock, confirm="quorum+fsync" if sync else "quorum").lead()
    site.group.publish(batch(b"a"), 0, Pending(Route(b"r", False), 1, ALICE, received_ns=1))
    works: list[StorageAppend] = []
    site.group.collect([], works)
    clock.steady = 9_000_000
    for work in works:
        site.log.complete(site.log.prepare([work]))
        site.group.advance(work, 7_000_000)
    site.group.collect([], works)
    site.group.apply()
    log = {"logged": 6_999, "fsynced": 8_999} if sync else {"logged": 6_999}
    assert site.host.replies[-1][2]["explain"] == log | {"quorum": 8_999, "applied": 8_999, "sent": 8_999}


def test_command_of_the_node_itself_is_taken_over_the_bound() -> None:
    site = Site(requests_max=1).lead()
    site.group.publish(batch(b"x"), 0, pending(1))
    before = site.group.core.last_index
    site.group.submit(Close(BOB))
    site.run()
    assert len(commands_at(site, before + 1)) == 2


def test_proposal_that_the_core_refuses_refuses_every_request_in_it() -> None:
    site = Site(uncommitted_bytes_max=100, requests_max=5).lead()
    asked = waiting(2)
    # The core takes one entry of any size when nothing else is uncommitted.
    site.group.publish(batch(bytes(200)), 0, pending(1))
    site.group.propose()
    site.group.submit(receive(asked, wait_ms=60_000), asked)
    site.group.publish(batch(bytes(200)), 0, pending(3))
    site.run()
    assert [(request, type(error)) for request, error in site.host.refused] == [(2, Busy), (3, Busy)]
    assert site.group.receivers == {}
    for request in range(4, 9):
        site.group.publish(batch(b"z"), 0, pending(request))
    site.run()
    assert [request for request, _, _ in site.host.replies] == [1, 4, 5, 6, 7, 8]


def test_request_at_a_follower_is_refused() -> None:
    site = Site(1, (1, 2, 3))
    asked = waiting(1)
    site.group.submit(receive(asked), asked)
    site.run()
    site.group.tick()
    assert [type(error) for _, error in site.host.refused] == [NotLeader]
    assert site.group.receivers == {}


def test_follower_applies_and_delivers_nothing() -> None:
    sites = trio()
    asked = waiting(1)
    sites[1].group.submit(receive(asked, wait_ms=60_000), asked)
    sites[1].group.publish(batch(b"x"), 0, pending(2, BOB))
    exchange(sites)
    sites[1].group.tick()
    exchange(sites)
    assert len(sites[1].host.delivered) == 1
    for follower in (sites[2], sites[3]):
        stats = follower.machine.stats("c")
        assert stats is not None
        assert stats.in_flight == 1
        assert (follower.host.delivered, follower.host.replies, follower.host.refused) == ([], [], [])


def test_role_is_told_to_the_host_with_the_leader() -> None:
    sites = trio()
    assert (sites[1].host.roles[-1].role, sites[1].host.roles[-1].leader) == (Role.LEADER, 1)
    assert (sites[2].host.roles[-1].role, sites[2].host.roles[-1].leader) == (Role.FOLLOWER, 1)


def test_leader_that_hears_of_another_refuses_what_waits_with_an_unknown_outcome() -> None:
    sites = trio()
    asked = waiting(1)
    sites[1].group.submit(receive(asked, wait_ms=60_000), asked)
    exchange(sites)
    sites[1].group.publish(batch(b"lost"), 0, pending(2))
    exchange({1: sites[1]})
    lose_leadership(sites)
    assert not sites[1].group.leading
    assert [(request, type(error), error.outcome_unknown) for request, error in sites[1].host.refused] == [
        (2, NotLeader, True),
        (1, NotLeader, True),
    ]
    assert not sites[1].group.lost_majority
    assert sites[1].group.receivers == {}
    assert sites[1].host.replies == []


def test_request_that_was_committed_is_answered_although_leadership_goes_in_the_same_pass() -> None:
    site = trio()[1]
    core = site.group.core
    site.group.publish(batch(b"x"), 0, pending(1))
    works: list[StorageAppend] = []
    site.group.collect([], works)
    site.log.complete(site.log.prepare(works))
    for work in works:
        site.group.advance(work)
    site.group.step(Message(MessageType.APPEND_ENTRIES_RESPONSE, 1, 2, GROUP, core.term, index=core.last_index))
    site.group.collect([], works)
    assert site.host.replies == [], "what is committed waits for apply"
    site.group.step(Message(MessageType.HEARTBEAT, 1, 3, GROUP, core.term + 1))
    site.group.collect([], works)
    assert not site.group.leading
    assert [(request, code) for request, code, _ in site.host.replies] == [(1, Reply.SENT)]
    assert site.host.refused == []


def test_leader_that_loses_its_majority_refuses_what_waits_and_remembers_why() -> None:
    sites = trio()
    alone = {1: sites[1]}
    sites[1].group.publish(batch(b"x"), 0, pending(1))
    for _ in range(30):
        sites[1].group.tick()
        exchange(alone)
    assert not sites[1].group.leading
    assert sites[1].group.lost_majority  # until a leader is known: a node then answers NO_MAJORITY at once
    assert [(request, error.outcome_unknown) for request, error in sites[1].host.refused] == [(1, True)]
    for _ in range(60):
        for site in sites.values():
            site.group.tick()
        exchange(sites)
    assert any(site.group.leading for site in sites.values())
    assert not sites[1].group.lost_majority


def test_room_for_requests_is_back_after_leadership_was_lost_and_won() -> None:
    sites = trio(requests_max=1)
    sites[1].group.publish(batch(b"lost"), 0, pending(1))
    exchange({1: sites[1]})
    lose_leadership(sites)
    other = next(number for number in (2, 3) if not sites[number].group.leading)
    for _ in range(10):
        sites[other].group.tick()
    pair = {1: sites[1], other: sites[other]}
    sites[1].group.core.campaign()
    exchange(pair)
    assert sites[1].group.leading
    sites[1].group.publish(batch(b"kept"), 0, pending(2))
    exchange(pair)
    assert [(request, code) for request, code, _ in sites[1].host.replies] == [(2, Reply.SENT)]


def test_end_receives_answers_those_of_the_consumer_with_nothing_in_their_own_form() -> None:
    site = Site().lead()
    for asked in (
        waiting(1, consumer=1),
        waiting(2, consumer=1, plain=True),
        waiting(3, consumer=2),
        waiting(4, BOB, consumer=1),
    ):
        site.group.submit(receive(asked, wait_ms=60_000), asked)
    site.run()
    site.group.end_receives(Close(ALICE, 1))
    assert site.host.replies == [(1, Reply.MESSAGES, {"pieces": []}), (2, Reply.MESSAGES, {"messages": []})]
    site.group.end_receives(Close(ALICE))
    assert site.host.replies[2:] == [(3, Reply.MESSAGES, {"pieces": []})]
    assert [key.session for key in site.group.receivers] == [BOB]


def test_delivery_for_a_receive_that_nobody_waits_for_is_kept_for_its_retry() -> None:
    site = Site().lead()
    asked = waiting(1)
    site.group.submit(receive(asked, wait_ms=60_000), asked)
    site.run()
    site.group.receivers.clear()
    site.group.publish(batch(b"x"), 0, pending(2, BOB))
    site.run()
    assert site.host.delivered == []
    site.group.submit(receive(asked, wait_ms=60_000), asked)
    site.run()
    assert [len(delivery.pieces) for _, delivery in site.host.delivered] == [1]
