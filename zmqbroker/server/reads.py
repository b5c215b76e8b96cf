"""READs of events: answered at once, kept until there is something, or served in turn where they need old data.

Any node answers from its own committed state; nothing goes through the log and nothing is remembered of a reader but the READ
that waits. What several wait for at one place is read and encoded once. Entries that the log has in memory are read as they are
asked for; others are read in turns, one READ in a pass of the loop and a bounded piece of it, so that a reader of old data
slows producers down by no more than that, and for no more than half of the time.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from zmqbroker.broker import Machine
from zmqbroker.broker.reading import events_from
from zmqbroker.broker.store import EventsStore
from zmqbroker.commands import Piece
from zmqbroker.errors import Busy, ChannelNotFound, PositionGone, RequestError
from zmqbroker.server.bodies import Bodies
from zmqbroker.server.places import begin, check_kept
from zmqbroker.server.replies import PLAIN_COUNT_MAX, messages_reply
from zmqbroker.server.routes import Pending, Route
from zmqbroker.wire.frames import U64_MAX, Reply, encode_packed_header, pack
from zmqbroker.wire.requests import ReadRequest

if TYPE_CHECKING:
    from zmqbroker.server.group import Group

__all__ = ["Reads"]

#: READs that wait at one node, and for one connection: with more, tell who asks to come again.
WAITS_MAX, WAITS_PER_CONNECTION_MAX = 10_000, 512
#: Bytes of one answer, but for a first event that is larger: a fraction of a millisecond to copy.
ANSWER_BYTES_MAX = 1 << 20
#: Pieces of one answer: each costs a look into the state and a row.
PIECES_MAX = 512
#: Bytes of entries that a READ of old data has read in one turn, and entries: each is a read of the disk. So long as a turn
#: took there is none after it: whoever reads old data has half of the node's time at most.
TURN_BYTES_MAX, TURN_ENTRIES_MAX = 1 << 18, 32
#: Bytes of old entries that are kept for readers at about the same place: one large entry may be the answer to several READs.
OLD_BYTES_MAX = 16 << 20
#: Bytes of answers that are kept for others who want the same, until something is applied.
KEPT_BYTES_MAX = 8 << 20
#: Channels in which somebody waits that are looked at in one pass: some 50 µs; with more they take turns.
LOOKED_AT = 256
#: So often it is looked whose wait is over, in ns; waits end so much late.
LOOK_NS = 100_000_000
RETRY_MS = 50

#: Who waits: the node that passed the READ on (empty: none), the connection there, the request id.
_Who = tuple[bytes, bytes, int]
Send = Callable[[Route, Sequence[bytes]], None]
Refuse = Callable[[Pending, RequestError], None]
Clock = Callable[[], int]


class _Place(NamedTuple):
    """What READs want: those that want the same get the same answer."""

    channel: str
    first: int  # the sequence that is wanted, whether it is there or not
    count_max: int
    size_max: int
    incarnation: int  # of the store; 0: any
    plain: bool


@dataclass(slots=True, frozen=True)
class _Wait:
    """A READ that is not answered yet."""

    pending: Pending
    place: _Place
    until_ns: int

    @property
    def who(self) -> _Who:
        """Its name: a repeat of the request takes its place."""
        route = self.pending.route
        return route.origin, route.routing_id, self.pending.request_id


@dataclass(slots=True, frozen=True)
class _Packed:
    """An answer but for the request id."""

    fields: bytes
    frames: list[bytes]
    count: int  # of its events


class _Line:
    """Those who wait for events of one channel to come."""

    def __init__(self) -> None:
        self.waits: dict[_Who, _Wait] = {}
        self.lowest = U64_MAX  # no sequence that is waited for is below it

    def add(self, wait: _Wait) -> None:
        self.waits[wait.who] = wait
        self.lowest = min(self.lowest, wait.place.first)

    def take(self, end: int) -> list[_Wait]:
        """Those who wait for a sequence below `end`; they wait no more."""
        if self.lowest >= end:  # as a rule
            return []
        found = [wait for wait in self.waits.values() if wait.place.first < end]
        for wait in found:
            del self.waits[wait.who]
        self.lowest = min((wait.place.first for wait in self.waits.values()), default=U64_MAX)
        return found


class Reads:
    """All READs of one node."""

    def __init__(
        self, bodies: Bodies, counters: Counter[str], send: Send, refuse: Refuse, clock: Clock = time.monotonic_ns
    ) -> None:
        self._bodies, self._counters, self._send, self._refuse = bodies, counters, send, refuse
        self._clock = clock
        self._turn_ns = 0  # when the next turn may be
        self._lines: OrderedDict[str, _Line] = OrderedDict()  # by channel, the one looked at longest ago first
        self._turns: OrderedDict[_Who, _Wait] = OrderedDict()  # for old data, in the order of their turns
        self._connections: Counter[tuple[bytes, bytes]] = Counter()  # READs in both, by connection
        self._answers: dict[_Place, _Packed] = {}  # made of the state at `_stamp`, at most KEPT_BYTES_MAX and one more
        self._answers_bytes = 0
        self._stamp: tuple[int, int] = (0, 0)  # of the state that was looked at last: which machine, applied index
        self._unseen = 0  # the first so many lines are to be looked at since something was applied
        self._old: OrderedDict[tuple[int, int], bytes] = OrderedDict()  # payloads of old entries, at most OLD_BYTES_MAX
        self._old_bytes = 0
        self._look_ns = 0  # when it is looked next whose wait is over

    # --- in ----------------------------------------------------------------------------------------------------------

    def ask(self, group: Group, request: ReadRequest, pending: Pending, now_ns: int) -> None:
        """Answer a READ, or keep it. Raises what it is refused with: ChannelNotFound, PositionGone, Busy."""
        machine = group.machine
        store = machine.store(request.channel)
        if store is None and not machine.creates_on_use(request.channel):
            raise ChannelNotFound(f"no channel is called {request.channel!r}")
        self._note(machine)
        known = store if store is not None and request.incarnation in (0, store.incarnation) else None
        place = _Place(
            request.channel,
            begin(known, request, time.time_ns()),
            _count_max(request),
            min(request.size_max, ANSWER_BYTES_MAX),
            request.incarnation or (store.incarnation if store is not None else 0),
            request.plain,
        )
        wait = _Wait(pending, place, now_ns + request.wait_ms * 1_000_000)
        self._drop(wait)  # an earlier attempt of the same request
        if _store(machine, place) is not None:
            self._serve(group, wait)
        elif request.wait_ms:
            self._admit(wait)
            self._lines.setdefault(place.channel, _Line()).add(wait)
        else:
            self._put(wait, _nothing(machine, place))

    def _admit(self, wait: _Wait) -> None:
        """Count a READ that is not answered at once. Raises Busy."""
        connection = wait.who[:2]
        if self._connections.total() >= WAITS_MAX:
            raise Busy(f"{WAITS_MAX} READs wait at this node", retry_ms=RETRY_MS)
        if self._connections[connection] >= WAITS_PER_CONNECTION_MAX:
            raise Busy(f"{WAITS_PER_CONNECTION_MAX} READs of this connection wait", retry_ms=RETRY_MS)
        self._connections[connection] += 1

    def _release(self, wait: _Wait) -> None:
        connection = wait.who[:2]
        self._connections[connection] -= 1
        if not self._connections[connection]:
            del self._connections[connection]

    def _drop(self, wait: _Wait) -> None:
        """Forget the READ that has the same name, wherever it waits."""
        line = self._lines.get(wait.place.channel)
        if self._turns.pop(wait.who, None) or (line is not None and line.waits.pop(wait.who, None)):
            self._release(wait)

    def _note(self, machine: Machine) -> None:
        """What was made of another state is no answer any more, and what is waited for may be there."""
        stamp = id(machine), machine.applied_index
        if stamp != self._stamp:
            self._stamp, self._unseen = stamp, len(self._lines)
            self._forget_answers()

    # --- out ---------------------------------------------------------------------------------------------------------

    def serve(self, group: Group, now_ns: int) -> int | None:
        """Once in a pass: answer those whose events are there, or whose wait is over.

        In how many ns more is to be done; None when nothing is, until something is applied.
        """
        self._note(group.machine)
        if self._unseen:
            self._look(group)
        if now_ns >= self._look_ns:
            self._look_ns = now_ns + LOOK_NS
            self._end_waits(group.machine, now_ns)
        if self._turns and now_ns >= self._turn_ns:
            began_ns = self._clock()
            self._take_turn(group)
            now_ns = self._clock()
            self._turn_ns = 2 * now_ns - began_ns
        if self._unseen:
            return 0
        return max(self._turn_ns - now_ns, 0) if self._turns else None

    def _look(self, group: Group) -> None:
        """Answer those for whom something was applied."""
        count = min(self._unseen, LOOKED_AT)
        self._unseen -= count
        for channel in list(islice(self._lines, count)):
            store, line = group.machine.store(channel), self._lines[channel]
            found = line.take(store.next_sequence) if store is not None else []
            if line.waits:
                self._lines.move_to_end(channel)
            else:
                del self._lines[channel]
            for wait in found:
                self._release(wait)
                self._try(group, wait)

    def _try(self, group: Group, wait: _Wait) -> None:
        """Serve a READ that has waited."""
        try:
            if _store(group.machine, wait.place) is None:
                self._put(wait, _nothing(group.machine, wait.place))
            else:
                self._serve(group, wait)
        except RequestError as error:
            self._refuse(wait.pending, error)

    def _end_waits(self, machine: Machine, now_ns: int) -> None:
        for channel in list(self._lines):
            line = self._lines[channel]
            for wait in [wait for wait in line.waits.values() if now_ns >= wait.until_ns]:
                del line.waits[wait.who]
                self._release(wait)
                self._put(wait, _nothing(machine, wait.place))
            if not line.waits:
                del self._lines[channel]
        self._unseen = min(self._unseen, len(self._lines))

    def _serve(self, group: Group, wait: _Wait) -> None:
        """Answer a READ from memory, or let it wait for its turn. Raises Busy."""
        packed = self._answers.get(wait.place)
        if packed is None:
            packed = self._recent(group, wait.place)
        if packed is None:
            self._admit(wait)
            self._turns[wait.who] = wait
        else:
            self._put(wait, packed)

    def _recent(self, group: Group, place: _Place) -> _Packed | None:
        """The answer as far as it is in memory; None when it does not begin there."""
        pieces = self._pieces(group, place)
        is_young = partial(self._bodies.is_young, group.number)
        young = list(takewhile(lambda piece: is_young(piece.index), pieces))
        if pieces and not young:
            return None
        return self._pack(group.machine, place, young, partial(self._bodies.read, group.number))

    def _take_turn(self, group: Group) -> None:
        """Read a piece of old data for the READ whose turn it is, and for those that want the same."""
        _, wait = self._turns.popitem(last=False)
        place = wait.place
        same = [wait, *(other for other in self._turns.values() if other.place == place)]
        for other in same:
            self._turns.pop(other.who, None)
            self._release(other)
        try:
            there = _store(group.machine, place) is not None
        except RequestError as error:
            for other in same:
                self._refuse(other.pending, error)
            return
        packed = self._oldest(group, place) if there else _nothing(group.machine, place)
        for other in same:
            self._put(other, packed)

    def _oldest(self, group: Group, place: _Place) -> _Packed:
        """The answer as far as one turn reads."""
        payloads: dict[int, bytes] = {}
        taken: list[Piece] = []
        size = 0
        for piece in self._pieces(group, place):
            if piece.index not in payloads:
                if size >= TURN_BYTES_MAX or len(payloads) >= TURN_ENTRIES_MAX:
                    break
                payloads[piece.index] = self._payload(group.number, piece.index)
                size += len(payloads[piece.index])
            taken.append(piece)
        return self._pack(group.machine, place, taken, payloads.__getitem__)

    def _payload(self, group: int, index: int) -> bytes:
        """That of an old entry, which is kept for others who read about there."""
        key = group, index
        payload = self._old.get(key)
        if payload is not None:
            self._old.move_to_end(key)
            return payload
        payload = self._old[key] = self._bodies.read(group, index)
        self._old_bytes += len(payload)
        while self._old_bytes > OLD_BYTES_MAX:
            self._old_bytes -= len(self._old.popitem(last=False)[1])
        return payload

    @staticmethod
    def _pieces(group: Group, place: _Place) -> Sequence[Piece]:
        store = group.machine.store(place.channel)
        assert store is not None, place
        return events_from(store, place.first, place.count_max, place.size_max, PIECES_MAX)

    def _pack(self, machine: Machine, place: _Place, pieces: Sequence[Piece], read: Callable[[int], bytes]) -> _Packed:
        """The answer with these pieces, kept for others who want the same of this state."""
        store = machine.store(place.channel)
        assert store is not None, place
        fields, frames = messages_reply(pieces, read, plain=place.plain)
        following = pieces[-1].receipt.last + 1 if pieces else store.next_sequence  # else all that was there is gone
        count = sum(piece.receipt.last - piece.receipt.first + 1 for piece in pieces)
        packed = _Packed(_packed({**fields, "next": following, **_extent(store)}), frames, count)
        if self._answers_bytes >= KEPT_BYTES_MAX:
            self._forget_answers()
        self._answers[place] = packed
        self._answers_bytes += len(packed.fields) + sum(map(len, frames))
        return packed

    def _forget_answers(self) -> None:
        self._answers.clear()
        self._answers_bytes = 0

    def _put(self, wait: _Wait, packed: _Packed) -> None:
        self._counters["events_read"] += packed.count
        header = encode_packed_header(Reply.EVENTS_READ, wait.pending.request_id, packed.fields)
        self._send(wait.pending.route, [header, *packed.frames])

    def sessions(self) -> set[bytes]:
        """The sessions whose READs wait: their connections are in use."""
        waits = [wait for line in self._lines.values() for wait in line.waits.values()]
        return {wait.pending.session for wait in (*waits, *self._turns.values())}


def _store(machine: Machine, place: _Place) -> EventsStore | None:
    """The store that has what is wanted, or has had it; None while that is not there.

    Raises PositionGone when retention has taken it, or when the store was deleted and another one has its name.
    """
    store = machine.store(place.channel)
    if store is None or store.incarnation < place.incarnation:  # deleted, or this node does not know it yet
        return None
    if place.incarnation not in (0, store.incarnation):
        first = store.first_sequence
        text = f"{place.channel!r} was deleted and made anew; its first event has the sequence {first}"
        raise PositionGone(text, first=first)
    check_kept(store, place.first)
    return store if place.first < store.next_sequence else None


def _count_max(request: ReadRequest) -> int:
    """How many events are wanted at most."""
    if request.key:
        return 1
    return min(request.count_max, PLAIN_COUNT_MAX) if request.plain else request.count_max


def _nothing(machine: Machine, place: _Place) -> _Packed:
    """The answer while what is wanted is not there."""
    fields: dict[str, Any] = {"messages" if place.plain else "pieces": [], "next": place.first}
    return _Packed(_packed({**fields, **_extent(machine.store(place.channel))}), [], 0)


def _extent(store: EventsStore | None) -> dict[str, int]:
    """What an answer says of its store."""
    if store is None:
        return {"first": 1, "last": 0, "incarnation": 0}
    return {"first": store.first_sequence, "last": store.next_sequence - 1, "incarnation": store.incarnation}


def _packed(fields: dict[str, Any]) -> bytes:
    return pack(fields, "fields of EVENTS_READ")
