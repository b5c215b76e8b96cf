"""The responders' side of commands and queries at one node: calls in, from its clients and other nodes, and answers out.

Who is given which call is decided in `realtime.answering`; what that wants sent is made into frames here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from zmqbroker.errors import MessageTooLarge, UnknownCall
from zmqbroker.realtime import HERE, Subscription
from zmqbroker.realtime.answering import Push, Responder, Responders
from zmqbroker.server.call_post import CallPost, random_number
from zmqbroker.wire.call_frames import (
    BUSY,
    FAILED,
    GIVEN,
    LAST,
    NO_ITEMS,
    PeerAnswer,
    PeerCall,
    called_frame,
    cancelled_frame,
    decode_target,
    new_row,
)
from zmqbroker.wire.call_requests import read_respond, respond_items
from zmqbroker.wire.call_tables import ROW_SIZE_MAX, ROWS_MAX, called_table_header, decode_respond_table, encode_called_table
from zmqbroker.wire.frames import decode_header

__all__ = ["Responding"]

_MS = 1_000_000
#: The fields of a RESPOND that says nothing but `call`, as a u64, which need not be unpacked; where they begin and it stands.
_ONLY_CALL = b"\x81\xa4call\xcf"
_FIELDS_AT = 12
_NUMBER_AT = _FIELDS_AT + len(_ONLY_CALL)


class Way(NamedTuple):
    """How a responder is reached."""

    frames: list[bytes]  # routing id, and an empty delimiter if there was one
    tables: bool  # calls may come as tables


class Responding:
    """Calls to this node's clients. `answered` takes the answers to the calls of this node's own clients."""

    def __init__(self, post: CallPost, body_size_max: int) -> None:
        self._post, self._body_size_max = post, body_size_max
        self.responders = Responders(random_number())
        self.answers = 0  # ever, each part of one
        self.answered: Callable[[bytes, PeerAnswer, int], None]

    # --- responders ------------------------------------------------------------------------------------------------------

    def join(self, subscription: Subscription) -> None:
        """A client responds from now on, to as many calls at a time as it gave credit for."""
        kind, channel, group = subscription.want
        frames = [subscription.owner, b""] if subscription.delimiter else [subscription.owner]
        way = Way(frames, subscription.tables)
        self.responders.join((kind, channel), group, subscription.owner, subscription.number, subscription.granted_count, way)

    # --- calls -----------------------------------------------------------------------------------------------------------

    def ask(self, origin: bytes, call: PeerCall, now_ns: int) -> None:
        """A node, or this one, asks. Raises MalformedFrame."""
        self.ask_all(origin, (call,), now_ns)

    def ask_all(self, origin: bytes, calls: Iterable[PeerCall], now_ns: int) -> None:
        """A node asks much at once. Raises MalformedFrame; what came before the fault is asked."""
        ask, known = self.responders.ask, None
        for number, deadline_unix_ns, remaining_ms, target, items, body in calls:
            if target != known:  # most calls of one pass are for the same ones
                kind, channel, groups = decode_target(target)
                known, called = target, (kind, channel)
            size = len(items) + len(body)
            ask(origin, number, called, groups, now_ns + remaining_ms * _MS, (deadline_unix_ns, items, body), size)

    def respond(self, routing_id: bytes, header: bytes, body: bytes, now_ns: int) -> None:
        """Serve a RESPOND. Raises RequestError."""
        if header[_FIELDS_AT:_NUMBER_AT] == _ONLY_CALL and len(header) == _NUMBER_AT + 8:
            number, last, items = int.from_bytes(header[_NUMBER_AT:]), True, NO_ITEMS
        else:
            answer = read_respond(decode_header(header, from_client=True)[2], (body,))
            number, last, items = answer.call, answer.last, respond_items(answer)
        self._check_size(body)
        asked = self.responders.answered(routing_id, number, last=last)
        if asked is None:
            raise UnknownCall(f"field call is {number}, which this connection was not given, or which has ended")
        self.answers += 1
        self._answer(asked.origin, PeerAnswer(asked.number, asked.parts, LAST if last else 0, items, body), now_ns)

    def respond_table(self, routing_id: bytes, header: bytes, table: bytes, now_ns: int) -> None:
        """Serve a RESPOND_TABLE. Raises RequestError: of several calls that cannot be answered it names the first."""
        if len(header) > _FIELDS_AT:
            decode_header(header, from_client=True)  # there are none that count, but they must be fields
        rows, unknown = decode_respond_table(table), []
        self._check_size(max((body for _, body in rows), key=len))
        for number, body in rows:
            asked = self.responders.answered(routing_id, number, last=True)
            if asked is None:
                unknown.append(number)
                continue
            self.answers += 1
            self._answer(asked.origin, new_row(PeerAnswer, (asked.number, asked.parts, LAST, NO_ITEMS, body)), now_ns)
        if unknown:
            text = f"{len(unknown)} of {len(rows)} rows name calls that this connection was not given, or which have ended"
            raise UnknownCall(f"{text}: the first is {unknown[0]}")

    def _check_size(self, body: bytes) -> None:
        if (size := len(body)) > self._body_size_max:
            limit = self._body_size_max
            raise MessageTooLarge(f"a message has {size} bytes, the limit is {limit}", size=size, limit=limit)

    def cancel(self, origin: bytes, number: int) -> None:
        """A call is over for its caller's node."""
        self.responders.cancel(origin, number)

    def settle(self, now_ns: int) -> None:
        """Make frames of what is to be sent."""
        responders = self.responders
        if not (responders.pushes or responders.withdrawals or responders.reports):
            return
        tables: dict[Responder, list[Push]] = {}
        for push in responders.pushes:
            if push.responder.way.tables and push.asked.size <= ROW_SIZE_MAX:
                tables.setdefault(push.responder, []).append(push)
            else:
                self._push(push, now_ns)
        for responder, pushes in tables.items():
            for start in range(0, len(pushes), ROWS_MAX):
                self._push_table(responder, pushes[start : start + ROWS_MAX], now_ns)
        responders.pushes.clear()
        for withdrawal in responders.withdrawals:
            responder = withdrawal.responder
            self._post.to_client([*responder.way.frames, cancelled_frame(withdrawal.number, responder.subscription)])
        responders.withdrawals.clear()
        reports = list(responders.reports)
        responders.reports.clear()
        for origin, number, (given, busy) in reports:
            flags = FAILED | (GIVEN if given else 0) | (BUSY if busy else 0)
            self._answer(origin, PeerAnswer(number, 0, flags, NO_ITEMS, b""), now_ns)

    def _push(self, push: Push, now_ns: int) -> None:
        """Give a responder a call."""
        deadline_unix_ns, items, body = push.asked.payload
        remaining_ms = max(0, (push.asked.deadline_ns - now_ns) // _MS)
        header = called_frame(push.number, items, deadline_unix_ns, remaining_ms, push.responder.subscription)
        self._post.to_client([*push.responder.way.frames, header, body], (push,))

    def _push_table(self, responder: Responder, pushes: list[Push], now_ns: int) -> None:
        """Give a responder calls in one message; a single one as itself."""
        if len(pushes) == 1:
            self._push(pushes[0], now_ns)
            return
        rows = []
        for number, _, asked in pushes:
            deadline_unix_ns, items, body = asked.payload
            rows.append((number, deadline_unix_ns, max(0, (asked.deadline_ns - now_ns) // _MS), items, body))
        header = called_table_header(responder.subscription)
        self._post.to_client([*responder.way.frames, header, encode_called_table(rows)], pushes)

    def _answer(self, origin: bytes, answer: PeerAnswer, now_ns: int) -> None:
        if origin == HERE:
            self.answered(origin, answer, now_ns)
        else:
            self._post.answer(origin, answer)
