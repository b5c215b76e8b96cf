"""What callers and responders of commands and queries say to each other, as values. Nothing here holds a connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from zmqbroker.client.answer import Answer as Reply
from zmqbroker.errors import LocalProtocolError, RemoteProtocolError
from zmqbroker.wire.call_requests import ERROR_SIZE_MAX, RespondRequest, check_respond

__all__ = ["Answer", "Called", "as_answer", "read_answer", "respond_request"]


class Answer(NamedTuple):
    """What a responder answers, or a part of it; a handler may return one, with what it says of these."""

    body: bytes = b""
    metadata: str | None = None
    tags: Mapping[str, str] = {}
    executed: bool = True  # whether the command was executed; of a handler that gives an error it means False
    error: str = ""  # what went wrong, by the responder's words; empty: nothing
    cache_hit: bool = False  # it was kept from an earlier query
    part: int = 1  # of an answer in parts: which one, from 1
    last: bool = True  # no part comes behind it


class Called:
    """What a call says."""

    __slots__ = ("_ends_s", "_fields", "body", "call")

    def __init__(self, fields: Mapping[str, object], body: bytes, call: int, now_s: float) -> None:
        self.body = body
        self.call = call  # its number at the node
        self._fields = fields
        remaining_ms = fields.get("remaining_ms")
        self._ends_s = now_s + (remaining_ms if isinstance(remaining_ms, int) else 0) / 1000

    def left_ms(self, now_s: float) -> int:
        """Milliseconds until the deadline, by the clock that it was made with."""
        return max(0, int((self._ends_s - now_s) * 1000))

    @property
    def channel(self) -> str:
        """The name that was called."""
        return str(self._fields.get("channel", ""))

    @property
    def id(self) -> str:
        """The caller's, empty for none."""
        return str(self._fields.get("id", ""))

    @property
    def metadata(self) -> str | None:
        """The caller's, None for none."""
        found = self._fields.get("metadata")
        return found if isinstance(found, str) else None

    @property
    def tags(self) -> Mapping[str, str]:
        """The caller's."""
        found = self._fields.get("tags")
        return found if isinstance(found, dict) else {}

    @property
    def client_id(self) -> str:
        """What the caller calls itself, empty for nothing."""
        return str(self._fields.get("client_id", ""))

    @property
    def trace(self) -> str:
        """The caller's context of a distributed trace, empty for none."""
        return str(self._fields.get("trace", ""))

    @property
    def deadline_unix_ns(self) -> int:
        """When the caller waits no longer, by its node's clock."""
        found = self._fields.get("deadline_unix_ns")
        return found if isinstance(found, int) else 0


def as_answer(given: Any) -> Answer:
    """What a handler gave: bytes, an Answer, or None for an empty one. Raises LocalProtocolError."""
    if isinstance(given, Answer):
        return given
    if given is not None and not isinstance(given, bytes | bytearray | memoryview):
        raise LocalProtocolError(f"an answer must be bytes, an Answer or None, not {type(given).__name__}")
    return Answer(bytes(given or b""))


def read_answer(reply: Reply) -> Answer:
    """The value that ANSWER stands for. Raises RemoteProtocolError when it is none."""
    fields = reply.fields
    error = fields.get("error", "")
    answer = Answer(
        bytes(reply.bodies[0]) if len(reply.bodies) == 1 else b"",
        fields.get("metadata"),
        fields.get("tags") or {},
        fields.get("executed", not error),
        error,
        fields.get("cache_hit", False),
        fields.get("part", 1),
        fields.get("last", True),
    )
    if len(reply.bodies) != 1 or list(map(type, answer[3:])) != [bool, str, bool, int, bool]:
        raise RemoteProtocolError(f"ANSWER has {len(reply.bodies)} bodies and says {fields!r}")
    return answer


def respond_request(call: int, answer: Answer, *, last: bool, executed: bool = False) -> RespondRequest:
    """An answer to a call, or a part of it; a long error is cut. With `executed` it was, in spite of an error.

    Raises InvalidRequest for metadata and tags that a node would refuse: nobody else would hear of it.
    """
    error = answer.error.encode(errors="replace")[:ERROR_SIZE_MAX].decode(errors="ignore")
    said = True if error and executed else None if error or answer.executed else False
    request = RespondRequest(call, answer.body, answer.metadata, dict(answer.tags) or None, error, said, last)
    if request.metadata is not None or request.tags is not None:
        check_respond(request)
    return request
