"""Readers of an events store, some of them processes, while leaders and readers die, and what must be true of them then.

`faults` finds broken promises; it judges only what a reader could have seen. An ack that ended in an error may have happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from zmqbroker import Client
from zmqbroker.client import Store
from zmqbroker.errors import BrokerError

__all__ = ["Line", "Reader", "Seen", "Storing", "faults"]

STORE = "ledger"
TIMEOUT_MS = 60_000
#: How long the nameless reader may take for what is left, and how often it is looked at.
PATIENCE_S, LOOK_S = 60, 0.02
#: Publishers at the same time, and the pause of each after an event: readers that ack one by one must keep up.
PUBLISHERS, PAUSE_S = 4, 0.015
#: Where the consumers are reset to at the end of a run.
RESET_TO = 5


class Line(NamedTuple):
    """What a reader wrote."""

    what: str  # got, acked or doubtful
    sequence: int
    number: int
    at_ns: int


@dataclass(slots=True)
class Seen:
    """Everything that one run saw."""

    confirmed: dict[int, int] = field(default_factory=dict)  # sequence -> number
    nameless: list[tuple[int, int]] = field(default_factory=list)  # the events of a reader that keeps its own position
    exclusive: list[list[Line]] = field(default_factory=list)  # of each life of a durable reader
    group: list[list[Line]] = field(default_factory=list)  # of each life of each member
    after_reset: list[int] = field(default_factory=list)  # the first sequences after the reset of the exclusive one


def faults(seen: Seen) -> list[str]:
    """Broken promises, a sentence each."""
    found = [*_in_order(seen), *_exclusive(seen), *_group(seen)]
    if seen.after_reset != list(range(RESET_TO, RESET_TO + len(seen.after_reset))):
        found.append(f"after a reset to {RESET_TO} came {seen.after_reset}")
    return found


def _content(seen: Seen, who: str, events: Iterator[tuple[int, int]]) -> Iterator[str]:
    """Every confirmed event is there, as it was confirmed."""
    numbers = dict(events)
    for sequence, number in seen.confirmed.items():
        if numbers.get(sequence) != number:
            yield f"{who} has {numbers.get(sequence)} as event {sequence}, which was confirmed as {number}"


def _in_order(seen: Seen) -> Iterator[str]:
    sequences = [sequence for sequence, _ in seen.nameless]
    for place, sequence in enumerate(sequences, 1):
        if sequence != place:
            yield f"the nameless reader got {sequence} as its event {place}"
            break
    yield from _content(seen, "the nameless reader", iter(seen.nameless))


def _exclusive(seen: Seen) -> Iterator[str]:
    """In order with no gap, and each life goes on behind the last ack of the one before."""
    expected, acked = 1, 0
    for life, lines in enumerate(seen.exclusive, 1):
        begins = True
        for line in lines:
            if line.what != "got":
                acked = max(acked, line.sequence if line.what == "acked" else 0)
                continue
            again = begins and acked < line.sequence < expected
            if line.sequence != expected and not again:
                yield f"life {life} of the durable reader got {line.sequence}, behind {expected - 1} and with {acked} acked"
            expected, begins = line.sequence + 1, False
    got = ((line.sequence, line.number) for lines in seen.exclusive for line in lines if line.what == "got")
    yield from _content(seen, "the durable reader", got)


def _group(seen: Seen) -> Iterator[str]:
    """Nothing is lost, and nothing comes again after its ack."""
    lines = sorted((line for life in seen.group for line in life), key=lambda line: line.at_ns)
    acked: set[int] = set()
    for line in lines:
        if line.what == "acked":
            acked.add(line.sequence)
        elif line.what == "got" and line.sequence in acked:
            yield f"event {line.sequence} came to the group again after its ack"
    yield from _content(seen, "the group", ((line.sequence, line.number) for line in lines if line.what == "got"))


class Reader:
    """One reader's process, life after life."""

    def __init__(self, url: str, kind: str, name: str, directory: Path) -> None:
        self._arguments = [url, STORE, kind, name]
        self._directory = directory
        self._lives: list[Path] = []
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin a life."""
        self._lives.append(self._directory / f"{len(self._lives)}.lines")
        self._directory.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.fault.store_reader", *self._arguments, str(self._lives[-1])]
        self._process = subprocess.Popen(command)

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    @property
    def lives(self) -> list[list[Line]]:
        """What it wrote, life by life; of a line that was cut short nothing."""
        return [_lines(path) for path in self._lives]


def _lines(path: Path) -> list[Line]:
    text = path.read_text() if path.exists() else ""
    words = (line.split() for line in text.splitlines(keepends=True) if line.endswith("\n"))
    return [Line(what, int(sequence), int(number), int(at_ns)) for what, sequence, number, at_ns in words]


class Storing:
    """Publishers and a nameless reader in the test's own event loop; after `stop` the reader ends when it has all."""

    def __init__(self, url: str) -> None:
        self.seen = Seen()
        self._url = url
        self._number = 0
        self._stopping = asyncio.Event()

    @property
    def confirmed(self) -> int:
        """Events confirmed so far."""
        return len(self.seen.confirmed)

    def stop(self) -> None:
        """Publish nothing more."""
        self._stopping.set()

    async def run(self) -> None:
        """Work until `stop`, and until the nameless reader has every confirmed event."""
        async with Client(self._url, timeout_ms=TIMEOUT_MS) as client:
            store = client.store(STORE)
            reading = asyncio.create_task(self._read(store))
            async with asyncio.TaskGroup() as publishers:
                for _ in range(PUBLISHERS):
                    publishers.create_task(self._publish(store))
            for _ in range(int(PATIENCE_S / LOOK_S)):
                if reading.done() or len(self.seen.nameless) >= max(self.seen.confirmed):
                    break
                await asyncio.sleep(LOOK_S)
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading

    async def _publish(self, store: Store) -> None:
        while not self._stopping.is_set():
            self._number += 1
            number = self._number
            try:
                sent = await store.publish(number.to_bytes(8, "big"))
            except BrokerError:
                continue  # it may be there or not
            self.seen.confirmed[sent.sequence] = number
            await asyncio.sleep(PAUSE_S)

    async def _read(self, store: Store) -> None:
        async with store.subscribe(start="first") as events:
            async for event in events:
                self.seen.nameless.append((event.sequence, int.from_bytes(event.body, "big")))
