"""Where replies go: values that name the connection behind a request, here or at the node that forwarded it."""

from __future__ import annotations

from dataclasses import dataclass

from zmqbroker.commands import Destination, ReceiveKey
from zmqbroker.wire.send_requests import Send, SendBatch

__all__ = ["Pending", "PendingSends", "Route", "Routed", "Waiter"]


@dataclass(slots=True, frozen=True)
class Route:
    """One client connection. `origin` is the uid of the node that forwarded the request, empty for a client of this node."""

    routing_id: bytes
    delimiter: bool  # the client is a REQ socket: its replies start with an empty frame
    origin: bytes = b""


@dataclass(slots=True, frozen=True)
class Routed:
    """A message on its way to several destinations."""

    destinations: tuple[Destination, ...]  # in order, and no route among them
    message: Send | SendBatch


@dataclass(slots=True, frozen=True)
class Pending:
    """A request of a client that waits for its reply."""

    route: Route
    request_id: int
    session: bytes  # 16 bytes
    key: ReceiveKey | None = None  # set for a RECEIVE: its messages come as a delivery
    plain: bool = False  # a RECEIVE that wants bodies instead of batch frames
    received_ns: int = 0  # when a send came that asks for its timeline, by the monotonic clock; 0: it does not ask
    routed: Routed | None = None  # a send to several destinations: those that nobody stores are served when it is answered
    silent: bool = False  # a send with `confirm` none: nobody waits, and no answer leaves

    @property
    def count(self) -> int:
        """How many requests wait."""
        return 0 if self.silent else 1


@dataclass(slots=True, frozen=True)
class PendingSends:
    """Plain SENDs of clients of this node that became one batch and wait for its result, in the order of its messages."""

    waiters: list[list[bytes]]  # [routing id, an empty delimiter if there was one, header] each

    @property
    def count(self) -> int:
        """How many requests wait."""
        return len(self.waiters)

    @property
    def key(self) -> None:
        """None: nobody of these waits for messages."""
        return None

    @property
    def received_ns(self) -> int:
        """0: nobody of these asks for a timeline."""
        return 0


Waiter = Pending | PendingSends
