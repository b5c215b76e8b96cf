"""The steps that the hot paths are made of, each as a function that does it and says how often and how long.

What a compiled module does is called through the switch that the product uses, so the same case measures either half. Set-up,
and what must be put back between two steps, is outside the time. Nothing here decides how often a step is taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from random import Random
from select import select
from typing import NamedTuple

import zmq

from bench.plan import SEED
from tests.processes import free_ports
from zmqbroker.raft.config import RaftConfig
from zmqbroker.raft.core import RaftCore
from zmqbroker.raft.membership import Membership
from zmqbroker.raft.messages import Entry, HardState, Message, MessageType, Snapshot, StorageAppend
from zmqbroker.server.sockets import ClientPort
from zmqbroker.storage.lmdb_environment import LmdbEnvironment
from zmqbroker.storage.segment_log import SegmentLog
from zmqbroker.storage.writer import ROOM_RETRY_S, LogWriter
from zmqbroker.wire.codec import crc32c, decode_batch, encode_batch, read_batch

__all__ = ["CASES", "Step", "Taken"]


class Taken(NamedTuple):
    """What one step was."""

    done: int  # operations
    ns: int


Step = Callable[[], Taken]
Case = Callable[[Path], AbstractContextManager[Step]]

BODIES = [Random(SEED).randbytes(128) for _ in range(64)]
PAYLOAD = Random(SEED).randbytes(64 << 10)
_REPEAT = 100
#: Messages of one drain: what a node takes in a pass.
_DRAIN_COUNT = 256
_CHANGES = 1_000
_WAIT_S = 10.0


def _repeated(work: Callable[[], object], per_call: int = 1) -> Step:
    """A step that does something a hundred times."""

    def step() -> Taken:
        started_ns = time.perf_counter_ns()
        for _ in range(_REPEAT):
            work()
        return Taken(_REPEAT * per_call, time.perf_counter_ns() - started_ns)

    return step


# --- codec -----------------------------------------------------------------------------------------------------------


@contextmanager
def encode(_: Path) -> Iterator[Step]:
    """A batch of 64 bodies of 128 B, with its checksum."""
    yield _repeated(lambda: encode_batch(b"channel", BODIES, 7, 1))


@contextmanager
def decode(_: Path) -> Iterator[Step]:
    """The same batch into its bodies, checked."""
    frame = encode_batch(b"channel", BODIES, 7, 1)
    yield _repeated(lambda: decode_batch(frame))


@contextmanager
def read(_: Path) -> Iterator[Step]:
    """What a node does with the same batch: its header checked and read, the bodies left alone."""
    frame = encode_batch(b"channel", BODIES, 7, 1)
    yield _repeated(lambda: read_batch(frame))


@contextmanager
def checksum(_: Path) -> Iterator[Step]:
    """crc32c of 64 KiB."""
    yield _repeated(lambda: crc32c(PAYLOAD))


# --- sockets ---------------------------------------------------------------------------------------------------------


@contextmanager
def _port() -> Iterator[tuple[ClientPort, zmq.Socket[bytes]]]:
    """The socket that clients connect to, and a client."""
    contexts = zmq.Context[zmq.Socket[bytes]](), zmq.Context[zmq.Socket[bytes]]()
    endpoint = f"tcp://127.0.0.1:{free_ports(1)[0]}"
    port, client = ClientPort(contexts[0], [endpoint]), contexts[1].socket(zmq.DEALER)
    client.connect(endpoint)
    try:
        yield port, client
    finally:
        port.close()
        client.close(0)
        for context in contexts:
            context.term()


def _arrive(port: ClientPort, count: int, taken: list[list[bytes]]) -> None:
    """Drain until so many messages have been taken."""
    end_s = time.monotonic() + _WAIT_S
    while len(taken) < count:
        taken += port.drain(count - len(taken))
        assert time.monotonic() < end_s, f"{len(taken)} of {count} messages came in {_WAIT_S:g} s"


@contextmanager
def drain(_: Path) -> Iterator[Step]:
    """A message of two frames (28 and 128 B) out of the client socket, 256 of them waiting."""
    with _port() as (port, client):
        header = bytes(28)

        def step() -> Taken:
            for number in range(_DRAIN_COUNT):
                client.send_multipart([header, BODIES[number % 64]])
            time.sleep(0.005)  # they arrive: waiting for it by looking would take some of them
            started_ns = time.perf_counter_ns()
            taken = port.drain(_DRAIN_COUNT)
            spent = Taken(len(taken), time.perf_counter_ns() - started_ns)
            _arrive(port, _DRAIN_COUNT, taken)
            return spent

        yield step


@contextmanager
def send(_: Path) -> Iterator[Step]:
    """A reply of one frame of 80 B into the client socket, 256 of them in turn."""
    with _port() as (port, client):
        client.setsockopt(zmq.RCVTIMEO, int(1000 * _WAIT_S))
        client.send_multipart([b"hello"])
        first: list[list[bytes]] = []
        _arrive(port, 1, first)
        routing_id, reply = first[0][0], bytes(80)

        def step() -> Taken:
            started_ns = time.perf_counter_ns()
            for _ in range(_DRAIN_COUNT):
                port.send(routing_id, [reply])
            spent = Taken(_DRAIN_COUNT, time.perf_counter_ns() - started_ns)
            for _ in range(_DRAIN_COUNT):
                client.recv()
            port.readable()  # as a node looks: libzmq learns by it that the client has read
            return spent

        yield step


# --- log and store ---------------------------------------------------------------------------------------------------


@contextmanager
def log(directory: Path, payload_bytes: int) -> Iterator[Step]:
    """One pass with one entry, encoded and written to the page cache, and shown; the log is let go as it grows."""
    opened = SegmentLog.open(directory / "log", sync=False)
    payload, index = PAYLOAD[:payload_bytes], 0

    def step() -> Taken:
        nonlocal index
        started_ns = time.perf_counter_ns()
        for _ in range(10):
            index += 1
            job = opened.prepare([StorageAppend(1, (Entry(index, 1, payload),), HardState(1, 1, index - 1))])
            job.write()
            opened.complete(job)
        spent = Taken(10, time.perf_counter_ns() - started_ns)
        opened.trim(1, index)
        opened.housekeep()
        return spent

    try:
        yield step
    finally:
        opened.close()


@contextmanager
def hand_over(directory: Path) -> Iterator[Step]:
    """One pass with an entry of 1 KiB to the writer's thread and back, synced: one at a time, as a lone request waits."""
    opened = SegmentLog.open(directory / "log", sync=True)
    done: list[object] = []

    def fail(error: BaseException) -> None:
        raise error

    writer = LogWriter(done.extend, fail, lambda: None, lambda _: None, retry_s=ROOM_RETRY_S)
    index = 0

    def step() -> Taken:
        nonlocal index
        index += 1
        job = opened.prepare([StorageAppend(1, (Entry(index, 1, PAYLOAD[:1024]),), HardState(1, 1, index - 1), must_sync=True)])
        done.clear()
        started_ns = time.perf_counter_ns()
        writer.submit(job)
        while not done:
            assert select([writer.descriptor], [], [], _WAIT_S)[0], "the writer does not answer"
            writer.collect()
        spent = Taken(1, time.perf_counter_ns() - started_ns)
        opened.complete(job)
        return spent

    try:
        yield step
    finally:
        writer.close()
        opened.close()


