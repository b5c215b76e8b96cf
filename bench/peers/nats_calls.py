"""Request and reply over NATS core: a responder and a caller that know just enough of the protocol, and parse little.

Both read whole chunks; the caller counts answers by their subject. No JetStream takes part.
"""

from __future__ import annotations

import socket
import time
from multiprocessing.synchronize import Event

__all__ = ["nats_call", "nats_responder"]

_CONNECT = b'CONNECT {"verbose":false,"pedantic":false}\r\n'
_SUBJECT, _INBOX = b"bench.svc", b"_I.b"
_CHUNK_BYTES = 1 << 20
_SILENCE_S = 30.0


def _connect(port: int, subject: bytes) -> socket.socket:
    """A connection with one subscription that its server knows of."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=_SILENCE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(_CONNECT + b"SUB " + subject + b" 1\r\nPING\r\n")
    said = b""
    while b"PONG\r\n" not in said:
        said += connection.recv(_CHUNK_BYTES)
    return connection


def nats_responder(port: int, ready: Event) -> None:
    """Answer every request with its own body, until the process is ended."""
    connection = _connect(port, _SUBJECT)
    ready.set()
    rest = b""
    while data := connection.recv(_CHUNK_BYTES):
        data, position, answers = rest + data, 0, []
        while (end := data.find(b"\r\n", position)) >= 0:
            words = data[position:end].split()
            position_after = end + 2
            if words and words[0] == b"MSG":
                size = int(words[-1])
                position_after += size + 2
                if position_after > len(data):
                    break
                answers.append(b"PUB %b %d\r\n%b\r\n" % (words[3], size, data[end + 2 : end + 2 + size]))
            position = position_after
        rest = data[position:]
        if answers:
            connection.sendall(b"".join(answers))


def nats_call(port: int, count: int, window: int, body: bytes) -> tuple[float, list[int]]:
    """Ask `count` times with `window` requests under way: seconds that it took, and each one's nanoseconds."""
    connection = _connect(port, _INBOX)
    request = b"PUB %b %b %d\r\n%b\r\n" % (_SUBJECT, _INBOX, len(body), body)
    mark = b"MSG " + _INBOX
    sent_ns: list[int] = []
    took_ns: list[int] = []
    rest, done, started = b"", 0, time.perf_counter()
    while done < count:
        more = min(window - (len(sent_ns) - done), count - len(sent_ns))
        if more:
            sent_ns += [time.perf_counter_ns()] * more
            connection.sendall(request * more)
        data = rest + connection.recv(_CHUNK_BYTES)
        whole = data.rfind(b"\r\n") + 2
        found = data.count(mark, 0, whole)
        rest, now_ns = data[whole:], time.perf_counter_ns()
        took_ns += [now_ns - at_ns for at_ns in sent_ns[done : done + found]]
        done += found
    seconds = time.perf_counter() - started
    connection.close()
    return seconds, took_ns
