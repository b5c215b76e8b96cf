"""Why nodes do not take this client, and when that is final: a wrong port is told within a second, and not at the deadline.

Until the first WELCOME nothing but HELLO was sent, so what waits certainly did not happen and may be ended at once. That is
done when all endpoints that the user gave are no nodes for this client. What a node that is about to start looks like (nobody
listens, its name is not known) is waited out, and so is everything after the first WELCOME: then troubles only tell, in the
error at a deadline, what kept a request. It reads no clock.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from zmqbroker.errors import BrokerError, RemoteProtocolError, RequestError, UnsupportedVersion

__all__ = ["Contact", "Trouble"]

_FOREVER_NS = 2**63
#: What a node, or a proxy before it, may do for a moment when it starts or is overloaded.
_MOMENT_NS = 3_000_000_000
#: For a WELCOME behind a frame that could not be read.
_BREATH_NS = 250_000_000
#: Endpoints told of in one error, and remembered; those that nobody uses any more go first.
_TOLD, _KEPT = 3, 32


class Trouble(Enum):
    """Why there is no connection to a node, or none that is of use."""

    UNKNOWN = "nobody knows a host of that name"
    UNREACHABLE = "nobody listens there, or it cannot be reached"
    CLOSED = "it ends connections before it has said what it is"
    SILENT = "it takes connections and does not speak ZeroMQ"
    FOREIGN = "what it speaks is not ZeroMQ"
    MUTE = "it speaks ZeroMQ and does not answer HELLO"
    STRANGE = "it speaks ZeroMQ and answers HELLO with what is no frame of zmqbroker"
    LOST = "the connection broke"


_PATIENCE_NS = {
    Trouble.CLOSED: _MOMENT_NS,
    Trouble.SILENT: 0,
    Trouble.FOREIGN: 0,
    Trouble.MUTE: _MOMENT_NS,
    Trouble.STRANGE: _BREATH_NS,
}


class _Found(NamedTuple):
    """What was found at an endpoint, and from when on that is final."""

    what: Trouble | RequestError
    final_ns: int


class Contact:
    """What keeps one client from its nodes."""

    def __init__(self, seeds: tuple[str, ...]) -> None:
        self._seeds = seeds
        self._made = False  # whether any node has ever said WELCOME
        self._found: dict[str, _Found] = {}  # the latest trouble with each endpoint, until it says WELCOME

    def failed(self, endpoint: str, trouble: Trouble, now_ns: int) -> None:
        """There is no connection to an endpoint, or no answer on it yet."""
        before = self._found.get(endpoint)
        if before is None or before.what is not trouble:
            self._put(endpoint, _Found(trouble, now_ns + _PATIENCE_NS.get(trouble, _FOREVER_NS)))

    def refused(self, endpoint: str, error: RequestError, now_ns: int) -> None:
        """A node will not have this client, whenever it asks."""
        self._put(endpoint, _Found(error, now_ns))

    def unreadable(self, endpoint: str, error: RequestError, now_ns: int) -> None:
        """What answered HELLO speaks another version of the protocol, or something else: its header gave this error."""
        if isinstance(error, UnsupportedVersion):
            self.refused(endpoint, error, now_ns)
        else:
            self.failed(endpoint, Trouble.STRANGE, now_ns)

    def welcomed(self, endpoint: str) -> None:
        """A node has taken this client."""
        self._made = True
        self._found.pop(endpoint, None)

    @property
    def due_ns(self) -> int:
        """From when on everything that waits has failed, if nothing else happens."""
        if self._made:
            return _FOREVER_NS
        found = [self._found.get(endpoint) for endpoint in self._seeds]
        return max((_FOREVER_NS if one is None else one.final_ns) for one in found)

    def error(self, _outcome_unknown: bool = False) -> BrokerError:
        """What everything that waits then ends with; a new error for each, and never with an unknown outcome."""
        for one in self._found.values():
            if isinstance(one.what, RequestError):
                return type(one.what)(self.text(), outcome_unknown=False, **one.what.fields)
        return RemoteProtocolError(f"no node of zmqbroker: {self.text()}")

    def text(self) -> str:
        """What is the matter with which endpoint; empty when nothing is."""
        told = [f"{endpoint}: {_text(one.what)}" for endpoint, one in self._found.items()]
        return "; ".join([*told[:_TOLD], *([f"and {len(told) - _TOLD} more"] if len(told) > _TOLD else [])])

    def _put(self, endpoint: str, found: _Found) -> None:
        self._found.pop(endpoint, None)
        self._found[endpoint] = found
        while len(self._found) > _KEPT:
            del self._found[next(iter(self._found))]


def _text(what: Trouble | RequestError) -> str:
    return what.value if isinstance(what, Trouble) else what.message
