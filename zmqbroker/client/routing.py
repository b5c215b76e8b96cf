"""Which node to ask: what the client knows of the cluster's endpoints, and where it sends its requests now, the target.

    lost connection ──────────────▶ next endpoint, and a search
    NOT_LEADER {leader} ──────────▶ the leader, at once; after three such moves in a row as if there were no hint
    NOT_LEADER {nil}, NO_MAJORITY ▶ next endpoint, and a search
    120 ms without an answer ─────▶ a search; the target stays
    500 ms without an answer ─────▶ any node that answers is better than the target
    a search ─────────────────────▶ every endpoint is asked who leads, again and again (`search`). A PONG ends it that names a
                                    leader in a later term than before, or in the same one while nothing else is believed
    nothing to ask for a while ───▶ PING, which keeps the session alive everywhere and notices a new leader

While a search goes on after a refusal or a loss, requests are held back for 50 to 100 ms, then tried at the next endpoint. Half
a second after the first WELCOME there is a connection to every node, so that a move costs no connecting and no greeting. A
target is asked for the members when it is new, so that a client whose one address dies knows others.

It sends nothing, and knows nothing of requests but whether an answer is overdue. Invariants: the target is always a known
endpoint and wanted; at most `ENDPOINTS_MAX` endpoints are known, and the ones the user gave are never forgotten; at most
`STANDING_MAX` are connected to without need. Source: PROTOCOL §2, "Routing".
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import Enum
from random import Random

from zmqbroker.client.search import Search
from zmqbroker.client.url import is_endpoint

__all__ = [
    "ENDPOINTS_MAX",
    "IDLE_NS",
    "SILENCE_NS",
    "SPREAD_NS",
    "STANDING_MAX",
    "SUSPICION_NS",
    "WAITING_NS",
    "Node",
    "Phase",
    "Routes",
]

_MS = 1_000_000
_FOREVER_NS = 2**63
#: Nine nodes at most, some of them known by two names or by an address they had before.
ENDPOINTS_MAX = 32
#: Nodes of the largest cluster.
STANDING_MAX = 9
#: A client that lives no longer than this, such as a command, connects to the node it needs alone.
SPREAD_NS = 500 * _MS
#: An answer that makes it worth to ask the others. Longer than a slow fsync, and less than an election timeout.
SUSPICION_NS = 120 * _MS
#: An overdue answer. Several times the slowest fsync, and less than the time in which a person notices.
SILENCE_NS = 500 * _MS
#: With receives waiting, silence is normal; a PING this often finds a node that hangs.
WAITING_NS = 2_000 * _MS
#: Without any request, a PING this often keeps the session, which expires after 15 s (PROTOCOL §1).
IDLE_NS = 5_000 * _MS
#: How long requests are held back while nobody is known to lead.
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
        "denied_ns",
        "denied_term",
        "down",
        "endpoint",
        "heard_ns",
        "hello_id",
        "info_due",
        "info_id",
        "phase",
        "ping_id",
        "seed",
        "silent",
        "urgent",
        "wanted",
    )

    def __init__(self, endpoint: str, seed: bool) -> None:
        self.endpoint = endpoint
        self.seed = seed  # given by the user
        self.phase = Phase.CLOSED
        self.wanted = False  # whether there should be a connection
        self.urgent = False  # whether the next attempt to connect should come soon
        self.down = False  # its last connection or attempt failed, and nothing was heard since
        self.silent = False  # an answer is overdue
        self.call_due = False  # it should get a PING, or HELLO again, as soon as it is connected
        self.info_due = False  # it should be asked for the members
        self.called_ns = 0  # when its last PING or HELLO was sent
        self.heard_ns = 0  # when its last frame came
        self.asked_ns: int | None = None  # since when an answer has been awaited; None: nothing urgent is awaited
        self.denied_ns = 0  # until when nobody is believed that it leads, because it said itself that it does not
        self.denied_term = -1  # in a term up to this one
        self.hello_id = 0  # request id of the HELLO under way; 0 for none
        self.ping_id = 0  # request id of the PING under way; 0 for none
        self.info_id = 0  # request id of the INFO under way; 0 for none


class Routes:
    """The endpoints and the target."""

    def __init__(self, seeds: tuple[str, ...], random: Random, now_ns: int) -> None:
        self._random = random
        self._search = Search(random)
        self._nodes = {endpoint: Node(endpoint, True) for endpoint in seeds}
        self.target = seeds[0]  # while it is not READY its `asked_ns` is set, so that a connection that hangs is noticed
        self._move(self._nodes[self.target], now_ns)
        self.hold_ns = 0  # no request goes to the target before this instant
        self._idle_ns = IDLE_NS  # without any request, a PING this often keeps the session
        self._others_ns = _FOREVER_NS  # no later than the time when another node than the target needs a PING for that
        self._spread_ns = _FOREVER_NS  # when all nodes are to be connected to
        self._spread = False  # whether that time has come
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

    def take_urgent(self) -> list[str]:
        """Endpoints without a connection that were named as the leader since the last call."""
        urgent = [node for node in self._nodes.values() if node.urgent]
        for node in urgent:
            node.urgent = False
        return [node.endpoint for node in urgent]

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
        if self._spread:
            self._connect_to_all()
        return True

    def _forget_one(self) -> bool:
        found = next((node for node in self._nodes.values() if self._is_idle(node)), None)
        if found is not None:
            del self._nodes[found.endpoint]
        return found is not None

    def _is_idle(self, node: Node) -> bool:
        return not node.seed and node.phase is Phase.CLOSED and node.endpoint != self.target

    def members(self, endpoints: Collection[str]) -> None:
        """A node told where all members are: others that nobody can reach are forgotten."""
        for endpoint in endpoints:
            self.learn(endpoint)
        for node in list(self._nodes.values()):
            if node.endpoint not in endpoints and self._is_idle(node):
                del self._nodes[node.endpoint]

    # --- what happens ------------------------------------------------------------------------------------------------

    def connected(self, node: Node, now_ns: int) -> None:
        """A new connection to a node stands; HELLO is due."""
        node.phase, node.call_due, node.down = Phase.GREETING, True, False
        node.heard_ns = now_ns
        node.asked_ns = now_ns if node.endpoint == self.target else None

    def welcomed(self, node: Node, session_timeout_ns: int, now_ns: int) -> None:
        """A node takes requests; it is asked who leads. Two PINGs may be lost before the session expires."""
        self._idle_ns = min(IDLE_NS, session_timeout_ns // 3)
        self._others_ns = min(self._others_ns, now_ns + self._idle_ns)
        node.phase, node.hello_id, node.call_due = Phase.READY, 0, True
        node.info_due = node.endpoint == self.target
        if not self._spread:
            self._spread_ns = min(self._spread_ns, now_ns + SPREAD_NS)

    def lost(self, node: Node, now_ns: int) -> None:
        """A connection, or an attempt to make one, failed."""
        node.phase, node.down, node.hello_id, node.ping_id, node.info_id = Phase.CLOSED, True, 0, 0, 0
        if node.endpoint == self.target:
            self._give_up(now_ns)

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
        if node.endpoint == self.target and self._settled:
            self._search.end()  # it was only late

    def unwelcome(self, node: Node, now_ns: int) -> None:
        """A node refused HELLO; it gets another one when all are called again."""
        node.hello_id, node.asked_ns = 0, now_ns
        self.pause(node.endpoint, now_ns)

    def served(self, endpoint: str) -> None:
        """A node did what only a leader does."""
        self._hops = 0
        if endpoint == self.target:
            self._settled = True
            self._search.end()

    def not_leader(self, endpoint: str, hint: object, now_ns: int) -> None:
        """A node refused because it does not lead; `hint` is the leader's endpoint as it believes, None for unknown."""
        if endpoint != self.target:
            return
        known = self._nodes[hint] if isinstance(hint, str) and self.learn(hint) else None
        if known is None or known.endpoint == endpoint or known.down or self._hops >= _HOPS_MAX:
            self.pause(endpoint, now_ns)
            return
        self._hops += 1
        self._denied(endpoint, self.later(now_ns))
        self._settle(known, now_ns)  # a search goes on: the hint may be old, and has no term

    def pause(self, endpoint: str, now_ns: int) -> None:
        """A node said that nobody leads now: ask everybody, and go on at the next one if that does not help."""
        if endpoint == self.target:
            self._hops = 0
            self._give_up(now_ns)
            self._denied(endpoint, self.hold_ns)

    def _denied(self, endpoint: str, until_ns: int) -> None:
        # Not for ever: the refusal may be older than what others have told of the node meanwhile.
        node = self._nodes[endpoint]
        node.denied_ns, node.denied_term = until_ns, self._leader_term

    def later(self, now_ns: int) -> int:
        """When to try again after a refusal without a hint."""
        return now_ns + self._random.randint(_PAUSE_LOW_NS, _PAUSE_HIGH_NS)

    def pong(self, endpoint: str, leader: object, leader_term: object, now_ns: int) -> None:
        """A node told who leads, as it believes."""
        if isinstance(leader, str) and isinstance(leader_term, int) and self.learn(leader):
            known = self._nodes[leader]
            if known.down:
                known.wanted = known.urgent = True
            elif self._is_news(known, leader_term) and (leader_term > known.denied_term or now_ns >= known.denied_ns):
                self._leader_term, self.hold_ns = leader_term, 0
                self._settle(known, now_ns)
                self._search.end()
        elif endpoint != self.target and self._nodes[self.target].silent:
            # It cannot help, but it answers: its refusals say more than silence.
            self._move(self._nodes[endpoint], now_ns)
            self._settled = False

    def _is_news(self, leader: Node, leader_term: int) -> bool:
        """A term has one leader, so another one than the target in the highest term is right: a hint was not."""
        if leader_term != self._leader_term:
            return leader_term > self._leader_term
        return not self._settled or (self._search.active and leader.endpoint != self.target)

    # --- time --------------------------------------------------------------------------------------------------------

    def review(self, now_ns: int, receiving: bool) -> None:
        """Time has passed: find out who leads when an answer is overdue, and keep the session alive."""
        if now_ns < self.review_ns(receiving):
            return
        node = self._nodes[self.target]
        if node.asked_ns is None:
            node.call_due = node.call_due or now_ns >= self._idle_until_ns(node, receiving)
        else:
            if now_ns >= node.asked_ns + SUSPICION_NS:
                self._search.begin(now_ns)
            if now_ns >= node.asked_ns + SILENCE_NS:
                node.silent, node.asked_ns = True, now_ns
        if now_ns >= self._search.due_ns:
            self._call_all(now_ns)
        if now_ns >= self._others_ns:
            self._keep_others(now_ns)
        if now_ns >= self._spread_ns:
            self._spread, self._spread_ns = True, _FOREVER_NS
            self._connect_to_all()

    def review_ns(self, receiving: bool) -> int:
        """When `review` has something to do; `receiving`: receives wait at the target."""
        node = self._nodes[self.target]
        if node.asked_ns is None:
            own_ns = self._idle_until_ns(node, receiving)
        else:
            own_ns = node.asked_ns + (SILENCE_NS if self._search.active else SUSPICION_NS)
        return min(own_ns, self._search.due_ns, self._others_ns, self._spread_ns)

    def _idle_until_ns(self, node: Node, receiving: bool) -> int:
        return node.heard_ns + (min(WAITING_NS, self._idle_ns) if receiving else self._idle_ns)

    def _keep_others(self, now_ns: int) -> None:
        """PING to every node that has not been called for a while; the target's turn comes with what is asked of it."""
        self._others_ns = _FOREVER_NS
        for node in self._nodes.values():
            if node.phase is not Phase.CLOSED and node.endpoint != self.target:
                if now_ns >= node.called_ns + self._idle_ns:
                    node.call_due, node.called_ns = True, now_ns
                self._others_ns = min(self._others_ns, node.called_ns + self._idle_ns)

    def _connect_to_all(self) -> None:
        room = STANDING_MAX - sum(node.wanted for node in self._nodes.values())
        for node in self._nodes.values():
            if not node.wanted and room > 0:
                node.wanted = True
                room -= 1

    def _call_all(self, now_ns: int) -> None:
        self._search.asked(now_ns)
        for node in self._nodes.values():
            node.wanted = True
            under_way = node.ping_id or node.phase is Phase.GREETING
            node.call_due = node.call_due or not under_way or now_ns >= node.called_ns + SILENCE_NS

    # --- moving ------------------------------------------------------------------------------------------------------

    def _give_up(self, now_ns: int) -> None:
        """The target does not lead: search, and go on at the next endpoint that is not known to be down, or just the next."""
        self.hold_ns = self.later(now_ns)
        order = list(self._nodes.values())
        start = next(position for position, node in enumerate(order) if node.endpoint == self.target) + 1
        ring = order[start:] + order[:start]
        self._move(next((node for node in ring if not node.down), ring[0]), now_ns)
        self._settled = False
        if not self._search.active:
            self._search.begin(now_ns)
            self._call_all(now_ns)

    def _settle(self, node: Node, now_ns: int) -> None:
        """A node is said to lead."""
        node.info_due = node.info_due or node.endpoint != self.target
        self._move(node, now_ns)
        self._settled = True

    def _move(self, node: Node, now_ns: int) -> None:
        if node.endpoint != self.target:
            left = self._nodes[self.target]
            left.asked_ns, left.silent = None, False
            self.target = node.endpoint
        node.wanted = True
        if node.phase is not Phase.READY and node.asked_ns is None:
            node.asked_ns = now_ns
