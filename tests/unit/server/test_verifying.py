"""`verify`: what is right is called right, a torn end torn, and whatever is damaged is found, named, and left as it is."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from tests.unit.server.stopped import MEMBERS, Stopped, spoil
from tests.unit.storage.support import change, open_log, run, segments
from tests.unit.storage.test_overlay_disk import images
from zmqbroker.cli.app import run as run_command
from zmqbroker.cli.exits import Exit
from zmqbroker.errors import Corruption, DataDirectoryError
from zmqbroker.raft.messages import Entry, HardState, StorageAppend
from zmqbroker.server.new_directory import NewNode
from zmqbroker.server.recovering import recover_cluster, survey
from zmqbroker.server.verifying import Report, verify_directory
from zmqbroker.storage.stopped import StoppedDirectory


def verified(path: Path) -> Report:
    """The report on a directory, which stays as it is."""
    before = images(path)
    with StoppedDirectory(path) as directory:
        report = verify_directory(directory)
    assert images(path) == before
    return report


def filled(path: Path) -> Stopped:
    """A node with messages in the log and in the store, some of which are finished."""
    node = Stopped(path)
    for number in range(6):
        node.publish(os.urandom(20_000), b"%d" % number)
    node.finish(3)
    node.flush()
    node.publish(b"not stored yet")
    return node


def torn(node: Stopped) -> tuple[Path, int]:
    """The node ends while it writes a record, of which a sector never gets to the disk; where the record begins."""
    job = node.log.prepare([StorageAppend(1, (Entry(node.index + 1, 2, b"torn" * 1000),), None, must_sync=True)])
    job.write()
    start = job.writes[-1].offset
    path = node.close()
    change(segments(path / "log")[-1], (start + 1024) // 512 * 512, bytes(512))
    return path, start


def test_directory_that_is_right_is_called_right(tmp_path: Path) -> None:
    path = filled(tmp_path).close()
    report = verified(path)
    assert (report.faults, report.torn) == ([], [])
    assert [part.name for part in report.parts] == ["identity", "log", "state", "messages"]
    who, log, state, messages = [part.checked for part in report.parts]
    assert who == "node n1 of cluster old, persistent"
    assert log.startswith(f"{len(segments(path / 'log'))} segments, 20 records of ")
    assert state.endswith(" bytes")
    assert messages == "10 in 1 channels; bodies of 5 entries; stored index 9, log to 10"


def test_directory_of_a_node_without_a_cluster_is_right(tmp_path: Path) -> None:
    report = verified(Stopped(tmp_path, formed=False).close())
    assert (report.faults, report.parts[3].checked) == ([], "none: no cluster was formed yet")


def test_torn_end_is_no_damage(tmp_path: Path) -> None:
    path, start = torn(filled(tmp_path))
    report = verified(path)
    assert report.faults == []
    assert [place.startswith(f"{segments(path / 'log')[-1]}: offset {start}: ") for place in report.torn] == [True]


@pytest.mark.parametrize("number", [0, 1])
def test_damage_in_the_log_names_file_and_offset(tmp_path: Path, number: int) -> None:
    path = filled(tmp_path).close()
    segment = segments(path / "log")[number]
    change(segment, 4096 + 56 + 24 + 100, b"\xff\xff")
    report = verified(path)
    assert report.faults[0].startswith(f"{segment}: offset ")
    assert report.parts[3].checked == "", "what needs the log was not looked at"


def test_every_damaged_place_of_the_log_is_counted(tmp_path: Path) -> None:
    path = filled(tmp_path).close()
    for segment in segments(path / "log")[:2]:
        change(segment, 4096 + 56 + 24 + 100, b"\xff\xff")
    assert len(verified(path).faults) == 2


def test_damaged_value_of_the_store_names_its_key(tmp_path: Path) -> None:
    path = filled(tmp_path).close()
    spoil(path, MEMBERS[2].uid)  # in the roster, whose key is 07
    (fault,) = verified(path).faults
    assert "the value of key 000107 is damaged (and what comes after it was not looked at)" in fault


def test_every_damaged_body_of_the_store_is_found(tmp_path: Path) -> None:
    path, target = filled(tmp_path / "old").close(), tmp_path / "new"
    with StoppedDirectory(path) as directory:  # all bodies are in the store of what is made of it
        recover_cluster(survey(directory), target, NewNode(name="n", cluster_name="c", volume="persistent", peer="h:1"))
    assert verified(target).faults == []
    for index in (6, 10):
        with StoppedDirectory(target) as directory:
            body = directory.open_state().body(1, index)
        assert body is not None
        spoil(target, body[-30:])
    faults = verified(target).faults
    assert ["is damaged" in fault for fault in faults] == [True, True]


def test_missing_body_of_a_live_message_is_found(tmp_path: Path) -> None:
    node = filled(tmp_path)
    for _ in range(4):
        node.publish(os.urandom(30_000))
    node.log.trim(1, 6)
    assert node.log.view(1).first_index() > 4
    first = node.log.view(1).first_index()
    faults = verified(node.close()).faults
    missing = "group 1: the bodies of entry {} are neither in the log nor in the store"
    assert faults == [missing.format(index) for index in range(3, first)]


def test_log_that_does_not_reach_the_stored_state_is_found(tmp_path: Path) -> None:
    node = filled(tmp_path)
    node.state.commit(1, 99, [])
    (fault,) = verified(node.close()).faults
    assert fault == "group 1: the state is that of index 99, but the log holds 1 to 10"


def test_hard_state_behind_the_log_is_found(tmp_path: Path) -> None:
    node = filled(tmp_path)
    run(node.log, StorageAppend(1, (), HardState(1, 1, 5), must_sync=True))
    (fault,) = verified(node.close()).faults
    assert fault == f"{tmp_path}: group 1: the term is 1, but the last entry is of term 2"


def test_entry_that_cannot_be_applied_is_found(tmp_path: Path) -> None:
    node = filled(tmp_path)
    run(node.log, StorageAppend(1, (Entry(11, 2, b"noise"),), HardState(2, 1, 10), must_sync=True))
    (fault,) = verified(node.close()).faults
    assert fault.startswith(f"{tmp_path}: group 1: entry 11 cannot be applied: ")


def test_verdict_on_a_changed_log_is_that_of_a_start(tmp_path: Path) -> None:
    path, chance = filled(tmp_path / "node").close(), random.Random(11)
    files = [*segments(path / "log")] * 40
    whole = {file: file.read_bytes() for file in files}
    verdicts = set()
    for file in files:
        data = bytearray(whole[file])
        end = len(data.rstrip(b"\0"))
        position, size = chance.randrange(end), chance.choice((1, 512))
        start = position // size * size
        data[start : start + size] = bytes(size) if size > 1 else bytes([data[start] ^ 1 << chance.randrange(8)])
        file.write_bytes(data)
        with StoppedDirectory(path) as directory:
            faults = verify_directory(directory).parts[1].faults
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(path / "log", tmp_path / "copy")
        try:
            open_log(tmp_path / "copy").close()
            starts = True
        except Corruption:
            starts = False
        assert (not faults) == starts, (file, start, size, faults)
        verdicts.add(starts)
        file.write_bytes(whole[file])
    assert verdicts == {True, False}


def test_data_without_its_identity_is_damage_and_an_empty_directory_none(tmp_path: Path) -> None:
    path = filled(tmp_path / "data").close()
    (path / "identity.json").unlink()
    assert [fault.endswith("identity.json is missing") for fault in verified(path).faults] == [True]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataDirectoryError, match="is no node's data directory"):
        verified(tmp_path / "empty")


def test_identity_that_knows_no_cluster_beside_data_is_damage(tmp_path: Path) -> None:
    path = filled(tmp_path / "data").close()
    other = Stopped(tmp_path / "other", formed=False).close()
    shutil.copy(other / "identity.json", path / "identity.json")
    assert verified(path).faults == [f"{path}: holds data of a cluster, but its identity knows none"]


def test_store_that_was_cut_is_damage_and_ends_nobody(tmp_path: Path) -> None:
    path = filled(tmp_path).close()
    data = path / "state" / "data.mdb"
    os.truncate(data, 2 * 4096)
    (fault,) = verified(path).faults
    assert fault.startswith(f"{path / 'state'}: ")


def test_store_with_noise_in_any_page_never_ends_the_reader(tmp_path: Path) -> None:
    path = filled(tmp_path).close()
    data, chance = path / "state" / "data.mdb", random.Random(7)
    whole = data.read_bytes()
    found = 0
    for page in range(2, len(whole) // 4096):
        damaged = bytearray(whole)
        damaged[page * 4096 : page * 4096 + 4096] = chance.randbytes(4096)
        data.write_bytes(damaged)
        found += bool(verified(path).faults)
    assert found > 0


# --- the command -----------------------------------------------------------------------------------------------------


def test_command_prints_a_table_and_the_torn_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, start = torn(filled(tmp_path))
    assert run_command(["verify", str(path)]) == Exit.DONE
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["part", "identity", "log", "state", "messages"]
    assert lines[2].endswith("ok, torn end")
    assert lines[5].startswith(
        f"torn, never acknowledged, cut off at the next start: {segments(path / 'log')[-1]}: offset {start}"
    )


def test_command_names_the_faults_and_how_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = filled(tmp_path).close()
    for segment in segments(path / "log")[:2]:
        change(segment, 4096 + 56 + 24 + 100, b"\xff\xff")
    assert run_command(["verify", str(path)]) == Exit.DAMAGED
    errors = capsys.readouterr().err.splitlines()
    assert [line.startswith(f"zmqbroker: damaged: {path}/log/0000000") for line in errors] == [True, True, False]
    assert errors[2] == f"zmqbroker: {path}: 2 faults"
    assert run_command(["verify", str(path), "--json"]) == Exit.DAMAGED
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["fault_count"]) == (False, 2)
    assert [len(part["faults"]) for part in told["parts"]] == [0, 2, 0, 0]


def test_command_refuses_a_directory_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = filled(tmp_path).close()
    with (path / "LOCK").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run_command(["verify", str(path)]) == Exit.USAGE
    assert "in use by a node" in capsys.readouterr().err
