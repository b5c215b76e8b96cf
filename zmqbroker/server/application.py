"""From a configuration to a running node and back to an exit status.

Opens what a node owns (directory, log, store, sockets), runs it on one event loop until SIGTERM or SIGINT, and closes it in
order. A log that cannot be written ends the process at once with status 70: nothing after a failed sync can be trusted.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

import uvloop
import zmq

from zmqbroker.broker import Machine
from zmqbroker.commands import Member
from zmqbroker.config import NodeConfig, split_address
from zmqbroker.errors import ConfigError, Corruption, DataDirectoryError, StorageError
from zmqbroker.raft import Membership, RaftConfig, RaftCore
from zmqbroker.server.clock import SystemClock
from zmqbroker.server.desk import DATA_GROUP
from zmqbroker.server.formation import Formation
from zmqbroker.server.group import Group
from zmqbroker.server.links import LinkWatch
from zmqbroker.server.node import Node
from zmqbroker.server.peers import PeerNetwork
from zmqbroker.server.persistence import StateFlusher
from zmqbroker.server.sockets import ClientPort, PeerPort
from zmqbroker.storage.directory import DataDirectory, raise_file_limit
from zmqbroker.storage.lmdb_state import LmdbState
from zmqbroker.storage.segment_log import SegmentLog
from zmqbroker.wire import codec

__all__ = ["EXIT_DAMAGED", "EXIT_INTERNAL", "EXIT_USAGE", "run"]

EXIT_USAGE, EXIT_DAMAGED, EXIT_INTERNAL = 2, 6, 70
#: HELLOs are frequent until the cluster is formed, then once a second.
FORMING_INTERVAL_S, HELLO_INTERVAL_S = 0.1, 1.0
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
    """A failed check means that this node no longer is what its peers believe: it ends, they go on."""
    error = context.get("exception")
    log.critical("%s; this node ends now", context.get("message"), exc_info=error)
    logging.shutdown()
    os._exit(EXIT_DAMAGED if isinstance(error, Corruption) else EXIT_INTERNAL)


class _Application:
    """What a node owns, in the order in which it is opened."""

    def __init__(self, config: NodeConfig, owner: str) -> None:
        self._config, self._owner = config, owner
        self._counters: Counter[str] = Counter()
        self._machines: dict[int, Machine] = {}
        self._closers: list[Callable[[], None]] = []  # undone in reverse

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
        finally:
            while self._closers:
                self._closers.pop()()
        log.info("stopped")

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
        config, identity = self._config, self._directory.identity
        peer_context, client_context = zmq.Context[zmq.Socket[bytes]](), zmq.Context[zmq.Socket[bytes]]()
        self._closers += [peer_context.term, client_context.term]
        peer_port = PeerPort(peer_context, f"tcp://{config.listen.peer}")
        self._closers.append(peer_port.close)
        port = ClientPort(client_context, config.listen.client)
        self._closers.append(port.close)
        self._formation = Formation(
            name=config.node.name,
            uid=identity.node_uid,
            cluster=config.cluster.name,
            volume=config.cluster.volume,
            client=config.client_endpoint,
            peers={peer.name: peer.address for peer in config.peers},
            cluster_uid=identity.cluster_uid or b"",
            members=identity.members,
            form=self._form,
            mint=lambda: os.urandom(16),
            complain=log.warning,
        )
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
            housekeep=self._log.housekeep,
            counters=self._counters,
            on_failure=_die,
        )
        self._descriptors = (peer_port.descriptor, port.descriptor)
        self._closers.append(lambda: self._node.stop(self._descriptors))

    def _on_refused(self, peer: str) -> None:
        self._counters["peer_links_refused"] += 1
        member = self._formation.member_named(peer)
        if member is not None:
            self._node.leader_lost(member.id)

    def _form(self, cluster_uid: bytes, members: tuple[Member, ...]) -> None:
        self._directory.save_membership(cluster_uid, members)
        log.info("member of cluster %s: %s", cluster_uid.hex(), ", ".join(member.name for member in members))

    # --- groups ------------------------------------------------------------------------------------------------------

    def _start_groups(self) -> None:
        """Run the groups of a formed cluster from what log and store hold."""
        config = self._config
        member = self._formation.member_named(config.node.name)
        assert member is not None
        applied_index = self._state.applied_index(DATA_GROUP)
        machine = Machine.restore(applied_index, self._state.load(DATA_GROUP))
        raft = RaftConfig(
            id=member.id,
            group=DATA_GROUP,
            election_ticks=config.raft.election_ticks,
            heartbeat_ticks=config.raft.heartbeat_ticks,
            inflight_messages_max=config.raft.inflight_messages_max,
            inflight_bytes_max=config.raft.inflight_bytes_max,
            message_bytes_max=config.raft.append_bytes_max,
            uncommitted_bytes_max=config.raft.uncommitted_bytes_max,
            committed_bytes_max=config.raft.committed_bytes_max,
        )
        membership = Membership(voters=tuple(sorted(known.id for known in self._formation.members)))
        core = RaftCore(raft, membership, self._log.view(DATA_GROUP), random.Random(os.urandom(16)), applied_index)
        self._machines[DATA_GROUP] = machine
        self._node.network.name_members()
        group = Group(
            DATA_GROUP,
            core,
            machine,
            self._node,
            self._node.confirm,
            SystemClock(),
            requests_max=config.limits.requests_max,
            trim_bytes=config.storage.segment_bytes // 4,  # so that little more than the segment in use stays behind
        )
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
        finally:
            for task in (waiter, *tasks):
                task.cancel()
            await asyncio.gather(waiter, *tasks, return_exceptions=True)

    async def _greet(self) -> None:
        """HELLO to everybody, for ever; form the cluster when it is this node's turn; then flush its state."""
        await self._connect()
        started = time.monotonic()
        noticed = False
        while not self._formation.formed:
            await self._connect()
            self._node.network.send_hello()
            if not self._formation.try_to_form(time.monotonic_ns()):
                await asyncio.sleep(FORMING_INTERVAL_S)
            missing = self._formation.missing(time.monotonic_ns())
            if missing and not noticed and time.monotonic() - started > WAITING_NOTICE_S:
                noticed = True
                log.info("waiting for %s to form the cluster", ", ".join(missing))
        if not self._machines:
            self._start_groups()
        flusher = StateFlusher(self._log, self._state, self._machines, self._config.storage.flush_ms)
        self._closers.append(flusher.close)
        flushing = asyncio.ensure_future(flusher.run())
        try:
            while not flushing.done():
                self._node.network.send_hello()
                self._check_cluster()
                await asyncio.sleep(HELLO_INTERVAL_S)
                await self._connect()
            flushing.result()
        finally:
            flushing.cancel()
            await asyncio.gather(flushing, return_exceptions=True)

    async def _connect(self) -> None:
        """Connect to every peer at its present numeric address; a name that does not resolve is tried again later."""
        loop = asyncio.get_running_loop()
        for name in self._formation.peers:
            host, port = split_address(self._formation.addresses[name]) or ("", 0)
            try:
                found = await loop.getaddrinfo(host, port, type=1)
            except OSError as error:
                log.debug("cannot resolve %s: %s", host, error)
                continue
            address = str(found[0][4][0])
            self._node.network.connect(name, f"[{address}]:{port}" if ":" in address else f"{address}:{port}")
        self._watch.follow(self._node.network.links)

    def _check_cluster(self) -> None:
        if len(self._formation.foreign) >= self._config.majority:
            names = ", ".join(sorted(self._formation.foreign))
            raise DataDirectoryError(
                f"{self._config.node.data_dir} belongs to cluster {self._formation.cluster_uid.hex()}, but {names} to another"
            )

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self._config.limits.session_timeout_ms / 4000))
            self._node.sweep()
