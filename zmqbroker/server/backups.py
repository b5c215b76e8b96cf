"""Backups for clients: a node makes one of its own state, keeps it for as long as it is fetched, and hands it out in chunks.

It is the node's stored state and the payloads that it names, as in a snapshot for another node, behind a head that says what it
is of. The client chooses the id, so that every request may be repeated; the first one has the backup made, and is answered BUSY
until it is. One at a time: it takes room on the disk beside the data. It goes when its end was asked for, and after KEEP_NS
without a question. What fails is counted, said, and tried again RETRY_NS later at the earliest. Source: docs/PROTOCOL.md §3,
BACKUP; docs/STORAGE.md, "Backups".
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from zmqbroker.checksum import crc32c
from zmqbroker.errors import BrokerError, Busy, InvalidRequest
from zmqbroker.server.snapshot_making import MadeSnapshot, make_snapshot
from zmqbroker.server.state_flusher import StateFlusher
from zmqbroker.storage.interfaces import LogStore, StateStore
from zmqbroker.wire.backup import BackupGroup, BackupHead, encode_backup_head
from zmqbroker.wire.requests import BackupRequest

if TYPE_CHECKING:
    from zmqbroker.server.group import Group
    from zmqbroker.server.node import Node

__all__ = ["CHUNK_BYTES", "KEEP_NS", "RETRY_NS", "Backups"]

#: One answer: large enough that its round trip vanishes, small enough that no consumer waits for it.
CHUNK_BYTES = 1 << 20
#: A client that has not asked for so long is gone.
KEEP_NS = 60_000_000_000
#: After a failure none is made for so long.
RETRY_NS = 5_000_000_000
#: Bytes that are summed up in one go.
_SLICE_BYTES = 8 << 20

log = logging.getLogger("zmqbroker")


@dataclass(slots=True)
class _Kept:
    """A backup that is complete."""

    made: MadeSnapshot
    head: bytes
    file: BinaryIO  # of the snapshot behind the head

    @property
    def size(self) -> int:
        """Bytes of the whole backup."""
        return len(self.head) + self.made.size

    def read(self, offset: int) -> bytes:
        """The bytes from `offset` on. Raises OSError."""
        if offset < len(self.head):
            return self.head[offset : offset + CHUNK_BYTES]
        self.file.seek(offset - len(self.head))
        return self.file.read(CHUNK_BYTES)


class Backups:
    """The backup that is taken from one node, if there is one."""

    def __init__(
        self,
        directory: Path,
        node: Node,
        log: LogStore,
        state: StateStore,
        flusher: StateFlusher,
        counters: Counter[str],
        wall_unix_ns: Callable[[], int],
    ) -> None:
        self._directory, self._node, self._log, self._state = directory, node, log, state
        self._flusher, self._counters, self._wall_unix_ns = flusher, counters, wall_unix_ns
        self._id = b""  # of the backup that is being made or kept; empty: there is none
        self._kept: _Kept | None = None  # None while it is being made
        self._used_ns = 0  # when it was asked for last
        self._task: asyncio.Task[None] | None = None
        self._failure = ""  # why the last one could not be made
        self._unmade_ns = 0  # until when none is made, after a failure

    def serve(self, group: Group, request: BackupRequest, now_ns: int) -> tuple[dict[str, Any], bytes]:
        """The fields of BACKED_UP and its bytes. Raises Busy and InvalidRequest."""
        name = self._node.config.node.name
        if self._id not in (b"", request.id):
            raise Busy(f"another backup is being taken from {name}", retry_ms=1_000)
        if not self._id:
            if request.offset:
                raise InvalidRequest(f"{name} does not keep this backup any more: begin a new one")
            self._begin(group, request, now_ns)
        self._used_ns = now_ns
        if self._kept is None:
            raise Busy(f"{name} is making the backup", retry_ms=50)
        return self._chunk(self._kept, request.offset)

    def _begin(self, group: Group, request: BackupRequest, now_ns: int) -> None:
        name, applied_index = self._node.config.node.name, group.machine.applied_index
        if now_ns < self._unmade_ns:
            retry_ms = (self._unmade_ns - now_ns) // 1_000_000 + 1
            raise Busy(f"{name} could not make the backup: {self._failure}", retry_ms=retry_ms)
        if applied_index < request.index:
            raise Busy(f"{name} has applied {applied_index} and not yet {request.index}", retry_ms=50)
        self._id = request.id
        self._task = asyncio.get_running_loop().create_task(self._run(group, request.index))
        self._task.add_done_callback(self._ended)

    def _chunk(self, kept: _Kept, offset: int) -> tuple[dict[str, Any], bytes]:
        size = kept.size
        if offset > size:
            raise InvalidRequest(f"field offset is {offset}, the backup has {size} bytes")
        try:
            data = kept.read(offset)
        except OSError as error:
            self._fail(f"it cannot be read: {error}")
            raise Busy(self._failure, retry_ms=RETRY_NS // 1_000_000) from error
        if offset == size:
            self._drop()
        fields = {"size": size, "offset": offset, "crc32c": crc32c(data), "index": kept.made.snapshot.index}
        return fields | {"node": self._node.config.node.name}, data

    # --- making ------------------------------------------------------------------------------------------------------

    async def _run(self, group: Group, index: int) -> None:
        try:
            self._kept = await self._make(group, index)
            self._counters["backups_made"] += 1
            log.info("made a backup at index %d: %d bytes", self._kept.made.snapshot.index, self._kept.size)
        except (BrokerError, OSError) as error:
            self._fail(str(error))

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:  # a bug, of which nobody would hear before the task is collected
            task.get_loop().call_exception_handler({"message": "a backup's task failed", "exception": error})

    async def _make(self, group: Group, index: int) -> _Kept:
        number, flusher, snapshots = group.number, self._flusher, self._node.snapshots
        await flusher.flush()  # what was applied when the backup was asked for is in it
        if flusher.flushed(number) < index or (snapshots is not None and snapshots.installing(number)):
            raise Busy("the state is being replaced, or copied for another node", retry_ms=50)
        flusher.hold(number)
        try:
            made = await make_snapshot(self._directory, number, self._log, self._state, self._node.bodies.read, flusher.job)
        finally:
            flusher.release(number)
        file = made.path.open("rb")
        try:
            checksum, more = 0, True
            while more:
                checksum, more = await flusher.job(partial(_sum_up, file, checksum))
        except BaseException:
            file.close()
            made.path.unlink(missing_ok=True)
            raise
        found = BackupGroup(number, made.snapshot.index, made.snapshot.term, made.size, checksum)
        return _Kept(made, encode_backup_head(self._head(found)), file)

    def _head(self, group: BackupGroup) -> BackupHead:
        config = self._node.config
        return BackupHead(
            cluster_name=config.cluster.name,
            cluster_uid=self._node.formation.cluster_uid,
            volume=config.cluster.volume,
            node=config.node.name,
            taken_unix_ns=self._wall_unix_ns(),
            software=version("zmqbroker"),
            groups=(group,),
        )

    # --- its end -----------------------------------------------------------------------------------------------------

    def _fail(self, reason: str) -> None:
        self._drop()
        self._failure, self._unmade_ns = reason, self._used_ns + RETRY_NS
        self._counters["backups_failed"] += 1
        log.warning("a backup failed: %s", reason)

    def _drop(self) -> None:
        kept, self._kept, self._id = self._kept, None, b""
        if kept is not None:
            kept.file.close()
            kept.made.path.unlink(missing_ok=True)

    def tick(self, now_ns: int) -> None:
        """Drop a backup that nobody fetches."""
        if self._kept is not None and now_ns - self._used_ns > KEEP_NS:
            log.warning("a backup was not fetched to its end")
            self._drop()

    async def close(self) -> None:
        """End what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._drop()


def _sum_up(file: BinaryIO, checksum: int) -> tuple[int, bool]:
    """Continue a checksum over the next bytes of a file; whether there may be more."""
    data = file.read(_SLICE_BYTES)
    return crc32c(data, checksum), bool(data)
