"""The file that keeps room for a start: given up when little is free, and made again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from zmqbroker.commands import Member
from zmqbroker.errors import DataDirectoryError, NoRoom
from zmqbroker.storage import directory as directory_module
from zmqbroker.storage.ballast import (
    BALLAST_BYTES,
    BALLAST_NAME,
    START_BYTES,
    give_up_ballast,
    keep_ballast,
    room_to_start,
)
from zmqbroker.storage.directory import DataDirectory
from zmqbroker.storage.disk import lacks_room
from zmqbroker.storage.identity import Identity, read_identity, write_identity

KIB = 1 << 10


def disk_with(free_bytes: int) -> Callable[[Path], int]:
    """A disk on which so much is free beside the ballast."""

    def left(place: Path) -> int:
        return free_bytes - size(place)

    return left


def size(place: Path) -> int:
    """Bytes of the ballast; 0 where there is none."""
    path = place / BALLAST_NAME
    return path.stat().st_size if path.exists() else 0


def opened(place: Path) -> DataDirectory:
    """A data directory."""
    return DataDirectory.open(place, name="n", volume="persistent", cluster_name="c", owner="serve")


def test_ballast_is_made_as_large_as_there_is_room_for(tmp_path: Path) -> None:
    keep_ballast(tmp_path, disk_with(63 * KIB))
    assert size(tmp_path) == 0
    keep_ballast(tmp_path, disk_with(200 * KIB))
    assert size(tmp_path) == 192 * KIB
    keep_ballast(tmp_path, disk_with(200 * KIB))
    assert size(tmp_path) == 192 * KIB
    keep_ballast(tmp_path, disk_with(1 << 40))
    assert size(tmp_path) == BALLAST_BYTES
    assert (tmp_path / BALLAST_NAME).stat().st_blocks * 512 >= BALLAST_BYTES, "it takes the room that it is for"


def test_start_on_a_disk_with_room_leaves_the_ballast(tmp_path: Path) -> None:
    keep_ballast(tmp_path)
    room_to_start(tmp_path, disk_with(2 * BALLAST_BYTES))
    assert size(tmp_path) == BALLAST_BYTES


def test_start_on_a_full_disk_takes_the_room_of_the_ballast(tmp_path: Path) -> None:
    keep_ballast(tmp_path)
    room_to_start(tmp_path, disk_with(BALLAST_BYTES))
    assert size(tmp_path) == 0
    room_to_start(tmp_path, disk_with(START_BYTES))


def test_start_without_even_the_ballasts_room_is_told_how_much_it_needs(tmp_path: Path) -> None:
    with pytest.raises(NoRoom, match=f"{tmp_path}: the disk is full: 131071 bytes are free, a start needs 131072"):
        room_to_start(tmp_path, disk_with(START_BYTES - 1))


def test_ballast_that_cannot_be_made_for_lack_of_room_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(code: int) -> Callable[..., None]:
        def allocate(*_: object) -> None:
            raise OSError(code, "no")

        return allocate

    monkeypatch.setattr("zmqbroker.storage.disk.OsDisk.allocate", fail(errno.ENOSPC))
    keep_ballast(tmp_path)
    monkeypatch.setattr("zmqbroker.storage.disk.OsDisk.allocate", fail(errno.EIO))
    give_up_ballast(tmp_path)
    with pytest.raises(OSError, match="no"):
        keep_ballast(tmp_path)


def test_full_disk_and_used_up_quota_are_a_lack_of_room() -> None:
    assert [lacks_room(OSError(code, "")) for code in (errno.ENOSPC, errno.EDQUOT, errno.EIO)] == [True, True, False]


def test_directory_on_a_full_disk_has_no_room_and_is_not_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_place: Path) -> None:
        raise NoRoom("full")

    with monkeypatch.context() as patch:
        patch.setattr(directory_module, "room_to_start", full)
        with pytest.raises(NoRoom):
            opened(tmp_path)
    opened(tmp_path).close()


def test_directory_that_cannot_be_made_on_a_full_disk_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Identity:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(directory_module, "claim_identity", refuse)
    with pytest.raises(NoRoom, match="the disk is full"):
        opened(tmp_path)


def test_directory_gives_the_ballast_up_for_its_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = opened(tmp_path)
    place.keep_ballast()

    def only_without_ballast(path: Path, identity: Identity) -> None:
        if size(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        write_identity(path, identity)

    monkeypatch.setattr(directory_module, "write_identity", only_without_ballast)
    members = (Member(1, "n", place.identity.node_uid, "h:5591"),)
    place.save_formation(b"c" * 16, members, 0, members)
    stored = read_identity(tmp_path)
    assert stored is not None
    assert stored.members == members
    place.keep_ballast()
    assert size(tmp_path) == BALLAST_BYTES
    place.give_up_ballast()
    assert size(tmp_path) == 0
    place.close()


def test_directory_that_cannot_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = opened(tmp_path)

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(directory_module, "write_identity", broken)
    with pytest.raises(DataDirectoryError, match="cannot be stored"):
        place.save_formation(b"c" * 16, (), 0, ())
    monkeypatch.setattr(directory_module, "keep_ballast", broken)
    with pytest.raises(DataDirectoryError, match="cannot be used"):
        place.keep_ballast()
    monkeypatch.setattr(directory_module, "give_up_ballast", broken)
    with pytest.raises(DataDirectoryError, match="cannot be used"):
        place.give_up_ballast()
    place.close()


def test_lock_of_an_earlier_process_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "LOCK").write_text("4194304\n")
    opened(tmp_path).close()
    assert (tmp_path / "LOCK").read_text().split() == [str(os.getpid())]


def test_lock_that_cannot_be_written_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(NoRoom):
            opened(tmp_path)
    opened(tmp_path).close()


def test_ballast_that_is_empty_is_filled(tmp_path: Path) -> None:
    """As a process leaves it that died before there was room, or somebody who emptied it."""
    (tmp_path / BALLAST_NAME).touch()
    keep_ballast(tmp_path)
    assert (tmp_path / BALLAST_NAME).stat().st_size == BALLAST_BYTES
