"""The client without its sockets: requests in, frames out; frames in, results out.

    submit, append ──▶ ┌─────────┐ ──▶ pump()              what to send, per endpoint, in order
    received ────────▶ │ Session │ ──▶ take_completions()  what ended, and how
    connected, lost ─▶ │         │ ──▶ wanted()            endpoints that should have a connection
    tick ────────────▶ └─────────┘ ──▶ wake_ns()           when to call tick, if nothing else happens

After one or many inputs the caller asks for the outputs. `now_ns` is a monotonic clock that the caller reads. HELLO with the
same session is the first frame on every connection; nothing else is sent before its WELCOME. Plain requests may overtake each
other, those of one `Pipeline` may not. A request ends once: with its reply, with an error that repeating cannot cure, or at
its deadline.

It opens no sockets, reads no clock, starts no threads. Bounds: `SLOTS` requests under way on the wire, `BACKLOG_MAX` plain
requests in all; senders are bounded by their pipelines. Source: PROTOCOL §2, §3, §6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple

from zmqbroker.client.answer import Answer
from zmqbroker.client.contact import Contact, Trouble
from zmqbroker.client.exchange import Exchange, with_outcome
from zmqbroker.client.pipeline import FOREVER_NS, Completion, Pipeline, PipelineSettings
from zmqbroker.client.routing import Node, Phase, Routes
from zmqbroker.client.table import PlainRequest, RequestTable
from zmqbroker.errors import (
    BrokerError,
    Busy,
    DeadlineExceeded,
    MalformedFrame,
    NoMajority,
    NotLeader,
    RemoteProtocolError,
    RequestError,
    UnsupportedVersion,
    error_from_wire,
)
from zmqbroker.wire.batch import BODY_SIZE_MAX, Buffer
from zmqbroker.wire.frames import Reply, decode_header
from zmqbroker.wire.requests import (
    AnyRequest,
    Hello,
    Info,
    OpenProducerRequest,
    Ping,
    ReceiveRequest,
    command_of,
    encode_request,
)

__all__ = ["BACKLOG_MAX", "SLOTS", "Answer", "Session", "Transmit"]

_MS = 1_000_000
#: A connection may have 1024 requests under way (PROTOCOL §2); HELLO and PING need a few.
SLOTS = 1000
#: Plain requests that wait for a slot or an answer; more are refused with Busy.
BACKLOG_MAX = 10_000
#: Silence after which a session expires, when a node does not say (PROTOCOL §2).
SESSION_TIMEOUT_MS = 15_000
#: The longest pause that a BUSY may ask for.
_BUSY_MS_MAX = 5_000


class Transmit(NamedTuple):
    """A message to send."""

    endpoint: str
    frames: list[Buffer]


class _Opening(NamedTuple):
    """Token of an OPEN_PRODUCER."""

    pipeline: Pipeline
    producer: int


class Session:
    """One client's conversation with a cluster."""

    def __init__(self, seeds: tuple[str, ...], session: bytes, client_id: str, random: Random, now_ns: int) -> None:
        self.session = session  # 16 random bytes, the client's identity
        self.message_bytes_max = BODY_SIZE_MAX  # the nodes' limit, once one of them has told
        self.dropped = 0  # messages that could not be read or answer nothing that is under way
        self._client_id = client_id
        self._random = random
        self._routes = Routes(seeds, random, now_ns)
        self._contact = Contact(seeds)
        self._routed: str | None = None  # the target that open plain requests were sent to
        self._last_id = 0
        self._table = RequestTable()
        self._batches: dict[int, Pipeline] = {}  # request id of each unanswered batch
        self._active: dict[Pipeline, None] = {}  # pipelines that hold anything, the one served longest ago first
        self._received_once = False  # whether any RECEIVE was ever asked for
        self._unwelcome: RequestError | None = None  # why the latest HELLO was refused
        self._completions: list[Completion] = []

    # --- the user's side ---------------------------------------------------------------------------------------------

    def submit(self, request: AnyRequest, token: Any, deadline_ns: int) -> int:
        """Start a request; it ends with a `Completion` of `token` and an `Answer` or an error. Returns its id.

        Raises Busy when too many are under way, LocalProtocolError on what cannot be encoded.
        """
        if len(self._table) >= BACKLOG_MAX:
            raise Busy(f"this client has {BACKLOG_MAX} requests under way", retry_ms=100)
        self._received_once = self._received_once or isinstance(request, ReceiveRequest)
        return self._add(request, token, deadline_ns)

    def forget(self, token: Any) -> None:
        """Nobody waits for that request any more: it is not sent again and has no completion."""
        plain = self._table.find(token)
        if plain is not None:
            self._table.remove(plain)

    def pipeline(self, channel: str, settings: PipelineSettings) -> Pipeline:
        """A new producer of a channel. After each append, `activate` it."""
        return Pipeline(channel, settings, self._completions, self._batches)

    def activate(self, pipeline: Pipeline) -> None:
        """Something was appended to a pipeline."""
        self._active[pipeline] = None

    def abort(self) -> None:
        """End everything under way: the client closes."""
        closed = "the client was closed before an answer came"
        self._end_all(lambda unknown: DeadlineExceeded(closed, outcome_unknown=unknown))

    def _end_all(self, reason: Callable[[bool], BrokerError]) -> None:
        """End everything with `reason(outcome unknown)`."""
        for pipeline in self._active:
            pipeline.abort(reason)
        self._active.clear()
        for plain in self._table.clear():
            if not isinstance(plain.token, _Opening):
                self._completions.append(Completion(plain.token, None, reason(plain.exchange.may_have_happened)))

    @property
    def worth_closing(self) -> bool:
        """Whether the session may hold messages, and a node is there to be told that it ends."""
        node = self._routes.node(self._routes.target)
        return self._received_once and node is not None and node.phase is Phase.READY

    # --- the shell's side --------------------------------------------------------------------------------------------

    def pump(self, now_ns: int) -> list[Transmit]:
        """Everything that can go out now, to be sent in this order."""
        if now_ns >= self._contact.due_ns:
            self._end_all(self._contact.error)
        frames = self._calls(now_ns)
        for pipeline in list(self._active):
            self._tend(pipeline)
        target = self._routes.target
        if self._routes.open(now_ns):
            frames += [Transmit(target, exchange.frames) for exchange in self._next_requests(target, now_ns)]
        if any(endpoint == target for endpoint, _ in frames) and self._owed():
            self._routes.asked(target, now_ns)
        return frames

    def take_completions(self) -> list[Completion]:
        """What ended since the last call."""
        completions = self._completions.copy()
        self._completions.clear()  # in place: pipelines share the list
        return completions

    def open_target(self, now_ns: int) -> str | None:
        """Where a request may be sent now; None: nowhere."""
        return self._routes.target if self._routes.open(now_ns) else None

    def wanted(self) -> list[str]:
        """Endpoints that should have a connection."""
        return self._routes.wanted()

    def take_urgent(self) -> list[str]:
        """Endpoints whose next attempt to connect should come soon, since the last call."""
        return self._routes.take_urgent()

    def wake_ns(self, now_ns: int) -> int:
        """When `tick` has something to do, if nothing else happens."""
        wake = min(self._table.review_ns, self._routes.review_ns(self._table.waiting_count > 0))
        if self._active or len(self._table):
            wake = min(wake, self._contact.due_ns)
        if now_ns < self._routes.hold_ns and (self._table.backlog_count or self._active):
            wake = min(wake, self._routes.hold_ns)
        sending = self._routes.open(now_ns)  # without it only deadlines can be kept: a pipeline that is due would not sleep
        due = (pipeline.wake_ns(now_ns) if sending else pipeline.deadline_ns for pipeline in self._active)
        return min(wake, min(due, default=FOREVER_NS))

    def connected(self, endpoint: str, now_ns: int) -> None:
        """A connection that was wanted stands."""
        node = self._routes.node(endpoint)
        if node is not None:
            self._routes.connected(node, now_ns)
            self._contact.failed(endpoint, Trouble.MUTE, now_ns)

    def lost(self, endpoint: str, now_ns: int, trouble: Trouble = Trouble.LOST) -> None:
        """A connection, or an attempt to make one, failed: what was under way there is sent again elsewhere."""
        self._table.lost(endpoint)
        for pipeline in self._active:
            pipeline.lost(endpoint)
        node = self._routes.node(endpoint)
        if node is not None:
            self._routes.lost(node, now_ns)
            self._contact.failed(endpoint, trouble, now_ns)

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        obstacle = self._unwelcome or self._contact.text()
        if now_ns >= self._table.review_ns:
            for plain in self._table.review(now_ns):
                self._completions.append(Completion(plain.token, None, plain.exchange.expired(obstacle)))
        for pipeline in self._active:
            pipeline.expire(now_ns, obstacle)
        self._routes.review(now_ns, self._table.waiting_count > 0)

    def received(self, endpoint: str, frames: Sequence[Buffer], now_ns: int) -> None:
        """A message came from a node."""
        node = self._routes.node(endpoint)
        try:
            command, request_id, fields = decode_header(frames[0])
        except (MalformedFrame, UnsupportedVersion) as error:
            if node is not None and node.phase is Phase.GREETING:
                self._contact.unreadable(endpoint, error, now_ns)
            node = None
        if node is None:
            self.dropped += 1
            return
        self._dispatch(node, command, request_id, Answer(fields, frames[1:]), now_ns)
        self._routes.heard(node, now_ns, self._owed())

    # --- replies -----------------------------------------------------------------------------------------------------

    def _dispatch(self, node: Node, command: int, request_id: int, answer: Answer, now_ns: int) -> None:
        error = error_from_wire(answer.fields) if command == Reply.ERROR else None
        plain = self._table.get(request_id)
        if request_id in self._batches:
            self._on_batch(node, request_id, command, answer.fields, error, now_ns)
        elif plain is not None and error is not None:
            self._on_refusal(node, plain, error, now_ns)
        elif plain is not None:
            self._on_answer(node, plain, command, answer)
        elif request_id == node.hello_id != 0:
            self._on_hello(node, answer.fields, error, now_ns)
        elif request_id == node.ping_id != 0:
            node.ping_id = 0
            self._routes.pong(node.endpoint, answer.fields.get("leader"), answer.fields.get("leader_term"), now_ns)
        elif request_id == node.info_id != 0:
            node.info_id = 0
            self._on_members(answer.fields.get("members"))
        else:
            self.dropped += 1  # the late reply to an attempt that another one has made superfluous

    def _on_hello(self, node: Node, fields: dict[str, Any], error: RequestError | None, now_ns: int) -> None:
        self._unwelcome = error
        if error is not None:
            self._routes.unwelcome(node, now_ns)
            if not error.retryable:
                self._contact.refused(node.endpoint, error, now_ns)
            return
        self._contact.welcomed(node.endpoint)
        timeout_ms = fields.get("session_timeout_ms")
        if not isinstance(timeout_ms, int) or timeout_ms <= 0:
            timeout_ms = SESSION_TIMEOUT_MS
        self._routes.welcomed(node, timeout_ms * _MS, now_ns)
        limit = fields.get("message_bytes_max")
        if isinstance(limit, int) and 0 < limit <= BODY_SIZE_MAX:
            self.message_bytes_max = limit

    def _on_members(self, members: object) -> None:
        rows = members if isinstance(members, list) else []
        found = [row["client"] for row in rows if isinstance(row, dict) and isinstance(row.get("client"), str)]
        if found:
            self._routes.members(found)

    def _on_batch(
        self, node: Node, request_id: int, command: int, fields: dict[str, Any], error: RequestError | None, now_ns: int
    ) -> None:
        pipeline = self._batches[request_id]
        if error is not None:
            pipeline.refused(request_id, node.endpoint, error, self._resume_ns(node.endpoint, error, now_ns))
        else:
            self._routes.served(node.endpoint)
            pipeline.answered(request_id, fields if command == Reply.SENT else {"command": command})

    def _on_answer(self, node: Node, plain: PlainRequest, command: int, answer: Answer) -> None:
        if not plain.anywhere:
            self._routes.served(node.endpoint)
        self._table.remove(plain)
        if command != plain.reply:
            fault = RemoteProtocolError(f"{plain.exchange.what} was answered with command {command:#04x}")
            self._end(plain, None, fault)
        else:
            self._end(plain, answer, None)

    def _on_refusal(self, node: Node, plain: PlainRequest, error: RequestError, now_ns: int) -> None:
        if not error.retryable:
            self._table.remove(plain)
            spent = plain.spent is not None and isinstance(error, plain.spent) and plain.exchange.repeated
            self._end(plain, None, with_outcome(error, True) if spent else error)
            return
        resume_ns = self._resume_ns(node.endpoint, error, now_ns)
        if plain.exchange.refused(node.endpoint, error):
            self._table.refused(plain, resume_ns, now_ns)
            if isinstance(plain.token, _Opening):
                plain.token.pipeline.refusal = error

    def _resume_ns(self, endpoint: str, error: RequestError, now_ns: int) -> int:
        """Tell the routes of a refusal; when to send again."""
        if isinstance(error, NotLeader):
            self._routes.not_leader(endpoint, error.leader_hint, now_ns)
            return now_ns  # the routes hold everything back where that is needed
        if isinstance(error, NoMajority):
            self._routes.pause(endpoint, now_ns)
            return now_ns
        if isinstance(error, Busy) and error.retry_ms > 0:
            return now_ns + min(error.retry_ms, _BUSY_MS_MAX) * _MS
        return self._routes.later(now_ns)

    def _end(self, plain: PlainRequest, answer: Answer | None, error: BrokerError | None) -> None:
        if not isinstance(plain.token, _Opening):
            self._completions.append(Completion(plain.token, answer, error))
            return
        pipeline, producer = plain.token
        last_sequence = answer.fields.get("last_sequence") if answer is not None else None
        if isinstance(last_sequence, int):
            pipeline.opened(producer, last_sequence)
        else:
            pipeline.open_failed(error or RemoteProtocolError(f"PRODUCER without last_sequence for {pipeline.channel!r}"))

    # --- sending -----------------------------------------------------------------------------------------------------

    def _owed(self) -> bool:
        """Whether the target owes a prompt answer."""
        node = self._routes.node(self._routes.target)
        called = node is not None and (node.ping_id or node.hello_id)
        return bool(called or self._batches) or self._table.open_count > self._table.waiting_count

    def new_id(self) -> int:
        """The id of a new request."""
        self._last_id += 1
        return self._last_id

    def _add(self, request: AnyRequest, token: Any, deadline_ns: int) -> int:
        request_id = self.new_id()
        exchange = Exchange(request_id, encode_request(request_id, request), f"{command_of(request).name} request {request_id}")
        self._table.add(PlainRequest(exchange, request, token, deadline_ns))
        return request_id

    def _next_requests(self, target: str, now_ns: int) -> list[Exchange]:
        if target != self._routed:
            self._table.redirect(target)
            self._routed = target
        exchanges = self._table.send(target, now_ns, self._slots())
        for pipeline in list(self._active):
            sent = pipeline.pump(target, now_ns, self._slots(), self.new_id)
            if sent:
                exchanges += sent
                del self._active[pipeline]  # to the end of the line for slots
                self._active[pipeline] = None
        return exchanges

    def _slots(self) -> int:
        return max(0, SLOTS - len(self._batches) - self._table.open_count)

    def _tend(self, pipeline: Pipeline) -> None:
        """Seal what a pipeline has; open its producer when it needs one; let go of a pipeline that holds nothing."""
        pipeline.seal()
        if pipeline.needs_producer:
            producer = self._random.getrandbits(64) or 1
            token = _Opening(pipeline, producer)
            pipeline.opening = self._add(OpenProducerRequest(pipeline.channel, producer), token, FOREVER_NS)
        elif pipeline.pending_count == 0:
            opening = self._table.get(pipeline.opening)
            if opening is not None:
                self._table.remove(opening)
                pipeline.opening = 0
            del self._active[pipeline]

    def _calls(self, now_ns: int) -> list[Transmit]:
        """What the routes want to know: HELLO to a node that has not welcomed this client yet, PING and INFO to others."""
        frames = []
        for node in self._routes.nodes():
            if node.call_due and node.phase is not Phase.CLOSED:
                node.call_due, node.called_ns, request_id = False, now_ns, self.new_id()
                if node.phase is Phase.GREETING:
                    node.hello_id = request_id
                    request: AnyRequest = Hello(self.session, self._client_id)
                else:
                    node.ping_id = request_id
                    request = Ping()
                frames.append(Transmit(node.endpoint, encode_request(request_id, request)))
            if node.info_due and node.phase is Phase.READY:
                node.info_due, node.info_id = False, self.new_id()
                frames.append(Transmit(node.endpoint, encode_request(node.info_id, Info())))
        return frames
