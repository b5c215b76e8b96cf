"""One node, asked one thing at a time, by a caller that waits.

For what only that node can answer, such as the next bytes of a backup that it made: `Session` would follow the leader. A
request may be sent several times, with the same id, over a new connection each time an answer does not come; so it must be one
that can be repeated. One instance belongs to one thread.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from types import TracebackType

import zmq

from zmqbroker.client.session import Answer
from zmqbroker.client.url import split_endpoint
from zmqbroker.errors import Busy, DeadlineExceeded, MalformedFrame, RequestError, UnsupportedVersion, error_from_wire
from zmqbroker.wire.frames import Reply, decode_header
from zmqbroker.wire.requests import AnyRequest, command_of, encode_request

__all__ = ["NodeConnection"]

#: After so many milliseconds without an answer the connection is made anew and the request sent again.
PATIENCE_MS = 5_000
#: The longest pause that a BUSY may ask for, in seconds.
_PAUSE_MAX_S = 5.0


class NodeConnection:
    """A connection to the node at `endpoint`. Use it inside `with`."""

    def __init__(
        self, endpoint: str, *, clock: Callable[[], float] = time.monotonic, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self.endpoint = endpoint
        self._clock, self._pause = clock, pause
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._last_id = 0

    def ask(self, request: AnyRequest, timeout_ms: int) -> Answer:
        """The answer, however often the node says BUSY or nothing before. Raises RequestError.

        When time is up: the last refusal, or DeadlineExceeded.
        """
        self._last_id += 1
        deadline, refusal = self._clock() + timeout_ms / 1000, None
        while (left_s := deadline - self._clock()) > 0:
            answer = self._attempt(request, self._last_id, min(PATIENCE_MS, int(left_s * 1000) + 1))
            if isinstance(answer, Answer):
                return answer
            if answer is not None:
                if not answer.retryable:
                    raise answer
                refusal = answer
                retry_s = answer.retry_ms / 1000 if isinstance(answer, Busy) else 0.1
                self._pause(max(0.0, min(retry_s, _PAUSE_MAX_S, deadline - self._clock())))
        if refusal is not None:
            raise refusal
        what = command_of(request).name
        raise DeadlineExceeded(f"{self.endpoint} gave no answer to {what} in {timeout_ms} ms", outcome_unknown=True)

    def _attempt(self, request: AnyRequest, request_id: int, timeout_ms: int) -> Answer | RequestError | None:
        """Send a request once; the reply or refusal, None when none came in time."""
        end = self._clock() + timeout_ms / 1000
        connection = self._connected()
        if connection is None:
            self._pause(0.1)
            return None
        connection.send_multipart(encode_request(request_id, request))
        while connection.poll(max(0, int((end - self._clock()) * 1000))):
            frames = connection.recv_multipart()
            try:
                command, answered_id, fields = decode_header(frames[0])
            except (MalformedFrame, UnsupportedVersion):
                continue
            if answered_id != request_id:
                continue  # the late answer to an earlier request
            if command == Reply.ERROR:
                return error_from_wire(fields)
            return Answer(fields, frames[1:])
        self._disconnect()
        return None

    def _connected(self) -> zmq.Socket[bytes] | None:
        """The connection, made if there is none; None when its host's name is not known now."""
        if self._socket is None:
            address = self._address()
            if address is None:
                return None
            self._socket = self._context.socket(zmq.DEALER)
            self._socket.setsockopt(zmq.LINGER, 0)
            self._socket.connect(address)
        return self._socket

    def _address(self) -> str | None:
        if self.endpoint.startswith("ipc://"):
            return self.endpoint
        host, port = split_endpoint(self.endpoint)
        try:
            address = str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
        except OSError:
            return None
        return f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close(0)
            self._socket = None

    def __enter__(self) -> NodeConnection:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._disconnect()
        self._context.term()
