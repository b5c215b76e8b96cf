"""The payload of a Raft entry: docs/PROTOCOL.md §9."""

from __future__ import annotations

import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.samples import batches, damaged
from zmqbroker.commands import (
    STARTS,
    Ack,
    ChannelSettings,
    Close,
    Command,
    CreateChannel,
    CreateSchedule,
    DeleteChannel,
    DeleteMessages,
    DeleteSchedule,
    Extend,
    Nack,
    NewSchedule,
    OpenConsumer,
    OpenProducer,
    Plan,
    Publish,
    Purge,
    Receipt,
    Receive,
    ReceiveKey,
    Redrive,
    Reject,
    Requeue,
    ResetConsumer,
    Run,
    SetDefaults,
    TakeAudit,
    Tick,
    Trim,
    UpdateChannel,
)
from zmqbroker.errors import LocalProtocolError, MalformedFrame, UnsupportedVersion
from zmqbroker.wire import codec
from zmqbroker.wire.columns import Treatment, add_columns
from zmqbroker.wire.command_shapes import SmallCommand
from zmqbroker.wire.entries import COMMANDS_MAX, EntryBuilder, decode_entry

U64 = st.integers(0, 2**64 - 1)
SESSION = st.binary(min_size=16, max_size=16)
CHANNEL = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
RECEIPTS = st.lists(st.builds(Receipt, U64, U64, U64), max_size=3).map(tuple)
HELD = (SESSION, CHANNEL, RECEIPTS)
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
SETTINGS = st.builds(ChannelSettings, U64, TEXT, U64, U64, U64, U64, TEXT, U64)
PLANS = st.builds(Plan, U64, U64, U64, TEXT, U64, U64)
PLACE = (CHANNEL, CHANNEL, st.sampled_from(STARTS), U64)
SAIDS = st.fixed_dictionaries({}, optional={"delay_ms": U64, "overflow": TEXT, "create_on_use": st.booleans()})
FRAMES = batches().map(lambda arguments: codec.encode_batch(**arguments))
SMALL: st.SearchStrategy[SmallCommand] = st.one_of(
    st.builds(OpenProducer, CHANNEL, U64, U64),
    st.builds(Receive, st.builds(ReceiveKey, SESSION, U64, U64), CHANNEL, U64, U64, U64, U64, U64, U64),
    st.builds(Ack, *HELD),
    st.builds(Close, SESSION, st.none() | U64),
    st.just(Tick()),
    st.builds(Trim, U64),
    st.just(TakeAudit()),
    st.builds(Nack, *HELD, U64, st.booleans()),
    st.builds(Reject, *HELD, TEXT),
    st.builds(Requeue, *HELD, CHANNEL),
    st.builds(Extend, *HELD, U64),
    st.builds(Purge, CHANNEL, st.booleans()),
    st.builds(DeleteMessages, CHANNEL, st.lists(st.tuples(U64, U64), max_size=3).map(tuple)),
    st.builds(Redrive, CHANNEL, TEXT, TEXT, U64),
    st.builds(CreateChannel, CHANNEL, SETTINGS),
    st.builds(UpdateChannel, CHANNEL, SETTINGS),
    st.builds(DeleteChannel, CHANNEL),
    st.builds(SetDefaults, CHANNEL, SAIDS, st.booleans()),
    st.builds(NewSchedule, CHANNEL, PLANS, FRAMES),
    st.builds(DeleteSchedule, CHANNEL),
    st.builds(OpenConsumer, *PLACE, st.booleans(), SESSION, U64, SETTINGS),
    st.builds(ResetConsumer, *PLACE),
)
SESSION_1 = bytes(range(16))
KEY = ReceiveKey(SESSION_1, 1, 2)
FRAME = codec.encode_batch(b"q", [b"body"], 0, 0, [b"id"])
EVERY: tuple[SmallCommand, ...] = (
    OpenProducer("q", 7, 8),
    Receive(KEY, "q", 1, 2, 3, 4, 5, 6),
    Receive(KEY, "q", 1, 2, 3, 4, 5, 6, 7),
    Ack(SESSION_1, "q", (Receipt(1, 2, 3),)),
    Close(SESSION_1, None),
    Close(SESSION_1, 4),
    Close(SESSION_1, 4, 9),
    Tick(),
    Trim(9),
    TakeAudit(),
    OpenConsumer("s", "c", "time", 7, True, SESSION_1, 8, ChannelSettings(delivery_limit=9), ("dead_letter",)),
    OpenConsumer("s", "c", session=SESSION_1),
    ResetConsumer("s", "c", "sequence", 7),
    Nack(SESSION_1, "q", (Receipt(1, 2, 3),), 4),
    Nack(SESSION_1, "q", (), behind=True),
    Reject(SESSION_1, "q", (Receipt(1, 2, 3),), "why"),
    Requeue(SESSION_1, "q", (Receipt(1, 2, 3),), "r"),
    Extend(SESSION_1, "q", (Receipt(1, 2, 3),), 4),
    Purge("q", True),
    DeleteMessages("q", ((1, 2), (5, 5))),
    Redrive("q", "r", "s", 6, 7),
    CreateChannel("q", ChannelSettings(dead_letter="d", max_bytes=7)),
    UpdateChannel("q", ChannelSettings()),
    DeleteChannel("q"),
    CreateChannel("q", ChannelSettings(delay_ms=1), ("max_bytes", "overflow")),
    SetDefaults("a.>", {"delay_ms": 0, "dead_letter": "d", "create_on_use": False}),
    SetDefaults("*", {}, True),
    NewSchedule("s", Plan(1000, 1, 2, "", 3, 4), FRAME),
    DeleteSchedule("s"),
)


