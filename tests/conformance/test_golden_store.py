"""Golden bytes of events stores: what a client makes of the replies, and the values that errors stand for."""

from __future__ import annotations

from tests.conformance.test_golden_frames import plain
from tests.conformance.test_golden_later import client_items
from zmqbroker.client import Event
from zmqbroker.client.answer import Answer
from zmqbroker.client.cursor import Cursor, Start
from zmqbroker.client.durable import Opened, opened
from zmqbroker.client.message import read_messages
from zmqbroker.errors import ConsumerTaken, PositionGone, error_from_wire
from zmqbroker.wire.frames import Reply, error_fields

CHANNEL = "events_store:orders"


def test_golden_events_are_read_and_move_a_cursor_on() -> None:
    some, none = (
        Answer(plain(item["fields"]), [bytes.fromhex(body) for body in item["bodies"]])
        for item in client_items(Reply.EVENTS_READ.name)
    )
    events = read_messages(None, CHANNEL, *some, Event)
    assert [(event.sequence, event.body) for event in events] == [(41, b"hello"), (42, b"world!")]
    cursor = Cursor(CHANNEL, Start("sequence", 41), 10, 1000)
    cursor.answered(some, events.receipts, 0)
    cursor.answered(none, [], 0)
    request = cursor.request()
    assert (request.value, request.incarnation) == (43, 655)


def test_golden_consumer_is_the_value_it_stands_for() -> None:
    (item,) = client_items(Reply.CONSUMER.name)
    assert opened(Answer(plain(item["fields"]), [])) == Opened(41, False, 7, 42)


def test_golden_errors_of_stores_are_the_values_they_stand_for() -> None:
    found = {item["fields"]["code"]: plain(item["fields"]) for item in client_items(Reply.ERROR.name)}
    gone, taken = error_from_wire(found["POSITION_GONE"]), error_from_wire(found["CONSUMER_TAKEN"])
    assert isinstance(gone, PositionGone)
    assert gone.first == 7
    assert isinstance(taken, ConsumerTaken)
    assert [error_fields(gone), error_fields(taken)] == [found["POSITION_GONE"], found["CONSUMER_TAKEN"]]
