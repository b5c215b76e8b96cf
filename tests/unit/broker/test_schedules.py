"""Recurring messages: when they come, what refuses them, and how long the entry with their body is needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest

from tests.unit.broker.builders import (
    MILLISECOND,
    START,
    Node,
    acked_by,
    origins,
    publish,
    ranges,
    receipts_of,
    receive,
    ruled,
    scheduled,
)
from zmqbroker.broker import Machine, MachineLimits
from zmqbroker.broker.schedules import Schedule
from zmqbroker.broker.snapshot import entry_index
from zmqbroker.commands import (
    ChannelSettings,
    CreateChannel,
    CreateSchedule,
    DeleteChannel,
    DeleteSchedule,
    Plan,
    Result,
    Run,
    ScheduleChanged,
    SetDefaults,
    Tick,
)
from zmqbroker.errors import Busy, Corruption, InvalidRequest, ScheduleExists, ScheduleNotFound

HOUR_MS = 3_600_000
MINUTE = 60_000 * MILLISECOND


def made(command: CreateSchedule, limits: MachineLimits | None = None) -> Node:
    """A node with a schedule, made at START."""
    node = Node(limits)
    assert node.result(command) == ScheduleChanged(command.name, changed=True)
    return node


def schedule_of(node: Node, name: str = "s") -> Schedule:
    return next(schedule for schedule in node.machine.schedules() if schedule.name == name)


def instants(node: Node, upto_ms: int, step_ms: int = 100) -> list[int]:
    """When messages came to channel c, in ms from now, looking every `step_ms`."""
    found: list[int] = []
    stats = node.machine.stats("c")
    count = stats.last_sequence if stats else 0
    for at in range(step_ms, upto_ms + 1, step_ms):
        node.entry(Tick(), after_ms=step_ms)
        stats = node.machine.stats("c")
        if stats is not None and stats.last_sequence > count:
            count = stats.last_sequence
            found.append(at)
    return found


# --- when ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ({"every_ms": 1000}, [1000, 2000, 3000, 4000, 5000]),
        ({"every_ms": 2000, "delay_ms": 300}, [300, 2300, 4300]),
        ({"every_ms": 1500, "first_unix_ns": START + 700 * MILLISECOND}, [700, 2200, 3700]),
        ({"every_ms": 1500, "first_unix_ns": START - 700 * MILLISECOND}, [800, 2300, 3800]),
        ({"every_ms": 1500, "first_unix_ns": START - 3000 * MILLISECOND}, [100, 1500, 3000, 4500]),
        ({"every_ms": 1000, "times": 2}, [1000, 2000]),
        ({"every_ms": 1000, "until_unix_ns": START + 3000 * MILLISECOND}, [1000, 2000, 3000]),
        ({"every_ms": 1000, "until_unix_ns": START + 2999 * MILLISECOND}, [1000, 2000]),
    ],
)
def test_messages_come_at_these_instants(plan: dict[str, Any], expected: list[int]) -> None:
    node = made(scheduled(**plan))
    assert instants(node, 5000) == expected


def test_next_instant_is_what_the_node_wakes_for() -> None:
    node = made(scheduled(every_ms=1000))
    assert node.machine.next_due_unix_ns() == START + 1000 * MILLISECOND
    node.entry(Tick(), after_ms=999)
    assert schedule_of(node).stored == 0
    node.entry(Tick(), after_ms=1)
    assert (schedule_of(node).stored, node.stats().ready) == (1, 1)
    assert node.machine.next_due_unix_ns() == START + 2000 * MILLISECOND


def test_cron_comes_at_whole_minutes_of_utc() -> None:
    node = made(scheduled(cron="*/15 * * * *", times=3))
    first = -(-START // (15 * MINUTE)) * 15 * MINUTE
    for number in range(3):
        assert node.machine.next_due_unix_ns() == first + number * 15 * MINUTE
        node.now_unix_ns = first + number * 15 * MINUTE
        node.entry(Tick())
    assert (node.stats().ready, schedule_of(node).ended) == (3, True)


@pytest.mark.parametrize("plan", [{"every_ms": 1000}, {"cron": "* * * * *"}])
def test_instants_that_nobody_lived_through_are_not_made_up(plan: dict[str, Any]) -> None:
    node = made(scheduled(**plan))
    node.entry(Tick(), after_ms=10 * HOUR_MS + 300)
    assert (node.stats().depth, schedule_of(node).stored) == (1, 1)
    due = node.machine.next_due_unix_ns()
    assert due is not None
    assert due > node.now_unix_ns
    node.now_unix_ns = due
    node.entry(Tick())
    assert node.stats().depth == 2


def test_instant_before_the_end_that_was_missed_still_comes() -> None:
    node = made(scheduled(every_ms=1000, until_unix_ns=START + 1500 * MILLISECOND))
    node.entry(Tick(), after_ms=HOUR_MS)
    assert (node.stats().depth, schedule_of(node).ended) == (1, True)


def test_instants_end_where_they_cannot_be_stored_any_more() -> None:
    node = made(scheduled(every_ms=2**63, first_unix_ns=START))
    node.entry(Tick())
    assert (node.stats().depth, schedule_of(node).ended) == (1, True)


# --- the message -----------------------------------------------------------------------------------------------------


def test_message_is_as_if_it_was_sent_then() -> None:
    node = made(scheduled(every_ms=1000))
    waits = receive(wait_ms=60_000)
    assert node.entry(waits).deliveries == []
    (delivery,) = node.entry(Tick(), after_ms=1000).deliveries
    (piece,) = delivery.pieces
    assert ranges(delivery) == [(1, 1, 1)]
    assert (piece.index, piece.position, piece.size, piece.time_unix_ns) == (1, 16, 1000, START + 1000 * MILLISECOND)
    assert origins(delivery) == [None]
    assert node.ack_all([delivery])
    assert node.stats().depth == 0


def test_message_keeps_its_own_priority_and_expiry_and_the_channel_says_the_rest() -> None:
    node = ruled(delay_ms=20, expiry_ms=500)
    node.entry(scheduled(every_ms=1000, runs=(Run(1, expiry_ms=100, priority=3),)))
    node.entry(Tick(), after_ms=1000)
    assert node.stats().delayed == 1
    node.entry(Tick(), after_ms=100)
    assert node.stats().expired == 1


def test_full_channel_takes_none_and_that_is_counted() -> None:
    node = ruled(max_messages=2)
    node.entry(scheduled(every_ms=1000, times=4), publish())
    instants(node, 3000)
    assert (node.stats().depth, schedule_of(node).stored, schedule_of(node).skipped) == (2, 1, 2)
    assert schedule_of(node).times_left == 1
    node.ack_all([node.delivery(receive(2))])
    node.entry(Tick(), after_ms=1000)
    assert (node.stats().depth, schedule_of(node).stored, schedule_of(node).ended) == (1, 2, True)


def test_full_channel_makes_room_where_its_settings_say_so() -> None:
    node = ruled(max_messages=1, overflow="dead_letter", dead_letter="dead")
    node.entry(scheduled(every_ms=1000))
    instants(node, 3000)
    assert (node.stats().depth, node.stats("dead").depth, schedule_of(node).skipped) == (1, 2, 0)


def test_deleted_channel_is_made_again() -> None:
    node = made(scheduled(every_ms=1000))
    node.entry(Tick(), after_ms=1000)
    node.entry(DeleteChannel("c"))
    assert node.machine.stats("c") is None
    node.entry(SetDefaults("c", {"max_messages": 7}), Tick(), after_ms=1000)
    assert (node.stats().last_sequence, schedule_of(node).stored) == (1, 2)
    queue = node.machine.channel("c")
    assert queue is not None
    assert queue.settings == ChannelSettings()  # it was made at the beginning of the entry, before what that said


def test_channel_that_may_not_be_made_by_its_use_takes_none() -> None:
    node = made(scheduled(every_ms=1000))
    node.entry(SetDefaults(">", {"create_on_use": False}))
    node.entry(Tick(), after_ms=1000)
    assert (node.machine.channels(), schedule_of(node).skipped) == ([], 1)
    node.entry(CreateChannel("c"))
    node.entry(Tick(), after_ms=1000)
    assert (node.stats().ready, schedule_of(node).stored) == (1, 1)


def test_schedules_that_are_due_together_come_in_the_order_in_which_they_were_made() -> None:
    node = made(scheduled("z", every_ms=2000, delay_ms=1000))
    node.entry(scheduled("a", every_ms=2000, delay_ms=500))
    node.entry(Tick(), after_ms=1500)
    assert [piece.index for piece in node.delivery(receive(2)).pieces] == [1, 2]


# --- names, repeats, limits --------------------------------------------------------------------------------------------


def test_the_same_again_changes_nothing() -> None:
    command = scheduled(every_ms=1000, times=5)
    node = made(command)
    node.entry(Tick(), after_ms=500)
    assert node.result(command) == ScheduleChanged("s", changed=False)
    assert node.machine.next_due_unix_ns() == START + 1000 * MILLISECOND
    assert list(node.machine.live_indexes()) == [1]


@pytest.mark.parametrize(
    ("other", "differing", "said"),
    [
        (scheduled(every_ms=2000), ["every_ms"], "every_ms is 1000 and not 2000"),
        (scheduled(cron="* * * * *"), ["cron", "every_ms"], "cron is '' and not '* * * * *'"),
        (scheduled(every_ms=1000, times=1), ["times"], "times is 0 and not 1"),
        (scheduled(channel="d"), ["channel"], "channel is 'c' and not 'd'"),
        (scheduled(checksum=8), ["message"], "message is another one, of 1000 and not 1000 bytes"),
    ],
)
def test_another_one_of_that_name_is_refused_with_what_differs(other: CreateSchedule, differing: list[str], said: str) -> None:
    node = made(scheduled())
    refusal = node.result(other)
    assert isinstance(refusal, ScheduleExists)
    assert refusal.differing == differing
    assert said in str(refusal)


def test_repeat_of_one_that_has_ended_finds_it_for_an_hour() -> None:
    command = scheduled(every_ms=1000, times=1)
    node = made(command)
    node.entry(Tick(), after_ms=1000)
    assert node.result(command, after_ms=HOUR_MS - 1) == ScheduleChanged("s", changed=False)
    assert node.machine.next_due_unix_ns() == node.now_unix_ns + MILLISECOND
    node.entry(Tick(), after_ms=1)
    assert list(node.machine.schedules()) == []
    assert node.result(command) == ScheduleChanged("s", changed=True)
    assert node.stats().depth == 1


def test_delete_ends_it_at_once_and_leaves_what_it_has_sent() -> None:
    node = made(scheduled())
    node.entry(Tick(), after_ms=1000)
    assert node.result(DeleteSchedule("s")) == ScheduleChanged("s", changed=True)
    assert isinstance(node.result(DeleteSchedule("s")), ScheduleNotFound)
    node.entry(Tick(), after_ms=5000)
    assert (node.stats().depth, node.machine.next_due_unix_ns()) == (1, None)


def test_more_than_the_limit_are_refused() -> None:
    node = made(scheduled("a"), MachineLimits(schedules_max=2))
    node.entry(scheduled("b"))
    refusal = node.result(scheduled("c"))
    assert isinstance(refusal, Busy)
    assert "there are 2 schedules" in str(refusal)
    node.entry(DeleteSchedule("a"))
    assert node.result(scheduled("c")) == ScheduleChanged("c", changed=True)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (scheduled(every_ms=999), "every_ms is 999"),
        (scheduled(every_ms=1000, first_unix_ns=1, delay_ms=1), "at most one of them"),
        (scheduled(cron="never"), "cron: 'never' has 1 fields"),
        (scheduled(cron="* * * * *", every_ms=1000), "it says all by itself"),
        (scheduled(every_ms=1000, until_unix_ns=START), "before the schedule falls due once"),
        (scheduled(every_ms=2**63), "before the schedule falls due once"),
        (replace(scheduled(), message=publish(2)), "a schedule has 1 message without a producer, this one 2"),
        (replace(scheduled(), message=publish(producer=3, base=1)), "without a producer"),
    ],
)
def test_what_no_node_should_have_proposed_is_refused_and_changes_nothing(command: CreateSchedule, said: str) -> None:
    node = Node()
    before = node.machine.items()
    refusal: Result = node.result(command)
    assert isinstance(refusal, InvalidRequest)
    assert said in str(refusal)
    assert [item for item in node.machine.items() if item[0][0]] == [item for item in before if item[0][0]]
    assert node.machine.lowest_live_index() is None


# --- the body ----------------------------------------------------------------------------------------------------------


def test_entry_with_the_body_lives_as_long_as_the_schedule_or_a_message_of_it() -> None:
    node = made(scheduled(every_ms=1000))
    assert (node.machine.lowest_live_index(), node.machine.is_live(1)) == (1, True)
    node.entry(Tick(), after_ms=1000)
    delivery = node.delivery(receive())
    node.entry(acked_by(delivery))
    assert node.machine.is_live(1)
    node.entry(Tick(), after_ms=1000)
    node.entry(DeleteSchedule("s"))
    assert list(node.machine.live_indexes()) == [1]
    last = node.delivery(receive(request=2))
    assert receipts_of(last)
    node.entry(acked_by(last))
    assert not node.machine.is_live(1)


def test_key_of_a_schedule_tells_its_entry() -> None:
    node = Node()
    node.entry(Tick())
    node.entry(publish(), scheduled())
    ((key, value),) = [item for item in node.machine.items() if item[0][0] == 11]
    assert entry_index(key, value) == 2
    assert node.machine.describe(key) == f"schedule {2 << 16 | 1}"


def test_lost_body_ends_the_schedule() -> None:
    node = made(scheduled())
    node.entry(scheduled("t"))
    node.entry(Tick(), after_ms=1000)
    assert node.machine.lose(lambda index: index == 1) == 1
    assert [schedule.name for schedule in node.machine.schedules()] == ["t"]
    assert list(node.machine.live_indexes()) == [2]
    assert node.stats().dropped == 1


# --- storing ---------------------------------------------------------------------------------------------------------


def test_value_never_changes_its_bytes() -> None:
    node = made(scheduled(every_ms=1000, times=3, runs=(Run(1, 0, 5, 9),)))
    node.entry(Tick(), after_ms=1000)
    (value,) = [value for key, value in node.machine.items() if key[0] == 11]
    plan = [1000, 0, 0, "", 3, 0]
    assert msgpack.unpackb(value) == ["s", "c", 16, 1000, 10, [[1, 0, 5, 9, ""]], 7, plan, START + 2000 * MILLISECOND, 0, 1, 0]


def test_schedule_survives_a_restart_and_goes_on() -> None:
    node = made(scheduled(every_ms=1000, times=3))
    node.entry(scheduled("e", every_ms=1000, times=1, channel="d"))
    node.entry(Tick(), after_ms=1500)
    before = node.machine.digest(), node.machine.next_due_unix_ns()
    node.restart()
    assert (node.machine.digest(), node.machine.next_due_unix_ns()) == before
    assert node.machine.changes() == []
    assert list(node.machine.live_indexes()) == [1, 2]
    assert instants(node, 3000) == [500, 1500]
    assert isinstance(node.result(scheduled("e", every_ms=1000)), ScheduleExists)


def test_changes_are_those_of_the_schedule_alone() -> None:
    node = ruled(max_messages=1)
    node.entry(publish(), scheduled())
    node.machine.changes()
    node.entry(Tick(), after_ms=1000)
    assert [key[0] for key, _ in node.machine.changes()] == [0, 1, 11]
    node.entry(DeleteSchedule("s"))
    assert [(key[0], value) for key, value in node.machine.changes() if key[0] == 11] == [(11, None)]


def stored(*, number: int = 1 << 16, **changed: object) -> list[tuple[bytes, bytes]]:
    """The state of a node with one schedule, parts of whose value are others."""
    node = made(scheduled())
    items = node.machine.items()
    names = (
        "name",
        "channel",
        "position",
        "size",
        "body_bytes",
        "runs",
        "checksum",
        "plan",
        "instant",
        "ended",
        "stored",
        "more",
    )
    values = dict(zip(names, msgpack.unpackb(items[-1][1]), strict=True)) | changed
    return [*items[:-1], (b"\x0b" + number.to_bytes(8, "big"), msgpack.packb(list(values.values())))]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"plan": [1000, 0, 0, "", 0]}, None),
        ({"plan": [0, 0, 0, "", 0, 0]}, "without a time"),
        ({"plan": [1000, 0, 0, "", 0, 0, 0]}, "cannot be read"),
        ({"instant": "x"}, "cannot be read"),
        ({"ended": True}, "cannot be read"),
        ({"runs": [[1, 2, 3, 4, "g", 5]]}, "cannot be read"),
        ({"runs": [[1, 2, 3, 4, 5]]}, "cannot be read"),
        ({"another": 1}, "cannot be read"),
    ],
)
def test_damaged_value_is_refused(changed: dict[str, Any], said: str | None) -> None:
    if said is None:
        assert Machine.restore(1, stored(**changed)).next_due_unix_ns() == START + 1000 * MILLISECOND
        return
    with pytest.raises(Corruption, match=said):
        Machine.restore(1, stored(**changed))


def test_two_of_one_name_are_refused() -> None:
    items = [*stored(), stored(number=2 << 16)[-1]]
    with pytest.raises(Corruption, match="schedule 's' twice"):
        Machine.restore(2, items)


def test_plan_says_what_it_says() -> None:
    assert Plan(1000, times=2).said() == {"every_ms": 1000, "times": 2}
    assert Plan(cron="* * * * *").said() == {"cron": "* * * * *"}
