"""Between the loop and the log: held works keep their order, and works that find no room wait without an answer."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from zmqbroker.raft.messages import Entry, StorageAppend
from zmqbroker.server.log_pipeline import LogPipeline
from zmqbroker.storage import SegmentLog
from zmqbroker.storage.disk import OsDisk
from zmqbroker.storage.memory import MemoryLog


def pipeline(log: MemoryLog) -> LogPipeline:
    """One that writes at once, as ephemeral nodes do."""
    loop = asyncio.new_event_loop()
    loop.close()
    return LogPipeline(log, loop, sync=False, housekeep=lambda: None, on_durable=lambda: None, on_failure=print)


def work(group: int, index: int) -> StorageAppend:
    return StorageAppend(group, (Entry(index, 1, b""),), must_sync=True)


def test_pipeline_works_of_a_held_group_wait_and_come_in_their_order() -> None:
    log = MemoryLog()
    pipe = pipeline(log)
    first, second, third, fourth, other = work(1, 1), work(1, 2), work(1, 3), work(1, 4), work(2, 1)
    pipe.submit([first])
    pipe.hold(1)
    pipe.submit([second, other])
    pipe.submit([third])
    assert pipe.take_durable() == [first, other]
    assert (log.view(1).last_index(), log.view(2).last_index()) == (1, 1)
    pipe.release(1)
    pipe.submit([fourth])
    assert pipe.take_durable() == [second, third, fourth]
    assert log.view(1).last_index() == 4


def test_pipeline_held_twice_keeps_what_waits_already() -> None:
    pipe = pipeline(MemoryLog())
    first, second = work(1, 1), work(1, 2)
    pipe.hold(1)
    pipe.submit([first])
    pipe.hold(1)
    pipe.submit([second])
    pipe.release(1)
    assert pipe.take_durable() == [first, second]


def test_pipeline_release_of_a_group_that_has_nothing_waiting_does_nothing() -> None:
    pipe = pipeline(MemoryLog())
    pipe.release(1)
    pipe.hold(1)
    pipe.release(1)
    pipe.submit([work(1, 1)])
    assert len(pipe.take_durable()) == 1


class FullDisk(OsDisk):
    """The operating system's files, without room for new ones as long as somebody says so."""

    full = True

    def allocate(self, descriptor: int, size: int) -> None:
        """See `Disk`."""
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().allocate(descriptor, size)


class Waiting:
    """A pipeline on a real log without room, and what it told."""

    def __init__(self, directory: Path, *, sync: bool, loop: asyncio.AbstractEventLoop) -> None:
        self.disk = FullDisk()
        self.log = SegmentLog.open(directory, sync=sync, segment_bytes=64 << 10, disk=self.disk)
        self.failures: list[BaseException] = []
        self.changed = asyncio.Event()
        self.pipe = LogPipeline(
            self.log,
            loop,
            sync=sync,
            housekeep=self.log.housekeep,
            on_durable=self.changed.set,
            on_failure=self.failures.append,
        )
        self.durable: list[StorageAppend] = []

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait, looking again whenever something became durable or the loop has turned."""
        while not condition():
            await asyncio.sleep(0)
            self.durable += self.pipe.take_durable()

    def close(self) -> None:
        """Close both."""
        self.pipe.close()
        self.log.close()


@pytest.fixture
def short_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pace, a thousand times as fast."""
    monkeypatch.setattr("zmqbroker.server.log_pipeline.ROOM_RETRY_S", 0.0005)


@pytest.mark.usefixtures("short_retry")
@pytest.mark.parametrize("sync", [False, True])
def test_pipeline_without_room_tells_nobody_and_goes_on_when_there_is(tmp_path: Path, sync: bool) -> None:
    async def run() -> None:
        waiting = Waiting(tmp_path, sync=sync, loop=asyncio.get_running_loop())
        works = [work(1, index) for index in range(1, 6)]
        for one in works[:3]:
            waiting.pipe.submit([one])
        await waiting.until(lambda: waiting.pipe.out_of_room)
        waiting.pipe.submit([works[3]])
        assert (waiting.durable, waiting.log.view(1).last_index()) == ([], 0)
        waiting.disk.full = False
        await waiting.until(lambda: len(waiting.durable) == 4)
        await waiting.until(lambda: not waiting.pipe.out_of_room)
        assert waiting.changed.is_set()
        waiting.pipe.submit([works[4]])
        await waiting.until(lambda: len(waiting.durable) == 5)
        assert (waiting.durable, waiting.failures) == (works, [])
        waiting.close()

    asyncio.run(run())
    reopened = SegmentLog.open(tmp_path, sync=sync, segment_bytes=64 << 10)
    assert reopened.view(1).last_index() == 5
    reopened.close()


@pytest.mark.parametrize("sync", [False, True])
def test_pipeline_without_room_closes(tmp_path: Path, sync: bool) -> None:
    async def run() -> None:
        waiting = Waiting(tmp_path, sync=sync, loop=asyncio.get_running_loop())
        waiting.pipe.submit([work(1, 1)])
        await waiting.until(lambda: waiting.pipe.out_of_room)
        waiting.close()
        assert waiting.durable == []

    asyncio.run(run())
    reopened = SegmentLog.open(tmp_path, sync=sync, segment_bytes=64 << 10)
    assert reopened.view(1).last_index() == 0
    reopened.close()


def test_pipeline_counts_how_long_each_job_took() -> None:
    pipe = pipeline(MemoryLog())
    assert pipe.durations.fields()["count"] == 0
    pipe.submit([work(1, 1), work(2, 1)])
    pipe.submit([work(1, 2)])
    assert pipe.durations.fields()["count"] == 2
