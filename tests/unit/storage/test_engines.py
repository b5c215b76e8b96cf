"""Both engines do the same, to files that the other one reads; and what each has to refuse."""

from __future__ import annotations

import errno
import shutil
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.storage.conftest import OpenEngine
from zmqbroker.storage import _store_py
from zmqbroker.storage.engine import CORRUPTED, HEAD_SIZE_MAX, MISPLACED, BadValue, Change, Engine, EngineError, Tallied
from zmqbroker.storage.record_hash import DIGEST_MASK, record_hash

MAP_SIZE = 1 << 20
MAP_FULL, INVALID, BAD_VALSIZE = -30792, -30793, -30781


def opened(opener: OpenEngine, path: Path, *, sync: bool = False, map_size: int = MAP_SIZE, read_only: bool = False) -> Engine:
    """An environment, made if it is not there."""
    path.mkdir(exist_ok=True)
    if not (path / "data.mdb").exists():
        _store_py.make_environment(path / "data.mdb")
    return opener(path, sync=sync, map_size=map_size, read_only=read_only)


@pytest.fixture
def store(engine: OpenEngine, tmp_path: Path) -> Iterator[Engine]:
    store = opened(engine, tmp_path / "env")
    yield store
    store.close()


def outcome(what: Any, *arguments: Any) -> Any:
    """A result, or the error in a form that can be compared."""
    try:
        return what(*arguments)
    except (EngineError, BadValue) as error:
        return type(error), getattr(error, "code", None), str(error)


def everything(store: Engine) -> list[tuple[bytes, bytes]]:
    """All keys and values."""
    return store.slice(b"", b"", 1 << 20, 1 << 30)


# --- the same of both ------------------------------------------------------------------------------------------------

_keys = st.one_of(st.binary(max_size=3), st.sampled_from([b"k" * 511, b"k" * 512, b"\xff" * 3]))
_values = st.one_of(st.none(), st.binary(max_size=20), st.integers(0, 9000).map(bytes), st.just(bytes(MAP_SIZE)))
_changes = st.lists(st.tuples(_keys, _values), max_size=5)
_prefixes = st.binary(max_size=2)
_operations = st.lists(
    st.one_of(
        st.tuples(st.just("apply"), st.lists(_changes, max_size=3), st.none() | _prefixes),
        st.tuples(
            st.just("apply"),
            st.lists(_changes, max_size=3),
            st.none(),
            st.tuples(_prefixes, st.binary(max_size=2) | st.integers(63, 64).map(bytes)),
        ),
        st.tuples(st.just("get"), _keys),
        st.tuples(st.just("slice"), _prefixes, _keys, st.integers(0, 4), st.integers(0, 3000)),
        st.tuples(st.just("keys"), _prefixes, _keys, st.integers(0, 4)),
        st.tuples(st.just("tally"), _prefixes, _keys, st.integers(0, 4), st.integers(0, 3000)),
        st.tuples(st.just("usage")),
    ),
    max_size=12,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=_operations)
def test_engines_do_the_same_and_read_each_others_files(
    tmp_path_factory: pytest.TempPathFactory, native: OpenEngine, operations: list[tuple[Any, ...]]
) -> None:
    place = tmp_path_factory.mktemp("engines")
    first, second = opened(_store_py.open_engine, place / "one"), opened(native, place / "two")
    for name, *arguments in operations:
        assert outcome(getattr(second, name), *arguments) == outcome(getattr(first, name), *arguments), (name, arguments)
    content = everything(first)
    first.close()
    second.close()
    first, second = opened(native, place / "one"), opened(_store_py.open_engine, place / "two", read_only=True)
    assert everything(first) == everything(second) == content
    first.close()
    second.close()
    shutil.rmtree(place)


#: Of a meta page what LMDB follows out of the file when it is damaged: a case for `isolated`, and for the count of crashes.
_FOLLOWED = (*range(24, 48), *range(72, 152))


