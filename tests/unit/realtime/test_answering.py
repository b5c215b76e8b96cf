"""Calls at their responders' node: who is given what, who may answer, and what the caller's node hears."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqbroker.realtime import answering
from zmqbroker.realtime.answering import Asked, Push, Report, Responders, Withdrawal
from zmqbroker.realtime.asking import Failure
from zmqbroker.realtime.deadlines import STEP_NS

NODE, OTHER = b"node", b"other"
NOBODY, GIVEN, BUSY = Failure(given=False, busy=False), Failure(given=True, busy=False), Failure(given=False, busy=True)


def ask(responders: Responders, number: int, *groups: str, origin: bytes = NODE, deadline_ns: int = STEP_NS) -> None:
    responders.ask(origin, number, "c", groups or ("",), deadline_ns, f"call {number}", 10)


def pushed(responders: Responders) -> list[tuple[int, bytes, int]]:
    """What was pushed since this was last asked: number here, connection, number at the caller's node."""
    found = [(push.number, push.responder.connection, push.asked.number) for push in responders.pushes]
    responders.pushes.clear()
    return found


def taken(what: list[Withdrawal]) -> list[tuple[bytes, int]]:
    found = [(each.responder.connection, each.number) for each in what]
    what.clear()
    return found


def reported(responders: Responders) -> list[Report]:
    found = list(responders.reports)
    responders.reports.clear()
    return found


def test_call_goes_to_all_responders_without_a_group_and_to_one_of_each_group() -> None:
    responders = Responders()
    for place, group in enumerate(("", "", "g", "g", "h")):
        responders.join("c", group, b"r%d" % place, 7, 10)
    responders.join("d", "", b"elsewhere", 1, 10)
    ask(responders, 1, "", "g")
    ask(responders, 2, "", "g", "none")
    assert [(connection, number) for _, connection, number in pushed(responders)] == [
        *((b"r0", 1), (b"r1", 1), (b"r2", 1)),
        *((b"r0", 2), (b"r1", 2), (b"r3", 2)),
    ]
    assert reported(responders) == []


def test_call_is_owned_by_the_first_that_answers_and_taken_back_from_the_others() -> None:
    responders = Responders()
    for name in (b"a", b"b"):
        responders.join("c", "", name, 1, 10)
    ask(responders, 5)
    (first, _, _), (second, _, _) = pushed(responders)
    asked = responders.answered(b"b", second, last=False)
    assert asked is not None
    assert (asked.origin, asked.number, asked.parts, asked.payload) == (NODE, 5, 1, "call 5")
    assert taken(responders.withdrawals) == [(b"a", first)]
    assert responders.answered(b"a", first, last=True) is None
    assert responders.answered(b"a", second, last=True) is None, "somebody else's"
    again = responders.answered(b"b", second, last=True)
    assert again is asked
    assert asked.parts == 2
    assert responders.answered(b"b", second, last=True) is None, "answered twice"
    assert responders.holding_since(responders.newest) == []


def test_call_for_nobody_is_reported_at_once_as_given_to_nobody() -> None:
    responders = Responders()
    ask(responders, 1)
    ask(responders, 2, "g")
    assert reported(responders) == [Report(NODE, 1, NOBODY), Report(NODE, 2, NOBODY)]


def test_call_asked_twice_is_given_once() -> None:
    responders = Responders()
    responders.join("c", "", b"a", 1, 10)
    ask(responders, 1)
    ask(responders, 1)
    ask(responders, 1, origin=OTHER)
    assert len(pushed(responders)) == 2


def test_calls_over_the_credit_wait_in_their_order_and_go_to_whoever_has_room() -> None:
    responders = Responders()
    responders.join("c", "g", b"a", 1, 1)
    responders.join("c", "g", b"b", 1, 2)
    for number in range(1, 7):
        ask(responders, number, "g")
    given_ = pushed(responders)
    assert [(connection, number) for _, connection, number in given_] == [(b"a", 1), (b"b", 2), (b"b", 3)]
    responders.answered(b"b", given_[1][0], last=False)
    assert pushed(responders) == []
    responders.answered(b"b", given_[1][0], last=True)
    responders.cancel(NODE, 5)
    responders.answered(b"a", given_[0][0], last=True)
    assert [(connection, number) for _, connection, number in pushed(responders)] == [(b"b", 4), (b"a", 6)]
    responders.join("c", "g", b"new", 1, 5)
    assert pushed(responders) == []


