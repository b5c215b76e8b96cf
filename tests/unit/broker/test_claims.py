"""Claims: who holds what, by session and by deadline."""

from __future__ import annotations

from tests.unit.broker.builders import ALICE, BOB, key, receive
from zmqbroker.broker.claims import Assignment, Claims, Waiter
from zmqbroker.broker.ranges import Range


def test_claims_of_a_session_are_listed_oldest_first() -> None:
    claims = Claims()
    newer, older = Waiter(7, 1, 50, receive()), Waiter(3, 1, 60, receive())
    held = Assignment(5, 2, 55, key(), 99, [Range(1, 1, 1)])
    for claim in (newer, older, held):
        claims.add(claim)
    assert claims.waiters(ALICE) == [older, newer]
    assert claims.assignments(ALICE) == [held]
    assert list(claims.sessions()) == [ALICE]
    assert claims.earliest() == 50
    assert claims.take_due(55) == [newer, held]


def test_claims_removed_ones_leave_no_session_behind() -> None:
    claims = Claims()
    waiter, held = Waiter(1, 1, 50, receive()), Assignment(2, 1, 50, key(), 99, [Range(1, 1, 1)])
    claims.add(waiter)
    claims.add(held)
    claims.remove(waiter)
    assert waiter not in claims
    assert claims.holds(ALICE)
    claims.remove(held)
    assert not claims.holds(ALICE)
    assert (list(claims.sessions()), claims.earliest()) == ([], None)


def test_claims_unknown_session_holds_nothing() -> None:
    claims = Claims()
    assert (claims.waiters(BOB), claims.assignments(BOB), claims.holds(BOB)) == ([], [], False)


def test_claims_order_numbers_count_up() -> None:
    claims = Claims()
    assert [claims.take_order(), claims.take_order(), claims.next_order] == [1, 2, 3]
