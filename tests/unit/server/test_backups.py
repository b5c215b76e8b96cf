"""Backups at a node: made once, handed out in chunks, one at a time, and gone in the end; restored to the same state."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.server.harness import batch, pending
from tests.unit.server.snapshot_sites import GROUP, Site, Sites
from zmqbroker.checksum import crc32c
from zmqbroker.errors import Busy, Compacted, InvalidRequest
from zmqbroker.server import backups, snapshot_making
from zmqbroker.server.backups import KEEP_NS, RETRY_NS, Backups
from zmqbroker.server.restoring import CheckedBackup, check_backup
from zmqbroker.wire.backup import BackupHead
from zmqbroker.wire.requests import BackupRequest

ID, OTHER = bytes(range(16)), bytes(16)
TIME = 1_700_000_000_000_000_000


class Desk:
    """Asks one node for backups."""

    def __init__(self, site: Site) -> None:
        site.node.formation.cluster_uid = b"u" * 16
        parts = (site.node, site.log, site.state, site.flusher, site.counters)
        self.site = site
        self.backups = Backups(site.directory / "snapshots", *parts, lambda: TIME)

    def ask(self, offset: int = 0, *, id: bytes = ID, index: int = 0, now_ns: int = 0) -> tuple[dict[str, Any], bytes]:
        """One request."""
        return self.backups.serve(self.site.group, BackupRequest(id, offset, index), now_ns)

    async def first(self, **options: Any) -> tuple[dict[str, Any], bytes]:
        """The first chunk, as soon as there is one."""
        for _ in range(1000):
            try:
                return self.ask(**options)
            except Busy as error:
                if "is making the backup" not in error.message:
                    raise
            await self.site.flusher.job(lambda: None)
            await asyncio.sleep(0)
        raise AssertionError("no backup was made")

    async def fetch(self) -> bytes:
        """All of it."""
        fields, data = await self.first()
        found = data
        while len(found) < fields["size"]:
            fields, data = self.ask(len(found))
            assert (fields["offset"], fields["crc32c"]) == (len(found), crc32c(data))
            found += data
        return found


Test = Callable[[Sites, Desk], Awaitable[None]]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small chunks and slices, so that everything takes many steps."""
    monkeypatch.setattr(backups, "CHUNK_BYTES", 4000)
    monkeypatch.setattr(backups, "_SLICE_BYTES", 5000)
    monkeypatch.setattr(snapshot_making, "SLICE_BYTES", 16 << 10)


def drive(directory: Path, test: Test, *, number: int = 1) -> None:
    """Run a test against node `number` of three; node 1 leads, and all hold three messages."""

    async def whole() -> None:
        sites = Sites(directory)
        bugs: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: bugs.append(context))
        try:
            for site in sites.sites.values():
                site.open()
            await sites.lead(1)
            await sites.write(3)
            desk = Desk(sites[number])
            await test(sites, desk)
            await desk.backups.close()
            assert desk.site.files() == []
            assert bugs == []
        finally:
            await sites.close()

    asyncio.run(whole())


def checked(path: Path, data: bytes) -> CheckedBackup:
    """The backup that a file with these bytes is."""
    path.write_bytes(data)
    return check_backup(path)


@pytest.mark.parametrize("number", [1, 2])
def test_backup_of_any_node_holds_its_state_and_bodies(tmp_path: Path, number: int) -> None:
    async def test(sites: Sites, desk: Desk) -> None:
        backup, machine = checked(tmp_path / "file", await desk.fetch()), desk.site.group.machine
        assert backup.machine.digest() == machine.digest()
        assert backup.bodies == [index for index in range(1, machine.applied_index + 1) if machine.is_live(index)]
        assert len(backup.bodies) == 3
        group = backup.head.groups[0]
        expected = ("zmqbroker", b"u" * 16, "ephemeral", TIME, GROUP, machine.applied_index)
        head: BackupHead = backup.head
        found = (head.cluster_name, head.cluster_uid, head.volume, head.taken_unix_ns, group.number, group.index)
        assert found == expected
        assert desk.site.counters["backups_made"] == 1

    drive(tmp_path, test, number=number)


def test_state_that_was_not_stored_yet_is_in_the_backup(tmp_path: Path) -> None:
    async def test(sites: Sites, desk: Desk) -> None:
        group, before = desk.site.group, desk.site.flusher.flushed(GROUP)
        group.publish(batch(b"fresh"), 0, pending(99))
        await sites.until(lambda: group.machine.applied_index > before, "the entry is applied")
        assert desk.site.flusher.flushed(GROUP) == before
        fields, _ = await desk.first(index=group.machine.applied_index)
        assert fields["index"] == group.machine.applied_index

    drive(tmp_path, test)


