"""Where a reader without a durable position is, and what it asks next."""

from __future__ import annotations

from typing import Any

import pytest

from zmqbroker.client.answer import Answer
from zmqbroker.client.cursor import WAIT_MS, Cursor, Gap, Start, start_of
from zmqbroker.commands import Receipt
from zmqbroker.errors import LocalProtocolError, PositionGone, RemoteProtocolError
from zmqbroker.wire.requests import ReadRequest

STORE = "events_store:s"
SECOND = 1_000_000_000


def answer(following: Any, last: Any = 0, incarnation: Any = 7) -> Answer:
    return Answer({"next": following, "last": last, "incarnation": incarnation}, [])


def spans(*parts: tuple[int, int]) -> list[Receipt]:
    return [Receipt(0, first, last) for first, last in parts]


def test_first_read_finds_the_place_at_the_leader_and_does_not_wait() -> None:
    cursor = Cursor(STORE, Start("time", 99), 10, 1000)
    assert cursor.request() == ReadRequest(STORE, "time", 99, 10, 1000, forward=True)
    assert (cursor.position, cursor.request()) == (0, cursor.request())


def test_later_reads_name_the_sequence_and_the_store_and_wait() -> None:
    cursor = Cursor(STORE, Start("new"), 10, 1000)
    cursor.answered(answer(5, 4), [], 0)
    assert cursor.request() == ReadRequest(STORE, "sequence", 5, 10, 1000, WAIT_MS, incarnation=7)
    cursor.answered(answer(9, 8), spans((5, 6), (8, 8)), 0)
    assert (cursor.position, cursor.request().value) == (9, 9)
    cursor.answered(answer(9, 8, 0), [], 0)  # of a node that does not know the store yet
    assert cursor.request().incarnation == 7


def test_sequence_is_waited_for_from_the_first_read_on() -> None:
    assert Cursor(STORE, Start("sequence", 3), 10, 1000).request() == ReadRequest(STORE, "sequence", 3, 10, 1000, WAIT_MS)


@pytest.mark.parametrize(
    ("told", "events"),
    [
        (answer(5), spans((3, 4))),  # again what came before
        (answer(7), spans((5, 6), (6, 6))),
        (answer(6), spans((5, 6))),
        (answer(4), []),
        (answer(2**64 + 1), []),
        (answer("5"), []),
        (answer(5, None), []),
        (answer(5, 4, "x"), []),
    ],
)
def test_answer_that_leaves_the_order_is_a_fault_of_the_other_side(told: Answer, events: list[Receipt]) -> None:
    with pytest.raises(RemoteProtocolError):
        Cursor(STORE, Start("sequence", 5), 10, 1000).answered(told, events, 0)


def test_place_that_is_gone_is_a_gap_and_reading_goes_on_at_the_first_that_is_there() -> None:
    cursor = Cursor(STORE, Start("sequence", 5), 10, 1000)
    cursor.answered(answer(6, 5), spans((5, 5)), 0)
    assert cursor.gone(PositionGone("gone", first=9)) == Gap(6, 9)
    assert (cursor.request().value, cursor.request().incarnation) == (9, 0)
    assert cursor.gone(PositionGone("gone")) == Gap(9, 0)
    assert cursor.request().value == 1


def test_limited_reader_that_is_behind_asks_no_sooner_than_its_rate_allows() -> None:
    cursor = Cursor(STORE, Start("first"), 1024, 1000, rate_limit=100)
    assert cursor.request().count_max == 10
    cursor.answered(answer(11, 50), spans((1, 10)), SECOND)
    assert cursor.ready_ns == SECOND + SECOND // 10
    cursor.answered(answer(21, 50), spans((11, 20)), SECOND)  # its answer was fast: the pauses add up
    assert cursor.ready_ns == SECOND + SECOND // 5
    cursor.answered(answer(51, 50), spans((21, 50)), SECOND)  # at the tail: nothing is held back
    assert cursor.ready_ns == SECOND + SECOND // 5
    assert Cursor(STORE, Start("first"), 1024, 1000, rate_limit=1).request().count_max == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((None, None, None, None), Start("new")),
        (("last", None, None, None), Start("last")),
        ((None, 7, None, None), Start("sequence", 7)),
        ((None, None, 0, None), Start("time", 0)),
        ((None, None, None, 60_000), Start("time_delta_ms", 60_000)),
    ],
)
def test_start_is_said_in_one_of_its_ways(given: tuple[Any, ...], expected: Start) -> None:
    assert start_of(*given) == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("first", 7, None, None), "start and sequence are given"),
        ((None, 7, None, 5), "sequence and time_delta_ms are given"),
        (("here", None, None, None), "field start is 'here'"),
        (("sequence", None, None, None), "field value is 0"),
        ((None, 0, None, None), "field value is 0, allowed with start 'sequence' is 1"),
        ((None, "7", None, None), "sequence is '7', it must be an integer"),
        ((None, None, True, None), "time_unix_ns is True, it must be an integer"),
        ((None, None, -1, None), "field value is -1"),
    ],
)
def test_start_that_is_none_is_refused_by_name_and_value(given: tuple[Any, ...], said: str) -> None:
    with pytest.raises(LocalProtocolError) as error:
        start_of(*given)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("count", "rate", "said"), [(0, None, "max is 0"), (65_536, None, "max is"), (1, 0, "rate_limit is 0")]
)
def test_bounds_of_a_cursor_are_refused_by_name_and_value(count: int, rate: int | None, said: str) -> None:
    with pytest.raises(LocalProtocolError) as error:
        Cursor(STORE, Start("new"), count, 1000, rate)
    assert said in str(error.value)