@contextmanager
def store_write(directory: Path) -> Iterator[Step]:
    """A key of 16 B with 100 B, in a transaction of a thousand that is not synced."""
    environment = LmdbEnvironment.open(directory / "store", b"bench---", sync=False)
    number = 0

    def step() -> Taken:
        nonlocal number
        number += 1
        changes: list[tuple[bytes, bytes | None]] = [
            (b"%08d%08d" % (number % 20, key), PAYLOAD[key : key + 100]) for key in range(_CHANGES)
        ]
        started_ns = time.perf_counter_ns()
        environment.write(changes)
        return Taken(_CHANGES, time.perf_counter_ns() - started_ns)

    try:
        yield step
    finally:
        environment.close()


@contextmanager
def store_read(directory: Path) -> Iterator[Step]:
    """A key of 16 B with 100 B, one at a time out of ten thousand, checked."""
    environment = LmdbEnvironment.open(directory / "store", b"bench---", sync=False)
    keys = [b"%016d" % number for number in range(10 * _CHANGES)]
    environment.write([(key, PAYLOAD[:100]) for key in keys])
    chosen = Random(SEED).sample(keys, _REPEAT)

    def step() -> Taken:
        started_ns = time.perf_counter_ns()
        for key in chosen:
            environment.get(key)
        return Taken(_REPEAT, time.perf_counter_ns() - started_ns)

    try:
        yield step
    finally:
        environment.close()


