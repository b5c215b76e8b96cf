"""A follower on real files and without sockets: the product's own log, store, core, group, flusher and snapshots.

It is opened as a node opens itself (server/data.py, server/opening.py), told what a script says (tests/fault/leader_script.py),
and says what leaves it. Time stands still: it never ticks, so nothing happens but what it is told.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fault.leader_script import FOLLOWER, MEMBERS, Step
from tests.unit.server.harness import Host
from tests.unit.server.snapshot_sites import _Formation, _Network, _Port
from zmqbroker.config import NodeConfig
from zmqbroker.raft.messages import Message
from zmqbroker.server import state_flusher
from zmqbroker.server.data import NodeData
from zmqbroker.server.desk import DATA_GROUP
from zmqbroker.server.disks import Disks
from zmqbroker.server.group import Group
from zmqbroker.server.group import Host as GroupHost
from zmqbroker.server.node import Node
from zmqbroker.server.opening import open_group
from zmqbroker.server.snapshots import Snapshots
from zmqbroker.server.space import OwnSpace
from zmqbroker.server.state_flusher import StateFlusher
from zmqbroker.storage import headroom
from zmqbroker.wire.peer import PeerKind

__all__ = ["CLUSTER_UID", "Follower", "config_of", "is_formed", "make_small", "open_data", "opened_group"]

CLUSTER_UID = b"c" * 16
#: Two segments, so that bodies move.
_LOG_BUDGET_BYTES = 128 << 10
_PEERS = tuple(f"{member.name}={member.peer}" for member in MEMBERS)
#: Seconds in which a step must have its answer; only a hang reaches it.
_PATIENCE_S = 60.0


def make_small() -> None:
    """Let bodies move in many steps, and the store keep little room: a process that does this does nothing else."""
    state_flusher.CHUNK_BYTES = 8 << 10
    headroom.HEADROOM_BYTES = 4 << 10


def config_of(directory: Path) -> NodeConfig:
    """The settings of the follower, whose data is in `directory`."""
    flags = {"node.name": FOLLOWER.name, "node.data_dir": str(directory), "cluster.volume": "persistent"}
    return NodeConfig.for_test({**flags, "cluster.peers": _PEERS})


def open_data(directory: Path, boot: str) -> NodeData:
    """Open the follower's data as a node does in a boot of the machine with this name."""
    return NodeData(config_of(directory), "serve", lambda: boot)


def is_formed(data: NodeData) -> bool:
    """Whether the follower belongs to its cluster already."""
    return data.directory.identity.cluster_uid is not None


def opened_group(data: NodeData, host: GroupHost | None = None) -> Group:
    """The group as log and store left it. Raises Corruption."""
    founders, config = data.directory.identity.founders, config_of(data.directory.path)
    return open_group(DATA_GROUP, FOLLOWER.id, founders, config, data.log, data.state, host or Host(), "quorum+fsync")


class Follower:
    """One process. `tell` hears every message that leaves it."""

    members = MEMBERS

    def __init__(self, directory: Path, tell: Callable[[Message], None]) -> None:
        self._tell = tell
        self._answered = asyncio.Event()
        self._answers: list[Message] = []
        self._data = data = open_data(directory, "boot-1")
        if not is_formed(data):
            data.directory.save_formation(CLUSTER_UID, MEMBERS, 0, MEMBERS)
        self._network = _Network(self, FOLLOWER)  # type: ignore[arg-type]
        config, counters = config_of(directory), Counter[str]()
        parts: dict[str, Any] = {
            "formation": _Formation(MEMBERS),
            "network": self._network,
            "port": _Port(),
            "log": data.log,
            "state": data.state,
            "disks": Disks(config, OwnSpace(str(directory), 1, data.state.reusable_bytes)),
            "housekeep": data.housekeep,
            "counters": counters,
            "on_failure": self._fail,
            "on_change": lambda: None,
            "data": data,
        }
        self._node = Node(config, asyncio.get_running_loop(), **parts)
        group = opened_group(data, self._node)
        self._node.add_group(group)
        self._flusher = StateFlusher(data.log, data.state, {DATA_GROUP: group.machine}, 1, _LOG_BUDGET_BYTES)
        self._snapshots = Snapshots(
            directory / "snapshots", self._node, data.log, data.state, self._flusher, counters, self._fail
        )
        self._node.snapshots = self._snapshots

    def _fail(self, error: BaseException) -> None:
        raise AssertionError("the follower's disk works") from error

    def deliver(self, _sender: int, _to: int, frame: Any) -> bool:
        """Something leaves the follower."""
        if isinstance(frame, list):
            for message in frame:
                self._tell(message)
                self._answers.append(message)
            self._answered.set()
        return True

    async def take(self, step: Step) -> None:
        """Hear what a step says, and come to its answer."""
        self._answers.clear()
        if step.message is not None:
            self._network.inbox.append([step.message])
        for chunk in step.chunks:
            self._network.inbox.append((PeerKind.SNAPSHOT, MEMBERS[chunk.term % 2].uid, chunk.fields(), [chunk.data]))
        self._node._pass()
        async with asyncio.timeout(_PATIENCE_S):
            while not any(self._answers_to(step, message) for message in self._answers):
                self._answered.clear()
                await self._answered.wait()

    def _answers_to(self, step: Step, message: Message) -> bool:
        assert not message.reject, message
        return message.index >= step.reached

    async def flush(self) -> int:
        """Flush; the index up to which the state is stored."""
        await self._flusher.flush()
        return self._flusher.flushed(DATA_GROUP)

    async def close(self, *, orderly: bool) -> None:
        """End the process, with all that it has begun."""
        await self._flusher.settle()
        await self._snapshots.close()
        self._node.stop(())
        self._flusher.close()
        self._data.close(orderly=orderly)