def build(*commands: SmallCommand, time_unix_ns: int = 5) -> bytes:
    builder = EntryBuilder()
    for command in commands:
        builder.add(command)
    return builder.build(time_unix_ns)


def by_hand(
    kind: int, payload: bytes, *, count: int = 1, entry_format: int = 1, version: int = 4, zeros: bytes = bytes(3)
) -> bytes:
    command = struct.pack("<IB", len(payload), kind) + zeros + payload
    return struct.pack("<HHIQ", entry_format, version, count, 5) + command


@given(st.lists(SMALL | batches().map(lambda arguments: codec.encode_batch(**arguments)), min_size=1, max_size=6), U64, U64)
def test_entry_built_and_decoded_is_the_same(parts: list[SmallCommand | bytes], incarnation: int, time_unix_ns: int) -> None:
    builder = EntryBuilder()
    for number, part in enumerate(parts):
        assert builder.count == number
        if isinstance(part, bytes):
            builder.add_publish(part, incarnation)
        else:
            builder.add(part)
    data = builder.build(time_unix_ns)
    assert builder.size_bytes == len(data)
    assert builder.data_crc == codec.crc32c(data)
    decoded = decode_entry(data)
    assert (decoded.machine_version, decoded.time_unix_ns, len(decoded.commands)) == (4, time_unix_ns, len(parts))
    for command, part in zip(decoded.commands, parts, strict=True):
        if isinstance(part, bytes):
            assert isinstance(command, Publish)
            assert data[command.position : command.position + command.size] == part
            assert (command.header, command.incarnation) == (codec.read_batch(part), incarnation)
        elif isinstance(part, NewSchedule):
            assert isinstance(command, CreateSchedule)
            assert (command.name, command.plan) == (part.name, part.plan)
            assert_is_the_frame(command, data, part.frame)
        else:
            assert command == part


def assert_is_the_frame(command: CreateSchedule, data: bytes, frame: bytes) -> None:
    """The schedule's message lies where the entry says, as it came."""
    message = command.message
    assert data[message.position : message.position + message.size] == frame
    assert (message.header, message.incarnation) == (codec.read_batch(frame), 0)
    assert command.checksum == int.from_bytes(frame[4:8], "little")


