"""The root of the tree, and what is not one refused request."""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "BrokerError",
    "ConfigError",
    "LocalProtocolError",
    "ProtocolError",
    "RemoteProtocolError",
    "RequestError",
    "UnreadableBody",
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
