"""What never enters the log, as requests: subscribing, granting credit, publishing events.

Ranges and defaults are those of docs/PROTOCOL.md §3. `requests` reads and writes them with all others. A name stands here
without the prefix of its kind. Nothing here looks into a batch frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from zmqbroker.commands import EVENTS_PREFIX, PREFIXES, RealtimeKind
from zmqbroker.errors import InvalidChannel, InvalidRequest
from zmqbroker.wire.batch import CHANNEL_SIZE_MAX, Buffer
from zmqbroker.wire.frames import (
    REQUEST_HEADER_SIZE_MAX,
    U32_MAX,
    U64_MAX,
    Request,
    flag,
    integer,
    name_rule,
    shown,
    text,
)
from zmqbroker.wire.send_requests import Send, read_send

__all__ = [
    "CREDIT_BYTES_MAX",
    "CREDIT_MAX",
    "KINDS",
    "REALTIME_REQUESTS",
    "GrantRequest",
    "PublishRequest",
    "RealtimeRequest",
    "SubscribeRequest",
    "UnsubscribeRequest",
    "name_fault",
    "read_send_to_any",
    "subscription_fault",
]

#: Messages that a subscription may be ahead of its grants; the client grants more as it reads.
CREDIT_MAX = 1_000_000
#: Bytes of the same: what the node may have to keep for one client that does not read.
CREDIT_BYTES_MAX = 64 << 20
CREDIT_DEFAULT, CREDIT_BYTES_DEFAULT = 1000, 16 << 20
GROUP_SIZE_MAX = 255

#: Name on the wire -> what a subscription is for.
KINDS = {kind.name.lower(): kind for kind in RealtimeKind}

Fields = Mapping[str, Any]


@dataclass(slots=True, frozen=True)
class SubscribeRequest:
    """Have what is published, or called, under matching names pushed to this connection."""

    subscription: int  # the client's name for it, unique among those of its connection
    pattern: str
    kind: str = "events"  # a key of KINDS
    group: str = ""  # those with the same one share what comes
    credit: int = CREDIT_DEFAULT  # messages
    credit_bytes: int = CREDIT_BYTES_DEFAULT
    plain: bool = False  # messages one by one instead of batch frames
    tables: bool = False  # calls may come as tables


@dataclass(slots=True, frozen=True)
class UnsubscribeRequest:
    """End a subscription of this connection."""

    subscription: int


@dataclass(slots=True, frozen=True)
class GrantRequest:
    """What a subscription may have had since its beginning; less than before changes nothing."""

    subscription: int
    credit: int  # messages
    credit_bytes: int


@dataclass(slots=True, frozen=True)
class PublishRequest:
    """Hand all messages of a batch frame, which nobody has looked into yet, to whoever has subscribed to its channel."""

    batch: Buffer
    confirm: bool = False  # PUBLISHED is wanted


RealtimeRequest = SubscribeRequest | UnsubscribeRequest | GrantRequest | PublishRequest


# --- names -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)  # a busy name is in every batch
def name_fault(name: str, kind: str = "events") -> str | None:
    """Why `name` cannot name what is published or called, as one sentence with rule and name; None when it can."""
    rule = _rule(name)
    return None if rule is None else f"{kind} name {shown(name)} {rule}"


def subscription_fault(pattern: str, kind: str = "events") -> str | None:
    """Why nobody can subscribe to `pattern`, as one sentence with rule and pattern; None when it can be done.

    Only events may have wildcards: a token `*` for any one token, and a last token `>` for one or more.
    """
    tokens = pattern.split(".")
    rule = None
    if kind == "events":
        for place, token in enumerate(tokens):
            if token == ">" and place != len(tokens) - 1:
                rule = rule or "holds '>' before its end: it stands for one or more tokens at the tail"
            elif token not in ("*", ">") and (sign := next((sign for sign in "*>" if sign in token), None)):
                rule = rule or f"holds {sign!r} within the token {shown(token)}: a wildcard is a token of its own, between dots"
        rule = rule or _rule(".".join("x" if token in ("*", ">") else token for token in tokens))
    elif any(sign in pattern for sign in "*>"):
        rule = "holds a wildcard, which only subscriptions to events may have"
    else:
        rule = _rule(pattern)
    return None if rule is None else f"{kind} pattern {shown(pattern)} {rule}"


def _rule(name: str) -> str | None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if not 1 <= size <= CHANNEL_SIZE_MAX:
        return f"has {size} bytes, allowed is 1 to {CHANNEL_SIZE_MAX}"
    if prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
        return f"begins with {prefix!r}: here a name stands without the prefix of its kind"
    return name_rule(name)


# --- reading ---------------------------------------------------------------------------------------------------------


def _read_subscribe(fields: Fields, _bodies: Sequence[Buffer]) -> SubscribeRequest:
    kind = text(fields, "kind", "events", REQUEST_HEADER_SIZE_MAX)
    if kind not in KINDS:
        raise InvalidRequest(f"field kind is {shown(kind)}, it must be one of {', '.join(KINDS)}")
    pattern = text(fields, "pattern", None, REQUEST_HEADER_SIZE_MAX)
    if fault := subscription_fault(pattern, kind):
        raise InvalidChannel(fault)
    group = text(fields, "group", "", GROUP_SIZE_MAX)
    try:
        group.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"field group is not valid Unicode: {shown(group)}") from None
    return SubscribeRequest(
        _subscription(fields),
        pattern,
        kind,
        group,
        integer(fields, "credit", CREDIT_DEFAULT, 1, CREDIT_MAX),
        integer(fields, "credit_bytes", CREDIT_BYTES_DEFAULT, 1, CREDIT_BYTES_MAX),
        flag(fields, "plain"),
        flag(fields, "tables"),
    )


def _subscription(fields: Fields) -> int:
    return integer(fields, "subscription", None, 0, U32_MAX)


def _read_unsubscribe(fields: Fields, _bodies: Sequence[Buffer]) -> UnsubscribeRequest:
    return UnsubscribeRequest(_subscription(fields))


def _read_grant(fields: Fields, _bodies: Sequence[Buffer]) -> GrantRequest:
    granted = integer(fields, "credit", None, 0, U64_MAX), integer(fields, "credit_bytes", None, 0, U64_MAX)
    return GrantRequest(_subscription(fields), *granted)


def _read_publish(fields: Fields, bodies: Sequence[Buffer]) -> PublishRequest:
    return PublishRequest(bodies[0], flag(fields, "confirm"))


def read_send_to_any(fields: Fields, bodies: Sequence[Buffer]) -> Send:
    """A SEND to a queue or, with the prefix in its channel, of an event. Raises InvalidRequest or InvalidChannel."""
    channel = fields.get("channel")
    if not isinstance(channel, str) or not channel.startswith(EVENTS_PREFIX):
        return read_send(fields, bodies)
    if fault := name_fault(channel.removeprefix(EVENTS_PREFIX)):
        raise InvalidChannel(fault)
    return replace(read_send({**fields, "channel": "events"}, bodies), channel=channel)


#: What reads the fields and body frames of each. All of them raise InvalidRequest, and SUBSCRIBE InvalidChannel.
REALTIME_REQUESTS: dict[int, Callable[[Fields, Sequence[Buffer]], RealtimeRequest]] = {
    Request.SUBSCRIBE: _read_subscribe,
    Request.UNSUBSCRIBE: _read_unsubscribe,
    Request.GRANT: _read_grant,
    Request.PUBLISH: _read_publish,
}
