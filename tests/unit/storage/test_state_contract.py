"""The contract of StateStore over both implementations, and what only LMDB has."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zmqbroker.errors import Corruption, NoRoom, StorageError
from zmqbroker.storage import LmdbState, MemoryState, StateStore, lmdb_state
from zmqbroker.storage.engine import EngineError
from zmqbroker.storage.lmdb_environment import map_size_of
from zmqbroker.storage.lmdb_state import KEY_SIZE_MAX

MAP_SIZE = 8 << 20

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture(params=["memory", "ephemeral", "persistent"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateStore]:
    store: StateStore
    if request.param == "memory":
        store = MemoryState()
    else:
        store = LmdbState.open(tmp_path / "state", sync=request.param == "persistent", map_size=MAP_SIZE)
    yield store
    store.close()


def test_new_group_is_empty(state: StateStore) -> None:
    assert (state.applied_index(3), list(state.load(3))) == (0, [])


def test_commit_puts_deletes_and_moves_the_index(state: StateStore) -> None:
    state.commit(1, 5, [(b"b", b"2"), (b"a", b"1"), (b"c", b"")])
    assert (state.applied_index(1), list(state.load(1))) == (5, [(b"a", b"1"), (b"b", b"2"), (b"c", b"")])
    state.commit(1, 9, [(b"a", None), (b"b", b"two"), (b"absent", None)])
    assert (state.applied_index(1), list(state.load(1))) == (9, [(b"b", b"two"), (b"c", b"")])
    state.commit(1, 10, [])
    assert (state.applied_index(1), len(list(state.load(1)))) == (10, 2)


def test_commit_later_changes_of_a_key_win(state: StateStore) -> None:
    state.commit(1, 1, [(b"k", b"1"), (b"k", None), (b"k", b"3"), (b"j", b"1"), (b"j", None)])
    assert list(state.load(1)) == [(b"k", b"3")]


def test_groups_do_not_see_each_other(state: StateStore) -> None:
    for group in (0, 1, 255, 256, 0x3FFF):
        state.commit(group, group + 1, [(b"\xff\xff", b"%d" % group), (b"\0", b"x")])
    for group in (0, 1, 255, 256, 0x3FFF):
        assert state.applied_index(group) == group + 1
        assert list(state.load(group)) == [(b"\0", b"x"), (b"\xff\xff", b"%d" % group)]


def test_load_more_than_a_slice_gives_all_in_order(state: StateStore) -> None:
    records = [(b"%06d" % number, bytes([number % 256]) * 50) for number in range(2500)]
    state.commit(1, 1, reversed(records))
    state.commit(2, 1, [(b"other", b"")])
    assert list(state.load(1)) == records


def test_commit_that_fails_changes_nothing(state: StateStore) -> None:
    def changes() -> Iterator[tuple[bytes, bytes | None]]:
        yield b"a", b"2"
        raise KeyError("half way")

    state.commit(1, 5, [(b"a", b"1")])
    with pytest.raises(KeyError):
        state.commit(1, 6, changes())
    assert (state.applied_index(1), list(state.load(1))) == (5, [(b"a", b"1")])


def test_commit_on_another_thread_is_seen(state: StateStore) -> None:
    thread = threading.Thread(target=state.commit, args=(1, 2, [(b"a", b"b")]))
    thread.start()
    thread.join()
    assert (state.applied_index(1), list(state.load(1))) == (2, [(b"a", b"b")])


# --- snapshots -------------------------------------------------------------------------------------------------------

Stored = tuple[int, tuple[int, int], list[tuple[bytes, bytes]], dict[int, bytes | None]]


def stored(state: StateStore, group: int = 1) -> Stored:
    """All that a store says of a group."""
    bodies = {index: state.body(group, index) for index in state.body_indexes(group)}
    return state.applied_index(group), state.installed(group), list(state.load(group)), bodies


def test_new_group_has_no_snapshot_and_no_bodies(state: StateStore) -> None:
    assert stored(state) == (0, (0, 0), [], {})
    assert (state.body(1, 5), state.get(1, b"k")) == (None, None)


def test_get_gives_the_value_of_one_key(state: StateStore) -> None:
    state.commit(1, 5, [(b"a", b"1"), (b"b", b"")])
    assert [state.get(1, key) for key in (b"a", b"b", b"c")] == [b"1", b"", None]
    assert state.get(2, b"a") is None


def test_install_replaces_the_state_of_its_group_and_nothing_else(state: StateStore) -> None:
    for group in (1, 2):
        state.install(group, 10, 2, [(b"a", b"1"), (b"b", b"2")], [(3, b"three"), (9, b"nine")])
    before = stored(state, 2)
    assert before == (10, (10, 2), [(b"a", b"1"), (b"b", b"2")], {3: b"three", 9: b"nine"})
    state.commit(1, 12, [(b"c", b"3")])
    state.install(1, 20, 4, [(b"b", b"two")], [(9, b"another"), (2**64 - 1, b"")])
    assert stored(state, 1) == (20, (20, 4), [(b"b", b"two")], {3: b"three", 9: b"another", 2**64 - 1: b""})
    assert (state.bodies_mark(1), state.bodies_mark(2), state.bodies_mark(3)) == (20, 10, 0)
    assert stored(state, 2) == before
    assert stored(state, 0x3FFF) == (0, (0, 0), [], {})


def test_install_of_nothing_leaves_only_the_place(state: StateStore) -> None:
    state.install(0x3FFF, 10, 2, [(b"a", b"1")], [(3, b"three")])
    state.install(0x3FFF, 11, 3, [], [])
    assert stored(state, 0x3FFF) == (11, (11, 3), [], {3: b"three"})


def test_bodies_dropped_after_a_commit_leave_place_and_mark(state: StateStore) -> None:
    state.install(1, 10, 2, [(b"a", b"1")], [(index, b"%d" % index) for index in range(1, 8)])
    state.commit(1, 11, [(b"a", b"2")])
    state.drop_bodies(1, iter([2, 5, 99]))
    assert stored(state) == (11, (10, 2), [(b"a", b"2")], {index: b"%d" % index for index in (1, 3, 4, 6, 7)})
    state.drop_bodies(2, [1])
    state.drop_bodies(1, [1, 3, 4, 6, 7])
    assert stored(state) == (11, (10, 2), [(b"a", b"2")], {})
    assert state.bodies_mark(1) == 10


@pytest.mark.parametrize("part", ["items", "bodies"])
def test_install_that_fails_half_way_leaves_the_state(state: StateStore, part: str) -> None:
    def items() -> Iterator[tuple[bytes, bytes]]:
        yield b"x", b"new"
        raise KeyError("half way")

    def bodies() -> Iterator[tuple[int, bytes]]:
        yield 4, b"new"
        if part == "bodies":
            raise KeyError("half way")

    state.install(1, 10, 2, [(b"a", b"1")], [(3, b"three")])
    before = stored(state)
    with pytest.raises(KeyError):
        state.install(1, 20, 4, items(), bodies())
    state.drop_bodies(1, [4])
    assert (stored(state), state.bodies_mark(1)) == (before, 10)


def test_bodies_put_twice_are_there_once_and_the_mark_is_what_was_said_last(state: StateStore) -> None:
    state.put_bodies(1, [(7, b"seven"), (8, b"")])
    state.put_bodies(1, iter([(8, b""), (9, b"nine")]))
    assert stored(state) == (0, (0, 0), [], {7: b"seven", 8: b"", 9: b"nine"})
    for mark in (9, 12):
        state.mark_bodies(1, mark)
        assert state.bodies_mark(1) == mark
    state.commit(1, 20, [(b"a", b"1")])
    assert (state.bodies_mark(1), state.bodies_mark(2), list(state.load(1))) == (12, 0, [(b"a", b"1")])


def test_bodies_larger_than_a_transaction_are_all_stored(state: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_state, "TRANSACTION_BYTES", 1000)
    bodies = {index: bytes([index]) * (index * 100) for index in range(1, 30)}
    state.put_bodies(1, bodies.items())
    assert stored(state)[3] == bodies
    state.drop_bodies(1, bodies)
    assert stored(state)[3] == {}


def test_bodies_of_earlier_transactions_stay_when_a_later_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bodies() -> Iterator[tuple[int, bytes]]:
        for index in range(1, 6):
            yield index, bytes(400)
        raise KeyError("half way")

    monkeypatch.setattr(lmdb_state, "TRANSACTION_BYTES", 800)
    state = _open(tmp_path)
    with pytest.raises(KeyError):
        state.put_bodies(1, bodies())
    assert state.body_indexes(1) == [1, 2, 3, 4]
    state.close()


def test_install_on_another_thread_is_seen(state: StateStore) -> None:
    thread = threading.Thread(target=state.install, args=(1, 2, 1, [(b"a", b"b")], [(1, b"body")]))
    thread.start()
    thread.join()
    assert stored(state) == (2, (2, 1), [(b"a", b"b")], {1: b"body"})


def test_install_larger_than_a_slice_replaces_a_larger_one(state: StateStore) -> None:
    state.install(1, 5, 1, ((b"%06d" % number, b"old") for number in range(3000)), ((index, b"old") for index in range(3000)))
    state.install(1, 9, 1, ((b"%06d" % number, b"new") for number in range(2500)), ((index, b"new") for index in range(3000)))
    _, place, items, bodies = stored(state)
    assert (place, len(items), len(bodies)) == ((9, 1), 2500, 3000)
    assert {value for _, value in items} == {b"new"} == set(bodies.values())


def test_lmdb_reopened_holds_what_was_installed(tmp_path: Path) -> None:
    state = _open(tmp_path)
    state.install(1, 10, 2, [(b"a", b"1")], [(3, bytes(100_000))])
    before = stored(state)
    state.close()
    again = _open(tmp_path)
    assert stored(again) == before
    again.close()


def test_lmdb_full_map_in_an_install_changes_nothing(tmp_path: Path) -> None:
    state = _open(tmp_path, map_size=1 << 20)
    state.install(1, 10, 2, [(b"a", b"1")], [(3, b"three")])
    before = stored(state)
    with pytest.raises(NoRoom, match="map size"):
        state.install(1, 20, 4, [(b"b", b"2")], ((index, bytes(1 << 18)) for index in range(20)))
    assert stored(state) == before
    state.close()


@pytest.mark.parametrize(("key", "read"), [("4001", "installed"), ("8001", "mark"), ("00010000000000000003", "body")])
def test_lmdb_bad_checksum_of_place_or_body_is_corruption(tmp_path: Path, key: str, read: str) -> None:
    state = _open(tmp_path)
    state.install(1, 10, 2, [], [(3, b"three")])
    state.close()
    _overwrite(tmp_path, bytes.fromhex(key), b"\0\0\0\0value", "bodies" if read == "body" else "state")
    state = _open(tmp_path)
    with pytest.raises(Corruption, match=key):
        state.body(1, 3) if read == "body" else state.installed(1) if read == "installed" else state.bodies_mark(1)
    state.close()


# --- LMDB ------------------------------------------------------------------------------------------------------------


def _open(path: Path, map_size: int = MAP_SIZE) -> LmdbState:
    return LmdbState.open(path / "state", sync=False, map_size=map_size)


def test_lmdb_reopened_holds_what_was_committed(tmp_path: Path) -> None:
    state = _open(tmp_path)
    state.commit(7, 3, [(b"k" * KEY_SIZE_MAX, b"v" * 10000)])
    state.close()
    again = _open(tmp_path)
    assert (again.applied_index(7), list(again.load(7))) == (3, [(b"k" * KEY_SIZE_MAX, b"v" * 10000)])
    again.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    commits=st.lists(
        st.lists(st.tuples(st.binary(min_size=1, max_size=3), st.none() | st.binary(max_size=30)), max_size=8), max_size=6
    )
)
def test_lmdb_agrees_with_memory(
    tmp_path_factory: pytest.TempPathFactory, commits: list[list[tuple[bytes, bytes | None]]]
) -> None:
    memory, durable = MemoryState(), _open(tmp_path_factory.mktemp("state"))
    for index, changes in enumerate(commits, 1):
        memory.commit(index % 2, index, changes)
        durable.commit(index % 2, index, changes)
    for group in (0, 1):
        assert durable.applied_index(group) == memory.applied_index(group)
        assert list(durable.load(group)) == list(memory.load(group))
    durable.close()


def _overwrite(path: Path, key: bytes, value: bytes | None, name: str = "state") -> None:
    with lmdb.open(str(path / name), map_size=MAP_SIZE) as environment, environment.begin(write=True) as transaction:
        transaction.delete(key) if value is None else transaction.put(key, value)


def _content(path: Path) -> list[tuple[str, str]]:
    """All keys and values of one environment."""
    with lmdb.open(str(path), map_size=MAP_SIZE) as environment, environment.begin() as transaction:
        return [(bytes(key).hex(), bytes(value).hex()) for key, value in transaction.cursor()]


def test_lmdb_bytes_are_final(tmp_path: Path) -> None:
    state = _open(tmp_path)
    state.commit(0x0102, 3, [(b"key", b"value")])
    state.close()
    assert _content(tmp_path / "state") == GOLDEN


def test_lmdb_bytes_of_a_snapshot_are_final(tmp_path: Path) -> None:
    state = _open(tmp_path)
    state.install(0x0102, 3, 2, [(b"key", b"value")], [(7, b"body")])
    state.close()
    assert [(key, value[8:]) for key, value in _content(tmp_path / "state")] == [
        ("0102", "0300000000000000" + TALLY),
        ("01026b6579", b"value".hex()),
        ("4102", "03000000000000000200000000000000"),
        ("8102", "0300000000000000"),
        ("ffff", b"ZBSTATE\0\3\0\0\0".hex()),
    ]
    assert [(key, value[8:]) for key, value in _content(tmp_path / "bodies")] == [
        ("01020000000000000007", b"body".hex()),
        ("ffff", b"ZBBODIES\3\0\0\0".hex()),
    ]


#: One key, and the hash of 0102 "key" with "value".
TALLY = "0100000000000000" + "1500b2ec9eac9fd5"
GOLDEN = [
    ("0102", "ce6547110300000000000000" + TALLY),
    ("01026b6579", "616a32a176616c7565"),
    ("ffff", "1e9b912f5a4253544154450003000000"),
]


@pytest.mark.parametrize("stored", [b"", b"abc", b"\0\0\0\0value"])
def test_lmdb_bad_checksum_is_corruption(tmp_path: Path, stored: bytes) -> None:
    state = _open(tmp_path)
    state.commit(1, 3, [(b"key", b"value")])
    state.close()
    _overwrite(tmp_path, b"\0\x01key", stored)
    _overwrite(tmp_path, b"\0\x02", stored)
    state = _open(tmp_path)
    with pytest.raises(Corruption, match="the value of key 00016b6579 is damaged"):
        list(state.load(1))
    with pytest.raises(Corruption, match="the value of key 0002 is damaged"):
        state.applied_index(2)
    state.close()


@pytest.mark.parametrize("offset", [16, 20], ids=["magic", "version"])
def test_lmdb_damaged_meta_page_is_corruption(tmp_path: Path, offset: int) -> None:
    state = _open(tmp_path)
    state.commit(1, 3, [(b"key", b"value")])
    state.close()
    path = tmp_path / "state" / "data.mdb"
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corruption, match="the state store is damaged"):
        _open(tmp_path)


def test_lmdb_value_of_another_key_is_corruption(tmp_path: Path) -> None:
    state = _open(tmp_path)
    state.commit(1, 3, [(b"a", b"value")])
    state.close()
    with lmdb.open(str(tmp_path / "state"), map_size=MAP_SIZE) as environment, environment.begin() as transaction:
        stored = bytes(transaction.get(b"\0\x01a") or b"")
    _overwrite(tmp_path, b"\0\x01b", stored)
    state = _open(tmp_path)
    with pytest.raises(Corruption, match="000162"):
        list(state.load(1))
    state.close()


def test_lmdb_applied_index_of_another_size_is_corruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = _open(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("zmqbroker.storage.lmdb_state._INDEX", struct.Struct("<I"))  # count and digest behind it as ever
        state.commit(1, 3, [])
    with pytest.raises(Corruption, match="applied_index has 20 bytes"):
        state.applied_index(1)
    state.close()


@pytest.mark.parametrize("key", [b"", b"k" * (KEY_SIZE_MAX + 1)])
def test_lmdb_key_of_a_bad_size_is_refused_and_nothing_changes(tmp_path: Path, key: bytes) -> None:
    state = _open(tmp_path)
    with pytest.raises(StorageError, match=f"a key has {len(key)} bytes; 1 to 509 are allowed"):
        state.commit(1, 4, [(b"good", b""), (key, b"")])
    assert (state.applied_index(1), list(state.load(1))) == (0, [])
    state.close()


def test_lmdb_full_map_is_no_room_and_deleting_goes_on(tmp_path: Path) -> None:
    state = _open(tmp_path, map_size=1 << 20)
    state.commit(1, 1, [(b"a", bytes(100_000))])
    with pytest.raises(NoRoom, match="map size") as caught:
        state.commit(1, 2, [(b"b", bytes(2 << 20))])
    assert isinstance(caught.value.__cause__, EngineError)
    assert caught.value.__cause__.code == -30792  # MDB_MAP_FULL
    assert state.applied_index(1) == 1
    state.commit(1, 2, [(b"a", None)])
    assert (state.applied_index(1), list(state.load(1))) == (2, [])
    state.close()


def test_lmdb_making_that_a_crash_cut_short_is_begun_anew(tmp_path: Path) -> None:
    """LMDB takes a file with one of its two first pages for a foreign one, so none has the store's name before it is whole."""
    places = [tmp_path / "state", tmp_path / "bodies"]
    for place in places:
        place.mkdir()
        (place / "new.mdb").write_bytes(bytes(4096))
    state = _open(tmp_path)
    assert (state.applied_index(1), state.body_indexes(1)) == (0, [])
    assert [(place / "new.mdb").exists() for place in places] == [False, False]
    assert [(place / "data.mdb").exists() for place in places] == [True, True]
    state.close()


