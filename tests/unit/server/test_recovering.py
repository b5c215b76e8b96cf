"""`cluster recover`: all that one stopped directory holds, in a new cluster, and the old directory as it was."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.unit.server.stopped import MEMBERS, TERM, Stopped, spoil
from tests.unit.server.test_verifying import torn, verified
from tests.unit.storage.support import change, run, segments
from tests.unit.storage.test_overlay_disk import images
from zmqbroker.broker import Machine
from zmqbroker.cli.app import run as run_command
from zmqbroker.cli.exits import Exit
from zmqbroker.commands import Member
from zmqbroker.errors import Corruption, DataDirectoryError
from zmqbroker.raft.confchange import Change, ChangeType, ConfChange, Transition, encode
from zmqbroker.raft.messages import Entry, EntryType, HardState, StorageAppend
from zmqbroker.server import stopped_group
from zmqbroker.server.new_directory import NewNode
from zmqbroker.server.recovering import Recovery, recover_cluster, survey
from zmqbroker.storage import LmdbState
from zmqbroker.storage.identity import Identity, read_identity
from zmqbroker.storage.log_reader import FoundRecord, read_log
from zmqbroker.storage.record import RecordType
from zmqbroker.storage.stopped import StoppedDirectory
from zmqbroker.wire.membership import encode_members

NODE = NewNode(name="phoenix", cluster_name="second", volume="ephemeral", peer="host:5591")


def recovered(path: Path, target: Path) -> tuple[Identity, Machine, dict[int, bytes]]:
    """Recover from `path`, which stays as it is: who the new directory belongs to, its machine and bodies."""
    before = images(path)
    with StoppedDirectory(path) as directory:
        identity = recover_cluster(survey(directory), target, NODE)
    assert images(path) == before
    assert verified(target).faults == []
    state = LmdbState.open_read_only(target / "state")
    machine = Machine.restore(state.applied_index(1), state.load(1))
    bodies = {index: state.body(1, index) or b"" for index in state.body_indexes(1)}
    state.close()
    return identity, machine, bodies


def state_of(machine: Machine) -> list[tuple[bytes, bytes]]:
    """The state but for its members."""
    return [(key, value) for key, value in machine.items() if key != b"\7"]


def filled(path: Path) -> Stopped:
    """Messages in store and log, some of them finished; nobody here knows that the last two entries are committed."""
    node = Stopped(path)
    for number in range(6):
        node.publish(os.urandom(20_000), b"%d" % number)
    node.finish(3)
    node.flush()
    known = node.publish(b"known to be committed")
    node.publish(b"not known", commit=known)
    node.publish(b"nor this one", commit=known)
    return node


def test_everything_is_kept_the_uncommitted_tail_too(tmp_path: Path) -> None:
    node = filled(tmp_path / "old")
    path = node.close()
    with StoppedDirectory(path) as directory:
        found = survey(directory)
    assert (found.group.stored_index, found.group.commit_index, found.group.last_index) == (9, 10, 12)
    assert (found.group.last_term, found.uncommitted, found.group.messages) == (TERM, 2, {"c": 12})
    identity, machine, bodies = recovered(path, tmp_path / "new")
    assert (machine.applied_index, state_of(machine)) == (12, state_of(node.machine))
    live = [index for index in range(1, 13) if node.machine.is_live(index)]
    assert sorted(bodies) == live
    assert b"nor this one" in bodies[12]
    (own,) = identity.members
    assert (own.id, own.name) == (4, "phoenix")
    assert machine.roster.members == (own,)
    old = read_identity(path)
    assert old is not None
    assert old.cluster_uid != identity.cluster_uid is not None
    assert (identity.volume, identity.cluster_name) == ("ephemeral", "second")


def test_log_is_applied_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopped_group, "_SLICE_BYTES", 1)
    node = filled(tmp_path / "old")
    _, machine, _ = recovered(node.close(), tmp_path / "new")
    assert (machine.applied_index, state_of(machine)) == (12, state_of(node.machine))


def test_torn_tail_is_left_out(tmp_path: Path) -> None:
    node = filled(tmp_path / "old")
    path, _ = torn(node)
    _, machine, _ = recovered(path, tmp_path / "new")
    assert (machine.applied_index, state_of(machine)) == (12, state_of(node.machine))


def test_directory_that_never_stored_any_state_is_recovered_from_its_log(tmp_path: Path) -> None:
    node = filled(tmp_path / "old")
    path = node.close()
    shutil.rmtree(path / "state")
    _, machine, bodies = recovered(path, tmp_path / "new")
    assert state_of(machine) == state_of(node.machine)
    assert len(bodies) == sum(node.machine.is_live(index) for index in range(1, 13))


def test_bodies_that_a_snapshot_brought_are_kept(tmp_path: Path) -> None:
    first = filled(tmp_path / "first")
    recovered(first.close(), tmp_path / "second")
    _, machine, bodies = recovered(tmp_path / "second", tmp_path / "third")
    assert state_of(machine) == state_of(first.machine)
    assert len(bodies) == sum(first.machine.is_live(index) for index in range(1, 13))


def test_members_that_came_with_the_log_are_followed(tmp_path: Path) -> None:
    node = filled(tmp_path / "old")
    newcomer = Member(4, "n4", bytes(16), "h4:1")
    joining = ConfChange((Change(ChangeType.ADD_LEARNER, 4),), Transition.JOINT_IMPLICIT, encode_members((newcomer,)))
    for change_of_members in (joining, ConfChange(), ConfChange()):  # the last one changes nothing: there is none to leave
        node.append(encode(change_of_members), EntryType.CHANGE)
    identity, machine, _ = recovered(node.close(), tmp_path / "new")
    assert machine.applied_index == 15
    assert identity.members[0].id == 5, "above every id that was ever given"


def test_damage_is_refused_and_nothing_made(tmp_path: Path) -> None:
    path = filled(tmp_path / "old").close()
    change(segments(path / "log")[0], 4096 + 56 + 24 + 100, b"\xff\xff")
    with StoppedDirectory(path) as directory, pytest.raises(Corruption, match="offset"):
        survey(directory)


def test_damaged_store_is_refused(tmp_path: Path) -> None:
    node = filled(tmp_path / "old")
    spoil(node.close(), MEMBERS[2].uid)
    with StoppedDirectory(node.path) as directory, pytest.raises(Corruption, match="the value of key 000107 is damaged"):
        survey(directory)
    os.truncate(node.path / "state" / "data.mdb", 2 * 4096)
    with StoppedDirectory(node.path) as directory, pytest.raises(Corruption, match="reading it ends with SIGBUS"):
        survey(directory)


def test_missing_body_of_a_live_message_is_refused(tmp_path: Path) -> None:
    node = filled(tmp_path / "old")
    for _ in range(4):
        node.publish(os.urandom(30_000))
    node.log.trim(1, 6)
    with StoppedDirectory(node.close()) as directory, pytest.raises(Corruption, match="the bodies of entry 3 are neither"):
        survey(directory)


def test_node_without_a_cluster_has_nothing_to_recover(tmp_path: Path) -> None:
    path = Stopped(tmp_path / "old", formed=False).close()
    with StoppedDirectory(path) as directory, pytest.raises(DataDirectoryError, match="there is nothing to recover"):
        survey(directory)


def test_directory_copied_while_stale_is_recovered_without_a_lock(tmp_path: Path) -> None:
    node = filled(tmp_path / "old")
    path = node.close().rename(tmp_path / "stale-0102")
    (path / "LOCK").unlink()
    _, machine, _ = recovered(path, tmp_path / "new")
    assert state_of(machine) == state_of(node.machine)


# --- a damaged log ---------------------------------------------------------------------------------------------------


def damage(path: Path, index: int) -> None:
    """Damage the record of an entry's last version."""
    (target,) = [
        event
        for event in read_log(path / "log")
        if isinstance(event, FoundRecord) and event.header.type == RecordType.ENTRY and event.header.entry_index == index
    ]
    change(target.path, target.offset + 56 + 20, b"\xff\xff")