def test_entry_of_a_small_command_has_the_bytes_of_the_protocol() -> None:
    assert build(OpenProducer("q", 7, 8)) == by_hand(2, msgpack.packb(["q", 7, 8]))
    assert build(Receive(KEY, "q", 1, 2, 3, 4, 5, 6)) == by_hand(3, msgpack.packb([SESSION_1, 1, 2, "q", 1, 2, 3, 4, 5, 6]))
    prior = [SESSION_1, 1, 2, "q", 1, 2, 3, 4, 5, 6, 7]
    assert build(Receive(KEY, "q", 1, 2, 3, 4, 5, 6, 7)) == by_hand(3, msgpack.packb(prior))
    assert build(Close(SESSION_1, 4, 9)) == by_hand(5, msgpack.packb([SESSION_1, 4, 9]))
    assert build(Receive(KEY, "q", 1, 2, 3, 4, 5, 6, auto_ack=True)) == by_hand(3, msgpack.packb([*prior[:-1], 0, True]))
    assert build(Ack(SESSION_1, "q", (Receipt(1, 2, 3),))) == by_hand(4, msgpack.packb([SESSION_1, "q", [[1, 2, 3]]]))
    assert build(Close(SESSION_1)) == by_hand(5, msgpack.packb([SESSION_1, None]))
    assert build(Tick()) == by_hand(6, b"")
    assert build(Trim(9)) == by_hand(7, msgpack.packb([9]))
    assert build(TakeAudit()) == by_hand(8, b"")
    held = [SESSION_1, "q", [[1, 2, 3]]]
    receipts = (Receipt(1, 2, 3),)
    assert build(Nack(SESSION_1, "q", receipts, 4)) == by_hand(9, msgpack.packb([*held, 4, False]))
    assert build(Reject(SESSION_1, "q", receipts, "why")) == by_hand(10, msgpack.packb([*held, "why"]))
    assert build(Requeue(SESSION_1, "q", receipts, "r")) == by_hand(11, msgpack.packb([*held, "r"]))
    assert build(Extend(SESSION_1, "q", receipts, 4)) == by_hand(12, msgpack.packb([*held, 4]))


def test_entry_of_a_command_for_a_channel_has_the_bytes_of_the_protocol() -> None:
    assert build(Purge("q", True)) == by_hand(13, msgpack.packb(["q", True]))
    assert build(DeleteMessages("q", ((1, 2), (5, 5)))) == by_hand(14, msgpack.packb(["q", [[1, 2], [5, 5]]]))
    assert build(Redrive("q", "r", "s", 6, 7)) == by_hand(15, msgpack.packb(["q", "r", "s", 6, 7]))
    settings = ChannelSettings(dead_letter="d", overflow="drop_oldest", max_bytes=7)
    said = {"dead_letter": "d", "max_bytes": 7, "overflow": "drop_oldest"}
    assert build(CreateChannel("q", settings)) == by_hand(16, msgpack.packb(["q", said]))
    assert build(UpdateChannel("q", ChannelSettings())) == by_hand(17, msgpack.packb(["q", {}]))
    assert build(DeleteChannel("q")) == by_hand(18, msgpack.packb(["q"]))
    defaults: dict[str, int | str | bool] = {"delay_ms": 0, "create_on_use": False}
    assert build(SetDefaults("a.>", defaults)) == by_hand(20, msgpack.packb(["a.>", defaults, False]))
    plan, items = Plan(0, 0, 0, "0 3 * * *", 5, 6), [0, 0, 0, "0 3 * * *", 5, 6]
    assert build(NewSchedule("s", plan, FRAME)) == by_hand(21, msgpack.packb(["s", items, FRAME]))
    assert build(DeleteSchedule("s")) == by_hand(22, msgpack.packb(["s"]))


def test_entry_schedule_has_what_its_columns_say_of_the_message() -> None:
    frame = add_columns(FRAME, 4, [Treatment(0, 7, 3)])
    (command,) = decode_entry(build(NewSchedule("s", Plan(1000), frame))).commands
    assert isinstance(command, CreateSchedule)
    assert command.message.runs == (Run(1, 0, 7, 3),)


def test_entry_publish_keeps_the_batch_without_checking_its_checksum_again() -> None:
    batch = bytearray(codec.encode_batch(b"q", [b"body"]))
    batch[4] ^= 1
    builder = EntryBuilder()
    builder.add_publish(bytes(batch), 3)
    data = builder.build(5)
    assert data == by_hand(1, struct.pack("<Q", 3) + batch)
    assert decode_entry(data).commands == (Publish(codec.read_batch(batch, verify=False), 32, len(batch), 3),)