def test_engines_take_a_damaged_meta_page_alike(tmp_path: Path, native: OpenEngine) -> None:
    """Opened, or refused for the same reason."""
    engines = {"one": _store_py.open_engine, "two": native}
    found: dict[str, list[tuple[int, str]]] = {name: [] for name in engines}
    for name, opener in engines.items():
        opened(opener, tmp_path / name).close()
        whole = (tmp_path / name / "data.mdb").read_bytes()
        for offset in (offset for offset in range(0, 2 * 4096, 8) if offset % 4096 not in _FOLLOWED and offset % 4096 < 400):
            (tmp_path / name / "data.mdb").write_bytes(whole[:offset] + b"\xaa" + whole[offset + 1 :])
            try:
                opened(opener, tmp_path / name).close()
                found[name].append((0, ""))
            except EngineError as error:
                found[name].append((error.code, str(error).replace(f"/{name}", "")))
    assert found["one"] == found["two"]
    assert {0, INVALID} <= {code for code, _ in found["one"]}


# --- one by one ------------------------------------------------------------------------------------------------------


def test_apply_changes_in_order_over_all_slices(store: Engine) -> None:
    store.apply([[(b"a", b"1"), (b"b", b"2")], [], [(b"a", None), (b"c", b"3"), (b"b", b"4"), (b"none", None)]])
    assert everything(store) == [(b"b", b"4"), (b"c", b"3")]
    store.apply([])
    assert store.get(b"b") == b"4"


@pytest.mark.parametrize("count", [1, 500])
def test_apply_clears_a_prefix_first_and_nothing_else(store: Engine, count: int) -> None:
    store.apply([[(b"p%04d" % number, bytes(100)) for number in range(count)] + [(b"o", b"1"), (b"q", b"2")]])
    store.apply([[(b"p1", b"new")]], b"p")
    assert everything(store) == [(b"o", b"1"), (b"p1", b"new"), (b"q", b"2")]
    store.apply([], b"p")
    assert store.keys(b"", b"", 10) == [b"o", b"q"]
    store.apply([], b"z")  # behind the last one
    store.apply([], b"o")
    assert store.keys(b"", b"", 10) == [b"q"]


def test_apply_that_is_broken_off_changes_nothing(store: Engine) -> None:
    def broken() -> Iterator[list[Change]]:
        yield [(b"a", b"2")]
        yield [(b"b", b"2")]
        raise KeyError("no more")

    store.apply([[(b"a", b"1")]])
    with pytest.raises(KeyError):
        store.apply(broken(), b"a")
    with pytest.raises(EngineError) as caught:
        store.apply([[(b"a", b"2"), (b"", b"empty key")]])
    assert caught.value.code == BAD_VALSIZE
    with pytest.raises(TypeError):
        store.apply([[(b"a", b"2")], [(b"b", "text")]])  # type: ignore[list-item]
    assert everything(store) == [(b"a", b"1")]


def test_tally_follows_the_changes_of_longer_keys(store: Engine) -> None:
    store.apply([[(b"p1", b"one"), (b"p2", b"two"), (b"q", b"other")]], None, (b"p", b"head"))
    hashes = {key: record_hash(key, value) for key, value in ((b"p1", b"one"), (b"p2", b"two"), (b"p2", b"2"))}
    store.apply([[(b"p2", None), (b"p2", b"2")], [(b"p", b"replaced by the tally")]], None, (b"p", b"tail"))
    digest = sum(hashes.values()) & DIGEST_MASK
    assert store.get(b"p") == b"tail" + struct.pack("<QQ", 2, digest)
    assert store.tally(b"p", b"p", 100, 1000) == Tallied(b"p2", 2, digest)
    assert store.tally(b"p", b"p", 1, 1000) == Tallied(b"p1", 1, hashes[b"p1"])
    assert store.tally(b"p", b"p2", 100, 1000) == Tallied(b"", 0, 0)
    store.apply([[(b"p3", b"3")]], b"p", (b"p", b"new"))
    assert store.get(b"p") == b"new" + struct.pack("<QQ", 1, record_hash(b"p3", b"3"))
    assert store.get(b"q") == b"other"


def test_tally_whose_head_is_too_long_is_a_mistake(store: Engine) -> None:
    store.apply([], None, (b"p", bytes(HEAD_SIZE_MAX)))
    with pytest.raises(ValueError, match="a tally has a head of 65 bytes; 64 are allowed"):
        store.apply([], None, (b"q", bytes(HEAD_SIZE_MAX + 1)))
    assert store.keys(b"", b"", 5) == [b"p"]


