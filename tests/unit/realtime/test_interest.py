"""What one node knows of everybody's interest, and how it hears and forgets."""

from __future__ import annotations

import random

import pytest

from zmqbroker.commands import Announcement, RealtimeKind, Want
from zmqbroker.errors import Busy, InvalidRequest
from zmqbroker.realtime import Interest, Subscription, interest
from zmqbroker.realtime.announcing import ROWS_MAX

EVENTS, COMMANDS = RealtimeKind.EVENTS, RealtimeKind.COMMANDS
A, B = b"a" * 16, b"b" * 16


def subscription(owner: bytes, number: int, pattern: str, group: str = "", kind: RealtimeKind = EVENTS) -> Subscription:
    return Subscription(owner, number, Want(kind, pattern, group), 10, 1000)


def subscribe(known: Interest, owner: bytes, number: int, pattern: str, group: str = "") -> Subscription:
    return known.subscribe(subscription(owner, number, pattern, group))


def tell(teller: Interest, hearer: Interest, uid: bytes = A, now_ns: int = 0) -> None:
    """One announcement round, with the whole when it is asked for."""
    for told in [*teller.own.take_changes(), teller.own.stand()]:
        behind = hearer.hear(uid, told, now_ns)
    if behind:
        for piece in teller.own.whole():
            behind = hearer.hear(uid, piece, now_ns)
    assert not behind


def wants(known: Interest, name: str) -> tuple[int, int, int]:
    """How many get a message: subscriptions here, other nodes, groups."""
    found = known.find(EVENTS, name)
    return len(found.members), len(found.nodes), len(found.groups)


def test_find_gives_members_nodes_and_groups_that_match() -> None:
    here, there = Interest(A), Interest(B)
    one, two = subscribe(here, b"x", 1, "orders.*"), subscribe(here, b"x", 2, "orders.new")
    grouped = subscribe(here, b"y", 1, "orders.>", "g")
    subscribe(there, b"z", 1, "orders.>")
    subscribe(there, b"z", 2, "*.new")
    subscribe(there, b"z", 3, "orders.>", "g")
    tell(there, here, B)
    found = here.find(EVENTS, "orders.new")
    assert set(found.members) == {one, two}
    assert found.nodes == (B,)
    assert [(group.want.group, group.members, group.elsewhere) for group in found.groups] == [("g", [grouped], {B: 1})]
    assert found.subscribers == 5
    assert wants(here, "orders.old") == (1, 1, 1)
    assert wants(here, "other") == (0, 0, 0)
    assert here.audience(Want(EVENTS, "orders.>", "g")) is found.groups[0]
    assert here.audience(Want(EVENTS, "orders.>", "h")) is None


def test_kinds_are_apart() -> None:
    known = Interest(A)
    known.subscribe(subscription(b"x", 1, "job", kind=COMMANDS))
    assert wants(known, "job") == (0, 0, 0)
    assert len(known.find(COMMANDS, "job").members) == 1
    assert known.find(RealtimeKind.QUERIES, "job").subscribers == 0


def test_matches_that_were_kept_are_dropped_when_interest_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interest, "FOUND_MAX", 2)
    known = Interest(A)
    first = known.find(EVENTS, "a")
    assert known.find(EVENTS, "a") is first
    known.find(EVENTS, "b")
    known.find(EVENTS, "c")
    assert len(known._found) == 1
    subscribe(known, b"x", 1, "c")
    assert wants(known, "c") == (1, 0, 0)


def test_subscribe_again_is_a_repeat_and_another_pattern_is_refused() -> None:
    known = Interest(A)
    first = subscribe(known, b"x", 1, "a")
    assert subscribe(known, b"x", 1, "a") is first
    assert known.count == 1
    with pytest.raises(InvalidRequest, match="field subscription is 1, which this connection has subscribed to 'a' with"):
        subscribe(known, b"x", 1, "b")
    assert subscribe(known, b"y", 1, "b") is known.get(b"y", 1)


def test_limits_of_connection_and_node_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interest, "PER_CONNECTION_MAX", 2)
    monkeypatch.setattr(interest, "PER_NODE_MAX", 3)
    known = Interest(A)
    subscribe(known, b"x", 1, "a")
    subscribe(known, b"x", 2, "a")
    with pytest.raises(Busy, match="a connection has at most 2 subscriptions"):
        subscribe(known, b"x", 3, "a")
    subscribe(known, b"y", 1, "a")
    with pytest.raises(Busy, match="a node has at most 3 subscriptions"):
        subscribe(known, b"y", 2, "a")
    known.unsubscribe(b"x", 1)
    subscribe(known, b"y", 2, "a")


def test_unsubscribe_and_drop_leave_nothing() -> None:
    known = Interest(A)
    one, two = subscribe(known, b"x", 1, "a"), subscribe(known, b"x", 2, "b", "g")
    assert known.owners() == [b"x"]
    assert known.unsubscribe(b"x", 9) is None
    assert known.unsubscribe(b"y", 1) is None
    assert known.unsubscribe(b"x", 1) is one
    assert known.drop(b"x") == [two]
    assert known.drop(b"x") == []
    assert (known.owners(), known.count, known._audiences) == ([], 0, {})
    assert wants(known, "a") == wants(known, "b") == (0, 0, 0)


