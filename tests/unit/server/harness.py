"""A group on a core and a log in memory, and a host that keeps what it is told."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from zmqbroker.broker import Machine, MachineLimits
from zmqbroker.commands import Delivery, Member, Receive, ReceiveKey
from zmqbroker.errors import NotLeader, RequestError
from zmqbroker.raft import Membership, RaftConfig, RaftCore
from zmqbroker.raft.messages import Message, SoftState, StorageAppend
from zmqbroker.server.clock import Clock, SystemClock
from zmqbroker.server.group import Group
from zmqbroker.server.membership import founding, membership_of
from zmqbroker.server.routes import Pending, PendingSends, Route, Waiter
from zmqbroker.storage.memory import MemoryLog
from zmqbroker.wire import codec
from zmqbroker.wire.entries import decode_entry
from zmqbroker.wire.frames import Reply, Request, encode_header, request_id_of

GROUP = 1
ALICE, BOB = b"a" * 16, b"b" * 16


def _requests(pending: Waiter) -> list[int]:
    """The ids of the requests that wait."""
    if isinstance(pending, Pending):
        return [pending.request_id]
    return [request_id_of(header) for *_, header in pending.waiters]


class Host:
    """A `group.Host` that writes down what a node would do."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, Reply, dict[str, Any]]] = []  # request id, code, fields
        self.refused: list[tuple[int, RequestError]] = []
        self.delivered: list[tuple[Pending, Delivery]] = []
        self.roles: list[SoftState] = []
        self.members_changes = 0
        self.leader: str | None = "tcp://other:5590"  # what is told to those who are sent away

    def reply(self, pending: Waiter, code: Reply, fields: dict[str, Any], frames: Iterable[bytes] = ()) -> None:
        self.replies += [(request, code, fields) for request in _requests(pending)]

    def refuse(self, pending: Waiter, error: RequestError) -> None:
        self.refused += [(request, error) for request in _requests(pending)]

    def deliver(self, pending: Pending, delivery: Delivery, group: int) -> None:
        assert group == GROUP
        self.delivered.append((pending, delivery))

    def not_leading(self, group: int, *, outcome_unknown: bool) -> RequestError:
        return NotLeader("another node leads", outcome_unknown=outcome_unknown, leader=self.leader)

    def role_changed(self, group: int, soft_state: SoftState) -> None:
        self.roles.append(soft_state)

    def members_changed(self, group: int) -> None:
        assert group == GROUP
        self.members_changes += 1


class StillClock:
    """A `LeaderClock` that the test moves."""

    def __init__(self, now_unix_ns: int) -> None:
        self.stamp = now_unix_ns

    def now_unix_ns(self) -> int:
        return self.stamp

    def pass_by(self, stamp_unix_ns: int) -> None:
        """The test alone moves it."""


class Clocks:
    """A `Clock` that the test moves."""

    def __init__(self, wall_unix_ns: int) -> None:
        self.wall = wall_unix_ns
        self.steady = 0

    def monotonic_ns(self) -> int:
        return self.steady

    def wall_unix_ns(self) -> int:
        return self.wall


def member(number: int, name: str = "", *, voter: bool = True, replaces: int = 0) -> Member:
    """A node of the cluster: its name, uid and address follow from its id."""
    return Member(number, name or f"n{number}", bytes([number]) * 16, f"h{number}:5591", voter, replaces)


class Site:
    """One node: its group, its log, and the messages that it wants sent."""

    def __init__(
        self,
        number: int = 1,
        voters: tuple[int, ...] = (1,),
        *,
        requests_max: int = 1000,
        trim_bytes: int = 1 << 30,
        limits: MachineLimits | None = None,
        clock: Clock | None = None,
        confirm: str = "quorum",
        **raft: Any,
    ) -> None:
        self.host = Host()
        self.log = MemoryLog()
        self.machine = Machine(limits)
        self.machine.found(founding(map(member, voters)))
        config = RaftConfig(id=number, group=GROUP, **raft)
        core = RaftCore(config, Membership(voters), self.log.view(GROUP), random.Random(number))
        self.group = Group(
            GROUP,
            core,
            self.machine,
            self.host,
            confirm,
            clock or SystemClock(),
            requests_max=requests_max,
            trim_bytes=trim_bytes,
        )
        self.outgoing: list[Message] = []

    def members(self) -> list[str]:
        """The members by name, those that do not vote in parentheses, as this node has applied them."""
        votes = membership_of(self.machine.roster).is_voter
        return [one.name if votes(one.id) else f"({one.name})" for one in self.machine.roster.members]

    def lead(self) -> Site:
        """Win an election, in a group of one."""
        self.group.core.campaign()
        self.run()
        assert self.group.leading
        return self

    def run(self) -> None:
        """Do all that a node would do in a pass, with a log that is done at once."""
        while True:
            works: list[StorageAppend] = []
            self.group.collect(self.outgoing, works)
            if not works and not self.group.apply():
                return
            self.log.complete(self.log.prepare(works))
            for work in works:
                self.outgoing += self.group.advance(work)


def exchange(sites: dict[int, Site]) -> None:
    """Carry messages between the nodes until there are none; those for nodes that are not in `sites` are lost."""
    while True:
        for site in sites.values():
            site.run()
        messages = [message for site in sites.values() for message in site.outgoing]
        if not messages:
            return
        for site in sites.values():
            site.outgoing.clear()
        for message in messages:
            if message.to in sites:
                sites[message.to].group.step(message)


def trio(*, clocks: dict[int, Clocks] | None = None, **settings: Any) -> dict[int, Site]:
    """Three nodes, the first leads."""
    sites = {number: Site(number, (1, 2, 3), clock=(clocks or {}).get(number), **settings) for number in (1, 2, 3)}
    sites[1].group.core.campaign()
    exchange(sites)
    assert sites[1].group.leading
    return sites


def lose_leadership(sites: dict[int, Site]) -> None:
    """Node 2 wins a higher term with node 3 while node 1 hears nothing, then node 1 hears of it."""
    majority = {number: sites[number] for number in (2, 3)}
    for _ in range(2 * 10 * 2):
        for site in majority.values():
            site.group.tick()
        exchange(majority)
    assert any(site.group.leading for site in majority.values())
    for _ in range(2):
        for site in majority.values():
            site.group.tick()
        exchange(sites)


def commands_at(site: Site, index: int) -> list[type]:
    """What kinds of commands an entry holds."""
    return [type(command) for command in decode_entry(site.log.read(GROUP, index)).commands]


def pending(request: int, session: bytes = ALICE, *, plain: bool = False) -> Pending:
    """A request that is no RECEIVE."""
    return Pending(Route(b"r", False), request, session, None, plain)


def sends(*requests: int) -> PendingSends:
    """Plain SENDs that became one batch."""
    return PendingSends([[b"r", encode_header(Request.SEND, request, {})] for request in requests])


def waiting(request: int, session: bytes = ALICE, *, consumer: int = 0, plain: bool = False, route: bytes = b"r") -> Pending:
    """A RECEIVE."""
    return Pending(Route(route, False), request, session, ReceiveKey(session, consumer, request), plain)


def receive(asked: Pending, *, count_max: int = 10, wait_ms: int = 0, visibility_ms: int = 30_000) -> Receive:
    """The command of a `waiting` request."""
    assert asked.key is not None
    return Receive(asked.key, "c", count_max=count_max, wait_ms=wait_ms, visibility_ms=visibility_ms)


def batch(*bodies: bytes, producer: int = 0, base: int = 0) -> bytes:
    """A batch frame for the channel c."""
    return codec.encode_batch(b"c", list(bodies), producer, base)
