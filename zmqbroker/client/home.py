"""The home of a client: one connection to one node, whoever leads. What never enters the log goes over it, both ways.

The session follows the leaders of channels; the home stays where it is, and goes to the next node only when it is lost. It says
HELLO with the client's session, subscribes again after every move, and keeps the connection alive with PING. Of requests that
were under way on a lost connection nobody knows what became of them: they end so, and nothing is sent twice.

It does no I/O and reads no clock: `HomeDriver` carries out what `take_frames` gives and hands in what happens. Bounds are those
of its users, who wait for each other's requests; what is pushed is bounded by the credit of subscriptions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple

from zmqbroker.client.answer import Answer
from zmqbroker.client.call_bundles import bundled, unbundled
from zmqbroker.errors import BrokerError, DeadlineExceeded, LocalProtocolError, RequestError, error_from_wire
from zmqbroker.wire.batch import BODY_SIZE_MAX, Buffer
from zmqbroker.wire.frames import Reply, decode_header
from zmqbroker.wire.requests import AnyRequest, Hello, Info, Ping, SubscribeRequest, encode_request

__all__ = ["Ended", "Home", "Part", "Pushed", "Subscribed"]

#: Until a node has told its session timeout, of which a third is the longest silence from here.
_TIMEOUT_MS = 15_000
#: Nodes that are remembered: nine members, and what the user named.
_ENDPOINTS_MAX = 32
FOREVER_NS = 2**63

Frames = list[Buffer]


class Ended(NamedTuple):
    """A request has an answer, or an error that says why it has none."""

    token: Any
    answer: Answer | None
    error: BrokerError | None


class Part(NamedTuple):
    """A part of an answer; more will come."""

    token: Any
    answer: Answer


class Subscribed(NamedTuple):
    """A subscription stands (again), or was refused; what is pushed from now on counts from its beginning."""

    number: int
    error: BrokerError | None


class Pushed(NamedTuple):
    """Something came unasked."""

    command: int
    fields: dict[str, Any]
    bodies: Sequence[Buffer]


class _Waiting(NamedTuple):
    """A request under way, or one that waits for a connection (`frames`)."""

    token: Any  # the user's
    deadline_ns: int
    frames: Frames | None


class Home:
    """What is said and heard on the home connection of one client."""

    def __init__(
        self,
        seeds: Sequence[str],
        session: bytes,
        client_id: str,
        new_id: Callable[[], int],
        random: Random,
    ) -> None:
        self.message_bytes_max = BODY_SIZE_MAX  # the node's limit, once it has told
        self.node = ""  # name of the node, once it has told; empty without a connection
        self.dropped = 0  # messages that could not be read, or answer nothing that is waited for
        self._endpoints = random.sample(list(seeds), len(seeds))  # in the order in which they are tried; the first is home
        self._hello = Hello(session, client_id)
        self._new_id = new_id
        self._stands = False
        self._timeout_ns = _TIMEOUT_MS * 1_000_000
        self._heard_ns = self._said_ns = 0
        self._frames: list[Frames] = []  # to be sent
        self._waiting: dict[int, _Waiting] = {}  # by request id
        self._deadline_ns = FOREVER_NS  # none of these is earlier
        self._greeting: set[int] = set()  # ids of HELLO, INFO and PING that are unanswered
        self._subscribing: dict[int, int] = {}  # request id of an unanswered SUBSCRIBE -> number of the subscription
        self._subscriptions: dict[int, SubscribeRequest] = {}  # by number
        self._happened: list[Ended | Part | Subscribed | Pushed] = []

    # --- what users want ---------------------------------------------------------------------------------------------------

    @property
    def endpoint(self) -> str:
        """The node to be connected to."""
        return self._endpoints[0]

    @property
    def stands(self) -> bool:
        """Whether there is a connection."""
        return self._stands

    def request(self, request: AnyRequest, token: Any, deadline_ns: int) -> int:
        """Ask for something that is answered; without a connection it waits for one. Its id."""
        request_id = self._new_id()
        frames = encode_request(request_id, request)
        self._waiting[request_id] = _Waiting(token, deadline_ns, None if self._stands else frames)
        self._deadline_ns = min(self._deadline_ns, deadline_ns)
        if self._stands:
            self._frames.append(frames)
        return request_id

    def say(self, request: AnyRequest) -> bool:
        """Send what is not answered; False, and nothing is sent, without a connection."""
        if self._stands:
            self._frames.append(encode_request(self._new_id(), request))
        return self._stands

    def frames_of(self, request: AnyRequest) -> Frames:
        """The frames of something that is not answered, for a caller that sends them itself."""
        return encode_request(self._new_id(), request)

    def forget(self, request_id: int) -> None:
        """Nobody waits for the answer to a request any more, if it has not ended yet."""
        self._waiting.pop(request_id, None)

    def subscribe(self, request: SubscribeRequest) -> None:
        """Subscribe now and after every move, until `unsubscribe`."""
        self._subscriptions[request.subscription] = request
        if self._stands:
            self._subscribe(request)

    def unsubscribe(self, number: int) -> bool:
        """Subscribe no more; whether there is a node to be told."""
        return self._subscriptions.pop(number, None) is not None and self._stands

    def _subscribe(self, request: SubscribeRequest) -> None:
        request_id = self._new_id()
        self._subscribing[request_id] = request.subscription
        self._frames.append(encode_request(request_id, request))

    # --- what happens ------------------------------------------------------------------------------------------------------

    def connected(self, now_ns: int) -> None:
        """The connection stands: greet, ask who else is there, subscribe, and send what has waited."""
        self._stands = True
        self._heard_ns = self._said_ns = now_ns
        self._frames.clear()
        self._greet(self._hello)
        self._greet(Info())
        for request in self._subscriptions.values():
            self._subscribe(request)
        for request_id, waiting in list(self._waiting.items()):
            assert waiting.frames is not None  # what was sent ended with the connection
            self._frames.append(waiting.frames)
            self._waiting[request_id] = waiting._replace(frames=None)

    def lost(self) -> None:
        """There is no connection to `endpoint` any more, or none came to be: the next one's turn."""
        self._stands, self.node = False, ""
        self._endpoints.append(self._endpoints.pop(0))
        self._frames.clear()
        self._greeting.clear()
        self._subscribing.clear()
        for request_id, waiting in list(self._waiting.items()):
            if waiting.frames is None:
                self._end(request_id, None, DeadlineExceeded("the connection broke before the answer came"))

    def received(self, frames: Sequence[Buffer], now_ns: int) -> None:
        """A message came."""
        self._heard_ns = now_ns
        try:
            command, request_id, fields = decode_header(frames[0])
            error = error_from_wire(fields) if command == Reply.ERROR else None
        except RequestError:
            self.dropped += 1
            return
        if command in (Reply.ANSWER_TABLE, Reply.CALLED_TABLE):
            self._received_table(command, fields, frames[1:], now_ns)
        elif request_id == 0:
            self._happened.append(Pushed(command, fields, frames[1:]))
        elif request_id in self._greeting:
            self._greeting.remove(request_id)
            if error is None:
                self._learn(command, fields)
        elif (number := self._subscribing.pop(request_id, None)) is not None:
            if error is not None:
                self._subscriptions.pop(number, None)
            self._happened.append(Subscribed(number, error))
        elif request_id in self._waiting and error is None and fields.get("last") is False:
            self._happened.append(Part(self._waiting[request_id].token, Answer(fields, frames[1:])))
        elif request_id in self._waiting:
            self._end(request_id, None if error is not None else Answer(fields, frames[1:]), error)
        else:
            self.dropped += 1

    def _received_table(self, command: int, fields: dict[str, Any], bodies: Sequence[Buffer], now_ns: int) -> None:
        try:
            for frames in unbundled(command, fields, bodies):
                self.received(frames, now_ns)
        except RequestError:
            self.dropped += 1

    def _learn(self, command: int, fields: dict[str, Any]) -> None:
        """What a node tells of itself and the others; what is not as it should be is passed over."""
        if command == Reply.WELCOME:
            timeout_ms, size = fields.get("session_timeout_ms"), fields.get("message_bytes_max")
            if isinstance(timeout_ms, int) and isinstance(size, int):
                self._timeout_ns, self.message_bytes_max = timeout_ms * 1_000_000, size
            self.node = str(fields.get("node", ""))
        elif command == Reply.NODE:
            members = fields.get("members")
            for member in members if isinstance(members, list) else []:
                endpoint = member.get("client") if isinstance(member, dict) else None
                if isinstance(endpoint, str) and endpoint not in self._endpoints and len(self._endpoints) < _ENDPOINTS_MAX:
                    self._endpoints.append(endpoint)

    def tick(self, now_ns: int) -> bool:
        """Time has passed. False when the connection is silent and must be given up."""
        if now_ns >= self._deadline_ns:
            self._end_late(now_ns)
        if not self._stands:
            return True
        if now_ns - self._heard_ns >= self._timeout_ns:
            return False
        if now_ns - self._said_ns >= self._timeout_ns // 3:
            self._said_ns = now_ns
            self._greet(Ping())
        return True

    def _end_late(self, now_ns: int) -> None:
        for request_id, waiting in list(self._waiting.items()):
            if now_ns >= waiting.deadline_ns:
                sent = waiting.frames is None
                text = "no answer came in time" if sent else f"no node could be reached in time, {self.endpoint} neither"
                self._end(request_id, None, DeadlineExceeded(text, outcome_unknown=sent))
        self._deadline_ns = min((waiting.deadline_ns for waiting in self._waiting.values()), default=FOREVER_NS)

    def wake_ns(self) -> int:
        """When `tick` may have something to do."""
        if not self._stands:
            return self._deadline_ns
        return min(self._deadline_ns, self._said_ns + self._timeout_ns // 3, self._heard_ns + self._timeout_ns)

    def end_all(self) -> None:
        """The client is closed: nothing that is under way gets an answer."""
        for request_id in list(self._waiting):
            self._end(request_id, None, LocalProtocolError("this client was closed"))

    # --- for the driver ----------------------------------------------------------------------------------------------------

    def take_frames(self) -> list[Frames]:
        """What is to be sent on the connection, in order."""
        taken, self._frames = self._frames, []
        return bundled(taken)

    def take_happened(self) -> list[Ended | Part | Subscribed | Pushed]:
        """What users are to be told, in order."""
        taken, self._happened = self._happened, []
        return taken

    def _greet(self, request: AnyRequest) -> None:
        request_id = self._new_id()
        self._greeting.add(request_id)
        self._frames.append(encode_request(request_id, request))

    def _end(self, request_id: int, answer: Answer | None, error: BrokerError | None) -> None:
        self._happened.append(Ended(self._waiting.pop(request_id).token, answer, error))
