"""From the file of a backup to a data directory of a new cluster. The whole file is checked before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zmqbroker.broker import Machine
from zmqbroker.errors import Corruption
from zmqbroker.server.new_directory import GroupState, NewNode, check_empty, make_directory
from zmqbroker.server.snapshot_receiving import check_snapshot
from zmqbroker.server.stopped_group import depths
from zmqbroker.storage.identity import Identity
from zmqbroker.storage.snapshot_file import SnapshotReader
from zmqbroker.wire.backup import BackupCheck, BackupHead

__all__ = ["CheckedBackup", "check_backup", "restore_backup"]

DATA_GROUP = 1
_READ_BYTES = 1 << 20


@dataclass(slots=True, frozen=True)
class CheckedBackup:
    """A backup of which every byte was read and found right."""

    path: Path
    head: BackupHead
    machine: Machine
    bodies: list[int]  # entries whose payloads it has

    @property
    def messages(self) -> dict[str, int]:
        """Messages of each channel that are not finished."""
        return depths(self.machine)


def check_backup(path: Path) -> CheckedBackup:
    """Read a whole backup: its checksums, the state in it, the messages that the state names. Raises BrokerError, OSError."""
    check = BackupCheck(str(path))
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            check.feed(data)
        head = check.finish()
        groups = [group.number for group in head.groups]
        if groups != [DATA_GROUP]:
            raise Corruption(f"{path}: the backup is of the groups {groups}, this version serves group {DATA_GROUP}")
        group = head.groups[0]
        reader = SnapshotReader(file, str(path), path.stat().st_size - group.size, group.size)
        machine, bodies = check_snapshot(reader, str(path), DATA_GROUP)
        if (reader.head.index, reader.head.term) != (group.index, group.term):
            raise Corruption(f"{path}: the state is that of index {reader.head.index}, the head says {group.index}")
    return CheckedBackup(path, head, machine, bodies)


def restore_backup(backup: CheckedBackup, path: Path, node: NewNode) -> Identity:
    """Make the data directory. Raises BrokerError, OSError."""
    check_empty(path)
    group = backup.head.groups[0]
    with backup.path.open("rb") as file:
        reader = SnapshotReader(file, str(backup.path), backup.path.stat().st_size - group.size, group.size)
        contents = GroupState(group.number, group.index, group.term, backup.machine.roster, reader.items(), reader.bodies())
        return make_directory(path, node, contents)
