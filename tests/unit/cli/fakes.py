"""A broker in memory with the client's interface, for commands to talk to."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, cast

from zmqbroker.cli.options import CommandContext, Connect
from zmqbroker.client import DestinationResult, Explained, SendResult
from zmqbroker.client.message import Origin
from zmqbroker.commands import ChannelSettings
from zmqbroker.errors import (
    BrokerError,
    Busy,
    ChannelExists,
    ChannelNotFound,
    DeadlineExceeded,
    RouteNotFound,
    ScheduleNotFound,
    UnreadableBody,
)
from zmqbroker.wire.queue_requests import settings_fields

__all__ = ["FakeBroker", "FakeMessage", "node_fields"]


def endpoints_of(url: str) -> list[str]:
    """The endpoints that a URL of these tests names."""
    if not url.startswith("zmqbroker://"):
        return [url]
    return [f"tcp://{host if ':' in host else host + ':5590'}" for host in url.removeprefix("zmqbroker://").split(",")]


def node_fields(
    name: str, names: list[str], *, role: str = "follower", leader: str | None = None, term: int = 3
) -> dict[str, Any]:
    """NODE of one node in a cluster of `names`, whose client ports are 5590, 5593, …"""
    size = len(names)
    return {
        "node": {"name": name, "pid": 1},
        "cluster": {
            "name": "dev",
            "size": size,
            "majority": size // 2 + 1,
            "tolerated": (size - 1) // 2,
            "volume": "ephemeral",
            "confirm": "quorum",
            "formed": True,
        },
        "groups": [
            {
                "group": 1,
                "role": role,
                "term": term,
                "leader": leader,
                "commit_index": 40,
                "applied_index": 39,
                "last_index": 41,
                "sends_refused_by": [],
            }
        ],
        "disk": {"free_bytes": 5 << 30, "low_water_bytes": 1 << 30, "short": False, "slow": False},
        "members": [
            {
                "id": number + 1,
                "name": member,
                "client": f"tcp://127.0.0.1:{5590 + 3 * number}",
                "reachable": True,
                "self": member == name,
                "voter": True,
                "joining": False,
            }
            for number, member in enumerate(names)
        ],
    }


@dataclass
class FakeMessage:
    """A received message; the attributes that commands use."""

    queue: FakeQueue
    raw_body: bytes
    sequence: int
    delivery_count: int = 1
    time_unix_ns: int = 1_700_000_000_000_000_000
    id: str = ""
    group: str = ""
    metadata: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    origin: Origin | None = None
    state: str = "ready"
    due_unix_ns: int = 0

    @property
    def body(self) -> bytes:
        """The body, unless its test says that nobody can read it."""
        if self.queue.broker.unreadable:
            raise UnreadableBody(f"message {self.sequence} is no zlib stream")
        return self.raw_body

    @property
    def channel(self) -> str:
        """The channel's name."""
        return self.queue.name

    async def ack(self) -> None:
        """Finish it."""
        await self.queue.ack([self])


