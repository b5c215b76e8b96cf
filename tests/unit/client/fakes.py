"""A broker in memory that follows docs/PROTOCOL.md, for tests of the client: no Raft, no disk, no clock, no sockets.

`FakeBroker` is what all nodes agree on. `FakeNode` speaks for one endpoint: it leads, or it knows who does, or nobody does.
It keeps the rules of PROTOCOL §4 strictly, so that a client that breaks them loses messages or gets errors here too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.unit.client import fake_channels, fake_handing, fake_routing
from tests.unit.client.fake_events import FakeEvents
from zmqbroker.commands import ChannelSettings, Run, Said, Settle
from zmqbroker.errors import (
    Busy,
    Duplicate,
    NoMajority,
    NotLeader,
    OutOfSequence,
    RequestError,
    SequenceMismatch,
    StaleReceipt,
    UnknownProducer,
)
from zmqbroker.wire.codec import decode_batch, encode_batch
from zmqbroker.wire.columns import read_runs
from zmqbroker.wire.compression import COMPRESSED, mark_compressed
from zmqbroker.wire.frames import Reply, decode_header, encode_error, encode_header
from zmqbroker.wire.queue_requests import Managed
from zmqbroker.wire.requests import (
    AckRequest,
    AnyRequest,
    ChangeMembers,
    CloseRequest,
    CreateScheduleRequest,
    GrantRequest,
    HandOverRequest,
    Hello,
    Info,
    ListBindings,
    ListChannels,
    ListDefaults,
    ListRoutes,
    ListSchedules,
    ManageRequest,
    OpenProducerRequest,
    OpenProducers,
    PeekRequest,
    Ping,
    PublishRequest,
    ReceiveRequest,
    RoutedSend,
    Send,
    SendBatch,
    SettleRequest,
    StatsRequest,
    SubscribeRequest,
    Transfer,
    UnsubscribeRequest,
    decode_request,
)

RESULTS_KEPT = 128


@dataclass
class Stored:
    """One message of a channel."""

    body: bytes
    id: bytes
    headers: bytes
    compressed: bool = False
    delivery_count: int = 0


@dataclass
class FakeProducer:
    """Last sequence, and the results of the latest batches by (base, count)."""

    last: int = 0
    results: dict[tuple[int, int], int] = field(default_factory=dict)


@dataclass
class Waiting:
    """A RECEIVE that has no answer yet, and where its answer goes."""

    request: ReceiveRequest
    request_id: int
    session: bytes
    reply_to: Any


class FakeChannel:
    """Messages by sequence from 1, and their producers."""

    def __init__(self) -> None:
        self.messages: list[Stored] = []
        self.ready: deque[int] = deque()
        self.in_flight: dict[int, tuple[int, bytes, int]] = {}  # sequence -> assigning, session, consumer
        self.acked: set[int] = set()
        self.producers: dict[int, FakeProducer] = {}
        self.settings = ChannelSettings()
        self.runs: list[Run] = []  # what the columns of its batches say

    @property
    def bodies(self) -> list[bytes]:
        """All stored bodies, in order."""
        return [message.body for message in self.messages]

    def publish(self, frame: Any, expected_sequence: int | None = None) -> dict[str, Any]:
        """Store a batch by the rules of PROTOCOL §4; the fields of SENT."""
        batch = decode_batch(frame)
        producer = self.producers.get(batch.header.producer)
        if producer is None:
            raise UnknownProducer(f"producer {batch.header.producer} is not open")
        base, count = batch.header.base_sequence, batch.header.count
        if base <= producer.last:
            return self._repeat(producer, base, count)
        if base != producer.last + 1:
            raise OutOfSequence(f"{base} does not follow {producer.last}", expected=producer.last + 1)
        if expected_sequence not in (None, len(self.messages)):
            raise SequenceMismatch("another one", expected=expected_sequence, last_sequence=len(self.messages))
        self.runs += read_runs(frame, 0, batch.header)
        first = len(self.messages) + 1
        for at, body in enumerate(batch.bodies):
            ids, headers = batch.ids or [b""] * count, batch.headers or [b""] * count
            flagged = bool(batch.header.flags & COMPRESSED)
            self.messages.append(Stored(bytes(body), bytes(ids[at]), bytes(headers[at]), flagged))
            self.ready.append(first + at)
        producer.last += count
        producer.results[base, count] = first
        if len(producer.results) > RESULTS_KEPT:
            del producer.results[next(iter(producer.results))]
        return self._sent(first, count, False)

    def _repeat(self, producer: FakeProducer, base: int, count: int) -> dict[str, Any]:
        first = producer.results.get((base, count))
        if first is not None:
            return self._sent(first, count, True)
        if producer.results and base < next(iter(producer.results))[0]:
            raise Duplicate(f"{base} was stored long ago")
        raise OutOfSequence(f"{base} with other boundaries", expected=producer.last + 1)

    @staticmethod
    def _sent(first: int, count: int, duplicate: bool) -> dict[str, Any]:
        return {"sequence": first, "count": count, "time_unix_ns": first, "duplicate": duplicate, "confirm": "quorum"}


class FakeBroker:
    """The state that all nodes share."""

    def __init__(self) -> None:
        self.channels: dict[str, FakeChannel] = {}
        self.waiting: list[Waiting] = []
        self.assigned: dict[tuple[bytes, int, int], tuple[dict[str, Any], list[bytes]]] = {}  # by ReceiveKey
        self.assignings = 0
        self.closed_consumers: list[int | None] = []
        self.acks: list[AckRequest] = []
        self.settled: list[Settle] = []
        self.managed: list[Managed] = []
        self.defaults: dict[str, Said] = {}
        self.routes: dict[str, str] = {}
        self.bindings: dict[str, str] = {}  # queues by source
        self.published: list[tuple[str, bytes]] = []  # events
        self.schedules: dict[str, CreateScheduleRequest] = {}
        self.page = 1000  # channels in one CHANNELS, sequences that one REDRIVE looks at
        self.posted: list[Send] = []  # what came without a confirm

    def channel(self, name: str) -> FakeChannel:
        """The channel of that name, made when it is new."""
        return self.channels.setdefault(name, FakeChannel())

    def apply(self, request: AnyRequest, request_id: int, session: bytes, reply_to: Any) -> list[bytes] | None:
        """Serve a request at the leader; None when the answer comes later."""
        match request:
            case OpenProducerRequest():
                producer = self.channel(request.channel).producers.setdefault(request.producer, FakeProducer())
                return [encode_header(Reply.PRODUCER, request_id, {"last_sequence": producer.last})]
            case SendBatch():
                name = decode_batch(request.batch).header.channel
                fields = self.channel(name).publish(request.batch, request.expected_sequence)
                return [encode_header(Reply.SENT, request_id, fields)]
            case Send() if request.confirm == "none":
                self.posted.append(request)
                return None
            case AckRequest():
                return [encode_header(Reply.ACKED, request_id, self._ack(request, session))]
            case CloseRequest():
                return [encode_header(Reply.CLOSED, request_id, {"returned": self._close(session, request.consumer)})]
            case ReceiveRequest():
                return self._receive(request, request_id, session, reply_to)
            case HandOverRequest():
                return _framed(request_id, fake_handing.hand_over(self, request, session))
            case OpenProducers():
                return _framed(request_id, fake_routing.open_producers(self, request))
            case RoutedSend():
                return _framed(request_id, fake_routing.send(self, request))
            case SettleRequest():
                return _framed(request_id, fake_channels.settle(self, request.command, session))
            case ManageRequest():
                return _framed(request_id, fake_channels.manage(self, request.command))
            case CreateScheduleRequest():
                return _framed(request_id, fake_channels.create_schedule(self, request))
            case _:
                raise AssertionError(f"not a request for a leader: {request!r}")

    def _receive(self, request: ReceiveRequest, request_id: int, session: bytes, reply_to: Any) -> list[bytes] | None:
        key = (session, request.consumer, request_id)
        if key not in self.assigned:
            if len(self.channel(request.channel).ready) < request.count_min and request.wait_ms > 0:
                self.waiting = [one for one in self.waiting if (one.session, one.request_id) != (session, request_id)]
                self.waiting.append(Waiting(request, request_id, session, reply_to))
                return None
            self.assigned[key] = self._assign(request, session)
        fields, frames = self.assigned[key]
        return [encode_header(Reply.MESSAGES, request_id, fields), *frames]

    def _assign(self, request: ReceiveRequest, session: bytes) -> tuple[dict[str, Any], list[bytes]]:
        channel, self.assignings = self.channel(request.channel), self.assignings + 1
        pieces, frames = [], []
        for _ in range(min(request.count_max, len(channel.ready))):
            sequence = channel.ready.popleft()
            stored = channel.messages[sequence - 1]
            stored.delivery_count += 1
            channel.in_flight[sequence] = (self.assignings, session, request.consumer)
            pieces.append([self.assignings, sequence, sequence, stored.delivery_count, sequence])
            frame = encode_batch(request.channel.encode(), [stored.body], 0, 0, [stored.id], [stored.headers])
            frames.append(mark_compressed(frame) if stored.compressed else frame)
        return {"pieces": pieces}, frames

    def served_now(self) -> list[tuple[Any, list[bytes]]]:
        """Answers to waiting receives that have messages by now: (where to, frames)."""
        answers: list[tuple[Any, list[bytes]]] = []
        for one in list(self.waiting):
            if len(self.channel(one.request.channel).ready) >= one.request.count_min:
                self.waiting.remove(one)
                frames = self._receive(one.request, one.request_id, one.session, one.reply_to)
                assert frames is not None
                answers.append((one.reply_to, frames))
        return answers

    def _ack(self, request: AckRequest, session: bytes) -> dict[str, Any]:
        channel, stale, count = self.channel(request.channel), [], 0
        self.acks.append(request)
        for receipt in request.receipts:
            sequences = range(receipt.first, receipt.last + 1)
            held = [channel.in_flight.get(at, (0, b"", 0))[:2] == (receipt.assigning, session) for at in sequences]
            if all(one or at in channel.acked for one, at in zip(held, sequences, strict=True)):
                for sequence in sequences:
                    channel.in_flight.pop(sequence, None)
                    channel.acked.add(sequence)
                count += len(sequences)
            else:
                stale.append([receipt.assigning, receipt.first, receipt.last])
        if stale:
            raise StaleReceipt(f"{len(stale)} receipts are stale", stale=stale, count=count)
        return {"count": count, "confirm": "quorum"}

    def _close(self, session: bytes, consumer: int | None) -> int:
        self.closed_consumers.append(consumer)
        self.waiting = [one for one in self.waiting if one.session != session or consumer not in (None, one.request.consumer)]
        returned = 0
        for channel in self.channels.values():
            for sequence, (_, holder, number) in sorted(channel.in_flight.items(), reverse=True):
                if holder == session and consumer in (None, number):
                    del channel.in_flight[sequence]
                    channel.ready.appendleft(sequence)
                    returned += 1
        return returned


class FakeNode:
    """One endpoint of a fake cluster."""

    def __init__(self, endpoint: str, broker: FakeBroker) -> None:
        self.endpoint = endpoint
        self.leader: str | None = endpoint  # who leads, as this node believes
        self.leader_term = 1
        self.majority = True  # whether what it leads can be confirmed
        self.refusals: list[RequestError] = []  # raised instead of serving the next requests for a leader
        self.hello_errors: list[RequestError] = []  # raised instead of WELCOME
        self.hello_fields: dict[str, Any] = {"protocol": 1, "message_bytes_max": 1 << 20}
        self.members: object = None  # field of NODE
        self.seen: list[AnyRequest] = []
        self.changed_members: list[dict[str, Any]] = []  # what a change of the members is answered with
        self.sessions: dict[Any, bytes] = {}  # by connection
        self.events = FakeEvents()
        self._broker = broker

    def handle(self, connection: Any, frames: Sequence[Any]) -> list[tuple[Any, list[bytes]]]:
        """Serve one message that came on a connection; (connection, frames) of every answer that is ready now."""
        command, request_id, fields = decode_header(frames[0])
        request = decode_request(command, fields, frames[1:])
        self.seen.append(request)
        try:
            answer = self._serve(request, request_id, connection)
        except RequestError as error:
            answer = [encode_error(request_id, error)]
        answers = [] if answer is None else [(connection, answer)]
        return answers + self.events.pushed_now() + self._broker.served_now()

    def _serve(self, request: AnyRequest, request_id: int, connection: Any) -> list[bytes] | None:
        match request:
            case Hello():
                if self.hello_errors:
                    raise self.hello_errors.pop(0)
                self.sessions[connection] = request.session or b""
                return [encode_header(Reply.WELCOME, request_id, self.hello_fields)]
            case SubscribeRequest() | UnsubscribeRequest() | GrantRequest() | PublishRequest():
                return self.events.serve(request, request_id, connection)
            case Ping():
                fields = {"node": self.endpoint, "leader": self.leader, "leader_term": self.leader_term}
                return [encode_header(Reply.PONG, request_id, fields)]
            case Info():
                return [encode_header(Reply.NODE, request_id, {"node": {"name": self.endpoint}, "members": self.members})]
            case StatsRequest():
                return [encode_header(Reply.CHANNEL, request_id, fake_channels.row(self._broker, request.channel))]
            case PeekRequest():
                return _framed(request_id, fake_channels.peek(self._broker, request))
            case ListChannels():
                return _framed(request_id, fake_channels.list_channels(self._broker, request))
            case ListSchedules():
                return _framed(request_id, fake_channels.list_schedules(self._broker, request))
            case ListDefaults():
                return _framed(request_id, fake_channels.list_defaults(self._broker))
            case ListRoutes():
                return _framed(request_id, fake_channels.list_routes(self._broker, request))
            case ListBindings():
                return _framed(request_id, fake_channels.list_bindings(self._broker, request))
        if self.leader != self.endpoint:
            raise NotLeader("ask the leader", leader=self.leader)
        if not self.majority:
            raise NoMajority("too few nodes")
        if self.refusals:
            raise self.refusals.pop(0)
        if isinstance(request, ChangeMembers):
            return [encode_header(Reply.MEMBERS, request_id, {"index": 9, "members": self.changed_members})]
        if isinstance(request, Transfer):
            return [encode_header(Reply.TRANSFERRING, request_id, {"to": request.to or "n2"})]
        return self._broker.apply(request, request_id, self.sessions[connection], connection)


def _framed(request_id: int, reply: tuple[Reply, dict[str, Any], list[bytes]]) -> list[bytes]:
    code, fields, frames = reply
    return [encode_header(code, request_id, fields), *frames]


def busy(retry_ms: int = 20) -> Busy:
    """A refusal that passes."""
    return Busy("full", retry_ms=retry_ms)
