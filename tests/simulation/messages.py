"""Raft messages on their way: as bytes and back through the real codec, or as copies.

A `Message` can be changed by whoever holds it, so two nodes never share one. Copying is the fast way; the codec is the honest
one, and a seed says which it takes.
"""

from __future__ import annotations

from collections.abc import Sequence

from zmqbroker.raft.messages import Message
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.peer import Envelope, PeerKind, decode_envelope, decode_raft, encode_raft

__all__ = ["Bundle", "damaged", "pack", "unpack"]

#: What travels between two nodes at once: frames of bytes, or messages.
Bundle = list[Buffer] | list[Message]


def pack(messages: Sequence[Message], cluster_uid: bytes, sender_uid: bytes, receiver_uid: bytes, *, encode: bool) -> Bundle:
    """What is put on the wire for `messages`."""
    if encode:
        return encode_raft(Envelope(PeerKind.RAFT, cluster_uid, sender_uid, receiver_uid), messages)
    return [copy(message) for message in messages]


def unpack(bundle: Bundle, cluster_uid: bytes, sender_uid: bytes, receiver_uid: bytes) -> list[Message]:
    """The messages in a bundle; none when it is of somebody else, or for somebody else. Raises RequestError for damaged bytes.

    A bundle may arrive twice: what is given out is always a copy.
    """
    frames: list[Buffer] = []
    messages: list[Message] = []
    for item in bundle:
        if isinstance(item, Message):
            messages.append(copy(item))
        else:
            frames.append(item)
    if not frames:
        return messages
    envelope = decode_envelope(frames[0])
    if envelope != (PeerKind.RAFT, cluster_uid, sender_uid, receiver_uid, envelope.version):
        return []
    return decode_raft(frames)


def copy(message: Message) -> Message:
    """A message of its own with the same content; entries and snapshots are immutable and shared."""
    return Message(
        message.type,
        message.to,
        message.sender,
        message.group,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.reject_hint,
        message.reject,
        message.context,
        message.entries,
        message.snapshot,
    )


def damaged(bundle: Bundle, frame: int, position: int, bit: int) -> Bundle:
    """The bundle with one bit of one frame flipped; messages that are not bytes stay as they are."""
    frames = [bytes(item) for item in bundle if not isinstance(item, Message)]
    if not frames:
        return bundle
    chosen = bytearray(frames[frame % len(frames)])
    if not chosen:
        return bundle
    chosen[position % len(chosen)] ^= 1 << bit
    frames[frame % len(frames)] = bytes(chosen)
    return list[Buffer](frames)
