"""Calls at their responders' node: who has which call, who waits for a responder with room, and who may answer.

    seat        one responder without a group, or all those of one group: a call for it is given to one of them
    credit      calls that a responder has at a time; over it they wait at its seat, and the seat's first call is given first

A call is for one or more seats here. The responder that answers first owns it; from the others it is taken back. What is to be
sent is left in three lists, which the shell takes after every step: `pushes`, `withdrawals` and `reports`. Time is the shell's,
in nanoseconds of a monotonic clock. PROTOCOL §3, CALLED.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, NamedTuple

from zmqbroker.realtime.asking import Failure
from zmqbroker.realtime.deadlines import Deadlines

__all__ = ["Asked", "Push", "Report", "Responder", "Responders", "Withdrawal"]

#: What the calls that wait for a responder with room may come to on a node: about as much as one client's unread replies.
WAITING_COUNT_MAX = 50_000
WAITING_BYTES_MAX = 64 << 20


class Responder:
    """One subscription to commands or queries."""

    __slots__ = ("active", "connection", "credit", "held", "seat", "subscription", "way")

    def __init__(self, connection: bytes, subscription: int, credit: int, seat: Seat, way: Any) -> None:
        self.active = True  # it takes calls
        self.connection = connection
        self.subscription = subscription
        self.credit = credit  # calls at a time
        self.held: set[int] = set()  # numbers of the calls that it has, at most `credit`
        self.seat = seat
        self.way = way  # what the shell needs to reach it


class Seat:
    """Who can be given a call that is for one of them, and the calls that wait for that."""

    __slots__ = ("channel", "group", "members", "turn", "waiting")

    def __init__(self, channel: Any, group: str) -> None:
        self.channel, self.group = channel, group
        self.members: list[Responder] = []
        self.turn = 0  # where to look first for a member with room
        self.waiting: OrderedDict[Asked, None] = OrderedDict()  # in the order of their coming

    def free(self) -> Responder | None:
        """The next member in turn that has room."""
        members = self.members
        if len(members) == 1:
            return members[0] if len(members[0].held) < members[0].credit else None
        for step in range(len(members)):
            place = (self.turn + step) % len(members)
            if len(members[place].held) < members[place].credit:
                self.turn = place + 1
                return members[place]
        return None


class Asked:
    """One call that a node asked here."""

    __slots__ = ("busy", "deadline_ns", "given", "holders", "number", "origin", "owner", "parts", "payload", "seats", "size")

    def __init__(self, origin: bytes, number: int, deadline_ns: int, payload: Any, size: int) -> None:
        self.origin = origin  # uid of the caller's node
        self.number = number  # there
        self.deadline_ns = deadline_ns
        self.payload = payload  # what the shell needs to push it; None once nobody needs to be given it any more
        self.size = size  # bytes, while it waits
        self.seats: list[Seat] = []  # where it waits for a member with room
        self.holders: dict[int, Responder] = {}  # who has it, by the number under which it was given
        self.owner = 0  # the number of the one that answered first; -1: the call is over
        self.parts = 0  # of the answer so far
        self.given = self.busy = False  # as in `Failure`

    def delivered(self) -> None:
        """A responder has it: its body is kept only as long as it waits for another one, too."""
        if not self.seats:
            self.payload = None


class Push(NamedTuple):
    """Give a responder a call, under a number of this node."""

    number: int
    responder: Responder
    asked: Asked


#: Makes one in half the time of its own constructor: there is one for each call.
_new_push = tuple.__new__


class Withdrawal(NamedTuple):
    """Tell a responder that the call which it has under that number is over."""

    responder: Responder
    number: int


class Report(NamedTuple):
    """Tell the caller's node that nobody here will answer (any more)."""

    origin: bytes
    number: int  # there
    failure: Failure


