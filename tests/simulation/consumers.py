"""Consumers: they keep receives under way, ack most of what they get, and now and then crash and come back as somebody else.

Every delivery and every ack goes into the history of the channel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.fault.history import Ack as AckRecord
from tests.fault.history import Delivery, value_of
from tests.simulation.client import Client
from tests.simulation.desk import Answer
from tests.simulation.world import MILLISECOND
from zmqbroker.commands import Ack, Receipt, Receive, ReceiveKey
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


class Consumer(Client):
    """One consumer of one channel."""

    def __init__(self, cluster: Cluster, id: int, channel: str) -> None:
        super().__init__(cluster, id)
        self.channel = channel
        self.careful = False  # acks everything
        self.visibility_ms = self.chance.choice((200, 600, 1500))
        self.wait_ms = self.chance.choice((0, 50, 400))
        self._receipts: dict[int, tuple[Receipt, ...]] = {}  # of the acks under way, by request id
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
        pieces = answer.fields["pieces"]
        deliveries = self.cluster.histories[self.channel].deliveries
        receipts = []
        for (assigning, first, last, count, _), frame in zip(pieces, answer.frames, strict=True):
            receipts.append(Receipt(assigning, first, last))
            bodies = codec.decode_batch(frame).bodies
            for sequence, body in zip(range(first, last + 1), bodies, strict=True):
                producer, number = value_of(bytes(body))
                deliveries.append(Delivery(sequence, producer, number, count, self.world.now_ns))
        generation = self.generation
        if receipts and (self.careful or not self.chance.happens(_FORGOTTEN)):
            counts = tuple(piece[3] for piece in pieces)
            delay = self.chance.around(10 * MILLISECOND)
            self.world.after(delay, self._ack, generation, tuple(receipts), counts)
        pause = MILLISECOND if receipts else 20 * MILLISECOND
        self.world.after(pause, self._receive, generation)

    def _ack(self, generation: int, receipts: tuple[Receipt, ...], counts: tuple[int, ...]) -> None:
        if generation != self.generation:
            return
        number = self.next_number()
        self._receipts[number] = receipts
        command = Ack(self.session, self.channel, receipts)
        self.begin(command, self._acked(number, receipts, counts), number=number)

    def _acked(self, number: int, receipts: tuple[Receipt, ...], counts: tuple[int, ...]) -> Callable[[Answer], None]:
        invoke_ns = self.world.now_ns

        def finished(answer: Answer) -> None:
            self._receipts.pop(number, None)
            if not self.confirmed(Reply.ACKED, answer):
                return  # stale: somebody else has them, or had
            acks = self.cluster.histories[self.channel].acks
            for receipt, count in zip(receipts, counts, strict=True):
                for sequence in range(receipt.first, receipt.last + 1):
                    acks.append(AckRecord(sequence, count, invoke_ns, self.world.now_ns))

        return finished

    def crash(self) -> None:
        """The client ends without a word and starts again: what it held comes back when its session or its time is over."""
        self.give_up()
        self._receipts.clear()
        self.generation += 1
        for _ in range(_RECEIVES):
            self.world.after(self.chance.below(100 * MILLISECOND), self._receive, self.generation)

    def promised(self, answer: Answer) -> None:
        """An ack's confirm leaves a node: the messages must be finished in the committed log (I19)."""
        receipts = self._receipts.get(answer.number)
        if receipts is None or not self.confirmed(Reply.ACKED, answer):
            return
        finished = self.cluster.machines.channel(self.channel).finished
        for receipt in receipts:
            for sequence in range(receipt.first, receipt.last + 1):
                if sequence not in finished:
                    self.cluster.raft.fail("I19", f"{answer} leaves, and {sequence} is not finished", answer.node)
