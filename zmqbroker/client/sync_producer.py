"""Producers for threads: parcels are filled by the threads that send, and handed to the event loop whole.

    send ──▶ open parcel ──▶ handed ──▶ (the loop's pass) pipeline ──▶ ended

A send takes a lock and appends; only the first one of a parcel wakes the loop. All threads of one producer share the open
parcel and the room: `pending_bytes_max` bounds what is handed and not yet answered, and who finds no room waits in line.

Invariants: whatever was handed ends, also when the client is closed; the lock is never held while user code or the loop runs.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from types import TracebackType
from typing import Any, Protocol

from zmqbroker.client.confirm import find_place
from zmqbroker.client.message import SendResult, encode_message
from zmqbroker.client.parcel import OVERHEAD_BYTES, Parcel, split_bodies
from zmqbroker.client.producer import Producer
from zmqbroker.errors import BrokerError, LocalProtocolError
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.columns import NO_TREATMENT, Treatment
from zmqbroker.wire.headers import MessageHeaders, encode_message_headers

__all__ = ["SyncBatchConfirm", "SyncConfirm", "SyncProducer"]


#: Threads wait for the loop's turn after this much: it needs the interpreter for each send, and would wait milliseconds for it
#: beside a busy thread. Two batches, so that one is filled while the other leaves.
_BURST_BYTES = 512 << 10


class _LoopOwner(Protocol):
    """The client whose thread runs the loop."""

    def run(self, action: Any) -> Any:
        """Run a coroutine in the loop and wait for its result."""

    def post(self, callback: Callable[[], object]) -> None:
        """Have the loop call a function soon, for certain. Raises LocalProtocolError when there is no loop any more."""


class SyncProducer:
    """Sends many messages to one channel, in order, in batches, each stored exactly once. Use it inside `with`."""

    def __init__(self, client: _LoopOwner, producer: Producer) -> None:
        self._client = client
        self._producer = producer
        self._client_id = producer.client_id
        self._settings = producer.sender.settings
        self._lock = threading.Lock()  # of everything below
        self._change = threading.Condition(self._lock)  # notified when a parcel has ended, and when the line moves
        self._open: Parcel | None = None  # the last handed parcel, while it takes more
        self._handed: list[Parcel] = []  # which the loop has not taken yet
        self._line: deque[object] = deque()  # threads that wait for room, in order
        self._pending_bytes = 0  # of parcels that have not ended, without the open one
        self._burst_bytes = 0  # of those, handed since the loop last had its turn
        self._callbacks: dict[Parcel, list[Callable[[], object]]] = {}  # of confirms, by the parcel that they wait for
        self._inherited = False  # whether this is a copy in a forked child
        _producers.add(self)

    def send(
        self,
        body: Buffer,
        *,
        id: str | None = None,
        metadata: str | None = None,
        tags: Mapping[str, str] | None = None,
        trace: str | None = None,
        delay_ms: int = 0,
        expiry_ms: int = 0,
        priority: int = 0,
        group: str = "",
        timeout_ms: int | None = None,
    ) -> SyncConfirm:
        """Send a message after all earlier ones, waiting only for room; the returned confirm has its result."""
        treated = delay_ms or expiry_ms or priority or group
        plain = id is None and metadata is None and tags is None and trace is None and timeout_ms is None
        plain = plain and self._client_id is None
        if plain and not treated and type(body) is bytes:
            with self._lock:  # the short way of `Producer.send`
                parcel = self._open
                if parcel is not None:
                    bodies, size = parcel.bodies, len(body)
                    place, total = len(bodies), parcel.size + size + OVERHEAD_BYTES
                    if total <= parcel.size_max and size <= parcel.body_size_max and place < parcel.count_max:
                        bodies.append(body)
                        parcel.size = total
                        return SyncConfirm(self, parcel, place)
        headers = MessageHeaders(metadata, tags, self._client_id, trace)
        treatment = Treatment(delay_ms, expiry_ms, priority, group) if treated else NO_TREATMENT
        encoded = encode_message(body, id, headers, self._producer.message_bytes_max, treatment)
        parcel = Parcel([], 0, *self._times(timeout_ms))
        place = parcel.append(*encoded)
        parcel.seal()
        self._hand(parcel, share=timeout_ms is None)
        return SyncConfirm(self, parcel, place)

    def send_batch(self, bodies: Sequence[bytes], *, timeout_ms: int | None = None) -> SyncBatchConfirm:
        """Send messages after all earlier ones, waiting only for room; see `Producer.send_batch`."""
        size_max = min(self._settings.batch_bytes, self._settings.pending_bytes_max)
        limits = size_max, self._settings.batch_messages, self._producer.message_bytes_max
        headers = encode_message_headers(MessageHeaders(client_id=self._client_id))
        parcels = split_bodies(bodies, headers, *limits, *self._times(timeout_ms))
        for parcel in parcels:
            self._hand(parcel, share=False)
        return SyncBatchConfirm(self, parcels)

    def flush(self) -> None:
        """Wait until every message sent so far has ended. Raises the first failure since the last flush."""
        self._check_own()
        self._client.run(self._producer.flush())  # the loop has been told to take what is handed before

    def wait_end(self, parcel: Parcel, timeout_s: float | None) -> None:
        """Wait until a parcel has ended. Raises TimeoutError, or LocalProtocolError in a forked child."""
        self._check_own()
        with self._change:
            if not self._change.wait_for(lambda: parcel.done, timeout_s):
                raise TimeoutError("the message has not ended yet")

    def when_ended(self, parcel: Parcel, callback: Callable[[], object]) -> None:
        """Call `callback` in the client's thread when a parcel has ended, or here and now if it has."""
        with self._lock:
            if not parcel.done:
                self._callbacks.setdefault(parcel, []).append(callback)
                return
        callback()

    def forget_parent(self) -> None:
        """This is a forked child: nothing of this is its own, and every use is refused."""
        self._inherited = True
        self._lock = threading.Lock()  # another thread, which is not here, may have held the old one
        self._change = threading.Condition(self._lock)
        self._open, self._pending_bytes = None, 0
        self._handed.clear()
        self._line.clear()

    def __enter__(self) -> SyncProducer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._inherited:
            self._client.run(self._producer.__aexit__(kind, error, trace))

    def _check_own(self) -> None:
        if self._inherited:
            raise LocalProtocolError("this producer belongs to the process that made it; a forked process must make its own")

    def _times(self, timeout_ms: int | None) -> tuple[int, int]:
        now_ns = time.monotonic_ns()
        return now_ns, now_ns + (timeout_ms or self._producer.timeout_ms) * 1_000_000

    # --- from the threads to the loop ----------------------------------------------------------------------------------

    def _hand(self, parcel: Parcel, share: bool) -> None:
        """Give a parcel to the loop when there is room, after those that wait already. `share`: it takes more until then."""
        self._check_own()
        with self._change:
            self._wait_for_room(parcel.size)
            if not self._handed:
                self._client.post(self._take)  # which waits for the lock
            self._seal()
            if share:
                # Another thread may change the queue meanwhile; then batches are a little smaller than they could be.
                room, pipeline = self._settings.pending_bytes_max - self._pending_bytes, self._producer.sender.pipeline
                pipeline.limit(parcel, room, self._producer.message_bytes_max, self._handed)
                self._open = parcel
            else:
                self._count(parcel.size)
            self._handed.append(parcel)

    def _count(self, size: int) -> None:
        self._pending_bytes += size
        self._burst_bytes += size

    def _seal(self) -> None:
        if self._open is not None:
            self._open.seal()
            self._count(self._open.size)
            self._open = None

    def _wait_for_room(self, size: int) -> None:
        if not self._line and self._has_room(size):
            return
        self._seal()  # nobody overtakes
        turn = object()
        self._line.append(turn)
        try:
            self._change.wait_for(lambda: self._line[0] is turn and self._has_room(size))
        finally:
            self._line.remove(turn)
            self._change.notify_all()

    def _has_room(self, size: int) -> bool:
        grown = self._open.size if self._open is not None else 0
        held = self._pending_bytes + grown
        turn_due = self._burst_bytes + grown >= _BURST_BYTES
        return not turn_due and (held == 0 or held + size <= self._settings.pending_bytes_max)

    def _take(self) -> None:
        """In the loop: send what was handed."""
        with self._lock:
            self._seal()
            parcels, self._handed = self._handed, []
        for parcel in parcels:
            parcel.watchers.append(partial(self._ended, parcel))
            self._producer.sender.admit(parcel)
        asyncio.get_running_loop().call_soon(self._turn)  # behind the sends

    def _turn(self) -> None:
        """In the loop: what was handed has been sent, as far as it could be."""
        with self._change:
            self._burst_bytes = 0
            self._change.notify_all()

    def _ended(self, parcel: Parcel) -> None:
        """In the loop: a parcel has ended."""
        with self._change:
            self._pending_bytes -= parcel.size
            callbacks = self._callbacks.pop(parcel, ())
            self._change.notify_all()
        loop = asyncio.get_running_loop()
        for callback in callbacks:
            loop.call_soon(callback)  # by itself, so that what it raises disturbs nothing


