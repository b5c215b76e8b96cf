"""A client made of one bare DEALER: it says exactly what a test tells it to, once, and hides nothing.

Tests use it where a real client would retry, look for the leader, or choose its own request ids. Its waits are bounded.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import zmq

from zmqbroker.wire.frames import Reply, Request, decode_header, encode_header

__all__ = ["Answer", "Raw", "new_request_id"]


class Answer(NamedTuple):
    """A reply as it came."""

    command: int
    request_id: int
    fields: dict[str, Any]
    bodies: list[bytes]

    @property
    def code(self) -> str:
        """The code of an ERROR; empty for any other reply."""
        return str(self.fields["code"]) if self.command == Reply.ERROR else ""


def new_request_id() -> int:
    """A request id that no other request of a test has."""
    return int.from_bytes(os.urandom(8), "little")


class Raw:
    """One connection to one node. Use it inside `with`."""

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(endpoint)

    def send(
        self,
        command: Request,
        fields: Mapping[str, Any] | None = None,
        bodies: Sequence[bytes] = (),
        request_id: int | None = None,
    ) -> int:
        """Send a request; its id."""
        number = new_request_id() if request_id is None else request_id
        self._socket.send_multipart([encode_header(command, number, fields or {}), *bodies])
        return number

    def receive(self, timeout_ms: int) -> Answer | None:
        """The next reply, whatever it answers; None when there was none in time."""
        if not self._socket.poll(timeout_ms):
            return None
        head, *bodies = self._socket.recv_multipart()
        return Answer(*decode_header(head), bodies)

    def receive_all(self, request_ids: Sequence[int], timeout_s: float) -> dict[int, Answer]:
        """The replies to these requests, as many as came in time."""
        found: dict[int, Answer] = {}
        end = time.monotonic() + timeout_s
        while len(found) < len(set(request_ids)) and (left := end - time.monotonic()) > 0:
            answer = self.receive(int(left * 1000) + 1)
            if answer is not None and answer.request_id in request_ids:
                found[answer.request_id] = answer
        return found

    def ask(
        self,
        command: Request,
        fields: Mapping[str, Any] | None = None,
        bodies: Sequence[bytes] = (),
        *,
        request_id: int | None = None,
        timeout_ms: int = 10_000,
    ) -> Answer:
        """Send a request and wait for its reply. Raises TimeoutError."""
        number = self.send(command, fields, bodies, request_id)
        found = self.receive_all([number], timeout_ms / 1000)
        if number not in found:
            raise TimeoutError(f"no reply to {command.name} in {timeout_ms} ms")
        return found[number]

    def close(self) -> None:
        """Close the connection."""
        self._socket.close(0)
        self._context.term()

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
