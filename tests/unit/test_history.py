"""The checker of the fault tests finds every kind of fault, and nothing in a history without one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fault.history import Ack, Delivery, History, Kind, Outcome, Send, body_of, check, read, value_of, write


def clean() -> History:
    """Two producers, four messages in one queue, one of them delivered twice before its ack."""
    return History(
        sends=[
            Send("a", 1, Outcome.CONFIRMED, 10, 20, 1),
            Send("b", 1, Outcome.CONFIRMED, 12, 22, 2),
            Send("a", 2, Outcome.CONFIRMED, 30, 40, 3),
            Send("b", 2, Outcome.UNKNOWN, 31, 45),
            Send("b", 3, Outcome.REFUSED, 50, 51),
        ],
        deliveries=[
            Delivery(1, "a", 1, 1, 50),
            Delivery(2, "b", 1, 1, 51),
            Delivery(3, "a", 2, 1, 52),
            Delivery(3, "a", 2, 2, 60),
            Delivery(4, "b", 2, 1, 53),
        ],
        acks=[Ack(1, 1, 55, 65), Ack(2, 1, 56, 66), Ack(3, 2, 61, 67), Ack(4, 1, 61, 0)],
    )


def kinds(history: History, last_sequence: int | None = None) -> set[Kind]:
    """The kinds of fault that the checker finds."""
    return {violation.kind for violation in check(history, last_sequence)}


def test_check_clean_history_finds_nothing() -> None:
    assert check(clean(), 4) == []


def test_check_unknown_send_undelivered_finds_nothing() -> None:
    history = clean()
    history.deliveries = [delivery for delivery in history.deliveries if delivery.value != ("b", 2)]
    history.acks.pop()
    assert check(history, 3) == []


def test_check_confirmed_undelivered_is_lost() -> None:
    history = clean()
    history.deliveries = [delivery for delivery in history.deliveries if delivery.sequence != 2]
    assert kinds(history) == {Kind.LOST}


def test_check_delivery_of_nothing_sent_is_unexpected() -> None:
    history = clean()
    history.deliveries.append(Delivery(5, "c", 1, 1, 70))
    assert kinds(history) == {Kind.UNEXPECTED}


def test_check_refused_but_delivered_is_visible() -> None:
    history = clean()
    history.deliveries.append(Delivery(5, "b", 3, 1, 70))
    assert kinds(history) == {Kind.REFUSED_VISIBLE}


def test_check_value_at_two_sequences_is_enqueued_twice() -> None:
    history = clean()
    history.deliveries.append(Delivery(5, "b", 2, 1, 70))
    assert Kind.ENQUEUED_TWICE in kinds(history)


def test_check_two_values_at_one_sequence_is_shared() -> None:
    history = clean()
    history.sends.append(Send("c", 1, Outcome.UNKNOWN, 10, 0))
    history.deliveries.append(Delivery(4, "c", 1, 2, 70))
    assert kinds(history) == {Kind.SEQUENCE_SHARED}


def test_check_two_confirms_of_one_sequence_is_shared() -> None:
    history = clean()
    history.sends[3] = Send("b", 2, Outcome.CONFIRMED, 31, 45, 3)
    history.deliveries[-1] = Delivery(3, "b", 2, 1, 53)
    assert Kind.SEQUENCE_SHARED in kinds(history)


def test_check_confirmed_elsewhere_is_misplaced() -> None:
    history = clean()
    history.sends[2] = replace(history.sends[2], sequence=9)
    assert kinds(history) == {Kind.MISPLACED}


@pytest.mark.parametrize("delivery_count", [1, 2])
def test_check_delivery_after_completed_ack_is_redelivered(delivery_count: int) -> None:
    history = clean()
    history.deliveries.append(Delivery(1, "a", 1, delivery_count, 66))
    assert kinds(history) == {Kind.REDELIVERED}


def test_check_delivery_before_ack_completed_is_allowed() -> None:
    history = clean()
    history.deliveries.append(Delivery(1, "a", 1, 2, 64))
    assert check(history) == []


def test_check_delivery_after_unfinished_ack_is_allowed() -> None:
    history = clean()
    history.deliveries.append(Delivery(4, "b", 2, 2, 90))
    assert check(history) == []


def test_check_older_delivery_late_after_ack_is_allowed() -> None:
    history = clean()
    history.deliveries.append(Delivery(3, "a", 2, 1, 80))
    assert check(history) == []


def test_check_swapped_sequences_break_producer_order() -> None:
    history = History(
        sends=[Send("a", 1, Outcome.CONFIRMED, 10, 40, 2), Send("a", 2, Outcome.CONFIRMED, 11, 40, 1)],
        deliveries=[Delivery(2, "a", 1, 1, 50), Delivery(1, "a", 2, 1, 50)],
    )
    assert kinds(history, 2) == {Kind.PRODUCER_ORDER}


def test_check_swapped_unconfirmed_deliveries_break_producer_order() -> None:
    history = History(
        sends=[Send("a", 1, Outcome.UNKNOWN, 10, 0), Send("a", 2, Outcome.UNKNOWN, 11, 0)],
        deliveries=[Delivery(2, "a", 1, 1, 50), Delivery(1, "a", 2, 1, 50)],
    )
    assert kinds(history) == {Kind.PRODUCER_ORDER}


def test_check_later_send_with_lower_sequence_breaks_real_time_order() -> None:
    history = History(
        sends=[Send("a", 1, Outcome.CONFIRMED, 10, 20, 2), Send("b", 1, Outcome.CONFIRMED, 30, 40, 1)],
        deliveries=[Delivery(2, "a", 1, 1, 50), Delivery(1, "b", 1, 1, 50)],
    )
    assert kinds(history) == {Kind.REAL_TIME_ORDER}


def test_check_sequence_nobody_got_is_a_hole() -> None:
    assert kinds(clean(), 5) == {Kind.HOLE}


def test_check_many_faults_of_one_kind_are_counted() -> None:
    history = History(sends=[Send("a", number, Outcome.CONFIRMED, number, 99, number) for number in range(1, 9)])
    found = check(history)
    assert len(found) == 6
    assert str(found[-1]) == f"{Kind.LOST.value}: and 3 more"


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_check_random_damage_to_a_clean_run_is_always_found(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 12))
    sends = [Send("a", number, Outcome.CONFIRMED, 10 * number, 10 * number + 5, number) for number in range(1, count + 1)]
    deliveries = [Delivery(number, "a", number, 1, 1000 + number) for number in range(1, count + 1)]
    acks = [Ack(number, 1, 2000, 3000) for number in range(1, count + 1)]
    history = History(sends, deliveries, acks)
    assert check(history, count) == []
    position = data.draw(st.integers(0, count - 1))
    match data.draw(st.sampled_from(["drop", "repeat", "move"])):
        case "drop":
            del history.deliveries[position]
        case "repeat":
            history.deliveries.append(replace(deliveries[position], delivery_count=2, time_ns=4000))
        case _:
            history.deliveries[position] = replace(deliveries[position], sequence=count + 1)
    assert check(history, count) != []


def test_write_then_read_gives_the_same_history(tmp_path: Path) -> None:
    write(tmp_path / "history", clean())
    assert read(tmp_path / "history") == clean()


def test_read_unknown_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "history").write_text("nonsense 1 2\n")
    with pytest.raises(AssertionError, match="nonsense"):
        read(tmp_path / "history")


def test_body_carries_its_value() -> None:
    body = body_of(("a", 17), 100)
    assert len(body) == 100
    assert value_of(body) == ("a", 17)


def test_body_of_others_is_a_value_nobody_sent() -> None:
    assert value_of(b"hello") == ("not ours: b'hello'", 0)


def test_histories_are_added() -> None:
    both = clean() + clean()
    assert (len(both.sends), len(both.deliveries), len(both.acks)) == (10, 10, 8)
    assert len(both.confirmed) == 6
