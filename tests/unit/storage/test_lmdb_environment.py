"""What one LMDB environment is and is not: formats, full volumes, scrubbing, and files that do not grow by being looked at."""

from __future__ import annotations

import errno
import resource
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest

from zmqbroker.errors import Corruption, NoRoom, StorageError
from zmqbroker.storage import LmdbState, MemoryState
from zmqbroker.storage.disk import OsDisk
from zmqbroker.storage.engine import EngineError
from zmqbroker.storage.interfaces import Scrubbed

MAP_SIZE = 8 << 20

pytestmark = pytest.mark.usefixtures("engine")


def _open(path: Path, *, sync: bool = False, map_size: int = MAP_SIZE) -> LmdbState:
    return LmdbState.open(path / "state", sync=sync, map_size=map_size)


def _set(path: Path, key: bytes, value: bytes | None) -> None:
    """Set, or delete, a key behind the store's back."""
    with lmdb.open(str(path), map_size=MAP_SIZE) as environment, environment.begin(write=True) as transaction:
        transaction.delete(key) if value is None else transaction.put(key, value)


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["state", "bodies"])
def test_environment_with_records_and_no_format_is_corruption_and_left_alone(tmp_path: Path, name: str) -> None:
    state = _open(tmp_path)
    state.commit(1, 3, [(b"key", b"value")])
    state.put_bodies(1, [(2, b"body")])
    state.close()
    _set(tmp_path / name, b"\xff\xff", None)
    for _ in range(2):
        with pytest.raises(Corruption, match=f"{name}: .*the record that says its format is missing"):
            _open(tmp_path)


@pytest.mark.parametrize("version", [2, 4])
def test_environment_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("zmqbroker.storage.lmdb_environment.FORMAT_VERSION", version)
        _open(tmp_path).close()
    with pytest.raises(StorageError, match=f"written in format {version}; this version reads format 3"):
        _open(tmp_path)


def test_environment_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    _open(tmp_path).close()
    for one, other in (("state", "aside"), ("bodies", "state"), ("aside", "bodies")):
        (tmp_path / one).rename(tmp_path / other)
    with pytest.raises(StorageError, match="holds b'ZBBODIES', not b'ZBSTATE"):
        _open(tmp_path)


def test_environment_that_was_refused_is_closed_again(tmp_path: Path) -> None:
    """LMDB opens a path once in a process."""
    _open(tmp_path).close()
    (tmp_path / "bodies" / "data.mdb").write_bytes(b"not LMDB" * 4096)
    for _ in range(2):
        with pytest.raises(Corruption, match="bodies: the state store is damaged"):
            _open(tmp_path)


@pytest.mark.parametrize("sync", [False, True])
def test_names_of_a_persistent_store_are_synced_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool) -> None:
    """What the log lets go of must not depend on a file whose name a power cut takes."""
    synced: list[Path] = []
    monkeypatch.setattr(OsDisk, "sync_directory", lambda _disk, path: synced.append(path))
    _open(tmp_path, sync=sync).close()
    assert set(synced) == ({tmp_path, tmp_path / "state", tmp_path / "bodies"} if sync else set())


def test_store_whose_directory_cannot_be_synced_is_refused_and_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_disk: OsDisk, _path: Path) -> None:
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(OsDisk, "sync_directory", fail)
        with pytest.raises(StorageError, match="cannot be opened"):
            _open(tmp_path, sync=True)
    _open(tmp_path, sync=True).close()


# --- full volumes ----------------------------------------------------------------------------------------------------


class _Volume:
    """What statvfs says."""

    f_frsize, f_bavail, f_blocks = 4096, 10, 1_000_000


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Writes beyond `size` fail, for LMDB as they do on a full volume: with "Input/output error" and nothing else."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("sync", [False, True])
def test_commit_on_a_full_volume_is_no_room_changes_nothing_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    state = _open(tmp_path, sync=sync, map_size=64 << 20)
    state.commit(1, 1, [(b"a", b"1")])
    state.put_bodies(1, [(1, b"one")])
    monkeypatch.setattr("os.statvfs", lambda _: _Volume)
    with no_file_beyond(1 << 20):
        for _ in range(2):
            with pytest.raises(NoRoom, match="state: the volume is full"):
                state.commit(1, 2, [(b"a", None), (b"b", bytes(2 << 20))])
            with pytest.raises(NoRoom, match="bodies: the volume is full"):
                state.put_bodies(1, [(2, bytes(2 << 20))])
        assert (state.applied_index(1), list(state.load(1)), state.body_indexes(1)) == (1, [(b"a", b"1")], [1])
        state.commit(1, 2, [(b"a", b"2")])  # what fits goes on
        state.drop_bodies(1, [1])
    state.commit(1, 3, [(b"b", bytes(2 << 20))])
    state.put_bodies(1, [(2, bytes(2 << 20))])
    state.close()
    again = _open(tmp_path, map_size=64 << 20)
    assert (again.applied_index(1), again.get(1, b"a"), again.body_indexes(1)) == (3, b"2", [2])
    again.close()


def test_failed_write_on_a_volume_with_room_is_final(tmp_path: Path) -> None:
    state = _open(tmp_path, map_size=64 << 20)
    with no_file_beyond(1 << 20), pytest.raises(StorageError, match="the state store failed") as caught:
        state.commit(1, 1, [(b"a", bytes(2 << 20))])
    assert not isinstance(caught.value, NoRoom)
    state.close()


def fill(state: LmdbState, first: int) -> int:
    """Store bodies until there is no room; the index of the first that found none."""
    for index in range(first, first + 1000):
        try:
            state.put_bodies(1, [(index, bytes(8250))])
        except NoRoom:
            return index
    raise AssertionError("there is room for everything")


