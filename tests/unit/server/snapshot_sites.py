"""Whole nodes in one process, on real files and without sockets: real log, store, core, group and snapshots.

Messages are carried by hand, one tick of all nodes at a time. A node can be cut off at any step (`Cut`), as a crash would, and
opened again from its directory.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.unit.server.harness import batch, pending
from zmqbroker.commands import Member
from zmqbroker.config import NodeConfig
from zmqbroker.raft.messages import Message
from zmqbroker.server.disks import Disks
from zmqbroker.server.group import Group
from zmqbroker.server.node import Node
from zmqbroker.server.opening import open_group
from zmqbroker.server.snapshots import Snapshots
from zmqbroker.server.space import OwnSpace
from zmqbroker.server.state_flusher import StateFlusher
from zmqbroker.storage import LmdbState, SegmentLog
from zmqbroker.wire.peer import PeerKind

__all__ = ["GROUP", "Cut", "Site", "Sites"]

GROUP = 1
#: Ticks in which whatever a test waits for must have come.
PATIENCE = 2000


class Cut(Exception):
    """The process was killed here."""


class _Loop:
    """An event loop for a node that is driven by hand: it plans nothing."""

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Not planned."""

    def call_later(self, _delay_s: float, callback: Callable[[], None]) -> None:
        """Not planned."""

    def call_at(self, _when_s: float, callback: Callable[[], None]) -> None:
        """Not planned."""

    def time(self) -> float:
        """Stands still."""
        return 0.0


class _Port:
    """A client port without clients."""

    blocked = False

    def drain(self, _count_max: int) -> list[list[bytes]]:
        """Nothing comes."""
        return []

    def readable(self) -> bool:
        """Nothing waits."""
        return False

    def send(self, _routing_id: bytes, _frames: object) -> bool:
        """Whatever is sent is taken."""
        return True


class _Peer:
    """What a node knows of another one."""

    def __init__(self, member: Member) -> None:
        self.name, self.uid, self.client, self.id = member.name, member.uid, "", member.id


class _Formation:
    """Who is a member; it never changes."""

    client = ""

    def __init__(self, members: tuple[Member, ...]) -> None:
        self._members = members

    def member_with(self, uid: bytes) -> Member | None:
        """The member of a uid."""
        return next((member for member in self._members if member.uid == uid), None)

    def learn(self, _index: int, _members: object) -> None:
        """Known already."""

    def missing(self, _now_ns: int) -> list[str]:
        """Nobody."""
        return []


class _Network:
    """Carries what a node sends to the inboxes of the others."""

    blocked = False  # nothing waits on its way

    def __init__(self, sites: Sites, member: Member) -> None:
        self._sites, self._own = sites, member
        self.inbox: list[Any] = []
        self.bulk: set[int] = set()  # members to whom there is a connection for snapshots

    def receive(self, _count_max: int, _now_ns: int) -> list[Any]:
        """What has come since."""
        found, self.inbox = self.inbox, []
        return found

    def readable(self) -> bool:
        """All was taken."""
        return False

    def send_raft(self, messages: Iterable[Message]) -> None:
        """One frame per message."""
        for message in messages:
            self._sites.deliver(self._own.id, message.to, [message])

    def peer_of(self, member_id: int) -> _Peer | None:
        """The node of a Raft id."""
        found = [member for member in self._sites.members if member.id == member_id != self._own.id]
        return _Peer(found[0]) if found else None

    def peer_with(self, uid: bytes) -> _Peer | None:
        """The node of a uid."""
        return self.peer_of(next((member.id for member in self._sites.members if member.uid == uid), 0))

    def send_forward(self, kind: PeerKind, peer: _Peer, fields: dict[str, Any], frames: Iterable[bytes]) -> bool:
        """A frame that is not Raft's."""
        return self._sites.deliver(self._own.id, peer.id, (kind, self._own.uid, fields, list(frames)))

    def send_bulk(self, peer: _Peer, fields: dict[str, Any], chunk: bytes) -> bool:
        """A piece of a snapshot."""
        self.bulk.add(peer.id)
        return self.send_forward(PeerKind.SNAPSHOT, peer, fields, (chunk,))

    def end_bulk(self, member_id: int) -> None:
        """The connection is closed."""
        self.bulk.discard(member_id)


