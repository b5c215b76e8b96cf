"""What a node answered, as the rest of the client reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

from zmqbroker.errors import RemoteProtocolError
from zmqbroker.wire.batch import Buffer

__all__ = ["Answer"]

Value = TypeVar("Value")


class Answer(NamedTuple):
    """A reply."""

    fields: dict[str, Any]
    bodies: Sequence[Buffer]

    def field(self, name: str, kind: type[Value]) -> Value:
        """A field that such a reply has. Raises RemoteProtocolError when it is missing or of another type."""
        value = self.fields.get(name)
        if not isinstance(value, kind):
            raise RemoteProtocolError(f"a reply says {name} is {value!r}, which is no {kind.__name__}")
        return value
