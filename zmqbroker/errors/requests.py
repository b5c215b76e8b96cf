"""Why one request was refused, one class and one stable code each."""

from __future__ import annotations

from typing import Any

from zmqbroker.errors.base import RequestError

__all__ = [
    "Busy",
    "ChannelExists",
    "ChannelFull",
    "ChannelNotFound",
    "ChecksumMismatch",
    "ConsumerTaken",
    "DeadlineExceeded",
    "Duplicate",
    "InvalidChannel",
    "InvalidRequest",
    "MalformedFrame",
    "MessageTooLarge",
    "NoMajority",
    "NoResponder",
    "NodeNotFound",
    "NotLeader",
    "OutOfSequence",
    "PositionGone",
    "RouteNotFound",
    "ScheduleExists",
    "ScheduleNotFound",
    "SequenceMismatch",
    "StaleReceipt",
    "StorageFull",
    "UnknownCall",
    "UnknownCommand",
    "UnknownProducer",
    "Unsupported",
    "UnsupportedVersion",
]


class NotLeader(RequestError):
    """This node does not lead the channel's group; `leader_hint` is the leader's client endpoint, None while unknown."""

    code = "NOT_LEADER"
    retryable = True

    @property
    def leader_hint(self) -> str | None:
        """The leader's client endpoint as `tcp://ip:port`."""
        hint = self.fields.get("leader")
        return hint if isinstance(hint, str) else None


class NoMajority(RequestError):
    """Fewer than a majority of the nodes can be reached, so nothing can be confirmed."""

    code = "NO_MAJORITY"
    retryable = True


class Busy(RequestError):
    """A bound of the node is reached; try again after `retry_ms` milliseconds."""

    code = "BUSY"
    retryable = True

    @property
    def retry_ms(self) -> int:
        """Milliseconds to wait before the next attempt."""
        value = self.fields.get("retry_ms", 0)
        return value if isinstance(value, int) else 0


class DeadlineExceeded(RequestError):
    """The client's deadline passed without an answer: the outcome is unknown and a retry is safe."""

    code = "DEADLINE_EXCEEDED"
    retryable = True

    def __init__(self, message: str, /, *, outcome_unknown: bool = True, **fields: Any) -> None:
        super().__init__(message, outcome_unknown=outcome_unknown, **fields)


class ChannelNotFound(RequestError):
    """No channel has that name."""

    code = "CHANNEL_NOT_FOUND"


class ChannelExists(RequestError):
    """A channel of that name has other settings; `differing` names those that differ."""

    code = "CHANNEL_EXISTS"

    @property
    def differing(self) -> list[str]:
        """Names of the settings that differ."""
        return [name for name in self.fields.get("differing", []) if isinstance(name, str)]


class ScheduleExists(RequestError):
    """A schedule of that name says something else; `differing` names what differs."""

    code = "SCHEDULE_EXISTS"

    @property
    def differing(self) -> list[str]:
        """Names of what differs: of the plan's parts, `channel` or `message`."""
        return [name for name in self.fields.get("differing", []) if isinstance(name, str)]


class ScheduleNotFound(RequestError):
    """No schedule has that name."""

    code = "SCHEDULE_NOT_FOUND"


class ChannelFull(RequestError):
    """The channel has as many messages or bytes as its settings allow; receiving makes room."""

    code = "CHANNEL_FULL"
    retryable = True


class NodeNotFound(RequestError):
    """No node of the cluster has that name, or none that was heard of; the message says which names there are."""

    code = "NODE_NOT_FOUND"


class InvalidChannel(RequestError):
    """A channel name breaks a rule; the message names the rule and the name."""

    code = "INVALID_CHANNEL"


class InvalidRequest(RequestError):
    """A field is missing, of the wrong type or out of its range; the message names field and value."""

    code = "INVALID_REQUEST"


class MessageTooLarge(RequestError):
    """A message or batch is over the node's limit; `fields` hold `size` and `limit` in bytes."""

    code = "MESSAGE_TOO_LARGE"


class MalformedFrame(RequestError):
    """Bytes that cannot be read as the frame they claim to be."""

    code = "MALFORMED_FRAME"


class ChecksumMismatch(RequestError):
    """A frame's crc32c does not fit its bytes: damaged on its way, nothing was stored."""

    code = "CHECKSUM_MISMATCH"
    retryable = True


class UnsupportedVersion(RequestError):
    """The protocol version of a frame is not spoken here; `fields` hold `minimum` and `maximum`."""

    code = "UNSUPPORTED_VERSION"


class UnknownCommand(RequestError):
    """The command code of a request is not defined."""

    code = "UNKNOWN_COMMAND"


class Unsupported(RequestError):
    """Well formed, but not served by this version of the broker."""

    code = "UNSUPPORTED"


class UnknownProducer(RequestError):
    """The producer was never opened on this channel, or was evicted; open it anew. Its unanswered sends are unknown."""

    code = "UNKNOWN_PRODUCER"


class OutOfSequence(RequestError):
    """A batch does not follow the producer's last one; `expected` is the base sequence that would.

    The same batch alone is refused again: send from `expected` on, or under a new producer.
    """

    code = "OUT_OF_SEQUENCE"

    @property
    def expected(self) -> int:
        """The only base sequence that would be accepted now."""
        value = self.fields.get("expected", 0)
        return value if isinstance(value, int) else 0


class SequenceMismatch(RequestError):
    """A send was only for a channel whose last sequence is another one; nothing was stored."""

    code = "SEQUENCE_MISMATCH"

    @property
    def expected(self) -> int:
        """What the send said."""
        value = self.fields.get("expected", 0)
        return value if isinstance(value, int) else 0

    @property
    def last_sequence(self) -> int:
        """That of the channel; 0: it has had no message."""
        value = self.fields.get("last_sequence", 0)
        return value if isinstance(value, int) else 0


class Duplicate(RequestError):
    """The batch is stored already, and so long ago that its result is no longer kept."""

    code = "DUPLICATE"


class StaleReceipt(RequestError):
    """A receipt names messages that its holder no longer, or never, had; `fields["stale"]` lists the receipts.

    With `outcome_unknown` an earlier attempt of the same request, whose answer was lost, may have done it.
    """

    code = "STALE_RECEIPT"


class StorageFull(RequestError):
    """The log budget or the disk is used up: sends are refused, receives and acks go on."""

    code = "STORAGE_FULL"
    retryable = True


class NoResponder(RequestError):
    """Nobody answers on that channel now: nothing was asked of anybody."""

    code = "NO_RESPONDER"
    retryable = True


class UnknownCall(RequestError):
    """An answer to a request that this responder was not given, or that has ended: answered, cancelled or too late."""

    code = "UNKNOWN_CALL"


class PositionGone(RequestError):
    """An event that was asked for is no longer kept; `first` is the first one that is."""

    code = "POSITION_GONE"

    @property
    def first(self) -> int:
        """Sequence of the oldest event that can be read; one above the last one when there is none."""
        value = self.fields.get("first", 0)
        return value if isinstance(value, int) else 0


class ConsumerTaken(RequestError):
    """Another session has opened this exclusive consumer since: what this one reads and acks counts no more."""

    code = "CONSUMER_TAKEN"


class RouteNotFound(RequestError):
    """No route has that name."""

    code = "ROUTE_NOT_FOUND"
