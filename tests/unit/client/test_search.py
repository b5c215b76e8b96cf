"""How often everybody is asked while a leader is searched."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from zmqbroker.client.search import ASKED_FIRST_SECOND, GAP_HIGH_NS, GAP_LOW_NS, Search

NOW = 10**15
SECOND_NS = 1_000_000_000


def times(duration_ns: int, seed: int) -> list[int]:
    """When a search of that length asks, from its begin."""
    search, asked = Search(Random(seed)), []
    search.begin(NOW)
    while search.due_ns <= NOW + duration_ns:
        asked.append(search.due_ns - NOW)
        search.asked(search.due_ns)
    return asked


def test_search_that_never_began_is_never_due() -> None:
    search = Search(Random(1))
    assert not search.active
    assert search.due_ns > NOW * 1000


def test_search_asks_at_once_and_again_when_it_begins_anew() -> None:
    search = Search(Random(1))
    for now_ns in (NOW, NOW + SECOND_NS):
        search.begin(now_ns)
        assert search.active
        assert search.due_ns == now_ns
        search.asked(now_ns)
        assert now_ns < search.due_ns <= now_ns + GAP_LOW_NS * 5 // 4
        due_ns = search.due_ns
        search.begin(now_ns + 1)
        assert search.due_ns == due_ns, "a search that goes on is not begun"
        search.end()
        assert not search.active


def test_search_bound_of_a_second_is_reached_by_the_shortest_distances() -> None:
    class Shortest(Random):
        def randint(self, a: int, b: int) -> int:
            return a

    search, count = Search(Shortest()), 0
    search.begin(NOW)
    while search.due_ns <= NOW + SECOND_NS:
        search.asked(search.due_ns)
        count += 1
    assert count == ASKED_FIRST_SECOND


@pytest.mark.parametrize("seed", range(5))
def test_search_asks_within_half_of_the_time_that_it_lasts_and_no_more_often_than_told(seed: int) -> None:
    asked = times(SECOND_NS, seed)
    assert len(asked) <= ASKED_FIRST_SECOND
    for earlier, later in pairwise(asked):
        assert later - earlier <= max(GAP_LOW_NS, min(earlier // 2, GAP_HIGH_NS)) * 5 // 4


@pytest.mark.parametrize("seed", range(5))
def test_search_without_end_asks_once_a_second(seed: int) -> None:
    asked = times(600 * SECOND_NS, seed)
    assert len(asked) <= ASKED_FIRST_SECOND + 30 + 600 * 4 // 3
    late = [later - earlier for earlier, later in pairwise(asked) if earlier >= 10 * SECOND_NS]
    assert SECOND_NS * 3 // 4 <= min(late) <= max(late) <= SECOND_NS * 5 // 4


def test_search_of_two_clients_does_not_ask_in_step() -> None:
    assert set(times(SECOND_NS, 1)[1:]).isdisjoint(times(SECOND_NS, 2)[1:])
