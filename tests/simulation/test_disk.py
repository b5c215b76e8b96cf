"""The simulated disk itself: as the operating system's while nothing fails, and exactly as unkind as it says when it does."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulation.disk import SECTOR_SIZE, DiskFaults, ProcessDied, SimDisk
from zmqbroker.commands import Member
from zmqbroker.errors import Corruption
from zmqbroker.storage.disk import OS_DISK, Disk, read_all, write_all
from zmqbroker.storage.identity import Identity, claim_identity, read_identity, write_identity

ROOT = Path("/")
FILE = ROOT / "file"


def new_disk(seed: int = 1, **faults: float) -> SimDisk:
    return SimDisk(Random(seed), DiskFaults(**faults))


def make(disk: SimDisk, path: Path, content: bytes, *, sync: bool = True) -> int:
    """A file with `content`, durable with its name if `sync`; returns its descriptor."""
    descriptor = disk.create(path)
    assert disk.pwritev(descriptor, [content], 0) == len(content)
    if sync:
        disk.fsync(descriptor)
        disk.sync_directory(path.parent)
    return descriptor


def content_of(disk: Disk, path: Path) -> bytes:
    descriptor = disk.open(path)
    content = read_all(disk, descriptor, disk.size(descriptor), 0)
    disk.close(descriptor)
    return content


# --- while nothing fails ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["simulated", "operating system"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Disk, Path]:
    """A disk and a directory on it that does not exist yet."""
    disk: Disk = new_disk() if request.param == "simulated" else OS_DISK
    return disk, tmp_path / "some" / "directory"


def test_disk_reads_what_was_written(place: tuple[Disk, Path]) -> None:
    disk, directory = place
    disk.make_directory(directory)
    disk.make_directory(directory)
    descriptor = disk.create(directory / "file")
    assert (disk.size(descriptor), disk.pread(descriptor, 10, 0)) == (0, b"")
    assert disk.pwritev(descriptor, [b"ab", b"", memoryview(b"cde")], 3) == 5
    assert disk.pwritev(descriptor, [b""], 100) == 0
    disk.allocate(descriptor, 12)
    disk.allocate(descriptor, 4)
    disk.fdatasync(descriptor)
    assert disk.size(descriptor) == 12
    assert disk.pread(descriptor, 4, 6) == b"de\0\0"
    assert disk.pread(descriptor, 100, 4) == b"bcde\0\0\0\0"
    assert disk.pread(descriptor, 100, 12) == b""
    disk.close(descriptor)
    assert content_of(disk, directory / "file") == b"\0\0\0abcde\0\0\0\0"


def test_disk_names_follow_renames_and_unlinks(place: tuple[Disk, Path]) -> None:
    disk, directory = place
    disk.make_directory(directory)
    for name in ("a", "b", "c"):
        write_all(disk, disk.create(directory / name), [name.encode()], 0)
    held = disk.open(directory / "c")
    disk.rename(directory / "a", directory / "b")
    disk.unlink(directory / "c")
    disk.sync_directory(directory)
    assert disk.names(directory) == ["b"]
    assert content_of(disk, directory / "b") == b"a"
    assert disk.pread(held, 10, 0) == b"c"
    assert [path.name for path in (directory,)] == disk.names(directory.parent)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda disk, path: disk.open(path / "none"), FileNotFoundError),
        (lambda disk, path: disk.open(path / "none" / "file"), FileNotFoundError),
        (lambda disk, path: disk.open(path / "file" / "file"), NotADirectoryError),
        (lambda disk, path: disk.open(path), IsADirectoryError),
        (lambda disk, path: disk.create(path / "file"), FileExistsError),
        (lambda disk, path: disk.create(path / "none" / "file"), FileNotFoundError),
        (lambda disk, path: disk.unlink(path / "none"), FileNotFoundError),
        (lambda disk, path: disk.rename(path / "none", path / "file"), FileNotFoundError),
        (lambda disk, path: disk.names(path / "file"), NotADirectoryError),
        (lambda disk, path: disk.sync_directory(path / "none"), FileNotFoundError),
        (lambda disk, path: disk.make_directory(path / "file"), FileExistsError),
    ],
)
def test_disk_refuses_as_posix_does(
    place: tuple[Disk, Path], call: Callable[[Disk, Path], object], error: type[OSError]
) -> None:
    disk, directory = place
    disk.make_directory(directory)
    disk.close(disk.create(directory / "file"))
    with pytest.raises(error):
        call(disk, directory)


def test_disk_closed_descriptor_is_refused() -> None:
    disk = new_disk()
    descriptor = make(disk, FILE, b"content")
    disk.close(descriptor)
    for call in (disk.close, disk.size, disk.fsync):
        with pytest.raises(OSError, match="Bad file descriptor"):
            call(descriptor)
    assert disk.open(FILE) != descriptor


def test_disk_keeps_an_identity() -> None:
    disk = new_disk()
    identity = Identity(node_uid=b"u" * 16, name="a", volume="persistent", cluster_name="c", owner="serve")
    assert claim_identity(ROOT, identity, disk) == identity
    formed = Identity(
        node_uid=b"u" * 16,
        name="a",
        volume="persistent",
        cluster_name="c",
        owner="serve",
        cluster_uid=b"k" * 16,
        founders=(Member(1, "a", b"u" * 16, "peer:1"),),
        members=(Member(1, "a", b"u" * 16, "peer:1"),),
    )
    write_identity(ROOT, formed, disk)
    disk.crash(Random(1))
    assert claim_identity(ROOT, identity, disk) == formed
    disk.wipe()
    disk.make_directory(ROOT / "log")
    with pytest.raises(Corruption, match="is missing"):
        claim_identity(ROOT, identity, disk)


def test_disk_identity_is_whole_wherever_the_power_fails() -> None:
    old = Identity(node_uid=b"u" * 16, name="a", volume="persistent", cluster_name="c", owner="serve")
    new = Identity(node_uid=b"u" * 16, name="a", volume="persistent", cluster_name="c", owner="serve", cluster_uid=b"k" * 16)
    seen = set()
    for calls in range(6):
        for seed in range(10):
            disk = new_disk()
            write_identity(ROOT, old, disk)
            disk.die_in(calls)
            finished = not dies(partial(write_identity, ROOT, new, disk))
            disk.crash(Random(seed))
            found = read_identity(ROOT, disk)
            assert found in ((new,) if finished else (old, new)), (calls, seed)
            seen.add((finished, found == new))
            write_identity(ROOT, new, disk)
    assert seen == {(False, False), (False, True), (True, True)}


def dies(action: Callable[[], object]) -> bool:
    """Run `action`; True when the process died in it."""
    try:
        action()
    except ProcessDied:
        return True
    return False


# --- a power cut -----------------------------------------------------------------------------------------------------------


class Shadow:
    """What a file may hold after a power cut: for each sector the contents that it had since the last sync."""

    def __init__(self) -> None:
        self.image = bytearray()
        self.sizes = {0}
        self.sectors: dict[int, set[bytes]] = {}

    def _now(self) -> dict[int, bytes]:
        padded = bytes(self.image) + bytes(-len(self.image) % SECTOR_SIZE)
        return {offset: padded[offset : offset + SECTOR_SIZE] for offset in range(0, len(padded), SECTOR_SIZE)}

    def note(self) -> None:
        """What the file holds now may be there too; sectors that it did not have before may read as zeros."""
        self.sizes.add(len(self.image))
        for offset, sector in self._now().items():
            self.sectors.setdefault(offset, {bytes(SECTOR_SIZE)}).add(sector)

    def sync(self) -> None:
        """Nothing but what the file holds now may be there."""
        self.sizes = {len(self.image)}
        self.sectors = {offset: {sector} for offset, sector in self._now().items()}

    def allows(self, content: bytes) -> bool:
        """True when a power cut may leave this."""
        if not min(self.sizes) <= len(content) <= max(self.sizes):
            return False
        for offset in range(0, len(content), SECTOR_SIZE):
            sector = content[offset : offset + SECTOR_SIZE]
            if not any(version.startswith(sector) for version in self.sectors[offset]):
                return False
        return True


NAMES = ("a", "b", "c")
_STEP = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(NAMES), st.integers(0, 3000), st.integers(1, 1500), st.integers(1, 255)),
    st.tuples(st.just("allocate"), st.sampled_from(NAMES), st.integers(1, 4000)),
    st.tuples(st.just("sync"), st.sampled_from(NAMES)),
    st.tuples(st.just("sync_directory")),
    st.tuples(st.just("rename"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
    st.tuples(st.just("unlink"), st.sampled_from(NAMES)),
)


class Twin:
    """A disk with one directory, and beside it what each file and name may be after a power cut."""

    def __init__(self) -> None:
        self.disk = new_disk()
        self.descriptors: dict[str, int] = {}
        self.files: dict[str, Shadow] = {}
        self.possible: dict[str, list[Shadow | None]] = {name: [None] for name in NAMES}  # what each name may lead to

    def run(self, step: tuple[object, ...]) -> None:
        """Do one step, where it makes sense."""
        kind, *rest = step
        if kind in ("write", "allocate") and rest[0] not in self.files:
            self.descriptors[str(rest[0])] = self.disk.create(ROOT / str(rest[0]))
            self._lead(str(rest[0]), Shadow())
        if kind == "sync_directory" or rest[0] in self.files:
            getattr(self, str(kind))(*rest)

    def _lead(self, name: str, shadow: Shadow | None) -> None:
        self.possible[name].append(shadow)
        if shadow is None:
            del self.files[name], self.descriptors[name]
        else:
            self.files[name] = shadow

    def write(self, name: str, offset: int, size: int, byte: int) -> None:
        """Write some bytes."""
        assert self.disk.pwritev(self.descriptors[name], [bytes([byte]) * size], offset) == size
        shadow = self.files[name]
        shadow.image.extend(bytes(max(0, offset - len(shadow.image))))
        shadow.image[offset : offset + size] = bytes([byte]) * size
        shadow.note()

    def allocate(self, name: str, size: int) -> None:
        """Make the file longer."""
        self.disk.allocate(self.descriptors[name], size)
        shadow = self.files[name]
        shadow.image.extend(bytes(max(0, size - len(shadow.image))))
        shadow.note()

    def sync(self, name: str) -> None:
        """Make its bytes durable."""
        self.disk.fdatasync(self.descriptors[name])
        self.files[name].sync()

    def sync_directory(self) -> None:
        """Make the names durable."""
        self.disk.sync_directory(ROOT)
        self.possible = {name: [self.files.get(name)] for name in NAMES}

    def rename(self, source: str, target: str) -> None:
        """Give another name."""
        if source != target:
            self.disk.rename(ROOT / source, ROOT / target)
            shadow, descriptor = self.files[source], self.descriptors[source]
            self._lead(source, None)
            self._lead(target, shadow)
            self.descriptors[target] = descriptor

    def unlink(self, name: str) -> None:
        """Take the name away."""
        self.disk.unlink(ROOT / name)
        self._lead(name, None)

    def check(self) -> None:
        """After a power cut: every name leads to what it may lead to, with bytes that may be there."""
        found = set(self.disk.names(ROOT))
        for name in NAMES:
            allowed = self.possible[name]
            if name not in found:
                assert None in allowed, name
            else:
                content = content_of(self.disk, ROOT / name)
                assert any(shadow is not None and shadow.allows(content) for shadow in allowed), name


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(_STEP, max_size=30), seed=st.integers(0, 1 << 32))
def test_crash_leaves_every_synced_byte_and_only_what_was_written(steps: list[tuple[object, ...]], seed: int) -> None:
    twin = Twin()
    for step in steps:
        twin.run(step)
    before = {name: bytes(shadow.image) for name, shadow in twin.files.items()}
    assert {name: content_of(twin.disk, ROOT / name) for name in twin.disk.names(ROOT)} == before
    for name in NAMES:
        shadow, content = twin.possible[name][0], twin.disk.durable_bytes(ROOT / name)
        assert content is None if shadow is None else content is not None and shadow.allows(content)
    twin.disk.crash(Random(seed))
    twin.check()
    after = {name: content_of(twin.disk, ROOT / name) for name in twin.disk.names(ROOT)}
    assert {name: twin.disk.durable_bytes(ROOT / name) for name in after} == after
    twin.disk.crash(Random(seed + 1))
    assert {name: content_of(twin.disk, ROOT / name) for name in twin.disk.names(ROOT)} == after


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(_STEP, max_size=30), seed=st.integers(0, 1 << 32))
def test_kill_leaves_everything_and_a_later_crash_is_a_crash(steps: list[tuple[object, ...]], seed: int) -> None:
    twin = Twin()
    for step in steps:
        twin.run(step)
    twin.disk.kill()
    assert {name: content_of(twin.disk, ROOT / name) for name in twin.disk.names(ROOT)} == {
        name: bytes(shadow.image) for name, shadow in twin.files.items()
    }
    twin.disk.crash(Random(seed))
    twin.check()


def outcomes(prepare: Callable[[SimDisk], object], seeds: int = 60) -> set[tuple[tuple[str, bytes], ...]]:
    """Every outcome of a power cut after `prepare`, over some seeds: names with contents."""
    found = set()
    for seed in range(seeds):
        disk = new_disk()
        prepare(disk)
        disk.crash(Random(seed))
        found.add(tuple((name, content_of(disk, ROOT / name)) for name in disk.names(ROOT)))
    return found


def test_crash_unsynced_sectors_survive_in_any_combination() -> None:
    def prepare(disk: SimDisk) -> None:
        descriptor = make(disk, FILE, b"a" * 1536)
        disk.pwritev(descriptor, [b"b" * 1536], 0)

    parts = {tuple(content[at : at + 1] for at in (0, 512, 1024)) for ((_, content),) in outcomes(prepare)}
    assert len(parts) == 8


def test_crash_sector_written_twice_holds_any_of_its_contents() -> None:
    def prepare(disk: SimDisk) -> None:
        descriptor = make(disk, FILE, b"a" * 512)
        disk.pwritev(descriptor, [b"b"], 0)
        disk.pwritev(descriptor, [b"c"], 1)

    assert {content[:2] for ((_, content),) in outcomes(prepare)} == {b"aa", b"ba", b"bc"}


def test_crash_rename_is_atomic_and_may_be_lost() -> None:
    def prepare(disk: SimDisk) -> None:
        make(disk, ROOT / "old", b"1")
        make(disk, ROOT / "new", b"2")
        disk.rename(ROOT / "new", ROOT / "old")

    assert outcomes(prepare) == {(("old", b"2"),), (("old", b"1"), ("new", b"2"))}


def test_crash_unsynced_names_come_and_go() -> None:
    def prepare(disk: SimDisk) -> None:
        make(disk, ROOT / "kept", b"1")
        disk.unlink(ROOT / "kept")
        disk.fsync(make(disk, ROOT / "made", b"2", sync=False))

    kept, made = ("kept", b"1"), ("made", b"2")
    assert outcomes(prepare) == {(kept,), (kept, made), (made,), ()}


def test_crash_changes_of_names_often_survive_up_to_one_of_them() -> None:
    def prepare(disk: SimDisk) -> None:
        for name in "abcdef":
            disk.create(ROOT / name)

    found = {"".join(name for name, _ in files) for files in outcomes(prepare, seeds=100)}
    assert found >= {"abcdef"[:count] for count in range(7)}
    assert "f" in {names[-1:] for names in found if len(names) == 3}


def test_crash_length_of_a_file_that_grew_is_old_new_or_between() -> None:
    def prepare(disk: SimDisk) -> None:
        disk.pwritev(make(disk, FILE, b"a" * 100), [b"b" * 100], 100)

    lengths = {len(content) for ((_, content),) in outcomes(prepare, seeds=200)}
    assert {100, 200} < lengths <= set(range(100, 201))


def test_crash_directory_without_a_durable_name_takes_its_files_along() -> None:
    disk = new_disk()
    disk.make_directory(ROOT / "log")
    make(disk, ROOT / "log" / "file", b"content")
    assert disk.durable_writes == 0
    assert not disk.is_durable(ROOT / "log" / "file", 0, 7)
    assert disk.durable_bytes(ROOT / "log" / "file") is None
    disk.sync_directory(ROOT)
    assert disk.durable_writes == disk.writes == 1
    assert disk.is_durable(ROOT / "log" / "file", 0, 7)
    disk.crash(Random(1))
    assert content_of(disk, ROOT / "log" / "file") == b"content"


def test_crash_many_changes_of_names_do_not_pile_up() -> None:
    disk = new_disk()
    for number in range(1000):
        disk.close(disk.create(FILE))
        disk.rename(FILE, ROOT / "target")
        if number == 0:
            assert disk.durable_bytes(ROOT / "target") is None
    assert disk.durable_bytes(ROOT / "target") == b""


def test_crash_is_a_function_of_its_seed() -> None:
    def image(seed: int) -> tuple[bytes, dict[str, int]]:
        disk = new_disk()
        disk.pwritev(make(disk, FILE, b"a" * 8192), [b"b" * 8192], 0)
        disk.crash(Random(seed))
        return content_of(disk, FILE), dict(disk.counts)

    assert image(1) == image(1)
    assert len({image(seed)[0] for seed in range(20)}) > 10


# --- faults of calls -------------------------------------------------------------------------------------------------------


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
        lambda: disk.pwritev(descriptor, [b"x"], 0),
    ):
        with pytest.raises(OSError, match="No space left"):
            call()
    assert (disk.names(ROOT), content_of(disk, FILE), disk.counts["no_space"]) == (["file"], b"content", 3)


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


# --- what an onlooker may ask ----------------------------------------------------------------------------------------------


def test_durable_writes_waits_for_bytes_and_name() -> None:
    disk = new_disk()
    assert disk.durable_writes == disk.writes == 0
    first = disk.create(FILE)
    disk.pwritev(first, [b"0"], 0)
    disk.pwritev(first, [b"1"], 0)
    disk.fsync(first)
    assert disk.durable_writes == 0
    disk.sync_directory(ROOT)
    assert disk.durable_writes == 2
    second = make(disk, ROOT / "second", b"2")
    disk.pwritev(second, [b"3"], 1)
    disk.pwritev(first, [b"4"], 1)
    disk.fdatasync(first)
    assert (disk.durable_writes, disk.writes) == (3, 5)
    assert disk.is_durable(FILE, 0, 2)
    assert disk.is_durable(ROOT / "second", 0, 1)
    assert not disk.is_durable(ROOT / "second", 0, 2)
    disk.rename(ROOT / "second", ROOT / "third")
    disk.fdatasync(second)
    assert disk.durable_writes == 3
    disk.sync_directory(ROOT)
    assert disk.durable_writes == 5
    disk.pwritev(second, [b"5"], 0)
    disk.unlink(ROOT / "third")
    assert disk.durable_writes == disk.writes == 6
    with pytest.raises(FileNotFoundError):
        disk.is_durable(ROOT / "third", 0, 1)


def test_wipe_leaves_an_empty_disk() -> None:
    disk = new_disk()
    descriptor = make(disk, FILE, b"content")
    disk.pwritev(descriptor, [b"x"], 0)
    disk.wipe()
    assert (disk.names(ROOT), disk.paths(), disk.durable_writes) == ([], [], disk.writes)
    with pytest.raises(OSError, match="Bad file descriptor"):
        disk.pread(descriptor, 1, 0)
