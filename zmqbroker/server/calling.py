"""The callers' side of commands and queries at one node: whom a call asks, and what its caller is told.

Of a group one member in the cluster is asked, chosen in turn; where its node cannot be reached, another one's. Frames leave
through `call_post`. Source: PROTOCOL §3, CALL.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

from zmqbroker.commands import RealtimeKind, Want
from zmqbroker.errors import DeadlineExceeded, MalformedFrame, MessageTooLarge, RequestError
from zmqbroker.realtime import HERE, Audience, Found, Interest
from zmqbroker.realtime.asking import Call, Calls, Ended, Failure
from zmqbroker.realtime.cache import AnswerCache
from zmqbroker.server.call_post import CallPost, random_number
from zmqbroker.server.responding import Responding
from zmqbroker.wire.call_frames import (
    BUSY,
    FAILED,
    GIVEN,
    LAST,
    PeerAnswer,
    PeerCall,
    answer_frame,
    decode_target,
    encode_target,
    new_row,
)
from zmqbroker.wire.call_requests import TIMEOUT_MS_MAX, CallHead, call_head, table_head
from zmqbroker.wire.call_tables import ROW_SIZE_MAX, decode_call_table
from zmqbroker.wire.frames import REQUEST_HEADER_SIZE_MAX, encode_error, shown, unpack_map

__all__ = ["Calling"]

#: Answers to queries that a node keeps.
CACHE_COUNT_MAX, CACHE_BYTES_MAX = 10_000, 64 << 20
#: Bytes of a header before its fields.
_FIELDS_AT = 12
_MS = 1_000_000

#: Plans that are kept; all are dropped when one more comes.
PLANS_MAX = 1024

#: Who is asked: node uid (HERE for this one) -> packed target there.
Plan = dict[bytes, bytes]


class _Token(NamedTuple):
    """What is needed to answer a call."""

    way: list[bytes]  # routing id, and an empty delimiter if there was one
    head: CallHead
    table: bool  # whether its answer may come in a table


class Calling:
    """Calls of this node's clients."""

    def __init__(self, post: CallPost, interest: Interest, responding: Responding, count_max: int, body_size_max: int) -> None:
        self._post, self._interest, self._responding = post, interest, responding
        self._body_size_max = body_size_max
        self.calls = Calls(count_max, random_number())
        self.came = 0  # calls ever
        self.cache = AnswerCache(CACHE_COUNT_MAX, CACHE_BYTES_MAX)
        self._plans: dict[tuple[int, str], tuple[Found, Plan]] = {}  # good as long as `find` gives the very same

    # --- a call ----------------------------------------------------------------------------------------------------------

    def call(self, way: list[bytes], header: bytes, body: bytes, client_id: str, now_ns: int) -> None:
        """Serve a CALL. Raises RequestError."""
        if len(header) > REQUEST_HEADER_SIZE_MAX:
            raise MalformedFrame(f"a header frame of {len(header)} bytes is over its limit of {REQUEST_HEADER_SIZE_MAX}")
        head = call_head(header[_FIELDS_AT:], client_id)
        self._check_size(body)
        request_id = int.from_bytes(header[4:_FIELDS_AT], "little")
        if head.cache_key and (kept := self.cache.get(head.channel, head.cache_key, now_ns)) is not None:
            items, answer = kept
            self._post.to_client([*way, answer_frame(request_id, items, 1, last=True, cache_hit=True), answer])
            self._post.count("calls_answered_from_cache")
            return
        self._open(_Token(way, head, table=False), request_id, _deadline(head), self._plan(head), body, now_ns)

    def call_table(self, way: list[bytes], header: bytes, table: bytes, client_id: str, now_ns: int) -> None:
        """Serve a CALL_TABLE: each row as a CALL. Raises RequestError when nothing of it can be served."""
        if len(header) > REQUEST_HEADER_SIZE_MAX:
            raise MalformedFrame(f"a header frame of {len(header)} bytes is over its limit of {REQUEST_HEADER_SIZE_MAX}")
        head = table_head(header[_FIELDS_AT:], client_id)
        rows, shared, now_unix_ns = decode_call_table(table), _deadline(head), time.time_ns()
        token, own_times = _Token(way, head, table=True), not head.deadline_unix_ns
        plan = self._plan(head)
        rotates = (head.kind, head.channel) not in self._plans
        for place, (request_id, timeout_ms, body) in enumerate(rows):
            deadline = (timeout_ms, now_unix_ns + timeout_ms * _MS) if timeout_ms and own_times else shared
            if rotates and place:
                plan = self._plan(head)
            try:
                if len(body) > self._body_size_max:
                    self._check_size(body)
                self._open(token, request_id, deadline, plan, body, now_ns)
            except RequestError as error:
                self._post.count(f"refused_{error.code.lower()}")
                self._post.to_client([*way, encode_error(request_id, error)])

    def _check_size(self, body: bytes) -> None:
        if (size := len(body)) > self._body_size_max:
            limit = self._body_size_max
            raise MessageTooLarge(f"a message has {size} bytes, the limit is {limit}", size=size, limit=limit)

    def _open(self, token: _Token, request_id: int, deadline: tuple[int, int], plan: Plan, body: bytes, now_ns: int) -> None:
        """Ask for one call. Raises NoResponder or Busy."""
        remaining_ms, deadline_unix_ns = deadline
        try:
            call = self.calls.open(token.way[0], request_id, set(plan), now_ns + remaining_ms * _MS, token)
        except RequestError as error:
            raise _about(token.head, error) from None
        if call is None:
            self._post.count("calls_repeated")
            return
        self.came += 1
        for node, target in plan.items():
            asked = new_row(PeerCall, (call.number, deadline_unix_ns, remaining_ms, target, token.head.items, body))
            self._ask(node, asked, now_ns)

    def _plan(self, head: CallHead) -> Plan:
        found = self._interest.find(head.kind, head.channel)
        known = self._plans.get((head.kind, head.channel))
        if known is not None and known[0] is found:
            return known[1]
        groups: dict[bytes, tuple[str, ...]] = dict.fromkeys(found.nodes, ("",))
        if found.members:
            groups[HERE] = ("",)
        for audience in found.groups:
            for node, _ in audience.shares(1):
                groups[node] = (*groups.get(node, ()), audience.want.group)
        plan = {node: encode_target(head.kind, head.channel, there) for node, there in groups.items()}
        if not found.groups:  # else it is another one's turn with every call
            if len(self._plans) >= PLANS_MAX:
                self._plans.clear()
            self._plans[head.kind, head.channel] = found, plan
        return plan

    def _ask(self, node: bytes, call: PeerCall, now_ns: int) -> None:
        if node == HERE:
            self._responding.ask(HERE, call, now_ns)
        else:
            self._post.call(node, call)

    def unsent(self, node: bytes, calls: Iterable[PeerCall], now_ns: int) -> None:
        """A node could not be asked: other members of the groups are, where there are any."""
        for asked in calls:
            call = self.calls.get(asked.number)
            if call is None:
                continue
            kind, channel, groups = decode_target(asked.target)
            for group in groups:
                audience = self._interest.audience(Want(RealtimeKind(kind), channel, group)) if group else None
                self._ask_another(call, node, audience, asked, now_ns)
            self.failed(node, asked.number, Failure(given=False, busy=False))

    def _ask_another(self, call: Call, node: bytes, audience: Audience | None, asked: PeerCall, now_ns: int) -> None:
        shares = audience.shares(1, frozenset((*call.asked, *call.lost, node))) if audience is not None else []
        for other, _ in shares:
            assert audience is not None
            call.asked.add(other)
            target = encode_target(audience.want.kind, audience.want.pattern, (audience.want.group,))
            self._ask(other, asked._replace(target=target), now_ns)

    # --- its end ---------------------------------------------------------------------------------------------------------

    def answered(self, node: bytes, answer: PeerAnswer, now_ns: int) -> None:
        """A node answers, or says that it will not."""
        number, part, flags, items, body = answer
        if flags & FAILED:
            self.failed(node, number, Failure(bool(flags & GIVEN), bool(flags & BUSY)))
            return
        last = bool(flags & LAST)
        try:
            call, others, error = self.calls.answered(number, node, part, last=last)
        except KeyError:
            self._post.count("answers_late")
            return
        for other in others:
            self._tell_over(other, number)
        if error is not None:
            self._refuse(call, error)
            return
        token: _Token = call.token
        if token.table and last and part == 1 and len(items) + len(body) <= ROW_SIZE_MAX:
            self._post.answer_in_table(token.way, (call.request_id, items, body))
        else:
            self._post.to_client([*token.way, answer_frame(call.request_id, items, part, last=last), body])
        if token.head.cache_key and last and part == 1 and "error" not in unpack_map(items, "items of an answer"):
            kept = items, body
            until_ns = now_ns + token.head.cache_ttl_ms * _MS
            self.cache.put(token.head.channel, token.head.cache_key, kept, len(items) + len(body), until_ns)

    def failed(self, node: bytes, number: int, failure: Failure) -> None:
        """A node will not answer."""
        ended = self.calls.failed(number, node, failure)
        if ended is not None:
            self.end((ended,))

    def end(self, ended: Iterable[Ended | None]) -> None:
        """Calls are over without their last answer."""
        for each in ended:
            if each is None:
                continue
            for node in each.nodes:
                self._tell_over(node, each.call.number)
            if each.error is not None:
                self._refuse(each.call, each.error)

    def _tell_over(self, node: bytes, number: int) -> None:
        if node == HERE:
            self._responding.cancel(HERE, number)
        else:
            self._post.cancel(node, number)

    def _refuse(self, call: Call, error: RequestError) -> None:
        self._post.count(f"refused_{error.code.lower()}")
        self._post.to_client([*call.token.way, encode_error(call.request_id, _about(call.token.head, error))])


def _about(head: CallHead, error: RequestError) -> RequestError:
    """The same error, which says what was called: `Calls` does not know."""
    text = f"{head.kind.name.lower()} {shown(head.channel)}: {error.message}"
    return type(error)(text, outcome_unknown=error.outcome_unknown, **error.fields)


def _deadline(head: CallHead) -> tuple[int, int]:
    """Milliseconds that are left, and the instant at which none are. Raises DeadlineExceeded."""
    now_unix_ns = time.time_ns()
    if not head.deadline_unix_ns:
        return head.timeout_ms, now_unix_ns + head.timeout_ms * _MS
    remaining_ms = -((now_unix_ns - head.deadline_unix_ns) // _MS)
    if remaining_ms <= 0:
        raise DeadlineExceeded(f"field deadline_unix_ns is {head.deadline_unix_ns}, which has passed", outcome_unknown=False)
    return min(remaining_ms, TIMEOUT_MS_MAX), head.deadline_unix_ns