class FakeQueue:
    """One queue; also what a producer of it is."""

    def __init__(self, broker: FakeBroker, name: str) -> None:
        self.broker, self.name = broker, name

    @property
    def _bodies(self) -> deque[tuple[int, bytes]]:
        return self.broker.ready[self.name]

    def _store(self, body: bytes, attributes: dict[str, Any]) -> SendResult:
        if self.broker.failure is not None:
            raise self.broker.failure
        self.broker.settings.setdefault(self.name, {})
        self.broker.last_sequence[self.name] += 1
        sequence = self.broker.last_sequence[self.name]
        self.broker.attributes[self.name, sequence] = attributes
        if sequence not in self.broker.swallowed:
            self._bodies.append((sequence, body))
        return SendResult(sequence, 5, duplicate=False, confirm="quorum", duplicate_of=self.broker.known.get(sequence, 0))

    def _message(self, sequence: int, body: bytes, delivery_count: int) -> FakeMessage:
        sent = self.broker.attributes[self.name, sequence]
        kept = {name: sent[name] for name in ("id", "metadata", "tags", "origin") if sent.get(name) is not None}
        return FakeMessage(self, body, sequence, delivery_count, **kept)

    async def send(self, body: bytes, **attributes: Any) -> SendResult | None:
        """Store one message; what is not to be confirmed is not."""
        result = self._store(body, attributes)
        self.broker.unread += 1
        return None if attributes.get("confirm") == "none" else result

    async def wait_idle(self) -> None:
        """What nobody confirms has been read."""
        self.broker.unread_most = max(self.broker.unread_most, self.broker.unread)
        self.broker.unread = 0

    async def explain(self, body: bytes) -> Explained:
        """Store one message, which took 900 µs, 100 of them outside."""
        return Explained(self._store(body, {}), {"proposed": 200, "quorum": 700, "logged": 500, "sent": 800}, 900)

    def producer(self, **settings: Any) -> FakeProducer:
        """A producer; its settings are remembered."""
        self.broker.producer_settings.append(settings)
        return FakeProducer(self)

    async def receive(self, max: int = 1, *, wait_ms: int = 0, visibility_ms: int = 30_000) -> list[FakeMessage]:
        """Take up to `max` messages; a wait ends at once."""
        await asyncio.sleep(0)  # let the others run, as a real request does
        taken = [self._bodies.popleft() for _ in range(min(max, len(self._bodies)))]
        messages = [self._message(sequence, body, 1) for sequence, body in taken]
        self.broker.in_flight[self.name] += messages
        return messages

    async def ack(self, messages: Iterable[FakeMessage]) -> None:
        """Finish messages."""
        for message in messages:
            self.broker.in_flight[self.name].remove(message)
            self.broker.acked.append((self.name, message.sequence))

    async def peek(self, max: int = 1, *, first: int = 1, since_unix_ns: int = 0) -> list[FakeMessage]:
        """Look at up to `max` messages, but no more than fit into one answer."""
        self._check()
        self.broker.managed.append(("peek", self.name, max, first, since_unix_ns))
        found = [self._message(sequence, body, 0) for sequence, body in self._bodies if sequence >= first]
        return [message for message in found if message.time_unix_ns >= since_unix_ns][: min(max, self.broker.page)]

    async def purge(self, *, in_flight: bool = False) -> int:
        """Finish what is ready, or all."""
        self._check()
        held = self.broker.in_flight[self.name] if in_flight else []
        count = len(self._bodies) + len(held)
        self._bodies.clear()
        held.clear()
        return count

    async def delete(self, sequences: Iterable[int]) -> int:
        """Finish what is ready."""
        self._check()
        wanted = list(sequences)
        self.broker.managed.append(("delete", self.name, wanted))
        kept = [pair for pair in self._bodies if pair[0] not in wanted]
        count = len(self._bodies) - len(kept)
        self.broker.ready[self.name] = deque(kept)
        return count

    async def redrive(self, *, to: str = "", origin: str = "", max: int = 0) -> int:
        """Remember it; as many as asked for, or two, were there."""
        self._check()
        self.broker.managed.append(("redrive", self.name, to, origin, max))
        return max or 2

    async def stats(self) -> dict[str, Any]:
        """The counters."""
        self._check()
        return self.broker.described(self.name)

    def _check(self) -> None:
        self.broker.described(self.name)


class FakeProducer:
    """A producer whose confirms come at once."""

    def __init__(self, queue: FakeQueue) -> None:
        self._queue = queue

    async def send(self, body: bytes, **attributes: Any) -> asyncio.Future[SendResult]:
        """Store a message; the future is done."""
        future: asyncio.Future[SendResult] = asyncio.get_running_loop().create_future()
        try:
            future.set_result(self._queue._store(body, attributes))
        except BrokerError as error:
            future.set_exception(error)
        await asyncio.sleep(0)
        return future

    async def flush(self) -> None:
        """Nothing is ever pending."""

    async def __aenter__(self) -> FakeProducer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.flush()


