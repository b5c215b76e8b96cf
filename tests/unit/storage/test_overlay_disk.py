"""The disk whose changes stay in memory: it behaves as the operating system's, and nothing below is touched."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.unit.storage.support import append, contents, run
from zmqbroker.storage.disk import Disk, OsDisk, read_all, write_all
from zmqbroker.storage.overlay_disk import OverlayDisk
from zmqbroker.storage.segment_log import SegmentLog


def images(directory: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def content(disk: Disk, path: Path) -> bytes:
    """All bytes of a file, read in uneven pieces."""
    descriptor = disk.open(path)
    data = b"".join(read_all(disk, descriptor, 70_001, offset) for offset in range(0, disk.size(descriptor), 70_001))
    disk.close(descriptor)
    return data


def change(disk: Disk, directory: Path, seed: int) -> None:
    """Do the same things to a directory, whatever the disk."""
    chance = random.Random(seed)
    for name in ("old", "older"):
        descriptor = disk.open(directory / name)
        for _ in range(10):
            write_all(disk, descriptor, [chance.randbytes(chance.choice((1, 500, 100_000))), b"end"], chance.randrange(200_000))
        disk.fsync(descriptor)
        disk.close(descriptor)
    descriptor = disk.create(directory / "new")
    disk.allocate(descriptor, 80_000)
    write_all(disk, descriptor, [b"abc"], 65_535)
    disk.fdatasync(descriptor)
    disk.close(descriptor)
    disk.rename(directory / "new", directory / "named")
    disk.rename(directory / "older", directory / "moved")
    descriptor = disk.open(directory / "recycled")
    disk.zero(descriptor, 70_000)
    write_all(disk, descriptor, [b"new life"], 66_000)
    disk.close(descriptor)
    disk.unlink(directory / "doomed")
    disk.sync_directory(directory)
    disk.close(disk.create(directory / "doomed"))


@pytest.mark.parametrize("seed", range(5))
def test_overlay_shows_what_the_real_disk_would(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    files = {"old": chance.randbytes(150_000), "older": chance.randbytes(10), "doomed": b"doomed", "recycled": b"x" * 70_000}
    for place in ("real", "overlaid"):
        (tmp_path / place).mkdir()
        for name, data in files.items():
            (tmp_path / place / name).write_bytes(data)
    change(OsDisk(), tmp_path / "real", seed)
    with OverlayDisk() as disk:
        change(disk, tmp_path / "overlaid", seed)
        assert disk.names(tmp_path / "overlaid") == sorted(os.listdir(tmp_path / "real"))
        shown = {name: content(disk, tmp_path / "overlaid" / name) for name in disk.names(tmp_path / "overlaid")}
    assert shown == images(tmp_path / "real")
    assert images(tmp_path / "overlaid") == files


def test_overlay_refuses_what_the_real_disk_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    with OverlayDisk() as disk:
        with pytest.raises(FileExistsError):
            disk.create(tmp_path / "file")
        with pytest.raises(FileNotFoundError):
            disk.open(tmp_path / "none")
        with pytest.raises(FileNotFoundError):
            disk.unlink(tmp_path / "none")
        disk.unlink(tmp_path / "file")
        for refused in (disk.open, disk.unlink):
            with pytest.raises(FileNotFoundError):
                refused(tmp_path / "file")
        with pytest.raises(FileNotFoundError):
            disk.names(tmp_path / "nowhere")
        disk.make_directory(tmp_path / "nowhere")
        assert disk.names(tmp_path / "nowhere") == []
    assert images(tmp_path) == {"file": b"data"}


def test_file_cut_below_reads_as_zeros(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    with OverlayDisk() as disk:
        descriptor = disk.open(tmp_path / "file")
        os.truncate(tmp_path / "file", 10)
        assert disk.pread(descriptor, 20, 0) == b"x" * 10 + bytes(10)


def test_log_is_opened_and_goes_on_without_a_trace(tmp_path: Path) -> None:
    log = SegmentLog.open(tmp_path / "log", sync=True, segment_bytes=16 << 10)
    for index in range(1, 20):
        run(log, append(index, bytes([index]) * 2000))
    log.close()
    before = images(tmp_path)
    with OverlayDisk() as disk:
        overlaid = SegmentLog.open(tmp_path / "log", sync=True, segment_bytes=16 << 10, cache_bytes_max=0, disk=disk)
        for index in range(20, 40):
            run(overlaid, append(index, bytes([index]) * 2000))
        overlaid.trim(1, 15)
        overlaid.housekeep()
        assert contents(overlaid)[39] == bytes([39]) * 2000
        overlaid.close()
    assert images(tmp_path) == before
