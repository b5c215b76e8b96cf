"""Types of the compiled twin of `_peer_py`, which is ext/_peer.pyx; what its functions do is said there."""

from zmqbroker.wire._peer_py import decode_envelope as decode_envelope
from zmqbroker.wire._peer_py import decode_raft as decode_raft
from zmqbroker.wire._peer_py import encode_raft as encode_raft
from zmqbroker.wire._peer_py import seal as seal

__all__ = ["decode_envelope", "decode_raft", "encode_raft", "seal"]
