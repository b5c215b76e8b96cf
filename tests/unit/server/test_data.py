"""A node's data as a start finds it: opened, given up until others give it again, salvaged, or refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.storage.support import append, change, run
from zmqbroker.commands import Member
from zmqbroker.config import NodeConfig
from zmqbroker.errors import Corruption, StorageError
from zmqbroker.server import data
from zmqbroker.server.data import NodeData, moment
from zmqbroker.server.desk import DATA_GROUP
from zmqbroker.storage.crashes import CRASHES_NAME
from zmqbroker.storage.distrust import NOTE_NAME
from zmqbroker.storage.drop_behind import DropBehind
from zmqbroker.storage.memory import MemoryLog
from zmqbroker.storage.run_record import RUN_NAME, read_run, write_run

PEERS = ("n1=127.0.0.1:1", "n2=127.0.0.1:2", "n3=127.0.0.1:3")
DEAD = "Fatal Python error: Bus error\n"


class Home:
    """A node's directory, and one start after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.boot = "boot-1"
        self.open: NodeData | None = None

    def start(self, *, members: int = 3, volume: str = "ephemeral") -> NodeData:
        """Start a node; the first time it becomes a member of a cluster of so many."""
        flags = {"node.name": "n1", "node.data_dir": str(self.path), "cluster.volume": volume}
        config = NodeConfig.for_test({**flags, "cluster.peers": PEERS[:members] if members > 1 else ()})
        self.open = data = NodeData(config, "serve", lambda: self.boot)
        if data.directory.identity.cluster_uid is None and data.former is None and members:
            uids = [data.directory.node_uid, *(bytes([number]) * 16 for number in range(2, members + 1))]
            rows = tuple(Member(number, f"n{number}", uid, f"h:{number}") for number, uid in enumerate(uids, 1))
            data.directory.save_formation(b"c" * 16, rows, 0, rows)
        return data

    def end(self, *, orderly: bool) -> None:
        """The process ends."""
        assert self.open is not None
        self.open.close(orderly=orderly)
        self.open = None

    def fill(self, first: int, last: int) -> None:
        """Entries in the log."""
        assert self.open is not None
        for index in range(first, last + 1):
            run(self.open.log, append(index, bytes([index]) * 3000, group=DATA_GROUP))

    def last_index(self) -> int:
        """Of what the log holds."""
        assert self.open is not None
        return self.open.log.view(DATA_GROUP).last_index()

    def segment(self, position: int = 0) -> Path:
        """A file of the log."""
        return sorted((self.path / "log").glob("*.segment"))[position]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    found = Home(tmp_path)
    yield found
    if found.open is not None:
        found.end(orderly=False)


def is_given_up(data: NodeData, reason: str) -> bool:
    """Whether nothing was opened, for that reason."""
    assert data.former is not None
    assert reason in data.former.reason
    assert data.former.cluster_uid == b"c" * 16
    return isinstance(data.log, MemoryLog) and data.directory.node_uid != data.directory.identity.node_uid


@pytest.mark.parametrize("orderly", [True, False])
def test_mark_of_a_clean_stop_is_left_by_one_and_gone_while_a_node_runs(home: Home, orderly: bool) -> None:
    for _ in range(2):
        home.start()
        record = read_run(home.path)
        assert record is not None
        assert (record.clean, record.boot_id) == (False, "boot-1")
        home.end(orderly=orderly)
        record = read_run(home.path)
        assert record is not None
        assert record.clean is orderly


