"""Sessions: which one a connection speaks for, and which ones the leader should give up.

A session is 16 bytes that a client chose in HELLO, or that this node made for a connection without one. What a session holds
lives in the replicated state; here is only when it was last heard, by this node's monotonic clock. A new leader starts every
holder's timer afresh.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Connection", "Connections", "Liveness"]


@dataclass(slots=True)
class Connection:
    """One client connection of this node."""

    session: bytes
    client_id: str
    heard_ns: int


class Connections:
    """routing id -> connection; bounded: the longest silent ones are forgotten when there are more than `count_max`."""

    def __init__(self, count_max: int, timeout_ns: int) -> None:
        self._count_max, self._timeout_ns = count_max, timeout_ns
        self._table: dict[bytes, Connection] = {}

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, routing_id: bytes) -> bool:
        return routing_id in self._table

    def client_id(self, routing_id: bytes) -> str:
        """What the client behind a connection calls itself; empty when it said nothing, or is forgotten."""
        connection = self._table.get(routing_id)
        return connection.client_id if connection is not None else ""

    def heard(self, routing_id: bytes, now_ns: int) -> Connection:
        """The connection behind a routing id, with a session of its own making when it is new."""
        connection = self._table.get(routing_id)
        if connection is None:
            if len(self._table) >= self._count_max:
                self._table.pop(min(self._table, key=lambda known: self._table[known].heard_ns))
            connection = self._table[routing_id] = Connection(os.urandom(16), "", now_ns)
        connection.heard_ns = now_ns
        return connection

    def hello(self, routing_id: bytes, session: bytes, client_id: str, now_ns: int) -> Connection:
        """Bind a connection to the session that its client names; empty: keep the one it has."""
        connection = self.heard(routing_id, now_ns)
        connection.session, connection.client_id = session or connection.session, client_id
        return connection

    def client_id_of(self, session: bytes) -> str:
        """What a client of this node calls itself that speaks for a session; empty when there is none, or it said nothing."""
        names = (connection.client_id for connection in self._table.values() if connection.session == session)
        return next(names, "")

    def sweep(self, now_ns: int, keep: Iterable[bytes] = ()) -> None:
        """Forget connections that have been silent for a session's timeout, but those whose session is in `keep`."""
        kept = set(keep)
        silent = [
            routing_id
            for routing_id, connection in self._table.items()
            if now_ns - connection.heard_ns > self._timeout_ns and connection.session not in kept
        ]
        for routing_id in silent:
            del self._table[routing_id]


class Liveness:
    """When each session that holds something was last heard, at the leader of its group."""

    def __init__(self, timeout_ns: int) -> None:
        self._timeout_ns = timeout_ns
        self._heard_ns: dict[bytes, int] = {}  # as many as hold something in the replicated state, plus a second's newcomers

    def heard(self, session: bytes, now_ns: int) -> None:
        """A request of this session arrived."""
        self._heard_ns[session] = now_ns

    def restart(self) -> None:
        """A new leadership: nobody has been silent yet."""
        self._heard_ns.clear()

    def expired(self, holders: Iterable[bytes], waiting: set[bytes], now_ns: int) -> list[bytes]:
        """The holders that were silent for the timeout and wait for nothing; forgets sessions that hold nothing."""
        heard, self._heard_ns = self._heard_ns, {}
        found = []
        for session in holders:
            last = now_ns if session in waiting else heard.get(session, now_ns)
            if now_ns - last > self._timeout_ns:
                found.append(session)
            else:
                self._heard_ns[session] = last
        return found
