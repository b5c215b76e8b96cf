"""EVENTS as it is pushed to a subscription: a header that is mostly the last one's, and the batch frame as it was published.

With `plain` the messages come one by one instead. Source: docs/PROTOCOL.md §3, EVENTS.
"""

from __future__ import annotations

import struct
from typing import Any

from zmqbroker.realtime import Subscription
from zmqbroker.server.replies import PLAIN_COUNT_MAX, headers_of
from zmqbroker.wire import codec
from zmqbroker.wire.frames import U64_MAX, Reply, encode_header
from zmqbroker.wire.headers import NO_HEADERS

__all__ = ["missed_frames", "push_frames"]

#: The last bytes of a header: its last field, a u64 in msgpack. All before them stays the same as long as `missed` does.
_TIME = struct.Struct(">Q")


def push_frames(subscription: Subscription, batch: bytes, time_unix_ns: int) -> tuple[list[list[bytes]], int]:
    """Messages with a batch for a subscription, [routing id, frames …] each, and what they count for its credit in bytes.

    It is one, but of long ones in the plain form.
    """
    if subscription.plain:
        return _plain(subscription, batch, time_unix_ns)
    head = subscription.head
    if head is None or subscription.missed != subscription.told_missed:
        fields = {**_common(subscription), "time_unix_ns": U64_MAX}
        head = subscription.head = encode_header(Reply.EVENTS, 0, fields)[: -_TIME.size]
    return [[*_way(subscription), head + _TIME.pack(time_unix_ns), batch]], len(batch)


def missed_frames(subscription: Subscription) -> list[bytes]:
    """A message that only tells how much was missed."""
    subscription.head = None
    return [*_way(subscription), encode_header(Reply.EVENTS, 0, _common(subscription))]


def _common(subscription: Subscription) -> dict[str, Any]:
    subscription.told_missed = subscription.missed
    return {"subscription": subscription.number, "missed": subscription.missed}


def _way(subscription: Subscription) -> list[bytes]:
    return [subscription.owner, b""] if subscription.delimiter else [subscription.owner]


def _plain(subscription: Subscription, batch: bytes, time_unix_ns: int) -> tuple[list[list[bytes]], int]:
    contents = codec.decode_batch(batch, verify=False)
    rows, bodies = [], list(map(bytes, contents.bodies))
    for number in range(len(bodies)):
        headers = headers_of(contents.headers[number]) if contents.headers else NO_HEADERS
        row = {
            "channel": contents.header.channel,
            "id": contents.ids[number].decode() if contents.ids else "",
            "metadata": headers.metadata or "",
            "tags": dict(headers.tags or {}),
        }
        said = {"client_id": headers.client_id, "trace": headers.trace, "compressed": contents.header.flags & 1 == 1}
        rows.append(row | {name: value for name, value in said.items() if value})
    fields = {**_common(subscription), "time_unix_ns": time_unix_ns}
    messages = [
        [
            *_way(subscription),
            encode_header(Reply.EVENTS, 0, {**fields, "messages": rows[start : start + PLAIN_COUNT_MAX]}),
            *bodies[start : start + PLAIN_COUNT_MAX],
        ]
        for start in range(0, len(bodies), PLAIN_COUNT_MAX)
    ]
    return messages, sum(map(len, bodies))