class Responders:
    """All responders of this node's clients, and what they were asked."""

    def __init__(self, newest: int = 0) -> None:
        self.pushes: list[Push] = []
        self.withdrawals: list[Withdrawal] = []
        self.reports: list[Report] = []
        self._alone: dict[Any, list[Seat]] = {}  # by channel: seats of responders without a group
        self._groups: dict[tuple[Any, str], Seat] = {}
        self._connections: dict[bytes, list[Responder]] = {}  # those that take calls or have some
        self._given: dict[int, tuple[Asked, Responder]] = {}  # by number
        self._origins: dict[bytes, dict[int, Asked]] = {}  # calls that are not over
        self._deadlines: Deadlines[Asked] = Deadlines()
        self._waiting_count = self._waiting_bytes = 0
        self.newest = newest  # the number under which a call was given last; what it begins with is chance, as in `Calls`

    def holding_since(self, number: int) -> list[Responder]:
        """One responder of each connection that has had a call since that number was the newest, or longer."""
        found: dict[bytes, Responder] = {}
        for each, (_, responder) in self._given.items():  # in the order of their numbers
            if each > number:
                break
            found[responder.connection] = responder
        return list(found.values())

    # --- responders --------------------------------------------------------------------------------------------------

    def join(self, channel: Any, group: str, connection: bytes, subscription: int, credit: int, way: Any = None) -> None:
        """A responder comes; `channel` is whatever `ask` calls it."""
        if group:
            seat = self._groups.get((channel, group))
            if seat is None:
                seat = self._groups[channel, group] = Seat(channel, group)
        else:
            seat = Seat(channel, group)
            self._alone.setdefault(channel, []).append(seat)
        responder = Responder(connection, subscription, credit, seat, way)
        seat.members.append(responder)
        self._connections.setdefault(connection, []).append(responder)
        self._serve(seat)

    def leave(self, connection: bytes, subscription: int) -> None:
        """A responder takes no more calls; those that it has it may still answer."""
        for responder in list(self._connections.get(connection, ())):
            if responder.subscription == subscription and responder.active:
                self._retire(responder)
                self._let_go(responder)

    def gone(self, connection: bytes, unreached: Iterable[int] = ()) -> None:
        """A connection is gone; the calls under the numbers `unreached` never came to it, so others may have them."""
        responders, back = self._connections.pop(connection, []), set(unreached)
        for responder in responders:
            if responder.active:
                self._retire(responder)
        for responder in responders:
            seat = responder.seat
            for number in sorted(responder.held):
                asked = self._given.pop(number)[0]
                del asked.holders[number]
                if number in back and seat.members:
                    self._seat(asked, seat)
                self._lose(asked, number, given=number not in back)

    def _retire(self, responder: Responder) -> None:
        """Take a responder from its seat, and a seat without members from its channel, with all that waits there."""
        seat = responder.seat
        responder.active = False
        seat.members.remove(responder)
        if seat.members:
            return
        if seat.group:
            del self._groups[seat.channel, seat.group]
        else:
            alone = self._alone[seat.channel]
            alone.remove(seat)
            if not alone:
                del self._alone[seat.channel]
        for asked in list(seat.waiting):
            self._end_wait(asked, seat)
            self._lose(asked, 0, given=False)

    def _let_go(self, responder: Responder) -> None:
        """Forget a responder that takes no more calls and has none."""
        if not responder.active and not responder.held:
            mine = self._connections[responder.connection]
            mine.remove(responder)
            if not mine:
                del self._connections[responder.connection]

    # --- calls -------------------------------------------------------------------------------------------------------

    def ask(
        self,
        origin: bytes,
        number: int,
        channel: Any,
        groups: Iterable[str],
        deadline_ns: int,
        payload: Any,
        size: int,
    ) -> None:
        """Give a call to one of each of these groups; the group "" stands for all responders without one, each by itself."""
        mine = self._origins.setdefault(origin, {})
        if number in mine:
            return  # a node never uses a number twice
        asked = mine[number] = Asked(origin, number, deadline_ns, payload, size)
        self._deadlines.add(asked, deadline_ns)
        for group in groups:
            if not group:
                for seat in self._alone.get(channel, ()):
                    self._seat(asked, seat)
            elif (channel, group) in self._groups:
                self._seat(asked, self._groups[channel, group])
        if not asked.holders and not asked.seats:
            self._fail(asked)

    def answered(self, connection: bytes, number: int, *, last: bool) -> Asked | None:
        """A responder answers, at least in part; None when it has no such call. `parts` then counts this part."""
        found = self._given.get(number)
        if found is None or found[1].connection != connection:
            return None
        asked = found[0]
        if not asked.owner:
            asked.owner = number
            if len(asked.holders) > 1 or asked.seats:
                self._withdraw(asked, but=number)
        asked.parts += 1
        if last:
            self._end(asked)
            self._release(asked, number)
        return asked

    def bounced(self, number: int) -> None:
        """A responder reads too little to be given this call: it never reached it."""
        asked, responder = self._given.pop(number)
        responder.held.remove(number)
        self._let_go(responder)
        del asked.holders[number]
        asked.busy = True
        self._lose(asked, number, given=False)

    def cancel(self, origin: bytes, number: int) -> None:
        """A call is over for its caller's node."""
        asked = self._origins.get(origin, {}).get(number)
        if asked is not None:
            self._give_up(asked)

    def node_gone(self, origin: bytes) -> None:
        """A node is gone: nobody waits for the answers to its calls."""
        for asked in list(self._origins.get(origin, {}).values()):
            self._give_up(asked)

    def expire(self, now_ns: int) -> None:
        """Take back the calls whose deadline has passed; their caller's node knows it itself."""
        for asked in self._deadlines.due(now_ns):
            self._give_up(asked)

    # --- seats -------------------------------------------------------------------------------------------------------

    def _seat(self, asked: Asked, seat: Seat) -> None:
        """Give a call to a member of a seat, now or when one has room."""
        responder = seat.free()
        if responder is not None:
            self._give(asked, responder)
        elif self._waiting_count >= WAITING_COUNT_MAX or self._waiting_bytes + asked.size > WAITING_BYTES_MAX:
            asked.busy = True
        else:
            asked.seats.append(seat)
            seat.waiting[asked] = None
            self._waiting_count += 1
            self._waiting_bytes += asked.size

    def _give(self, asked: Asked, responder: Responder) -> None:
        self.newest = number = self.newest + 1
        responder.held.add(number)
        asked.holders[number] = responder
        self._given[number] = asked, responder
        self.pushes.append(_new_push(Push, (number, responder, asked)))

    def _end_wait(self, asked: Asked, seat: Seat) -> None:
        asked.seats.remove(seat)
        del seat.waiting[asked]
        self._waiting_count -= 1
        self._waiting_bytes -= asked.size

    def _serve(self, seat: Seat) -> None:
        """Give what waits at a seat to members with room."""
        while seat.waiting and (responder := seat.free()) is not None:
            asked = next(iter(seat.waiting))
            self._end_wait(asked, seat)
            self._give(asked, responder)

    # --- ends --------------------------------------------------------------------------------------------------------

    def _release(self, asked: Asked, number: int) -> None:
        """A responder does not have a call any more: it has room for another one."""
        responder = asked.holders.pop(number)
        del self._given[number]
        responder.held.remove(number)
        if not responder.active:
            self._let_go(responder)
        elif responder.seat.waiting:
            self._serve(responder.seat)

    def _withdraw(self, asked: Asked, but: int = 0) -> None:
        """Take a call back from those that have it, and from where it waits."""
        for seat in list(asked.seats):
            self._end_wait(asked, seat)
        for number, responder in list(asked.holders.items()):
            if number != but:
                self.withdrawals.append(Withdrawal(responder, number))
                self._release(asked, number)

    def _end(self, asked: Asked) -> None:
        """A call is over."""
        self._deadlines.discard(asked, asked.deadline_ns)
        mine = self._origins[asked.origin]
        del mine[asked.number]
        if not mine:
            del self._origins[asked.origin]

    def _give_up(self, asked: Asked) -> None:
        asked.owner = -1
        self._end(asked)
        self._withdraw(asked)

    def _lose(self, asked: Asked, number: int, *, given: bool) -> None:
        """Somebody that could have answered is gone."""
        asked.given = asked.given or given
        if asked.owner in (0, number) and not asked.holders and not asked.seats:
            self._fail(asked)

    def _fail(self, asked: Asked) -> None:
        asked.owner = -1
        self._end(asked)
        self.reports.append(Report(asked.origin, asked.number, Failure(asked.given, asked.busy)))