def accepted(path: Path, target: Path) -> tuple[Machine, dict[int, bytes], Recovery]:
    """Recover from a damaged directory: machine, bodies, and what was found."""
    with StoppedDirectory(path) as directory, pytest.raises(Corruption):
        survey(directory)
    with StoppedDirectory(path) as directory:
        found = survey(directory, accept_damage=True)
        recover_cluster(found, target, NODE)
    assert verified(target).faults == []
    state = LmdbState.open_read_only(target / "state")
    machine = Machine.restore(state.applied_index(1), state.load(1))
    bodies = {index: state.body(1, index) or b"" for index in state.body_indexes(1)}
    state.close()
    return machine, bodies, found


def test_damage_behind_the_stored_state_costs_what_comes_after_it(tmp_path: Path) -> None:
    node = filled(tmp_path / "old")
    path = node.close()
    damage(path, 11)
    before = images(path)
    machine, bodies, found = accepted(path, tmp_path / "new")
    assert images(path) == before
    assert (machine.applied_index, machine.stats("c") is not None) == (10, True)
    assert max(bodies) == 10
    assert found.flaw is not None
    assert "does not fit its checksum" in found.flaw.what


def test_damage_before_the_stored_state_costs_none_of_it(tmp_path: Path) -> None:
    node = filled(tmp_path / "old")
    stored = dict(state_of(node.machine))
    node.flush()
    path = node.close()
    damage(path, 2)  # its messages are finished
    machine, bodies, _ = accepted(path, tmp_path / "new")
    assert (machine.applied_index, dict(state_of(machine))) == (12, stored)
    assert sorted(bodies) == [index for index in range(1, 13) if node.machine.is_live(index)]
    assert b"nor this one" in bodies[12]


