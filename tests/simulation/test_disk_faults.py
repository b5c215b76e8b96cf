"""The simulated disk's faults of single calls: what each does, and what it leaves alone."""

from __future__ import annotations

import errno
from random import Random

import pytest

from tests.simulation.disk import SECTOR_SIZE, DiskFaults, ProcessDied
from tests.simulation.small_disk import FILE, ROOT, content_of, make, new_disk
from zmqbroker.storage.disk import write_all


def test_sync_error_pages_are_clean_and_maybe_gone() -> None:
    """The retry succeeds and makes nothing durable: that is why nobody may retry."""
    seen = set()
    for seed in range(40):
        disk = new_disk(seed)
        descriptor = make(disk, FILE, b"a" * 1024)
        disk.pwritev(descriptor, [b"b" * 1024], 0)
        mark = disk.writes
        disk.faults.sync_error = 1.0
        with pytest.raises(OSError, match="Input/output error") as caught:
            disk.fdatasync(descriptor)
        assert caught.value.errno == errno.EIO
        disk.faults.sync_error = 0.0
        cached = content_of(disk, FILE)
        disk.fdatasync(descriptor)
        assert disk.durable_writes == mark - 1
        disk.crash(Random(seed))
        on_disk = content_of(disk, FILE)
        seen.add((cached[::512], on_disk[::512]))
        assert disk.counts["sync_error"] == 1
    whole = {b"aa", b"ab", b"ba", b"bb"}
    assert seen == {(b"bb", content) for content in whole} | {(content, content) for content in whole}


def test_sync_error_is_forgotten_when_the_process_dies() -> None:
    disk = new_disk()
    descriptor = make(disk, FILE, b"a")
    disk.faults.sync_error = 1.0
    with pytest.raises(OSError, match="Input/output error"):
        disk.fsync(descriptor)
    with pytest.raises(OSError, match="Input/output error"):
        disk.sync_directory(ROOT)
    disk.faults = DiskFaults()
    disk.kill()
    descriptor = disk.open(FILE)
    disk.pwritev(descriptor, [b"b"], 0)
    assert disk.durable_writes == disk.writes - 1
    disk.fsync(descriptor)
    assert disk.durable_writes == disk.writes


def test_no_space_is_refused_and_changes_nothing() -> None:
    disk = new_disk()
    descriptor = make(disk, FILE, b"content")
    disk.faults.no_space = 1.0
    for call in (
        lambda: disk.create(ROOT / "other"),
        lambda: disk.allocate(descriptor, 100),
        lambda: disk.zero(descriptor, 7),
        lambda: disk.pwritev(descriptor, [b"x", b"y"], 6),
    ):
        with pytest.raises(OSError, match="No space left"):
            call()
    assert (disk.names(ROOT), content_of(disk, FILE), disk.counts["no_space"]) == (["file"], b"content", 4)
    assert disk.pwritev(descriptor, [b"C", b"O"], 0) == 2  # what has its place needs none


def test_short_calls_do_a_part_and_the_loops_around_them_all() -> None:
    disk = new_disk(short_write=0.9, short_read=0.9)
    content = Random(2).randbytes(3000)
    descriptor = disk.create(FILE)
    write_all(disk, descriptor, [content[:1000], content[1000:]], 0)
    assert disk.writes > 1
    assert content_of(disk, FILE) == content
    assert disk.counts["short_write"] > 0
    assert disk.counts["short_read"] > 0


def test_bad_sector_is_refused_until_it_is_written_whole() -> None:
    disk = new_disk()
    descriptor = make(disk, FILE, b"a" * 2048)
    assert disk.spoil_sector(Random(5)) is not None
    path, bad = disk.spoil_sector(Random(5)) or (FILE, -1)
    assert (path, bad % SECTOR_SIZE) == (FILE, 0)
    for offset in range(0, 2048, SECTOR_SIZE):
        if offset == bad:
            with pytest.raises(OSError, match="Input/output error"):
                disk.pread(descriptor, 1, offset + 511)
        else:
            assert disk.pread(descriptor, 512, offset) == b"a" * 512
    disk.crash(Random(1))
    descriptor = disk.open(FILE)
    disk.pwritev(descriptor, [b"b" * 511], bad)
    disk.pwritev(descriptor, [b"b" * 511], bad + 1)
    with pytest.raises(OSError, match="Input/output error"):
        disk.pread(descriptor, 1, bad)
    disk.pwritev(descriptor, [b"b" * 512], bad)
    assert disk.pread(descriptor, 512, bad) == b"b" * 512


def test_bad_sector_of_a_read_stays_bad() -> None:
    disk = new_disk(bad_sector=1.0)
    descriptor = make(disk, FILE, b"a" * 2048)
    assert disk.pread(descriptor, 10, 2048) == b""
    with pytest.raises(OSError, match="Input/output error"):
        disk.pread(descriptor, 100, 600)
    disk.faults.bad_sector = 0.0
    with pytest.raises(OSError, match="Input/output error"):
        disk.pread(descriptor, 2048, 0)
    assert disk.pread(descriptor, 512, 0) == b"a" * 512
    assert (disk.counts["bad_sector"], disk.counts["read_error"]) == (1, 2)


def test_flip_bit_changes_one_bit_on_the_disk() -> None:
    changed = set()
    for seed in range(200):
        disk = new_disk()
        descriptor = make(disk, FILE, b"\xff" * 3 + bytes(600))
        flipped = disk.flip_bit(Random(seed))
        assert flipped is not None
        content = disk.pread(descriptor, 603, 0)
        assert int.from_bytes(content[:3], "big").bit_count() == 23
        assert (content[flipped[1]] != 0xFF, content[3:]) == (True, bytes(600))
        assert disk.durable_bytes(FILE) == content
        changed.add(content)
    assert len(changed) == 24


def test_flip_bit_under_an_unsynced_write_is_replaced_by_it() -> None:
    disk = new_disk()
    descriptor = make(disk, FILE, b"a" * 512)
    disk.pwritev(descriptor, [b"b" * 512], 0)
    disk.flip_bit(Random(1), FILE)
    assert disk.pread(descriptor, 512, 0) == b"b" * 512
    assert disk.durable_bytes(FILE) != b"a" * 512
    disk.fsync(descriptor)
    assert disk.durable_bytes(FILE) == b"b" * 512


def test_faults_of_a_file_need_one_with_bytes_and_a_durable_name() -> None:
    disk = new_disk()
    make(disk, FILE, b"content", sync=False)
    assert disk.flip_bit(Random(1)) is None
    assert disk.spoil_sector(Random(1), FILE) is None
    assert disk.overwrite_sector(Random(1), FILE) is None
    assert disk.paths() == [FILE]


def test_die_in_ends_the_process_in_that_call_for_good() -> None:
    disk = new_disk()
    descriptor = make(disk, FILE, b"content")
    disk.die_in(2)
    disk.pwritev(descriptor, [b"C"], 0)
    disk.fsync(descriptor)
    for _ in range(2):
        with pytest.raises(ProcessDied):
            disk.pwritev(descriptor, [b"O"], 1)
    with pytest.raises(ProcessDied):
        disk.unlink(FILE)
    disk.kill()
    disk.unlink(FILE)
    assert disk.names(ROOT) == []
