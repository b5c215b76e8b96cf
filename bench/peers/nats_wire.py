"""A raw socket that speaks just enough of the NATS client protocol: PUB and SUB out, MSG in.

https://docs.nats.io/reference/reference-protocols/nats-protocol; the API of JetStream is JSON over request subjects.
"""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Sequence
from typing import Any

from bench.load import BenchError

__all__ = ["NatsConnection", "exchange_all", "message_after", "publication"]

#: A healthy server neither keeps a client waiting that long nor takes that long to read from it.
SILENCE_S = 30.0
_CHUNK_BYTES = 1 << 20
_CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n'
#: A request of the API is dropped while the servers choose a leader: it is given up then, and may be sent again.
_ANSWER_S = 2.0
#: Where answers of the API go; each request has a token of its own behind it.
_API_INBOX = b"_api"


def publication(subject: bytes, reply_to: bytes, body: bytes) -> bytes:
    """The bytes that publish one message and ask for an answer."""
    return b"PUB %b %b %d\r\n%b\r\n" % (subject, reply_to, len(body), body)


class NatsConnection:
    """One connection to one server. `write` only queues; `exchange`, or `flush` and `read`, move bytes and never block."""

    def __init__(self, port: int, inboxes: Sequence[bytes] = ()) -> None:
        self.port = port
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=SILENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pending: list[memoryview] = []
        self._asked = 0
        subscriptions = b"".join(
            b"SUB %b %d\r\n" % (inbox, number) for number, inbox in enumerate((_API_INBOX + b".*", *inboxes), 1)
        )
        self._socket.sendall(_CONNECT + subscriptions + b"PING\r\n")
        self._receive_until(b"PONG\r\n")
        self._socket.setblocking(False)

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
            data = self._socket.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            raise BenchError(f"the NATS server at port {self.port} closed the connection")
        return data

    def exchange(self) -> bytes:
        """Wait until bytes can be sent or have come, and move them. Raises BenchError after a long silence."""
        readable, writable, _ = select.select([self], [self] if self._pending else [], [], SILENCE_S)
        if not readable and not writable:
            raise BenchError(f"the NATS server at port {self.port} stopped answering")
        self.flush()
        return self.read() if readable else b""

    def ask(self, subject: str, fields: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer of the API below `$JS.API.`, with its `error` if it has one. For set-up: nothing else is under way."""
        body = b"" if fields is None else json.dumps(fields).encode()
        self._asked += 1
        inbox = b"%b.%d" % (_API_INBOX, self._asked)
        self._socket.settimeout(_ANSWER_S)
        try:
            self._socket.sendall(publication(b"$JS.API." + subject.encode(), inbox, body))
            data = self._receive_until(b"MSG " + inbox + b" ")
            while (answer := message_after(data, b"MSG " + inbox + b" ")) is None:
                data += self._receive_some()
        except TimeoutError:
            answer = {"error": {"description": f"no answer in {_ANSWER_S:g} s"}}
        finally:
            self._socket.setblocking(False)
        return answer

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _receive_until(self, mark: bytes) -> bytes:
        data = b""
        while mark not in data:
            data += self._receive_some()
        return data

    def _receive_some(self) -> bytes:
        data = self._socket.recv(_CHUNK_BYTES)
        if not data:
            raise BenchError(f"the NATS server at port {self.port} closed the connection")
        return data


def exchange_all(connections: Sequence[NatsConnection]) -> list[bytes]:
    """As `NatsConnection.exchange`, of whichever connections can; what has come on each."""
    writing = [connection for connection in connections if connection.writing]
    readable, writable, _ = select.select(connections, writing, [], SILENCE_S)
    if not readable and not writable:
        raise BenchError("the NATS servers stopped answering")
    for connection in writing:
        connection.flush()
    return [connection.read() if connection in readable else b"" for connection in connections]


def message_after(data: bytes, mark: bytes) -> dict[str, Any] | None:
    """The JSON of the MSG or HMSG at `mark`, None while some of it is missing; without responders it has only a header."""
    head, line_end, rest = data[data.index(mark) :].partition(b"\r\n")
    words = head.split()
    size = int(words[-1])
    if not line_end or len(rest) < size + 2:
        return None
    if data[: data.index(mark)].endswith(b"H"):
        return {"error": {"description": "nobody answers yet"}}
    found: dict[str, Any] = json.loads(rest[:size])
    return found
