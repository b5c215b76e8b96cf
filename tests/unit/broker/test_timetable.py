"""What falls due in which channel: spans that outlive their messages do no harm and do not pile up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.broker.builders import Node, publish, receive
from zmqbroker.broker import timetable
from zmqbroker.broker.timetable import Agenda, Span, Timetable
from zmqbroker.commands import Run


def test_agenda_channels_fall_due_by_number_once() -> None:
    agenda = Agenda()
    for number, instant in ((3, 10), (1, 20), (2, 10), (4, 21)):
        agenda.put(number, instant)
    assert agenda.earliest() == 10
    assert agenda.due(9) == []
    assert agenda.due(20) == [1, 2, 3]
    assert (agenda.due(20), agenda.earliest()) == ([], 21)


def test_agenda_a_channels_next_instant_replaces_the_one_before() -> None:
    agenda = Agenda()
    agenda.put(1, 10)
    agenda.put(1, 30)
    agenda.put(1, 20)
    assert (agenda.due(19), agenda.earliest()) == ([], 20)
    agenda.put(1, 10)
    assert agenda.due(10) == [1], "once, though it was there twice"
    assert agenda.earliest() is None


def test_agenda_channel_without_an_instant_is_never_due() -> None:
    agenda = Agenda()
    agenda.put(1, 10)
    agenda.put(1, None)
    agenda.put(2, None)
    assert (agenda.earliest(), agenda.due(10)) == (None, [])


def test_agenda_of_many_changes_stays_small() -> None:
    agenda = Agenda()
    for instant in range(10_000, 0, -1):
        agenda.put(1, instant)
    assert len(agenda._heap) <= timetable.SLACK + 3
    assert agenda.due(1) == [1]


@given(st.lists(st.tuples(st.integers(1, 5), st.one_of(st.none(), st.integers(0, 9)))), st.integers(0, 9))
def test_agenda_random_changes_equal_a_dict(puts: list[tuple[int, int | None]], now: int) -> None:
    agenda, expected = Agenda(), dict[int, int | None]()
    for number, instant in puts:
        agenda.put(number, instant)
        expected[number] = instant
    instants = {number: instant for number, instant in expected.items() if instant is not None}
    assert agenda.earliest() == min(instants.values(), default=None)
    assert agenda.due(now) == sorted(number for number, instant in instants.items() if instant <= now)
    assert agenda.earliest() == min((instant for instant in instants.values() if instant > now), default=None)


def test_timetable_tells_the_agenda_its_earliest_span() -> None:
    agenda, spans = Agenda(), [Span(20, 1, 2), Span(10, 3, 4), Span(30, 5, 6)]
    table = Timetable(7, agenda, lambda: spans)
    for span in spans:
        table.add(span, live=3)
    assert agenda.earliest() == 10
    assert table.take_due(20) == [Span(10, 3, 4), Span(20, 1, 2)]
    assert agenda.earliest() == 30
    table.clear()
    assert (agenda.earliest(), table.take_due(99)) == (None, [])


def test_timetable_with_too_many_dead_spans_is_made_anew_of_those_that_are_true() -> None:
    agenda, true = Agenda(), [Span(5000, 1, 1), Span(4000, 2, 2)]
    table = Timetable(7, agenda, lambda: true)
    for instant in range(timetable.SLACK + 5):
        table.add(Span(instant, 1, 1), live=2)
    assert agenda.earliest() == 4000
    assert table.take_due(9999) == [Span(4000, 2, 2), Span(5000, 1, 1)]


def test_machine_wakes_early_at_most_for_what_was_received_meanwhile() -> None:
    node = Node()
    node.entry(publish(2, runs=(Run(1, expiry_ms=10), Run(1, expiry_ms=30))))
    node.ack_all([node.delivery(receive(1))])
    assert node.machine.next_due_unix_ns() is not None
    node.entry(after_ms=10)
    assert node.stats().expired == 0
    node.entry(after_ms=20)
    assert (node.stats().expired, node.machine.next_due_unix_ns()) == (1, None)


def test_machine_keeps_no_span_of_messages_that_are_long_gone() -> None:
    node = Node()
    for request in range(500):
        node.entry(publish(runs=(Run(1, expiry_ms=1_000_000 + 10 * request),)))
        node.ack_all([node.delivery(receive(request=request))])
    assert node.machine.next_due_unix_ns() is not None
    queue = node.machine._channels.named("c")
    assert queue is not None
    assert len(queue.timetable._heap) <= timetable.SLACK + 2
