"""Producers: they open themselves on a channel, send numbered messages in batches, and repeat a batch as it was until it is
confirmed. Every send, and how it ended, goes into the history."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.fault.history import Outcome, Send, body_of
from tests.simulation.client import Client, Operation
from tests.simulation.desk import Answer
from tests.simulation.world import MILLISECOND
from zmqbroker.commands import OpenProducer
from zmqbroker.wire import codec
from zmqbroker.wire.columns import Treatment, add_columns
from zmqbroker.wire.frames import Reply

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

__all__ = ["Producer"]

_BATCH_MAX = 4
#: Attempts after which an application may lose its patience.
_PATIENCE = 12


class _Batch:
    """Messages that are sent, and repeated, together."""

    __slots__ = ("base", "count", "first_number")

    def __init__(self, base: int, count: int, first_number: int) -> None:
        self.base = base  # producer sequence of the first
        self.count = count
        self.first_number = first_number  # the application's number of the first


class Producer(Client):
    """One producer of one channel, or of several, all of which take its messages or none."""

    def __init__(self, cluster: Cluster, id: int, *channels: str) -> None:
        super().__init__(cluster, id)
        self.channels = channels
        self.window = self.chance.choice((1, 1, 2, 4)) if len(channels) == 1 else 1  # several: one at a time, or in order
        self.held = False  # sends nothing yet
        self.stopped = False  # sends nothing new
        self._batches: dict[int, _Batch] = {}  # under way, by request id
        self._new_identity()
        self.world.after(self.chance.below(20 * MILLISECOND), self._work)

    def _new_identity(self) -> None:
        self.generation += 1
        self.name = f"p{self.id}.{self.generation}"
        self.producer = self.id << 32 | self.generation
        self._opened = False
        self._sequence = 0  # last producer sequence given out
        self._number = 0
        self._batches.clear()

    def _work(self) -> None:
        interval = self.cluster.options.send_interval_ns
        self.world.after(interval // 2 + self.chance.below(interval), self._work)
        if self.stopped or self.held:
            return
        if not self._opened:
            if not self.operations:
                for channel in self.channels:
                    self.begin(OpenProducer(channel, self.producer), self._open)
        elif len(self._batches) < self.window:
            self._send()
        self._lose_patience()

    def _open(self, answer: Answer) -> None:
        if answer.fields["last_sequence"]:
            self.cluster.raft.fail("I15", f"a new producer is said to be at {answer.fields}", answer.node)
        self._opened = not self.operations  # on all of them

    def _send(self) -> None:
        count = self.chance.between(1, _BATCH_MAX)
        number = self.next_number()
        batch = self._batches[number] = _Batch(self._sequence + 1, count, self._number + 1)
        self._sequence += count
        self._number += count
        size = self.chance.below(self.cluster.options.body_bytes_max)
        bodies = [body_of((self.name, batch.first_number + n), size) for n in range(count)]
        frames = tuple(codec.encode_batch(channel.encode(), bodies, self.producer, batch.base) for channel in self.channels)
        if self.channels[0] in self.cluster.rules and self.chance.happens(self.cluster.options.treated):
            frames = (add_columns(frames[0], sum(map(len, bodies)), [self._treatment() for _ in bodies]),)
        self.cluster.counters["messages_sent"] += count
        self.begin(None, self._sent(batch, number), batches=frames, number=number)

    def _treatment(self) -> Treatment:
        chance = self.chance
        return Treatment(chance.choice((0, 0, 10, 200)), chance.choice((0, 0, 0, 30, 400)), chance.choice((0, 0, 1, 9)))

    def _sent(self, batch: _Batch, number: int) -> Callable[[Answer], None]:
        invoke_ns = self.world.now_ns

        def finished(answer: Answer) -> None:
            told = self._told(answer)
            del self._batches[number]
            self.cluster.last_confirmed_ns = max(invoke_ns, self.cluster.last_confirmed_ns)
            for channel, fields in zip(self.channels, told, strict=True):
                if "code" in fields:
                    self.cluster.raft.fail("I16", f"client {self.id}: {channel!r} refused its batch: {fields}", answer.node)
                last = fields["sequence"] + batch.count - 1
                self.cluster.confirmed[channel] = max(last, self.cluster.confirmed[channel])
                self._record(channel, batch, Outcome.CONFIRMED, invoke_ns, fields["sequence"])

        return finished

    def _told(self, answer: Answer) -> list[dict[str, Any]]:
        """What is said of the batch in each channel."""
        code = Reply.SENT if len(self.channels) == 1 else Reply.ROUTED
        assert self.confirmed(code, answer), answer
        return [answer.fields] if code is Reply.SENT else answer.fields["results"]

    def _record(self, channel: str, batch: _Batch, outcome: Outcome, invoke_ns: int, first: int = 0) -> None:
        history = self.cluster.history_of(channel)
        sends = self.cluster.sightings.sends[channel] if history is None else history.sends
        complete_ns = self.world.now_ns if outcome is not Outcome.UNKNOWN else 0
        for n in range(batch.count):
            sequence = first + n if first else 0
            sends.append(Send(self.name, batch.first_number + n, outcome, invoke_ns, complete_ns, sequence))

    def _lose_patience(self) -> None:
        """An application that got no answer for long starts anew, as another producer."""
        if any(operation.attempts > _PATIENCE for operation in self.operations.values()) and self.chance.happens(0.1):
            self.abandon()

    def abandon(self) -> None:
        """Give up everything under way and begin as another producer."""
        for operation in self.give_up():
            batch = self._batches.get(operation.request.number)
            for channel in self.channels if batch is not None else ():
                assert batch is not None
                self._record(channel, batch, self._outcome(operation), operation.invoke_ns)
        self._new_identity()

    def _outcome(self, operation: Operation) -> Outcome:
        return Outcome.REFUSED if operation.refused else Outcome.UNKNOWN

    @property
    def idle(self) -> bool:
        """True when nothing is under way."""
        return not self.operations

    def promised(self, answer: Answer) -> None:
        """A confirm leaves a node: the batch must be in the committed log, at that place (I19)."""
        batch = self._batches.get(answer.number)
        if batch is None or answer.error is not None:
            return
        for channel, fields in zip(self.channels, self._told(answer), strict=True):
            stored = self.cluster.machines.batches.get((channel, self.producer, batch.base))
            said = (fields.get("sequence"), fields.get("count"))
            if stored is None or (stored.first_sequence, stored.count) != said:
                self.cluster.raft.fail("I19", f"{answer} leaves, and the log says {stored}", answer.node)
