"""From a configuration to a running node and back to an exit status.

Opens what a node owns (data, sockets), runs it on one event loop until SIGTERM or SIGINT, and closes it in order. A log that
cannot be written ends the process at once with status 70: nothing after a failed sync can be trusted. A member whose data is
damaged begins anew without it, in the same process, and once more when the cluster has given it a place (server/data.py).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any, NoReturn

import uvloop
import zmq

from zmqbroker.broker import Machine
from zmqbroker.config import NodeConfig
from zmqbroker.errors import Compacted, ConfigError, Corruption, DataDirectoryError, NoRoom, RemovedFromCluster, StorageError
from zmqbroker.server import zmqio
from zmqbroker.server.backups import Backups
from zmqbroker.server.collecting import freeze_what_takes_long
from zmqbroker.server.data import NodeData
from zmqbroker.server.desk import DATA_GROUP
from zmqbroker.server.disks import Disks
from zmqbroker.server.formation import Formation
from zmqbroker.server.greeting import HELLO_INTERVAL_S, Greeting, removed
from zmqbroker.server.links import LinkWatch
from zmqbroker.server.node import Node
from zmqbroker.server.opening import open_group
from zmqbroker.server.peers import PeerNetwork
from zmqbroker.server.scrub import scrub
from zmqbroker.server.snapshots import Snapshots
from zmqbroker.server.sockets import ClientPort, PeerPort
from zmqbroker.server.space import OwnSpace
from zmqbroker.server.state_flusher import StateFlusher
from zmqbroker.storage import engine_choice, writer
from zmqbroker.storage.directory import raise_file_limit
from zmqbroker.wire import codec

__all__ = ["EXIT_DAMAGED", "EXIT_INTERNAL", "EXIT_REFUSED", "EXIT_USAGE", "run"]

EXIT_REFUSED, EXIT_USAGE, EXIT_DAMAGED, EXIT_INTERNAL = 1, 2, 6, 70
#: Seconds between two looks at a disk that is too full to start on.
ROOM_INTERVAL_S = 1.0

log = logging.getLogger("zmqbroker")


def run(config: NodeConfig, owner: str = "serve") -> int:
    """Run one node until it is told to stop; returns the exit status."""
    logging.basicConfig(
        stream=sys.stderr,
        level=config.log.level.upper(),
        format=f"%(asctime)s %(levelname)s {config.node.name}: %(message)s",
    )
    if not __debug__:
        log.error("python -O removes the checks that keep acknowledged messages safe: start without it")
        return EXIT_USAGE
    try:
        while uvloop.run(_Application(config, owner).run()):
            log.info("begins anew")
    except (ConfigError, DataDirectoryError) as error:
        log.error("%s", error)
        return EXIT_USAGE
    except RemovedFromCluster as error:
        log.error("%s", error)
        return EXIT_REFUSED
    except Corruption as error:
        log.error("damaged: %s; nothing was deleted", error)
        return EXIT_DAMAGED
    except StorageError as error:
        log.error("storage failed: %s", error)
        return EXIT_INTERNAL
    return 0


async def _together(*jobs: Coroutine[Any, Any, None]) -> None:
    """Run jobs that only end by failing: when one does, the others are ended, and its error is raised."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Application:
    """What a node owns, in the order in which it is opened."""

    def __init__(self, config: NodeConfig, owner: str) -> None:
        self._config, self._owner = config, owner
        self._counters: Counter[str] = Counter()
        self._machines: dict[int, Machine] = {}
        self._closers: list[Callable[[], None]] = []  # undone in reverse
        self._data: NodeData | None = None  # None until it is open
        self._orderly = False  # True: this run ends because it was told to
        self._tidied = False  # True: what was moved aside was looked at since this node votes
        self._changed = asyncio.Event()  # members or roles are others now

    async def run(self) -> bool:
        """Run the node to its end; True when it is to begin anew. Raises BrokerError."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._stop_on_bug)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            data = await self._until_room(loop, stop)
            if data is not None:
                data.directory.keep_ballast()  # the start is through with it
                self._node.start(*self._descriptors)
                await self._until(stop, data)
            self._orderly = stop.is_set()
        except Corruption as error:
            if self._data is None or not self._data.distrust(error):
                self._close()
                raise
            log.error("damaged: %s; nothing was deleted", error)
        except BaseException:
            self._close()  # on a disk that fails this fails, too, and is not why the node ends
            raise
        if (failure := self._close()) is not None:
            raise StorageError(f"not closed in order: {failure}") from failure
        if not self._orderly:
            return True
        log.info("stopped")
        return False

    def _close(self) -> OSError | StorageError | None:
        """Undo everything, whatever fails; the first error of the disk."""
        failure: OSError | StorageError | None = None
        while self._closers:
            try:
                self._closers.pop()()
            except (OSError, StorageError) as error:
                failure = failure or error
        return failure

    async def _until_room(self, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> NodeData | None:
        """Open what the node owns as soon as its disk has the room for that; None when it is to stop before."""
        told = ""
        while not stop.is_set():
            try:
                return self._open(loop)
            except NoRoom as error:
                self._close()
                if str(error) != told:
                    told = str(error)
                    log.error("%s; this node waits for room", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(ROOM_INTERVAL_S):
                    await stop.wait()
        return None

    def _stop_on_bug(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A failed check means that this node no longer is what its peers believe: it ends, they go on.

        So it does when it cannot read its disk, which is no bug and needs no traceback.
        """
        error = context.get("exception")
        if isinstance(error, Corruption):
            log.critical("damaged: %s; nothing was deleted, this node ends now", error)
        elif isinstance(error, StorageError) and not isinstance(error, Compacted):
            log.critical("storage failed: %s; this node ends now", error)
        else:
            log.critical("%s; this node ends now", context.get("message"), exc_info=error)
        self._end(error)

    def _die(self, error: BaseException) -> NoReturn:
        what = "what is stored is damaged" if isinstance(error, Corruption) else "what has to be stored cannot be written"
        log.critical("%s, this node ends now: %s", what, error)
        self._end(error)

    def _end(self, error: BaseException | None) -> NoReturn:
        """End the process at once; where others have the data, the next start knows that it is damaged here."""
        status = EXIT_INTERNAL
        if isinstance(error, Corruption) and self._data is not None:
            with suppress(StorageError):  # then the next start finds the damage by itself, or does not
                status = EXIT_INTERNAL if self._data.distrust(error) else EXIT_DAMAGED
        logging.shutdown()
        os._exit(status)

    def _open(self, loop: asyncio.AbstractEventLoop) -> NodeData:
        raise_file_limit()
        self._data = data = NodeData(self._config, self._owner)
        self._closers.append(lambda: data.close(orderly=self._orderly))
        self._open_sockets(loop, data)
        if self._formation.formed:
            self._start_groups(data)
        return data

    def _open_sockets(self, loop: asyncio.AbstractEventLoop, data: NodeData) -> None:
        config = self._config
        peer_context, client_context = zmq.Context[zmq.Socket[bytes]](), zmq.Context[zmq.Socket[bytes]]()
        self._closers += [peer_context.term, client_context.term]
        peer_port = PeerPort(peer_context, f"tcp://{config.listen.peer}")
        self._closers.append(peer_port.close)
        port = ClientPort(client_context, config.listen.client)
        self._closers.append(port.close)
        self._formation = self._make_formation(data)
        network = PeerNetwork(peer_context, peer_port, self._formation, self._counters)
        self._closers.append(network.close)
        watch = LinkWatch(self._on_refused)
        self._closers.append(watch.close)
        self._greeting = Greeting(config, self._formation, network, watch)
        self._node = Node(
            config,
            loop,
            formation=self._formation,
            network=network,
            port=port,
            log=data.log,
            state=data.state,
            disks=Disks(config, OwnSpace(config.node.data_dir, config.storage.low_water_bytes, data.state.reusable_bytes)),
            housekeep=data.housekeep,
            data=data,
            counters=self._counters,
            on_failure=self._die,
            on_change=self._changed.set,
        )
        self._descriptors = (port.descriptor, peer_port.descriptor)
        self._closers.append(lambda: self._node.stop(self._descriptors))

    def _make_formation(self, data: NodeData) -> Formation:
        config, identity, former = self._config, data.directory.identity, data.former
        if former is not None:  # what it belonged to counts no more
            identity = replace(identity, cluster_uid=None, founders=(), members=(), members_index=0)
        return Formation(
            name=config.node.name,
            uid=data.directory.node_uid,
            cluster=config.cluster.name,
            volume=config.cluster.volume,
            client=config.client_endpoint,
            peers={peer.name: peer.address for peer in config.peers},
            cluster_uid=identity.cluster_uid or b"",
            founders=identity.founders,
            members=identity.members,
            members_index=identity.members_index,
            record=data.directory,
            mint=lambda: os.urandom(16),
            complain=log.warning,
            auto_rejoin=config.cluster.auto_rejoin,
            former=former,
        )

    def _on_refused(self, key: str) -> None:
        """A link broke and the port of its peer refuses: if that peer leads, it does no more."""
        self._counters["peer_links_refused"] += 1
        for member_id in self._formation.known.ids_at(key):
            self._node.leader_lost(member_id)

    # --- groups ------------------------------------------------------------------------------------------------------

    def _start_groups(self, data: NodeData) -> None:
        """Run the groups of a formed cluster from what log and store hold."""
        own = self._formation.own
        if own is None:
            raise removed(self._formation)
        names = ", ".join(member.name for member in self._formation.members)
        log.info("member %d of cluster %s: %s", own.id, self._formation.cluster_uid.hex(), names)
        group = open_group(
            DATA_GROUP,
            own.id,
            self._formation.founders,
            self._config,
            data.log,
            data.state,
            self._node,
            self._node.confirm,
        )
        self._machines[DATA_GROUP] = group.machine
        self._node.add_group(group)

    # --- while it runs -----------------------------------------------------------------------------------------------

    async def _until(self, stop: asyncio.Event, data: NodeData) -> None:
        gc.collect()
        gc.freeze()  # what start-up made stays: no collection need look at it again
        freeze_what_takes_long()
        config = self._config
        log.info(
            "%s of %d nodes, tolerates %d down, volume %s, clients at %s, codec %s, sockets %s, log writer %s, store %s",
            config.node.name, config.size, config.tolerated, config.cluster.volume, config.client_endpoint,
            *("compiled" if module.compiled else "pure Python" for module in (codec, zmqio, writer, engine_choice)),
        )  # fmt: skip
        for reason in filter(None, (codec.fallback_reason, engine_choice.fallback_reason)):
            log.warning("%s", reason)
        if config.even_size_warning:
            log.warning("%s", config.even_size_warning)
        jobs: list[Coroutine[Any, Any, None]] = [self._greet(data), self._sweep(data)]
        tasks = [asyncio.ensure_future(job) for job in jobs]
        waiter = asyncio.ensure_future(stop.wait())
        try:
            done, _ = await asyncio.wait([waiter, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # a job only ends by failing
            await self._hand_over()
        finally:
            for task in (waiter, *tasks):
                task.cancel()
            await asyncio.gather(waiter, *tasks, return_exceptions=True)

    async def _hand_over(self) -> None:
        """An orderly stop waits for no election: another node leads first, unless none can within an election timeout."""
        if not self._node.hand_over():
            return
        timeout_s = self._config.raft.election_ticks * self._config.raft.tick_ms / 1000
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._node.settled:
                    self._changed.clear()
                    await self._changed.wait()

    async def _greet(self, data: NodeData) -> None:
        """HELLO to everybody, for ever; form the cluster when it is this node's turn; then flush its state."""
        await self._greeting.connect()
        if self._formation.recovering:
            await self._greeting.until_rejoined()
            return
        await self._greeting.until_formed()
        if not self._machines:
            self._start_groups(data)
        node, scrub_bytes_per_s = self._node, self._config.storage.scrub_bytes_per_s
        flusher = self._make_flusher(data)
        place = data.directory.path / "snapshots"
        snapshots = Snapshots(place, node, data.log, data.state, flusher, self._counters, self._die)
        node.snapshots = snapshots
        backups = Backups(place, node, data.log, data.state, flusher, self._counters, time.time_ns)
        node.backups = backups
        flushing = asyncio.ensure_future(_together(flusher.run(), scrub(data.state, flusher.job, scrub_bytes_per_s)))
        try:
            while not flushing.done():
                self._node.network.send_hello()
                self._greeting.check(self._node.voters)
                with suppress(TimeoutError):
                    await self._change()
                self._changed.clear()
                # Others hear of a change of the members only after it is stored here, unless the store has no room: this node
                # must not need, after a power cut, the vote of one that has left.
                await flusher.flush()
                if not flusher.out_of_room:
                    data.proven()
                self._tidy(data)
                self._formation.known.forget_silent(time.monotonic_ns())
                await self._greeting.connect()
            flushing.result()
        finally:
            flushing.cancel()
            await asyncio.gather(flushing, return_exceptions=True)
            await flusher.settle()  # a flush goes on when whoever waits for it is ended
            await backups.close()
            await snapshots.close()

    def _make_flusher(self, data: NodeData) -> StateFlusher:
        storage, give_up = self._config.storage, data.directory.give_up_ballast
        flusher = StateFlusher(
            data.log, data.state, self._machines, storage.flush_ms, storage.log_budget_bytes, give_up, self._node.durations
        )
        self._closers.append(flusher.close)
        return flusher

    async def _change(self) -> None:
        """Wait until members or roles are others. Raises TimeoutError when the next HELLO is due."""
        # Not `wait_for`: in Python 3.11 it loses a cancellation that comes with the event, and the node never ends.
        async with asyncio.timeout(HELLO_INTERVAL_S):
            await self._changed.wait()

    def _tidy(self, data: NodeData) -> None:
        """Once in a run: what was moved aside goes when this node votes."""
        own = self._formation.own
        if own is not None and not self._tidied and all(g.core.membership.is_voter(own.id) for g in self._node.groups.values()):
            self._tidied = True
            asyncio.get_running_loop().run_in_executor(None, data.tidy)

    async def _sweep(self, data: NodeData) -> None:
        while True:
            await asyncio.sleep(min(1.0, self._config.limits.session_timeout_ms / 4000))
            self._node.sweep()
            if not self._node.disks.own.short:  # else whoever needs that room may have it
                await asyncio.to_thread(data.directory.keep_ballast)
