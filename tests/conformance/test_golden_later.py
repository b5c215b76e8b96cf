"""Golden bytes that came after the first ones: audits, pieces of snapshots between nodes, backups, columns, channels."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from tests.conformance.test_golden_frames import GOLDEN, SESSION, SETTINGS, TREATED, plain, twin
from zmqbroker.checksum import crc32c
from zmqbroker.client.message import Content, Origin, read_messages
from zmqbroker.commands import (
    ChannelSettings,
    Close,
    CreateChannel,
    DeleteChannel,
    DeleteMessages,
    Extend,
    HandOver,
    Nack,
    Publish,
    Purge,
    Receipt,
    Receive,
    ReceiveKey,
    Redrive,
    Reject,
    Requeue,
    Run,
    TakeAudit,
    UpdateChannel,
)
from zmqbroker.errors import ChannelExists, ChannelFull, error_from_wire
from zmqbroker.server.snapshot_transfer import Chunk, read_chunk
from zmqbroker.wire import codec
from zmqbroker.wire.backup import BackupCheck, BackupGroup, BackupHead, encode_backup_head
from zmqbroker.wire.batch import BatchContents
from zmqbroker.wire.columns import Treatment, add_columns, read_runs
from zmqbroker.wire.command_shapes import SmallCommand
from zmqbroker.wire.compression import decompress_body, mark_compressed
from zmqbroker.wire.entries import EntryBuilder, decode_entry
from zmqbroker.wire.frames import Reply, error_fields
from zmqbroker.wire.hand_overs import HandOverFrames

__all__ = ["twin"]  # the fixture


@pytest.mark.parametrize("item", GOLDEN["treated_batches"], ids=lambda item: item["name"])
def test_golden_batch_with_columns_both_ways(twin: ModuleType, item: dict[str, Any]) -> None:
    frame, values = bytes.fromhex(item["frame"]), plain(item["values"])
    treatments = [Treatment(*treatment) for treatment in item["treatments"]]
    header = twin.read_batch(frame)
    runs = read_runs(frame, 0, header)
    said = any(map(any, treatments))
    assert [Treatment(*values) for count, *values in map(_fields, runs) for _ in range(count)] == (treatments if said else [])
    assert header.flags == item["flags"]
    contents: BatchContents = twin.decode_batch(frame)
    assert contents[1:] == (values["bodies"], values["ids"], values["headers"])
    made = twin.encode_batch(**{**values, "channel": values["channel"].encode()})
    if item["flags"]:
        made = mark_compressed(made)
        assert [decompress_body(body, 1_000) for body in values["bodies"]] == [b""]
    assert add_columns(made, sum(map(len, values["bodies"])), treatments) == frame


def _fields(run: Run) -> tuple[Any, ...]:
    return run.count, run.delay_ms, run.expiry_ms, run.priority, run.group


def test_golden_queue_entry_both_ways() -> None:
    golden = GOLDEN["queue_entry"]
    data = bytes.fromhex(golden["data"])
    held = (SESSION, "orders", (Receipt(655_360, 1, 4),))
    header = codec.read_batch(TREATED[0])
    runs = (Run(1, delay_ms=60_000), Run(1, expiry_ms=5_000, priority=9))
    commands: tuple[SmallCommand | Publish, ...] = (
        Publish(header, 32, len(TREATED[0]), 0, runs),
        Nack(*held, 1500),
        Reject(*held, "no such article"),
        Requeue(*held, "orders.slow"),
        Extend(*held, 60_000),
        Purge("orders", in_flight=True),
        DeleteMessages("orders", ((3, 3), (7, 9))),
        Redrive("orders.dead", "", "orders", 10),
        CreateChannel("orders", SETTINGS),
        UpdateChannel("orders", ChannelSettings()),
        DeleteChannel("orders"),
    )
    assert [item["name"] for item in golden["commands"]] == [type(command).__name__ for command in commands]
    assert decode_entry(data) == (4, golden["time_unix_ns"], commands)
    builder = EntryBuilder()
    for command in commands:
        if isinstance(command, Publish):
            builder.add_publish(TREATED[0], command.incarnation)
        else:
            builder.add(command)
    assert builder.build(golden["time_unix_ns"]) == data


def test_golden_hand_over_entry_both_ways() -> None:
    golden = GOLDEN["hand_over_entry"]
    data = bytes.fromhex(golden["data"])
    held = (SESSION, "orders", (Receipt(655_360, 1, 4),))
    frames = bytes.fromhex(GOLDEN["batches"][0]["frame"]), TREATED[0]
    positions = data.index(frames[0]), data.index(frames[1])
    runs = (Run(1, delay_ms=60_000), Run(1, expiry_ms=5_000, priority=9))
    batches = (
        Publish(codec.read_batch(frames[0]), positions[0], len(frames[0])),
        Publish(codec.read_batch(frames[1]), positions[1], len(frames[1]), runs=runs),
    )
    assert decode_entry(data) == (4, golden["time_unix_ns"], (HandOver(*held, batches),))
    builder = EntryBuilder()
    builder.add(HandOverFrames(*held, frames))
    assert builder.build(golden["time_unix_ns"]) == data
    assert builder.data_crc == crc32c(data)


def test_golden_consumer_entry_both_ways() -> None:
    golden = GOLDEN["consumer_entry"]
    data = bytes.fromhex(golden["data"])
    commands = (
        Receive(ReceiveKey(SESSION, 1, 7), "orders", 1, 10, 1 << 20, 5_000, 30_000, 0, 9),
        Close(SESSION, 1, 7),
        UpdateChannel("orders", ChannelSettings(single_active=True)),
    )
    assert [item["name"] for item in golden["commands"]] == [type(command).__name__ for command in commands]
    assert decode_entry(data) == (4, golden["time_unix_ns"], commands)
    builder = EntryBuilder()
    for command in commands:
        builder.add(command)
    assert builder.build(golden["time_unix_ns"]) == data


def client_items(name: str) -> list[dict[str, Any]]:
    """The client frames of that name."""
    return [item for item in GOLDEN["client"] if item["name"] == name]


def test_golden_messages_with_an_origin_are_the_values_they_stand_for() -> None:
    (item,) = [item for item in client_items("MESSAGES") if len(item["fields"].get("pieces", [[]])[0]) == 6]
    messages = read_messages(None, "orders", plain(item["fields"]), [*map(bytes.fromhex, item["bodies"])], Content)
    assert [message.origin for message in messages] == [
        Origin("orders", 6, 5, "delivery_limit"),
        Origin("orders", 7, 5, "delivery_limit"),
    ]


def test_golden_messages_that_were_peeked_at_are_the_values_they_stand_for() -> None:
    (item,) = [item for item in client_items("MESSAGES") if len(item["fields"].get("pieces", [[]])[0]) == 7]
    messages = read_messages(None, "orders", plain(item["fields"]), [*map(bytes.fromhex, item["bodies"])], Content)
    assert [(message.sequence, message.state, message.due_unix_ns) for message in messages[::2]] == [
        (1, "in_flight", 0),
        (3, "delayed", 1_700_000_060_000_000_000),
        (5, "ready", 0),
    ]
    assert [message.origin for message in messages[::2]] == [None, None, Origin("orders", 6, 5, "delivery_limit")]


def test_golden_errors_of_channels_are_the_values_they_stand_for() -> None:
    found = {item["fields"]["code"]: plain(item["fields"]) for item in client_items(Reply.ERROR.name)}
    exists, full = error_from_wire(found["CHANNEL_EXISTS"]), error_from_wire(found["CHANNEL_FULL"])
    assert isinstance(exists, ChannelExists)
    assert exists.differing == ["max_bytes"]
    assert isinstance(full, ChannelFull)
    assert (full.fields["depth"], full.fields["max_messages"]) == (10, 10)
    assert [error_fields(exists), error_fields(full)] == [found["CHANNEL_EXISTS"], found["CHANNEL_FULL"]]


def test_golden_audit_entry_both_ways() -> None:
    golden = GOLDEN["audit_entry"]
    builder = EntryBuilder()
    builder.add(TakeAudit())
    assert builder.build(golden["time_unix_ns"]) == bytes.fromhex(golden["data"])
    assert decode_entry(bytes.fromhex(golden["data"])) == (4, golden["time_unix_ns"], (TakeAudit(),))


def test_golden_snapshot_chunk_is_the_value_it_stands_for() -> None:
    (item,) = [item for item in GOLDEN["peer"] if item["name"] == "SNAPSHOT"]
    fields, frames = plain(item["fields"]), [bytes.fromhex(frame) for frame in item["frames"]]
    assert read_chunk(fields, frames) == Chunk(SESSION, 1, 5, 262_149, 262_144, b"chunk")
    assert read_chunk(fields, frames).fields() == fields


def test_golden_backup_is_the_value_it_stands_for() -> None:
    golden = GOLDEN["backup"]
    head = BackupHead(
        cluster_name="orders",
        cluster_uid=SESSION,
        volume="persistent",
        node="n1",
        taken_unix_ns=1_700_000_000_000_000_000,
        software="1.0",
        groups=(BackupGroup(1, 70, 3, 5, crc32c(b"chunk")),),
    )
    data = bytes.fromhex(golden["file"])
    assert encode_backup_head(head) + b"chunk" == data
    check = BackupCheck("golden")
    check.feed(data)
    assert check.finish() == head