def test_call_that_is_answered_waits_nowhere_any_more() -> None:
    responders = Responders()
    for name, credit in ((b"a", 2), (b"b", 1)):
        responders.join("c", "", name, 1, credit)
    ask(responders, 1)
    ask(responders, 2)
    (_, _, _), (at_b, _, _), (at_a, connection, number) = pushed(responders)
    assert (connection, number) == (b"a", 2)
    responders.answered(b"a", at_a, last=True)
    responders.answered(b"b", at_b, last=True)
    assert pushed(responders) == [], "the second call is over before its other responder has room"


def test_body_of_a_call_is_kept_as_long_as_somebody_may_be_given_it() -> None:
    responders = Responders()
    for name, credit in ((b"a", 2), (b"b", 1)):
        responders.join("c", "", name, 1, credit)
    ask(responders, 1)
    ask(responders, 2)
    first, _, waiting = responders.pushes
    for push in (first, waiting):
        push.asked.delivered()
    assert (first.asked.payload, waiting.asked.payload) == (None, "call 2"), "the other responder has no room for it yet"


def test_calls_that_wait_go_to_a_responder_that_comes() -> None:
    responders = Responders()
    responders.join("c", "g", b"a", 1, 1)
    for number in (1, 2, 3):
        ask(responders, number, "g")
    pushed(responders)
    responders.join("c", "g", b"b", 1, 1)
    assert [(connection, number) for _, connection, number in pushed(responders)] == [(b"b", 2)]


def test_call_with_no_room_to_wait_is_reported_as_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "WAITING_BYTES_MAX", 25)
    responders = Responders()
    responders.join("c", "", b"a", 1, 1)
    for number in (1, 2, 3, 4):
        ask(responders, number)
    assert reported(responders) == [Report(NODE, 4, BUSY)]
    responders.cancel(NODE, 2)
    ask(responders, 5)
    assert reported(responders) == []
    monkeypatch.setattr(answering, "WAITING_COUNT_MAX", 2)
    ask(responders, 6)
    assert reported(responders) == [Report(NODE, 6, BUSY)]


def test_call_whose_responder_goes_is_reported_when_nobody_else_could_answer() -> None:
    responders = Responders()
    responders.join("c", "", b"a", 1, 10)
    responders.join("c", "", b"b", 1, 10)
    ask(responders, 1)
    numbers = {connection: number for number, connection, _ in pushed(responders)}
    responders.gone(b"a")
    assert reported(responders) == []
    responders.gone(b"b")
    responders.gone(b"b")
    assert reported(responders) == [Report(NODE, 1, GIVEN)]
    assert responders.answered(b"b", numbers[b"b"], last=True) is None


def test_responder_that_takes_no_more_calls_may_answer_those_that_it_has() -> None:
    responders = Responders()
    responders.join("c", "g", b"a", 1, 1)
    for number in (1, 2):
        ask(responders, number, "g")
    ((held, _, _),) = pushed(responders)
    responders.leave(b"a", 1)
    assert reported(responders) == [Report(NODE, 2, NOBODY)]
    responders.join("c", "g", b"a", 1, 1)
    ask(responders, 3, "g")
    assert [each[2] for each in pushed(responders)] == [3]
    answered = responders.answered(b"a", held, last=True)
    assert answered is not None
    assert answered.number == 1
    assert reported(responders) == []


def test_responder_that_takes_no_more_calls_is_forgotten_when_it_has_none_or_is_gone() -> None:
    responders = Responders()
    responders.join("c", "", b"a", 1, 2)
    ask(responders, 1)
    ((held, _, _),) = pushed(responders)
    responders.leave(b"a", 1)
    responders.answered(b"a", held, last=True)
    assert b"a" not in responders._connections
    responders.join("c", "", b"b", 1, 2)
    ask(responders, 2)
    responders.leave(b"b", 1)
    responders.gone(b"b")
    assert reported(responders) == [Report(NODE, 2, GIVEN)]
    responders.join("c", "", b"c", 1, 2)
    responders.leave(b"c", 1)
    assert not responders._connections


