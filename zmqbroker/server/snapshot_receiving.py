"""What becomes of a received snapshot: it is checked, its bodies are stored, and later its state replaces the stored one.

All run on the store's thread. Nothing of a file is used before all of it was found right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zmqbroker.broker import Machine, snapshot
from zmqbroker.errors import BrokerError, Corruption
from zmqbroker.raft.messages import Snapshot
from zmqbroker.storage.interfaces import Item, StateStore
from zmqbroker.storage.snapshot_file import SnapshotReader
from zmqbroker.wire.membership import decode_membership

__all__ = ["ReceivedSnapshot", "check_snapshot", "read_snapshot", "store_bodies", "store_snapshot"]


@dataclass(slots=True, frozen=True)
class ReceivedSnapshot:
    """A snapshot that is complete and right, and what was made of it."""

    path: Path
    machine: Machine
    bodies: list[int]
    snapshot: Snapshot


def read_snapshot(path: Path, number: int) -> ReceivedSnapshot:
    """Check a whole snapshot and make a machine of it; a file that is none is deleted. Raises BrokerError, OSError."""
    try:
        with path.open("rb") as file:
            reader = SnapshotReader(file, str(path))
            machine, bodies = check_snapshot(reader, str(path), number)
    except (BrokerError, OSError):
        path.unlink(missing_ok=True)
        raise
    head = reader.head
    return ReceivedSnapshot(path, machine, bodies, Snapshot(head.index, head.term, decode_membership(head.membership)))


def check_snapshot(reader: SnapshotReader, source: str, number: int) -> tuple[Machine, list[int]]:
    """Read a snapshot to its end: what machine it makes, and of which entries it has bodies. Raises BrokerError, OSError."""
    needed: set[int] = set()

    def noting(items: Iterator[Item]) -> Iterator[Item]:
        for key, value in items:
            yield key, value
            if (index := snapshot.entry_index(key, value)) is not None:
                needed.add(index)

    head = reader.head
    machine = Machine.restore(head.index, noting(reader.items()))
    bodies = [index for index, _ in reader.bodies()]
    if head.group != number:
        raise Corruption(f"{source}: the snapshot is of group {head.group}, not {number}")
    if machine.roster.membership != head.membership:
        raise Corruption(f"{source}: the snapshot's members are not those of its head")
    if bodies != sorted(needed):
        raise Corruption(f"{source}: the snapshot has {len(bodies)} bodies, its state names {len(needed)}")
    return machine, bodies


def store_bodies(received: ReceivedSnapshot, state: StateStore, number: int) -> None:
    """Store the bodies of a snapshot that may be installed; if that fails its file is deleted. Raises BrokerError, OSError.

    Some may be stored then. They do no harm: bodies of one index are equal, and those that nobody needs are dropped.
    """
    try:
        with received.path.open("rb") as file:
            reader = SnapshotReader(file, str(received.path))
            for _ in reader.items():
                pass
            state.put_bodies(number, reader.bodies())
    except (BrokerError, OSError):
        received.path.unlink(missing_ok=True)
        raise


def store_snapshot(received: ReceivedSnapshot, state: StateStore, number: int) -> None:
    """Replace the stored state of a group, all or nothing; the bodies are stored already.

    Raises StorageError or OSError; nothing is changed then.
    """
    with received.path.open("rb") as file:
        reader = SnapshotReader(file, str(received.path))
        state.install(number, reader.head.index, reader.head.term, reader.items(), ())
