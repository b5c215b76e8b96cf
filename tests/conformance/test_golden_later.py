"""Golden bytes that came after the first ones: audits, and pieces of snapshots between nodes."""

from __future__ import annotations

from tests.conformance.test_golden_frames import GOLDEN, SESSION, plain
from zmqbroker.commands import TakeAudit
from zmqbroker.server.snapshot_transfer import Chunk, read_chunk
from zmqbroker.wire.entries import EntryBuilder, decode_entry


def test_golden_audit_entry_both_ways() -> None:
    golden = GOLDEN["audit_entry"]
    builder = EntryBuilder()
    builder.add(TakeAudit())
    assert builder.build(golden["time_unix_ns"]) == bytes.fromhex(golden["data"])
    assert decode_entry(bytes.fromhex(golden["data"])) == (1, golden["time_unix_ns"], (TakeAudit(),))


def test_golden_snapshot_chunk_is_the_value_it_stands_for() -> None:
    (item,) = [item for item in GOLDEN["peer"] if item["name"] == "SNAPSHOT"]
    fields, frames = plain(item["fields"]), [bytes.fromhex(frame) for frame in item["frames"]]
    assert read_chunk(fields, frames) == Chunk(SESSION, 1, 5, 262_149, 262_144, b"chunk")
    assert read_chunk(fields, frames).fields() == fields