class SyncConfirm:
    """The confirm of one message, to be asked, or let go. May be used from any thread."""

    __slots__ = ("_parcel", "_place", "_producer")

    def __init__(self, producer: SyncProducer, parcel: Parcel, place: int) -> None:
        self._producer = producer
        self._parcel = parcel
        self._place = place

    def done(self) -> bool:
        """Whether the message has ended: stored or failed."""
        return self._parcel.done

    def result(self, timeout_s: float | None = None) -> SendResult:
        """How it ended, as soon as it has. Raises its error, or TimeoutError after `timeout_s`."""
        if not self._parcel.done:
            self._producer.wait_end(self._parcel, timeout_s)
        return self._parcel.result(self._place)

    def exception(self, timeout_s: float | None = None) -> BrokerError | None:
        """The error it ended with, None for none, as soon as it has ended. Raises TimeoutError after `timeout_s`."""
        if not self._parcel.done:
            self._producer.wait_end(self._parcel, timeout_s)
        return self._parcel.exception()

    def add_done_callback(self, callback: Callable[[SyncConfirm], object]) -> None:
        """Call `callback` with this confirm, in the client's thread when the message has ended, or at once if it has."""
        self._producer.when_ended(self._parcel, partial(callback, self))


class SyncBatchConfirm:
    """The confirms of messages that were sent together, in their order."""

    def __init__(self, producer: SyncProducer, parcels: Sequence[Parcel]) -> None:
        self._producer = producer
        self._parcels = parcels
        self._ends = list(accumulate(parcel.count for parcel in parcels))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, at: int) -> SyncConfirm:
        return SyncConfirm(self._producer, *find_place(self._parcels, self._ends, at))

    def __iter__(self) -> Iterator[SyncConfirm]:
        return map(self.__getitem__, range(len(self)))

    def done(self) -> bool:
        """Whether every message has ended."""
        return all(parcel.done for parcel in self._parcels)

    def result(self, timeout_s: float | None = None) -> list[SendResult]:
        """The results of all messages. Raises the first error, or TimeoutError after `timeout_s`."""
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        for parcel in self._parcels:
            if not parcel.done:
                self._producer.wait_end(parcel, None if end_s is None else max(0.0, end_s - time.monotonic()))
        return [parcel.result(place) for parcel in self._parcels for place in range(parcel.count)]


_producers: weakref.WeakSet[SyncProducer] = weakref.WeakSet()


def _forget_parent() -> None:
    for producer in list(_producers):
        producer.forget_parent()


if hasattr(os, "register_at_fork"):  # pragma: no branch - everywhere but on Windows
    os.register_at_fork(after_in_child=_forget_parent)
