"""One producer of one channel: numbering, batches and go-back-N (PROTOCOL §4).

    append ──▶ queue ──▶ unanswered (numbered, sent in order, at most `window` batches) ──▶ answered

A batch gets its numbers and its bytes when it is first sent, and keeps both: every repeat has the same boundaries. After a
refusal, a lost connection or a new target, all unanswered batches are sent again, in order, before any new one (a new
*flight*). A message is completed once.

When a batch is given up (its deadline, or a refusal that repeating cannot cure) the numbers after it can never be accepted:
* It was certainly not stored: then none of the later ones was. They go back to the queue and are numbered anew, under a new
  producer.
* It may have been stored: its senders have been told "outcome unknown", and it stays, repeated in the background, while a
  later batch still waits for its answer, because those can only be stored after it. When nobody waits any more all are
  dropped, and the next send opens a new producer.
* UNKNOWN_PRODUCER, or OUT_OF_SEQUENCE that no unanswered batch explains, since the channel is not the one that it was (a
  backup was restored): if it may have been stored nobody can tell any more, for it and for every later batch that was sent.

A batch with an `expected_sequence` travels alone, and nothing is sent behind it before it is answered: when it is refused its
numbers are free again.

It reads no clock and sends nothing; `session` does. Bounds: `window` batches of `batch_bytes` under way; `pending_bytes_max`
in all, which the caller keeps by asking `has_room`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from zmqbroker.client.batch import Batch, PipelineSettings, closes_gap, is_settled, read_sent
from zmqbroker.client.exchange import Exchange, not_sent, with_outcome
from zmqbroker.client.framing import batch_frame
from zmqbroker.client.parcel import Parcel
from zmqbroker.errors import (
    BrokerError,
    Duplicate,
    OutOfSequence,
    RemoteProtocolError,
    RequestError,
    SequenceMismatch,
    UnknownProducer,
)
from zmqbroker.wire.requests import SendBatch, encode_request

__all__ = ["FOREVER_NS", "PATIENCE_NS", "Completion", "Pipeline", "PipelineSettings"]

#: Later than every instant.
FOREVER_NS = 2**63
#: An answer this late on a living connection was lost by the node (PROTOCOL §2 lets it); the request is sent again.
PATIENCE_NS = 5_000_000_000


class Completion(NamedTuple):
    """The end of something that `token` stands for: a value, or an error."""

    token: Any
    value: Any
    error: BrokerError | None


class Pipeline:
    """The state of one producer. Its batches' request ids are in `registry` while they are unanswered."""

    def __init__(
        self,
        channel: str,
        settings: PipelineSettings,
        completions: list[Completion],
        registry: dict[int, Pipeline],
    ) -> None:
        self.channel = channel
        self.settings = settings
        self.open: Parcel | None = None  # the last parcel, while it takes more messages; counts below when it is sealed
        self.pending_bytes = 0  # of parcels whose senders wait
        self.pending_count = 0  # their number, the open one included
        self.flushing = False  # whether messages go out without waiting for company, until none is left
        self.opening = 0  # request id of the OPEN_PRODUCER under way; 0 for none
        self.refusal: RequestError | None = None  # latest refusal since something was answered
        self.failure: BrokerError | None = None  # first failed send since this was last set to None
        self._completions = completions
        self._registry = registry
        self._producer: int | None = None  # None: to be opened
        self._next_sequence = 1  # of the next message to be numbered
        self._queue: deque[Parcel] = deque()  # never sent under the present producer
        self._queue_bytes = 0
        self._queue_count = 0  # messages
        self._unanswered: list[Batch] = []  # in order; those of the current flight are a prefix
        self._flight = 1
        self._endpoint: str | None = None  # where the current flight goes
        self._hold_ns = 0  # nothing is sent before this instant
        self.deadline_ns = FOREVER_NS  # no later than the earliest deadline of a parcel
        self._retiring = False  # the producer takes no new batches, and ends with its last unanswered one

    # --- the sender's side -------------------------------------------------------------------------------------------

    def has_room(self, size: int) -> bool:
        """Whether a message or parcel of `size` bytes may be appended; a large one may when it is alone."""
        if self.pending_count == 0:
            return True
        held = self.pending_bytes + (self.open.size if self.open is not None else 0)
        return held + size <= self.settings.pending_bytes_max

    def begin(self, parcel: Parcel, body_size_max: int) -> None:
        """Send a parcel after all earlier ones, and let it take more messages until it is sealed."""
        self.seal()
        self.limit(parcel, self.settings.pending_bytes_max - self.pending_bytes, body_size_max)
        self.open = parcel
        self.pending_count += 1
        self.deadline_ns = min(self.deadline_ns, parcel.deadline_ns)

    def limit(self, parcel: Parcel, room: int, body_size_max: int, ahead: Sequence[Parcel] = ()) -> None:
        """Let a parcel take as much as fits into a batch with what is queued, and `ahead` of it, but no more than `room`."""
        settings = self.settings
        size_left = settings.batch_bytes - self._queue_bytes - sum(other.size for other in ahead)
        count_left = settings.batch_messages - self._queue_count - sum(other.count for other in ahead)
        if size_left < parcel.size or count_left < parcel.count:  # it begins a batch
            size_left, count_left = settings.batch_bytes, settings.batch_messages
        parcel.size_max, parcel.count_max, parcel.body_size_max = min(size_left, room), count_left, body_size_max

    def seal(self) -> None:
        """The open parcel takes no more."""
        if self.open is not None:
            parcel, self.open = self.open, None
            parcel.seal()
            self.pending_bytes += parcel.size
            self._enqueue(parcel)

    def append(self, parcel: Parcel) -> None:
        """Send a sealed parcel after all earlier ones."""
        self.seal()
        self.pending_bytes += parcel.size
        self.pending_count += 1
        self.deadline_ns = min(self.deadline_ns, parcel.deadline_ns)
        self._enqueue(parcel)

    def _enqueue(self, parcel: Parcel) -> None:
        self._queue.append(parcel)
        self._queue_bytes += parcel.size
        self._queue_count += parcel.count

    @property
    def needs_producer(self) -> bool:
        """Whether OPEN_PRODUCER is to be sent."""
        return self._producer is None and not self.opening and bool(self._queue)

    def opened(self, producer: int, last_sequence: int) -> None:
        """The channel knows the producer."""
        self.opening, self.refusal = 0, None
        self._producer, self._next_sequence = producer, last_sequence + 1

    def open_failed(self, error: BrokerError) -> None:
        """The channel will not have a producer: nothing can be sent."""
        self.opening = 0
        self._fail(self._queue, error)
        self._queue.clear()
        self._queue_bytes = self._queue_count = 0

    # --- sending -----------------------------------------------------------------------------------------------------

    def pump(self, target: str, now_ns: int, slots: int, next_id: Callable[[], int]) -> list[Exchange]:
        """What to send to `target` now, in order; at most `slots` of them are new requests."""
        if now_ns < self._hold_ns:
            return []
        if target != self._endpoint or now_ns >= self._overdue_ns():
            self._endpoint = target
            self._flight += 1
        batches = [batch for batch in self._unanswered if batch.flight != self._flight]
        while slots > 0 and self._may_form(now_ns):
            batch = self._form(next_id())
            batches.append(batch)
            slots -= 1
        for batch in batches:
            batch.flight = self._flight
            batch.exchange.sent(target, now_ns)
        return [batch.exchange for batch in batches]

    def wake_ns(self, now_ns: int) -> int:
        """When `pump` or `expire` has something to do again, if nothing else happens."""
        wake = min(self.deadline_ns, self._overdue_ns())
        if now_ns < self._hold_ns and (self._unanswered or self._queue):
            wake = min(wake, self._hold_ns)
        elif self._may_number() and not self._is_ripe(now_ns):
            wake = min(wake, self._queue[0].appended_ns + self.settings.linger_ns)
        return wake

    def _overdue_ns(self) -> int:
        if not self._unanswered or self._unanswered[0].flight != self._flight:
            return FOREVER_NS
        return self._unanswered[0].exchange.sent_ns + PATIENCE_NS

    def _may_number(self) -> bool:
        room = len(self._unanswered) < self.settings.window
        if not room or not self._queue or self._producer is None or self._retiring:
            return False
        return not (self._unanswered and self._unanswered[-1].is_conditional)

    def _may_form(self, now_ns: int) -> bool:
        return self._may_number() and self._is_ripe(now_ns)

    def _is_ripe(self, now_ns: int) -> bool:
        settings = self.settings
        if self.flushing or settings.linger_ns == 0 or self._queue_count >= settings.batch_messages:
            return True
        return self._queue_bytes >= settings.batch_bytes or now_ns >= self._queue[0].appended_ns + settings.linger_ns

    def _form(self, request_id: int) -> Batch:
        """Number the first parcels of the queue."""
        parcels = [self._queue.popleft()]
        size, count, settings = parcels[0].size, parcels[0].count, self.settings
        while self._queue:
            parcel = self._queue[0]
            if size + parcel.size > settings.batch_bytes or count + parcel.count > settings.batch_messages:
                break
            if parcel.expected_sequence is not None or parcels[0].expected_sequence is not None:
                break
            parcels.append(self._queue.popleft())
            size, count = size + parcel.size, count + parcel.count
        self._queue_bytes -= size
        self._queue_count -= count
        numbers = (self._producer or 0, self._next_sequence)
        frame = batch_frame(self.channel, parcels, *numbers, compress=settings.compress)
        request = SendBatch(frame, expected_sequence=parcels[0].expected_sequence)
        exchange = Exchange(request_id, encode_request(request_id, request), f"a send to {self.channel!r}")
        batch = Batch(exchange, parcels, count, self._next_sequence)
        self._next_sequence += count
        self._unanswered.append(batch)
        self._registry[request_id] = self
        return batch

    # --- answers -----------------------------------------------------------------------------------------------------

    def answered(self, request_id: int, fields: dict[str, Any]) -> None:
        """A batch is stored."""
        position = self._position(request_id)
        batch = self._unanswered[position]
        try:
            sent, place = read_sent(fields, batch.count), 0
        except RemoteProtocolError as error:
            self._fail(batch.parcels, error)
            self._remove(position)
            return
        self.refusal = None
        for parcel in batch.parcels:
            if not parcel.done:
                duplicates = sent.duplicates(place, parcel.count)
                parcel.stored(sent.first + place, sent.time_unix_ns, sent.duplicate, sent.confirm, duplicates)
                self._finish(parcel)
            place += parcel.count
        self._remove(position)

    def refused(self, request_id: int, endpoint: str, error: RequestError, resume_ns: int) -> None:
        """A batch got an error. Nothing is sent before `resume_ns`, if the error can be cured by sending again."""
        position = self._position(request_id)
        batch = self._unanswered[position]
        self.refusal = error
        current = batch.exchange.refused(endpoint, error)
        if error.retryable or closes_gap(error, self._unanswered[:position]):
            if current and batch.flight == self._flight:
                self._flight += 1
                self._hold_ns = max(self._hold_ns, resume_ns)
        elif isinstance(error, OutOfSequence) and not current:
            pass  # of an attempt elsewhere: the latest one has an answer of its own
        elif isinstance(error, Duplicate):
            self._fail(batch.parcels, error)
            self._remove(position)
        elif is_settled(error) or (isinstance(error, SequenceMismatch) and not batch.exchange.may_have_happened):
            self._fail(batch.parcels, error)
            self._next_sequence = batch.base  # nothing was sent behind it
            self._remove(position)
        elif batch.exchange.may_have_happened:
            unknown = with_outcome(error, True)
            for later in self._unanswered[position:]:
                self._fail(later.parcels, unknown)
            self._cut(position)
        else:
            if not isinstance(error, UnknownProducer | OutOfSequence):
                self._fail(batch.parcels, error)
            self._hold_ns = max(self._hold_ns, resume_ns)
            self._cut(position)

    def lost(self, endpoint: str) -> None:
        """The connection to `endpoint` is gone."""
        for batch in self._unanswered:
            if batch.exchange.endpoint == endpoint:
                batch.exchange.lost()
        if endpoint == self._endpoint:
            self._endpoint = None

    def expire(self, now_ns: int, obstacle: RequestError | str | None) -> None:
        """End what is past its deadline; `obstacle` is why nothing could be sent."""
        if now_ns < self.deadline_ns:
            return
        self.seal()
        self._expire_unanswered(now_ns)
        reason = self.refusal or obstacle
        late = [parcel for parcel in self._queue if parcel.deadline_ns <= now_ns]
        self._fail(late, not_sent(f"a send to {self.channel!r}", reason))
        self._requeue([parcel for parcel in self._queue if parcel.deadline_ns > now_ns])
        self.deadline_ns = min((parcel.deadline_ns for parcel in self._waiting()), default=FOREVER_NS)

    def abort(self, reason: Callable[[bool], BrokerError]) -> None:
        """End everything with `reason(outcome unknown)`."""
        self.seal()
        for batch in self._unanswered:
            self._fail(batch.parcels, reason(batch.exchange.may_have_happened))
        self._cut(0)
        self.open_failed(reason(False))
        self.deadline_ns = FOREVER_NS

    def _expire_unanswered(self, now_ns: int) -> None:
        for position, batch in enumerate(self._unanswered):
            late = [parcel for parcel in batch.parcels if not parcel.done and parcel.deadline_ns <= now_ns]
            if not late:
                continue
            self._fail(late, batch.exchange.expired())
            if not batch.exchange.may_have_happened:
                self._cut(position)
                break
        if all(parcel.done for batch in self._unanswered for parcel in batch.parcels):
            self._cut(0)

    def _waiting(self) -> Iterable[Parcel]:
        yield from self._queue
        for batch in self._unanswered:
            yield from (parcel for parcel in batch.parcels if not parcel.done)

    # --- bookkeeping -------------------------------------------------------------------------------------------------

    def _position(self, request_id: int) -> int:
        return next(at for at, batch in enumerate(self._unanswered) if batch.exchange.request_id == request_id)

    def _remove(self, position: int) -> None:
        """A batch has its place in the channel: the ones after it can follow."""
        del self._registry[self._unanswered.pop(position).exchange.request_id]
        self._settle()

    def _cut(self, position: int) -> None:
        """Give up the places from `position` on; what still has a waiting sender there is certainly not stored."""
        given_up = self._unanswered[position:]
        del self._unanswered[position:]
        for batch in given_up:
            del self._registry[batch.exchange.request_id]
        waiting = [parcel for batch in given_up for parcel in batch.parcels if not parcel.done]
        self._requeue([*waiting, *self._queue])
        self._retiring = self._retiring or bool(given_up)
        self._settle()

    def _settle(self) -> None:
        if self._unanswered and self.pending_count == 0:
            self._cut(0)  # nobody waits for what is still repeated
        if not self._unanswered and self._retiring:
            self._producer, self._retiring = None, False

    def _requeue(self, parcels: list[Parcel]) -> None:
        """The queue is these now."""
        self._queue = deque(parcels)
        self._queue_bytes = sum(parcel.size for parcel in parcels)
        self._queue_count = sum(parcel.count for parcel in parcels)

    def _fail(self, parcels: Iterable[Parcel], error: BrokerError) -> None:
        for parcel in parcels:
            if not parcel.done:
                parcel.failed(error)
                self.failure = self.failure or error
                self._finish(parcel)

    def _finish(self, parcel: Parcel) -> None:
        self.pending_bytes -= parcel.size
        self.pending_count -= 1
        self.flushing = self.flushing and self.pending_count > 0
        self._completions.append(Completion(parcel, None, parcel.error))
