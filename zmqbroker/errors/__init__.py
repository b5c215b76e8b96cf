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
    │   ├── StorageFull
│   ├── NoResponder, UnknownCall, RouteNotFound
│   ├── PositionGone         first
│   └── ConsumerTaken
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

from zmqbroker.errors.base import (
    BrokerError,
    ConfigError,
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
    RequestError,
    UnreadableBody,
)
from zmqbroker.errors.codes import CODES, error_from_wire
from zmqbroker.errors.node import (
    Compacted,
    Corruption,
    DataDirectoryError,
    Divergence,
    NoRoom,
    RemovedFromCluster,
    StorageError,
)
from zmqbroker.errors.requests import (
    Busy,
    ChannelExists,
    ChannelFull,
    ChannelNotFound,
    ChecksumMismatch,
    ConsumerTaken,
    DeadlineExceeded,
    Duplicate,
    InvalidChannel,
    InvalidRequest,
    MalformedFrame,
    MessageTooLarge,
    NodeNotFound,
    NoMajority,
    NoResponder,
    NotLeader,
    OutOfSequence,
    PositionGone,
    RouteNotFound,
    ScheduleExists,
    ScheduleNotFound,
    SequenceMismatch,
    StaleReceipt,
    StorageFull,
    UnknownCall,
    UnknownCommand,
    UnknownProducer,
    Unsupported,
    UnsupportedVersion,
)

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
    "ConsumerTaken",
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
    "NoResponder",
    "NoRoom",
    "NodeNotFound",
    "NotLeader",
    "OutOfSequence",
    "PositionGone",
    "ProtocolError",
    "RemoteProtocolError",
    "RemovedFromCluster",
    "RequestError",
    "RouteNotFound",
    "ScheduleExists",
    "ScheduleNotFound",
    "SequenceMismatch",
    "StaleReceipt",
    "StorageError",
    "StorageFull",
    "UnknownCall",
    "UnknownCommand",
    "UnknownProducer",
    "UnreadableBody",
    "Unsupported",
    "UnsupportedVersion",
    "error_from_wire",
]
