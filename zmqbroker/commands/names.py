"""What a name of a channel says of its kind: a prefix, as in the destinations of smart routing.

    orders                        a queue
    events_store:orders           an events store
    events_store:orders>billing   a durable consumer of one, by its name; it is received from like a queue

The other kinds (events, commands, queries, routes) are no replicated channels: their prefixes begin no name of one, and in
their own requests the name stands without it. Rules for names: docs/PROTOCOL.md §3.
"""

from __future__ import annotations

__all__ = ["CONSUMER_MARK", "EVENTS_PREFIX", "PREFIXES", "STORE_PREFIX", "consumer_of", "is_consumer", "is_store", "store_of"]

EVENTS_PREFIX, STORE_PREFIX = "events:", "events_store:"
#: What a destination may begin with; without one it is a queue.
PREFIXES = ("queues:", EVENTS_PREFIX, STORE_PREFIX, "commands:", "queries:", "routes:")
#: Between a store and its consumer: in no name of a channel, since it names more than one.
CONSUMER_MARK = ">"


def is_store(name: str) -> bool:
    """Whether this names an events store, and no consumer of one."""
    return name.startswith(STORE_PREFIX) and CONSUMER_MARK not in name


def is_consumer(name: str) -> bool:
    """Whether this names a durable consumer of an events store."""
    return name.startswith(STORE_PREFIX) and CONSUMER_MARK in name


def store_of(name: str) -> str:
    """The events store that a consumer belongs to."""
    return name.partition(CONSUMER_MARK)[0]


def consumer_of(store: str, consumer: str) -> str:
    """The name of a durable consumer of an events store."""
    return f"{store}{CONSUMER_MARK}{consumer}"
