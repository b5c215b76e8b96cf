"""Files and stored values as a start, a restore or an installed snapshot finds them, in memory."""

from __future__ import annotations

import io
import json
import struct
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.target import Target, join_frames, kind_of, split_frames
from tests.simulation.disk import SimDisk
from tests.unit.broker.builders import ALICE, BOB, Node, named, publish, receive
from zmqbroker.broker import Machine
from zmqbroker.checksum import crc32c
from zmqbroker.commands import ChannelSettings, CreateChannel, Member, Nack, OpenProducer, Reject, Roster, Run
from zmqbroker.errors import BrokerError, StorageError, UnsupportedVersion
from zmqbroker.raft.messages import Entry, HardState, Membership, Snapshot, StorageAppend
from zmqbroker.server.snapshot_receiving import check_snapshot
from zmqbroker.storage.documents import document_checksum
from zmqbroker.storage.identity import Identity, read_identity, write_identity
from zmqbroker.storage.log_reader import Flaw, read_log
from zmqbroker.storage.record import MAGIC_BYTES, PAYLOAD_OFFSET, SegmentKey
from zmqbroker.storage.run_record import RunRecord, read_run, write_run
from zmqbroker.storage.segment import segment_name
from zmqbroker.storage.segment_log import SegmentLog
from zmqbroker.storage.snapshot_file import SnapshotHead, SnapshotReader, SnapshotWriter
from zmqbroker.wire.backup import BackupCheck, BackupGroup, BackupHead, encode_backup_head
from zmqbroker.wire.membership import encode_membership

__all__ = ["STORAGE_TARGETS"]

_U32 = struct.Struct("<I")
_DIRECTORY = Path("/log")
_SEGMENT_BYTES = 8 << 10


# --- the state --------------------------------------------------------------------------------------------------------


def _state() -> Node:
    """A machine with something of everything that is stored."""
    node = Node()
    node.machine.found(Roster(0, (Member(1, "n1", ALICE, "h:55"),), encode_membership(Membership((1,))), 2))
    settings = ChannelSettings(delivery_limit=3, dead_letter="dead", expiry_ms=10**6, max_messages=100, overflow="drop_oldest")
    node.entry(CreateChannel("c", settings), OpenProducer("c", 7))
    node.entry(publish(4, producer=7, base=1), publish(3, runs=(Run(1, 500), Run(2, 0, 600, 9))), publish(2, channel="d"))
    held = node.delivery(receive(3))
    node.entry(Reject(*named(held)[:2], named(held)[2][:1], "no"), after_ms=1)
    other = node.delivery(receive(2, session=BOB, request=2))
    node.entry(Nack(*named(other), 50), receive(4, channel="d", count_min=4, wait_ms=999, request=3), receive(1, request=4))
    return node


def _items_of(node: Node) -> list[bytes]:
    return [part for item in node.machine.items() for part in item]


def _state_samples() -> list[bytes]:
    return [join_frames(_items_of(_state())), join_frames(_items_of(Node()))]


def _run_state(data: bytes) -> None:
    frames = split_frames(data)
    Machine.restore(9, list(zip(frames[::2], frames[1::2], strict=False)))


# --- snapshots and backups --------------------------------------------------------------------------------------------


def _snapshot() -> bytes:
    node, file = _state(), io.BytesIO()
    writer = SnapshotWriter(file, SnapshotHead(1, node.index, 2, node.machine.roster.membership))
    for item in node.machine.items():
        writer.item(*item)
    for index in node.machine.live_indexes():
        writer.body(index, b"body" * index)
    writer.finish()
    return file.getvalue()


