"""One connection to one node: a DEALER that never reconnects by itself.

libzmq would reconnect behind the socket's back, and requests could reach the new connection before HELLO. So a socket lives
as long as its connection; the driver makes a new one. A monitor tells when the connection stands and when it is gone, and a
deadline covers events that do not come. Names are resolved before; this module connects to addresses only. It knows no
protocol. The FD is edge-like: it is drained until EAGAIN, and looked at again after sends, which can swallow its wake-up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import zmq
from zmq.utils.monitor import parse_monitor_message

from zmqbroker.client.contact import Trouble
from zmqbroker.wire.batch import Buffer

__all__ = ["Connection", "Listener"]

#: Messages taken in one go before other tasks of the loop get their turn.
_BUDGET = 256
#: More than the requests that may be under way, so that the outbox is the exception.
_HIGH_WATER_MARK = 1100
#: Frames above this close the connection inside libzmq (PROTOCOL §5).
_FRAME_BYTES_MAX = 80 << 20
#: Until it stands, or libzmq's own limit for that, below, was missed.
_CONNECTED_S = 4.0
#: From there to the end of the ZMTP handshake, which libzmq does not bound for all who say something else.
_HANDSHAKE_S = 0.9
#: Sends that a full pipe refused are tried again after this, if the socket gives no sign before.
_RETRY_S = 0.005

_GONE = (
    zmq.Event.CLOSED
    | zmq.Event.DISCONNECTED
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_AUTH
)
_EVENTS = _GONE | zmq.Event.CONNECTED | zmq.Event.HANDSHAKE_SUCCEEDED
_OPTIONS = (
    (zmq.LINGER, 0),
    (zmq.SNDHWM, _HIGH_WATER_MARK),
    (zmq.RCVHWM, _HIGH_WATER_MARK),
    (zmq.MAXMSGSIZE, _FRAME_BYTES_MAX),
    (zmq.IMMEDIATE, 1),
    (zmq.RECONNECT_IVL, -1),
    (zmq.CONNECT_TIMEOUT, 1000),
    (zmq.HANDSHAKE_IVL, 2000),
    (zmq.HEARTBEAT_IVL, 5000),
    (zmq.HEARTBEAT_TIMEOUT, 15000),
    (zmq.TCP_KEEPALIVE, 1),
    (zmq.TCP_KEEPALIVE_IDLE, 30),
    (zmq.TCP_KEEPALIVE_INTVL, 10),
    (zmq.TCP_KEEPALIVE_CNT, 3),
)


class Listener(Protocol):
    """Who is told what happens on a connection."""

    def on_ready(self, connection: Connection) -> None:
        """The connection stands."""

    def on_messages(self, connection: Connection, messages: list[list[bytes]]) -> None:
        """Messages came, in order; never none."""

    def on_gone(self, connection: Connection) -> None:
        """The connection is gone, or never came to be. Told once, and not after `close`."""


class Connection:
    """One DEALER and its monitor, driven by the running event loop. Raises zmq.ZMQError when `address` cannot be used."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, address: str, listener: Listener) -> None:
        self.endpoint = endpoint  # as the nodes call it
        self.ready = False  # whether sends are allowed
        self.trouble = Trouble.UNREACHABLE  # what it is when it ends now
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._outbox: deque[Sequence[Buffer]] = deque()  # refused by a full pipe; bounded by the session's slots
        self._retry: asyncio.TimerHandle | None = None
        self._closed = False
        self._looking = False  # whether look_again is about to be called
        self._socket = context.socket(zmq.DEALER)
        for option, value in _OPTIONS:
            self._socket.setsockopt(option, value)
        self._socket.setsockopt(zmq.IPV6, int("[" in address))
        self._monitor: zmq.Socket[bytes] = self._socket.get_monitor_socket(_EVENTS)
        self._descriptors = (int(self._socket.FD), int(self._monitor.FD))
        try:
            self._socket.connect(address)
        except zmq.ZMQError:
            self._close_sockets()
            raise
        self._loop.add_reader(self._descriptors[0], self._on_socket)
        self._loop.add_reader(self._descriptors[1], self._on_monitor)
        self._deadline = self._loop.call_later(_CONNECTED_S, self._end)
        # The edge may have come before the reader was there.
        self._loop.call_soon(self._on_monitor)

    def send(self, frames: Sequence[Buffer]) -> None:
        """Send a message, or keep it until the pipe has room."""
        self._look_soon()
        if self._outbox or not self._try_send(frames):
            self._outbox.append(frames)
            self._retry_later()

    def offer(self, frames: Sequence[Buffer]) -> bool:
        """Send a message if the pipe has room now, behind all that were to be sent before."""
        self._look_soon()
        return not self._outbox and self._try_send(frames)

    def _look_soon(self) -> None:
        if not self._looking:
            self._looking = True  # after the last send of this pass, one of which may swallow the sign that something came
            self._loop.call_soon(self.look_again)

    def look_again(self) -> None:
        """See whether something came without a sign."""
        self._looking = False
        if not self._closed and int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._loop.call_soon(self._on_socket)

    def close(self) -> None:
        """Close; the listener is told nothing more."""
        if self._closed:
            return
        self._closed, self.ready = True, False
        self._deadline.cancel()
        if self._retry is not None:
            self._retry.cancel()
        for descriptor in self._descriptors:  # before the sockets close, or their numbers may be others' already
            self._loop.remove_reader(descriptor)
        self._close_sockets()

    def _close_sockets(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)

    def _end(self) -> None:
        self.close()
        self._listener.on_gone(self)

    def _on_monitor(self) -> None:
        while not self._closed:
            try:
                event = int(parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))["event"])
            except zmq.Again:
                return
            if event & _GONE:
                if event & zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
                    self.trouble = Trouble.FOREIGN
                self._on_socket()  # what came before the end is still there to read
                if not self._closed:
                    self._end()
            elif event & zmq.Event.CONNECTED:
                self.trouble = Trouble.CLOSED
                self._deadline.cancel()
                self._deadline = self._loop.call_later(_HANDSHAKE_S, self._on_silence)
            elif not self.ready:
                self.ready, self.trouble = True, Trouble.LOST
                self._deadline.cancel()
                self._listener.on_ready(self)

    def _on_silence(self) -> None:
        self.trouble = Trouble.SILENT
        self._end()

    def _on_socket(self) -> None:
        if self._closed:
            return
        messages: list[list[bytes]] = []
        try:
            while len(messages) < _BUDGET:
                messages.append(self._socket.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            pass
        else:
            self._loop.call_soon(self._on_socket)
        self._send_outbox()
        if messages:
            self._listener.on_messages(self, messages)

    def _send_outbox(self) -> None:
        while self._outbox and self._try_send(self._outbox[0]):
            self._outbox.popleft()
        if self._outbox:
            self._retry_later()

    def _retry_later(self) -> None:
        if self._retry is None:
            self._retry = self._loop.call_later(_RETRY_S, self._on_retry)

    def _on_retry(self) -> None:
        self._retry = None
        self._on_socket()

    def _try_send(self, frames: Sequence[Buffer]) -> bool:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True