def test_backup_waits_until_the_node_has_applied_the_index(tmp_path: Path) -> None:
    async def test(sites: Sites, desk: Desk) -> None:
        applied_index = desk.site.group.machine.applied_index
        with pytest.raises(Busy, match=f"has applied {applied_index} and not yet {applied_index + 1}") as caught:
            desk.ask(index=applied_index + 1)
        assert caught.value.retry_ms > 0

    drive(tmp_path, test)


def test_one_backup_at_a_time_until_its_end_was_asked_for(tmp_path: Path) -> None:
    async def test(sites: Sites, desk: Desk) -> None:
        fields, data = await desk.first()
        with pytest.raises(Busy, match="another backup is being taken from node-1"):
            desk.ask(id=OTHER)
        assert desk.ask() == (fields, data), "repeated"
        assert desk.ask(fields["size"])[1] == b""
        assert desk.site.files() == []
        with pytest.raises(InvalidRequest, match="does not keep this backup any more"):
            desk.ask(fields["size"])
        assert (await desk.first(id=OTHER))[0]["offset"] == 0

    drive(tmp_path, test)


def test_offset_behind_the_end_is_refused(tmp_path: Path) -> None:
    async def test(sites: Sites, desk: Desk) -> None:
        fields, _ = await desk.first()
        with pytest.raises(InvalidRequest, match=f"the backup has {fields['size']} bytes"):
            desk.ask(fields["size"] + 1)

    drive(tmp_path, test)


def test_backup_that_nobody_fetches_goes(tmp_path: Path) -> None:
    async def test(sites: Sites, desk: Desk) -> None:
        await desk.first(now_ns=5)
        desk.ask(now_ns=7)
        desk.backups.tick(7 + KEEP_NS)
        assert len(desk.site.files()) == 1
        desk.backups.tick(8 + KEEP_NS)
        assert desk.site.files() == []
        assert (await desk.first(id=OTHER))[0]["offset"] == 0

    drive(tmp_path, test)


@pytest.mark.parametrize("error", [OSError("no room"), Compacted("index 4 was dropped")])
@pytest.mark.parametrize("step", ["make_snapshot", "_sum_up"])
def test_failure_is_said_and_tried_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, step: str
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    async def test(sites: Sites, desk: Desk) -> None:
        with monkeypatch.context() as broken:
            broken.setattr(backups, step, fail)
            with pytest.raises(Busy, match="is making"):
                desk.ask()
            await sites.until(lambda: desk.site.counters["backups_failed"], "the failure")
        assert desk.site.files() == []
        with pytest.raises(Busy, match=f"could not make the backup: {error}") as caught:
            desk.ask(now_ns=RETRY_NS - 1)
        assert 0 < caught.value.retry_ms <= 5000
        assert (await desk.first(now_ns=RETRY_NS))[0]["offset"] == 0
        flushed = desk.site.flusher.flushed(GROUP)
        await sites.write(1)
        assert desk.site.flusher.flushed(GROUP) > flushed, "the state is not held any more"

    drive(tmp_path, test)


def test_file_that_cannot_be_read_any_more_is_given_up(tmp_path: Path) -> None:
    async def test(sites: Sites, desk: Desk) -> None:
        await desk.first()
        kept = desk.backups._kept
        assert kept is not None
        kept.file.close()
        kept.file = (tmp_path / "write-only").open("wb")
        with pytest.raises(Busy, match="it cannot be read"):
            desk.ask(len(kept.head))
        assert desk.site.files() == []
        assert desk.site.counters["backups_failed"] == 1

    drive(tmp_path, test)


def test_state_that_is_being_replaced_is_not_backed_up(tmp_path: Path) -> None:
    async def test(sites: Sites, desk: Desk) -> None:
        desk.site.snapshots._installing.add(GROUP)
        with pytest.raises(Busy, match="is making"):
            desk.ask()
        await sites.until(lambda: desk.site.counters["backups_failed"], "the failure")
        with pytest.raises(Busy, match="the state is being replaced"):
            desk.ask()
        desk.site.snapshots._installing.clear()

    drive(tmp_path, test)


def test_node_that_ends_while_it_makes_a_backup_leaves_no_files(tmp_path: Path) -> None:
    async def test(sites: Sites, desk: Desk) -> None:
        with pytest.raises(Busy, match="is making"):
            desk.ask()
        await asyncio.sleep(0)

    drive(tmp_path, test)
