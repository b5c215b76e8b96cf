"""What all simulated clients share: operations that are tried again, at another node, until they are answered.

An operation keeps its request id through every attempt, as real clients do, so that a late answer to an early attempt is as
good as any. It ends with a reply, or when its client gives it up; an outcome is known when every attempt was refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.desk import Answer, ClientCommand, Request
from tests.simulation.world import MILLISECOND
from zmqbroker.errors import Busy, ChannelFull, NoMajority, NotLeader, OutOfSequence, RequestError, StaleReceipt
from zmqbroker.wire.frames import Reply

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

__all__ = ["Client", "Operation"]

_TIMEOUT_NS = 150 * MILLISECOND


class Operation:
    """One request and what became of it."""

    __slots__ = ("attempted_ns", "attempts", "done", "extra_ns", "finished", "invoke_ns", "refusals", "request")

    def __init__(self, request: Request, invoke_ns: int, finished: Callable[[Answer], object], extra_ns: int = 0) -> None:
        self.request = request
        self.invoke_ns = invoke_ns
        self.finished = finished  # called once, with the reply that ends it
        self.extra_ns = extra_ns  # that the cluster may take longer than usual, because it is to wait
        self.attempts = 0
        self.attempted_ns = invoke_ns  # when the latest of them began
        self.refusals = 0  # attempts that certainly had no effect
        self.done = False

    @property
    def refused(self) -> bool:
        """True when no attempt can have had an effect."""
        return self.attempts == self.refusals


class Client:
    """One client: it talks to one node at a time."""

    #: Errors that end an operation as a reply does.
    final: tuple[type[RequestError], ...] = (StaleReceipt,)

    def __init__(self, cluster: Cluster, id: int) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.chance = cluster.world.chance(200 + id)
        self.id = id
        self.target = 1
        self.generation = 0  # of the session: a client that crashed comes back with another
        self.operations: dict[int, Operation] = {}
        self._numbers = 0
        cluster.clients[id] = self
        self.another_target()

    @property
    def session(self) -> bytes:
        """The session's 16 bytes."""
        return self.id.to_bytes(8, "big") + self.generation.to_bytes(8, "big")

    def another_target(self) -> None:
        """Try another node, any that may be there."""
        self.target = self.chance.choice(self.cluster.reachable())

    def begin(
        self,
        command: ClientCommand | None,
        finished: Callable[[Answer], object],
        *,
        batches: tuple[bytes, ...] = (),
        number: int = 0,
        extra_ns: int = 0,
    ) -> Operation:
        """Start an operation and try it until it is answered."""
        number = number or self.next_number()
        request = Request(self.id, number, self.session, command, batches)
        operation = self.operations[number] = Operation(request, self.world.now_ns, finished, extra_ns)
        self._attempt(operation)
        return operation

    def next_number(self) -> int:
        """A request id that was never used by this client."""
        self._numbers += 1
        return self._numbers

    def give_up(self) -> list[Operation]:
        """Forget every operation under way; returns them, oldest first."""
        given_up = list(self.operations.values())
        self.operations.clear()
        for operation in given_up:
            operation.done = True
        return given_up

    def _attempt(self, operation: Operation) -> None:
        if operation.done:
            return
        operation.attempts += 1
        operation.attempted_ns = self.world.now_ns
        self.cluster.request(self.target, operation.request)
        timeout = _TIMEOUT_NS + operation.extra_ns + self.chance.below(_TIMEOUT_NS)
        self.world.after(timeout, self._timed_out, operation, operation.attempts)

    def _timed_out(self, operation: Operation, attempt: int) -> None:
        if not operation.done and operation.attempts == attempt:
            self.another_target()
            self._attempt(operation)

    def _again(self, operation: Operation, attempt: int) -> None:
        if operation.attempts == attempt:
            self._attempt(operation)

    # --- answers -------------------------------------------------------------------------------------------------------

    def promised(self, answer: Answer) -> None:
        """An answer leaves a node: what it says must be true of the log (I19). The client has not got it yet."""

    def answered(self, answer: Answer) -> None:
        """An answer is here."""
        operation = self.operations.get(answer.number)
        if operation is None:
            return
        if answer.error is not None and not isinstance(answer.error, self.final):
            self._refused(operation, answer.node, answer.error)
            return
        del self.operations[answer.number]
        operation.done = True
        operation.finished(answer)

    def _refused(self, operation: Operation, node: int, error: RequestError) -> None:
        self.cluster.counters[f"refused_{error.code.lower()}"] += 1
        operation.refusals += not error.outcome_unknown
        delay = 2 * MILLISECOND + self.chance.below(20 * MILLISECOND)
        match error:
            case NotLeader():
                hint = error.leader_hint
                if hint is None:
                    self.another_target()
                elif int(hint) != node:
                    self.target = int(hint)
                    delay = MILLISECOND
            case NoMajority():
                self.another_target()
                delay *= 5
            case Busy():
                delay += min(error.retry_ms, 50) * MILLISECOND
            case OutOfSequence():
                pass
            case ChannelFull():  # which the log has decided: whoever waits for progress has it
                self.cluster.last_confirmed_ns = max(operation.attempted_ns, self.cluster.last_confirmed_ns)
                delay += 10 * MILLISECOND
            case _:
                self.cluster.raft.fail("I16", f"client {self.id}: {operation.request} was refused: {error.code} {error}", node)
        self.world.after(delay, self._again, operation, operation.attempts)

    def confirmed(self, code: Reply, answer: Answer) -> bool:
        """Whether the answer is the reply `code`."""
        return answer.error is None and answer.code is code
