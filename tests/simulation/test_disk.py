"""The simulated disk itself: as the operating system's while nothing fails, and exactly as unkind as it says when it does."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulation.disk import SECTOR_SIZE, ProcessDied, SimDisk
from tests.simulation.small_disk import FILE, ROOT, content_of, make, new_disk
from zmqbroker.commands import Member
from zmqbroker.errors import Corruption
from zmqbroker.storage.disk import OS_DISK, Disk, write_all
from zmqbroker.storage.identity import Identity, claim_identity, read_identity, write_identity

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


@pytest.mark.parametrize("in_place", [True, False])
def test_disk_zero_keeps_the_size_and_nothing_else(
    place: tuple[Disk, Path], monkeypatch: pytest.MonkeyPatch, in_place: bool
) -> None:
    def refuse(descriptor: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    disk, directory = place
    disk.make_directory(directory)
    descriptor = disk.create(directory / "file")
    disk.pwritev(descriptor, [b"x" * 9000], 0)
    disk.fsync(descriptor)
    if not in_place:
        monkeypatch.setattr("zmqbroker.storage.disk._zero_range", refuse)
    disk.zero(descriptor, 9000)
    disk.pwritev(descriptor, [b"new"], 10)
    disk.close(descriptor)
    assert content_of(disk, directory / "file") == bytes(10) + b"new" + bytes(8987)


def test_disk_zero_of_the_operating_system_needs_a_file_that_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            OS_DISK.zero(descriptor, 7)
    finally:
        os.close(descriptor)
    assert (tmp_path / "file").read_bytes() == b"content"


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


def test_disk_tells_of_every_directory_behind_the_one_that_it_is_in() -> None:
    disk = SimDisk(Random(0))
    for name in ("/a/b", "/c"):
        disk.make_directory(Path(name))
    assert disk.directories() == [Path("/a"), Path("/c"), Path("/a/b")]
    disk.wipe()
    assert disk.directories() == []


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
    st.tuples(st.just("zero"), st.sampled_from(NAMES)),
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

    def zero(self, name: str) -> None:
        """Make it all zeros."""
        shadow = self.files[name]
        shadow.image[:] = bytes(len(shadow.image))
        self.disk.zero(self.descriptors[name], len(shadow.image))
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


def test_durable_writes_does_not_wait_for_zeros() -> None:
    disk = new_disk()
    descriptor = make(disk, FILE, b"content")
    disk.pwritev(descriptor, [b"C"], 0)
    assert (disk.durable_writes, disk.writes) == (1, 2)
    disk.zero(descriptor, 7)
    assert disk.durable_writes == disk.writes == 2
    assert not disk.is_durable(FILE, 0, 7)
    disk.pwritev(descriptor, [b"x"], 0)
    disk.sync_directory(ROOT)
    assert (disk.durable_writes, disk.writes) == (2, 3)
    disk.fsync(descriptor)
    assert (disk.durable_writes, disk.durable_bytes(FILE)) == (3, b"x\0\0\0\0\0\0")


def test_wipe_leaves_an_empty_disk() -> None:
    disk = new_disk()
    descriptor = make(disk, FILE, b"content")
    disk.pwritev(descriptor, [b"x"], 0)
    disk.wipe()
    assert (disk.names(ROOT), disk.paths(), disk.durable_writes) == ([], [], disk.writes)
    with pytest.raises(OSError, match="Bad file descriptor"):
        disk.pread(descriptor, 1, 0)