def test_changes_of_another_node_are_followed() -> None:
    here, there = Interest(A), Interest(B)
    subscribe(there, b"z", 1, "a")
    subscribe(there, b"z", 2, "a")
    tell(there, here, B)
    assert here.find(EVENTS, "a").subscribers == 2
    there.unsubscribe(b"z", 1)
    tell(there, here, B)
    assert here.find(EVENTS, "a").subscribers == 1
    there.drop(b"z")
    tell(there, here, B)
    assert wants(here, "a") == (0, 0, 0)
    assert here._audiences == {}


def test_node_that_is_forgotten_wants_nothing_any_more() -> None:
    here, there = Interest(A), Interest(B)
    subscribe(there, b"z", 1, "a")
    subscribe(here, b"x", 1, "a")
    tell(there, here, B, now_ns=5)
    assert here.silent(5) == []
    assert here.silent(6) == [B]
    here.forget(B)
    here.forget(B)
    assert wants(here, "a") == (1, 0, 0)


def test_node_of_another_run_begins_anew() -> None:
    here, there = Interest(A), Interest(B)
    subscribe(there, b"z", 1, "a")
    tell(there, here, B)
    again = Interest(b"c" * 16)
    assert here.hear(B, again.own.stand(), 1)
    assert wants(here, "a") == (0, 0, 0)
    subscribe(again, b"z", 1, "b")
    tell(again, here, B)
    assert wants(here, "b") == (0, 1, 0)


def test_change_that_was_lost_is_noticed_and_the_whole_cures_it() -> None:
    here, there = Interest(A), Interest(B)
    tell(there, here, B)
    subscribe(there, b"z", 1, "a")
    there.own.take_changes()  # lost
    subscribe(there, b"z", 2, "b")
    (change,) = there.own.take_changes()
    assert here.hear(B, change, 0)
    assert wants(here, "b") == (0, 0, 0)
    tell(there, here, B)
    assert (wants(here, "a"), wants(here, "b")) == ((0, 1, 0), (0, 1, 0))
    assert not here.hear(B, change, 0)  # again, and late
    assert wants(here, "b") == (0, 1, 0)


def test_stand_alone_tells_that_something_was_lost() -> None:
    here, there = Interest(A), Interest(B)
    tell(there, here, B)
    assert not here.hear(B, there.own.stand(), 0)
    subscribe(there, b"z", 1, "a")
    there.own.take_changes()  # lost
    assert here.hear(B, there.own.stand(), 0)


def test_whole_comes_in_pieces_and_counts_only_when_all_are_there() -> None:
    here, there = Interest(A), Interest(B)
    for number in range(2 * ROWS_MAX + 1):
        subscribe(there, b"z", number, f"n.{number}")
    changes = there.own.take_changes()
    assert [len(change.rows) for change in changes] == [ROWS_MAX, ROWS_MAX, 1]
    pieces = there.own.whole()
    assert [(len(piece.rows), piece.piece, piece.pieces) for piece in pieces] == [(ROWS_MAX, 0, 3), (ROWS_MAX, 1, 3), (1, 2, 3)]
    assert here.hear(B, pieces[0], 0)
    assert here.hear(B, pieces[2], 0)  # the one between was lost
    assert wants(here, "n.0") == (0, 0, 0)
    assert [here.hear(B, piece, 0) for piece in pieces] == [True, True, False]
    assert [wants(here, f"n.{number}") for number in (0, ROWS_MAX, 2 * ROWS_MAX)] == [(0, 1, 0)] * 3


def test_want_that_is_gone_when_it_is_told_again_does_no_harm() -> None:
    here, run = Interest(A), b"r" * 16
    here.hear(B, Announcement(run, 0, (), 0, 1), 0)
    want = Want(EVENTS, "a", "")
    here.hear(B, Announcement(run, 1, ((want, 1),)), 0)
    here.hear(B, Announcement(run, 2, ((want, 0), (want, 0))), 0)
    assert wants(here, "a") == (0, 0, 0)


@pytest.mark.parametrize("seed", range(20))
def test_what_a_node_believes_is_right_after_losses_once_it_is_told_where_the_other_stands(seed: int) -> None:
    chance, here, there = random.Random(seed), Interest(A), Interest(B)
    names = [f"n.{number}" for number in range(6)]
    for step in range(200):
        owner, number = bytes([chance.randrange(3)]), chance.randrange(4)
        if chance.random() < 0.5 and there.get(owner, number) is None:
            subscribe(there, owner, number, chance.choice(names), chance.choice(["", "g"]))
        else:
            there.unsubscribe(owner, number)
        for told in there.own.take_changes():
            if chance.random() < 0.7:
                here.hear(B, told, step)
        if chance.random() < 0.1:
            tell(there, here, B, step)
    tell(there, here, B)
    for name in names:
        mine, theirs = here.find(EVENTS, name), there.find(EVENTS, name)
        assert mine.subscribers == theirs.subscribers
        assert [group.elsewhere.get(B, 0) for group in mine.groups] == [len(group.members) for group in theirs.groups] or (
            sorted(group.elsewhere[B] for group in mine.groups) == sorted(len(group.members) for group in theirs.groups)
        )
