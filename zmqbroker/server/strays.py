"""Clients that found the port of the nodes among themselves: told so, or they would wait for an answer that never comes."""

from __future__ import annotations

from collections.abc import Sequence

from zmqbroker.errors import Unsupported
from zmqbroker.wire.frames import MAGIC, PROTOCOL_VERSION, encode_error, request_id_of, split_delimiter

__all__ = ["answer_to"]

#: A client's header frame begins with these; a node's envelope has another third byte (docs/PROTOCOL.md §8).
_CLIENT_START = MAGIC + bytes([PROTOCOL_VERSION])
_TEXT = "this is the port that nodes use among themselves (listen.peer); clients connect to that of listen.client"


def answer_to(message: Sequence[bytes]) -> list[bytes] | None:
    """What to say to [routing id, frames …] of a client; None when they are not a client's."""
    routing_id, *rest = message
    delimiter, frames = split_delimiter(rest)
    if not frames or frames[0][: len(_CLIENT_START)] != _CLIENT_START:
        return None
    return [routing_id, *([b""] if delimiter else []), encode_error(request_id_of(frames[0]), Unsupported(_TEXT))]
