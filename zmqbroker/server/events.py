"""Events at one node: from a publisher to every node that wants them, and from there to the subscriptions.

A batch is checked once, where it is published, and never taken apart: the same frame goes once to every node where somebody
wants it and to every subscription there. It is cut only where the members of a group share it, or where credit ends. At most
once: nothing is kept for who is away, has no credit or no room. Source: docs/PROTOCOL.md §3, PUBLISH.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zmqbroker.commands import BatchHeader, RealtimeKind, Want
from zmqbroker.errors import MalformedFrame
from zmqbroker.realtime import HERE, Audience, Share, Subscription
from zmqbroker.server.admission import check_events
from zmqbroker.server.event_frames import missed_frames, push_frames
from zmqbroker.server.event_losses import EventLosses
from zmqbroker.wire import codec
from zmqbroker.wire.frames import U64_MAX, flag, integer, shown
from zmqbroker.wire.peer import PeerKind

if TYPE_CHECKING:
    from zmqbroker.server.realtime import Realtime

__all__ = ["Events"]

#: A group, and which messages of a batch are for it.
Given = tuple[Audience, Share]


@dataclass(slots=True, frozen=True)
class _Batch:
    """A batch under way."""

    frame: bytes
    name: str
    count: int
    time_unix_ns: int  # when it was published, by the clock of the node where it was

    def part(self, share: Share) -> bytes:
        """The batch frame of some of its messages."""
        low, high = share
        return self.frame if high - low == self.count else codec.slice_batch(self.frame, 0, len(self.frame), low, high)


class Events:
    """Fan-out of events, at their publisher's node and at every other."""

    def __init__(self, realtime: Realtime, body_size_max: int) -> None:
        self._realtime, self._body_size_max = realtime, body_size_max
        self._losses = EventLosses()

    # --- from a publisher ------------------------------------------------------------------------------------------------

    def publish(self, frame: bytes) -> tuple[int, int]:
        """Hand a batch of a client to everybody; to how many nodes it went, and how many are known to get it.

        Raises what `codec.read_batch` raises, InvalidChannel, InvalidRequest, or Unsupported.
        """
        header = codec.read_batch(frame, body_size_max=self._body_size_max)
        check_events(header)
        return self.hand_out(frame, header)

    def hand_out(self, frame: bytes, header: BatchHeader) -> tuple[int, int]:
        """Hand a batch with which nothing is wrong to everybody, as `publish` does."""
        batch = _Batch(frame, header.channel, header.count, time.time_ns())
        self._realtime.count("events_in", batch.count)
        self._realtime.feed(frame, header)
        found = self._realtime.interest.find(RealtimeKind.EVENTS, batch.name)
        self._deliver(batch, found.members)
        reached = {HERE} if found.members else set()
        everyone: Iterable[bytes] = found.nodes
        waiting: list[Given] = [(audience, (0, batch.count)) for audience in found.groups]
        lost: set[bytes] = set()  # nodes that could not be told; what was for a group there goes to another member
        while everyone or waiting:
            nodes: dict[bytes, list[Given]] = {uid: [] for uid in everyone}
            for audience, share in waiting:
                self._share(batch, audience, share, frozenset(lost), nodes, reached)
            waiting = []
            for uid, given in nodes.items():
                unsent = self._tell(uid, batch, given, everyone=uid in everyone)
                if unsent is None:
                    reached.add(uid)
                else:
                    lost.add(uid)
                    waiting += unsent
            everyone = ()
        return len(reached), found.subscribers

    def _share(
        self,
        batch: _Batch,
        audience: Audience,
        share: Share,
        without: frozenset[bytes],
        nodes: dict[bytes, list[Given]],
        reached: set[bytes],
    ) -> None:
        """Give some messages to a group: to the members here at once, for others it is put down in `nodes`."""
        low, high = share
        shares = audience.shares(high - low, without)
        if not shares:
            self._realtime.count("events_lost", high - low)
        for uid, (start, end) in shares:
            part = (low + start, low + end)
            if uid == HERE:
                self._deliver_group(batch, audience, part)
                reached.add(HERE)
            else:
                nodes.setdefault(uid, []).append((audience, part))

    def _tell(self, uid: bytes, batch: _Batch, given: list[Given], *, everyone: bool) -> list[Given] | None:
        """Send another node a batch, and parts of it for groups that get no more; None, or what could not be sent."""
        all_of_it = (0, batch.count)
        whole = [one for one in given if one[1] == all_of_it]
        messages = [(all_of_it, whole)] if everyone or whole else []
        messages += [(one[1], [one]) for one in given if one[1] != all_of_it]
        for position, (share, groups) in enumerate(messages):
            rows = [[audience.want.pattern, audience.want.group] for audience, _ in groups]
            fields = {"time_unix_ns": batch.time_unix_ns, "everyone": everyone and position == 0, "groups": rows}
            if not self._realtime.tell(PeerKind.EVENTS, uid, fields, [batch.part(share)]):
                self._realtime.count("events_unsent", share[1] - share[0])
                if fields["everyone"]:
                    self._losses.add(uid, batch.name, batch.count)
                return [one for _, left in messages[position:] for one in left]
        return None

    def report_losses(self) -> None:
        """Tell other nodes how many events did not leave for them."""
        self._losses.report(lambda uid, rows: self._realtime.tell(PeerKind.EVENTS, uid, {"lost": rows}))

    def forget(self, uid: bytes) -> None:
        """Another node is gone."""
        self._losses.forget(uid)

    # --- from another node -----------------------------------------------------------------------------------------------

    def on_peer(self, fields: dict[str, Any], frames: Sequence[bytes]) -> None:
        """Hand out what was published at another node, or count what was lost on its way. Raises RequestError."""
        if "lost" in fields:
            self._count_lost(fields["lost"])
            return
        groups = fields.get("groups", [])
        if len(frames) != 1 or not isinstance(groups, list):
            raise MalformedFrame(f"EVENTS have {len(frames)} batches and groups {shown(groups)}")
        header = codec.read_batch(frames[0], verify=False)  # the publisher's node has compared the checksum
        batch = _Batch(frames[0], header.channel, header.count, integer(fields, "time_unix_ns", None, 0, U64_MAX))
        interest = self._realtime.interest
        if flag(fields, "everyone"):
            self._deliver(batch, interest.find(RealtimeKind.EVENTS, batch.name).members)
        for row in groups:
            match row:
                case [str(pattern), str(group)]:
                    audience = interest.audience(Want(RealtimeKind.EVENTS, pattern, group))
                    if audience is not None:
                        self._deliver_group(batch, audience, (0, batch.count))
                    else:  # the last member has left meanwhile
                        self._realtime.count("events_lost", batch.count)
                case _:
                    raise MalformedFrame(f"a group of EVENTS is [pattern, group]: {shown(row)}")

    def _count_lost(self, rows: object) -> None:
        for row in rows if isinstance(rows, list) else [rows]:
            match row:
                case [str(name), int(count)] if count > 0:
                    for subscription in self._realtime.interest.find(RealtimeKind.EVENTS, name).members:
                        subscription.missed += count
                        self._realtime.count("events_missed", count)
                        self.tell_missed(subscription)
                case _:
                    raise MalformedFrame(f"lost of EVENTS is a list of [name, count]: {shown(row)}")

    # --- to subscriptions here -------------------------------------------------------------------------------------------

    def _deliver(self, batch: _Batch, members: Sequence[Subscription]) -> None:
        """Hand a batch to each of these."""
        given: list[tuple[Subscription, Share]] = []
        for subscription in members:
            taken = subscription.take(batch.count)
            if taken < batch.count:
                self._realtime.count("events_missed", batch.count - taken)
            if taken:
                given.append((subscription, (0, taken)))
        self._push(batch, given)

    def _deliver_group(self, batch: _Batch, audience: Audience, share: Share) -> None:
        """Hand some messages to one member of a group each; what was for one that is gone goes to the next."""
        waiting = [share]
        while waiting and audience.members:
            low, high = waiting.pop()
            given = audience.spread(low, high)
            taken = sum(end - start for _, (start, end) in given)
            if taken < high - low:
                self._realtime.count("events_missed", high - low - taken)
            waiting += self._push(batch, given)
        if lost := sum(high - low for low, high in waiting):
            self._realtime.count("events_lost", lost)

    def _push(self, batch: _Batch, given: Sequence[tuple[Subscription, Share]]) -> list[Share]:
        """Send what was taken; what was for connections that are gone."""
        messages: list[list[bytes]] = []
        sources: list[tuple[Subscription, Share, int]] = []  # of each message, and the bytes of all for it
        for subscription, share in given:
            found, size = push_frames(subscription, batch.part(share), batch.time_unix_ns)
            subscription.charge(size)
            messages += found
            sources += [(subscription, share, size)] * len(found)
        refused = self._realtime.push(messages)
        self._realtime.count("events_out", sum(end - start for _, (start, end) in given))
        gone: list[Share] = []
        for subscription, share, size in dict.fromkeys(sources[place] for place in refused):
            count = share[1] - share[0]
            self._realtime.count("events_out", -count)
            if self._realtime.interest.get(subscription.owner, subscription.number) is subscription:
                subscription.give_back(count, size)
                self._realtime.count("events_missed", count)
            else:
                gone.append(share)
        return gone

    def tell_missed(self, subscription: Subscription) -> None:
        """Tell a client what it has missed without waiting for the next event."""
        self._realtime.push([missed_frames(subscription)])
