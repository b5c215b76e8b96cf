"""Golden bytes of an entry with commands for events stores and their consumers."""

from __future__ import annotations

import msgpack
import pytest

from tests.conformance.test_golden_frames import GOLDEN
from zmqbroker.commands import ChannelSettings, CreateChannel, OpenConsumer, ResetConsumer, UpdateChannel
from zmqbroker.errors import LocalProtocolError, MalformedFrame
from zmqbroker.wire.entries import Addable, EntryBuilder, decode_entry

STORE, SESSION = "events_store:orders", bytes(range(16))
SETTINGS = ChannelSettings(delivery_limit=5, dead_letter="failed")
COMMANDS: tuple[Addable, ...] = (
    CreateChannel(STORE, ChannelSettings(max_age_ms=86_400_000, keep_latest=True), ("overflow",)),
    UpdateChannel(STORE, ChannelSettings(max_messages=1000), ("overflow",)),
    OpenConsumer(STORE, "billing", "time", 1_700_000_000_000_000_000, True, SESSION, 7, SETTINGS, ("max_in_flight",)),
    OpenConsumer(STORE, "workers", session=SESSION),
    ResetConsumer(STORE, "billing", "sequence", 655_360),
    ResetConsumer(STORE, "workers"),
)


def test_golden_entry_of_stores_both_ways() -> None:
    golden = GOLDEN["store_entry"]
    data = bytes.fromhex(golden["data"])
    assert [item["name"] for item in golden["commands"]] == [type(command).__name__ for command in COMMANDS]
    assert decode_entry(data) == (4, golden["time_unix_ns"], COMMANDS)
    builder = EntryBuilder()
    for command in COMMANDS:
        builder.add(command)
    assert builder.build(golden["time_unix_ns"]) == data


@pytest.mark.parametrize(
    "command",
    [
        OpenConsumer("", "c", session=SESSION),
        OpenConsumer(STORE, "", session=SESSION),
        OpenConsumer(STORE, "c" * 256, session=SESSION),
        OpenConsumer(STORE, "c", "middle", session=SESSION),
        OpenConsumer(STORE, "c", [], session=SESSION),  # type: ignore[arg-type]
        OpenConsumer(STORE, "c", "new", -1, session=SESSION),
        OpenConsumer(STORE, "c", "new", True, session=SESSION),
        OpenConsumer(STORE, "c", "new", 2**64, session=SESSION),
        OpenConsumer(STORE, "c", exclusive=1, session=SESSION),  # type: ignore[arg-type]
        OpenConsumer(STORE, "c", session=b""),
        OpenConsumer(STORE, "c", session=bytes(17)),
        OpenConsumer(STORE, "c", session=SESSION, number=-1),
        OpenConsumer(STORE, "c", session=SESSION, settings=ChannelSettings(max_messages=-1)),
        ResetConsumer("", "c"),
        ResetConsumer(STORE, ""),
        ResetConsumer(STORE, "c", "nowhere"),
        ResetConsumer(STORE, "c", "sequence", 2**64),
    ],
)
def test_value_out_of_its_range_is_not_written(command: OpenConsumer | ResetConsumer) -> None:
    with pytest.raises(LocalProtocolError, match="out of its range"):
        EntryBuilder().add(command)


def entry_of(kind: int, items: list[object]) -> bytes:
    """An entry of one command with any items."""
    payload: bytes = msgpack.packb(items)
    head = (1).to_bytes(2, "little") + (4).to_bytes(2, "little") + (1).to_bytes(4, "little") + bytes(8)
    return head + len(payload).to_bytes(4, "little") + bytes([kind, 0, 0, 0]) + payload


@pytest.mark.parametrize(
    ("kind", "items"), [(23, [STORE, "c", "new", 0, False, SESSION, 0, {}]), (24, [STORE, "c", "first", 0])]
)
def test_command_with_an_item_missing_or_too_many_is_refused(kind: int, items: list[object]) -> None:
    assert len(decode_entry(entry_of(kind, items)).commands) == 1
    for wrong in (items[:-1], [*items, 0], []):
        with pytest.raises(MalformedFrame):
            decode_entry(entry_of(kind, wrong))
