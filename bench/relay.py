"""One process of the ceiling: the sockets, bytes and writes of a node, and no broker at all.

`python -m bench.relay` with the fields of `Settings` as one JSON argument. The leader passes what clients send to two followers
and to its own file, and confirms a request when it is written at a majority of the three; a follower writes and answers. There
is no Raft, no state, no checksum and no retry: whatever goes wrong ends the process. The sockets and the writer's thread are
the node's own classes, so their options and costs are the same on both sides of the comparison.
"""

from __future__ import annotations

import gc
import json
import os
import select
import struct
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import zmq

from zmqbroker.server.sockets import ClientPort, PeerLink, PeerPort
from zmqbroker.storage.disk import OS_DISK, write_all
from zmqbroker.storage.interfaces import PlainWrite, WriteJob
from zmqbroker.storage.record import PAYLOAD_OFFSET, aligned
from zmqbroker.storage.writer import ROOM_RETRY_S, InlineWriter, LogWriter
from zmqbroker.wire.frames import Reply, encode_header

__all__ = ["Journal", "Relay", "Settings", "written_at_majority"]

#: Messages drained per socket and pass, as in a node.
DRAIN_COUNT = 256
#: Bodies below this are joined to one frame, as a node joins them to one entry; larger ones travel as they are.
JOIN_BELOW_BYTES = 8192
#: Bytes of a RAFT frame with one AppendEntries of one entry, and with one response (docs/PROTOCOL.md §8).
APPEND_BYTES, RESPONSE_BYTES = 176, 144
#: A node's SENT; bytes 4 to 11 are the request id.
CONFIRM = encode_header(
    Reply.SENT, 0, {"sequence": 1, "count": 1, "time_unix_ns": 1 << 60, "duplicate": False, "confirm": "quorum"}
)
#: What every peer frame begins with: who sends it, and up to which number the sender (or, in an answer, its disk) is.
NUMBERS = struct.Struct("<QQ")
#: Milliseconds between tries to reach a follower that is not up yet.
GREET_MS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """One process. The leader is number 0 and has an endpoint for clients; the others have the number of their peer's port."""

    number: int
    path: str  # of the file to write
    segment_bytes: int
    sync: bool
    client: str  # endpoint for clients; empty at a follower
    peer: str  # endpoint for the other processes
    links: dict[str, str]  # number -> host:port of the processes that this one sends to


@dataclass(slots=True)
class _Write:
    """One pass's bytes; see `interfaces.WriteJob`."""

    descriptor: int
    offset: int
    buffers: Sequence[bytes]
    number: int
    must_sync: bool
    size_bytes: int

    def write(self) -> None:
        write_all(OS_DISK, self.descriptor, self.buffers, self.offset)

    def sync(self) -> None:
        os.fdatasync(self.descriptor)

    def plain(self) -> PlainWrite:
        return self.descriptor, self.offset, list(self.buffers)

    def mark_synced(self) -> None:
        pass


class Journal:
    """A file that was written once with zeros and is written round and round: the cheapest log there can be."""

    def __init__(self, path: Path, size: int, *, sync: bool) -> None:
        self.durable = 0  # number of the last pass that is written, and synced if `sync`
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        for offset in range(0, size, 1 << 20):
            write_all(OS_DISK, self._file, [bytes(min(1 << 20, size - offset))], offset)
        os.fsync(self._file)
        self._size, self._position, self._sync = size, 0, sync
        self._writer: LogWriter | InlineWriter
        self.descriptor = -1  # readable when `collect` may move `durable`; -1: it moves at once
        if sync:
            self._writer = LogWriter(self._finished, self._failed, lambda: None, lambda _: None, retry_s=ROOM_RETRY_S)
            self.descriptor = self._writer.descriptor
        else:
            self._writer = InlineWriter(self._finished, self._failed, lambda: None, lambda _: None)

    def submit(self, number: int, payload: Sequence[bytes]) -> None:
        """Write a pass behind the last one, or at the start of the file when it does not fit behind it."""
        size = aligned(PAYLOAD_OFFSET + sum(map(len, payload)))
        assert size <= self._size, "a pass is larger than the file"
        if self._position + size > self._size:
            self._position = 0
        buffers = [bytes(PAYLOAD_OFFSET), *payload]
        self._writer.submit(_Write(self._file, self._position, buffers, number, self._sync, size))
        self._position += size

    def collect(self) -> None:
        """Take what the writer's thread has done."""
        assert isinstance(self._writer, LogWriter), self._writer
        self._writer.collect()

    def close(self) -> None:
        """Wait for the writes under way and close the file."""
        self._writer.close()
        os.close(self._file)

    def _finished(self, jobs: Sequence[WriteJob]) -> None:
        last = jobs[-1]
        assert isinstance(last, _Write), last
        self.durable = last.number

    def _failed(self, error: BaseException) -> None:
        print(f"the file cannot be written: {error}", file=sys.stderr, flush=True)
        os._exit(1)