def test_damaged_message_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    node = filled(tmp_path / "old")
    node.flush()
    path = node.close()
    damage(path, 5)
    with StoppedDirectory(path) as directory, pytest.raises(Corruption, match="the bodies of entry 5 are neither"):
        survey(directory, accept_damage=True)


def test_log_without_its_first_segment_header_gives_the_stored_state(tmp_path: Path) -> None:
    node = filled(tmp_path / "old")
    node.finish(8)
    node.flush()
    path = node.close()
    assert not [index for index in range(1, 5) if node.machine.is_live(index)]
    change(segments(path / "log")[0], 20, b"\xff")
    machine, bodies, found = accepted(path, tmp_path / "new")
    assert (found.group.last_term, state_of(machine)) == (1, state_of(node.machine))
    assert sorted(bodies) == [index for index in range(1, 13) if node.machine.is_live(index)]


# --- the command -----------------------------------------------------------------------------------------------------


def test_command_without_yes_says_what_it_would_do_and_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = filled(tmp_path / "old").close()
    words = ["cluster", "recover", "--from", str(path), "--data-dir", str(tmp_path / "new")]
    assert run_command(words) == Exit.USAGE
    told = capsys.readouterr().err
    assert "Its log reaches index 12 of term 2; committed is 10 at least." in told
    assert "KEPT: 12 messages in 1 channels" in told
    assert "2 entries of it are not known to be committed. They are kept" in told
    assert "LOST: whatever only the other nodes held (n2, n3)" in told
    assert "nothing was done: run it again with --yes" in told
    assert not (tmp_path / "new").exists()


def test_command_with_yes_makes_the_cluster_and_says_how_to_start_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = filled(tmp_path / "old").close()
    words = ["cluster", "recover", "--from", str(path), "--data-dir", str(tmp_path / "new"), "--yes", "--json"]
    assert run_command(words) == Exit.DONE
    told = json.loads(capsys.readouterr().out)
    assert (told["index"], told["term"], told["uncommitted"], told["messages"]) == (12, 2, 2, {"c": 12})
    assert told["start"].startswith(f"zmqbroker serve --name n1 --data-dir {tmp_path / 'new'} --volume persistent ")
    assert run_command(words) == Exit.USAGE
    assert "is not empty" in capsys.readouterr().err


def test_command_on_damage_ends_with_its_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = filled(tmp_path / "old")
    run(node.log, StorageAppend(1, (Entry(13, 2, b"x" * 3000),), HardState(2, 1, 12), must_sync=True))
    path = node.close()
    change(segments(path / "log")[-1], 5000, b"\xff\xff")
    words = ["cluster", "recover", "--from", str(path), "--data-dir", str(tmp_path / "new"), "--yes"]
    assert run_command(words) == Exit.DAMAGED
    assert not (tmp_path / "new").exists()
    capsys.readouterr()
    assert run_command([*words, "--accept-damage"]) == Exit.DONE
    assert "LOST: all of the log behind its damage" in capsys.readouterr().err