def test_lmdb_damaged_environment_is_corruption(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "data.mdb").write_bytes(b"not LMDB" * 4096)
    with pytest.raises(Corruption, match="the state store is damaged") as caught:
        _open(tmp_path)
    assert isinstance(caught.value.__cause__, EngineError)


def test_lmdb_opened_twice_is_a_storage_error(tmp_path: Path) -> None:
    state = _open(tmp_path)
    with pytest.raises(StorageError, match="the state store failed"):
        _open(tmp_path)
    state.close()


def test_lmdb_where_a_file_is_in_the_way_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be opened"):
        LmdbState.open(tmp_path / "state", sync=False)


def test_lmdb_map_size_covers_the_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Volume:
        f_frsize, f_blocks = 4096, 5_000_001

    monkeypatch.setattr("os.statvfs", lambda _: Volume)
    assert map_size_of(tmp_path) == 4096 * 5_000_001 >> 20 << 20
    Volume.f_blocks = 10
    assert map_size_of(tmp_path) == 1 << 30


def test_lmdb_default_map_size_opens(tmp_path: Path) -> None:
    state = LmdbState.open(tmp_path / "state", sync=True)
    state.commit(1, 1, [(b"a", b"b")])
    assert list(state.load(1)) == [(b"a", b"b")]
    state.close()


def test_lmdb_what_was_deleted_is_reusable_and_does_not_shrink_the_file(tmp_path: Path) -> None:
    store = LmdbState.open(tmp_path / "state", sync=False, map_size=MAP_SIZE)
    before = store.reusable_bytes()
    keys = [b"%d" % number for number in range(500)]
    store.commit(1, 1, [(key, bytes(3000)) for key in keys])
    full, size = store.reusable_bytes(), (tmp_path / "state" / "data.mdb").stat().st_size
    assert full < before + (64 << 10)
    store.commit(1, 2, [(key, None) for key in keys])
    assert store.reusable_bytes() > 500 * 3000
    assert (tmp_path / "state" / "data.mdb").stat().st_size >= size
    store.close()
