"""Count and digest of a group's keys: kept by every change, and what is lost, or is of before, is found by them."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from pathlib import Path

import crc32c
import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.storage.test_lmdb_environment import scrub_all
from tests.unit.storage.tree_damage import aimed_bit, flip
from zmqbroker.errors import Corruption
from zmqbroker.server.isolation import isolated
from zmqbroker.storage import LmdbState
from zmqbroker.storage.lmdb_state import KEY_SIZE_MAX
from zmqbroker.storage.record_hash import DIGEST_MASK, record_hash

MAP_SIZE = 8 << 20

pytestmark = pytest.mark.usefixtures("engine")


def _open(path: Path) -> LmdbState:
    return LmdbState.open(path / "state", sync=False, map_size=MAP_SIZE)


def _behind(path: Path, work: Callable[[lmdb.Transaction], object]) -> None:
    """Change the environment of the state behind the store's back."""
    with lmdb.open(str(path / "state"), map_size=MAP_SIZE) as environment, environment.begin(write=True) as transaction:
        work(transaction)


# --- the hash --------------------------------------------------------------------------------------------------------


def test_record_hash_is_final() -> None:
    assert [record_hash(*record) for record in ((b"", b""), (b"key", b"value"), (b"\0\1k", bytes(100)))] == HASHES


HASHES = [0x0000000000000000, 0x5D407F6BF4801F97, 0xE13C23459D3F5C96]


@given(key=st.binary(), value=st.binary())
def test_record_hash_is_two_crcs_mixed(key: bytes, value: bytes) -> None:
    def mixed(word: int) -> int:
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            word ^= word >> 33
            word = word * factor % 2**64
        return word ^ word >> 33

    assert record_hash(key, value) == mixed(crc32c.crc32c(key + value) * 2**32 + zlib.crc32(key + value))


# --- kept ------------------------------------------------------------------------------------------------------------

_KEYS = st.binary(min_size=1, max_size=2)
_CHANGES = st.lists(st.tuples(_KEYS, st.none() | st.binary(max_size=20)), max_size=8)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(["commit", "install"]), st.integers(0, 1), _CHANGES), max_size=8))
def test_tally_is_that_of_what_is_there(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, list[tuple[bytes, bytes | None]]]]
) -> None:
    state = _open(tmp_path_factory.mktemp("tally"))
    for index, (kind, group, changes) in enumerate(steps, 1):
        if kind == "commit":
            state.commit(group, index, changes)
        else:
            state.install(group, index, 1, [(key, value) for key, value in changes if value is not None], [])
        state.mark_bodies(group, index)
        for each in (0, 1):
            records = list(state.load(each))
            tally = state._applied(each)[1]
            digest = sum(record_hash(bytes([0, each]) + key, value) for key, value in records)
            assert (tally.count, tally.digest) == (len(records), digest & DIGEST_MASK)
    state.close()


# --- found -----------------------------------------------------------------------------------------------------------

_KEY = b"\0\1key 0100"


@pytest.mark.parametrize("what", ["gone", "all gone", "older", "more", "the tally", "the tally gone"])
def test_state_that_is_not_whole_is_corruption_at_the_end_of_loading(tmp_path: Path, what: str) -> None:
    state = _open(tmp_path)
    state.commit(1, 3, [(b"key %04d" % number, b"old") for number in range(3000)])
    state.close()
    kept: list[bytes] = []
    _behind(tmp_path, lambda transaction: kept.append(bytes(transaction.get(_KEY) or b"")))
    state = _open(tmp_path)
    state.commit(1, 4, [(b"key %04d" % number, b"new") for number in range(3000)] + [(b"more", None)])
    state.commit(2, 9, [(b"another", b"group")])
    assert len(list(state.load(1))) == 3000
    state.close()
    works: dict[str, Callable[[lmdb.Transaction], object]] = {
        "gone": lambda transaction: transaction.delete(_KEY),
        "all gone": lambda transaction: [transaction.delete(b"\0\1key %04d" % number) for number in range(3000)],
        "older": lambda transaction: transaction.put(_KEY, kept[0]),
        "more": lambda transaction: transaction.put(b"\0\1z", (crc32c.crc32c(b"\0\1z1")).to_bytes(4, "little") + b"1"),
        "the tally": lambda transaction: transaction.put(b"\0\1", _record(b"\0\1", bytes(24))),
        "the tally gone": lambda transaction: transaction.delete(b"\0\1"),
    }
    _behind(tmp_path, works[what])
    state = _open(tmp_path)
    with pytest.raises(Corruption, match=r"state: group 1: the state of index [04] is not whole: it has"):
        list(state.load(1))
    assert list(state.load(2)) == [(b"another", b"group")]
    state.close()


