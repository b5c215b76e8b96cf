"""A raw socket that speaks just enough of the NATS client protocol: PUB and SUB out, MSG in.

https://docs.nats.io/reference/reference-protocols/nats-protocol; the API of JetStream is JSON over request subjects.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from bench.peers.raw import RawConnection

__all__ = ["NatsConnection", "message_after", "publication"]

_CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n'
#: A request of the API is dropped while the servers choose a leader: it is given up then, and may be sent again.
_ANSWER_S = 2.0
#: Where answers of the API go; each request has a token of its own behind it.
_API_INBOX = b"_api"


def publication(subject: bytes, reply_to: bytes, body: bytes) -> bytes:
    """The bytes that publish one message and ask for an answer."""
    return b"PUB %b %b %d\r\n%b\r\n" % (subject, reply_to, len(body), body)


class NatsConnection(RawConnection):
    """One connection to one server."""

    server = "NATS server"

    def __init__(self, port: int, inboxes: Sequence[bytes] = ()) -> None:
        self._asked, self._inboxes = 0, (_API_INBOX + b".*", *inboxes)
        super().__init__(port)

    def _greet(self) -> None:
        subscriptions = b"".join(b"SUB %b %d\r\n" % (inbox, number) for number, inbox in enumerate(self._inboxes, 1))
        self._socket.sendall(_CONNECT + subscriptions + b"PING\r\n")
        self._receive_until(b"PONG\r\n")

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

    def _receive_until(self, mark: bytes) -> bytes:
        data = b""
        while mark not in data:
            data += self._receive_some()
        return data


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
