"""Golden bytes of smart routing: the commands of an entry, and replies that are the results they stand for."""

from __future__ import annotations

from tests.conformance.test_golden_frames import BATCHES, GOLDEN, TREATED, plain
from tests.conformance.test_golden_later import client_items
from zmqbroker.commands import (
    BindingChanged,
    Command,
    DeleteBinding,
    DeleteRoute,
    Publish,
    PublishAll,
    Published,
    PublishedAll,
    RouteChanged,
    SetBinding,
    SetRoute,
)
from zmqbroker.errors import ChannelFull
from zmqbroker.server.replies import result_reply
from zmqbroker.wire import codec
from zmqbroker.wire.columns import read_ids, read_runs
from zmqbroker.wire.entries import EntryBuilder, decode_entry
from zmqbroker.wire.frames import Reply
from zmqbroker.wire.publish_all import PublishAllFrames

FRAMES = (BATCHES[0], TREATED[2])


def test_golden_routing_entry_both_ways() -> None:
    golden = GOLDEN["routing_entry"]
    data = bytes.fromhex(golden["data"])
    position, batches = data.index(FRAMES[0]), list[Publish]()
    for frame in FRAMES:
        header = codec.read_batch(frame)
        more = read_runs(data, position, header), read_ids(data, position, header), 4
        batches.append(Publish(header, position, len(frame), 0, *more))
        position += len(frame)
    rules = (
        SetRoute("audit", "audit.eu;events:audit"),
        DeleteRoute("audit"),
        SetBinding("events_store:orders.*", "billing;audit"),
        DeleteBinding("events_store:orders.*"),
    )
    commands: tuple[Command, ...] = (*rules, PublishAll(tuple(batches)))
    assert [item["name"] for item in golden["commands"]] == [type(command).__name__ for command in commands]
    assert decode_entry(data) == (4, golden["time_unix_ns"], commands)
    builder = EntryBuilder()
    for command in rules:
        builder.add(command)
    builder.add(PublishAllFrames(FRAMES, 4))
    assert builder.build(golden["time_unix_ns"]) == data


def test_golden_replies_of_routing_are_the_results_they_stand_for() -> None:
    stored, refused = [plain(item["fields"]) for item in client_items(Reply.ROUTED.name)]
    time = 1_700_000_000_000_000_000
    published = PublishedAll((("orders", Published(1, 1, False, time)), ("events_store:orders", Published(9, 1, False, time))))
    told = result_reply(published, "quorum")[1]
    assert told["results"] == [row for row in stored["results"] if not row["destination"].startswith("events:")]
    full = ChannelFull("channel 'orders' is full", depth=5, size_bytes=600, max_messages=5, max_bytes=0)
    both = PublishedAll((("orders", full), ("events_store:orders", full)))
    assert result_reply(both, "quorum+fsync") == (Reply.ROUTED, refused)
    changed = [plain(item["fields"]) for item in client_items(Reply.CHANGED.name)]
    assert result_reply(RouteChanged("audit", True), "quorum")[1] in changed
    assert result_reply(BindingChanged("events_store:orders.*", False), "quorum")[1] in changed
