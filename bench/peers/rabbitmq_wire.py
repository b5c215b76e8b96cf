"""A raw socket that speaks just enough of AMQP 0-9-1: one channel with confirms, publishes out, acks and deliveries in.

https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf and https://www.rabbitmq.com/docs/confirms. A frame is its type (1),
the channel (2), the size of what follows (4), that, and an end octet.
"""

from __future__ import annotations

import struct

from bench.load import BenchError
from bench.peers.raw import RawConnection

__all__ = [
    "Confirms",
    "Deliveries",
    "RabbitmqConnection",
    "acknowledgement",
    "frames_in",
    "method",
    "publication",
    "short_text",
]

CHANNEL = 1
_HEAD, _END = struct.Struct(">BHI"), b"\xce"
_METHOD, _HEADER, _BODY = 1, 2, 3
_NAME = struct.Struct(">HH")  # of a method: class and number
_TAG = struct.Struct(">QB")  # delivery tag, and a bit
_HEADER_FIELDS = struct.Struct(">HHQH")  # class, weight, size of the body, which properties follow

START, START_OK, TUNE, TUNE_OK, OPEN, OPEN_OK = (10, 10), (10, 11), (10, 30), (10, 31), (10, 40), (10, 41)
CONNECTION_CLOSE, CHANNEL_OPEN, CHANNEL_OPEN_OK, CHANNEL_CLOSE = (10, 50), (20, 10), (20, 11), (20, 40)
PUBLISH, DELIVER, ACK, NACK = (60, 40), (60, 60), (60, 80), (60, 120)
#: The flag that says that the property follows, and its value; a quorum queue keeps every message as a persistent one.
_DELIVERY_MODE, _PERSISTENT = 0x1000, b"\x02"
#: Seconds that a queue may take to be made: its members choose a leader.
_ANSWER_S = 60


def short_text(text: bytes) -> bytes:
    """A text with its length in one octet."""
    return bytes((len(text),)) + text


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """A whole frame."""
    return _HEAD.pack(kind, channel, len(payload)) + payload + _END


def method(name: tuple[int, int], arguments: bytes = b"", channel: int = CHANNEL) -> bytes:
    """The frame of a method."""
    return frame(_METHOD, channel, _NAME.pack(*name) + arguments)


def publication(queue: bytes, body: bytes) -> bytes:
    """The frames that publish one persistent message to a queue by the default exchange."""
    head = method(PUBLISH, b"\0\0" + short_text(b"") + short_text(queue) + b"\0")
    properties = _HEADER_FIELDS.pack(PUBLISH[0], 0, len(body), _DELIVERY_MODE) + _PERSISTENT
    return head + frame(_HEADER, CHANNEL, properties) + frame(_BODY, CHANNEL, body)


def acknowledgement(tag: int) -> bytes:
    """The frame that acks all deliveries up to this one."""
    return method(ACK, _TAG.pack(tag, 1))


