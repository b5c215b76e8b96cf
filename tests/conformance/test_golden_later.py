"""Golden bytes that came after the first ones: audits, pieces of snapshots between nodes, backups."""

from __future__ import annotations

from tests.conformance.test_golden_frames import GOLDEN, SESSION, plain
from zmqbroker.checksum import crc32c
from zmqbroker.commands import TakeAudit
from zmqbroker.server.snapshot_transfer import Chunk, read_chunk
from zmqbroker.wire.backup import BackupCheck, BackupGroup, BackupHead, encode_backup_head
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
