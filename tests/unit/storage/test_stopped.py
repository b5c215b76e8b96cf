"""A data directory that is only read: held, opened as a start would, and not changed by a byte."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.unit.storage.support import SEGMENT_BYTES, append, change, contents, run, segments
from zmqbroker.errors import Corruption, DataDirectoryError, StorageError
from zmqbroker.storage import DataDirectory, LmdbState, SegmentLog
from zmqbroker.storage.log_reader import Flaw
from zmqbroker.storage.stopped import StoppedDirectory


def filled(path: Path) -> None:
    """A node's directory with a log of two segments, the last record torn, and some state."""
    with_node(path).close()
    log = SegmentLog.open(path / "log", sync=True, segment_bytes=SEGMENT_BYTES)
    for index in range(1, 8):
        run(log, append(index, bytes([index]) * 3000))
    offset = log._cursor.position if log._cursor else 0
    job = log.prepare([append(8, b"torn" * 500)])
    job.write()
    log.close()
    change(segments(path / "log")[-1], offset + 600 & ~511, bytes(512))
    state = LmdbState.open(path / "state", sync=True)
    state.install(1, 3, 1, [(b"\0", b"value")], [(2, b"body")])
    state.close()


def with_node(path: Path) -> DataDirectory:
    """The directory as its node opens it."""
    return DataDirectory.open(path, name="n", volume="persistent", cluster_name="c", owner="serve")


def images(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Every file with its time of change."""
    return {
        str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_everything_is_read_and_nothing_changed(tmp_path: Path) -> None:
    filled(tmp_path)
    before = images(tmp_path)
    with StoppedDirectory(tmp_path) as stopped, StoppedDirectory(tmp_path) as another:
        assert stopped.identity() == another.identity()
        assert stopped.identity().name == "n"
        assert contents(stopped.open_log()) == {index: bytes([index]) * 3000 for index in range(1, 8)}
        state = stopped.open_state()
        assert (state.applied_index(1), state.installed(1), list(state.load(1))) == (3, (3, 1), [(b"\0", b"value")])
        assert (state.body(1, 2), state.body_indexes(1)) == (b"body", [2])
        with pytest.raises(StorageError):
            state.commit(1, 4, [(b"\0", b"other")])
    assert images(tmp_path) == before
    with_node(tmp_path).close()  # and it is not held any more


def test_directory_in_use_is_refused_and_one_that_is_read_is_not_started(tmp_path: Path) -> None:
    node = with_node(tmp_path)
    with pytest.raises(DataDirectoryError, match=f"in use by a node .pid {os.getpid()}.: stop it first"):
        StoppedDirectory(tmp_path)
    node.close()
    with StoppedDirectory(tmp_path), pytest.raises(DataDirectoryError, match="in use"):
        with_node(tmp_path)


def test_directory_without_lock_and_state_is_read_all_the_same(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "LOCK").unlink()
    for path in (tmp_path / "state").iterdir():
        path.unlink()
    (tmp_path / "state").rmdir()
    with StoppedDirectory(tmp_path) as stopped:
        assert stopped.open_state().applied_index(1) == 0
        assert stopped.identity().name == "n"
    assert not (tmp_path / "LOCK").exists()


def test_what_is_no_data_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataDirectoryError, match="is no directory"):
        StoppedDirectory(tmp_path / "none")
    with StoppedDirectory(tmp_path) as stopped, pytest.raises(DataDirectoryError, match=r"identity\.json is missing"):
        stopped.identity()


def test_damage_is_found_where_a_start_finds_it(tmp_path: Path) -> None:
    filled(tmp_path)
    change(segments(tmp_path / "log")[0], 5000, b"\xff")
    change(tmp_path / "identity.json", 60, b"\xff")
    with StoppedDirectory(tmp_path) as stopped:
        with pytest.raises(Corruption, match="offset"):
            stopped.open_log()
        with pytest.raises(Corruption, match="the identity is damaged"):
            stopped.identity()


def test_log_ends_where_it_is_told_to(tmp_path: Path) -> None:
    path = tmp_path / "node"
    filled(path)
    before = images(path)
    shutil.copytree(path / "log", tmp_path / "copy")
    whole = SegmentLog.open(tmp_path / "copy", sync=False, segment_bytes=SEGMENT_BYTES)
    shown = contents(whole)
    whole.close()
    first, second = segments(path / "log")
    places = ((second, 4096, 4), (second, 0, 4), (first, 4096 + 3056, 1), (first, 4096, 0), (first, 0, 0))
    for segment, offset, count in places:
        with StoppedDirectory(path) as stopped:
            found = contents(stopped.open_log(Flaw(segment, offset, "wrong")))
        assert found == {index: shown[index] for index in range(1, count + 1)}
    assert images(path) == before
