"""From a configuration to a running node and back to an exit status.

Opens what a node owns (directory, log, store, sockets), runs it on one event loop until SIGTERM or SIGINT, and closes it in
order. A log that cannot be written ends the process at once with status 70: nothing after a failed sync can be trusted.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, NoReturn

import uvloop
import zmq

from zmqbroker.broker import Machine
from zmqbroker.config import NodeConfig, majority_of, split_address
from zmqbroker.errors import Compacted, ConfigError, Corruption, DataDirectoryError, RemovedFromCluster, StorageError
from zmqbroker.server.desk import DATA_GROUP
from zmqbroker.server.formation import Formation
from zmqbroker.server.links import LinkWatch
from zmqbroker.server.node import Node
from zmqbroker.server.opening import open_group
from zmqbroker.server.peers import PeerNetwork
from zmqbroker.server.snapshots import Snapshots
from zmqbroker.server.sockets import ClientPort, PeerPort
from zmqbroker.server.state_flusher import StateFlusher
from zmqbroker.storage.directory import DataDirectory, raise_file_limit
from zmqbroker.storage.lmdb_state import LmdbState
from zmqbroker.storage.segment_log import SegmentLog
from zmqbroker.wire import codec

__all__ = ["EXIT_DAMAGED", "EXIT_INTERNAL", "EXIT_REFUSED", "EXIT_USAGE", "run"]

EXIT_REFUSED, EXIT_USAGE, EXIT_DAMAGED, EXIT_INTERNAL = 1, 2, 6, 70
#: HELLOs are frequent until the cluster is formed, then once a second.
FORMING_INTERVAL_S, HELLO_INTERVAL_S = 0.1, 1.0
#: A removed node still votes for so many seconds, in case those who stay have not all stored that it has gone.
LINGER_S = 2.0
#: Seconds without all peers before the node says whom it waits for.
WAITING_NOTICE_S = 5

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
        uvloop.run(_Application(config, owner).run())
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


def _die(error: BaseException) -> NoReturn:
    log.critical("the log cannot be written, this node ends now: %s", error)
    logging.shutdown()
    os._exit(EXIT_INTERNAL)


def _stop_on_bug(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
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
    logging.shutdown()
    os._exit(EXIT_DAMAGED if isinstance(error, Corruption) else EXIT_INTERNAL)


def _removed(formation: Formation) -> RemovedFromCluster:
    return RemovedFromCluster(f"cluster {formation.cluster_uid.hex()} has removed {formation.name}; its data was left in place")


class _Application:
    """What a node owns, in the order in which it is opened."""

    def __init__(self, config: NodeConfig, owner: str) -> None:
        self._config, self._owner = config, owner
        self._counters: Counter[str] = Counter()
        self._machines: dict[int, Machine] = {}
        self._closers: list[Callable[[], None]] = []  # undone in reverse
        self._removed_s: float | None = None  # when this node heard that it was removed
        self._changed = asyncio.Event()  # members or roles are others now

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_stop_on_bug)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            self._open(loop)
            self._node.start(self._descriptors)
            await self._until(stop)
        except BaseException:
            self._close()  # on a disk that fails this fails, too, and is not why the node ends
            raise
        if (failure := self._close()) is not None:
            raise StorageError(f"not closed in order: {failure}") from failure
        log.info("stopped")

    def _close(self) -> OSError | None:
        """Undo everything, whatever fails; the first error of the disk."""
        failure: OSError | None = None
        while self._closers:
            try:
                self._closers.pop()()
            except OSError as error:
                failure = failure or error
        return failure

    def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        config = self._config
        raise_file_limit()
        self._directory = DataDirectory.open(
            config.node.data_dir,
            name=config.node.name,
            volume=config.cluster.volume,
            cluster_name=config.cluster.name,
            owner=self._owner,
            allow_network_file_system=config.storage.allow_network_file_system,
        )
        self._closers.append(self._directory.close)
        sync = config.cluster.volume == "persistent"
        self._log = SegmentLog.open(
            self._directory.path / "log",
            sync=sync,
            segment_bytes=config.storage.segment_bytes,
            cache_bytes_max=config.storage.cache_bytes_max,
        )
        self._closers.append(self._log.close)
        self._state = LmdbState.open(self._directory.path / "state", sync=sync)
        self._closers.append(self._state.close)
        self._open_sockets(loop)
        if self._formation.formed:
            self._start_groups()

    def _open_sockets(self, loop: asyncio.AbstractEventLoop) -> None:
        config = self._config
        peer_context, client_context = zmq.Context[zmq.Socket[bytes]](), zmq.Context[zmq.Socket[bytes]]()
        self._closers += [peer_context.term, client_context.term]
        peer_port = PeerPort(peer_context, f"tcp://{config.listen.peer}")
        self._closers.append(peer_port.close)
        port = ClientPort(client_context, config.listen.client)
        self._closers.append(port.close)
        self._formation = self._make_formation()
        network = PeerNetwork(peer_context, peer_port, self._formation, self._counters)
        self._closers.append(network.close)
        self._watch = LinkWatch(self._on_refused)
        self._closers.append(self._watch.close)
        self._node = Node(
            config,
            loop,
            formation=self._formation,
            network=network,
            port=port,
            log=self._log,
            state=self._state,
            housekeep=self._log.housekeep,
            counters=self._counters,
            on_failure=_die,
            on_change=self._changed.set,
        )
        self._descriptors = (peer_port.descriptor, port.descriptor)
        self._closers.append(lambda: self._node.stop(self._descriptors))

    def _make_formation(self) -> Formation:
        config, identity = self._config, self._directory.identity
        return Formation(
            name=config.node.name,
            uid=identity.node_uid,
            cluster=config.cluster.name,
            volume=config.cluster.volume,
            client=config.client_endpoint,
            peers={peer.name: peer.address for peer in config.peers},
            cluster_uid=identity.cluster_uid or b"",
            founders=identity.founders,
            members=identity.members,
            members_index=identity.members_index,
            record=self._directory,
            mint=lambda: os.urandom(16),
            complain=log.warning,
        )

    def _on_refused(self, key: str) -> None:
        """A link broke and the port of its peer refuses: if that peer leads, it does no more."""
        self._counters["peer_links_refused"] += 1
        for member_id in self._formation.known.ids_at(key):
            self._node.leader_lost(member_id)

    # --- groups ------------------------------------------------------------------------------------------------------

    def _start_groups(self) -> None:
        """Run the groups of a formed cluster from what log and store hold."""
        own = self._formation.own
        if own is None:
            raise _removed(self._formation)
        names = ", ".join(member.name for member in self._formation.members)
        log.info("member %d of cluster %s: %s", own.id, self._formation.cluster_uid.hex(), names)
        group = open_group(
            DATA_GROUP,
            own.id,
            self._formation.founders,
            self._config,
            self._log,
            self._state,
            self._node,
            self._node.confirm,
        )
        self._machines[DATA_GROUP] = group.machine
        self._node.add_group(group)

    # --- while it runs -----------------------------------------------------------------------------------------------

    async def _until(self, stop: asyncio.Event) -> None:
        gc.collect()
        gc.freeze()  # what start-up made stays: no collection need look at it again
        config = self._config
        log.info(
            "%s of %d nodes, tolerates %d down, volume %s, clients at %s, codec %s",
            config.node.name, config.size, config.tolerated, config.cluster.volume, config.client_endpoint,
            "compiled" if codec.compiled else "pure Python",
        )  # fmt: skip
        if codec.fallback_reason:
            log.warning("%s", codec.fallback_reason)
        if config.even_size_warning:
            log.warning("%s", config.even_size_warning)
        jobs: list[Coroutine[Any, Any, None]] = [self._greet(), self._sweep()]
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

    async def _greet(self) -> None:
        """HELLO to everybody, for ever; form the cluster when it is this node's turn; then flush its state."""
        await self._connect()
        await self._until_formed()
        if not self._machines:
            self._start_groups()
        flusher = StateFlusher(self._log, self._state, self._machines, self._config.storage.flush_ms)
        self._closers.append(flusher.close)
        place = self._directory.path / "snapshots"
        snapshots = Snapshots(place, self._node, self._log, self._state, flusher, self._counters, _die)
        self._node.snapshots = snapshots
        flushing = asyncio.ensure_future(flusher.run())
        try:
            while not flushing.done():
                self._node.network.send_hello()
                self._check_cluster()
                with suppress(TimeoutError):
                    await self._change()
                self._changed.clear()
                # Others hear of a change of the members only after it is stored here: this node must not need, after a power
                # cut, the vote of one that has left.
                await flusher.flush()
                self._formation.known.forget_silent(time.monotonic_ns())
                await self._connect()
            flushing.result()
        finally:
            flushing.cancel()
            await asyncio.gather(flushing, return_exceptions=True)
            await snapshots.close()

    async def _change(self) -> None:
        """Wait until members or roles are others. Raises TimeoutError when the next HELLO is due."""
        # Not `wait_for`: in Python 3.11 it loses a cancellation that comes with the event, and the node never ends.
        async with asyncio.timeout(HELLO_INTERVAL_S):
            await self._changed.wait()

    async def _until_formed(self) -> None:
        started, noticed = time.monotonic(), False
        while not self._formation.formed:
            await self._connect()
            self._node.network.send_hello()
            if not self._formation.try_to_form(time.monotonic_ns()):
                await asyncio.sleep(FORMING_INTERVAL_S)
            missing = self._formation.missing(time.monotonic_ns())
            if missing and not noticed and time.monotonic() - started > WAITING_NOTICE_S:
                noticed = True
                log.info("waiting for %s to form the cluster", ", ".join(missing))

    async def _connect(self) -> None:
        """Connect to every node at its present numeric address; a name that does not resolve is tried again later."""
        loop, network = asyncio.get_running_loop(), self._node.network
        for peer in self._formation.known.everybody():
            host, port = split_address(peer.address) or ("", 0)
            try:
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except OSError as error:
                log.debug("cannot resolve %s: %s", host, error)
                continue
            address = str(found[0][4][0])
            network.connect(peer, f"[{address}]:{port}" if ":" in address else f"{address}:{port}")
        network.drop_strangers()
        self._watch.follow(network.links)

    def _check_cluster(self) -> None:
        now_s = time.monotonic()
        if self._formation.removed and self._removed_s is None:
            self._removed_s = now_s
        if self._removed_s is not None and now_s - self._removed_s >= LINGER_S:
            raise _removed(self._formation)
        if len(self._formation.foreign) >= majority_of(self._node.voters):
            names = ", ".join(sorted(self._formation.foreign))
            raise DataDirectoryError(
                f"{self._config.node.data_dir} belongs to cluster {self._formation.cluster_uid.hex()}, but {names} to another"
            )

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self._config.limits.session_timeout_ms / 4000))
            self._node.sweep()