def test_entry_publish_may_expect_a_sequence() -> None:
    batch = codec.encode_batch(b"q", [b"body"], 0, 0, [b"id"])
    header = codec.read_batch(batch)
    builder = EntryBuilder()
    builder.add_publish(batch, 3, 0)
    builder.add_publish(batch, 3, 2**64 - 1)
    builder.add_publish(batch)
    builder.add(Tick())
    data = builder.build(5)
    assert (builder.size_bytes, builder.data_crc) == (len(data), codec.crc32c(data))
    first, second, third, _ = decode_entry(data).commands
    assert first == Publish(header, 40, len(batch), 3, ids=(b"id",), expected_sequence=0)
    assert isinstance(second, Publish)
    assert isinstance(third, Publish)
    assert (second.expected_sequence, third.expected_sequence) == (2**64 - 1, None)
    for publish in (first, second, third):
        assert isinstance(publish, Publish)
        assert data[publish.position : publish.position + publish.size] == batch
    assert data[16:40] == struct.pack("<IB3sQQ", 16 + len(batch), 1, b"\1\0\0", 3, 0)
    for wrong in (-1, 2**64, True, "7"):
        with pytest.raises(LocalProtocolError, match="expected sequence"):
            builder.add_publish(batch, 3, wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "flags", "payload", "said"),
    [
        (1, b"\2\0\0", bytes(16), "does not fit"),
        (1, b"\1\1\0", bytes(16), "does not fit"),
        (1, b"\0\0\1", bytes(16), "does not fit"),
        (6, b"\1\0\0", b"", "does not fit"),
        (1, b"\1\0\0", bytes(15), "has 15 bytes, fewer than 16"),
        (1, b"\0\0\0", bytes(7), "has 7 bytes, fewer than 8"),
    ],
)
def test_entry_with_flags_that_are_none_is_malformed(kind: int, flags: bytes, payload: bytes, said: str) -> None:
    with pytest.raises(MalformedFrame, match=said):
        decode_entry(by_hand(kind, payload, zeros=flags))


def test_entry_builder_refuses_more_commands_than_a_receipt_can_number() -> None:
    builder = EntryBuilder()
    for _ in range(COMMANDS_MAX):
        builder.add(Tick())
    with pytest.raises(LocalProtocolError, match="an entry has at most 65535 commands"):
        builder.add(Tick())
    with pytest.raises(LocalProtocolError, match="an entry has at most 65535 commands"):
        builder.add_publish(b"")
    assert builder.count == len(decode_entry(builder.build(0)).commands) == COMMANDS_MAX


BAD_COMMANDS: list[SmallCommand] = [
    OpenProducer("", 1),
    OpenProducer("x" * 256, 1),
    OpenProducer("q", -1),
    OpenProducer("q", 2**64),
    Receive(ReceiveKey(b"short", 0, 0), "q"),
    Receive(KEY, "q", count_max=-1),
    Receive(KEY, "q", wait_ms=True),
    Receive(KEY, "q", consumer_priority=-1),
    Receive(KEY, "q", consumer_priority=True),
    Ack(bytes(17), "q", ()),
    Ack(SESSION_1, "q", (Receipt(1, 2, -3),)),
    Close(SESSION_1, -1),
    Close(SESSION_1, 1, -1),
    Trim(-1),
    Nack(bytes(15), "q", ()),
    Nack(SESSION_1, "q", (), -1),
    Nack(SESSION_1, "q", (), 0, 1),  # type: ignore[arg-type]
    Reject(SESSION_1, "q", (), "x" * 256),
    Requeue(SESSION_1, "q", (), ""),
    Extend(SESSION_1, "", (), 1),
    Purge("q", 0),  # type: ignore[arg-type]
    DeleteMessages("q", ((1, -1),)),
    Redrive("q", "x" * 256),
    CreateChannel("q", ChannelSettings(delay_ms=-1)),
    CreateChannel("q", ChannelSettings(delay_ms=True)),
    UpdateChannel("q", ChannelSettings(overflow=5)),  # type: ignore[arg-type]
    UpdateChannel("q", ChannelSettings(single_active=1)),  # type: ignore[arg-type]
    DeleteChannel(""),
    SetDefaults(""),
    SetDefaults("a", {"create_on_use": 1}),
    SetDefaults("a", {"delay_ms": -1}),
    SetDefaults("a", {"colour": 1}),
    SetDefaults("a", {}, 1),  # type: ignore[arg-type]
    NewSchedule("", Plan(1000), FRAME),
    NewSchedule("s", Plan(-1), FRAME),
    NewSchedule("s", Plan(1000, times=True), FRAME),
    NewSchedule("s", Plan(cron=5), FRAME),  # type: ignore[arg-type]
    NewSchedule("s", Plan(1000), "text"),  # type: ignore[arg-type]
    DeleteSchedule("x" * 256),
]


