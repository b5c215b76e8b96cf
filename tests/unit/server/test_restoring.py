"""From a backup's file to a directory that a node starts from: the state of before, one member, and nothing half done."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.server.test_snapshot_files import Source
from zmqbroker.broker import Machine
from zmqbroker.checksum import crc32c
from zmqbroker.config import NodeConfig
from zmqbroker.errors import Corruption, DataDirectoryError
from zmqbroker.server import new_directory
from zmqbroker.server.membership import membership_of
from zmqbroker.server.new_directory import NewNode
from zmqbroker.server.opening import open_group
from zmqbroker.server.restoring import check_backup, restore_backup
from zmqbroker.server.verifying import verify_directory
from zmqbroker.storage import DataDirectory, LmdbState, SegmentLog
from zmqbroker.storage.identity import read_identity
from zmqbroker.storage.snapshot_file import SnapshotHead, SnapshotWriter
from zmqbroker.storage.stopped import StoppedDirectory
from zmqbroker.wire.backup import BackupGroup, BackupHead, encode_backup_head

NODE = NewNode(name="phoenix", cluster_name="second", volume="persistent", peer="host:5591")


def backup_of(source: Source, directory: Path, **changes: object) -> Path:
    """A backup's file; `changes` are made to what its head says of the group."""
    made = source.make(directory)
    data = made.path.read_bytes()
    made.path.unlink()
    group = replace(BackupGroup(1, made.snapshot.index, made.snapshot.term, len(data), crc32c(data)), **changes)  # type: ignore[arg-type]
    head = BackupHead(
        cluster_name="first",
        cluster_uid=bytes(16),
        volume="ephemeral",
        node="n1",
        taken_unix_ns=1,
        software="0",
        groups=(group,),
    )
    path = directory / "backup"
    path.write_bytes(encode_backup_head(head) + data)
    return path


def opened(path: Path) -> DataDirectory:
    """The directory as its new node opens it."""
    return DataDirectory.open(path, name="phoenix", volume="persistent", cluster_name="second", owner="serve")


def without_roster(machine: Machine) -> list[tuple[bytes, bytes]]:
    """The state but for its members."""
    return [(key, value) for key, value in machine.items() if key != b"\7"]


def test_restored_directory_is_that_of_a_cluster_of_one_with_the_state_of_before(tmp_path: Path) -> None:
    source = Source()
    backup = check_backup(backup_of(source, tmp_path))
    assert backup.messages == {"c": 3}
    identity = restore_backup(backup, tmp_path / "data", NODE)
    (own,) = identity.members
    assert (own.id, own.name, own.peer, own.voter) == (4, "phoenix", "host:5591", True)
    assert identity == read_identity(tmp_path / "data")
    assert identity.cluster_uid not in (None, bytes(16))

    directory = opened(tmp_path / "data")
    log = SegmentLog.open(tmp_path / "data/log", sync=True)
    state = LmdbState.open(tmp_path / "data/state", sync=True)
    group = open_group(1, own.id, identity.founders, NodeConfig.for_test(), log, state, None, "")  # type: ignore[arg-type]
    assert without_roster(group.machine) == without_roster(source.machine)
    assert group.machine.roster.members == (own,)
    assert (group.machine.roster.index, group.machine.roster.next_id) == (7, 5)
    membership = membership_of(group.machine.roster)
    assert (membership.voters, membership.learners) == ((4,), ())
    assert (log.view(1).first_index(), log.view(1).last_index(), log.view(1).term(7)) == (8, 7, 2)
    assert {index: state.body(1, index) for index in state.body_indexes(1)} == {
        index: b"payload %d" % index for index in (3, 4, 5)
    }
    group.core.campaign()
    assert group.core.has_ready()
    log.close()
    state.close()
    directory.close()


def test_restored_directory_verifies(tmp_path: Path) -> None:
    restore_backup(check_backup(backup_of(Source(), tmp_path)), tmp_path / "data", NODE)
    with StoppedDirectory(tmp_path / "data") as directory:
        report = verify_directory(directory)
    assert (report.faults, report.torn) == ([], [])
    assert report.parts[-1].checked == "3 in 1 channels; bodies of 3 entries; stored index 7, log to 7"


def test_directory_that_holds_anything_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    backup = check_backup(backup_of(Source(), tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_bytes(b"mine")
    for place in (tmp_path / "data", tmp_path / "data" / "file"):
        with pytest.raises(DataDirectoryError, match="is not empty; nothing was changed"):
            restore_backup(backup, place, NODE)
    assert os.listdir(tmp_path / "data") == ["file"]


def test_directory_on_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_directory, "file_system_type", lambda _: 0x6969)
    with pytest.raises(DataDirectoryError, match="is on NFS"):
        restore_backup(check_backup(backup_of(Source(), tmp_path)), tmp_path / "deep" / "data", NODE)
    assert not (tmp_path / "deep").exists()


def test_restore_that_was_cut_leaves_a_directory_that_no_start_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    backup = check_backup(backup_of(Source(), tmp_path))
    for step in ("align", "write_identity"):
        target = tmp_path / step
        with monkeypatch.context() as broken:
            broken.setattr(new_directory, step, cut)
            with pytest.raises(KeyboardInterrupt):
                restore_backup(backup, target, NODE)
        with pytest.raises(Corruption, match="is missing, but the data of a node is there"):
            opened(target)
        with pytest.raises(DataDirectoryError, match="is not empty"):
            restore_backup(backup, target, NODE)


def test_backup_with_any_bit_flipped_or_cut_is_found(tmp_path: Path) -> None:
    path = backup_of(Source(), tmp_path)
    data = path.read_bytes()
    for position in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        for wrong in (bytes(flipped), data[:position]):
            path.write_bytes(wrong)
            with pytest.raises(Corruption, match=f"^{path}: offset "):
                check_backup(path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"number": 2}, "is of the groups .2., this version serves group 1"),
        ({"index": 8}, "the state is that of index 7, the head says 8"),
        ({"term": 3}, "the state is that of index 7"),
    ],
)
def test_backup_whose_head_is_of_another_state_is_refused(tmp_path: Path, changes: dict[str, int], match: str) -> None:
    with pytest.raises(Corruption, match=match):
        check_backup(backup_of(Source(), tmp_path, **changes))


def test_backup_without_a_body_that_its_state_names_is_refused(tmp_path: Path) -> None:
    source = Source()
    with (tmp_path / "snapshot").open("w+b") as file:
        writer = SnapshotWriter(file, SnapshotHead(1, 7, 2, source.machine.roster.membership))
        for key, value in source.machine.items():
            writer.item(key, value)
        writer.body(3, b"only this one")
        writer.finish()
        file.seek(0)
        data = file.read()
    head = BackupHead(
        cluster_name="first",
        cluster_uid=bytes(16),
        volume="ephemeral",
        node="n1",
        taken_unix_ns=1,
        software="0",
        groups=(BackupGroup(1, 7, 2, len(data), crc32c(data)),),
    )
    (tmp_path / "backup").write_bytes(encode_backup_head(head) + data)
    with pytest.raises(Corruption, match="the snapshot has 1 bodies, its state names 3"):
        check_backup(tmp_path / "backup")
