"""Snapshots of a node's groups: made when a follower needs dropped entries, sent in chunks, received, and installed.

Files are in the directory `snapshots` and never outlive the process. A snapshot is the stored state, which stands still while
it is copied, and the payloads of the entries that still hold a live message. At the receiver the order is: every checksum is
right; the core takes it; the store is replaced in one transaction; only then the log begins anew behind it. A crash between the
last two is mended at the next start (`opening.align`). Source: DESIGN §5, docs/STORAGE.md "Snapshots".
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from zmqbroker.broker import Machine, snapshot
from zmqbroker.errors import BrokerError, Corruption, MalformedFrame
from zmqbroker.raft.messages import Message, MessageType, Snapshot
from zmqbroker.server.persistence import StateFlusher
from zmqbroker.server.snapshot_transfer import Incoming, Outgoing, read_chunk
from zmqbroker.storage.interfaces import LogStore, StateStore
from zmqbroker.storage.snapshot_file import SnapshotHead, SnapshotReader, SnapshotWriter
from zmqbroker.wire.membership import decode_membership

if TYPE_CHECKING:
    from zmqbroker.server.group import Group
    from zmqbroker.server.node import Node

__all__ = ["Snapshots"]

#: Payloads read from the log in one go, so that no pass waits long.
SLICE_BYTES = 4 << 20
#: A snapshot that nobody asks for any more is kept so long; another follower may need it too.
KEEP_NS = 30_000_000_000
#: A transfer whose sender says nothing for so long is forgotten.
FORGET_NS = 30_000_000_000

log = logging.getLogger("zmqbroker")


@dataclass(slots=True)
class _Kept:
    """A snapshot that can be sent."""

    id: bytes
    path: Path
    size: int
    snapshot: Snapshot
    used_ns: int


@dataclass(slots=True)
class _Received:
    """A snapshot that is complete and right, and what was made of it."""

    path: Path
    machine: Machine
    bodies: list[int]
    snapshot: Snapshot


class Snapshots:
    """Both ends of every transfer of one node."""

    def __init__(
        self,
        directory: Path,
        node: Node,
        log: LogStore,
        state: StateStore,
        flusher: StateFlusher,
        counters: Counter[str],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._directory, self._node, self._log, self._state = directory, node, log, state
        self._flusher, self._counters, self._on_failure = flusher, counters, on_failure
        self._kept: dict[int, _Kept] = {}  # by group
        self._making: set[int] = set()  # groups whose snapshot is being made
        self._asked: dict[int, int] = {}  # group -> compacted_probes when it was looked at last
        self._outgoing: dict[tuple[int, int], tuple[Outgoing, BinaryIO]] = {}  # (group, member id)
        self._incoming: dict[int, tuple[Incoming, BinaryIO, Path]] = {}  # by group
        self._received: dict[int, _Received] = {}  # by group, from the last chunk until it is installed
        self._installing: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        directory.mkdir(exist_ok=True)
        for leftover in directory.iterdir():
            leftover.unlink()

    def tick(self, now_ns: int) -> None:
        """Make what is asked for, repeat what was lost, give up what is stuck."""
        for group in self._node.groups.values():
            asked = group.core.compacted_probes
            if group.leading and asked != self._asked.get(group.number, 0) and group.number not in self._making:
                self._start(group.number, self._make(group))
            self._asked[group.number] = asked
        for (number, to), (outgoing, _) in list(self._outgoing.items()):
            if outgoing.failed(now_ns) or not self._node.groups[number].leading:
                self._end_sending(number, to, ok=False)
            else:
                self._send_chunks(number, to, now_ns)
        self._forget(now_ns)

    def _forget(self, now_ns: int) -> None:
        for number, kept in list(self._kept.items()):
            if any(group == number for group, _ in self._outgoing):
                kept.used_ns = now_ns
            elif now_ns - kept.used_ns > KEEP_NS:
                self._withdraw(number)
        for number, (incoming, _, _) in list(self._incoming.items()):
            if now_ns - incoming.heard_ns > FORGET_NS:
                self._drop_incoming(number)

    def _start(self, number: int, work: Awaitable[None]) -> None:
        async def run() -> None:
            try:
                await work
            except (BrokerError, OSError) as error:
                self._counters["snapshots_failed"] += 1
                log.warning("a snapshot of group %d failed: %s", number, error)

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End what is under way; an installation that has begun is finished."""
        installing = bool(self._installing)
        for task in self._tasks:
            if not installing:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for number, to in list(self._outgoing):
            self._outgoing.pop((number, to))[1].close()
        for number in list(self._incoming):
            self._drop_incoming(number)

    # --- making ------------------------------------------------------------------------------------------------------

    async def _make(self, group: Group) -> None:
        number = group.number
        self._making.add(number)
        self._flusher.hold(number)
        try:
            kept = await self._write(group)
        finally:
            self._flusher.release(number)
            self._making.discard(number)
        self._withdraw(number)
        self._kept[number] = kept
        self._flusher.pin(number, kept.snapshot.index)
        self._log.offer(number, kept.snapshot)
        self._counters["snapshots_made"] += 1
        log.info("made a snapshot of group %d at index %d: %d bytes", number, kept.snapshot.index, kept.size)

    async def _write(self, group: Group) -> _Kept:
        number, state, job = group.number, self._state, self._flusher.job
        index, roster = await job(lambda: (state.applied_index(number), state.get(number, snapshot.ROSTER_KEY)))
        membership = snapshot.read_roster(roster or b"").membership
        head = SnapshotHead(number, index, self._log.view(number).term(index), membership)
        id = os.urandom(16)
        path = self._directory / f"outgoing-{number}-{id.hex()}"
        with path.open("wb") as file:
            writer = SnapshotWriter(file, head)
            indexes = await job(partial(_write_items, writer, state, number))
            for payloads in self._payloads(number, indexes):
                await job(partial(_write_bodies, writer, payloads))
            size = await job(writer.finish)
        place = Snapshot(index, head.term, decode_membership(membership))
        return _Kept(id, path, size, place, time.monotonic_ns())

    def _payloads(self, number: int, indexes: list[int]) -> Iterator[list[tuple[int, bytes]]]:
        """The entries at `indexes`, in slices."""
        found: list[tuple[int, bytes]] = []
        size = 0
        for index in indexes:
            found.append((index, self._node.read(number, index)))
            size += len(found[-1][1])
            if size >= SLICE_BYTES:
                yield found
                found, size = [], 0
        yield found

    def _withdraw(self, number: int) -> None:
        """Offer the group's snapshot no more."""
        kept = self._kept.pop(number, None)
        if kept is not None:
            self._log.offer(number, None)
            self._flusher.pin(number, None)
            kept.path.unlink(missing_ok=True)

    # --- sending -----------------------------------------------------------------------------------------------------

    def send(self, message: Message, now_ns: int) -> None:
        """The core wants a snapshot sent: the one that was offered to it."""
        number, to, kept = message.group, message.to, self._kept.get(message.group)
        if kept is None or kept.snapshot != message.snapshot:
            self._node.groups[number].core.report_snapshot(to, ok=False)
            return
        self._end_sending(number, to, ok=None)
        file = kept.path.open("rb")
        self._outgoing[number, to] = Outgoing(message, kept.id, file, kept.size, now_ns), file
        self._send_chunks(number, to, now_ns)

    def _send_chunks(self, number: int, to: int, now_ns: int) -> None:
        peer = self._node.network.peer_of(to)
        outgoing, _ = self._outgoing[number, to]
        for chunk in outgoing.chunks(now_ns):
            if peer is None or not self._node.network.send_bulk(peer, chunk.fields(), chunk.data):
                outgoing.unsent(chunk)  # tried again with the next tick
                return

    def _end_sending(self, number: int, to: int, *, ok: bool | None) -> None:
        ended = self._outgoing.pop((number, to), None)
        if ended is not None:
            ended[1].close()
            if ok is not None:
                self._counters["snapshots_sent" if ok else "snapshots_given_up"] += 1
                self._node.groups[number].core.report_snapshot(to, ok=ok)

    def on_ack(self, sender: int, fields: dict[str, Any], now_ns: int) -> None:
        """A receiver says what it wants next."""
        number = fields.get("group")
        if not isinstance(number, int) or (number, sender) not in self._outgoing:
            return
        outgoing, _ = self._outgoing[number, sender]
        if fields.get("id") != outgoing.id:
            return
        outgoing.wanted(fields.get("offset"), now_ns)
        if outgoing.done:
            self._end_sending(number, sender, ok=True)
        else:
            self._send_chunks(number, sender, now_ns)

    # --- receiving ---------------------------------------------------------------------------------------------------

    def on_chunk(self, sender: int, fields: dict[str, Any], frames: list[bytes], now_ns: int) -> dict[str, Any] | None:
        """Take a chunk; the fields of the SNAPSHOT_ACK. Raises MalformedFrame, OSError."""
        chunk = read_chunk(fields, frames)
        number = chunk.group
        if number not in self._node.groups:
            raise MalformedFrame(f"a snapshot of group {number}, which is not served here")
        if number in self._received or number in self._installing or chunk.term < self._node.groups[number].core.term:
            return None
        known = self._incoming.get(number)
        if known is None or known[0].id != chunk.id or known[0].sender != sender:
            self._drop_incoming(number)
            path = self._directory / f"incoming-{number}-{chunk.id.hex()}"
            new: BinaryIO = path.open("wb")
            known = self._incoming[number] = Incoming(chunk, sender, new, now_ns), new, path
        incoming, file, path = known
        incoming.take(chunk, now_ns)
        if incoming.complete:
            file.close()
            del self._incoming[number]
            self._installing.add(number)
            self._start(number, self._check(incoming, path))
        return incoming.ack()

    def _drop_incoming(self, number: int) -> None:
        known = self._incoming.pop(number, None)
        if known is not None:
            known[1].close()
            known[2].unlink(missing_ok=True)

    async def _check(self, incoming: Incoming, path: Path) -> None:
        """Every byte is there: see that all is right, and give it to the core."""
        number = incoming.group
        try:
            received = await self._flusher.job(partial(_read, path, number))
        finally:
            self._installing.discard(number)
        self._received[number] = received
        group = self._node.groups[number]
        message = Message(MessageType.INSTALL_SNAPSHOT, to=group.core.id, sender=incoming.sender, group=number)
        message.term, message.snapshot = incoming.term, received.snapshot
        self._node.take_snapshot(message)
        if number not in self._installing:  # the core knew better
            self._received.pop(number).path.unlink(missing_ok=True)

    def install(self, number: int, release: Callable[[], None]) -> None:
        """The core has taken the snapshot that was given to it: replace the state, then `release` the group's log."""
        received = self._received[number]
        self._installing.add(number)
        self._flusher.hold(number)
        self._start(number, self._install(number, received, release))

    async def _install(self, number: int, received: _Received, release: Callable[[], None]) -> None:
        try:
            await self._flusher.job(partial(_store, received, self._state, number))
        except (BrokerError, OSError) as error:
            self._on_failure(error)  # the core counts on it: there is no way back
            raise
        self._flusher.installed(number, received.machine, received.bodies)
        self._node.groups[number].install(received.machine)
        self._flusher.release(number)
        self._installing.discard(number)
        del self._received[number]
        received.path.unlink(missing_ok=True)
        self._counters["snapshots_installed"] += 1
        log.info("installed a snapshot of group %d at index %d", number, received.snapshot.index)
        release()


