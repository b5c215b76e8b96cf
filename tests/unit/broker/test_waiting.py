"""Waiting receives: highest priority first, then oldest, and the demanding ones passed over."""

from __future__ import annotations

from tests.unit.broker.builders import receive
from zmqbroker.broker.claims import Waiter
from zmqbroker.broker.waiting import WaitingReceives


def waiting(*needs: int) -> tuple[WaitingReceives, list[Waiter]]:
    """Waiters with the given needs, in this order of arrival."""
    waiters = [Waiter(order, 1, 0, receive(count_min=need)) for order, need in enumerate(needs, start=1)]
    room = WaitingReceives()
    for waiter in waiters:
        room.add(waiter)
    return room, waiters


def test_waiting_receives_serve_the_oldest_that_can_be_served() -> None:
    room, (first, second, third, fourth) = waiting(5, 2, 2, 1)
    assert room.next_served(0) is None
    assert room.next_served(1) is fourth
    assert room.next_served(4) is second
    assert room.next_served(5) is first
    room.remove(second)
    assert room.next_served(4) is third
    assert list(room) == [first, third, fourth]
    assert len(room) == 3


def test_waiting_receives_removed_one_is_gone() -> None:
    room, (only,) = waiting(1)
    assert room.get(1) is only
    room.remove(only)
    assert room.get(1) is None
    assert room.next_served(10) is None


def test_waiting_receives_of_a_higher_priority_come_first() -> None:
    waiters = [
        Waiter(order, 1, 0, receive(count_min=need, priority=priority))
        for order, (need, priority) in enumerate([(1, 0), (5, 9), (1, 3), (2, 3)], start=1)
    ]
    room = WaitingReceives()
    assert room.first() is None
    for waiter in waiters:
        room.add(waiter)
    served = []
    while (served_now := room.next_served(4)) is not None:
        served.append(served_now.order)
        room.remove(served_now)
    assert served == [3, 4, 1]
    assert room.first() is waiters[1]
    room.add(Waiter(9, 1, 0, receive(priority=3)))
    assert room.first() is waiters[1]
    room.remove(waiters[1])
    assert room.first() is room.get(9)


def test_waiting_receives_first_is_the_oldest_of_all_needs() -> None:
    room, (first, second, _) = waiting(7, 2, 2)
    assert room.first() is first
    room.remove(first)
    assert room.first() is second


def test_waiting_receives_most_needed_is_the_largest_need_of_all() -> None:
    assert WaitingReceives().most_needed() == 0
    room, (first, *_) = waiting(7, 2, 2)
    room.add(Waiter(9, 1, 0, receive(count_min=3, priority=9)))
    assert room.most_needed() == 7
    room.remove(first)
    assert room.most_needed() == 3
