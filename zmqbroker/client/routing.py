"""Which node to ask: what the client knows of the cluster's endpoints, and where it sends its requests now, the target.

    lost connection ──▶ next endpoint, and every endpoint is asked who leads
    NOT_LEADER {leader} ──▶ the leader, at once; after three such moves in a row with a pause
    NOT_LEADER {nil}, NO_MAJORITY ──▶ next endpoint after a random 50 to 100 ms
    500 ms without an answer ──▶ every endpoint is asked who leads, ten times a second until there is an answer;
                                 the PONG with the highest leader_term wins
    nothing to ask for a while ──▶ PING, which keeps the session alive and notices a new leader

It sends nothing, and knows nothing of requests but whether an answer is overdue. Invariants: the target is always a known
endpoint and wanted; at most `ENDPOINTS_MAX` endpoints are known, and the ones the user gave are never forgotten.
Source: PROTOCOL §2, "Routing".
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from random import Random

from zmqbroker.client.url import is_endpoint

__all__ = ["ENDPOINTS_MAX", "IDLE_NS", "PROBE_NS", "SILENCE_NS", "WAITING_NS", "Node", "Phase", "Routes"]

_MS = 1_000_000
#: Nine nodes at most, some of them known by two names or by an address they had before.
ENDPOINTS_MAX = 32
#: An overdue answer. Several times the slowest fsync, and less than the time in which a person notices.
SILENCE_NS = 500 * _MS
#: While an answer is overdue: how often the others are asked again, so that the end of an election is noticed soon.
PROBE_NS = 100 * _MS
#: With receives waiting, silence is normal; a PING this often finds a node that hangs.
WAITING_NS = 2_000 * _MS
#: Without any request, a PING this often keeps the session, which expires after 15 s (PROTOCOL §1).
IDLE_NS = 5_000 * _MS
#: The pause while nobody leads: an election takes some hundred milliseconds.
_PAUSE_LOW_NS, _PAUSE_HIGH_NS = 50 * _MS, 100 * _MS
#: Hints followed at once without a request served in between: nodes that disagree must not cause a storm.
_HOPS_MAX = 3


class Phase(Enum):
    """How far the connection to a node is."""

    CLOSED = "closed"  # none, or being made
    GREETING = "greeting"  # HELLO sent, WELCOME awaited
    READY = "ready"  # requests may be sent


class Node:
    """What is known of one endpoint."""

    __slots__ = (
        "asked_ns",
        "call_due",
        "called_ns",
        "down",
        "endpoint",
        "heard_ns",
        "hello_id",
        "phase",
        "ping_id",
        "seed",
        "silent",
        "wanted",
    )

    def __init__(self, endpoint: str, seed: bool) -> None:
        self.endpoint = endpoint
        self.seed = seed  # given by the user
        self.phase = Phase.CLOSED
        self.wanted = False  # whether there should be a connection
        self.down = False  # its last connection or attempt failed, and nothing was heard since
        self.silent = False  # an answer is overdue
        self.call_due = False  # it should get a PING, or HELLO again, as soon as it is connected
        self.called_ns = 0  # when its last PING or HELLO was sent
        self.heard_ns = 0  # when its last frame came
        self.asked_ns: int | None = None  # since when an answer has been awaited; None: nothing urgent is awaited
        self.hello_id = 0  # request id of the HELLO under way; 0 for none
        self.ping_id = 0  # request id of the PING under way; 0 for none


class Routes:
    """The endpoints and the target."""

    def __init__(self, seeds: tuple[str, ...], random: Random, now_ns: int) -> None:
        self._random = random
        self._nodes = {endpoint: Node(endpoint, True) for endpoint in seeds}
        self.target = seeds[0]  # while it is not READY its `asked_ns` is set, so that a connection that hangs is noticed
        self._move(self._nodes[self.target], now_ns)
        self.hold_ns = 0  # no request goes to the target before this instant
        self._idle_ns = IDLE_NS  # without any request, a PING this often keeps the session
        self._leader_term = 0  # highest term in which a PONG named a leader
        self._settled = False  # whether something said that the target leads, and nothing contradicted it since
        self._hops = 0  # hints followed since a request was served

    def node(self, endpoint: str) -> Node | None:
        """What is known of an endpoint; None when it was forgotten."""
        return self._nodes.get(endpoint)

    def nodes(self) -> Iterator[Node]:
        """All known endpoints, in the order in which they became known."""
        return iter(self._nodes.values())

    def wanted(self) -> list[str]:
        """Endpoints that should have a connection."""
        return [node.endpoint for node in self._nodes.values() if node.wanted]

    def open(self, now_ns: int) -> bool:
        """Whether requests may go to the target now."""
        return now_ns >= self.hold_ns and self._nodes[self.target].phase is Phase.READY

    def learn(self, endpoint: str) -> bool:
        """Remember an endpoint that a node named; False when it is none, or there is no room for it."""
        if endpoint in self._nodes:
            return True
        if not is_endpoint(endpoint):
            return False
        if len(self._nodes) >= ENDPOINTS_MAX and not self._forget_one():
            return False
        self._nodes[endpoint] = Node(endpoint, False)
        return True

    def _forget_one(self) -> bool:
        for node in self._nodes.values():
            if not node.seed and node.phase is Phase.CLOSED and node.endpoint != self.target:
                del self._nodes[node.endpoint]
                return True
        return False

    # --- what happens ------------------------------------------------------------------------------------------------

    def connected(self, node: Node, now_ns: int) -> None:
        """A new connection to a node stands; HELLO is due."""
        node.phase, node.call_due, node.down = Phase.GREETING, True, False
        node.heard_ns = now_ns
        node.asked_ns = now_ns if node.endpoint == self.target else None

    def welcomed(self, node: Node, session_timeout_ns: int) -> None:
        """A node takes requests; it is asked who leads. Two PINGs may be lost before the session expires."""
        self._idle_ns = min(IDLE_NS, session_timeout_ns // 3)
        node.phase, node.hello_id, node.call_due = Phase.READY, 0, True

    def lost(self, node: Node, now_ns: int) -> None:
        """A connection, or an attempt to make one, failed."""
        node.phase, node.down, node.hello_id, node.ping_id = Phase.CLOSED, True, 0, 0
        if node.endpoint == self.target:
            self._next(now_ns)
            self._call_all(now_ns)

    def asked(self, endpoint: str, now_ns: int) -> None:
        """Something that is answered promptly was sent to a node."""
        node = self._nodes[endpoint]
        if endpoint == self.target and node.asked_ns is None:
            node.asked_ns = now_ns

    def heard(self, node: Node, now_ns: int, busy: bool) -> None:
        """A frame came from a node; `busy`: the target still owes prompt answers."""
        node.heard_ns, node.down, node.silent = now_ns, False, False
        if node.phase is Phase.READY:
            node.asked_ns = now_ns if busy and node.endpoint == self.target else None

    def unwelcome(self, node: Node, now_ns: int) -> None:
        """A node refused HELLO; it gets another one when all are called again."""
        node.hello_id, node.asked_ns = 0, now_ns
        self.pause(node.endpoint, now_ns)

    def served(self, endpoint: str) -> None:
        """A node did what only a leader does."""
        self._hops = 0
        self._settled = self._settled or endpoint == self.target

    def not_leader(self, endpoint: str, hint: object, now_ns: int) -> None:
        """A node refused because it does not lead; `hint` is the leader's endpoint as it believes, None for unknown."""
        if endpoint != self.target:
            return
        known = self._nodes[hint] if isinstance(hint, str) and self.learn(hint) else None
        if known is None or known.endpoint == endpoint or known.down or self._hops >= _HOPS_MAX:
            self.pause(endpoint, now_ns)
            return
        self._hops += 1
        self._move(known, now_ns)
        self._settled = True

    def pause(self, endpoint: str, now_ns: int) -> None:
        """A node said that nobody leads now: go on at the next one, a little later."""
        if endpoint == self.target:
            self._hops = 0
            self.hold_ns = self.later(now_ns)
            self._next(now_ns)

    def later(self, now_ns: int) -> int:
        """When to try again after a refusal without a hint."""
        return now_ns + self._random.randint(_PAUSE_LOW_NS, _PAUSE_HIGH_NS)

    def pong(self, endpoint: str, leader: object, leader_term: object, now_ns: int) -> None:
        """A node told who leads, as it believes."""
        if isinstance(leader, str) and isinstance(leader_term, int) and self.learn(leader):
            known = self._nodes[leader]
            newer = leader_term > self._leader_term
            if not known.down and (newer or (leader_term == self._leader_term and not self._settled)):
                self._leader_term, self.hold_ns = leader_term, 0
                self._move(known, now_ns)
                self._settled = True
        elif endpoint != self.target and self._nodes[self.target].silent:
            # It cannot help, but it answers: its refusals say more than silence.
            self._move(self._nodes[endpoint], now_ns)

    def review(self, now_ns: int, receiving: bool) -> None:
        """Time has passed: find out who leads when an answer is overdue, and keep the session alive."""
        node = self._nodes[self.target]
        if now_ns < self.review_ns(receiving):
            return
        if node.asked_ns is None:
            node.call_due = True
            return
        node.silent, node.asked_ns = True, now_ns
        self._call_all(now_ns)

    def review_ns(self, receiving: bool) -> int:
        """When `review` has something to do; `receiving`: receives wait at the target."""
        node = self._nodes[self.target]
        if node.asked_ns is not None:
            return node.asked_ns + (PROBE_NS if node.silent else SILENCE_NS)
        return node.heard_ns + (min(WAITING_NS, self._idle_ns) if receiving else self._idle_ns)

    # --- moving ------------------------------------------------------------------------------------------------------

    def _call_all(self, now_ns: int) -> None:
        for node in self._nodes.values():
            node.wanted = True
            under_way = node.ping_id or node.hello_id
            node.call_due = node.call_due or not under_way or now_ns >= node.called_ns + SILENCE_NS

    def _next(self, now_ns: int) -> None:
        """Move to the next endpoint that is not known to be down, or else to the next one."""
        order = list(self._nodes.values())
        start = next(position for position, node in enumerate(order) if node.endpoint == self.target) + 1
        ring = order[start:] + order[:start]
        self._move(next((node for node in ring if not node.down), ring[0]), now_ns)
        self._settled = False

    def _move(self, node: Node, now_ns: int) -> None:
        if node.endpoint != self.target:
            left = self._nodes[self.target]
            left.asked_ns, left.silent = None, False
            self.target = node.endpoint
        node.wanted = True
        if node.phase is not Phase.READY and node.asked_ns is None:
            node.asked_ns = now_ns
