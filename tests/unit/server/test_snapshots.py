"""A node that stayed away gets a snapshot, whatever happens on the way: whole nodes on real files, in one process."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.unit.server.snapshot_scenes import ack, assert_caught_up, drive, failing, installed, left_behind
from tests.unit.server.snapshot_sites import GROUP, Cut, Site, Sites
from zmqbroker.errors import Corruption, StorageError
from zmqbroker.server import snapshot_keeping, snapshot_making, snapshot_transfer, snapshots
from zmqbroker.server.membership import membership_of
from zmqbroker.server.snapshot_receiving import read_snapshot
from zmqbroker.wire.peer import PeerKind

READ = "zmqbroker.server.snapshots.read_snapshot"


def kept_at(site: Site) -> Path:
    """The file of the snapshot that a node keeps."""
    kept = site.snapshots._kept.get(GROUP)
    assert kept is not None
    return kept.path


def test_node_left_behind_gets_a_snapshot_and_goes_on_with_it(tmp_path: Path) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        sites[3].open()
        await sites.until(lambda: installed(sites), "a snapshot")
        await sites.settle()
        assert_caught_up(sites, sites[3])
        assert sites[1].counters["snapshots_made"] == sites[1].counters["snapshots_sent"] == 1
        assert (sites[3].files(), sites[1].network.bulk) == ([], set())
        first_index = sites[3].log.view(GROUP).first_index()
        await sites.write(20)
        await sites[3].stop()
        sites[3].open()
        await sites.write(3)
        assert sites[3].log.view(GROUP).first_index() == first_index
        assert_caught_up(sites, sites[3])
        await sites.lead(3)
        await ack(sites, 25)  # messages whose bodies came with the snapshot, some of them
        await sites.write(3)
        assert len(sites.digests()) == 1

    drive(tmp_path, test)


def cut_in(site: Site, step: str) -> None:
    """Let a node be cut off at a step of an install."""
    log, state, node = site.log, site.state, site.node

    def cut(*_: Any, **__: Any) -> Any:
        raise Cut(step)

    async def cut_soon(*_: Any) -> None:
        cut()

    def then_cut(real: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: (real(*arguments), cut())

    if step == "received":
        site.snapshots._check = cut_soon  # type: ignore
    elif step == "some bodies stored":
        put_bodies = state.put_bodies
        state.put_bodies = lambda group, bodies: (put_bodies(group, islice(bodies, 10)), cut())  # type: ignore
    elif step == "bodies stored":
        state.put_bodies = then_cut(state.put_bodies)  # type: ignore[method-assign]
    elif step == "taken":
        state.install = cut  # type: ignore[method-assign]
    elif step == "state replaced":
        state.install = then_cut(state.install)  # type: ignore[method-assign]
    elif step == "log prepared":
        node._pipeline.release = cut  # type: ignore[method-assign]
    else:
        prepare, advance = log.prepare, node.groups[GROUP].advance

        def spying(works: Any) -> Any:
            if any(work.snapshot is not None for work in works):
                if step == "log written":
                    log.complete = cut  # type: ignore[method-assign]
                else:
                    node.groups[GROUP].advance = cut if step == "log shown" else then_cut(advance)  # type: ignore
            return prepare(works)

        log.prepare = spying  # type: ignore[method-assign]


STEPS = [
    "received",
    "some bodies stored",
    "bodies stored",
    "taken",
    "state replaced",
    "log prepared",
    "log written",
    "log shown",
    "core advanced",
]


@pytest.mark.parametrize("step", STEPS)
def test_install_cut_at_any_step_is_finished_or_begun_anew(tmp_path: Path, step: str) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        third = sites[3]
        third.open()
        applied_before = third.state.applied_index(GROUP)
        cuts: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: cuts.append(context["exception"]))
        cut_in(third, step)
        while not cuts:
            try:
                await sites.tick()
            except Cut as error:
                cuts.append(error)
        assert [str(error) for error in cuts[:1]] == [step]
        await third.kill()
        await sites.write(5)

        third.open()
        index, _ = third.state.installed(GROUP)
        replaced = STEPS.index(step) >= STEPS.index("state replaced")
        assert (index > 0) == replaced
        assert third.state.applied_index(GROUP) == (index if replaced else applied_before)
        core, view = third.group.core, third.log.view(GROUP)
        assert core.applied_index == third.group.machine.applied_index == third.state.applied_index(GROUP)
        assert core.membership == membership_of(third.group.machine.roster)
        if replaced:
            assert (view.first_index(), view.last_index()) == (index + 1, index)
        assert third.files() == []

        await sites.until(lambda: sites.equal, "node 3 catches up")
        assert (third.counters["snapshots_installed"] == 1) == (not replaced)
        await sites.write(5)
        assert_caught_up(sites, third)
        machine = third.group.machine
        assert all(machine.is_live(stored) for stored in third.state.body_indexes(GROUP)), "what nobody needs was dropped"

    drive(tmp_path, test)


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_transfer_cut_by_the_end_of_the_receiver_begins_anew(tmp_path: Path) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        third = sites[3]
        third.open()
        await sites.until(lambda: third.files(), "a part of the snapshot")
        assert not third.counters["snapshots_installed"]
        await third.kill()
        await sites.tick()
        third.open()
        assert third.files() == []
        await sites.until(lambda: installed(sites), "a snapshot")
        await sites.settle()
        assert_caught_up(sites, third)

    drive(tmp_path, test)


@pytest.mark.parametrize("killed", [False, True])
def test_transfer_cut_by_the_end_of_the_leadership_is_begun_anew_by_the_next(tmp_path: Path, killed: bool) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        third = sites[3]
        third.open()
        await sites.until(lambda: third.files(), "a part of the snapshot")
        if killed:
            await sites[1].kill()
        else:
            sites[1].group.core.transfer_leader(2)
        await sites.until(lambda: sites[2].group.leading, "another leader")
        await sites.until(lambda: installed(sites), "a snapshot")
        assert sites[2].counters["snapshots_made"] == 1
        if killed:
            sites[1].open()
        await sites.settle()
        assert_caught_up(sites, third)
        assert (sites[1].network.bulk, sites[2].network.bulk) == (set(), set())
        assert third.files() == []

    drive(tmp_path, test)


def test_transfer_over_links_that_lose_frames_arrives(tmp_path: Path) -> None:
    async def test(sites: Sites) -> None:
        chance = random.Random(3)
        await left_behind(sites)
        sites.loses = lambda _sender, _to, frame: isinstance(frame, tuple) and chance.random() < 0.3
        sites[3].open()
        await sites.until(lambda: installed(sites), "a snapshot")
        await sites.settle()
        assert_caught_up(sites, sites[3])

    drive(tmp_path, test)


def test_chunk_that_is_damaged_is_counted_and_sent_again(tmp_path: Path) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        damaged: list[int] = []

        def damage(_sender: int, _to: int, frame: Any) -> bool:
            if isinstance(frame, tuple) and frame[0] is PeerKind.SNAPSHOT and not damaged:
                damaged.append(frame[2]["offset"])
                frame[3][0] = frame[3][0][:-1] + bytes([frame[3][0][-1] ^ 1])
            return False

        sites.loses = damage
        sites[3].open()
        await sites.until(lambda: installed(sites), "a snapshot")
        assert (damaged, sites[3].counters["peer_frames_dropped_bad_snapshot"]) == ([0], 1)
        await sites.settle()
        assert_caught_up(sites, sites[3])

    drive(tmp_path, test)


def test_snapshot_that_is_damaged_as_a_whole_is_made_anew(tmp_path: Path) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        sites.loses = lambda _sender, _to, frame: isinstance(frame, tuple)  # until it lies on the leader's disk
        sites[3].open()
        await sites.until(lambda: sites[1].snapshots._kept.get(GROUP), "a snapshot that is to be sent")
        path = kept_at(sites[1])
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        sites.loses = lambda *_: False
        await sites.until(lambda: installed(sites), "another snapshot")
        assert sites[3].counters["snapshots_failed"] == 1
        assert (sites[1].counters["snapshots_made"], sites[1].counters["snapshots_given_up"]) == (2, 1)
        await sites.settle()
        assert_caught_up(sites, sites[3])
        assert sites[3].files() == []

    drive(tmp_path, test)


@pytest.mark.parametrize("what", ["opened", "read"])
def test_snapshot_that_cannot_be_read_any_more_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        first = sites[1]
        if what == "read":
            broken = failing(snapshot_transfer.Outgoing.chunks, OSError(5, "input/output error"))
            monkeypatch.setattr(snapshot_transfer.Outgoing, "chunks", lambda self, now_ns: broken(self, now_ns))
        else:
            sent = first.snapshots.send

            def without_file(message: Any, now_ns: int) -> None:
                if first.counters["snapshots_made"] == 1:
                    kept_at(first).unlink()
                sent(message, now_ns)

            first.snapshots.send = without_file  # type: ignore[method-assign]
        sites[3].open()
        await sites.until(lambda: installed(sites), "a snapshot")
        assert first.counters["snapshots_made"] == 2
        await sites.settle()
        assert_caught_up(sites, sites[3])
        assert first.failures == []

    drive(tmp_path, test)


def test_making_that_fails_leaves_nothing_behind_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        full = failing(snapshot_making._write_bodies, OSError(28, "no space left"), times=2)
        monkeypatch.setattr(snapshot_making, "_write_bodies", full)
        sites[3].open()
        await sites.until(lambda: sites[1].counters["snapshots_failed"] == 2, "two failures")
        assert len(sites[1].files()) <= 1
        await sites.until(lambda: installed(sites), "a snapshot")
        assert len(sites[1].files()) == 1, "the one that is kept"
        await sites.write(5)
        assert sites[1].flusher.flushed(GROUP) == sites[1].group.machine.applied_index, "the state is flushed again"
        assert_caught_up(sites, sites[3])
        assert sites[1].failures == []

    drive(tmp_path, test)


def test_making_that_fails_is_not_tried_again_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        monkeypatch.setattr(snapshots, "RETRY_NS", 1 << 60)
        monkeypatch.setattr(snapshot_making, "_write_bodies", failing(lambda *_: None, OSError(28, "no space left")))
        sites[3].open()
        await sites.until(lambda: sites[1].counters["snapshots_failed"], "a failure")
        for _ in range(100):
            await sites.tick()
        assert (sites[1].counters["snapshots_failed"], sites[1].counters["snapshots_made"]) == (1, 0)

    drive(tmp_path, test)


def test_check_that_cannot_read_the_file_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        monkeypatch.setattr(READ, failing(read_snapshot, OSError(5, "input/output error")))
        sites[3].open()
        await sites.until(lambda: installed(sites), "a snapshot")
        assert sites[3].counters["snapshots_failed"] == 1
        assert sites[1].counters["snapshots_made"] == 1
        await sites.settle()
        assert_caught_up(sites, sites[3])

    drive(tmp_path, test)


def test_snapshot_of_a_damaged_store_is_not_tried_again_and_again(tmp_path: Path) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        error = Corruption("damaged")
        sites[1].state.load = failing(lambda *_: None, error)  # type: ignore[method-assign]
        sites[3].open()
        await sites.until(lambda: sites[1].failures, "a failure")
        assert sites[1].failures == [error]

    drive(tmp_path, test)


@pytest.mark.parametrize("error", [StorageError("full"), OSError(5, "input/output error"), Corruption("damaged")])
def test_install_that_fails_ends_the_node(tmp_path: Path, error: Exception) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        sites[3].open()
        sites[3].state.install = failing(lambda *_: None, error)  # type: ignore[method-assign]
        await sites.until(lambda: sites[3].failures, "a failure")
        assert sites[3].failures == [error]
        assert sites[3].group.machine.applied_index < 10, "nothing was put in the place of the state"

    drive(tmp_path, test)


def test_check_that_takes_long_costs_no_second_transfer(tmp_path: Path) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        third = sites[3]
        third.open()
        allowed, job = asyncio.Event(), third.flusher.job

        async def slow(work: Any) -> Any:
            if getattr(work, "func", None) is read_snapshot:
                await allowed.wait()
            return await job(work)

        third.flusher.job = slow  # type: ignore[method-assign]
        await sites.until(lambda: third.snapshots._checking, "all of the snapshot")
        for _ in range(300):
            await sites.tick()
        assert sites[1].snapshots._outgoing, "the sender waits for what comes of it"
        allowed.set()
        await sites.until(lambda: installed(sites), "a snapshot")
        await sites.settle()
        assert_caught_up(sites, third)
        sent = sites[1].counters
        assert (sent["snapshots_made"], sent["snapshots_sent"], sent["snapshots_given_up"]) == (1, 1, 0)

    drive(tmp_path, test)


def test_snapshot_that_nobody_is_sent_any_more_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        sites[3].open()
        await sites.until(lambda: installed(sites), "a snapshot")
        assert len(sites[1].files()) == 1
        monkeypatch.setattr(snapshot_keeping, "KEEP_NS", -1)
        await sites.until(lambda: not sites[1].files(), "an empty directory")
        assert (sites[1].log.offered(GROUP), sites[1].flusher._pins) == (None, {})

    drive(tmp_path, test)


def test_transfer_whose_sender_is_silent_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        sites[3].open()
        await sites.until(lambda: sites[3].files(), "a part of the snapshot")
        sites.loses = lambda _sender, _to, frame: isinstance(frame, tuple)
        monkeypatch.setattr(snapshots, "FORGET_NS", -1)
        await sites.until(lambda: not sites[3].files(), "an empty directory")

    drive(tmp_path, test)


def test_node_that_ends_in_order_leaves_no_files(tmp_path: Path) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        sites[3].open()
        await sites.until(lambda: sites[3].files(), "a part of the snapshot")
        assert len(sites[1].files()) == 1
        for number in (1, 3):
            await sites[number].stop()
            assert sites[number].files() == []

    drive(tmp_path, test)


def test_node_that_ends_while_it_makes_a_snapshot_leaves_no_files(tmp_path: Path) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        sites[3].open()
        job, never = sites[1].flusher.job, asyncio.Event()

        async def stuck(work: Any) -> Any:
            if getattr(work, "func", None) is snapshot_making._write_bodies:
                await never.wait()
            return await job(work)

        sites[1].flusher.job = stuck  # type: ignore[method-assign]
        await sites.until(lambda: sites[1].files(), "a part of a snapshot")
        await sites[1].stop()
        assert sites[1].files() == []

    drive(tmp_path, test)


def test_snapshot_made_by_a_node_that_leads_no_more_is_thrown_away(tmp_path: Path) -> None:
    async def test(sites: Sites) -> None:
        await left_behind(sites)
        sites[3].open()
        first = sites[1]
        job, allowed = first.flusher.job, asyncio.Event()

        async def slow(work: Any) -> Any:
            if getattr(work, "func", None) is snapshot_making._write_bodies:
                await allowed.wait()
            return await job(work)

        first.flusher.job = slow  # type: ignore[method-assign]
        await sites.until(lambda: first.files(), "a part of a snapshot")
        first.group.core.transfer_leader(2)
        await sites.until(lambda: installed(sites), "the next leader's snapshot")
        allowed.set()
        await sites.until(lambda: not first.snapshots._making, "the end of the first one")
        assert (first.files(), first.log.offered(GROUP), first.counters["snapshots_made"]) == ([], None, 0)
        await sites.write(5)
        assert first.flusher.flushed(GROUP) == first.group.machine.applied_index, "its state is flushed again"
        assert_caught_up(sites, sites[3])

    drive(tmp_path, test)


def test_snapshot_kept_by_a_node_that_gets_one_itself_is_offered_no_more(tmp_path: Path) -> None:
    """The log behind it is gone: whoever were sent it could not go on from there."""

    async def test(sites: Sites) -> None:
        await left_behind(sites)
        sites[3].open()
        await sites.until(lambda: installed(sites), "a snapshot")
        await sites.settle()
        assert kept_at(sites[1])
        sites.loses = lambda sender, to, _frame: 1 in (sender, to)
        await sites.until(lambda: sites.leader in (sites[2], sites[3]), "a leader without node 1")
        cut_off, sites[1].running = sites[1], False
        await sites.write(60)
        await ack(sites, 85)
        await sites.write(30)
        cut_off.running = True
        sites.loses = lambda *_: False
        await sites.until(lambda: cut_off.counters["snapshots_installed"], "a snapshot for node 1")
        assert (cut_off.snapshots._kept.get(GROUP), cut_off.log.offered(GROUP), cut_off.files()) == (None, None, [])
        await sites.settle()
        assert_caught_up(sites, cut_off)

    drive(tmp_path, test)


def test_snapshot_from_a_stranger_or_before_there_is_a_group_is_dropped(tmp_path: Path) -> None:
    async def test(sites: Sites) -> None:
        sites[1].open()
        chunk = snapshot_transfer.Chunk(b"i" * 16, GROUP, 1, 100, 0, b"x")
        for number, uid in enumerate((b"u" * 16, bytes([2]) * 16), start=1):
            frame = (PeerKind.SNAPSHOT, uid, chunk.fields(), [chunk.data])
            sites[1].node.snapshots = None if number == 2 else sites[1].snapshots
            sites[1].node._transfer(frame, 0)
            assert sites[1].counters["peer_frames_dropped_unexpected_snapshot"] == number
        sites[1].node.snapshots = sites[1].snapshots
        other = snapshot_transfer.Chunk(b"i" * 16, 7, 1, 100, 0, b"x")
        sites[1].node._transfer((PeerKind.SNAPSHOT, bytes([2]) * 16, other.fields(), [other.data]), 0)
        assert sites[1].counters["peer_frames_dropped_bad_snapshot"] == 1
        assert sites[1].files() == []

    drive(tmp_path, test)


def test_chunk_of_an_older_term_is_ignored(tmp_path: Path) -> None:
    async def test(sites: Sites) -> None:
        for site in sites.sites.values():
            site.open()
        await sites.lead(1)
        await sites.write(1)
        term = sites[3].group.core.term
        for older, answered in ((1, False), (0, True)):
            chunk = snapshot_transfer.Chunk(b"i" * 16, GROUP, term - older, 100, 0, b"x")
            assert (sites[3].snapshots.on_chunk(1, chunk.fields(), [chunk.data], 0) is not None) == answered

    drive(tmp_path, test)


def test_files_of_an_earlier_process_are_deleted(tmp_path: Path) -> None:
    async def test(sites: Sites) -> None:
        place = sites[1].directory / "snapshots"
        place.mkdir()
        (place / "incoming-1-abc").write_bytes(b"x")
        sites[1].open()
        assert sites[1].files() == []

    drive(tmp_path, test)


def test_directory_of_snapshots_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "snapshots").write_bytes(b"a file")
    parts: tuple[Any, Any, Any, Any] = (None, None, None, None)
    with pytest.raises(StorageError, match="cannot be used for snapshots"):
        snapshots.Snapshots(tmp_path / "snapshots", *parts, Counter(), print)
