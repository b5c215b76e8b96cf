"""Lists of destinations: what each part means, and every fault with the part in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqbroker.commands import EVENTS, QUEUES, Destination
from zmqbroker.errors import InvalidChannel, InvalidRequest
from zmqbroker.wire.destinations import ANYWHERE, DESTINATIONS_MAX, DESTINATIONS_SIZE_MAX, STORED, joined, read_destinations


def test_destinations_of_every_kind_are_read_in_order() -> None:
    found = read_destinations("a;events:b.1;events_store:c;routes:d;queues:e")
    assert found == (
        Destination("queues", "a"),
        Destination("events", "b.1"),
        Destination("events_store", "c"),
        Destination("routes", "d"),
        Destination("queues", "e"),
    )
    assert joined(found) == "a;events:b.1;events_store:c;routes:d;e"
    assert [one.is_stored for one in found] == [True, False, True, False, True]


def test_a_colon_makes_no_prefix() -> None:
    assert read_destinations("a:b") == (Destination("queues", "a:b"),)


@given(
    st.lists(
        st.builds(
            Destination, st.sampled_from(ANYWHERE), st.text("abc.ü", min_size=1, max_size=9).filter(lambda n: n[-1] != ".")
        ),
        min_size=1,
        max_size=9,
        unique=True,
    )
)
def test_destinations_written_and_read_are_the_same(destinations: list[Destination]) -> None:
    assert read_destinations(joined(destinations)) == tuple(destinations)


LONG = "x" * 256
BAD_LISTS: list[tuple[str, type[Exception], str]] = [
    ("", InvalidChannel, "destination 1 of 1, '', has 0 bytes, allowed is 1 to 255"),
    ("a;", InvalidChannel, "destination 2 of 2, '', has 0 bytes"),
    (";a", InvalidChannel, "destination 1 of 2, '', has 0 bytes"),
    ("a; b", InvalidChannel, "destination 2 of 2, ' b', holds white space"),
    ("a;events:b c", InvalidChannel, "destination 2 of 2, 'events:b c', holds white space"),
    ("a;events:", InvalidChannel, "destination 2 of 2, 'events:', ends where a name must follow"),
    ("a;routes:", InvalidChannel, "destination 2 of 2, 'routes:', ends where a name must follow"),
    ("a;events_store:", InvalidChannel, "destination 2 of 2, 'events_store:', ends where a name must follow"),
    ("queues:", InvalidChannel, "destination 1 of 1, 'queues:', has 0 bytes"),
    ("a;b;a", InvalidRequest, "destination 3 of 3, 'a', is named before, as 'a'"),
    ("a;queues:a", InvalidRequest, "destination 2 of 2, 'queues:a', is named before, as 'a'"),
    ("events:x;events:x", InvalidRequest, "destination 2 of 2, 'events:x', is named before"),
    (
        "a;commands:b",
        InvalidRequest,
        "destination 2 of 2, 'commands:b', is no destination: nobody would get the answer of commands",
    ),
    ("queries:b", InvalidRequest, "destination 1 of 1, 'queries:b', is no destination: nobody would get the answer of queries"),
    ("a;b.*", InvalidChannel, "destination 2 of 2, 'b.*', holds '*', which names more than one channel"),
    ("events:>", InvalidChannel, "destination 1 of 1, 'events:>', holds '>'"),
    ("events_store:a.>", InvalidChannel, "destination 1 of 1, 'events_store:a.>', is a consumer of an events store"),
    ("events_store:a>b", InvalidChannel, "destination 1 of 1, 'events_store:a>b', is a consumer of an events store"),
    ("queues:events:b", InvalidChannel, "destination 1 of 1, 'queues:events:b', has two prefixes"),
    ("a;_sys.b", InvalidChannel, "destination 2 of 2, '_sys.b', begins with '_sys.'"),
    ("routes:b.", InvalidChannel, "destination 1 of 1, 'routes:b.', ends with '.'"),
    (f"a;{LONG}", InvalidChannel, f"destination 2 of 2, '{LONG[:70]}"),
    (f"events:{LONG}", InvalidChannel, "destination 1 of 1, 'events:xxx"),
    ("events:\ud800", InvalidChannel, "destination 1 of 1, 'events:\\ud800', is not valid Unicode"),
    ("a;b\ud800", InvalidChannel, "destination 2 of 2, 'b\\ud800', is not valid Unicode"),
    (";".join(f"q{n}" for n in range(65)), InvalidRequest, "a list has 65 destinations, the limit is 64"),
]


@pytest.mark.parametrize(("text", "error", "message"), BAD_LISTS, ids=[text[:40] or "empty" for text, _, _ in BAD_LISTS])
def test_list_with_a_fault_is_refused_with_the_part(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        read_destinations(text)
    assert str(caught.value).startswith(message)


def test_list_of_too_long_a_name_says_how_long() -> None:
    with pytest.raises(InvalidChannel, match="has 256 bytes, allowed is 1 to 255"):
        read_destinations(f"events:{LONG}")


def test_destination_of_another_kind_is_refused_with_those_that_are_allowed() -> None:
    with pytest.raises(InvalidRequest, match=r"destination 1 of 1, 'events:a', is one of events, allowed are queues$"):
        read_destinations("events:a", (QUEUES,))
    with pytest.raises(
        InvalidRequest, match="destination 2 of 2, 'routes:a', is one of routes, allowed are queues, events_store, events"
    ):
        read_destinations("b;routes:a", (*STORED, EVENTS))


def test_longest_list_is_within_its_bound() -> None:
    longest = ";".join(f"events_store:{n:02d}{'x' * 240}" for n in range(DESTINATIONS_MAX))
    assert len(read_destinations(longest)) == DESTINATIONS_MAX
    assert len(longest) <= DESTINATIONS_SIZE_MAX