def test_tally_of_a_key_that_the_tree_does_not_lead_to_is_corrupted(engine: OpenEngine, tmp_path: Path) -> None:
    """The first key of a page below is greater than what the page above says: whoever looks for the others goes astray."""
    store = opened(engine, tmp_path / "env")
    keys = [b"key %04d" % number for number in range(300)]
    store.apply([[(key, bytes(30)) for key in keys]])
    store.close()
    file = tmp_path / "env" / "data.mdb"
    data = file.read_bytes()
    page = next(start for start in range(2 * 4096, len(data), 4096) if data[start + 10] == 1)  # the branch
    second = page + int.from_bytes(data[page + 18 : page + 20], "little")
    name = data[second + 8 : second + 16]
    assert name in keys
    file.write_bytes(data[: second + 8] + name[:-1] + bytes([name[-1] ^ 8]) + data[second + 16 :])
    store = opened(engine, tmp_path / "env")
    assert store.keys(b"", b"", 1000) == keys
    with pytest.raises(EngineError, match=MISPLACED) as caught:
        store.tally(b"", b"", 1000, 1 << 20)
    assert caught.value.code == CORRUPTED
    store.close()


def test_full_map_is_its_code_and_changes_nothing(store: Engine) -> None:
    store.apply([[(b"a", b"1")]])
    for _ in range(3):
        with pytest.raises(EngineError) as caught:
            store.apply([[(b"b", b"2")], [(b"c", bytes(MAP_SIZE))]], b"a")
        assert caught.value.code == MAP_FULL
    assert everything(store) == [(b"a", b"1")]


@pytest.mark.parametrize("stored", [b"", b"abc", b"\0\0\0\0value"])
def test_bad_value_is_named_when_it_is_read_and_not_before(engine: OpenEngine, tmp_path: Path, stored: bytes) -> None:
    opened(engine, tmp_path / "env").close()
    with lmdb.open(str(tmp_path / "env"), map_size=MAP_SIZE) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"b", stored)
    store = opened(engine, tmp_path / "env")
    store.apply([[(b"a", b"1"), (b"c", b"3")]])
    assert store.slice(b"", b"", 1, 100) == [(b"a", b"1")]
    assert store.keys(b"", b"", 5) == [b"a", b"b", b"c"]
    for read in (lambda: store.get(b"b"), lambda: store.slice(b"", b"", 5, 100), lambda: store.slice(b"b", b"a", 1, 1)):
        with pytest.raises(BadValue, match="the value of key 62 is damaged") as caught:
            read()
        assert caught.value.key == b"b"
    store.close()


def test_slice_ends_with_the_value_that_reaches_the_bound(store: Engine) -> None:
    store.apply([[(b"%d" % number, bytes(10)) for number in range(9)]])
    assert [len(store.slice(b"", b"", 9, size)) for size in (0, 1, 10, 11, 1000)] == [0, 1, 1, 2, 9]
    assert store.slice(b"", b"7", 9, 1000) == [(b"8", bytes(10))]
    assert (store.slice(b"", b"8", 9, 1000), store.keys(b"x", b"", 9)) == ([], [])


@pytest.mark.parametrize("other", ["python", "native"])
def test_environment_is_open_once_in_a_process(
    engine: OpenEngine, tmp_path: Path, other: str, request: pytest.FixtureRequest
) -> None:
    """Whoever has it open, and under whatever name."""
    opener = _store_py.open_engine if other == "python" else request.getfixturevalue("native")
    store = opened(engine, tmp_path / "env")
    (tmp_path / "alias").symlink_to(tmp_path / "env")
    for name in ("env", "alias"):
        with pytest.raises(EngineError, match="already open in this process") as caught:
            opened(opener, tmp_path / name)
        assert caught.value.code == 0
    store.apply([[(b"a", b"1")]])  # and it is still locked by whoever has it
    store.close()
    store.close()
    again = opened(opener, tmp_path / "env")
    assert again.get(b"a") == b"1"
    again.close()


def test_environment_that_nobody_has_any_more_can_be_opened_again(engine: OpenEngine, tmp_path: Path) -> None:
    store: Engine | None = opened(engine, tmp_path / "env")
    assert store is not None
    store.apply([[(b"a", b"1")]])
    store = None
    again = opened(engine, tmp_path / "env")
    assert again.get(b"a") == b"1"
    again.close()


