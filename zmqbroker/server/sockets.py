"""ZeroMQ sockets of a node: one ROUTER for clients, one ROUTER and one DEALER per peer for the other nodes.

The only place that makes sockets on the server; messages go through `zmqio`, which never waits. A peer whose pipe is full, or
that is not connected, loses the message (Raft sends again); a client whose pipe is full keeps its replies here, in order, up to
a bound. Options are set before bind and never changed (DESIGN §3).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import zmq

from zmqbroker.errors import ConfigError
from zmqbroker.server.strays import answer_to
from zmqbroker.server.zmqio import ZmqIo
from zmqbroker.wire.batch import Buffer

__all__ = ["ClientPort", "PeerLink", "PeerPort"]

#: Frames above this close the connection inside libzmq, before memory is spent on them (docs/PROTOCOL.md §5).
FRAME_BYTES_MAX = 80 << 20
#: Messages per connection that libzmq may hold in each direction; clients are bounded by credit, not by this.
CLIENT_HIGH_WATER_MARK = 1024
#: AppendEntries are large: few of them fill the window, and what does not fit is sent again by Raft.
PEER_HIGH_WATER_MARK = 256
#: Bytes taken from one socket in a pass, but for the message that goes over it: a pass holds no more in memory than that.
DRAIN_BYTES_MAX = 16 << 20
#: Events of a link taken in one go; it breaks a few times a second at most.
EVENTS_MAX = 1024
#: Reply bytes kept for one client that does not read; over it replies are dropped and counted (the client asks again).
OUTBOX_BYTES_MAX = 64 << 20

Frames = Sequence[Buffer]


def _bind(socket: zmq.Socket[bytes], endpoint: str) -> None:
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close(0)
        raise ConfigError((f"cannot listen on {endpoint}: {error.strerror}",)) from error


def _harden(socket: zmq.Socket[bytes], high_water_mark: int) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, high_water_mark)
    socket.setsockopt(zmq.RCVHWM, high_water_mark)
    socket.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 3000)


def _expect_gone(refused: int) -> None:
    """A reply is refused because the pipe is full or the client gone; anything else is a bug."""
    if refused != zmq.EHOSTUNREACH:
        raise zmq.ZMQError(refused)


class ClientPort:
    """The ROUTER that clients connect to, on one or more endpoints."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoints: Sequence[str]) -> None:
        self._socket = context.socket(zmq.ROUTER)
        _harden(self._socket, CLIENT_HIGH_WATER_MARK)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.BACKLOG, 1024)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, 5000)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 15000)
        for endpoint in endpoints:
            _bind(self._socket, endpoint)
        self._io = ZmqIo(self._socket)
        self._unsure = True  # whether a message may wait that the descriptor does not announce any more
        self._outboxes: dict[bytes, deque[Frames]] = {}  # replies that a full pipe refused, oldest first
        self._outbox_bytes: dict[bytes, int] = {}  # their size per client, at most OUTBOX_BYTES_MAX
        self.dropped = 0  # replies lost because a client was gone or its outbox full

    @property
    def descriptor(self) -> int:
        """The edge-triggered FD that says "look at the socket"."""
        return int(self._socket.FD)

    def drain(self, count_max: int) -> list[list[bytes]]:
        """Messages as [routing id, frames …]."""
        found = self._io.drain(count_max, DRAIN_BYTES_MAX)
        self._unsure = not self._io.dry
        return found

    def readable(self) -> bool:
        """Whether a message waits; sends can swallow the wake-up, so this is asked after the last send of a pass."""
        self._unsure = self._unsure and self._io.readable()
        return self._unsure

    @property
    def blocked(self) -> bool:
        """Whether any client's replies wait for room."""
        return bool(self._outboxes)

    def send(self, routing_id: bytes, frames: Frames) -> bool:
        """Send or keep one reply; False when the client is gone or over its bound, and the reply is dropped."""
        self._unsure = True
        refused = self._offer(routing_id, frames)
        self.dropped += refused != 0
        return not refused

    def send_all(self, messages: Sequence[list[bytes]]) -> None:
        """Send or keep replies, [routing id, frames …] each, as `send` does."""
        self.dropped += len(self.offer_all(messages))

    def offer_all(self, messages: Sequence[Sequence[bytes]]) -> list[tuple[int, int]]:
        """Send or keep messages as `send_all`, but say which were refused and why: places and the numbers of errors.

        EHOSTUNREACH: the client is gone. ENOBUFS: what is kept for it is at its bound.
        """
        self._unsure = True
        sent = 0 if self._outboxes else self._io.send_all(messages)
        refused = []
        for place in range(sent, len(messages)):
            routing_id, *frames = messages[place]
            if fault := self._offer(routing_id, frames):
                refused.append((place, fault))
        return refused

    def _offer(self, routing_id: bytes, frames: Frames) -> int:
        """Send or keep one message; 0, or why it is neither."""
        if routing_id in self._outboxes:
            return self._keep(routing_id, frames)
        refused = self._io.send([routing_id, *frames])
        if refused == zmq.EAGAIN:
            return self._keep(routing_id, frames)
        if refused:
            _expect_gone(refused)
        return refused

    def _keep(self, routing_id: bytes, frames: Frames) -> int:
        size = sum(len(frame) for frame in frames)
        kept = self._outbox_bytes.get(routing_id, 0)
        if kept + size > OUTBOX_BYTES_MAX:
            return zmq.ENOBUFS
        self._outboxes.setdefault(routing_id, deque()).append(frames)
        self._outbox_bytes[routing_id] = kept + size
        return 0

    def flush(self) -> None:
        """Try the kept replies again."""
        self._unsure = True
        for routing_id in list(self._outboxes):
            self._flush_client(routing_id)

    def _flush_client(self, routing_id: bytes) -> None:
        outbox = self._outboxes[routing_id]
        while outbox:
            refused = self._io.send([routing_id, *outbox[0]])
            if refused == zmq.EAGAIN:
                return
            if refused:
                _expect_gone(refused)
                self.dropped += len(outbox)
                break
            self._outbox_bytes[routing_id] -= sum(len(frame) for frame in outbox.popleft())
        del self._outboxes[routing_id], self._outbox_bytes[routing_id]

    def close(self) -> None:
        """Close the socket; what was not sent is lost."""
        self._socket.close(0)