# --- the core --------------------------------------------------------------------------------------------------------


class _Log:
    """A `LogView` that keeps terms and no payloads."""

    def __init__(self) -> None:
        self.state, self.last, self.last_term = HardState(), 0, 0

    def hard_state(self) -> HardState:
        return self.state

    def first_index(self) -> int:
        return 1

    def last_index(self) -> int:
        return self.last

    def term(self, index: int) -> int:
        return self.last_term if index else 0

    def entries(self, low: int, high: int, size_max: int) -> tuple[Entry, ...]:
        return tuple(Entry(index, self.last_term, b"x" if index > 1 else b"") for index in range(low, high))

    def snapshot(self) -> Snapshot | None:
        return None

    def write(self, work: StorageAppend) -> None:
        """Keep what a work says."""
        self.state = work.hard_state or self.state
        if work.entries:
            self.last, self.last_term = work.entries[-1].index, work.entries[-1].term


def _settle(core: RaftCore, log: _Log) -> None:
    """Do what a shell does until there is nothing to do."""
    while core.has_ready():
        ready = core.ready()
        if ready.committed:
            core.applied_to(ready.committed[-1].index)
        if ready.append is not None:
            log.write(ready.append)
            core.advance(ready.append)


def _answer(core: RaftCore, log: _Log, kind: MessageType, term: int, index: int = 0) -> None:
    for follower in (2, 3):
        core.step(Message(kind, to=1, sender=follower, group=1, term=term, index=index))
        _settle(core, log)


@contextmanager
def core(_: Path) -> Iterator[Step]:
    """A leader of three: one proposal, from propose to applied, with both followers' answers."""
    view = _Log()
    leader = RaftCore(RaftConfig(id=1, group=1), Membership((1, 2, 3)), view, Random(SEED))
    leader.campaign()
    _settle(leader, view)
    _answer(leader, view, MessageType.PRE_VOTE_RESPONSE, leader.term + 1)
    _answer(leader, view, MessageType.REQUEST_VOTE_RESPONSE, leader.term)
    _answer(leader, view, MessageType.APPEND_ENTRIES_RESPONSE, leader.term, 1)

    def once() -> None:
        index = leader.propose(b"x")
        _settle(leader, view)
        _answer(leader, view, MessageType.APPEND_ENTRIES_RESPONSE, leader.term, index)

    once()
    assert leader.applied_index == view.last, (leader.applied_index, view.last)
    yield _repeated(once)


#: Name -> case; a name holds its parameters.
CASES: dict[str, Case] = {
    "codec-encode-64x128B": encode,
    "codec-decode-64x128B": decode,
    "codec-read-64x128B": read,
    "crc32c-64KiB": checksum,
    "drain-2-frames-128B": drain,
    "send-1-frame-80B": send,
    "log-prepare-write-1KiB": lambda directory: log(directory, 1 << 10),
    "log-prepare-write-64KiB": lambda directory: log(directory, 64 << 10),
    "log-writer-synced-1KiB": hand_over,
    "store-write-100B-of-1000": store_write,
    "store-read-100B": store_read,
    "core-propose-to-applied": core,
}
