"""Snapshots of a node's groups: made when a follower needs dropped entries, sent in chunks, received, and installed.

Files are in the directory `snapshots` and never outlive the process. A snapshot is the stored state, which stands still while
it is copied, and the payloads of the entries that still hold a live message. At the receiver the order is: every checksum is
right; the bodies are stored; the core takes it; the state is replaced in one transaction; only then the log begins anew behind
it. A crash between the last two is mended at the next start (`opening.align`). What fails before the core has taken a snapshot
is counted and tried again; what fails afterwards ends the node. Source: DESIGN §5, docs/STORAGE.md "Snapshots".
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from zmqbroker.errors import BrokerError, Corruption, MalformedFrame, NoRoom, StorageError
from zmqbroker.raft.messages import Message, MessageType
from zmqbroker.server.snapshot_keeping import KeptSnapshots
from zmqbroker.server.snapshot_making import is_wanted, make_snapshot
from zmqbroker.server.snapshot_receiving import ReceivedSnapshot, read_snapshot, store_bodies, store_snapshot
from zmqbroker.server.snapshot_transfer import Chunk, Incoming, Outgoing, read_chunk
from zmqbroker.server.state_flusher import StateFlusher
from zmqbroker.storage.interfaces import LogStore, StateStore
from zmqbroker.wire.peer import PeerKind

if TYPE_CHECKING:
    from zmqbroker.server.group import Group
    from zmqbroker.server.node import Node

__all__ = ["Snapshots"]

#: A transfer whose sender says nothing for so long is forgotten.
FORGET_NS = 30_000_000_000
#: After a failure nothing is made, or received, for so long: what fails at once must not keep disk and network busy.
RETRY_NS = 5_000_000_000

log = logging.getLogger("zmqbroker")


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
        self._now_ns = 0  # of the last tick
        self._making: dict[int, int] = {}  # group -> bytes so far of the snapshot that is being made
        self._asked: dict[int, int] = {}  # group -> compacted_probes when it was looked at last
        self._unmade_ns: dict[int, int] = {}  # group -> until when none is made, after a failure
        self._outgoing: dict[tuple[int, int], tuple[Outgoing, BinaryIO]] = {}  # (group, member id)
        self._incoming: dict[int, tuple[Incoming, BinaryIO, Path]] = {}  # by group
        self._deaf_ns: dict[int, int] = {}  # group -> until when no chunk is taken, after a failure
        self._answers: dict[int, dict[str, Any]] = {}  # group -> what is said of the last transfer that came to its end
        self._received: dict[int, ReceivedSnapshot] = {}  # by group, from the check until it is installed
        self._checking: set[int] = set()
        self._installing: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()  # making and checking
        self._installs: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()
        try:
            directory.mkdir(exist_ok=True)
            self._clean()
        except OSError as error:
            raise StorageError(f"{directory}: cannot be used for snapshots: {error}") from error
        self._kept = KeptSnapshots(log, flusher, node.config.storage.log_budget_bytes)

    def _clean(self) -> None:
        for leftover in self._directory.iterdir():
            leftover.unlink()

    def tick(self, now_ns: int) -> None:
        """Make what is asked for, repeat what was lost, give up what is stuck."""
        self._now_ns = now_ns
        for group in self._node.groups.values():
            self._consider(group)
        for (number, to), (outgoing, _) in list(self._outgoing.items()):
            core = self._node.groups[number].core
            if outgoing.failed(now_ns) or not self._node.groups[number].leading or core.term != outgoing.message.term:
                self._end_sending(number, to, ok=False)
            else:
                self._send_chunks(number, to)
        self._forget(now_ns)

    def _forget(self, now_ns: int) -> None:
        for group in self._node.groups.values():
            self._kept.tick(group, now_ns, sending=any(number == group.number for number, _ in self._outgoing))
        for number, (incoming, _, _) in list(self._incoming.items()):
            if now_ns - incoming.heard_ns > FORGET_NS:
                self._drop_incoming(number)

    def _start(self, tasks: set[asyncio.Task[None]], number: int, work: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            try:
                await work
            except (BrokerError, OSError) as error:
                self._counters["snapshots_failed"] += 1
                log.warning("a snapshot of group %d failed: %s", number, error)

        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:  # a bug, of which nobody would hear before the task is collected
                loop.call_exception_handler({"message": "a snapshot's task failed", "exception": error})

        loop = asyncio.get_running_loop()
        task = loop.create_task(run())
        tasks.add(task)
        task.add_done_callback(ended)

    def installing(self, number: int) -> bool:
        """Whether the group's state is being replaced: log and store do not fit each other then."""
        return number in self._installing

    async def close(self) -> None:
        """End what is under way; an installation that has begun is finished, unless it waits for room."""
        self._closing.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._installs, return_exceptions=True)
        for key in list(self._outgoing):
            self._outgoing.pop(key)[1].close()
        for number in list(self._incoming):
            self._drop_incoming(number)
        for number in self._node.groups:
            self._kept.clear(number)
        self._clean()

    # --- making ------------------------------------------------------------------------------------------------------

    def _consider(self, group: Group) -> None:
        number, asked = group.number, group.core.compacted_probes
        whole = self._flusher.flushed(number) >= group.machine.roster.index  # else it would lack who came last
        if not group.leading or number in self._making:
            self._asked[number] = asked
        elif asked == self._asked.get(number, 0) or self._now_ns < self._unmade_ns.get(number, 0):
            return
        elif whole and not self._kept.serves(group) and is_wanted(group.core, self._log.view(number), self._node.disks):
            self._asked[number] = asked
            self._making[number] = 0
            self._flusher.hold(number)
            self._start(self._tasks, number, self._make(group))

    async def _make(self, group: Group) -> None:
        number = group.number
        try:
            made = await make_snapshot(
                self._directory,
                number,
                self._log,
                self._state,
                self._node.bodies.read,
                self._flusher.job,
                partial(self._making.__setitem__, number),
            )
        except BaseException as error:
            self._unmade_ns[number] = self._now_ns + RETRY_NS
            if isinstance(error, Corruption):  # of log or store: trying again would not help
                self._on_failure(error)
            raise
        finally:
            self._flusher.release(number)
            del self._making[number]
        if not group.leading or made.snapshot.index < self._log.view(number).first_index() - 1:
            made.path.unlink()  # nobody can be brought up with it any more
            return
        self._kept.keep(number, made, self._now_ns)
        self._counters["snapshots_made"] += 1
        log.info("made a snapshot of group %d at index %d: %d bytes", number, made.snapshot.index, made.size)

    @property
    def bytes_under_way(self) -> int:
        """Size of the largest snapshot that is being made, as far as it is, or sent; 0 for none."""
        return max((*self._making.values(), *(outgoing.size for outgoing, _ in self._outgoing.values())), default=0)

    # --- sending -----------------------------------------------------------------------------------------------------

    def send(self, message: Message, now_ns: int) -> None:
        """The core wants a snapshot sent: the one that was offered to it."""
        number, to, kept = message.group, message.to, self._kept.get(message.group)
        self._now_ns = now_ns
        self._end_sending(number, to, ok=None)
        try:
            if kept is None or kept.snapshot != message.snapshot:
                raise FileNotFoundError("it is not kept any more")
            file = kept.path.open("rb")
        except OSError as error:
            log.warning("a snapshot of group %d cannot be sent: %s", number, error)
            self._node.groups[number].core.report_snapshot(to, ok=False)
            self._discard(number)
            return
        self._outgoing[number, to] = Outgoing(message, kept.id, file, kept.size, now_ns), file
        self._send_chunks(number, to)

    def _send_chunks(self, number: int, to: int) -> None:
        network, (outgoing, _) = self._node.network, self._outgoing[number, to]
        peer = network.peer_of(to)
        try:
            for chunk in outgoing.chunks(self._now_ns):
                if peer is None or not network.send_bulk(peer, chunk.fields(), chunk.data):
                    outgoing.unsent(chunk)  # tried again with the next tick
                    return
        except OSError as error:
            log.warning("a snapshot of group %d cannot be read: %s", number, error)
            self._refused(number, to)

    def _refused(self, number: int, to: int) -> None:
        """The receiver, or the disk here, found the snapshot damaged."""
        self._end_sending(number, to, ok=False)
        self._discard(number)

    def _discard(self, number: int) -> None:
        """The snapshot is of no use: another one has to be made, but not at once."""
        self._kept.withdraw(number)
        self._unmade_ns[number] = self._now_ns + RETRY_NS

    def _end_sending(self, number: int, to: int, *, ok: bool | None) -> None:
        ended = self._outgoing.pop((number, to), None)
        if ended is None:
            return
        ended[1].close()
        if ok is None:  # it begins anew
            return
        snapshot = ended[0].message.snapshot
        if ok and snapshot is not None:
            self._kept.sent(number, to, snapshot.index, self._now_ns)
        self._counters["snapshots_sent" if ok else "snapshots_given_up"] += 1
        self._node.groups[number].core.report_snapshot(to, ok=ok)
        if not any(member == to for _, member in self._outgoing):
            self._node.network.end_bulk(to)

    def on_ack(self, sender: int, fields: dict[str, Any], now_ns: int) -> None:
        """A receiver says what it wants next, or what came of the whole."""
        number = fields.get("group")
        if not isinstance(number, int) or (number, sender) not in self._outgoing:
            return
        self._now_ns = now_ns
        outgoing, _ = self._outgoing[number, sender]
        outgoing.heard(fields, now_ns)
        if outgoing.outcome is None:
            self._send_chunks(number, sender)
        elif outgoing.outcome:
            self._end_sending(number, sender, ok=True)
        else:
            self._refused(number, sender)

    # --- receiving ---------------------------------------------------------------------------------------------------

    def on_chunk(self, sender: int, fields: dict[str, Any], frames: list[bytes], now_ns: int) -> dict[str, Any] | None:
        """Take a chunk; the fields of the SNAPSHOT_ACK, None for no answer. Raises MalformedFrame."""
        chunk = read_chunk(fields, frames)
        number = chunk.group
        if number not in self._node.groups:
            raise MalformedFrame(f"a snapshot of group {number}, which is not served here")
        if chunk.term < self._node.groups[number].core.term or now_ns < self._deaf_ns.get(number, 0):
            return None
        answer = self._answers.get(number)
        if answer is not None and answer["id"] == chunk.id:
            return answer
        if number in self._checking or number in self._installing:
            return {"id": chunk.id, "group": number, "offset": 0}  # its turn comes
        self._now_ns = now_ns
        try:
            return self._take(chunk, sender)
        except OSError as error:
            self._counters["snapshots_failed"] += 1
            log.warning("a snapshot of group %d cannot be written: %s", number, error)
            self._drop_incoming(number)
            self._deaf_ns[number] = now_ns + RETRY_NS
            return None

    def _take(self, chunk: Chunk, sender: int) -> dict[str, Any]:
        number = chunk.group
        known = self._incoming.get(number)
        if known is None or known[0].id != chunk.id or known[0].sender != sender:
            self._drop_incoming(number)
            path = self._directory / f"incoming-{number}-{chunk.id.hex()}"
            new: BinaryIO = path.open("wb")
            known = self._incoming[number] = Incoming(chunk, sender, new, self._now_ns), new, path
        incoming, file, path = known
        incoming.take(chunk, self._now_ns)
        if incoming.complete:
            file.close()
            del self._incoming[number]
            self._answers[number] = incoming.ack()
            self._checking.add(number)
            self._start(self._tasks, number, self._check(incoming, path))
        return incoming.ack()

    def _drop_incoming(self, number: int) -> None:
        known = self._incoming.pop(number, None)
        if known is not None:
            _, file, path = known
            path.unlink(missing_ok=True)
            try:
                file.close()
            except OSError as error:  # of bytes that nobody needs
                log.debug("%s: %s", path, error)

    async def _check(self, incoming: Incoming, path: Path) -> None:
        """Every byte is there: see that all is right, and give it to the core."""
        number = incoming.group
        self._flusher.hold(number)  # until the bodies are known to be needed, or not
        try:
            received = await self._read(incoming, path)
            self._received[number] = received
            self._offer(incoming, received)
        finally:
            self._checking.discard(number)
            self._flusher.release(number)

    async def _read(self, incoming: Incoming, path: Path) -> ReceivedSnapshot:
        """Check a whole snapshot and store its bodies."""
        number = incoming.group
        try:
            received = await self._flusher.job(partial(read_snapshot, path, number))
        except BrokerError:
            self._answer(incoming, done=False)
            raise
        except OSError:
            self._begin_anew(number)
            raise
        try:
            await self._flusher.job(partial(store_bodies, received, self._state, number))
        except (BrokerError, OSError):
            self._begin_anew(number)
            raise
        finally:
            self._flusher.stored(number, received.bodies)
        return received

    def _offer(self, incoming: Incoming, received: ReceivedSnapshot) -> None:
        """Give the core a snapshot that is here, complete and right."""
        number = incoming.group
        core = self._node.groups[number].core
        message = Message(MessageType.INSTALL_SNAPSHOT, to=core.id, sender=incoming.sender, group=number)
        message.term, message.snapshot = incoming.term, received.snapshot
        self._node.take_snapshot(message)
        if number not in self._installing:  # the core knew better
            self._received.pop(number).path.unlink(missing_ok=True)
        if number in self._installing or core.commit_index >= received.snapshot.index:
            self._answer(incoming, done=True)
        else:
            self._begin_anew(number)

    def _answer(self, incoming: Incoming, *, done: bool) -> None:
        answer = self._answers[incoming.group] = incoming.verdict(done=done)
        peer = self._node.network.peer_of(incoming.sender)
        if peer is not None:
            self._node.network.send_forward(PeerKind.SNAPSHOT_ACK, peer, answer, ())

    def _begin_anew(self, number: int) -> None:
        """Nothing came of a transfer, and it was not its fault: its sender may try again, but not at once."""
        self._answers.pop(number, None)
        self._deaf_ns[number] = self._now_ns + RETRY_NS

    def install(self, number: int, release: Callable[[], None]) -> None:
        """The core has taken the snapshot that was given to it: replace the state, then `release` the group's log."""
        received = self._received.pop(number)
        self._installing.add(number)
        self._kept.clear(number)  # the log behind it goes
        self._flusher.hold(number)
        self._start(self._installs, number, self._install(number, received, release))

    async def _install(self, number: int, received: ReceivedSnapshot, release: Callable[[], None]) -> None:
        while True:
            try:
                await self._flusher.job(partial(store_snapshot, received, self._state, number))
                break
            except NoRoom as error:  # the state is small beside the bodies, which are stored already: it waits for its place
                if self._closing.is_set():
                    raise
                log.warning("a snapshot of group %d waits for room: %s", number, error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_NS / 1e9):
                        await self._closing.wait()
            except (BrokerError, OSError) as error:
                self._on_failure(error)  # the core counts on it: there is no way back
                raise
        self._flusher.installed(number, received.machine)
        self._node.groups[number].install(received.machine)
        self._flusher.release(number)
        self._installing.discard(number)
        received.path.unlink(missing_ok=True)
        self._counters["snapshots_installed"] += 1
        log.info("installed a snapshot of group %d at index %d", number, received.snapshot.index)
        release()
