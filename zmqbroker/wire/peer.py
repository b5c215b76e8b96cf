"""Frames between nodes, and the one switch between the compiled envelopes and Raft messages and their Python twin.

Envelopes and Raft messages are the twins'; the kinds whose body is msgpack need nothing of them but the envelope. The choice is
made once, at import; that compiled modules are missing is said by the codec's switch, for all of them.
Source: docs/PROTOCOL.md §8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zmqbroker._build import PURE
from zmqbroker.wire._peer_py import ENVELOPE_SIZE, NO_UID, UID_SIZE, Envelope, PeerKind
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.frames import pack, unpack_map

__all__ = [
    "ENVELOPE_SIZE",
    "NO_UID",
    "UID_SIZE",
    "Envelope",
    "PeerKind",
    "compiled",
    "decode_envelope",
    "decode_fields",
    "decode_raft",
    "encode_peer",
    "encode_raft",
    "seal",
]

#: Kinds whose body is no msgpack map but a table, which `call_frames` reads: there are many, and each is waited for.
_TABLES = frozenset((PeerKind.CALL, PeerKind.ANSWER, PeerKind.CANCEL))
#: Where the envelope has the first byte of the kind, of which there are fewer than 256.
_KIND_AT = 8

#: True when the compiled functions are in use.
compiled: bool

if PURE:
    from zmqbroker.wire._peer_py import decode_envelope, decode_raft, encode_raft, seal

    compiled = False
else:
    try:
        from zmqbroker.wire._peer import decode_envelope, decode_raft, encode_raft, seal

        compiled = True
    except ImportError:
        from zmqbroker.wire._peer_py import decode_envelope, decode_raft, encode_raft, seal

        compiled = False


def encode_peer(envelope: Envelope, fields: Mapping[str, Any], frames: Sequence[Buffer] = ()) -> list[Buffer]:
    """The frames of any kind but RAFT: envelope and fields, then `frames` as they are. Raises LocalProtocolError."""
    if envelope.kind in _TABLES:
        return [seal(envelope, fields["table"]), *frames]
    return [seal(envelope, pack(dict(fields), f"fields of {envelope.kind.name}")), *frames]


def decode_fields(frame: Buffer) -> dict[str, Any]:
    """The fields in a frame 0 that `decode_envelope` accepted; of a kind that has none, its `table`. Raises MalformedFrame."""
    if frame[_KIND_AT] in _TABLES:
        return {"table": bytes(frame[ENVELOPE_SIZE:])}
    return unpack_map(memoryview(frame)[ENVELOPE_SIZE:], "fields of a peer frame")
