"""The file that keeps room for the store: made, given up once, and made again when there is room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zmqbroker.errors import NoRoom
from zmqbroker.storage import LmdbState
from zmqbroker.storage.headroom import HEADROOM_BYTES, Headroom
from zmqbroker.storage.lmdb_environment import LmdbEnvironment


class Volume:
    """What statvfs says."""

    f_frsize, f_blocks, f_bavail = 4096, 1_000_000, 1_000_000


@pytest.fixture
def volume(monkeypatch: pytest.MonkeyPatch) -> type[Volume]:
    """A volume whose size and room a test says."""

    class Own(Volume):
        pass

    monkeypatch.setattr("os.statvfs", lambda _: Own)
    return Own


def test_headroom_is_held_until_it_is_released_and_made_again_when_there_is_room(tmp_path: Path, volume: type[Volume]) -> None:
    path = tmp_path / "headroom"
    headroom = Headroom(path)
    assert not headroom.release()
    headroom.restore()
    assert path.stat().st_size == path.stat().st_blocks * 512 == HEADROOM_BYTES
    assert Headroom(path).release(), "a start finds it"
    headroom = Headroom(path)
    assert (path.exists(), headroom.release()) == (False, False)
    volume.f_bavail = HEADROOM_BYTES // 4096 * 4 - 1
    headroom.restore()
    assert not path.exists()
    volume.f_bavail += 1
    headroom.restore()
    assert (headroom.release(), headroom.release(), path.exists()) == (True, False, False)


@pytest.mark.parametrize(("blocks", "size"), [(0, 0), (63, 0), (256, 16 << 10), (1 << 20, 16 << 20)])
def test_headroom_is_a_share_of_a_small_volume(tmp_path: Path, volume: type[Volume], blocks: int, size: int) -> None:
    path = tmp_path / "headroom"
    volume.f_blocks = blocks
    Headroom(path).restore()
    assert (path.stat().st_size if path.exists() else 0) == size


def test_headroom_that_cannot_be_made_or_released_is_done_without(tmp_path: Path, volume: type[Volume]) -> None:
    headroom = Headroom(tmp_path / "absent" / "headroom")
    headroom.restore()
    assert not headroom.release()
    (tmp_path / "headroom").mkdir()
    assert not Headroom(tmp_path / "headroom").release()


def test_headroom_that_finds_no_room_leaves_nothing(
    tmp_path: Path, volume: type[Volume], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    headroom = Headroom(tmp_path / "headroom")
    headroom.restore()
    assert (list(tmp_path.iterdir()), headroom.release()) == ([], False)


# --- in the store ----------------------------------------------------------------------------------------------------

WORKS: dict[str, Callable[[LmdbState], None]] = {
    "commit": lambda state: state.commit(1, 5, iter([(b"a", b"1")])),
    "mark": lambda state: state.mark_bodies(1, 5),
    "drop": lambda state: state.drop_bodies(1, [1]),
}


def full_for(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The volume is full for so many transactions."""
    apply, left = LmdbEnvironment._apply, [times]

    def limited(environment: LmdbEnvironment, *arguments: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise NoRoom("full")
        apply(environment, *arguments)

    monkeypatch.setattr(LmdbEnvironment, "_apply", limited)


@pytest.mark.parametrize("work", WORKS)
def test_store_gives_its_headroom_up_for_what_frees_room(
    tmp_path: Path, volume: type[Volume], monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    state = LmdbState.open(tmp_path / "state", sync=False, map_size=8 << 20)
    state.put_bodies(1, [(1, b"one")])
    path = tmp_path / "state" / "headroom"
    assert path.exists()
    volume.f_bavail = 0
    # A transaction that fails is followed by a small one (which fails here too); bodies are dropped together, then one by one.
    full_for(monkeypatch, 4 if work == "drop" else 2)
    WORKS[work](state)
    assert not path.exists()
    full_for(monkeypatch, 4 if work == "drop" else 2)
    with pytest.raises(NoRoom):
        WORKS[work](state)
    assert (state.applied_index(1), state.bodies_mark(1)) == {"commit": (5, 0), "mark": (0, 5), "drop": (0, 0)}[work]
    volume.f_bavail = volume.f_blocks
    state.commit(1, 6, [])
    assert path.exists()
    state.close()


def test_store_keeps_its_headroom_from_bodies(tmp_path: Path, volume: type[Volume], monkeypatch: pytest.MonkeyPatch) -> None:
    state = LmdbState.open(tmp_path / "state", sync=False, map_size=8 << 20)
    full_for(monkeypatch, 2)
    with pytest.raises(NoRoom):
        state.put_bodies(1, [(1, b"one")])
    assert (tmp_path / "state" / "headroom").exists()
    state.close()
