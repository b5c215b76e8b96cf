"""A raw TCP socket to a server on this machine: what every peer's client is built on. It knows no protocol."""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence

from bench.load import BenchError

__all__ = ["SILENCE_S", "RawConnection", "exchange_all"]

#: A healthy server neither keeps a client waiting that long nor takes that long to read from it.
SILENCE_S = 30.0
_CHUNK_BYTES = 1 << 20


class RawConnection:
    """One connection to one server. `write` only queues; `exchange`, or `flush` and `read`, move bytes and never block."""

    server = "server"  # what errors call it

    def __init__(self, port: int) -> None:
        """Connect and greet. Raises OSError or BenchError when there is no such server (yet), and is closed then."""
        self.port = port
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=SILENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pending: list[memoryview] = []
        try:
            self._greet()
        except BaseException:
            self.close()
            raise
        self._socket.setblocking(False)

    def _greet(self) -> None:
        """What the protocol begins with; calls of the socket wait as long as a silence may be."""

    def fileno(self) -> int:
        """The descriptor, for `select`."""
        return self._socket.fileno()

    @property
    def writing(self) -> bool:
        """Whether some of what was queued is not sent yet."""
        return bool(self._pending)

    def write(self, data: bytes) -> None:
        """Queue bytes."""
        if data:
            self._pending.append(memoryview(data))

    def flush(self) -> None:
        """Send what the socket takes now."""
        while self._pending:
            try:
                sent = self._socket.send(self._pending[0])
            except BlockingIOError:
                return
            if sent < len(self._pending[0]):
                self._pending[0] = self._pending[0][sent:]
                return
            del self._pending[0]

    def read(self) -> bytes:
        """What has come; nothing when nothing has. Raises BenchError when the server has closed the connection."""
        try:
            return self._receive_some()
        except BlockingIOError:
            return b""

    def exchange(self) -> bytes:
        """Wait until bytes can be sent or have come, and move them. Raises BenchError after a long silence."""
        return exchange_all([self])[0]

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _receive_some(self) -> bytes:
        data = self._socket.recv(_CHUNK_BYTES)
        if not data:
            raise BenchError(f"the {self.server} at port {self.port} closed the connection")
        return data


def exchange_all(connections: Sequence[RawConnection]) -> list[bytes]:
    """As `RawConnection.exchange`, of whichever connections can; what has come on each."""
    writing = [connection for connection in connections if connection.writing]
    readable, writable, _ = select.select(connections, writing, [], SILENCE_S)
    if not readable and not writable:
        first = connections[0]
        raise BenchError(f"the {first.server} at port {first.port} stopped answering")
    for connection in writing:
        connection.flush()
    return [connection.read() if connection in readable else b"" for connection in connections]
