"""Rates: what an answer says of the time since an earlier one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.broker.builders import Node, publish
from zmqbroker.commands import QueueStats
from zmqbroker.server import rates
from zmqbroker.server.rates import Rate, Rates

SECOND = 1_000_000_000


def stats(sent: int, delivered: int = 0, channel: str = "q", incarnation: int = 1) -> QueueStats:
    """Counters of a channel."""
    node = Node()
    node.entry(publish(1))
    return replace(node.stats(), channel=channel, sent=sent, delivered=delivered, incarnation=incarnation)


def test_first_answer_knows_no_rate_and_the_second_one_that_since_the_first() -> None:
    told = Rates()
    assert told.ask(stats(500), 10 * SECOND) == Rate(0, 0, 0)
    assert told.ask(stats(520, 7), 12 * SECOND) == Rate(2_000, 10, 4)


def test_rate_over_too_short_a_time_is_not_told() -> None:
    told = Rates()
    told.ask(stats(0), 0)
    assert told.ask(stats(9), SECOND // 2 - 1) == Rate(0, 0, 0)
    assert told.ask(stats(9), SECOND // 2) == Rate(500, 18, 0)


def test_slowest_rate_is_not_none() -> None:
    told = Rates()
    told.ask(stats(0), 0)
    assert told.ask(stats(1), 60 * SECOND) == Rate(60_000, 1, 0)


def test_who_asks_every_second_is_told_of_the_last_five_to_ten() -> None:
    told = Rates()
    windows = [told.ask(stats(100 * second), second * SECOND).window_ms // 1_000 for second in range(40)]
    assert windows[:11] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 5]
    assert set(windows[10:]) == {5, 6, 7, 8, 9}


def test_who_asks_seldom_is_told_of_the_time_since_the_last_answer() -> None:
    told = Rates()
    assert [told.ask(stats(3_000 * minute), 60 * minute * SECOND) for minute in range(4)] == [
        Rate(0, 0, 0),
        *[Rate(60_000, 50, 0)] * 3,
    ]


def test_channel_that_was_made_anew_has_no_earlier_answer() -> None:
    told = Rates()
    told.ask(stats(500), 0)
    assert told.ask(stats(3, incarnation=9), 10 * SECOND) == Rate(0, 0, 0)
    assert told.ask(stats(13, incarnation=9), 20 * SECOND) == Rate(10_000, 1, 0)


def test_channels_that_nobody_has_asked_about_for_longest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "CHANNELS_MAX", 2)
    told = Rates()
    for second, channel in enumerate("abac"):
        told.ask(stats(0, channel=channel), second * SECOND)
    assert len(told) == 2
    assert told.ask(stats(9, channel="a"), 10 * SECOND).window_ms == 10_000
    assert told.ask(stats(9, channel="b"), 10 * SECOND).window_ms == 0