class Relay:
    """The leader or a follower."""

    def __init__(self, settings: Settings) -> None:
        self._contexts = (zmq.Context[zmq.Socket[bytes]](), zmq.Context[zmq.Socket[bytes]]())  # peers, clients: as in a node
        self._number = settings.number
        self._journal = Journal(Path(settings.path), settings.segment_bytes, sync=settings.sync)
        self._peers = PeerPort(self._contexts[0], settings.peer)
        self._clients = ClientPort(self._contexts[1], [settings.client]) if settings.client else None
        self._links = {int(number): PeerLink(self._contexts[0], address) for number, address in settings.links.items()}
        self._durable = dict.fromkeys(self._links, -1)  # as each link's process said; -1: not heard of
        self._passes = 0  # number of the last pass; at a follower, of the last that arrived
        self._answered = 0  # number of the last pass that was confirmed, or answered to the leader
        self._waiting: deque[tuple[int, list[tuple[bytes, bytes]]]] = deque()  # pass -> routing and request ids
        self._ready = False

    def run(self) -> None:
        """Serve until standard input ends."""
        poller = select.poll()
        ports: list[ClientPort | PeerPort] = [self._peers]
        if self._clients is not None:
            ports.append(self._clients)
        for descriptor in (sys.stdin.fileno(), self._journal.descriptor, *(port.descriptor for port in ports)):
            if descriptor >= 0:
                poller.register(descriptor, select.POLLIN)
        gc.collect()
        gc.freeze()
        while True:
            self._pass()
            # A send may have swallowed the edge that announces a message.
            if not any(port.readable() for port in ports):
                events = poller.poll(None if self._ready else GREET_MS)
                if any(descriptor == sys.stdin.fileno() for descriptor, _ in events):
                    return
                if any(descriptor == self._journal.descriptor for descriptor, _ in events):
                    self._journal.collect()

    def close(self) -> None:
        """Close file and sockets."""
        self._journal.close()
        for port in (self._peers, self._clients, *self._links.values()):
            if port is not None:
                port.close()
        for context in self._contexts:
            context.term()

    def _pass(self) -> None:
        if not self._ready:
            self._greet()
        for head, *payload in self._peers.drain(DRAIN_COUNT):
            sender, number = NUMBERS.unpack_from(head)
            if self._clients is not None:
                self._durable[sender] = number
            elif payload:
                self._passes = number
                self._journal.submit(number, payload)
            else:
                self._send(sender, self._head(0, RESPONSE_BYTES), [])  # a greeting
        if self._clients is not None:
            self._take(self._clients.drain(DRAIN_COUNT))
            self._confirm(self._clients)
        elif self._journal.durable > self._answered:
            self._answered = self._journal.durable
            self._send(0, self._head(self._answered, RESPONSE_BYTES), [])

    def _greet(self) -> None:
        """Say hello to the followers until all have answered; a follower is ready at once."""
        missing = [number for number, durable in self._durable.items() if durable < 0] if self._clients else []
        for number in missing:
            self._links[number].send([self._head(0, APPEND_BYTES)])
        if not missing:
            self._ready = True
            print("ready", flush=True)

    def _head(self, number: int, size: int) -> bytes:
        return NUMBERS.pack(self._number, number).ljust(size, b"\0")

    def _send(self, number: int, head: bytes, payload: Sequence[bytes]) -> None:
        sent = self._links[number].send([head, *payload])
        assert sent or not self._passes, f"process {number} is gone or does not keep up"

    def _take(self, received: Sequence[Sequence[bytes]]) -> None:
        """What clients sent in one pass, to the followers and then to the file."""
        if not received:
            return
        self._passes += 1
        payload = [frames[2] for frames in received]
        if len(payload[0]) < JOIN_BELOW_BYTES:
            payload = [b"".join(payload)]
        head = self._head(self._passes, APPEND_BYTES)
        for number in self._links:
            self._send(number, head, payload)
        self._journal.submit(self._passes, payload)
        self._waiting.append((self._passes, [(frames[0], frames[1][4:12]) for frames in received]))

    def _confirm(self, clients: ClientPort) -> None:
        """Answer what is written at a majority, this process counted like any other."""
        confirmed = written_at_majority((self._journal.durable, *self._durable.values()))
        while self._waiting and self._waiting[0][0] <= confirmed:
            for routing_id, request_id in self._waiting.popleft()[1]:
                clients.send(routing_id, [CONFIRM[:4] + request_id + CONFIRM[12:]])


def written_at_majority(durable: Sequence[int]) -> int:
    """The highest pass that most of the processes have written, from what each of them has."""
    return sorted(durable)[(len(durable) - 1) // 2]


if __name__ == "__main__":
    relay = Relay(Settings(**json.loads(sys.argv[1])))
    relay.run()
    relay.close()
