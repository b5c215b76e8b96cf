"""Data that is not to be trusted: noted once, moved aside whole, and never deleted before its node votes again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.unit.storage.test_directory import FOUNDERS, MEMBERS, _open
from zmqbroker.errors import Corruption, StorageError
from zmqbroker.storage.crashes import CRASHES_NAME, count_crashes, forget_crashes
from zmqbroker.storage.disk import OS_DISK, OsDisk
from zmqbroker.storage.distrust import (
    NOTE_NAME,
    Cause,
    delete_stale,
    disposable,
    new_note,
    read_note,
    set_aside,
    stale_names,
)
from zmqbroker.storage.identity import IDENTITY_NAME, read_identity
from zmqbroker.storage.run_record import RUN_NAME, RunRecord, write_run

CLUSTER = b"c" * 16


def _member(place: Path) -> bytes:
    """A directory with the data of a member; its uid."""
    directory = _open(place)
    directory.save_formation(CLUSTER, FOUNDERS, 7, MEMBERS)
    directory.close()
    for name in ("log", "state", "bodies"):
        (place / name).mkdir()
        (place / name / "data").write_text(f"all that is in {name}")
    write_run(place, RunRecord(boot_id="b", clean=False, durable_unix_ns=1))
    return directory.identity.node_uid


def test_distrust_gives_the_node_another_uid_and_leaves_the_data_alone(tmp_path: Path) -> None:
    old_uid = _member(tmp_path)
    directory = _open(tmp_path)
    assert directory.shared
    assert directory.distrust(Cause.DAMAGED, "log/1 is damaged")
    note, uid = directory.note, directory.node_uid
    assert note is not None
    assert (note.cause, note.reason, note.stale) == (Cause.DAMAGED, "log/1 is damaged", f"stale-{old_uid.hex()}")
    assert uid == note.node_uid != old_uid
    assert directory.distrust(Cause.DIED, "something else")
    assert directory.note == note, "the first stays"
    directory.close()
    again = _open(tmp_path)
    assert (again.note, again.node_uid, again.identity.node_uid) == (note, uid, old_uid)
    assert (tmp_path / "log" / "data").exists()
    assert stale_names(tmp_path) == []
    again.close()


def test_distrust_where_nobody_else_has_the_data_is_refused(tmp_path: Path) -> None:
    directory = _open(tmp_path)
    assert not directory.distrust(Cause.DAMAGED, "x")
    directory.save_formation(CLUSTER, FOUNDERS[:1], 0, FOUNDERS[:1])
    assert not directory.distrust(Cause.DAMAGED, "x")
    assert not (tmp_path / NOTE_NAME).exists()
    directory.close()


def _place_given(place: Path) -> None:
    """The cluster gives the node a place."""
    directory = _open(place)
    directory.save_formation(CLUSTER, FOUNDERS, 9, MEMBERS)
    directory.close()


def _is_aside(place: Path, old_uid: bytes, uid: bytes) -> None:
    """All that was there is under its old uid, the directory is that of the new one, and a start finds nothing to do."""
    stale = place / f"stale-{old_uid.hex()}"
    names = {path.name for path in stale.iterdir()}
    assert names == {"log", "state", "bodies", RUN_NAME, IDENTITY_NAME, "why.json"}
    assert [(stale / name / "data").read_text() for name in ("log", "state", "bodies")] == [
        "all that is in log",
        "all that is in state",
        "all that is in bodies",
    ]
    moved, now = read_identity(stale), read_identity(place)
    assert moved is not None
    assert now is not None
    assert (moved.node_uid, now.node_uid, now.cluster_uid, now.members_index) == (old_uid, uid, CLUSTER, 9)
    assert {path.name for path in place.iterdir()} == {"LOCK", IDENTITY_NAME, "log", "state", "bodies", stale.name}
    assert not [path for name in ("log", "state", "bodies") for path in (place / name).iterdir()]
    again = _open(place)
    assert (again.note, again.node_uid) == (None, uid)
    again.close()


def test_place_given_moves_the_data_aside(tmp_path: Path) -> None:
    old_uid = _member(tmp_path)
    directory = _open(tmp_path)
    directory.distrust(Cause.DIED, "the machine died")
    uid = directory.node_uid
    directory.save_formation(CLUSTER, FOUNDERS, 9, MEMBERS)
    assert (directory.note, directory.identity.node_uid) == (None, uid)
    directory.close()
    _is_aside(tmp_path, old_uid, uid)


class _Dying(OsDisk):
    """A disk whose node dies at one of its steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def _step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError("died")

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        super().rename(source, target)

    def make_directory(self, path: Path) -> None:
        self._step()
        super().make_directory(path)

    def pwritev(self, descriptor: int, buffers: Sequence[Any], offset: int) -> int:
        self._step()
        return super().pwritev(descriptor, buffers, offset)

    def sync_directory(self, path: Path) -> None:
        self._step()
        super().sync_directory(path)


