"""Envelopes and Raft messages between nodes, in Python: the reference, and the twin of the compiled ext/_peer.pyx.

Frame 0 is the envelope with a body behind it. A RAFT body is a table of messages and entries whose payloads follow as frames of
their own, so that no payload is copied into another buffer. Checksums are verified here; whether a sender belongs to the
cluster is `server`'s question. The compiled twin does what is right and comes in numbers; everything else it leaves to the
functions here, which alone name faults. Source: docs/PROTOCOL.md §8.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from zmqbroker.errors import ChecksumMismatch, LocalProtocolError, MalformedFrame, UnsupportedVersion
from zmqbroker.raft.messages import Entry, EntryType, Message, MessageType, Snapshot
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.codec import crc32c
from zmqbroker.wire.frames import PROTOCOL_VERSION
from zmqbroker.wire.membership import decode_membership, encode_membership

__all__ = [
    "ENVELOPE_SIZE",
    "NO_UID",
    "UID_SIZE",
    "Envelope",
    "PeerKind",
    "decode_envelope",
    "decode_raft",
    "encode_raft",
    "seal",
]

ENVELOPE_SIZE = 64
UID_SIZE = 16
#: Of a cluster that is not formed, or of a receiver not heard of yet.
NO_UID = bytes(UID_SIZE)

_MAGIC = b"ZBP1"
_START = struct.Struct("<4sI")
#: kind, protocol version, reserved, cluster uid, sender uid, receiver uid
_ENVELOPE = struct.Struct("<HHI16s16s16s")
_COUNTS = struct.Struct("<II")
#: type, flags, group, number of entries, to, sender, term, log_term, index, commit, reject_hint, context
_MESSAGE = struct.Struct("<BBHI8Q")
#: index, term, size, crc32c of the payload, type, zeros
_ENTRY = struct.Struct("<QQIIB7s")
_ENTRY_ZEROS = bytes(7)
_REJECT = 1


class PeerKind(IntEnum):
    """What a frame between nodes is."""

    RAFT = 1
    HELLO = 2
    FORM = 3
    FORWARD = 4
    FORWARD_REPLY = 5
    SNAPSHOT = 6
    SNAPSHOT_ACK = 7
    INTEREST = 8
    EVENTS = 9
    CALL = 10
    ANSWER = 11
    CANCEL = 12


class Envelope(NamedTuple):
    """Who sends what to whom."""

    kind: PeerKind
    cluster_uid: bytes
    sender_uid: bytes
    receiver_uid: bytes
    version: int = PROTOCOL_VERSION


# --- envelope --------------------------------------------------------------------------------------------------------


def seal(envelope: Envelope, body: bytes) -> bytes:
    """Frame 0: the envelope and a body behind it. Raises LocalProtocolError for a uid of another size."""
    for uid in (envelope.cluster_uid, envelope.sender_uid, envelope.receiver_uid):
        if len(uid) != UID_SIZE:
            raise LocalProtocolError(f"a uid has {UID_SIZE} bytes: {uid!r}")
    head = _ENVELOPE.pack(envelope.kind, envelope.version, 0, envelope.cluster_uid, envelope.sender_uid, envelope.receiver_uid)
    return b"".join((_START.pack(_MAGIC, crc32c(body, crc32c(head))), head, body))


def decode_envelope(frame: Buffer) -> Envelope:
    """The envelope in frame 0. Raises MalformedFrame, ChecksumMismatch, or UnsupportedVersion."""
    if len(frame) < ENVELOPE_SIZE:
        raise MalformedFrame(f"a peer frame of {len(frame)} bytes is shorter than {ENVELOPE_SIZE}")
    magic, checksum = _START.unpack_from(frame)
    if magic != _MAGIC:
        raise MalformedFrame(f"a peer frame begins with {magic!r} and not with {_MAGIC!r}")
    computed = crc32c(memoryview(frame)[_START.size :])
    if checksum != computed:
        raise ChecksumMismatch(f"a peer frame says crc32c {checksum:#010x}, its bytes have {computed:#010x}")
    kind, version, reserved, cluster_uid, sender_uid, receiver_uid = _ENVELOPE.unpack_from(frame, _START.size)
    if version != PROTOCOL_VERSION:
        raise UnsupportedVersion(
            f"peer protocol version {version} is not spoken here", minimum=PROTOCOL_VERSION, maximum=PROTOCOL_VERSION
        )
    if kind not in _KINDS:
        raise MalformedFrame(f"kind {kind} of a peer frame is not defined")
    if reserved:
        raise MalformedFrame(f"the reserved field of a peer frame is {reserved}, it must be 0")
    return Envelope(PeerKind(kind), cluster_uid, sender_uid, receiver_uid, version)


_KINDS = frozenset(PeerKind)


# --- Raft ------------------------------------------------------------------------------------------------------------


def encode_raft(envelope: Envelope, messages: Sequence[Message]) -> list[Buffer]:
    """The frames of a RAFT message; the payload frames are the entries' own objects, not copies.

    Raises LocalProtocolError for a message type that never leaves a node, or a number that does not fit its field.
    """
    parts = [_COUNTS.pack(len(messages), 0)]
    payloads: list[Buffer] = []
    try:
        for message in messages:
            entries = message.entries if message.snapshot is None else (_stand_in(message.snapshot),)
            parts.append(_pack_message(message, len(entries)))
            for entry in entries:
                checksum = crc32c(entry.data) if entry.data_crc is None else entry.data_crc
                parts.append(_ENTRY.pack(entry.index, entry.term, len(entry.data), checksum, entry.type, _ENTRY_ZEROS))
                payloads.append(entry.data)
    except struct.error as error:
        raise LocalProtocolError(f"a Raft message does not fit its fields: {error}") from error
    return [seal(envelope, b"".join(parts)), *payloads]


def _stand_in(snapshot: Snapshot) -> Entry:
    """What travels for a snapshot: the place it stands for, and who took part there."""
    return Entry(snapshot.index, snapshot.term, encode_membership(snapshot.membership))


def _pack_message(message: Message, entry_count: int) -> bytes:
    if message.type < MessageType.APPEND_ENTRIES:
        raise LocalProtocolError(f"{message.type.name} never leaves a node")
    return _MESSAGE.pack(
        message.type,
        _REJECT if message.reject else 0,
        message.group,
        entry_count,
        message.to,
        message.sender,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.reject_hint,
        message.context,
    )


def decode_raft(frames: Sequence[Buffer]) -> list[Message]:
    """The messages of a RAFT frame whose frame 0 `decode_envelope` accepted.

    Raises MalformedFrame, or ChecksumMismatch when a payload is not what its entry says. A payload that came as bytes is not
    copied.
    """
    table = memoryview(frames[0])[ENVELOPE_SIZE:]
    if len(table) < _COUNTS.size:
        raise MalformedFrame(f"a RAFT body of {len(table)} bytes is shorter than {_COUNTS.size}")
    count, reserved = _COUNTS.unpack_from(table)
    if reserved:
        raise MalformedFrame(f"the reserved field of a RAFT body is {reserved}, it must be 0")
    messages: list[Message] = []
    position, payload = _COUNTS.size, 1
    # Each turn takes at least the bytes of one message, so that a count which is not true ends with the table.
    for _ in range(count):
        message, entry_count, position = _unpack_message(table, position)
        if entry_count:
            entries, position = _unpack_entries(table, position, frames[payload : payload + entry_count], entry_count)
            _put_entries(message, entries)
        payload += entry_count
        messages.append(message)
    if position != len(table) or payload != len(frames):
        raise MalformedFrame(
            f"a RAFT body ends at offset {position} with {payload - 1} payloads, it has {len(table)} bytes, {len(frames) - 1}"
        )
    return messages


def _unpack_message(table: memoryview, position: int) -> tuple[Message, int, int]:
    end = position + _MESSAGE.size
    if end > len(table):
        raise MalformedFrame(f"a RAFT body of {len(table)} bytes is cut in a message at offset {position}")
    kind, flags, group, entry_count, *rest = _MESSAGE.unpack_from(table, position)
    if kind not in _TYPES or flags & ~_REJECT:
        raise MalformedFrame(f"a Raft message has type {kind} and flags {flags:#04x}")
    if entry_count and kind not in _WITH_ENTRIES:
        raise MalformedFrame(f"{MessageType(kind).name} has {entry_count} entries")
    to, sender, term, log_term, index, commit, reject_hint, context = rest
    message = Message(MessageType(kind), to, sender, group, term, log_term, index, commit, reject_hint, bool(flags), context)
    return message, entry_count, end


_TYPES = frozenset(kind for kind in MessageType if kind >= MessageType.APPEND_ENTRIES)
_WITH_ENTRIES = frozenset((MessageType.APPEND_ENTRIES, MessageType.INSTALL_SNAPSHOT, MessageType.PROPOSE))


def _put_entries(message: Message, entries: tuple[Entry, ...]) -> None:
    if message.type is not MessageType.INSTALL_SNAPSHOT:
        message.entries = entries
    elif len(entries) != 1:
        raise MalformedFrame(f"INSTALL_SNAPSHOT has {len(entries)} entries, one stands for its state")
    else:
        (entry,) = entries
        message.snapshot = Snapshot(entry.index, entry.term, decode_membership(entry.data))


def _unpack_entries(table: memoryview, position: int, payloads: Sequence[Buffer], count: int) -> tuple[tuple[Entry, ...], int]:
    end = position + count * _ENTRY.size
    if end > len(table) or len(payloads) != count:
        raise MalformedFrame(
            f"a Raft message has {count} entries at offset {position}, more than there are bytes or payloads for"
        )
    entries: list[Entry] = []
    for (index, term, size, checksum, kind, zeros), payload in zip(
        _ENTRY.iter_unpack(table[position:end]), payloads, strict=True
    ):
        if kind not in _ENTRY_TYPES or zeros != _ENTRY_ZEROS:
            raise MalformedFrame(f"entry {index} has type {kind} and {zeros.hex()} after it")
        if size != len(payload):
            raise MalformedFrame(f"entry {index} says that it has {size} bytes, its payload has {len(payload)}")
        if checksum != crc32c(payload):
            raise ChecksumMismatch(f"the payload of entry {index} does not have crc32c {checksum:#010x}")
        entries.append(Entry(index, term, bytes(payload), EntryType(kind), checksum))
    return tuple(entries), end


_ENTRY_TYPES = frozenset(EntryType)
