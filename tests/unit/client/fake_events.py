"""What a fake node does about subscriptions and events: one node, no credit, names without wildcards."""

from __future__ import annotations

from typing import Any

from zmqbroker.errors import Busy, RequestError
from zmqbroker.wire.codec import read_batch
from zmqbroker.wire.frames import Reply, encode_header
from zmqbroker.wire.requests import (
    GrantRequest,
    PublishRequest,
    RealtimeRequest,
    SubscribeRequest,
    UnsubscribeRequest,
)


class FakeEvents:
    """Subscriptions by connection, and what is to be pushed."""

    def __init__(self) -> None:
        self.subscriptions: dict[tuple[Any, int], SubscribeRequest] = {}
        self.grants: list[GrantRequest] = []
        self.full: list[RequestError] = []  # raised instead of the next SUBSCRIBEDs
        self._pushes: list[tuple[Any, list[bytes]]] = []

    def serve(self, request: RealtimeRequest, request_id: int, connection: Any) -> list[bytes] | None:
        """The answer, if there is one."""
        match request:
            case SubscribeRequest():
                if self.full:
                    raise self.full.pop(0)
                self.subscriptions[connection, request.subscription] = request
                return [encode_header(Reply.SUBSCRIBED, request_id, {"subscription": request.subscription})]
            case UnsubscribeRequest():
                self.subscriptions.pop((connection, request.subscription), None)
                return [encode_header(Reply.UNSUBSCRIBED, request_id, {"missed": 0})]
            case GrantRequest():
                self.grants.append(request)
                return None
            case PublishRequest():
                return self._publish(request, request_id)
        raise Busy(f"{request!r} is not for events")

    def _publish(self, request: PublishRequest, request_id: int) -> list[bytes] | None:
        batch = bytes(request.batch)
        name = read_batch(batch).channel
        found = [key for key, subscribed in self.subscriptions.items() if subscribed.pattern == name]
        for connection, number in found:
            fields = {"subscription": number, "missed": 0, "time_unix_ns": 7}
            self._pushes.append((connection, [encode_header(Reply.EVENTS, 0, fields), batch]))
        if not request.confirm:
            return None
        return [encode_header(Reply.PUBLISHED, request_id, {"nodes": 1, "subscribers": len(found)})]

    def pushed_now(self) -> list[tuple[Any, list[bytes]]]:
        """What is to be pushed since this was last asked."""
        pushes, self._pushes = self._pushes, []
        return pushes