def test_mark_is_not_left_when_something_cannot_be_synced(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.start()
    monkeypatch.setattr("zmqbroker.server.data.sync_tree", lambda _: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(StorageError, match="cannot be made durable"):
        home.end(orderly=True)
    record = read_run(home.path)
    assert record is not None
    assert not record.clean
    home.start()


@pytest.mark.parametrize(("orderly", "volume"), [(True, "ephemeral"), (False, "persistent")])
def test_another_boot_is_nothing_after_a_clean_stop_or_on_a_persistent_volume(home: Home, orderly: bool, volume: str) -> None:
    home.start(volume=volume)
    home.fill(1, 3)
    home.end(orderly=orderly)
    home.boot = "boot-2"
    data = home.start(volume=volume)
    assert (data.former, home.last_index(), data.lost_since_unix_ns) == (None, 3, None)


def test_death_of_the_machine_of_an_ephemeral_member_gives_its_data_up(home: Home) -> None:
    home.start()
    home.end(orderly=False)
    home.boot = "boot-2"
    assert is_given_up(home.start(), "the machine died after an unclean end")
    home.end(orderly=True)
    record = read_run(home.path)
    assert record is not None
    assert (record.boot_id, record.clean) == ("boot-1", False), "nothing is said of data that nobody opened"
    assert is_given_up(home.start(), "the machine died"), "it was noted"


def test_node_that_belongs_to_no_cluster_yet_has_nothing_to_lose(home: Home) -> None:
    home.start(members=0)
    home.end(orderly=False)
    home.boot = "boot-2"
    data = home.start(members=0)
    assert (data.former, data.lost_since_unix_ns) == (None, None)


def test_record_of_runs_that_is_damaged_is_the_death_of_an_ephemeral_machine_only(home: Home) -> None:
    home.start(volume="persistent")
    home.end(orderly=True)
    (home.path / RUN_NAME).write_bytes(b"?")
    assert home.start(volume="persistent").former is None
    home.end(orderly=True)


def test_record_of_runs_that_is_damaged_gives_an_ephemeral_members_data_up(home: Home) -> None:
    home.start()
    home.end(orderly=True)
    (home.path / RUN_NAME).write_bytes(b"?")
    assert is_given_up(home.start(), "the machine died")


def test_damage_of_a_member_gives_its_data_up_and_closes_it(home: Home) -> None:
    home.start()
    home.fill(1, 9)
    home.end(orderly=True)
    change(home.segment(), 5000, b"?")
    assert is_given_up(home.start(), str(home.segment()))


@pytest.mark.parametrize("name", ["log", "state"])
def test_member_whose_log_or_store_is_gone_does_not_begin_anew_under_its_old_uid(home: Home, name: str) -> None:
    home.start()
    home.fill(1, 2)
    home.end(orderly=True)
    shutil.rmtree(home.path / name)
    assert is_given_up(home.start(), f"{home.path / name}: is missing")


def test_damage_without_a_file_name_is_of_the_store(home: Home) -> None:
    data = home.start()
    assert data.distrust(Corruption("the state has an unknown key"))
    home.end(orderly=True)
    assert is_given_up(home.start(), f"{home.path / 'state'}: the state has an unknown key")
    record = read_run(home.path)
    assert record is not None
    assert not record.clean


def test_damage_of_a_node_that_is_alone_is_refused(home: Home) -> None:
    home.start(members=1)
    home.fill(1, 9)
    home.end(orderly=True)
    change(home.segment(), 5000, b"?")
    for _ in range(2):
        with pytest.raises(Corruption, match="segment"):
            home.start(members=1)
    assert not (home.path / NOTE_NAME).exists()


@pytest.mark.parametrize(("deaths", "given_up"), [(1, False), (2, True)])
def test_store_that_killed_the_process_twice_is_not_opened_again(home: Home, deaths: int, given_up: bool) -> None:
    home.start()
    home.end(orderly=False)
    (home.path / CRASHES_NAME).write_text(DEAD * deaths)
    data = home.start()
    assert (data.former is not None) is given_up
    if given_up:
        assert is_given_up(data, "state: the process died 2 times")
    else:
        data.proven()
        assert (home.path / CRASHES_NAME).read_bytes() == b""


def test_store_that_killed_a_node_that_is_alone_twice_is_refused(home: Home) -> None:
    home.start(members=1)
    home.end(orderly=False)
    (home.path / CRASHES_NAME).write_text(DEAD * 2)
    with pytest.raises(Corruption, match="delete that file to try again"):
        home.start(members=1)


def died_alone(home: Home, entries: int = 20) -> int:
    """A node that is alone, whose machine died; since when writes may be lost."""
    home.start(members=1)
    home.fill(1, entries)
    home.end(orderly=False)
    record = read_run(home.path)
    assert record is not None
    write_run(home.path, replace(record, durable_unix_ns=77))
    home.boot = "boot-2"
    return 77


def test_death_of_the_machine_of_a_node_that_is_alone_costs_what_is_damaged(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    since = died_alone(home)
    change(home.segment(), 4096 + 5 * 3056 + 100, b"?")
    data = home.start(members=1)
    assert (data.former, data.lost_since_unix_ns, home.last_index()) == (None, since, 5)
    assert f"may have lost writes since {moment(since)}" in caplog.text
    home.end(orderly=True)
    assert home.start(members=1).lost_since_unix_ns == since, "it stays true"


def test_death_of_the_machine_makes_the_state_anew_from_a_whole_log(home: Home) -> None:
    died_alone(home)
    store = home.path / "state" / "data.mdb"
    store.write_bytes(b"\xff" * 8192)
    for deaths in (0, 1):  # the second time reading it has killed the process
        (home.path / CRASHES_NAME).write_text(DEAD * deaths)
        data = home.start(members=1)
        assert (data.state.applied_index(DATA_GROUP), home.last_index()) == (0, 20)
        assert data.stale == [f"stale-{data.directory.node_uid.hex()}"]
        home.end(orderly=False)
        record = read_run(home.path)
        assert record is not None
        write_run(home.path, replace(record, boot_id="boot-1"))


def test_death_of_the_machine_with_a_state_that_the_log_does_not_reach_is_refused_where_log_was_dropped(home: Home) -> None:
    data = home.start(members=1)
    home.fill(1, 60)
    data.log.trim(DATA_GROUP, 59)
    data.housekeep()
    data.state.commit(DATA_GROUP, 60, [(b"k", b"v")])
    home.end(orderly=False)
    home.boot = "boot-2"
    assert home.segment().name != "00000001.segment"
    change(home.segment(-1), 4096 + 100, b"?")
    with pytest.raises(Corruption, match="does not fit what is left of the log"):
        home.start(members=1)
    assert (home.path / "state" / "data.mdb").exists()


def test_tidy_deletes_what_is_of_no_use_and_bears_what_it_cannot(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    home.start()
    home.end(orderly=False)
    home.boot = "boot-2"
    data = home.start()
    identity, uid = data.directory.identity, data.directory.identity.node_uid
    data.directory.save_formation(b"c" * 16, identity.founders, 4, identity.members)
    home.end(orderly=False)
    data = home.start()
    assert data.stale == [f"stale-{uid.hex()}"]
    data.tidy()
    assert data.stale == []
    (home.path / "stale-x").mkdir()
    (home.path / "stale-x" / "why.json").mkdir()  # cannot be read
    data.tidy()
    assert "cannot be deleted" in caplog.text


def test_log_leaves_as_many_segments_in_the_page_cache_as_the_setting_has_room_for(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    left: list[Path] = []

    class Recorder(DropBehind):
        def __init__(self, kept_segments: int) -> None:
            super().__init__(kept_segments)
            kept.append(kept_segments)

        def left(self, path: Path) -> None:
            left.append(path)

    monkeypatch.setattr(data, "DropBehind", Recorder)
    storage = NodeConfig.for_test({"node.name": "n1"}).storage
    home.start()
    home.fill(1, 2 * storage.segment_bytes // 3000)
    assert kept == [storage.page_cache_bytes // storage.segment_bytes]
    assert left == [home.segment(position) for position in range(len(left))]
    assert left, "two segments are full"