@pytest.mark.parametrize("command", BAD_COMMANDS, ids=repr)
def test_entry_builder_refuses_what_no_node_could_read(command: SmallCommand) -> None:
    builder = EntryBuilder()
    with pytest.raises(LocalProtocolError, match="a value of this command is out of its range"):
        builder.add(command)
    assert builder.count == 0


def test_entry_builder_refuses_other_numbers_that_do_not_fit() -> None:
    builder = EntryBuilder()
    with pytest.raises(LocalProtocolError, match="incarnation -1 is not a u64"):
        builder.add_publish(b"", -1)
    with pytest.raises(LocalProtocolError, match="an entry of 0 commands at 5 ns is not replicated"):
        builder.build(5)
    builder.add(Tick())
    with pytest.raises(LocalProtocolError, match="an entry of 1 commands at -1 ns is not replicated"):
        builder.build(-1)


def test_entry_of_an_unknown_format_or_machine_is_unsupported() -> None:
    with pytest.raises(UnsupportedVersion, match="entry format 2 is not known"):
        decode_entry(by_hand(6, b"", entry_format=2))
    for version in (3, 5):
        with pytest.raises(UnsupportedVersion, match=f"machine version {version} is not known") as caught:
            decode_entry(by_hand(6, b"", version=version))
        assert caught.value.fields == {"minimum": 4, "maximum": 4}


