"""Between the loop and the log: held works keep their order."""

from __future__ import annotations

import asyncio

from zmqbroker.raft.messages import Entry, StorageAppend
from zmqbroker.server.log_pipeline import LogPipeline
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
