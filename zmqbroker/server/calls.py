"""Commands and queries at one node, for its clients that call and for those that respond.

    caller ─CALL──▶ its node ═CALL══▶ responder's node ─CALLED──▶ responder
           ◀ANSWER─          ◀ANSWER═                  ◀RESPOND─

Who is asked what, and how a call ends, is decided in `realtime`. What a pass brings leaves in the same pass, all that goes to
one node in one frame. CALL and RESPOND are taken here before the desk reads them as values: there are many, and each passes
two nodes. Source: docs/PROTOCOL.md §3, CALL, and §8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from zmqbroker.commands import RealtimeKind
from zmqbroker.errors import MalformedFrame, RequestError
from zmqbroker.realtime import Subscription
from zmqbroker.realtime.answering import Push
from zmqbroker.server.call_post import CallPost, is_gone
from zmqbroker.server.calling import Calling
from zmqbroker.server.responding import Responding
from zmqbroker.wire.call_frames import CANCELLED_NOTHING, decode_answers, decode_calls, decode_cancels
from zmqbroker.wire.call_requests import AnyCallRequest, CacheStatsRequest, CancelRequest
from zmqbroker.wire.frames import MAGIC, PROTOCOL_VERSION, Request, encode_error, request_id_of, shown
from zmqbroker.wire.peer import PeerKind

if TYPE_CHECKING:
    from zmqbroker.config import LimitsConfig
    from zmqbroker.server.realtime import Realtime
    from zmqbroker.server.routes import Pending
    from zmqbroker.server.sockets import ClientPort

__all__ = ["CALL_PEER_KINDS", "CallDesk", "is_call"]

#: Kinds of peer frames that are for this module.
CALL_PEER_KINDS = frozenset((PeerKind.CALL, PeerKind.ANSWER, PeerKind.CANCEL))
#: A connection that a call has waited for longer than this is looked at, whether it is still there, and so often.
PROBE_NS = 200_000_000

_MANY = (Request.CALL, Request.RESPOND, Request.CALL_TABLE, Request.RESPOND_TABLE)
_STARTS = frozenset(MAGIC + bytes((PROTOCOL_VERSION, request)) for request in _MANY)
#: Shorter headers, which are none, have no fields to read either.
_HEADER_SIZE = 12


def is_call(header: bytes) -> bool:
    """Whether this is the header of a call or of an answer, one or a table, or would like to be."""
    return header[:4] in _STARTS and len(header) >= _HEADER_SIZE


class CallDesk:
    """Both ends of calls, for the clients of one node."""

    def __init__(self, realtime: Realtime, port: ClientPort, limits: LimitsConfig) -> None:
        self._realtime = realtime
        self._post = CallPost(realtime, port)
        self._responding = Responding(self._post, limits.message_bytes_max)
        self._calling = Calling(self._post, realtime.interest, self._responding, limits.requests_max, limits.message_bytes_max)
        self._responding.answered = self._calling.answered
        self._now_ns = 0  # of the latest input, by the monotonic clock
        self._probed_ns = 0
        self._runs: dict[bytes, bytes] = {}  # by node uid; one item per member ever heard
        self._seen = (0, 0)  # the newest call and the newest push when connections were last looked at

    # --- from clients ----------------------------------------------------------------------------------------------------

    def take(self, message: list[bytes], client_id: str, now_ns: int) -> bool:
        """Serve a CALL, a RESPOND or a table of them, [routing id, frames …]; False when it has not the frames that it must."""
        if len(message) > 3 and (len(message) > 4 or message[1]):
            return False  # more body frames than there may be
        header, body = message[-2:]
        self._now_ns = now_ns
        way = message[:-2]
        try:
            match header[3]:
                case Request.CALL:
                    self._calling.call(way, header, body, client_id, now_ns)
                case Request.RESPOND:
                    self._responding.respond(way[0], header, body, now_ns)
                case Request.CALL_TABLE:
                    self._calling.call_table(way, header, body, client_id, now_ns)
                case _:
                    self._responding.respond_table(way[0], header, body, now_ns)
        except RequestError as error:
            self._post.count(f"refused_{error.code.lower()}")
            self._post.to_client([*way, encode_error(request_id_of(header), error)])
        return True

    def serve(self, request: AnyCallRequest, pending: Pending) -> dict[str, Any] | None:
        """Serve another request: what CACHE tells, or None where nobody waits for an answer."""
        if isinstance(request, CacheStatsRequest):
            return self._calling.cache.stats(request.channel or None)._asdict()
        assert isinstance(request, CancelRequest), f"{request!r} is taken before"
        self._calling.end((self._calling.calls.cancel(pending.route.routing_id, request.call),))
        return None

    def join(self, subscription: Subscription) -> None:
        """A client has subscribed: to commands or queries it responds from now on."""
        if subscription.want.kind != RealtimeKind.EVENTS:
            self._responding.join(subscription)

    def leave(self, subscription: Subscription) -> None:
        """A subscription has ended: a responder gets no more calls, and may answer those that it has."""
        self._responding.responders.leave(subscription.owner, subscription.number)

    def gone(self, routing_id: bytes, unreached: Iterable[int] = ()) -> None:
        """A connection is no more; the calls under the numbers `unreached` have not come to it."""
        self._responding.responders.gone(routing_id, unreached)
        self._calling.end(self._calling.calls.caller_gone(routing_id))

    def fields(self) -> dict[str, int]:
        """What NODE tells of calls."""
        hits, misses, kept, size_bytes = self._calling.cache.stats()
        cache = {"cache_hits": hits, "cache_misses": misses, "cache_answers": kept, "cache_bytes": size_bytes}
        came, answers = self._calling.came, self._responding.answers
        return {"calls_in": came, "answers_out": answers, "under_way": len(self._calling.calls), **cache}

    # --- from other nodes ------------------------------------------------------------------------------------------------

    def on_peer(self, kind: PeerKind, node: bytes, fields: dict[str, Any], frames: Sequence[bytes], now_ns: int) -> None:
        """Take what a member sent. Raises MalformedFrame."""
        self._now_ns = now_ns
        table = fields.get("table")
        if not isinstance(table, bytes):
            raise MalformedFrame(f"the table of a frame between nodes is {shown(table)}")
        if kind == PeerKind.CALL:
            self._responding.ask_all(node, decode_calls(table, frames), now_ns)
        elif kind == PeerKind.ANSWER:
            answered = self._calling.answered
            for answer in decode_answers(table, frames):
                answered(node, answer, now_ns)
        else:
            for number in decode_cancels(table):
                self._responding.cancel(node, number)

    def hear_run(self, node: bytes, run: bytes) -> None:
        """A member tells which run of its process it is: with another one it has forgotten what it was asked."""
        if self._runs.setdefault(node, run) != run:
            self._runs[node] = run
            self.node_gone(node)

    def node_gone(self, node: bytes) -> None:
        """A member is gone: nobody answers from there, and nobody waits there."""
        self._post.forget(node)
        self._responding.responders.node_gone(node)
        self._calling.end(self._calling.calls.node_gone(node))

    # --- out -------------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send all that follows from what came."""
        now_ns = self._now_ns
        while True:
            self._responding.settle(now_ns)
            if refused := self._post.send_to_clients():
                self._drop(refused)
            if unsent := self._post.send_calls():
                for node, calls in unsent:
                    self._calling.unsent(node, calls, now_ns)
            if not refused and not unsent:
                break
        self._post.send_to_nodes()

    def tick(self, now_ns: int) -> None:
        """End what is due, look after those who wait; call with every tick of the node."""
        self._now_ns = now_ns
        self._calling.end(self._calling.calls.expire(now_ns))
        self._responding.responders.expire(now_ns)
        if now_ns - self._probed_ns >= PROBE_NS:
            self._probe()
            self._probed_ns = now_ns
        self._post.try_again()
        self.flush()

    def _drop(self, refused: Sequence[tuple[bytes, int, Sequence[Push]]]) -> None:
        """Clients that were refused a message are gone, or read too little."""
        unreached: dict[bytes, list[int]] = {}
        for routing_id, fault, pushes in refused:
            if is_gone(fault):
                unreached.setdefault(routing_id, []).extend(push.number for push in pushes)
            elif pushes:
                for push in pushes:
                    self._responding.responders.bounced(push.number)
            else:
                self._calling.end(self._calling.calls.caller_gone(routing_id))
        for routing_id, numbers in unreached.items():
            self._realtime.gone(routing_id, numbers)

    def _probe(self) -> None:
        """Send those who have waited, or let others wait, for long what says nothing: whoever is gone is refused it.

        Not those with an empty delimiter: a REQ socket would take it for its answer.
        """
        calls, responders = self._calling.calls, self._responding.responders
        ways = [call.token.way for call in calls.waiting_since(self._seen[0])]
        ways += [responder.way.frames for responder in responders.holding_since(self._seen[1])]
        for routing_id in {way[0] for way in ways if len(way) == 1}:
            self._post.to_client([routing_id, CANCELLED_NOTHING])
        self._seen = calls.newest, responders.newest
