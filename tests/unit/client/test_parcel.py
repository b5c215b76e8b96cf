"""Parcels: what may be put in, how many bodies are divided, and what each message learns of the end."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqbroker.client.message import SendResult
from zmqbroker.client.parcel import OVERHEAD_BYTES, Parcel, split_bodies
from zmqbroker.errors import Busy, LocalProtocolError, MessageTooLarge, RemoteProtocolError


def test_parcel_columns_are_as_long_as_their_last_value() -> None:
    parcel = Parcel([], 0, 0, 0)
    parcel.append(b"body", b"", b"")
    assert (parcel.ids, parcel.headers, parcel.size) == (None, None, 4 + OVERHEAD_BYTES)
    parcel.append(b"", b"id", b"")
    parcel.append(b"", b"", b"h")
    parcel.append(b"", b"id", b"h")
    assert parcel.ids == [b"", b"id", b"", b"id"]
    assert parcel.headers == [b"", b"", b"h", b"h"]
    assert parcel.size == 4 + 2 + 1 + 3 + 4 * OVERHEAD_BYTES


#: Of two messages of four bytes.
FULL = 2 * (4 + OVERHEAD_BYTES)


@pytest.mark.parametrize(
    ("limits", "takes"),
    [((2, FULL, 9), True), ((1, FULL, 9), False), ((2, FULL - 1, 9), False), ((2, FULL, 3), False)],
)
def test_parcel_takes_what_is_within_every_limit(limits: tuple[int, int, int], takes: bool) -> None:
    parcel = Parcel([b"1234"], 4 + OVERHEAD_BYTES, 0, 0)
    parcel.count_max, parcel.size_max, parcel.body_size_max = limits
    assert parcel.takes(4, 4 + OVERHEAD_BYTES) is takes
    parcel.seal()
    assert not parcel.takes(4, 4 + OVERHEAD_BYTES)


def test_parcel_stored_numbers_its_messages_and_lets_their_bodies_go() -> None:
    parcel, told = Parcel([b"a", b"b"], 34, 0, 0), list[str]()
    parcel.watchers += [lambda: told.append("first"), lambda: told.append("second")]
    parcel.stored(7, 99, True, "quorum")
    parcel.tell()
    parcel.tell()
    assert told == ["first", "second"]
    assert (parcel.result(1), parcel.exception()) == (SendResult(8, 99, True, "quorum"), None)
    assert (parcel.bodies, parcel.count) == ([], 2)


def test_parcel_failed_gives_everyone_an_error_of_its_own() -> None:
    parcel = Parcel([b"a", b"b"], 34, 0, 0)
    parcel.failed(Busy("full", retry_ms=3, outcome_unknown=True))
    first, second = parcel.exception(), parcel.exception()
    assert isinstance(first, Busy)
    assert (first.retry_ms, first.outcome_unknown, first is second) == (3, True, False)
    with pytest.raises(Busy):
        parcel.result(0)


def test_parcel_failed_by_the_nodes_fault_says_so() -> None:
    parcel, fault = Parcel([b"a"], 17, 0, 0), RemoteProtocolError("no")
    parcel.failed(fault)
    assert parcel.exception() is fault


@given(
    sizes=st.lists(st.integers(0, 60), max_size=60),
    size_max=st.integers(1, 200),
    count_max=st.integers(1, 9),
    headers=st.sampled_from([b"", b"id"]),
)
def test_split_keeps_every_body_in_order_and_every_parcel_full(
    sizes: list[int], size_max: int, count_max: int, headers: bytes
) -> None:
    bodies = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    parcels = split_bodies(bodies, headers, size_max, count_max, 60, 3, 4)
    assert [body for parcel in parcels for body in parcel.bodies] == bodies
    for parcel, following in zip_longest(parcels, parcels[1:]):
        assert parcel.size == sum(map(len, parcel.bodies)) + (OVERHEAD_BYTES + len(headers)) * parcel.count
        assert parcel.headers == ([headers] * parcel.count if headers else None)
        assert 1 <= parcel.count <= count_max
        assert parcel.count == 1 or parcel.size <= size_max
        assert (parcel.appended_ns, parcel.deadline_ns) == (3, 4)
        if following is not None and parcel.count < count_max:
            assert parcel.size + len(following.bodies[0]) + OVERHEAD_BYTES + len(headers) > size_max


@pytest.mark.parametrize(("bodies", "error"), [([b"a", "b"], LocalProtocolError), ([b"a", b"x" * 11], MessageTooLarge)])
def test_split_with_a_body_that_cannot_be_sent_is_refused(bodies: list[Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        split_bodies(bodies, b"", 100, 10, 10, 0, 0)
