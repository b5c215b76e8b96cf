"""A raw socket that speaks just enough of RESP2: commands as arrays of bulk strings out, and the few replies that come back.

https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench.load import BenchError
from bench.peers.raw import RawConnection

__all__ = ["Confirms", "Deliveries", "RedisConnection", "command"]


def command(*words: bytes) -> bytes:
    """The bytes of one command."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


class RedisConnection(RawConnection):
    """One connection to one server."""

    server = "Redis server"

    def ask(self, *words: bytes) -> bytes:
        """The reply to one command, a status, a number or one bulk string. For set-up: nothing else is under way."""
        self.write(command(*words))
        data = self.exchange()
        while not _whole(data):
            data += self.exchange()
        if data[:1] == b"-":
            raise BenchError(f"Redis refused {words[0].decode()}: {data[1:].decode(errors='replace').strip()}")
        return data.partition(b"\r\n")[2][:-2] if data[:1] == b"$" else data[1:-2]


def _whole(data: bytes) -> bool:
    head, end, rest = data.partition(b"\r\n")
    return bool(end) and (data[:1] != b"$" or len(rest) == int(head[1:]) + 2)


class Confirms:
    """Replies to XADDs, `burst` at a time, each burst with the answer of a WAIT behind it."""

    def __init__(self, burst: int) -> None:
        # An id is a bulk string, of two lines: $<size>, <milliseconds>-<number>. WAIT's answer is one: :<replicas>.
        self._line_count = 2 * burst + 1
        self._data = b""

    def take(self, data: bytes) -> bool:
        """Whether the burst is confirmed now. Raises BenchError when one is refused, or no replica has it in time."""
        self._data += data
        if self._data[:1] == b"-" or b"\n-" in self._data:
            raise BenchError(f"Redis refused a message: {_error_in(self._data)}")
        if self._data.count(b"\r\n") < self._line_count:
            return False
        replicas = self._data[self._data.rindex(b":") + 1 : -2]
        if not int(replicas):
            raise BenchError("no replica of Redis has what was sent in time")
        self._data = b""
        return True


def _error_in(data: bytes) -> str:
    at = 0 if data[:1] == b"-" else data.index(b"\n-") + 1
    return data[at + 1 :].partition(b"\r\n")[0].decode(errors="replace")


class Deliveries:
    """Replies to XREADGROUPs and XACKs in the order of their commands; every message has one field of `body_bytes`."""

    def __init__(self, key: bytes, body_bytes: int) -> None:
        entry = rb"\*2\r\n\$\d+\r\n(\d+-\d+)\r\n\*2\r\n\$1\r\nb\r\n\$%d\r\n[\s\S]{%d}\r\n" % (body_bytes, body_bytes)
        head = rb"\*1\r\n\*2\r\n\$%d\r\n%b\r\n\*\d+\r\n" % (len(key), re.escape(key))
        # A message; how many were acked; nothing to read; where messages begin; an error.
        self._part = re.compile(rb"%b|:(\d+)\r\n|(\*-1)\r\n|%b|-([^\r]*)\r\n" % (entry, head))
        self._rest = b""
        self.acked = 0

    def take(self, data: bytes) -> tuple[Sequence[bytes], int]:
        """Ids of the messages that have come whole, and how many reads found nothing."""
        data, ids, at, empty = self._rest + data, [], 0, 0
        while (part := self._part.match(data, at)) is not None:
            at, kind = part.end(), part.lastindex
            if kind == 1:
                ids.append(part[1])
            elif kind == 2:
                self.acked += int(part[2])
            elif kind == 3:
                empty += 1
            elif kind == 4:
                raise BenchError(f"Redis refused a read or an ack: {part[4].decode(errors='replace')}")
        self._rest = data[at:]
        return ids, empty
