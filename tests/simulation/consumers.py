"""Consumers: they keep receives under way, ack most of what they get, and now and then crash and come back as somebody else.

On channels with rules they also give messages back in every way there is, and ask for more time. Every delivery and every ack
goes into the history of the channel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from tests.fault.history import Ack as AckRecord
from tests.fault.history import Delivery, Value, value_of
from tests.simulation.client import Client
from tests.simulation.desk import Answer
from tests.simulation.sightings import AckSeen, Seen
from tests.simulation.world import MILLISECOND
from zmqbroker.commands import Ack, Extend, Nack, Receipt, Receive, ReceiveKey, Reject, Requeue
from zmqbroker.errors import InvalidRequest, RequestError, StaleReceipt
from zmqbroker.wire import codec
from zmqbroker.wire.frames import Reply

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

__all__ = ["Consumer"]

#: Receives that a consumer keeps under way.
_RECEIVES = 2
#: Visibility timeout of a consumer that wants to be done: longer than any answer takes.
_CAREFUL_MS = 10_000
#: Share of deliveries that the application never acks: they come again when their time is over.
_FORGOTTEN = 0.05

Settling = Ack | Nack | Reject | Requeue | Extend


class _Got(NamedTuple):
    """Messages of one piece of an answer, or a part of them."""

    receipt: Receipt
    deliveries: int  # so far
    values: list[Value]


class Consumer(Client):
    """One consumer of one channel."""

    final: tuple[type[RequestError], ...] = (StaleReceipt, InvalidRequest)

    def __init__(self, cluster: Cluster, id: int, channel: str) -> None:
        super().__init__(cluster, id)
        self.channel = channel
        self.rules = cluster.rules.get(channel)
        self.careful = False  # acks everything
        self.visibility_ms = self.chance.choice((200, 600, 1500))
        self.wait_ms = self.chance.choice((0, 50, 400))
        self._receipts: dict[int, tuple[Receipt, ...]] = {}  # of what is settled and not extended, by request id
        for _ in range(_RECEIVES):
            self.world.after(self.chance.below(50 * MILLISECOND), self._receive, 0)

    def _receive(self, generation: int) -> None:
        if generation != self.generation:
            return
        number = self.next_number()
        count_max = self.chance.choice((1, 5, 50))
        count_min = 2 if self.wait_ms and not self.careful and self.chance.happens(0.1) else 1
        key = ReceiveKey(self.session, 0, number)
        command = Receive(
            key,
            self.channel,
            count_min=min(count_min, count_max),
            count_max=count_max,
            size_max=self.chance.choice((100, 1 << 20)),
            wait_ms=self.wait_ms,
            visibility_ms=_CAREFUL_MS if self.careful else self.visibility_ms,
        )
        self.begin(command, self._received, number=number, extra_ns=self.wait_ms * MILLISECOND)

    def _received(self, answer: Answer) -> None:
        assert self.confirmed(Reply.MESSAGES, answer), answer
        got = []
        for (assigning, first, last, count, *_), frame in zip(answer.fields["pieces"], answer.frames, strict=True):
            values = [value_of(bytes(body)) for body in codec.decode_batch(frame).bodies]
            assert len(values) == last - first + 1, answer
            got.append(_Got(Receipt(assigning, first, last), count, values))
            self._record(got[-1])
        generation = self.generation
        if got and (self.careful or not self.chance.happens(_FORGOTTEN)):
            delay = self.chance.around(10 * MILLISECOND)
            self.world.after(delay, self._settle, generation, got)
        pause = MILLISECOND if got else 20 * MILLISECOND
        self.world.after(pause, self._receive, generation)

    def _record(self, got: _Got) -> None:
        history = self.cluster.history_of(self.channel)
        if history is None:
            self.cluster.sightings.seen += [Seen(value, self.channel, got.receipt.assigning) for value in got.values]
        else:
            for sequence, (producer, number) in enumerate(got.values, got.receipt.first):
                history.deliveries.append(Delivery(sequence, producer, number, got.deliveries, self.world.now_ns))

    # --- settling ------------------------------------------------------------------------------------------------------

    def _settle(self, generation: int, got: list[_Got]) -> None:
        """Ack what was received, or on a channel with rules do something else with it, or with a part of it."""
        if generation != self.generation:
            return
        other: list[_Got] = []
        if self.rules is not None and not self.careful and self.chance.happens(self.cluster.options.settled):
            other, got = self._divide(got)
        if other:
            self._ask(self._otherwise(other), other)
        if got:
            self._ask(Ack(self.session, self.channel, tuple(one.receipt for one in got)), got)

    def _divide(self, got: list[_Got]) -> tuple[list[_Got], list[_Got]]:
        """All, or the first part of the first piece, and the rest."""
        if self.chance.happens(0.5):
            return got, []
        (receipt, count, values) = got[0]
        assigning, first, last = receipt.assigning, receipt.first, receipt.last
        middle = self.chance.between(first, last)
        rest = [_Got(Receipt(assigning, middle + 1, last), count, values[middle + 1 - first :])] if middle < last else []
        return [_Got(Receipt(assigning, first, middle), count, values[: middle + 1 - first])], [*rest, *got[1:]]

    def _otherwise(self, got: list[_Got]) -> Settling:
        assert self.rules is not None
        held = self.session, self.channel, tuple(one.receipt for one in got)
        match self.chance.below(6):
            case 0:
                return Nack(*held, delay_ms=self.chance.between(1, 300))
            case 1:
                return Nack(*held, behind=True)
            case 2 if self.rules.settings.dead_letter:
                return Reject(*held, reason="bad")
            case 3 if self.rules.requeue_to:
                return Requeue(*held, to=self.rules.requeue_to)
            case 4:
                return Extend(*held, visibility_ms=self.chance.choice((100, 300, 2000)))
            case _:
                return Nack(*held)

    def _ask(self, command: Settling, got: list[_Got]) -> None:
        number = self.next_number()
        if not isinstance(command, Extend):
            self._receipts[number] = command.receipts
        self.cluster.counters[f"asked_{type(command).__name__.lower()}"] += 1
        self.begin(command, self._settled(number, command, got), number=number)

    def _settled(self, number: int, command: Settling, got: list[_Got]) -> Callable[[Answer], None]:
        invoke_ns, generation = self.world.now_ns, self.generation

        def finished(answer: Answer) -> None:
            self._receipts.pop(number, None)
            if isinstance(answer.error, InvalidRequest) and not isinstance(command, Reject):
                self.cluster.raft.fail("I16", f"client {self.id}: {command} was refused: {answer.error}", answer.node)
            if isinstance(command, Extend) and answer.error is None:
                self.world.after(self.chance.around(200 * MILLISECOND), self._settle, generation, got)
            elif isinstance(command, Ack) and answer.error is None:  # else it is stale: somebody else has them, or had
                assert self.confirmed(Reply.ACKED, answer), answer
                self._acked(got, invoke_ns)

        return finished

    def _acked(self, got: list[_Got], invoke_ns: int) -> None:
        history = self.cluster.history_of(self.channel)
        for receipt, count, values in got:
            if history is None:
                self.cluster.sightings.acks += [
                    AckSeen(value, self.channel, sequence, receipt.assigning)
                    for sequence, value in enumerate(values, receipt.first)
                ]
            else:
                for sequence in range(receipt.first, receipt.last + 1):
                    history.acks.append(AckRecord(sequence, count, invoke_ns, self.world.now_ns))

    def crash(self) -> None:
        """The client ends without a word and starts again: what it held comes back when its session or its time is over."""
        self.give_up()
        self._receipts.clear()
        self.generation += 1
        for _ in range(_RECEIVES):
            self.world.after(self.chance.below(100 * MILLISECOND), self._receive, self.generation)

    def promised(self, answer: Answer) -> None:
        """A confirm leaves a node: in the committed log nobody holds the messages any more, and acked ones are over (I19)."""
        receipts = self._receipts.get(answer.number)
        if receipts is None or answer.error is not None:
            return
        messages = self.cluster.machines.messages
        for receipt in receipts:
            if messages.is_held(self.channel, self.session, receipt):
                self.cluster.raft.fail("I19", f"{answer} leaves, and {receipt} is held", answer.node)
            for sequence in range(receipt.first, receipt.last + 1):
                if answer.code is Reply.ACKED and not messages.is_over(self.channel, sequence):
                    self.cluster.raft.fail("I19", f"{answer} leaves, and {sequence} is not finished", answer.node)
