"""Waiting receives: oldest first, and the demanding ones passed over."""

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
