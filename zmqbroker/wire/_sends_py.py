"""Plain SENDs on their way into batches: the reference, and the twin of the compiled ext/_sends.pyx.

Most SENDs of a busy client name a channel and nothing else. Those are found here without a value per message: neighbours for
one channel become one batch, and one result answers all of them. What is not so simple (a producer, an id, a name with other
than ASCII characters, a body over the limit) is left to `requests`, which knows all rules and names every fault.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence

import msgpack

from zmqbroker.wire.batch import CHANNEL_SIZE_MAX, COUNT_MAX
from zmqbroker.wire.frames import MAGIC, PROTOCOL_VERSION, Reply, Request

__all__ = ["SendRun", "gather", "put_confirms"]

#: Of one channel: its name, the bodies, and of each message what is left: [routing id, delimiter if there is one, header].
SendRun = tuple[str, list[bytes], list[list[bytes]]]

_START = MAGIC + bytes((PROTOCOL_VERSION, Request.SEND))
_REPLY = struct.Struct("<2sBB8s")
_HEADER_SIZE = 12
#: Names of queues that keep every rule of `frames.channel_fault` beyond doubt; the size is compared with what the header says.
#: One with a colon, which may end the prefix of another kind, goes the way of all others.
_NAME = rb"(?!_sys\.)(?P<name>(?:[!-~](?<![*>;:]))+(?<!\.))"
_CHANNEL = rb"\xa7channel(?:(?P<short>[\xa1-\xbf])|\xd9(?P<long>[\x01-\xff]))" + _NAME
_FORWARD = rb"\xa7forward[\xc2\xc3]"
#: A map of the channel alone, or of the channel and `forward` in either order. A name may hold what looks like another key.
_FIELDS = tuple(
    re.compile(fields, re.DOTALL)
    for fields in (rb"\x81" + _CHANNEL, rb"\x82" + _CHANNEL + _FORWARD, rb"\x82" + _FORWARD + _CHANNEL)
)


def gather(messages: Sequence[list[bytes]], start: int, body_size_max: int, bytes_max: int) -> tuple[int, list[SendRun]]:
    """Plain SENDs from messages[start] on, [routing id, frames …] each, and where the first message is that is none.

    It ends early when the bodies come to `bytes_max` bytes or a batch is full. The bodies are taken out of the messages.
    """
    runs: dict[bytes, SendRun] = {}
    size, position = 0, start
    while position < len(messages) and position - start < COUNT_MAX and size < bytes_max:
        frames = messages[position]
        if len(frames) != 3 and (len(frames) != 4 or frames[1]):
            break
        channel = _plain_channel(frames[-2])
        if channel is None or len(frames[-1]) > body_size_max:
            break
        run = runs.get(channel)
        if run is None:
            run = runs[channel] = (channel.decode(), [], [])
        body = frames.pop()
        size += len(body)
        run[1].append(body)
        run[2].append(frames)
        position += 1
    return position, list(runs.values())


def _plain_channel(header: bytes) -> bytes | None:
    """The channel that a SEND without anything else names."""
    if header[:4] != _START:
        return None
    for pattern in _FIELDS:
        found = pattern.fullmatch(header, _HEADER_SIZE)
        if found is not None:
            name = found["name"]
            stated = found["short"][0] & 0x1F if found["short"] else found["long"][0]
            return name if len(name) == stated <= CHANNEL_SIZE_MAX else None
    return None


def put_confirms(waiters: Sequence[list[bytes]], first_sequence: int, time_unix_ns: int, confirm: str) -> None:
    """Put SENT headers in the place of the requests' headers: the messages are now the replies, with rising sequences."""
    rest = {"count": 1, "time_unix_ns": time_unix_ns, "duplicate": False, "confirm": confirm}
    for sequence, frames in enumerate(waiters, first_sequence):
        frames[-1] = _REPLY.pack(MAGIC, PROTOCOL_VERSION, Reply.SENT, frames[-1][4:_HEADER_SIZE]) + msgpack.packb(
            {"sequence": sequence} | rest
        )