class FakeChannels:
    """All channels; settings are kept as they are given, those at their default are not told."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker

    async def create(self, name: str, **settings: Any) -> bool:
        """Create a channel."""
        if self._broker.failure is not None:
            raise self._broker.failure
        wanted = settings_fields(ChannelSettings(**settings))
        there = self._broker.settings.setdefault(name, wanted)
        if there is not wanted and there != wanted:
            raise ChannelExists(f"channel {name!r} is there with other settings")
        return there is wanted

    async def update(self, name: str, **settings: Any) -> bool:
        """Change settings."""
        there = (await self.describe(name))["settings"]
        wanted = settings_fields(ChannelSettings(**(there | settings)))
        self._broker.settings[name] = wanted
        return bool(there != wanted)

    async def delete(self, name: str) -> None:
        """Delete a channel."""
        await self.describe(name)
        del self._broker.settings[name]

    async def describe(self, name: str) -> dict[str, Any]:
        """CHANNEL."""
        await asyncio.sleep(0)
        return self._broker.described(name)

    async def set_defaults(self, pattern: str, **settings: Any) -> bool:
        """Remember what is said of a pattern."""
        there = self._broker.defaults.get(pattern, {})
        self._broker.defaults[pattern] = settings
        return there != settings

    async def delete_defaults(self, pattern: str) -> bool:
        """Forget it."""
        return self._broker.defaults.pop(pattern, None) is not None

    async def list_defaults(self) -> dict[str, dict[str, Any]]:
        """All of them, by pattern."""
        return dict(sorted(self._broker.defaults.items()))

    async def list(self, search: str = "") -> AsyncIterator[dict[str, Any]]:
        """All of them, by name."""
        for name in sorted(self._broker.settings):
            if search in name:
                yield await self.describe(name)


class FakeSchedules:
    """All schedules; what they were made with is kept."""

    def __init__(self, broker: FakeBroker) -> None:
        self._schedules = broker.schedules

    async def create(self, name: str, channel: str, body: bytes, **options: Any) -> bool:
        """Make one, unless it is there."""
        wanted = {"channel": channel, "body": body, **options}
        return self._schedules.setdefault(name, wanted) is wanted

    async def delete(self, name: str) -> None:
        """Delete one."""
        if self._schedules.pop(name, None) is None:
            raise ScheduleNotFound(f"no schedule is called {name!r}")

    async def list(self, search: str = "") -> AsyncIterator[dict[str, Any]]:
        """All of them, by name; one that comes a number of times has ended."""
        for name, made in sorted(self._schedules.items()):
            if search in name:
                plan = {key: made[key] for key in ("cron", "every_ms") if made[key]}
                ended = bool(made["times"])
                instant = None if ended else 1_700_000_000_000_000_000
                left = 0 if ended else None
                row = {"name": name, "channel": made["channel"], "plan": plan, "next_unix_ns": instant, "times_left": left}
                yield {**row, "stored": 7, "skipped": 1}


class FakeRoutes:
    """All routes."""

    def __init__(self, broker: FakeBroker) -> None:
        self._routes = broker.routes

    async def set(self, name: str, destinations: str) -> bool:
        """Set one."""
        changed = self._routes.get(name) != destinations
        self._routes[name] = destinations
        return changed

    async def delete(self, name: str) -> None:
        """Delete one."""
        if self._routes.pop(name, None) is None:
            raise RouteNotFound(f"no route is called {name!r}")

    async def list(self, search: str = "") -> AsyncIterator[dict[str, Any]]:
        """All of them, by name."""
        for name, destinations in sorted(self._routes.items()):
            if search in name:
                yield {"name": name, "destinations": destinations}


class FakeBindings:
    """All bindings; each has left out three messages."""

    def __init__(self, broker: FakeBroker) -> None:
        self._bindings = broker.bindings

    async def set(self, source: str, queues: str) -> bool:
        """Set one."""
        changed = self._bindings.get(source) != queues
        self._bindings[source] = queues
        return changed

    async def delete(self, source: str) -> bool:
        """Delete one."""
        return self._bindings.pop(source, None) is not None

    async def list(self, search: str = "") -> AsyncIterator[dict[str, Any]]:
        """All of them, by source."""
        for source, queues in sorted(self._bindings.items()):
            if search in source:
                yield {"source": source, "queues": queues, "left_out": 3}


class FakeClient:
    """A client of the fake broker."""

    def __init__(self, broker: FakeBroker, url: str) -> None:
        self._broker, self._url = broker, url

    async def info(self) -> dict[str, Any]:
        """NODE of the first node of the URL that is up."""
        await asyncio.sleep(0)
        for endpoint in endpoints_of(self._url):
            if endpoint in self._broker.nodes:
                return self._broker.nodes[endpoint]
        raise DeadlineExceeded(f"no answer from {self._url}")

    def queue(self, name: str) -> FakeQueue:
        """A queue by name."""
        return FakeQueue(self._broker, name)

    @property
    def channels(self) -> FakeChannels:
        """All channels."""
        return FakeChannels(self._broker)

    @property
    def schedules(self) -> FakeSchedules:
        """All schedules."""
        return FakeSchedules(self._broker)

    @property
    def routes(self) -> FakeRoutes:
        """All routes."""
        return FakeRoutes(self._broker)

    @property
    def bindings(self) -> FakeBindings:
        """All bindings."""
        return FakeBindings(self._broker)

    async def send(self, to: str, body: bytes, **options: Any) -> list[DestinationResult]:
        """Send to every destination; a queue of the name `full` is so, and then nothing is stored anywhere."""
        self._broker.routed.append((to, body, options))
        results = []
        for destination in to.split(";"):
            if "full" in to:
                results.append(DestinationResult(destination, error=Busy(f"{destination} waits", retry_ms=1)))
            elif destination.startswith("events:"):
                results.append(DestinationResult(destination, subscribers=2))
            else:
                results.append(DestinationResult(destination, 7, 5))
        return results

    async def __aenter__(self) -> FakeClient:
        self._broker.open_clients += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._broker.open_clients -= 1


class FakeBroker:
    """Queues and nodes in memory."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}  # by client endpoint; a node that is absent is down
        self.ready: dict[str, deque[tuple[int, bytes]]] = defaultdict(deque)
        self.in_flight: dict[str, list[FakeMessage]] = defaultdict(list)
        self.acked: list[tuple[str, int]] = []
        self.attributes: dict[tuple[str, int], dict[str, Any]] = {}  # by channel and sequence, what a message was sent with
        self.settings: dict[str, dict[str, Any]] = {}  # of channels that were created or used
        self.defaults: dict[str, dict[str, Any]] = {}
        self.schedules: dict[str, dict[str, Any]] = {}
        self.routes: dict[str, str] = {}
        self.bindings: dict[str, str] = {}  # queues by source
        self.routed: list[tuple[str, bytes, dict[str, Any]]] = []
        self.managed: list[tuple[Any, ...]] = []  # what was asked for, with all that was said
        self.rate_window_ms = 0
        self.page = 1_000  # most messages in one answer to a peek
        self.last_sequence: dict[str, int] = defaultdict(int)
        self.swallowed: set[int] = set()  # sequences that are confirmed and never delivered
        self.failure: BrokerError | None = None  # what every send ends in
        self.known: dict[int, int] = {}  # sequences of messages that are duplicates, and of what
        self.unread = self.unread_most = 0  # messages that were sent by a queue since it was last idle; the most ever
        self.producer_settings: list[dict[str, Any]] = []
        self.unreadable = False  # whether nobody can decompress a body
        self.urls: list[tuple[str, int]] = []
        self.open_clients = 0

    @property
    def context(self) -> CommandContext:
        """What to give to `app.run`."""
        return CommandContext(connect=cast(Connect, self._connect))

    def described(self, name: str) -> dict[str, Any]:
        """CHANNEL. Raises ChannelNotFound."""
        if name not in self.settings:
            raise ChannelNotFound(f"no channel is called {name!r}")
        ready, in_flight = len(self.ready[name]), len(self.in_flight[name])
        return {
            "channel": name,
            "depth": ready + in_flight,
            "ready": ready,
            "in_flight": in_flight,
            "delayed": 0,
            "consumers": 0,
            "last_sequence": self.last_sequence[name],
            "dead_lettered": 0,
            "sent_per_s": 3,
            "delivered_per_s": 0,
            "rate_window_ms": self.rate_window_ms,
            "active": None,
            "size_bytes": 2_560,
            "oldest_unix_ns": 1_700_000_000_000_000_000 if ready else 0,
            "settings": dict(self.settings[name]),
            "applied_index": 7,
        }

    def _connect(self, url: str, timeout_ms: int = 30_000) -> FakeClient:
        self.urls.append((url, timeout_ms))
        return FakeClient(self, url)

    def start(self, size: int, *, down: Iterable[int] = (), leader: int | None = 0) -> None:
        """Let a cluster of `size` nodes answer, but those that are down."""
        names = [f"node-{number + 1}" for number in range(size)]
        for number, name in enumerate(names):
            if number not in down:
                leading = None if leader is None else names[leader]
                role = "leader" if number == leader else "follower"
                self.nodes[f"tcp://127.0.0.1:{5590 + 3 * number}"] = node_fields(name, names, role=role, leader=leading)