def test_environment_whose_lock_file_is_anothers_is_refused_and_given_up(engine: OpenEngine, tmp_path: Path) -> None:
    """Readers' slots and locks are in that file."""
    store = opened(engine, tmp_path / "env")
    opened(engine, tmp_path / "other").close()
    (tmp_path / "other" / "lock.mdb").unlink()
    (tmp_path / "other" / "lock.mdb").hardlink_to(tmp_path / "env" / "lock.mdb")
    with pytest.raises(EngineError, match="already open"):
        opened(engine, tmp_path / "other")
    (tmp_path / "other" / "lock.mdb").unlink()
    opened(engine, tmp_path / "other").close()
    store.close()


def test_environment_that_cannot_be_opened_is_given_up(engine: OpenEngine, tmp_path: Path) -> None:
    opened(engine, tmp_path / "env").close()
    whole = (tmp_path / "env" / "data.mdb").read_bytes()
    (tmp_path / "env" / "data.mdb").write_bytes(b"not LMDB" * 1024)
    for _ in range(2):
        with pytest.raises(EngineError) as caught:
            opened(engine, tmp_path / "env")
        assert caught.value.code == INVALID
    (tmp_path / "env" / "data.mdb").write_bytes(whole)
    opened(engine, tmp_path / "env").close()


def test_environment_that_is_not_there_is_the_systems_error(engine: OpenEngine, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="No such file or directory") as caught:
        engine(tmp_path / "absent", sync=False, map_size=MAP_SIZE, read_only=True)
    assert caught.value.code == errno.ENOENT


def test_closed_environment_refuses_everything(store: Engine) -> None:
    store.close()
    for call in (lambda: store.get(b"a"), lambda: store.keys(b"", b"", 1), lambda: store.apply([]), store.usage):
        with pytest.raises(EngineError) as caught:
            call()
        assert caught.value.code == 0


def test_read_only_environment_is_not_changed_by_a_byte(engine: OpenEngine, tmp_path: Path) -> None:
    store = opened(engine, tmp_path / "env", sync=True)
    store.apply([[(b"a", b"1")]])
    store.close()
    (tmp_path / "env" / "lock.mdb").unlink()
    before = (tmp_path / "env" / "data.mdb").read_bytes()
    store = opened(engine, tmp_path / "env", read_only=True)
    assert everything(store) == [(b"a", b"1")]
    with pytest.raises(EngineError) as caught:
        store.apply([[(b"a", b"2")]])
    assert caught.value.code == errno.EACCES
    store.close()
    assert [path.name for path in (tmp_path / "env").iterdir()] == ["data.mdb"]
    assert (tmp_path / "env" / "data.mdb").read_bytes() == before


def test_usage_counts_the_pages_of_the_file(store: Engine, tmp_path: Path) -> None:
    store.apply([[(b"a", bytes(50_000))]])
    page_size, used, pages = store.usage()
    assert page_size == 4096
    assert 50_000 // 4096 < used <= pages
    assert pages * page_size <= (tmp_path / "env" / "data.mdb").stat().st_size


def test_threads_read_while_one_writes(engine: OpenEngine, tmp_path: Path) -> None:
    """Every reader sees one commit, whole."""
    store = opened(engine, tmp_path / "env", map_size=64 << 20)
    halves = [[b"%02d" % number for number in numbers] for numbers in (range(25), range(25, 50))]
    store.apply([[(key, b"first") for key in half] for half in halves])
    stop, torn = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            values = {value for _, value in everything(store)}
            if len(values) != 1:
                torn.append(values)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for commit in range(300):
            store.apply([[(key, b"%d" % commit) for key in half] for half in halves])
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert torn == []
    store.close()


def test_native_engine_is_not_closed_under_a_writer(native: OpenEngine, tmp_path: Path) -> None:
    """It would be a crash: the lock of `LmdbEnvironment` is what keeps them apart."""
    store = opened(native, tmp_path / "env")

    def closing() -> Iterator[list[Change]]:
        yield [(b"a", b"1")]
        store.close()
        yield []

    with pytest.raises(AssertionError, match="in use"):
        store.apply(closing())
    assert everything(store) == []
    store.close()