FAULTS: list[tuple[bytes, str]] = [
    (b"", "an entry of 0 bytes is shorter than 16"),
    (by_hand(6, b"", count=0), "an entry says that it has 0 commands, allowed is 1 to 65535"),
    (by_hand(6, b"", count=65_536), "an entry says that it has 65536 commands, allowed is 1 to 65535"),
    (by_hand(6, b"", count=2), "an entry of 24 bytes is cut at offset 24"),
    (by_hand(6, b"") + b"x", "commands of an entry end at offset 24, it has 25 bytes"),
    (by_hand(6, b"", zeros=b"\0\0\1"), "a command of 0 bytes at offset 16 does not fit"),
    (by_hand(7, msgpack.packb([1]))[:-1], "a command of 2 bytes at offset 16 does not fit an entry of 25 bytes"),
    (by_hand(0, b""), "command type 0 at offset 16 is not known"),
    (by_hand(99, b""), "command type 99 at offset 16 is not known"),
    (by_hand(1, bytes(7)), "Publish at offset 24 has 7 bytes, fewer than 8"),
    (by_hand(1, bytes(8)), "a batch frame of 0 bytes is shorter than its 40 byte header"),
    (by_hand(8, b"x"), "TakeAudit at offset 16 has wrong values: \\[120\\]"),
    (by_hand(6, b"x"), "Tick at offset 16 has wrong values: \\[120\\]"),
    (by_hand(7, b"\xc1"), "Trim of 1 bytes are not valid msgpack"),
    (by_hand(7, msgpack.packb({})), "Trim at offset 16 has wrong values: {}"),
    (by_hand(7, msgpack.packb([1, 2])), "Trim at offset 16 has wrong values: \\[1, 2\\]"),
    (by_hand(7, msgpack.packb([True])), "Trim at offset 16 has wrong values: \\[True\\]"),
    (by_hand(5, msgpack.packb(["text" * 4, 1])), "Close at offset 16 has wrong values"),
    (by_hand(4, msgpack.packb([SESSION_1, "q", [[1, 2]]])), "Ack at offset 16 has wrong values"),
    (by_hand(4, msgpack.packb([SESSION_1, "q", [7]])), "Ack at offset 16 has wrong values"),
    (by_hand(4, msgpack.packb([SESSION_1, "q", None])), "Ack at offset 16 has wrong values"),
    (by_hand(2, msgpack.packb([b"q", 1, 2])), "OpenProducer at offset 16 has wrong values"),
    (by_hand(9, msgpack.packb([SESSION_1, "q", [], 1])), "Nack at offset 16 has wrong values"),
    (by_hand(10, msgpack.packb([SESSION_1, "q", [], b"why"])), "Reject at offset 16 has wrong values"),
    (by_hand(14, msgpack.packb(["q", [[1, 2, 3]]])), "DeleteMessages at offset 16 has wrong values"),
    (by_hand(14, msgpack.packb(["q", {}])), "DeleteMessages at offset 16 has wrong values"),
    (by_hand(16, msgpack.packb(["q", {"colour": 1}])), "CreateChannel at offset 16 has wrong values"),
    (by_hand(16, msgpack.packb(["q", {b"delay_ms": 1}])), "CreateChannel at offset 16 has wrong values"),
    (by_hand(16, msgpack.packb(["q", {"delay_ms": 2**63, "overflow": 1}])), "CreateChannel at offset 16 has wrong values"),
    (by_hand(17, msgpack.packb(["q", []])), "UpdateChannel at offset 16 has wrong values"),
    (by_hand(18, b""), "DeleteChannel of 0 bytes are not valid msgpack"),
    (by_hand(20, msgpack.packb(["a", []])), "SetDefaults at offset 16 has wrong values"),
    (by_hand(20, msgpack.packb(["a", {"create_on_use": 0}, False])), "SetDefaults at offset 16 has wrong values"),
    (by_hand(20, msgpack.packb(["a", None, False])), "SetDefaults at offset 16 has wrong values"),
    (by_hand(21, msgpack.packb(["s", [1000, 0, 0, "", 0], FRAME])), "NewSchedule at offset 16 has wrong values"),
    (by_hand(21, msgpack.packb(["s", {}, FRAME])), "NewSchedule at offset 16 has wrong values"),
    (by_hand(21, msgpack.packb(["s", [1000, 0, 0, "", 0, 0], b""])), "a batch frame of 0 bytes is shorter than"),
    (by_hand(21, msgpack.packb(["s", [1000, 0, 0, "", 0, 0], FRAME[:-1]])), "a batch frame of"),
    (by_hand(22, msgpack.packb([b"s"])), "DeleteSchedule at offset 16 has wrong values"),
]


@pytest.mark.parametrize(("data", "message"), FAULTS, ids=[fault for _, fault in FAULTS])
def test_entry_malformed_names_what_is_wrong(data: bytes, message: str) -> None:
    with pytest.raises(MalformedFrame, match=message):
        decode_entry(data)


def refused_or_commands(data: bytes) -> tuple[Command, ...]:
    try:
        commands = decode_entry(data).commands
    except (MalformedFrame, UnsupportedVersion):
        return ()
    for command in commands:
        assert not isinstance(command, Publish) or len(list(command.ids)) in (0, command.header.count)
    return commands


def test_entry_damaged_anywhere_raises_only_named_errors() -> None:
    builder = EntryBuilder()
    builder.add_publish(codec.encode_batch(b"q", [b"a"], 1, 1, [b"i"], [b""]))
    for command in EVERY:
        builder.add(command)
    data = builder.build(5)
    assert len(refused_or_commands(data)) == 1 + len(EVERY)
    for frame in damaged(data):
        assert len(refused_or_commands(frame)) in (0, 1 + len(EVERY))
        assert len(frame) == len(data) or refused_or_commands(frame) == ()


@given(st.binary(max_size=60), st.integers(0, 23), st.binary(max_size=40))
def test_entry_arbitrary_bytes_raise_only_named_errors(anything: bytes, kind: int, payload: bytes) -> None:
    for data in (anything, by_hand(kind, payload)):
        assert len(refused_or_commands(data)) <= len(data) // 8
