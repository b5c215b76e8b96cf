"""`log dump`: a row for every record, in words; bounds; damage named and passed by."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.unit.server.harness import batch
from tests.unit.storage.support import append, change, open_log, run
from zmqbroker.cli.app import run as run_command
from zmqbroker.cli.exits import Exit
from zmqbroker.commands import Ack, Close, Member, OpenProducer, Receipt, Receive, ReceiveKey, TakeAudit, Tick, Trim
from zmqbroker.raft.confchange import Change, ChangeType, ConfChange, Transition, encode
from zmqbroker.raft.messages import EntryType, HardState, Membership, Snapshot, StorageAppend
from zmqbroker.server.log_dump import describe_entry, dump_log
from zmqbroker.storage.stopped import StoppedDirectory
from zmqbroker.wire import codec
from zmqbroker.wire.command_shapes import SmallCommand
from zmqbroker.wire.entries import EntryBuilder
from zmqbroker.wire.hand_overs import HandOverFrames
from zmqbroker.wire.membership import encode_members

SESSION = bytes(range(16))


def entry(*commands: SmallCommand, batches: int = 0) -> bytes:
    """The payload of an entry."""
    builder = EntryBuilder()
    for _ in range(batches):
        builder.add_publish(batch(b"one", b"two"))
    for command in commands:
        builder.add(command)
    return builder.build(1_700_000_000_000_000_000)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A data directory with one of each record, and another group."""
    log = open_log(tmp_path / "log")
    run(log, append(1, b"", entry(batches=2), entry(Trim(1)), state=HardState(1, 3, 1)))
    run(log, StorageAppend(2, snapshot=Snapshot(7, 2, Membership((1,)))), append(8, b"", group=2, term=2))
    run(log, *[append(index, os.urandom(3000), term=2) for index in range(4, 12)])
    log.close()
    return tmp_path


def rows(directory: Path, group: int | None = None, first: int = 1, last: int | None = None) -> list[dict[str, Any]]:
    """The dump's rows."""
    with StoppedDirectory(directory) as stopped:
        return list(dump_log(stopped, group, first, last))


def test_dump_has_a_row_for_every_segment_and_record(directory: Path) -> None:
    found = rows(directory)
    segment, *records = found
    assert (segment["kind"], segment["sequence"], segment["first_lsn"]) == ("segment", 1, 1)
    assert records[0] == {
        "kind": "record",
        "lsn": 1,
        "segment": 1,
        "offset": 4096,
        "type": "HARD_STATE",
        "group": 1,
        "index": 0,
        "term": 1,
        "size": 24,
        "synced_lsn": 0,
        "what": "term 1, vote 3, commit 0",
    }
    texts = [(row["type"], row["group"], row["index"], row["term"], row["what"]) for row in records[1:6]]
    assert texts == [
        ("ENTRY", 1, 1, 1, "empty: a new leader"),
        ("ENTRY", 1, 2, 1, "Publish 'c' x2 (4 messages)"),
        ("ENTRY", 1, 3, 1, "Trim up to 1"),
        ("SNAPSHOT", 2, 7, 2, "the log begins anew behind it"),
        ("ENTRY", 2, 8, 2, "empty: a new leader"),
    ]
    noise = [row for row in records if row.get("index", 0) >= 4 and row["group"] == 1]
    assert len(noise) == 8
    assert all(row["what"].startswith("cannot be understood: ") for row in noise)
    later = [row for row in found if row["kind"] == "segment"][-1]
    assert later["groups"][1] == {"group": 2, "term": 0, "vote": 0, "commit": 0, "last_index": 8, "last_term": 2}


@pytest.mark.parametrize(
    ("group", "first", "last", "expected"),
    [
        (2, 1, None, [0, 7, 8]),
        (1, 3, 5, [3, 4, 5]),
        (None, 8, 8, [8, 8]),
        (1, 11, None, [11]),
        (3, 1, None, []),
    ],
)
def test_dump_is_bounded_by_group_and_index(
    directory: Path, group: int | None, first: int, last: int | None, expected: list[int]
) -> None:
    found = [row["index"] for row in rows(directory, group, first, last) if row["kind"] == "record"]
    assert found == [index for index in expected if index]


def test_commands_of_an_entry_are_counted_by_kind_and_channel() -> None:
    key = ReceiveKey(SESSION, 1, 2)
    receive = Receive(key, "orders", count_max=5)
    payload = entry(
        *(receive, Ack(SESSION, "orders", (Receipt(1, 1, 1),)), Ack(SESSION, "orders", (Receipt(1, 2, 2),))),
        *(OpenProducer("bills", 9), Close(SESSION), Close(SESSION, 4), Tick(), TakeAudit()),
        batches=1,
    )
    assert describe_entry(EntryType.NORMAL, payload) == (
        "Publish 'c' (2 messages), Receive 'orders' max 5, Ack 'orders' x2, OpenProducer 'bills', "
        f"Close session {SESSION.hex()}, Close session {SESSION.hex()} consumer 4, Tick, TakeAudit"
    )


def test_hand_over_is_told_with_its_channels_and_messages() -> None:
    builder = EntryBuilder()
    frames = tuple(codec.encode_batch(name, [b"x", b"y"]) for name in (b"paid", b"audit", b"paid"))
    builder.add(HandOverFrames(SESSION, "orders", (Receipt(1, 1, 1),), frames))
    assert describe_entry(EntryType.NORMAL, builder.build(5)) == "HandOver 'orders' to 'audit', 'paid' (6 messages)"


def test_membership_changes_are_in_words() -> None:
    newcomer = Member(4, "node-4", bytes(16), "host:5591")
    joining = ConfChange((Change(ChangeType.ADD_LEARNER, 4),), Transition.JOINT_IMPLICIT, encode_members((newcomer,)))
    leaving = ConfChange((Change(ChangeType.ADD_VOTER, 4), Change(ChangeType.REMOVE, 2)))
    words = [describe_entry(EntryType.CHANGE, encode(change)) for change in (joining, leaving, ConfChange())]
    assert words == [
        "add learner 4 (node-4 at host:5591) through a joint membership",
        "add voter 4, remove 2 through a joint membership",
        "leave the joint membership",
    ]
    assert describe_entry(EntryType.CHANGE, b"\0").startswith("a membership change that changes nothing: ")


def test_command_prints_a_line_for_each_and_names_damage(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["log", "dump", str(directory)]) == Exit.DONE
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(rows(directory))
    assert lines[0].startswith("segment 1: from lsn 1, 16384 bytes, uuid ")
    assert lines[3].startswith("lsn 3 in 1 at ")
    assert lines[3].endswith(": ENTRY of group 1, index 2, term 1, 158 bytes, synced 0: Publish 'c' x2 (4 messages)")

    target = rows(directory)[3]
    change(directory / "log" / "00000001.segment", target["offset"] + 56, b"\xff\xff")
    assert run_command(["log", "dump", str(directory), "--json"]) == Exit.DAMAGED
    printed = capsys.readouterr()
    documents = [json.loads(line) for line in printed.out.splitlines()]
    assert documents == rows(directory)
    damage = [document for document in documents if document["kind"] == "damage"]
    assert [(document["offset"], "does not fit its checksum" in document["what"]) for document in damage] == [
        (target["offset"], True)
    ]
    assert printed.err == "zmqbroker: places that cannot be read: 1\n"


def test_command_refuses_what_is_no_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["log", "dump", str(tmp_path / "none")]) == Exit.USAGE
    assert "is no directory" in capsys.readouterr().err