@pytest.mark.parametrize("steps", range(24))
def test_death_at_any_step_is_made_good_by_the_next_start(tmp_path: Path, steps: int) -> None:
    old_uid = _member(tmp_path)
    directory = _open(tmp_path)
    directory.distrust(Cause.DAMAGED, "damaged")
    note, identity = directory.note, directory.identity
    assert note is not None
    directory.close()
    new = type(identity)(
        node_uid=note.node_uid,
        name=identity.name,
        volume=identity.volume,
        cluster_name=identity.cluster_name,
        owner=identity.owner,
        cluster_uid=CLUSTER,
        founders=FOUNDERS,
        members=MEMBERS,
        members_index=9,
    )
    disk = _Dying(steps)
    try:
        set_aside(tmp_path, note, new, disk)
    except OSError:
        found = _open(tmp_path)
        assert found.node_uid == note.node_uid, "nobody's old self comes back"
        finished = found.note is None
        found.close()
        if not finished:
            _place_given(tmp_path)
    else:
        assert disk.left >= 0
    _is_aside(tmp_path, old_uid, note.node_uid)


def test_all_steps_are_fewer_than_were_tried(tmp_path: Path) -> None:
    _member(tmp_path)
    directory = _open(tmp_path)
    directory.distrust(Cause.DAMAGED, "damaged")
    assert directory.note is not None
    disk = _Dying(1000)
    set_aside(tmp_path, directory.note, directory.identity, disk)
    directory.close()
    assert 1000 - disk.left <= 24


@pytest.mark.parametrize("data", [b"", b"{", None])
def test_identity_that_cannot_be_read_is_noted_where_others_have_the_data(tmp_path: Path, data: bytes | None) -> None:
    _member(tmp_path)
    path = tmp_path / IDENTITY_NAME
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    with pytest.raises(Corruption):
        _open(tmp_path)
    directory = _open(tmp_path, clustered=True)
    note = directory.note
    assert note is not None
    assert str(path) in note.reason
    assert note.stale.startswith("stale-unknown-")
    directory.close()
    again = _open(tmp_path, clustered=True)
    assert again.note == note, "one uid, however often it starts"
    again.save_formation(CLUSTER, FOUNDERS, 9, MEMBERS)
    again.close()
    assert (tmp_path / note.stale / "log" / "data").exists()
    after = _open(tmp_path)
    assert (after.note, after.node_uid) == (None, note.node_uid)
    after.close()


def test_note_that_is_damaged_is_made_anew(tmp_path: Path) -> None:
    old_uid = _member(tmp_path)
    directory = _open(tmp_path)
    directory.distrust(Cause.DIED, "the machine died")
    directory.close()
    (tmp_path / NOTE_NAME).write_bytes(b"?")
    again = _open(tmp_path, clustered=True)
    assert again.note is not None
    assert NOTE_NAME in again.note.reason
    assert again.note.stale == f"stale-{old_uid.hex()}"
    again.close()


def test_distrust_that_cannot_be_noted_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _member(tmp_path)
    directory = _open(tmp_path)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(StorageError, match="cannot be noted"):
        directory.distrust(Cause.DAMAGED, "x")
    assert directory.note is None
    directory.close()


def test_disposable_is_all_but_the_newest_damaged_one(tmp_path: Path) -> None:
    for number, cause in enumerate([Cause.DAMAGED, Cause.DIED, Cause.DAMAGED, Cause.DIED]):
        stale = tmp_path / f"stale-{number}"
        stale.mkdir()
        new_note(stale, cause, "why", None, number)
        OS_DISK.rename(stale / NOTE_NAME, stale / "why.json")
    (tmp_path / "stale-unexplained").mkdir()
    (tmp_path / "stale-unreadable").mkdir()
    (tmp_path / "stale-unreadable" / "why.json").write_bytes(b"?")
    (tmp_path / "stale-file").write_bytes(b"")
    assert disposable(tmp_path) == ["stale-0", "stale-1", "stale-3"]
    delete_stale(tmp_path, disposable(tmp_path))
    assert stale_names(tmp_path) == ["stale-2", "stale-unexplained", "stale-unreadable"]
    assert disposable(tmp_path) == []
    assert read_note(tmp_path) is None


def test_crashes_are_counted_until_they_are_forgotten(tmp_path: Path) -> None:
    assert count_crashes(tmp_path) == 0
    forget_crashes(tmp_path)
    (tmp_path / CRASHES_NAME).write_text("Fatal Python error: Bus error\n\nStack\nFatal Python error: Segmentation fault\n")
    assert count_crashes(tmp_path) == 2
    forget_crashes(tmp_path)
    assert count_crashes(tmp_path) == 0
    assert (tmp_path / CRASHES_NAME).exists(), "the file is open: it is emptied, not replaced"
