"""What the log has left behind leaves the page cache too: which segments, when, and that nothing else happens to them."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from threading import Event

import pytest

from zmqbroker.storage import drop_behind
from zmqbroker.storage.directory import file_system_type
from zmqbroker.storage.drop_behind import STEP_BYTES, WAITING_MAX, DropBehind, let_go

TIMEOUT_S = 10
TMPFS = 0x01021994
CONTENT = bytes(range(256)) * 4096 * 6  # six MiB: a step and a half


class Hand:
    """Takes the place of `let_go`: notes what it is asked for, and holds the thread as long as a test wants."""

    def __init__(self) -> None:
        self.asked: Queue[str] = Queue()
        self.go_on = Event()
        self.go_on.set()
        self.until_closing = False  # holds the thread until it is to end
        self.error: OSError | None = None

    def __call__(self, path: Path, closing: Event) -> None:
        """See `let_go`."""
        self.asked.put(path.name)
        assert (closing if self.until_closing else self.go_on).wait(TIMEOUT_S)
        if self.error is not None:
            raise self.error

    def names(self, count: int) -> list[str]:
        """The next names that were asked for, and then no more."""
        found = [self.asked.get(timeout=TIMEOUT_S) for _ in range(count)]
        assert self.asked.empty()
        return found


@pytest.fixture
def hand() -> Iterator[Hand]:
    made = Hand()
    yield made
    made.go_on.set()


def resident_pages(path: Path) -> int:
    """Pages of a file that are in the page cache, by mincore(2)."""
    size = path.stat().st_size
    found = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as mapped:
        start = ctypes.c_char.from_buffer(mapped)
        call = ctypes.CDLL(None, use_errno=True).mincore
        call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
        assert call(ctypes.addressof(start), size, found) == 0, os.strerror(ctypes.get_errno())
        del start
    return sum(page & 1 for page in found)


@pytest.fixture
def dirty(tmp_path: Path) -> Path:
    """A file that was just written, on a file system whose pages can leave memory."""
    if file_system_type(tmp_path) == TMPFS:
        pytest.skip("a file of tmpfs is its pages")
    path = tmp_path / "00000001.segment"
    path.write_bytes(CONTENT)
    assert resident_pages(path) == len(CONTENT) // mmap.PAGESIZE
    return path


def test_left_segments_beyond_those_kept_are_let_go_oldest_first(tmp_path: Path, hand: Hand) -> None:
    behind = DropBehind(2, hand)
    for number in range(1, 6):
        behind.left(tmp_path / str(number))
    assert hand.names(3) == ["1", "2", "3"]
    behind.close()
    assert hand.names(0) == []


def test_segment_that_is_gone_or_cannot_be_written_is_passed_over(tmp_path: Path, hand: Hand) -> None:
    hand.error = OSError(errno.EIO, os.strerror(errno.EIO))
    behind = DropBehind(0, hand)
    behind.left(tmp_path / "1")
    assert hand.names(1) == ["1"]
    behind.left(tmp_path / "2")
    assert hand.names(1) == ["2"]
    behind.close()


def test_left_never_waits_for_a_disk_that_is_far_behind(tmp_path: Path, hand: Hand) -> None:
    hand.go_on.clear()
    behind = DropBehind(0, hand)
    behind.left(tmp_path / "first")
    assert hand.names(1) == ["first"]
    for number in range(WAITING_MAX + 100):
        behind.left(tmp_path / str(number))
    hand.go_on.set()
    assert [hand.asked.get(timeout=TIMEOUT_S) for _ in range(WAITING_MAX)][-1] == str(WAITING_MAX - 1)
    behind.close()
    assert hand.names(0) == []  # the last hundred found no place


def test_close_leaves_what_waits(tmp_path: Path, hand: Hand) -> None:
    hand.until_closing = True
    behind = DropBehind(0, hand)
    for number in range(3):
        behind.left(tmp_path / str(number))
    assert hand.names(1) == ["0"]
    behind.close()
    assert hand.names(0) == []


def test_let_go_leaves_the_bytes_and_takes_the_pages(dirty: Path) -> None:
    let_go(dirty, Event())
    assert resident_pages(dirty) == 0
    assert dirty.read_bytes() == CONTENT


def test_let_go_stops_between_steps(dirty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closing, write_back = Event(), drop_behind._write_back

    def close_meanwhile(descriptor: int, offset: int, size: int) -> None:
        write_back(descriptor, offset, size)
        closing.set()

    monkeypatch.setattr(drop_behind, "_write_back", close_meanwhile)
    let_go(dirty, closing)
    assert resident_pages(dirty) == (len(CONTENT) - STEP_BYTES) // mmap.PAGESIZE


def test_pages_that_the_disk_refuses_stay(dirty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(drop_behind, "_write_back", refuse)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        let_go(dirty, Event())
    assert resident_pages(dirty) == len(CONTENT) // mmap.PAGESIZE


def test_write_back_of_what_is_no_file_is_an_error() -> None:
    read, write = os.pipe()
    try:
        with pytest.raises(OSError, match=os.strerror(errno.ESPIPE)):
            drop_behind._write_back(write, 0, STEP_BYTES)
    finally:
        os.close(read)
        os.close(write)
