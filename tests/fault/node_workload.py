"""A follower's work that can be told again: `python -m tests.fault.node_workload DIRECTORY [SEED STEPS [MODULE:FUNCTION]]`.

Without a seed it only starts, on what is in the directory, and ends. What is begun and what has left the follower is written to
DIRECTORY/marks, so that it stands between the system calls that a tracer sees. The function, if one is named, puts a defect
into the product first (tests/mutants).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path

import pytest

from tests.fault.leader_script import Script
from tests.fault.lone_follower import Follower, make_small
from zmqbroker.raft.messages import Message, MessageType

__all__ = ["MARKS"]

MARKS = "marks"


class _Marks:
    """The file of marks, one JSON array a line."""

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory / MARKS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, *mark: str | int) -> None:
        """Something happens after this, or has happened."""
        os.write(self._descriptor, json.dumps(mark).encode() + b"\n")

    def left(self, message: Message) -> None:
        """A message leaves the follower: the term in it, and the entries or the vote that it speaks of, are durable."""
        if message.type is MessageType.APPEND_ENTRIES_RESPONSE:
            self.note("holds", message.term, message.index)
        elif message.type is MessageType.REQUEST_VOTE_RESPONSE:
            self.note("voted", message.term, message.to)


async def _work(directory: Path, script: Script, marks: _Marks) -> None:
    follower = Follower(directory, marks.left)
    marks.note("formed")

    async def flush() -> None:
        marks.note("flushed", await follower.flush())

    beside: list[asyncio.Task[None]] = []
    for number, step in enumerate(script.steps):
        marks.note("begins", number)
        if step.restarts:
            await asyncio.gather(*beside)
            await follower.close(orderly=False)
            follower = Follower(directory, marks.left)
            continue
        if step.flush == "beside":
            beside.append(asyncio.ensure_future(flush()))
        await follower.take(step)
        if step.flush == "after":
            await flush()
    await asyncio.gather(*beside)
    await flush()
    await follower.close(orderly=True)


async def _start(directory: Path) -> None:
    await Follower(directory, lambda _message: None).close(orderly=False)


def main(place: str, seed: str = "", steps: str = "", defect: str = "") -> None:
    """Do the work."""
    make_small()
    directory = Path(place)
    if not seed:
        asyncio.run(_start(directory))
        return
    with pytest.MonkeyPatch.context() as patch:
        if defect:
            module, _, name = defect.partition(":")
            getattr(import_module(module), name)(patch)
        asyncio.run(_work(directory, Script(int(seed), int(steps)), _Marks(directory)))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # the log's thread would keep the process
