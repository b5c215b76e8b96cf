"""A client that sends frames no honest client would, and what every test of bad input asks afterwards."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import zmq

from tests.processes import Cluster, Node
from tests.raw import Answer, Raw, new_request_id
from zmqbroker.wire import codec
from zmqbroker.wire.frames import Reply, Request, decode_header, encode_header, split_delimiter

__all__ = [
    "Wild",
    "batch",
    "counters",
    "header",
    "only_node",
    "refusal",
    "refusals",
    "resealed",
    "serves",
    "short",
    "unique_channel",
]

ANSWER_MS = 15_000

_numbers = itertools.count(1)


def short(value: object) -> str:
    """A name for a parameter of a test."""
    return ascii(value)[:40]


def unique_channel(prefix: str = "wild") -> str:
    """A channel that no other test uses."""
    return f"{prefix}.{next(_numbers)}.{new_request_id():x}"


class Wild(Raw):
    """A connection that sends any frames, as a DEALER (or another type of socket) would."""

    def __init__(self, endpoint: str, kind: int = zmq.DEALER) -> None:
        super().__init__(endpoint)
        if kind != zmq.DEALER:
            self._socket.close(0)
            self._socket = self._context.socket(kind)
            self._socket.setsockopt(zmq.LINGER, 0)
            self._socket.connect(endpoint)

    def __enter__(self) -> Wild:
        return self

    def send_frames(self, frames: Sequence[bytes]) -> None:
        """Send these very frames."""
        self._socket.send_multipart(frames)

    def receive(self, timeout_ms: int = ANSWER_MS) -> Answer | None:
        """The next reply, behind a delimiter or not."""
        if not self._socket.poll(timeout_ms):
            return None
        _, frames = split_delimiter(self._socket.recv_multipart())
        return Answer(*decode_header(frames[0]), list(frames[1:]))

    def next_answer(self) -> Answer:
        """The next reply, which must come."""
        answer = self.receive()
        assert answer is not None, "no reply"
        return answer


def header(command: int, packed: bytes = b"", *, magic: bytes = b"ZB", version: int = 1, request_id: int = 7) -> bytes:
    """A header frame with these very bytes behind it."""
    return struct.pack("<2sBBQ", magic, version, command, request_id) + packed


def batch(channel: str, *bodies: bytes, producer: int = 0, base: int = 0) -> bytes:
    """A batch frame."""
    return codec.encode_batch(channel.encode(), list(bodies), producer, base)


def resealed(frame: bytes | bytearray) -> bytes:
    """A batch frame with the size and the checksum that fit its bytes: only what else is wrong with it is wrong."""
    body = struct.pack("<I", len(frame)) + bytes(frame[12:])
    return bytes(frame[:4]) + struct.pack("<I", codec.crc32c(body)) + body


def only_node(cluster: Cluster) -> Node:
    """The node of a cluster of one."""
    (node,) = cluster.nodes.values()
    return node


def counters(node: Node) -> Mapping[str, int]:
    """What the node has counted."""
    with Raw(node.endpoint) as raw:
        found: dict[str, int] = raw.ask(Request.INFO).fields["counters"]
    return found


def serves(node: Node) -> bool:
    """Whether a client without faults can send, receive and ack a message at the node, or through it."""
    channel = {"channel": unique_channel("after"), "forward": True}
    with Raw(node.endpoint) as raw:
        sent = raw.ask(Request.SEND, channel, [b"still here"])
        received = raw.ask(Request.RECEIVE, {**channel, "plain": True, "wait_ms": 10_000})
        ((message, body),) = zip(received.fields["messages"], received.bodies, strict=True)
        receipt = [message["assigning"], message["sequence"], message["sequence"]]
        acked = raw.ask(Request.ACK, {**channel, "receipts": [receipt]})
    return (sent.command, body, acked.fields.get("count")) == (Reply.SENT, b"still here", 1)


def refusals(node: Node, code: str, several: Sequence[Sequence[bytes]]) -> list[Answer]:
    """Send messages that must all be refused with `code` and counted as that, and leave the node in service."""
    counter = f"refused_{code.lower()}"
    before = counters(node).get(counter, 0)
    with Wild(node.endpoint) as wild:
        for frames in several:
            wild.send_frames(frames)
        answers = [wild.next_answer() for _ in several]
        assert {answer.code for answer in answers} == {code}, [answer.fields for answer in answers]
        assert all(answer.fields["message"] for answer in answers)
        assert wild.ask(Request.PING).command == Reply.PONG, "the connection itself is still good"
    assert counters(node)[counter] == before + len(several)
    assert serves(node)
    return answers


def refusal(node: Node, code: str, command: Request, fields: Mapping[str, Any], bodies: Sequence[bytes] = ()) -> Answer:
    """Send a request that must be refused with `code`; its ERROR."""
    number = new_request_id()
    (answer,) = refusals(node, code, [[encode_header(command, number, fields), *bodies]])
    assert answer.request_id == number
    return answer