@pytest.mark.parametrize("full", ["volume", "map"])
def test_store_that_was_full_and_is_emptied_at_once_has_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    """LMDB uses what a transaction has freed in the next but one, and those that fail do not count."""
    monkeypatch.setattr("os.statvfs", lambda _: _Volume)
    state = _open(tmp_path, map_size=(64 if full == "volume" else 1) << 20)
    with no_file_beyond(1 << 20 if full == "volume" else 64 << 20):
        first = fill(state, 1)
        assert first > 50
        state.drop_bodies(1, range(1, first))
        assert state.body_indexes(1) == []
        begun = first
        for _ in range(3):
            first = fill(state, first)
        assert first - begun > 40
    state.close()


def test_bodies_whose_deletion_finds_no_room_are_deleted_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.statvfs", lambda _: _Volume)  # it never had room to spare
    state = _open(tmp_path)
    state.put_bodies(1, [(index, b"body") for index in range(1, 6)])
    drop, asked = state._drop, []

    def dropping(group: int, indexes: Iterable[int]) -> None:
        asked.append(list(indexes))
        if len(asked[-1]) > 1 or 4 in asked[-1]:
            raise NoRoom("full")
        drop(group, asked[-1])

    state._drop = dropping  # type: ignore[method-assign]
    with pytest.raises(NoRoom):
        state.drop_bodies(1, range(1, 6))
    assert (asked, state.body_indexes(1)) == ([[1, 2, 3, 4, 5], [1], [2], [3], [4]], [4, 5])
    state.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_error_that_says_full_is_no_room_whatever_is_free(tmp_path: Path, code: int) -> None:
    class Failing:
        def apply(self, *_: object) -> None:
            raise EngineError(code, "mdb_txn_begin")

        def close(self) -> None:
            opened.close()

    state = _open(tmp_path)
    opened = state._state._engine
    state._state._engine = Failing()  # type: ignore[assignment]
    with pytest.raises(NoRoom, match="the volume is full"):
        state._state.write([])
    state.commit(1, 1, [])  # opened again
    assert state.applied_index(1) == 1
    state.close()


def test_reader_on_another_thread_does_not_notice_that_the_environment_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = _open(tmp_path, map_size=64 << 20)
    state.put_bodies(1, [(1, b"one")])
    monkeypatch.setattr("os.statvfs", lambda _: _Volume)
    found: list[bytes | None] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            found.append(state.body(1, 1))

    reader = threading.Thread(target=read)
    reader.start()
    with no_file_beyond(1 << 20):
        for _ in range(20):
            with pytest.raises(NoRoom):
                state.put_bodies(1, [(2, bytes(2 << 20))])
    stop.set()
    reader.join()
    assert set(found) == {b"one"}
    state.close()


# --- reading ---------------------------------------------------------------------------------------------------------


def test_files_do_not_grow_while_state_and_bodies_are_replaced_and_read(tmp_path: Path) -> None:
    """No read transaction stays open, whoever reads: an open one would keep every page that is freed behind it."""
    state = _open(tmp_path)
    sizes = []
    for round_ in range(1, 301):
        state.commit(1, round_, [(b"%d" % number, bytes(500)) for number in range(20)])
        state.put_bodies(1, [(round_, bytes(10_000))])
        state.drop_bodies(1, [max(round_ - 20, 0)])
        loading = state.load(1)
        next(loading)  # and left where it is
        state.body(1, round_)
        state.body_indexes(1)
        state.scrub(None, 1000)
        sizes.append(sum((tmp_path / name / "data.mdb").stat().st_size for name in ("state", "bodies")))
    assert sizes[-1] == sizes[100], sizes[::50]
    state.close()


def scrub_all(state: LmdbState | MemoryState, bytes_max: int) -> tuple[int, int]:
    """Scrub everything; bytes read, and in how many steps."""
    after: Scrubbed | None = None
    total = steps = 0
    while True:
        after, size = state.scrub(after, bytes_max)
        assert size <= bytes_max + 2000, "a value more than was asked for"
        total, steps = total + size, steps + 1
        if after is None:
            return total, steps


def test_scrub_reads_everything_once_in_bounded_steps(tmp_path: Path) -> None:
    state = _open(tmp_path)
    state.commit(1, 5, [(b"%03d" % number, bytes(100)) for number in range(50)])
    state.commit(2, 5, [(b"key", bytes(100))])
    state.put_bodies(1, ((index, bytes(1000)) for index in range(1, 21)))
    formats = 2 * (2 + 12)
    content = 50 * 105 + 105 + 2 * 26 + 20 * 1010 + formats
    for bytes_max in (1, 3000, 1 << 20):
        total, steps = scrub_all(state, bytes_max)
        assert total == content
        assert steps >= content // (bytes_max + 1100)
    assert scrub_all(MemoryState(), 10) == (0, 1)
    state.close()


@pytest.mark.parametrize(("name", "key"), [("state", "00016b6579"), ("bodies", "00010000000000000007")])
def test_scrub_reports_a_value_that_nobody_reads(tmp_path: Path, name: str, key: str) -> None:
    state = _open(tmp_path)
    state.commit(1, 5, [(b"key", bytes(100))])
    state.put_bodies(1, [(7, bytes(100))])
    state.close()
    _set(tmp_path / name, bytes.fromhex(key), bytes(104))
    state = _open(tmp_path)
    with pytest.raises(Corruption, match=f"{name}: the value of key {key} is damaged"):
        scrub_all(state, 1)
    state.close()
