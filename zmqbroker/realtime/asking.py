"""Calls at their caller's node: whom each one asked, who may still answer, and how it ends.

A call asks one or more nodes, and the node that answers first owns it; the others are to be told that it is over. It ends once:
by its last answer, by an error, or because its caller gives it up. Nodes are uids, callers the routing ids of connections;
nothing is sent from here, and time is the shell's, in nanoseconds of a monotonic clock. PROTOCOL §3, CALL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from zmqbroker.errors import Busy, DeadlineExceeded, NoResponder, RequestError
from zmqbroker.realtime.deadlines import Deadlines

__all__ = ["CALLS_PER_CALLER_MAX", "Call", "Calls", "Ended", "Failure"]

#: Calls of one connection at a time: their answers must fit its pipe (PROTOCOL §2).
CALLS_PER_CALLER_MAX = 1000
#: What a caller that was refused may wait before it tries again.
_RETRY_MS = 10


class Failure(NamedTuple):
    """Why a node that was asked will not answer (any more)."""

    given: bool  # a responder had the call, so that it may have been executed
    busy: bool  # there are responders, and no room to wait for one


class Call:
    """One call under way."""

    __slots__ = ("asked", "busy", "caller", "deadline_ns", "given", "lost", "number", "owner", "parts", "request_id", "token")

    def __init__(self, number: int, caller: bytes, request_id: int, nodes: set[bytes], deadline_ns: int, token: Any) -> None:
        self.number = number  # this node's, never used again
        self.caller = caller
        self.request_id = request_id  # the caller's
        self.asked = nodes  # who may still answer
        self.lost: frozenset[bytes] = frozenset()  # who cannot answer any more
        self.owner: bytes | None = None  # who answered first; only its parts count from then on
        self.parts = 0  # of the answer so far
        self.given = False  # whether a responder had it that cannot answer any more
        self.busy = False  # whether somebody had no room for it
        self.deadline_ns = deadline_ns
        self.token = token  # what the shell needs to answer


class Ended(NamedTuple):
    """A call that is over without its last answer: what its caller is told, if anything, and whom to tell that it is over."""

    call: Call
    error: RequestError | None
    nodes: Sequence[bytes]


class Calls:
    """All calls that came to this node from its clients."""

    def __init__(self, count_max: int, newest: int = 0) -> None:
        self._count_max = count_max
        self._calls: dict[int, Call] = {}
        self._callers: dict[bytes, dict[int, Call]] = {}  # by their own request ids; no caller without a call
        self._deadlines: Deadlines[Call] = Deadlines()
        self.newest = newest  # the number of the newest call; what it begins with is chance, so that no two runs share one

    def __len__(self) -> int:
        return len(self._calls)

    def get(self, number: int) -> Call | None:
        """A call that is not over."""
        return self._calls.get(number)

    def waiting_since(self, number: int) -> list[Call]:
        """One call of each caller that has waited since the call of that number was the newest, or longer."""
        found: dict[bytes, Call] = {}
        for call in self._calls.values():  # in the order of their numbers
            if call.number > number:
                break
            found[call.caller] = call
        return list(found.values())

    def open(self, caller: bytes, request_id: int, nodes: set[bytes], deadline_ns: int, token: Any) -> Call | None:
        """A new call that asks `nodes`; None when it is under way already. Raises NoResponder or Busy."""
        mine = self._callers.get(caller)
        if mine is None:
            mine = self._callers[caller] = {}
        elif request_id in mine:
            return None
        if not nodes or len(self._calls) >= self._count_max or len(mine) >= CALLS_PER_CALLER_MAX:
            self._leave(caller, mine)
            raise self._refusal(nodes, len(mine))
        self.newest = number = self.newest + 1
        self._calls[number] = mine[request_id] = call = Call(number, caller, request_id, nodes, deadline_ns, token)
        self._deadlines.add(call, deadline_ns)
        return call

    def _refusal(self, nodes: set[bytes], mine: int) -> RequestError:
        if not nodes:
            return NoResponder("nobody answers on that channel now")
        text = f"{mine} calls of this connection and {len(self._calls)} of the node are under way"
        return Busy(f"{text}, allowed are {CALLS_PER_CALLER_MAX} and {self._count_max}", retry_ms=_RETRY_MS)

    def answered(self, number: int, node: bytes, part: int, *, last: bool) -> tuple[Call, Sequence[bytes], RequestError | None]:
        """A part of an answer, from 1 on: its call, the other nodes if it is the first part, an error if one before is lost.

        Raises KeyError when nobody waits for it from that node.
        """
        call = self._calls[number]
        others: Sequence[bytes] = ()
        if call.owner is None and node in call.asked:
            call.owner = node
            if len(call.asked) > 1:
                others = sorted(call.asked - {node})
                call.asked = {node}
        elif call.owner != node:
            raise KeyError(number)
        call.parts += 1
        if part != call.parts:
            self._end(call)
            text = f"part {call.parts} of the answer was lost on its way: what comes behind it is not told"
            return call, (*others, node), DeadlineExceeded(text)
        if last:
            self._end(call)
        return call, others, None

    def failed(self, number: int, node: bytes, failure: Failure) -> Ended | None:
        """A node will not answer; the call's end, if nobody is left who could."""
        call = self._calls.get(number)
        if call is None or node not in call.asked:
            return None
        call.asked.discard(node)
        call.lost |= {node}
        call.given = call.given or failure.given
        call.busy = call.busy or failure.busy
        if call.asked:
            return None
        self._end(call)
        return Ended(call, _fate(call), ())

    def node_gone(self, node: bytes) -> list[Ended]:
        """A node is gone, with all that it was asked."""
        lost = [call.number for call in self._calls.values() if node in call.asked]
        ended = [self.failed(number, node, Failure(given=True, busy=False)) for number in lost]
        return [each for each in ended if each is not None]

    def cancel(self, caller: bytes, request_id: int) -> Ended | None:
        """A caller gives up a call; None when there is none."""
        call = self._callers.get(caller, {}).get(request_id)
        return None if call is None else self._give_up(call, None)

    def caller_gone(self, caller: bytes) -> list[Ended]:
        """A caller's connection is gone."""
        return [self._give_up(call, None) for call in list(self._callers.get(caller, {}).values())]

    def expire(self, now_ns: int) -> list[Ended]:
        """End the calls whose deadline has passed."""
        due = self._deadlines.due(now_ns)
        return [self._give_up(call, DeadlineExceeded("no responder has answered before the deadline")) for call in due]

    def _give_up(self, call: Call, error: RequestError | None) -> Ended:
        self._end(call)
        return Ended(call, error, sorted(call.asked))

    def _end(self, call: Call) -> None:
        del self._calls[call.number]
        self._deadlines.discard(call, call.deadline_ns)
        mine = self._callers[call.caller]
        del mine[call.request_id]
        if not mine:
            del self._callers[call.caller]

    def _leave(self, caller: bytes, mine: dict[int, Call]) -> None:
        if not mine:
            del self._callers[caller]


def _fate(call: Call) -> RequestError:
    """What the caller is told when nobody is left who could answer."""
    if call.owner is not None:
        return NoResponder("the responder has gone in the middle of its answer", outcome_unknown=True)
    if call.given:
        return NoResponder("all responders that had the call have gone before they answered", outcome_unknown=True)
    if call.busy:
        return Busy("all responders are at work, and as many calls wait for them as may", retry_ms=_RETRY_MS)
    return NoResponder("nobody answers on that channel now")