def _seal_snapshot(data: bytes) -> bytes:
    """Right checksums of the head and of the records, as far as their sizes can be followed."""
    if len(data) < 16:
        return data
    made = bytearray(data)
    made[:8] = b"ZBSNAP01"
    end = min(32 + int.from_bytes(made[10:12], "little"), len(made))
    _U32.pack_into(made, 12, crc32c(bytes(made[16:end]), crc32c(bytes(made[:12]))))
    position = end
    while position + 11 <= len(made):
        _, key_size, value_size = struct.unpack_from("<BHI", made, position)
        end = position + 11 + key_size + value_size
        if end > len(made):
            break
        _U32.pack_into(
            made, position + 7, crc32c(bytes(made[position + 11 : end]), crc32c(bytes(made[position : position + 7])))
        )
        position = end
    return bytes(made)


def _run_snapshot(data: bytes) -> None:
    check_snapshot(SnapshotReader(io.BytesIO(data), "fuzz"), "fuzz", 1)


def _backup_samples() -> list[bytes]:
    state = _snapshot()
    head = BackupHead(
        cluster_name="c",
        cluster_uid=ALICE,
        volume="persistent",
        node="n1",
        taken_unix_ns=1,
        software="1",
        groups=(BackupGroup(1, 9, 2, len(state), crc32c(state)),),
    )
    return [encode_backup_head(head) + state]


def _seal_backup(data: bytes) -> bytes:
    if len(data) < 16:
        return data
    made = bytearray(data)
    made[:8] = b"ZBBACK01"
    end = min(16 + int.from_bytes(made[12:16], "little"), len(made))
    _U32.pack_into(made, 8, crc32c(bytes(made[12:end])))
    return bytes(made)


def _run_backup(data: bytes) -> None:
    check = BackupCheck("fuzz")
    middle = len(data) // 2
    check.feed(data[:middle])
    check.feed(data[middle:])
    check.finish()


# --- the log ----------------------------------------------------------------------------------------------------------


def _segment_samples() -> list[bytes]:
    disk, uuids = SimDisk(Random(1)), iter([ALICE, BOB, b"u" * 16, b"v" * 16])
    log = SegmentLog.open(
        _DIRECTORY, sync=True, segment_bytes=_SEGMENT_BYTES, reserve_segments=0, disk=disk, uuid=lambda: next(uuids)
    )
    works = (
        StorageAppend(1, (Entry(1, 1, b"one"), Entry(2, 1, bytes(600))), HardState(1, 2, 1), True),
        StorageAppend(0, (Entry(1, 3, b""),), HardState(3, 1, 1), True),
        StorageAppend(1, (Entry(2, 2, b"x" * 700), Entry(3, 2, b"three")), HardState(2, 1, 2), True),
        StorageAppend(1, (), HardState(3, 1, 9), True, snapshot=Snapshot(9, 3, Membership((1, 2, 3)))),
    )
    for work in works:
        job = log.prepare([work])
        job.write()
        job.sync()
        log.complete(job)
    return [disk.durable_bytes(_DIRECTORY / segment_name(1)) or b""]


def _seal_segment(data: bytes) -> bytes:
    """Right checksums of the header and of everything that looks like a record, chained."""
    if len(data) < 64:
        return data
    made = bytearray(data)
    made[:8] = b"ZBLOGSEG"
    size = min(int.from_bytes(made[16:20], "little"), len(made))
    struct.pack_into("<Q", made, 56, len(made))
    _U32.pack_into(made, 8, crc32c(bytes(made[12:size])))
    key, previous = SegmentKey(bytes(made[40:56])), 0
    position = made.find(MAGIC_BYTES, size)
    while 0 <= position <= len(made) - PAYLOAD_OFFSET:
        (payload_size,) = _U32.unpack_from(made, position + 4)
        start = position + PAYLOAD_OFFSET
        payload = bytes(made[start : start + payload_size])
        _U32.pack_into(made, position + 12, previous)
        _U32.pack_into(made, position + 48, crc32c(payload))
        previous = crc32c(bytes(made[position : position + 52]), key.seed)
        _U32.pack_into(made, position + 52, previous)
        position = made.find(MAGIC_BYTES, start + len(payload))
    return bytes(made)