# --- on the thread of the store --------------------------------------------------------------------------------------


def _write_items(writer: SnapshotWriter, state: StateStore, number: int) -> list[int]:
    """Copy the state; the entries whose bodies it names, ascending."""
    indexes = set()
    for key, value in state.load(number):
        writer.item(key, value)
        if (index := snapshot.entry_index(key, value)) is not None:
            indexes.add(index)
    return sorted(indexes)


def _write_bodies(writer: SnapshotWriter, payloads: list[tuple[int, bytes]]) -> None:
    for index, payload in payloads:
        writer.body(index, payload)


def _read(path: Path, number: int) -> _Received:
    """Check a whole snapshot and make a machine of it; a file that is none is deleted. Raises Corruption, OSError."""
    try:
        with path.open("rb") as file:
            reader = SnapshotReader(file, str(path))
            head = reader.head
            machine = Machine.restore(head.index, reader.items())
            bodies = [index for index, _ in reader.bodies()]
        if head.group != number or machine.roster.membership != head.membership:
            raise Corruption(f"{path}: the snapshot is of group {head.group}, or its roster is not that of its head")
        return _Received(path, machine, bodies, Snapshot(head.index, head.term, decode_membership(head.membership)))
    except (BrokerError, OSError):
        path.unlink(missing_ok=True)
        raise


def _store(received: _Received, state: StateStore, number: int) -> None:
    with received.path.open("rb") as file:
        reader = SnapshotReader(file, str(received.path))
        state.install(number, reader.head.index, reader.head.term, reader.items(), reader.bodies())