def test_call_whose_owner_goes_in_the_middle_of_its_answer_is_reported() -> None:
    responders = Responders()
    for name in (b"a", b"b"):
        responders.join("c", "", name, 1, 10)
    ask(responders, 1)
    (number, _, _), _ = pushed(responders)
    responders.answered(b"a", number, last=False)
    responders.gone(b"b")
    assert reported(responders) == []
    responders.gone(b"a")
    assert reported(responders) == [Report(NODE, 1, GIVEN)]


def test_calls_that_wait_for_a_group_that_ends_were_given_to_nobody() -> None:
    responders = Responders()
    responders.join("c", "g", b"a", 1, 1)
    for number in (1, 2):
        ask(responders, number, "g")
    responders.gone(b"a")
    assert sorted(reported(responders)) == [Report(NODE, 1, GIVEN), Report(NODE, 2, NOBODY)]


def test_call_that_waits_elsewhere_too_is_not_over_when_one_seat_ends() -> None:
    responders = Responders()
    responders.join("c", "g", b"a", 1, 1)
    responders.join("c", "h", b"b", 1, 1)
    ask(responders, 1, "g", "h")
    ask(responders, 2, "g", "h")
    (_, _, _), (held, _, _) = pushed(responders)
    responders.gone(b"a")
    assert reported(responders) == []
    responders.answered(b"b", held, last=True)
    assert [(connection, number) for _, connection, number in pushed(responders)] == [(b"b", 2)]


def test_call_that_never_reached_its_responder_goes_to_another_member_of_the_group() -> None:
    responders = Responders()
    responders.join("c", "g", b"a", 1, 10)
    responders.join("c", "g", b"b", 1, 10)
    ask(responders, 1, "g")
    ((number, connection, _),) = pushed(responders)
    responders.gone(connection, [number])
    ((again, other, _),) = pushed(responders)
    assert other != connection
    responders.gone(other, [again])
    assert reported(responders) == [Report(NODE, 1, NOBODY)]


def test_call_that_its_responder_has_no_room_to_read_is_reported_as_busy() -> None:
    responders = Responders()
    responders.join("c", "", b"a", 1, 1)
    ask(responders, 1)
    ((number, _, _),) = pushed(responders)
    responders.bounced(number)
    assert reported(responders) == [Report(NODE, 1, BUSY)]


def test_call_that_is_over_for_its_caller_is_taken_back_everywhere() -> None:
    responders = Responders()
    responders.join("c", "", b"a", 1, 1)
    for number in (1, 2, 3):
        ask(responders, number)
    ask(responders, 4, origin=OTHER)
    ((number, _, _),) = pushed(responders)
    responders.cancel(NODE, 2)
    responders.cancel(NODE, 99)
    responders.cancel(b"unknown", 1)
    responders.cancel(NODE, 1)
    assert taken(responders.withdrawals) == [(b"a", number)]
    assert [each[2] for each in pushed(responders)] == [3]
    responders.node_gone(NODE)
    assert len(taken(responders.withdrawals)) == 1
    ((last, _, at_other),) = pushed(responders)
    assert at_other == 4
    responders.expire(3 * STEP_NS)
    assert taken(responders.withdrawals) == [(b"a", last)]
    assert reported(responders) == []
    responders.node_gone(NODE)


def seats_of(responders: Responders) -> list[answering.Seat]:
    alone = [seat for seats in responders._alone.values() for seat in seats]
    return [*alone, *responders._groups.values()]


def check(responders: Responders, open_: dict[tuple[bytes, int], None]) -> None:
    """What must be true after every step."""
    held = [responder for _, responder in responders._given.values()]
    for seat in seats_of(responders):
        assert seat.members
        assert all(len(member.held) <= member.credit for member in seat.members)
        assert not seat.waiting or all(len(member.held) == member.credit for member in seat.members), (
            "waits though there is room"
        )
    waiting = [asked for seat in seats_of(responders) for asked in seat.waiting]
    assert responders._waiting_count == len(waiting)
    assert all(not asked.owner for asked in waiting), "a call that is over, or owned, waits for somebody else"
    assert responders._waiting_bytes == sum(asked.size for asked in waiting)
    everybody = {id(each): each for mine in responders._connections.values() for each in mine}
    assert sum(len(each.held) for each in everybody.values()) == len(held)
    assert all(each.active or each.held for each in everybody.values()), "forgotten when it has nothing to do any more"
    known: dict[tuple[bytes, int], Asked] = {
        (origin, number): asked for origin, mine in responders._origins.items() for number, asked in mine.items()
    }
    assert known.keys() == open_.keys()
    assert all(asked.holders or asked.seats for asked in known.values()), "a call that nobody has and nobody reported"


