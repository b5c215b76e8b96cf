"""Every error that leaves this package, and its code on the wire.

    BrokerError
    ├── ConfigError              a configuration with faults; carries all of them
    ├── ProtocolError
    │   ├── LocalProtocolError   we were asked to send what the protocol forbids
    │   └── RemoteProtocolError  the other side sent what the protocol forbids
    │       └── UnreadableBody   a compressed body that nobody can decompress
    ├── RequestError             a request was refused: code, retryable, outcome_unknown
    │   ├── NotLeader            leader_hint
    │   ├── NoMajority
    │   ├── Busy                 retry_ms
    │   ├── DeadlineExceeded     always outcome unknown
    │   ├── NodeNotFound
    │   ├── ChannelExists        differing
    │   ├── ScheduleExists       differing
    │   ├── ScheduleNotFound
    │   ├── ChannelFull          depth, size_bytes, max_messages, max_bytes
    │   ├── ChannelNotFound, InvalidChannel, InvalidRequest, MessageTooLarge
    │   ├── MalformedFrame, ChecksumMismatch, UnsupportedVersion, UnknownCommand, Unsupported
    │   ├── UnknownProducer, OutOfSequence, Duplicate
    │   ├── SequenceMismatch     expected, last_sequence
    │   ├── StaleReceipt
    │   └── StorageFull
    ├── RemovedFromCluster       the cluster goes on without this node
    ├── Divergence               two nodes have different states at one index
    └── StorageError
        ├── Corruption           bytes that may have been acknowledged are damaged
        ├── Compacted            the log no longer holds that index
        ├── NoRoom               the volume is full; nothing was changed
        └── DataDirectoryError   in use, of another cluster, or on an unsafe file system

A `RequestError` travels as an ERROR reply (docs/PROTOCOL.md, "Errors"): one stable code each. It never says more than what
was wrong and with which value. `outcome_unknown` is True when the request may still take effect: repeating it with the same
producer sequence, receipt or request id is safe.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "CODES",
    "BrokerError",
    "Busy",
    "ChannelExists",
    "ChannelFull",
    "ChannelNotFound",
    "ChecksumMismatch",
    "Compacted",
    "ConfigError",
    "Corruption",
    "DataDirectoryError",
    "DeadlineExceeded",
    "Divergence",
    "Duplicate",
    "InvalidChannel",
    "InvalidRequest",
    "LocalProtocolError",
    "MalformedFrame",
    "MessageTooLarge",
    "NoMajority",
    "NoRoom",
    "NodeNotFound",
    "NotLeader",
    "OutOfSequence",
    "ProtocolError",
    "RemoteProtocolError",
    "RemovedFromCluster",
    "RequestError",
    "ScheduleExists",
    "ScheduleNotFound",
    "SequenceMismatch",
    "StaleReceipt",
    "StorageError",
    "StorageFull",
    "UnknownCommand",
    "UnknownProducer",
    "UnreadableBody",
    "Unsupported",
    "UnsupportedVersion",
    "error_from_wire",
]


class BrokerError(Exception):
    """The root: `except BrokerError` catches everything this package raises on purpose."""


class ConfigError(BrokerError):
    """A configuration cannot be used; `faults` lists every reason, one sentence each."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class ProtocolError(BrokerError):
    """The rules of docs/PROTOCOL.md were broken; the subclass says by whom."""


class LocalProtocolError(ProtocolError):
    """This side tried to send what the protocol forbids; nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The other side sent what the protocol forbids."""


class UnreadableBody(RemoteProtocolError):
    """A body that is said to be compressed does not decompress, or holds too much; the message says which one and why."""


class RequestError(BrokerError):
    """A request was refused or its outcome is unknown.

    `fields` are the extra keys of the ERROR reply, msgpack values, named in docs/PROTOCOL.md for each code.
    """

    code: ClassVar[str] = "REQUEST_ERROR"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, /, *, outcome_unknown: bool = False, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.outcome_unknown = outcome_unknown
        self.fields = fields


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


class RemovedFromCluster(BrokerError):
    """The cluster that this node belonged to goes on without it."""


class Divergence(BrokerError):
    """Two nodes have different states at one index; the message names the nodes and the first difference."""


class StorageError(BrokerError):
    """The log or the store cannot do what it was asked."""


class Corruption(StorageError):
    """Stored bytes that may have been acknowledged are damaged; the message names file and offset."""


class Compacted(StorageError):
    """The log no longer holds the index that was asked for."""


class NoRoom(StorageError):
    """The volume has no room for what was to be stored; nothing was changed, and it may be tried again."""


class DataDirectoryError(StorageError):
    """The data directory is in use by another process, of another cluster, or on a file system that cannot be trusted."""


def _codes() -> dict[str, type[RequestError]]:
    return {kind.code: kind for kind in RequestError.__subclasses__()}


#: wire code -> class, one to one.
CODES: dict[str, type[RequestError]] = _codes()


def error_from_wire(fields: dict[str, Any]) -> RequestError:
    """Build the error that an ERROR reply's fields describe; an unknown code becomes a plain `RequestError`."""
    rest = dict(fields)
    code, message = rest.pop("code", None), rest.pop("message", None)
    unknown = bool(rest.pop("outcome_unknown", False))
    rest.pop("retryable", None)
    kind = CODES.get(code, RequestError) if isinstance(code, str) else RequestError
    text = message if isinstance(message, str) else f"{code!r}"
    return kind(text, outcome_unknown=unknown, **{str(key): value for key, value in rest.items()})
