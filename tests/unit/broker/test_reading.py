"""Reading a store without a position: pieces of what is live, within bounds of events, bytes and pieces."""

from __future__ import annotations

import pytest

from tests.unit.server.test_reads import STORE, Hall
from zmqbroker.broker.reading import events_from
from zmqbroker.commands import CreateChannel, DeleteMessages
from zmqbroker.commands.channels import ChannelSettings

BIG = 1 << 30


def spans(hall: Hall, first: int = 1, count: int = 100, size: int = BIG, pieces: int = 100) -> list[tuple[int, int, int]]:
    """What is found: sequences, and the place in the frame."""
    store = hall.site.machine.store(STORE)
    assert store is not None
    found = events_from(store, first, count, size, pieces)
    assert {(piece.receipt.assigning, piece.delivery_count) for piece in found} <= {(0, 0)}
    return [(piece.receipt.first, piece.receipt.last, piece.low) for piece in found]


def filled() -> Hall:
    """A store with the events 1 to 4, 5 to 8 and 9."""
    hall = Hall()
    for count in (4, 4, 1):
        hall.publish(count)
    return hall


def test_events_come_as_pieces_of_their_batches() -> None:
    hall = filled()
    assert spans(hall) == [(1, 4, 0), (5, 8, 0), (9, 9, 0)]
    assert spans(hall, 3) == [(3, 4, 2), (5, 8, 0), (9, 9, 0)]
    assert spans(hall, 9) == [(9, 9, 0)]
    assert spans(hall, 10) == []


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"count": 1}, [(1, 1, 0)]),
        ({"count": 4}, [(1, 4, 0)]),
        ({"count": 6}, [(1, 4, 0), (5, 6, 0)]),
        ({"pieces": 1}, [(1, 4, 0)]),
        ({"pieces": 2}, [(1, 4, 0), (5, 8, 0)]),
        ({"size": 1}, [(1, 1, 0)]),
    ],
)
def test_events_end_at_each_bound(bounds: dict[str, int], expected: list[tuple[int, int, int]]) -> None:
    assert spans(filled(), **bounds) == expected


def test_events_that_do_not_fit_behind_the_first_piece_are_left_out() -> None:
    hall = filled()
    store = hall.site.machine.store(STORE)
    assert store is not None
    first = store.batches.starting(1, 1)[0]
    assert spans(hall, size=first.value.received_size(4, 4)) == [(1, 4, 0)]


def test_gaps_are_left_out_in_their_place() -> None:
    hall = filled()
    hall.submit(DeleteMessages(STORE, ((1, 1), (3, 3), (6, 6), (8, 8))))
    assert spans(hall) == [(2, 2, 1), (4, 4, 3), (5, 5, 0), (7, 7, 2), (9, 9, 0)]
    assert spans(hall, 3, pieces=2) == [(4, 4, 3), (5, 5, 0)]


def test_batch_of_which_nothing_is_left_behind_a_place_is_passed_over() -> None:
    hall = filled()
    hall.submit(DeleteMessages(STORE, ((3, 4),)))
    assert spans(hall, 3) == [(5, 8, 0), (9, 9, 0)]


def test_keys_that_have_newer_events_leave_gaps() -> None:
    hall = Hall()
    hall.submit(CreateChannel(STORE, ChannelSettings(keep_latest=True)))
    for key in ("a", "b", "a", "", "b"):
        hall.publish(key=key)
    assert [first for first, *_ in spans(hall)] == [3, 4, 5]
