"""What the holder of messages does with them besides to ack: give back, reject, requeue, extend; and what happens when its time
or its session is over.

Every one of these names receipts. Those that are held are served; of the others, which are named in the refusal, none is.
"""

from __future__ import annotations

from collections.abc import Iterable

from zmqbroker.broker.channels import Channels
from zmqbroker.broker.claims import Assignment
from zmqbroker.broker.moving import DELIVERY_LIMIT, REQUEUED, Served, dead_letter, move
from zmqbroker.broker.queue import Queue
from zmqbroker.broker.ranges import Range
from zmqbroker.broker.records import Moment, deadline_after, instant_after
from zmqbroker.broker.store_rules import unreceivable
from zmqbroker.commands import ANY_INCARNATION, Counted, Delivery, Extend, Nack, Reject, Requeue, Result, Settle, is_consumer
from zmqbroker.errors import InvalidRequest, RequestError, Unsupported

__all__ = ["give_back", "return_all", "settle"]


def settle(channels: Channels, command: Settle, moment: Moment, deliveries: list[Delivery]) -> Result:
    """Apply one command; what others get by it is added to `deliveries`."""
    if refusal := unreceivable(channels, command.channel, command.session):
        return refusal
    queue = channels.find(command.channel)
    if not isinstance(queue, Queue):
        return queue
    target = _target(channels, queue, command, moment)
    if not isinstance(target, Queue):
        return target
    served = Served()
    count = 0
    stale: list[list[int]] = []
    for receipt in command.receipts:
        if not queue.is_held(command.session, receipt):
            stale.append([receipt.assigning, receipt.first, receipt.last])
        elif isinstance(command, Extend):
            count += _extend(queue, receipt.first, receipt.last, deadline_after(moment.now_unix_ns, command.visibility_ms))
        else:
            parts = queue.let_go(receipt.first, receipt.last)
            count += sum(part.last - part.first + 1 for part in parts)
            _send_on(channels, queue, command, parts, target, moment, served)
    deliveries += served.deliver(moment)
    return queue.stale_receipts(stale, len(command.receipts), count) if stale else Counted(count)


def _target(channels: Channels, queue: Queue, command: Settle, moment: Moment) -> Queue | RequestError:
    """Where the messages go. It is made first: where it cannot be, their holder is told so and keeps them."""
    if isinstance(command, Requeue):
        return channels.find_or_create(command.to, ANY_INCARNATION, moment)
    if isinstance(command, Nack) and command.behind and is_consumer(queue.name):
        return Unsupported(f"channel {queue.name!r} is a consumer of an events store, where nothing is put behind all others")
    if not isinstance(command, Reject):
        return queue
    if not queue.settings.dead_letter:
        text = f"channel {queue.name!r} has no dead-letter channel, which would take rejected messages: nack or ack them"
        return InvalidRequest(text)
    return channels.find_or_create(queue.settings.dead_letter, ANY_INCARNATION, moment)


def _send_on(
    channels: Channels,
    queue: Queue,
    command: Nack | Reject | Requeue,
    parts: list[Range[int]],
    target: Queue,
    moment: Moment,
    served: Served,
) -> None:
    if isinstance(command, Requeue):
        live = queue.unexpired(parts, moment.now_unix_ns)
        queue.counters.moved += move(queue, live, target, REQUEUED, moment, served, expiring=True)
    elif isinstance(command, Reject):
        queue.counters.dead_lettered += move(queue, parts, target, command.reason, moment, served)
    else:
        return_all(channels, queue, parts, moment, served, delay_ms=command.delay_ms, behind=command.behind)


def _extend(queue: Queue, first: int, last: int, deadline_unix_ns: int) -> int:
    holders = list(dict.fromkeys(part.value for part in queue.in_flight.overlapping(first, last)))
    count = 0
    for holder in holders:
        low, high = max(first, holder.held[0].first), min(last, holder.held[-1].last)
        parts = queue.let_go_of(holder, low, high)
        queue.extend(holder, parts, deadline_unix_ns)
        count += sum(part.last - part.first + 1 for part in parts)
    return count


def return_all(
    channels: Channels,
    queue: Queue,
    parts: Iterable[Range[int]],
    moment: Moment,
    served: Served,
    *,
    delay_ms: int = 0,
    behind: bool = False,
) -> None:
    """Let messages return that are live and nowhere; those that were delivered too often leave for the dead-letter channel."""
    spent, rest = _split_spent(queue, parts, moment.now_unix_ns)
    due_unix_ns = instant_after(moment.now_unix_ns, delay_ms) if delay_ms else 0
    if behind:
        queue.counters.moved += move(queue, rest, queue, REQUEUED, moment, served, due_unix_ns=due_unix_ns)
    else:
        queue.put_back(rest, due_unix_ns)
    dead_letter(channels, queue, spent, DELIVERY_LIMIT, moment, served)
    served.add(queue)


def _split_spent(queue: Queue, parts: Iterable[Range[int]], now_unix_ns: int) -> tuple[list[Range[int]], list[Range[int]]]:
    """Of messages that return: those that were delivered as often as they may be, and the others; expired ones finish."""
    limit = queue.settings.delivery_limit if queue.settings.dead_letter else 0
    spent: list[Range[int]] = []
    rest: list[Range[int]] = []
    for part in queue.unexpired(parts, now_unix_ns):
        (spent if 0 < limit <= part.value else rest).append(part)
    return spent, rest


def give_back(channels: Channels, assignment: Assignment, moment: Moment, served: Served) -> int:
    """Take an assignment from its holder, whose time or session is over; returns how many messages it had."""
    queue = channels.touch(assignment.number)
    parts = queue.let_go_of(assignment, assignment.held[0].first, assignment.held[-1].last)
    return_all(channels, queue, parts, moment, served)
    return sum(part.last - part.first + 1 for part in parts)
