"""Golden bytes of defaults and schedules."""

from __future__ import annotations

from tests.conformance.test_golden_frames import BEAT, GOLDEN, NIGHTLY, SAID, TREATED, plain
from tests.conformance.test_golden_later import client_items
from zmqbroker.commands import CreateChannel, CreateSchedule, DeleteSchedule, NewSchedule, Plan, Publish, SetDefaults
from zmqbroker.errors import ScheduleExists, error_from_wire
from zmqbroker.wire import codec
from zmqbroker.wire.entries import EntryBuilder, decode_entry
from zmqbroker.wire.frames import Reply, error_fields

FRAME = TREATED[2]


def applied(data: bytes, name: str, plan: Plan, after: int) -> CreateSchedule:
    """A schedule as nodes apply it, whose frame is the first one behind an offset of the entry."""
    position = data.index(FRAME, after)
    checksum = int.from_bytes(FRAME[4:8], "little")
    return CreateSchedule(name, plan, Publish(codec.read_batch(FRAME), position, len(FRAME)), checksum)


def test_golden_rules_entry_both_ways() -> None:
    golden = GOLDEN["rules_entry"]
    data = bytes.fromhex(golden["data"])
    first = applied(data, "nightly", NIGHTLY, 0)
    second = applied(data, "beat", BEAT, first.message.position + 1)
    channel = CreateChannel("orders", SAID, ("expiry_ms", "overflow"))
    defaults = (
        SetDefaults("orders.>", {"delivery_limit": 5, "create_on_use": False}),
        SetDefaults("orders.*"),
        SetDefaults(">", {"create_on_use": False}, keep=True),
    )
    commands = (*defaults, first, second, DeleteSchedule("nightly"), channel)
    assert [item["name"] for item in golden["commands"]] == [type(command).__name__ for command in commands]
    assert decode_entry(data) == (4, golden["time_unix_ns"], commands)
    builder = EntryBuilder()
    for command in commands:
        builder.add(NewSchedule(command.name, command.plan, FRAME) if isinstance(command, CreateSchedule) else command)
    assert builder.build(golden["time_unix_ns"]) == data


def test_golden_error_of_a_schedule_is_the_value_it_stands_for() -> None:
    found = {item["fields"]["code"]: plain(item["fields"]) for item in client_items(Reply.ERROR.name)}
    exists = error_from_wire(found["SCHEDULE_EXISTS"])
    assert isinstance(exists, ScheduleExists)
    assert exists.differing == ["every_ms"]
    assert error_fields(exists) == found["SCHEDULE_EXISTS"]