class PeerPort:
    """The ROUTER on which the other nodes' frames arrive. Only clients that have strayed here are sent anything."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self._socket = context.socket(zmq.ROUTER)
        _harden(self._socket, PEER_HIGH_WATER_MARK)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, 500)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 1500)
        _bind(self._socket, endpoint)
        self._io = ZmqIo(self._socket)
        self._answered = False  # whether anything was sent since the socket was last looked at

    @property
    def descriptor(self) -> int:
        """The edge-triggered FD that says "look at the socket"."""
        return int(self._socket.FD)

    def drain(self, count_max: int) -> list[list[bytes]]:
        """Messages without their routing id: who speaks is in the envelope. Those of clients are answered here."""
        self._answered = False
        found = []
        for message in self._io.drain(count_max, DRAIN_BYTES_MAX):
            answer = answer_to(message)
            if answer is None:
                found.append(message[1:])
            else:
                self._answered = True
                self._io.send(answer)  # refused by a full pipe, or because it is gone, it is lost: that client has had others
        return found

    def readable(self) -> bool:
        """Whether a message may wait that the descriptor does not announce any more: a bound or a send can have done that."""
        return (self._answered or not self._io.dry) and self._io.readable()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close(0)


class PeerLink:
    """The DEALER to one other node. IMMEDIATE: nothing is queued for a node that is not connected (stale votes, DESIGN §3)."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self.address = address  # ip:port
        self.dropped = 0  # messages refused because the link was down or full
        self._socket = context.socket(zmq.DEALER)
        _harden(self._socket, PEER_HIGH_WATER_MARK)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 50)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)  # so a node that returns hears its leader before it campaigns
        self._socket.setsockopt(zmq.CONNECT_TIMEOUT, 1000)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, 500)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 1500)
        self._monitor: zmq.Socket[bytes] = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._io, self._monitor_io = ZmqIo(self._socket), ZmqIo(self._monitor)
        self.on_close: Callable[[], object] | None = None  # called before the descriptor goes
        self._socket.connect(f"tcp://{address}")

    @property
    def monitor_descriptor(self) -> int:
        """The edge-triggered FD that says "ask `broke`"."""
        return int(self._monitor.FD)

    def broke(self) -> bool:
        """Whether the connection broke since this was last asked; libzmq makes a new one by itself."""
        return bool(self._monitor_io.drain(EVENTS_MAX, DRAIN_BYTES_MAX))

    def send(self, frames: Frames) -> bool:
        """Send one message whole, or drop it whole."""
        refused = self._io.send(frames)
        if refused:
            if refused != zmq.EAGAIN:
                raise zmq.ZMQError(refused)
            self.dropped += 1
            return False
        return True

    def close(self) -> None:
        """Close the socket; what was not sent is lost."""
        if self.on_close is not None:
            self.on_close()
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)