GROUPS = ("", "g", "h")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            (
                "join",
                "join",
                "leave",
                "drop",
                "refuse",
                "ask",
                "ask",
                "ask",
                "answer",
                "answer",
                "part",
                "cancel",
                "gone",
                "expire",
            )
        ),
        st.integers(0, 5),
        st.sampled_from(GROUPS),
    ),
    max_size=60,
)


@given(STEPS)
def test_responders_lose_no_call_and_never_have_more_than_their_credit(steps: list[tuple[str, int, str]]) -> None:
    responders = Responders()
    open_: dict[tuple[bytes, int], None] = {}
    numbers = 0
    members: set[tuple[int, str]] = set()
    delivered: dict[int, Push] = {}

    def settle() -> None:
        for push in responders.pushes:
            delivered[push.number] = push
        responders.pushes.clear()
        for report in responders.reports:
            del open_[report.origin, report.number]
        responders.reports.clear()
        for withdrawal in responders.withdrawals:
            del delivered[withdrawal.number]
        responders.withdrawals.clear()

    for now, (what, number, group) in enumerate(steps):
        origin = NODE if number % 2 else OTHER
        match what:
            case "join" if (number, group) not in members:
                members.add((number, group))
                responders.join("c", group, b"r%d" % number, GROUPS.index(group), 1 + number % 2)
            case "leave":
                members.discard((number, group))
                responders.leave(b"r%d" % number, GROUPS.index(group))
            case "drop" | "refuse":
                members -= {(number, each) for each in GROUPS}
                mine = [key for key, push in delivered.items() if push.responder.connection == b"r%d" % number]
                for each in mine:
                    del delivered[each]
                responders.gone(b"r%d" % number, mine if what == "refuse" else ())
            case "ask":
                numbers += 1
                open_[origin, numbers] = None
                responders.ask(
                    origin, numbers, "c", ("", "g") if number % 3 else (group,), (now + number) * STEP_NS, None, number
                )
            case "answer" | "part" if delivered:
                push: Push = delivered[sorted(delivered)[number % len(delivered)]]
                asked = responders.answered(push.responder.connection, push.number, last=what == "answer")
                assert asked is push.asked
                if what == "answer":
                    del open_[asked.origin, asked.number], delivered[push.number]
            case "cancel" if open_:
                given_up = list(open_)[number % len(open_)]
                del open_[given_up]
                responders.cancel(*given_up)
            case "gone":
                responders.node_gone(origin)
                open_ = {key: None for key in open_ if key[0] != origin}
            case "expire":
                before = {(asked.origin, asked.number) for mine in responders._origins.values() for asked in mine.values()}
                responders.expire(now * STEP_NS)
                after = {(asked.origin, asked.number) for mine in responders._origins.values() for asked in mine.values()}
                for due in before - after:
                    del open_[due]
        settle()
        check(responders, open_)


def test_responders_that_have_had_a_call_for_long_are_told_once_each() -> None:
    responders = Responders()
    responders.join("c", "", b"a", 1, 10)
    ask(responders, 1)
    ask(responders, 2)
    newest = responders.newest
    responders.join("c", "", b"b", 1, 10)
    ask(responders, 3)
    assert [each.connection for each in responders.holding_since(newest)] == [b"a"]
    assert [each.connection for each in responders.holding_since(responders.newest)] == [b"a", b"b"]


def test_responder_that_leaves_one_channel_goes_on_in_another() -> None:
    responders = Responders()
    responders.join("c", "", b"a", 1, 10)
    responders.join("d", "", b"a", 2, 10)
    responders.leave(b"a", 3)
    responders.leave(b"a", 2)
    ask(responders, 1)
    assert [connection for _, connection, _ in pushed(responders)] == [b"a"]
