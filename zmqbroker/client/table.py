"""The plain requests under way: which wait to be sent, which wait for an answer, which are due.

    add ──▶ backlog ──▶ open (sent, no answer yet) ──▶ ended
               ▲            │
               └────────────┘  lost, moved to another node, overdue, or refused and resumed after a pause

Plain means: not part of a pipeline, so that any order will do. It decides when a request is to be sent again and never with
what or where. Invariant: a request in the table is in the backlog, open, or resumes at an instant that `review_ns` covers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zmqbroker.client.exchange import Exchange
from zmqbroker.client.pipeline import FOREVER_NS, PATIENCE_NS
from zmqbroker.commands import DeleteChannel, DeleteRoute, DeleteSchedule
from zmqbroker.errors import ChannelNotFound, RequestError, RouteNotFound, ScheduleNotFound, StaleReceipt
from zmqbroker.wire.requests import (
    AnyRequest,
    AuditRequest,
    HandOverRequest,
    Info,
    ListBindings,
    ListChannels,
    ListDefaults,
    ListRoutes,
    ListSchedules,
    ManageRequest,
    PeekRequest,
    ReadRequest,
    ReceiveRequest,
    RoutedSend,
    SettleRequest,
    StatsRequest,
    reply_of,
)

__all__ = ["PlainRequest", "RequestTable"]

_MS = 1_000_000
#: Looking through all requests is bounded to once in this time.
_REVIEW_NS = 5 * _MS
#: What any node answers from memory is asked of another one sooner.
_PATIENCE_ANYWHERE_NS = 1_000 * _MS


#: What any node may answer.
_ANYWHERE = (
    Info | StatsRequest | PeekRequest | ListChannels | ListSchedules | ListDefaults | ListRoutes | ListBindings | ReadRequest
)


class PlainRequest:
    """One request."""

    __slots__ = (
        *("anywhere", "deadline_ns", "exchange", "moves", "patience_ns", "reply", "resume_ns", "spent", "token", "waits"),
    )

    def __init__(self, exchange: Exchange, request: AnyRequest, token: Any, deadline_ns: int) -> None:
        self.exchange = exchange
        self.reply = reply_of(request)  # the reply code that fits
        self.token = token
        self.deadline_ns = deadline_ns
        self.resume_ns = FOREVER_NS  # when it goes back to the backlog after a refusal
        wait_ms = request.wait_ms if isinstance(request, ReceiveRequest | ReadRequest) else 0
        self.waits = wait_ms > 0  # whether the node may take its time with the answer
        kept = isinstance(request, AuditRequest) and request.index > 0
        # Whether any node may answer.
        self.anywhere = isinstance(request, _ANYWHERE) or kept
        self.spent = _spent(request)  # the refusal of a request that an earlier attempt has already done
        self.moves = not self.anywhere or self.waits  # whether it goes where requests go, though it is open elsewhere
        self.patience_ns = (_PATIENCE_ANYWHERE_NS if self.anywhere else PATIENCE_NS) + wait_ms * _MS

    @property
    def due_ns(self) -> int:
        """When something has to be done about it."""
        return min(self.deadline_ns, self.exchange.sent_ns + self.patience_ns if self.exchange.open else self.resume_ns)


def _spent(request: AnyRequest) -> type[RequestError] | None:
    """What was given back is not held any more, and what was deleted is not there: the node cannot tell why."""
    if isinstance(request, SettleRequest):
        return StaleReceipt
    if isinstance(request, HandOverRequest | RoutedSend):  # nothing that is refused now tells what the first attempt has done
        return RequestError
    command = request.command if isinstance(request, ManageRequest) else None
    if isinstance(command, DeleteSchedule):
        return ScheduleNotFound
    if isinstance(command, DeleteRoute):
        return RouteNotFound
    return ChannelNotFound if isinstance(command, DeleteChannel) else None


class RequestTable:
    """All plain requests of a client, by request id."""

    def __init__(self) -> None:
        self.review_ns = FOREVER_NS  # no later than the earliest due_ns
        self.open_count = 0  # requests that wait for an answer
        self.waiting_count = 0  # those of them that are receives with a wait
        self._requests: dict[int, PlainRequest] = {}
        self._backlog: dict[int, None] = {}  # request ids, in order

    def __len__(self) -> int:
        return len(self._requests)

    def get(self, request_id: int) -> PlainRequest | None:
        """The request with that id, None when it has ended or never was."""
        return self._requests.get(request_id)

    def find(self, token: Any) -> PlainRequest | None:
        """The request with that token, None when it has ended or never was."""
        return next((request for request in self._requests.values() if request.token is token), None)

    @property
    def backlog_count(self) -> int:
        """Requests to be sent as soon as that is possible."""
        return len(self._backlog)

    def add(self, request: PlainRequest) -> None:
        """Take in a new request."""
        self._requests[request.exchange.request_id] = request
        self._backlog[request.exchange.request_id] = None
        self.review_ns = min(self.review_ns, request.deadline_ns)

    def remove(self, request: PlainRequest) -> None:
        """A request has ended."""
        del self._requests[request.exchange.request_id]
        self._backlog.pop(request.exchange.request_id, None)
        if request.exchange.open:
            self._count(request, -1)

    def send(self, target: str, now_ns: int, slots: int) -> list[Exchange]:
        """The first requests of the backlog, at most `slots`, which now go to `target`."""
        chosen = [self._requests[request_id] for request_id, _ in zip(self._backlog, range(slots), strict=False)]
        for request in chosen:
            del self._backlog[request.exchange.request_id]
            request.exchange.sent(target, now_ns)
            self._count(request, 1)
            self.review_ns = min(self.review_ns, request.due_ns)
        return [request.exchange for request in chosen]

    def refused(self, request: PlainRequest, resume_ns: int, now_ns: int) -> None:
        """The latest attempt of a request was refused; it resumes then."""
        self._count(request, -1)
        if resume_ns <= now_ns:
            self._backlog[request.exchange.request_id] = None
        else:
            request.resume_ns = resume_ns
            self.review_ns = min(self.review_ns, resume_ns)

    def lost(self, endpoint: str) -> None:
        """The connection to an endpoint is gone: what is open there goes back to the backlog."""
        for request in self._open():
            if request.exchange.endpoint == endpoint:
                self._give_up(request)

    def redirect(self, target: str) -> None:
        """Requests go to `target` now: what is open elsewhere, and only a leader answers, or waits, goes to the backlog."""
        for request in self._open():
            if request.moves and request.exchange.endpoint != target:
                self._give_up(request)

    def review(self, now_ns: int) -> list[PlainRequest]:
        """Put back what is due to be sent again; the requests that are past their deadline."""
        late: list[PlainRequest] = []
        for request in self._requests.values():
            if now_ns >= request.deadline_ns:
                late.append(request)
            elif now_ns >= request.due_ns:
                self._give_up(request)
        for request in late:
            self.remove(request)
        earliest = min((request.due_ns for request in self._requests.values()), default=FOREVER_NS)
        self.review_ns = max(earliest, now_ns + _REVIEW_NS)
        return late

    def clear(self) -> list[PlainRequest]:
        """End everything; the requests that were in the table."""
        requests = list(self._requests.values())
        for request in requests:
            self.remove(request)
        return requests

    def _open(self) -> Iterator[PlainRequest]:
        return (request for request in self._requests.values() if request.exchange.open)

    def _give_up(self, request: PlainRequest) -> None:
        """The latest attempt, if it is open, is not waited for any more."""
        if request.exchange.open:
            request.exchange.lost()
            self._count(request, -1)
        request.resume_ns = FOREVER_NS
        self._backlog[request.exchange.request_id] = None

    def _count(self, request: PlainRequest, change: int) -> None:
        self.open_count += change
        self.waiting_count += change * request.waits