def frames_in(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Kind and payload of each frame that has come whole, and what is left. Raises BenchError when the server closes."""
    found, at = [], 0
    while len(data) >= at + _HEAD.size:
        kind, _, size = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + size + 1
        if len(data) < end:
            break
        payload, at = data[at + _HEAD.size : end - 1], end
        if kind == _METHOD and _NAME.unpack_from(payload) in (CONNECTION_CLOSE, CHANNEL_CLOSE):
            reason = payload[7 : 7 + payload[6]].decode(errors="replace")  # behind the name and a code
            raise BenchError(f"RabbitMQ closed the connection or the channel: {reason}")
        found.append((kind, payload))
    return found, data[at:]


class Confirms:
    """Counts the messages that are confirmed; the broker numbers them from 1 and confirms in any order, alone or up to one."""

    def __init__(self) -> None:
        self._below = 0  # everything up to here is confirmed
        self._alone: set[int] = set()  # confirmed beyond it
        self._rest = b""

    def take(self, data: bytes) -> int:
        """How many more there are. Raises BenchError when one is refused."""
        before = self._below + len(self._alone)
        frames, self._rest = frames_in(self._rest + data)
        for _, payload in frames:
            name = _NAME.unpack_from(payload)
            if name != ACK:
                raise BenchError("RabbitMQ refused a message" if name == NACK else f"RabbitMQ said {name} among confirms")
            tag, multiple = _TAG.unpack_from(payload, _NAME.size)
            if multiple:
                self._below = max(self._below, tag)
                self._alone = {other for other in self._alone if other > tag}
            else:
                self._alone.add(tag)
            while self._below + 1 in self._alone:
                self._below += 1
                self._alone.discard(self._below)
        return self._below + len(self._alone) - before


class Deliveries:
    """Reads deliveries of messages with bodies of one size, whose tags are 1, 2, 3 and so on."""

    def __init__(self, body_bytes: int) -> None:
        self._body_bytes = body_bytes
        self._rest = b""
        self._begun_tag = 0
        self.last_tag = 0  # of those that have come whole

    def take(self, data: bytes) -> int:
        """How many more have come whole. Raises BenchError when one was delivered before, or is not as it was sent."""
        frames, self._rest = frames_in(self._rest + data)
        before = self.last_tag
        for kind, payload in frames:
            if kind == _METHOD:
                self._begin(payload)
            elif kind == _BODY:
                if len(payload) != self._body_bytes:
                    raise BenchError(f"RabbitMQ delivered {len(payload)} bytes of a message of {self._body_bytes}")
                self.last_tag = self._begun_tag
        return self.last_tag - before

    def _begin(self, payload: bytes) -> None:
        name = _NAME.unpack_from(payload)
        if name != DELIVER:
            raise BenchError(f"RabbitMQ said {name} among deliveries")
        tag, redelivered = _TAG.unpack_from(payload, _NAME.size + 1 + payload[_NAME.size])  # behind the consumer's name
        if redelivered or tag != self._begun_tag + 1:
            raise BenchError("RabbitMQ delivered a message twice, or not at all")
        self._begun_tag = tag


class RabbitmqConnection(RawConnection):
    """One connection to one server, with one channel."""

    server = "RabbitMQ server"

    def _greet(self) -> None:
        self._socket.sendall(b"AMQP\0\0\x09\x01")
        self._expect(START)
        login = b"\0guest\0guest"
        arguments = struct.pack(">I", 0) + short_text(b"PLAIN") + struct.pack(">I", len(login)) + login + short_text(b"en_US")
        self._socket.sendall(method(START_OK, arguments, channel=0))
        limits = self._expect(TUNE)[: struct.calcsize(">HI")]  # the server's own, without heartbeats
        self._socket.sendall(method(TUNE_OK, limits + b"\0\0", channel=0) + method(OPEN, short_text(b"/") + b"\0\0", channel=0))
        self._expect(OPEN_OK)
        self.ask(CHANNEL_OPEN, b"\0")

    def ask(self, name: tuple[int, int], arguments: bytes) -> bytes:
        """The arguments of the answer to a method, which is numbered next to it. For set-up: nothing else is under way."""
        self._socket.settimeout(_ANSWER_S)
        self._socket.sendall(method(name, arguments))
        answer = self._expect((name[0], name[1] + 1))
        self._socket.setblocking(False)
        return answer

    def _expect(self, name: tuple[int, int]) -> bytes:
        """The arguments of the method that comes next. Raises BenchError when it is another one."""
        frames: list[tuple[int, bytes]] = []
        data = b""
        while not frames:
            frames, data = frames_in(data + self._receive_some())
        found = _NAME.unpack_from(frames[0][1])
        if found != name or len(frames) > 1 or data:
            raise BenchError(f"RabbitMQ said {found} in place of {name}")
        return frames[0][1][_NAME.size :]
