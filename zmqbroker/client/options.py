"""The options of calls that both clients have, so that the one for threads names, and type checkers know, each of them.

What they mean, and their defaults, is said where the asyncio client takes them (`queue`, `worker`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict

from zmqbroker.wire.compression import Compression

__all__ = [
    "ConsumeOptions",
    "DurableOptions",
    "HandleOptions",
    "PeekOptions",
    "ProducerOptions",
    "PublishOptions",
    "ReadOptions",
    "ReadSubscribeOptions",
    "ReceiveOptions",
    "StartOptions",
]


class ProducerOptions(TypedDict, total=False):
    """Of `Queue.producer`."""

    linger_ms: int
    batch_bytes: int
    batch_messages: int
    window: int
    pending_bytes_max: int
    compression: Compression | None
    timeout_ms: int | None


class ReceiveOptions(TypedDict, total=False):
    """Of `Queue.receive`."""

    min: int
    wait_ms: int
    visibility_ms: int
    max_bytes: int
    consumer_priority: int
    auto_ack: bool
    timeout_ms: int | None


class ConsumeOptions(TypedDict, total=False):
    """Of `Queue.consume`."""

    credit: int
    visibility_ms: int
    max_bytes: int
    priority: int
    auto_ack: bool


class PeekOptions(TypedDict, total=False):
    """Of `Queue.peek`."""

    first: int
    since_unix_ns: int
    max_bytes: int


class HandleOptions(TypedDict, total=False):
    """Of `Queue.handle`."""

    concurrency: int
    visibility_ms: int
    max_hold_ms: int
    backoff_ms: int
    backoff_max_ms: int
    priority: int


class PublishOptions(TypedDict, total=False):
    """Of `Store.publish`."""

    key: str
    id: str | None
    metadata: str | None
    tags: Mapping[str, str] | None
    trace: str | None
    expiry_ms: int
    expected_sequence: int | None
    compression: Compression | None
    timeout_ms: int | None


class StartOptions(TypedDict, total=False):
    """Where reading events begins: one of these."""

    start: str | None
    sequence: int | None
    time_unix_ns: int | None
    time_delta_ms: int | None


class ReadOptions(StartOptions, total=False):
    """Of `Store.read`."""

    max_bytes: int
    wait_ms: int
    timeout_ms: int | None


class ReadSubscribeOptions(StartOptions, total=False):
    """Of `Store.subscribe`, without a name."""

    rate_limit: int | None
    max_bytes: int


class DurableOptions(ReadSubscribeOptions, total=False):
    """Of `Store.subscribe`, with a name."""

    ack: Literal["auto", "explicit"]
    credit: int
    visibility_ms: int