@pytest.mark.parametrize("group", [0, 1, 0x3FFF])
def test_scrub_finds_a_state_that_is_not_whole(tmp_path: Path, group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any group, as long as its keys can be counted in one step."""
    state = _open(tmp_path)
    for each in (0, 1, 0x3FFF):
        state.commit(each, 3, [(b"one", b"1"), (b"two", b"2"), (b"\xff" * KEY_SIZE_MAX, b"last")])
        state.mark_bodies(each, 2)
    scrub_all(state, 10)
    state.close()
    _behind(tmp_path, lambda transaction: transaction.delete(group.to_bytes(2, "big") + b"two"))
    state = _open(tmp_path)
    with pytest.raises(Corruption, match=f"state: group {group}: the state of index 3 is not whole: it has 2 keys"):
        scrub_all(state, 10)
    monkeypatch.setattr("zmqbroker.storage.lmdb_state._SCRUB_COUNT", 2)
    scrub_all(state, 10)
    state.close()


def _record(key: bytes, value: bytes) -> bytes:
    return crc32c.crc32c(key + value).to_bytes(4, "little") + value


def test_commit_during_a_load_is_no_corruption(tmp_path: Path) -> None:
    state = _open(tmp_path)
    state.commit(1, 1, [(b"a", b"1"), (b"b", b"1")])
    loading = state.load(1)
    assert next(loading) == (b"a", b"1")
    state.commit(1, 2, [(b"a", None)])
    assert list(loading) == [(b"b", b"1")]
    tally = state._state.tally

    def with_a_commit(prefix: bytes) -> object:
        found = tally(prefix)
        state.commit(1, 3, [(b"c", b"1")])
        return found

    state._state.tally = with_a_commit  # type: ignore[method-assign, assignment]
    assert list(state.load(1)) == [(b"b", b"1")]
    state.close()


@pytest.mark.parametrize("changes", [[(b"key", b"new")], [(b"key", None)], [(b"other", b"1"), (b"key", b"new")]])
def test_commit_that_replaces_a_damaged_value_is_corruption_and_changes_nothing(
    tmp_path: Path, changes: list[tuple[bytes, bytes | None]]
) -> None:
    state = _open(tmp_path)
    state.commit(1, 3, [(b"key", b"value")])
    state.close()
    _behind(tmp_path, lambda transaction: transaction.put(b"\0\1key", bytes(9)))
    state = _open(tmp_path)
    with pytest.raises(Corruption, match="state: the value of key 00016b6579 is damaged"):
        state.commit(1, 4, changes)
    assert (state.applied_index(1), state.get(1, b"other")) == (3, None)
    state.install(1, 5, 1, [(b"key", b"new")], [])  # does not ask what was there
    assert list(state.load(1)) == [(b"key", b"new")]
    state.close()


@pytest.mark.parametrize("stored", [b"", bytes(28), _record(b"\0\1", bytes(8))], ids=["empty", "checksum", "short"])
def test_commit_over_a_damaged_tally_is_corruption(tmp_path: Path, stored: bytes) -> None:
    state = _open(tmp_path)
    state.commit(1, 3, [(b"key", b"value")])
    state.close()
    _behind(tmp_path, lambda transaction: transaction.put(b"\0\1", stored))
    state = _open(tmp_path)
    with pytest.raises(Corruption, match="state: the value of key 0001 is damaged"):
        state.commit(1, 4, [(b"key", b"new")])
    assert state.get(1, b"key") == b"value"
    state.close()


def _fill(path: Path, chance: random.Random) -> tuple[int, list[tuple[bytes, bytes]]]:
    """A state of many commits; what it is."""
    state = _open(path)
    for index in range(1, 21):
        changes = [
            (b"%d %05d" % (chance.randrange(5), chance.randrange(1000)), chance.randbytes(chance.choice([8, 60, 300])))
            for _ in range(150)
        ]
        state.commit(1, index, [(key, value if chance.random() < 0.8 else None) for key, value in changes])
    found = state.applied_index(1), list(state.load(1))
    state.close()
    return found


@pytest.mark.parametrize("flips", [150, pytest.param(5000, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_any_bit_flipped_in_the_tree_is_found_or_harmless(tmp_path: Path, flips: int) -> None:
    """Whatever it leads LMDB to: a load gives all there was, or an error, or ends the process, which a start counts."""
    chance = random.Random(1)
    expected = _fill(tmp_path, chance)
    file = tmp_path / "state" / "data.mdb"
    data = file.read_bytes()

    def load() -> bool:
        state = LmdbState.open_read_only(tmp_path / "state")
        try:
            return (state.applied_index(1), list(state.load(1))) == expected
        finally:
            state.close()

    harmless, errors = 0, []
    for _ in range(flips):
        offset, bit = aimed_bit(chance, data)
        flip(file, data, offset, bit)
        try:
            assert isolated(load, "the state"), f"bit {bit} of byte {offset} changes what is loaded, and nobody says so"
            harmless += 1
        except Corruption as error:
            errors.append(str(error))
    assert harmless
    assert [error for error in errors if "is not whole" in error], "the tally alone finds some"