class Site:
    """One node. `cut_at` names the step at which it is cut off."""

    def __init__(self, sites: Sites, member: Member, directory: Path, config: NodeConfig) -> None:
        self.member, self.directory = member, directory
        self._sites, self._config = sites, config
        self.failures: list[BaseException] = []  # what would have ended the process
        self.running = False

    def open(self) -> None:
        """Start the process."""
        self.running, self.counters = True, Counter[str]()
        self.log = SegmentLog.open(self.directory / "log", sync=False, segment_bytes=64 << 10, cache_bytes_max=64 << 10)
        self.state = LmdbState.open(self.directory / "state", sync=False, map_size=64 << 20)
        self.network = _Network(self._sites, self.member)
        parts: dict[str, Any] = {
            "formation": _Formation(self._sites.members),
            "network": self.network,
            "port": _Port(),
            "log": self.log,
            "state": self.state,
            "disks": Disks(self._config, OwnSpace(str(self.directory), 1, self.state.reusable_bytes)),
            "housekeep": self.log.housekeep,
            "counters": self.counters,
            "on_failure": self.failures.append,
            "on_change": lambda: None,
        }
        self.node = Node(self._config, _Loop(), **parts)  # type: ignore[arg-type]
        opened = open_group(GROUP, self.member.id, self._sites.members, self._config, self.log, self.state, self.node, "quorum")
        self.node.add_group(opened)
        self.flusher = StateFlusher(self.log, self.state, {GROUP: opened.machine}, 1)
        self.snapshots = Snapshots(
            self.directory / "snapshots",
            self.node,
            self.log,
            self.state,
            self.flusher,
            self.counters,
            self.failures.append,
        )
        self.node.snapshots = self.snapshots

    @property
    def group(self) -> Group:
        """The only group."""
        return self.node.groups[GROUP]

    async def kill(self) -> None:
        """The process ends at once; what the kernel has stays."""
        self.running = False
        for task in (*self.snapshots._tasks, *self.snapshots._installs):
            task.cancel()
        await asyncio.gather(*self.snapshots._tasks, *self.snapshots._installs, return_exceptions=True)
        for _, file in self.snapshots._outgoing.values():
            file.close()
        for _, writing, _ in self.snapshots._incoming.values():
            writing.close()
        self.flusher.close()
        self.log.close()
        self.state.close()

    async def stop(self) -> None:
        """The process ends in order."""
        await self.snapshots.close()
        await self.kill()

    def files(self) -> list[str]:
        """What lies in the directory of snapshots."""
        return sorted(path.name for path in (self.directory / "snapshots").iterdir())


class Sites:
    """Three nodes and what is on its way between them."""

    def __init__(self, directory: Path) -> None:
        flags = {"limits.requests_max": 10_000, "raft.append_bytes_max": 64 << 10, "raft.inflight_bytes_max": 1 << 20}
        config = NodeConfig.for_test(flags)
        self.members = tuple(Member(number, f"n{number}", bytes([number]) * 16, f"h{number}:1") for number in (1, 2, 3))
        self.sites = {member.id: Site(self, member, directory / member.name, config) for member in self.members}
        for site in self.sites.values():
            site.directory.mkdir()
        self.loses: Callable[[int, int, Any], bool] = lambda _sender, _to, _frame: False
        self._written = 0

    def __getitem__(self, number: int) -> Site:
        return self.sites[number]

    def deliver(self, sender: int, to: int, frame: Any) -> bool:
        """Carry a frame; False when nobody is there."""
        if not self.sites[to].running:
            return False
        if not self.loses(sender, to, frame):
            self.sites[to].network.inbox.append(frame)
        return True

    async def tick(self) -> None:
        """One tick of every node that runs; afterwards all has happened that it began on other threads."""
        for site in self.sites.values():
            if site.running:
                site.node._tick()
        for site in self.sites.values():
            for _ in range(4):  # a task that goes on may give the thread its next job
                if site.running and not site.failures:
                    await site.flusher.job(lambda: None)
                    await asyncio.sleep(0)

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        """Tick until something is so."""
        for _ in range(PATIENCE):
            if condition():
                return
            await self.tick()
        raise AssertionError(f"not within {PATIENCE} ticks: {what}")

    @property
    def leader(self) -> Site | None:
        """The node that leads."""
        leading = [site for site in self.sites.values() if site.running and site.group.leading]
        return max(leading, key=lambda site: site.group.core.term, default=None)

    async def lead(self, number: int) -> None:
        """Let a node lead."""
        await self.until(lambda: self.leader, "a leader")
        assert self.leader is not None
        if self.leader is not self[number]:
            self.leader.group.core.transfer_leader(number)
        await self.until(lambda: self.leader is self[number], f"node {number} leads")

    async def write(self, count: int, size: int = 4000) -> None:
        """Publish so many messages at the leader and let them be applied there and stored everywhere."""
        for _ in range(count):
            await self.until(lambda: self.leader, "a leader")
            assert self.leader is not None
            self._written += 1
            body = self._written.to_bytes(4, "big") * (size // 4)
            self.leader.group.publish(batch(body), 0, pending(self._written))
            await self.tick()
        await self.settle()

    async def settle(self) -> None:
        """All that is committed is applied by every running node, and flushed."""
        await self.tick()  # what was just submitted is proposed
        await self.until(lambda: self.equal, "equal nodes")
        for site in self.sites.values():
            if site.running:
                await site.flusher.flush()

    @property
    def equal(self) -> bool:
        """Whether all running nodes have applied all that there is."""
        running = [site for site in self.sites.values() if site.running]
        applied = {site.group.machine.applied_index for site in running}
        return (
            self.leader is not None
            and applied == {self.leader.group.core.last_index}
            and all(site.group.core.applied_index == site.group.machine.applied_index for site in running)
        )

    def digests(self) -> set[bytes]:
        """The digests of the running nodes' states."""
        return {site.group.machine.digest() for site in self.sites.values() if site.running}

    async def close(self) -> None:
        """End every node."""
        for site in self.sites.values():
            if site.running:
                await site.kill()