def _on_disk(path: Path, data: bytes) -> SimDisk:
    disk = SimDisk(Random(1))
    if path.parent != Path("/"):
        disk.make_directory(path.parent)
    descriptor = disk.create(path)
    disk.pwritev(descriptor, [data], 0)
    disk.fsync(descriptor)
    disk.close(descriptor)
    return disk


def _run_segment(data: bytes, *, salvage: bool = False) -> None:
    disk = _on_disk(_DIRECTORY / segment_name(1), data)
    log = SegmentLog.open(
        _DIRECTORY, sync=True, segment_bytes=_SEGMENT_BYTES, reserve_segments=0, disk=disk, salvage=salvage, cache_bytes_max=0
    )
    for group in (0, 1):
        view = log.view(group)
        for index in range(view.first_index(), min(view.last_index(), view.first_index() + 20) + 1):
            log.entry(group, index)


class _OneFile:
    """A directory of one file, for a reader that walks directories and reads whole files."""

    def __init__(self, data: bytes) -> None:
        self.name = segment_name(1)
        self._data = data

    def iterdir(self) -> list[_OneFile]:
        """Itself is the only file."""
        return [self]

    def read_bytes(self) -> bytes:
        """All of it."""
        return self._data

    def __lt__(self, other: object) -> bool:
        return False


def _run_reader(data: bytes) -> str:
    events = list(read_log(_OneFile(data)))  # type: ignore[arg-type]
    return ", ".join(kind_of(StorageError(event.what)) if isinstance(event, Flaw) else "" for event in events[:5])


# --- documents --------------------------------------------------------------------------------------------------------


def _document_samples() -> list[bytes]:
    disk = SimDisk(Random(1))
    member = Member(1, "n1", ALICE, "h:55")
    identity = Identity(node_uid=ALICE, name="n1", volume="persistent", cluster_name="c", owner="serve", cluster_uid=BOB)
    write_identity(Path("/"), identity, disk)
    first = disk.durable_bytes(Path("/identity.json")) or b""
    write_identity(Path("/"), Identity(**{**_plain(identity), "founders": (member,), "members": (member,)}), disk)
    write_run(Path("/"), RunRecord(boot_id="b", clean=True, durable_unix_ns=1), disk)
    rest = (disk.durable_bytes(Path("/identity.json")) or b"", disk.durable_bytes(Path("/run.json")) or b"")
    return [first, *rest]


def _plain(identity: Identity) -> dict[str, Any]:
    return {name: getattr(identity, name) for name in identity.__dataclass_fields__}


def _seal_document(data: bytes) -> bytes:
    try:
        document = json.loads(data)
        kind = next(name for name in document if name not in ("format", "crc32c"))
        document["crc32c"] = document_checksum(kind, document[kind], document["format"])
        return json.dumps(document).encode()
    except (ValueError, TypeError, KeyError, StopIteration, RecursionError, AttributeError):
        return data


def _run_document(data: bytes) -> str:
    seen = []
    for name, read in (("identity.json", read_identity), ("run.json", read_run)):
        try:
            read(Path("/"), _on_disk(Path("/") / name, data))
        except StorageError as error:
            seen.append(kind_of(error))
    return ", ".join(seen)


_STORAGE = (StorageError,)

STORAGE_TARGETS = (
    Target("state", _run_state, _state_samples, _STORAGE),
    Target("snapshot", _run_snapshot, lambda: [_snapshot()], (BrokerError,), _seal_snapshot),
    Target("backup", _run_backup, _backup_samples, (StorageError, UnsupportedVersion), _seal_backup),
    Target("segment", _run_segment, _segment_samples, _STORAGE, _seal_segment),
    Target("salvage", partial(_run_segment, salvage=True), _segment_samples, _STORAGE, _seal_segment),
    Target("log-reader", _run_reader, _segment_samples, _STORAGE, _seal_segment),
    Target("document", _run_document, _document_samples, _STORAGE, _seal_document),
)
