"""A client's session and a fake cluster in one thread, under simulated time.

Every frame takes a millisecond. Nodes go down, come back, hang, and lose frames as the test says; connections break and are
made again like the driver does it. The order of events is a function of the test alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any

from tests.unit.client.fakes import FakeBroker, FakeNode
from zmqbroker.client.parcel import Parcel
from zmqbroker.client.pipeline import Completion, Pipeline
from zmqbroker.client.session import Session
from zmqbroker.wire.requests import AnyRequest

MS = 1_000_000
LATENCY_NS = MS
RECONNECT_NS = 50 * MS


class Simulation:
    """One session, some nodes, one clock."""

    def __init__(self, count: int = 3, seeds: int | None = None) -> None:
        self.now_ns = 1_000_000 * MS
        self.broker = FakeBroker()
        self.endpoints = [f"tcp://10.0.0.{number + 1}:5590" for number in range(count)]
        self.nodes = {endpoint: FakeNode(endpoint, self.broker) for endpoint in self.endpoints}
        self.down: set[str] = set()  # refuse connections
        self.hung: set[str] = set()  # take frames and answer nothing
        self.lose_request: Callable[[str, Any], bool] = lambda endpoint, frames: False
        self.lose_reply: Callable[[str, Any], bool] = lambda endpoint, frames: False
        self.completions: list[Completion] = []
        self.session = Session(tuple(self.endpoints[: seeds or count]), b"s" * 16, "test", Random(7), self.now_ns)
        self._places: dict[Any, tuple[Parcel, int]] = {}  # of messages, by their token
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        self._connections: dict[str, int] = {}  # endpoint -> number of the connection, also while it is being made
        self._made = 0
        self.lead(self.endpoints[0], 1)
        self._settle()

    # --- the cluster -------------------------------------------------------------------------------------------------

    def lead(self, leader: str | None, term: int) -> None:
        """All nodes agree on a leader, or that there is none."""
        for node in self.nodes.values():
            node.leader, node.leader_term = leader, term

    def kill(self, endpoint: str) -> None:
        """A node goes, and its connections break."""
        self.down.add(endpoint)
        self.cut(endpoint)

    def cut(self, endpoint: str) -> None:
        """The connection to a node breaks; frames on their way are lost."""
        if self._connections.pop(endpoint, None) is not None:
            self._fail(endpoint)

    # --- the client --------------------------------------------------------------------------------------------------

    def submit(self, request: AnyRequest, token: Any, timeout_ms: int = 30_000) -> None:
        """Start a plain request."""
        self.session.submit(request, token, self.now_ns + timeout_ms * MS)
        self._settle()

    def send(self, pipeline: Pipeline, token: Any, timeout_ms: int = 30_000, body: bytes | None = None) -> None:
        """Append a message whose body is its token."""
        data = str(token).encode() if body is None else body
        self.append(pipeline, [(token, data)], timeout_ms)
        self._settle()

    def append(
        self, pipeline: Pipeline, messages: list[tuple[Any, bytes]], timeout_ms: int = 30_000, expected: int | None = None
    ) -> Parcel:
        """Append messages, by their tokens, that the session finds together when it is asked the next time."""
        parcel = Parcel([], 0, self.now_ns, self.now_ns + timeout_ms * MS)
        parcel.expected_sequence = expected
        for token, body in messages:
            self._places[token] = (parcel, parcel.append(body, b"", b""))
        parcel.seal()
        pipeline.append(parcel)
        self.session.activate(pipeline)
        return parcel

    def result(self, token: Any) -> Any:
        """What a token ended with: its value, or its error."""
        parcel, place = self._places.get(token, (token, 0))
        ends = [completion for completion in self.completions if completion.token == parcel]
        assert len(ends) == 1, f"{token!r} ended {len(ends)} times"
        if not isinstance(parcel, Parcel):
            return ends[0].error or ends[0].value
        return parcel.exception() or parcel.result(place)

    def ended(self) -> set[Any]:
        """Tokens that have ended."""
        found = {completion.token for completion in self.completions}
        messages = {token for token, (parcel, _) in self._places.items() if parcel in found}
        return messages | {token for token in found if not isinstance(token, Parcel)}

    # --- time --------------------------------------------------------------------------------------------------------

    def run(self, duration_ms: int) -> None:
        """Let that much time pass."""
        end_ns = self.now_ns + duration_ms * MS
        self._settle()
        for _ in range(200_000):
            wake_ns = self.session.wake_ns(self.now_ns)
            event_ns = self._events[0][0] if self._events else end_ns + 1
            if min(wake_ns, event_ns) > end_ns:
                self.now_ns = end_ns
                return
            self.now_ns = max(self.now_ns, min(wake_ns, event_ns))
            if event_ns <= wake_ns:
                heapq.heappop(self._events)[2]()
            else:
                self.session.tick(self.now_ns)
                assert self.session.wake_ns(self.now_ns) > self.now_ns or self._moved(), "the session wakes without end"
            self._settle()
        raise AssertionError("too many events: a storm")

    def _moved(self) -> bool:
        self._settle()
        self.session.tick(self.now_ns)
        return self.session.wake_ns(self.now_ns) > self.now_ns

    def _after(self, delay_ns: int, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (self.now_ns + delay_ns, self._order, action))

    def _settle(self) -> None:
        for endpoint, frames in self.session.pump(self.now_ns):
            number = self._connections.get(endpoint)
            if number is not None and not self.lose_request(endpoint, frames):
                self._after(LATENCY_NS, lambda e=endpoint, n=number, f=frames: self._arrive(e, n, f))  # type: ignore[misc]
        self.completions += self.session.take_completions()
        for endpoint in self.session.wanted():
            if endpoint not in self._connections:
                self._made += 1
                self._connections[endpoint] = self._made
                self._after(LATENCY_NS, lambda e=endpoint, n=self._made: self._connect(e, n))  # type: ignore[misc]

    def _connect(self, endpoint: str, number: int) -> None:
        if self._connections.get(endpoint) != number:
            return
        if endpoint in self.down or endpoint not in self.nodes:
            self._fail(endpoint)
        else:
            self.session.connected(endpoint, self.now_ns)

    def _fail(self, endpoint: str) -> None:
        """The connection is gone; the driver makes another one a little later."""
        self._made += 1
        self._connections[endpoint] = -self._made
        self._after(RECONNECT_NS, lambda number=-self._made: self._try_again(endpoint, number))  # type: ignore[misc]
        self.session.lost(endpoint, self.now_ns)
        self._settle()

    def _try_again(self, endpoint: str, number: int) -> None:
        if self._connections.get(endpoint) == number:
            del self._connections[endpoint]

    def _arrive(self, endpoint: str, number: int, frames: Any) -> None:
        if self._connections.get(endpoint) != number or endpoint in self.hung:
            return
        for (target, at), answer in self.nodes[endpoint].handle((endpoint, number), frames):
            if not self.lose_reply(target, answer):
                self._after(LATENCY_NS, lambda t=target, n=at, a=answer: self._answer(t, n, a))  # type: ignore[misc]

    def _answer(self, endpoint: str, number: int, frames: Any) -> None:
        if self._connections.get(endpoint) == number:
            self.session.received(endpoint, frames, self.now_ns)
