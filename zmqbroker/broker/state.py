"""The state of one group: what nodes ask of it, and how it is stored and restored. `machine` changes it, entry by entry.

Source: DESIGN §6; `snapshot` has the keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, Self

from zmqbroker.broker import snapshot
from zmqbroker.broker.audit import Audit, digest_of
from zmqbroker.broker.bindings import Bindings
from zmqbroker.broker.channels import Channels
from zmqbroker.broker.handing import handed_over
from zmqbroker.broker.limits import MachineLimits
from zmqbroker.broker.parts import BINDING, DEFAULTS, ROUTE, SCHEDULE
from zmqbroker.broker.publishing import stored
from zmqbroker.broker.queue import Queue
from zmqbroker.broker.routes import Routes
from zmqbroker.broker.routing import stored_all
from zmqbroker.broker.schedules import Schedule, Schedules
from zmqbroker.broker.store import EventsStore
from zmqbroker.broker.store_consumer import StoreConsumer
from zmqbroker.commands import (
    BatchHeader,
    HandedOver,
    Published,
    PublishedAll,
    QueueStats,
    Receipt,
    Roster,
    Said,
)
from zmqbroker.errors import Corruption

__all__ = ["State"]


class _Rules(Protocol):
    """What belongs to no channel, and is stored as they are."""

    def items(self) -> Iterable[tuple[bytes, bytes]]: ...
    def changes(self) -> Iterable[tuple[bytes, bytes | None]]: ...
    def restore(self, key: bytes, value: bytes) -> None: ...


class State:
    """What a `Machine` is but for applying entries."""

    VERSION = 4  # raised with every change of what an entry does or how state is stored

    def __init__(self, limits: MachineLimits | None = None) -> None:
        limits = MachineLimits() if limits is None else limits
        self._channels = Channels(limits)
        self._schedules, self._defaults = Schedules(self._channels, limits), self._channels.defaults
        self._routes = Routes(limits)
        self._rules: dict[int, _Rules] = {  # what belongs to no channel, by kind of key
            SCHEDULE: self._schedules,
            DEFAULTS: self._defaults,
            ROUTE: self._routes,
            BINDING: self._channels.bindings,
        }
        self._claims, self._agenda = self._channels.claims, self._channels.agenda
        self._applied_index = 0
        self._now_unix_ns = 0
        self._trimmed_index = 0
        self._stored_meta: bytes | None = None
        self._numbers_end = 1  # channel numbers of the state that is being restored are below it
        self.audit: Audit | None = None  # the last one; no part of the state
        self._audit_due = False
        self._roster = Roster()
        self._stored_roster: bytes | None = None

    # --- what the node asks -------------------------------------------------------------------------------------------

    @property
    def applied_index(self) -> int:
        """Index of the last applied entry."""
        return self._applied_index

    @property
    def roster(self) -> Roster:
        """Who takes part, as of `applied_index`."""
        return self._roster

    @property
    def now_unix_ns(self) -> int:
        """The highest time stamp of any applied entry; no new stamp counts that is lower."""
        return self._now_unix_ns

    @property
    def trimmed_index(self) -> int:
        """Every voter holds the log up to this index, as the last `Trim` said."""
        return self._trimmed_index

    def next_due_unix_ns(self) -> int | None:
        """The next instant at which something falls due, with the first entry whose stamp reaches it."""
        dues = (self._claims.earliest(), self._agenda.earliest(), self._schedules.earliest())
        return min((due for due in dues if due is not None), default=None)

    def lowest_live_index(self, after: int = 0) -> int | None:
        """The lowest entry above `after` that still holds a live message, or one of a schedule; no body between is needed."""
        return self._channels.entries.lowest(after)

    def live_indexes(self, after: int = 0) -> Iterator[int]:
        """The entries above `after` that `is_live` holds for, ascending; to be used before the next `apply`."""
        return self._channels.entries.above(after)

    def is_live(self, index: int) -> bool:
        """True when the entry at `index` still holds a live message, or one of a schedule."""
        return index in self._channels.entries

    def lose(self, is_lost: Callable[[int], bool]) -> int:
        """Finish the messages whose entries are lost with their bodies, and forget such schedules; returns how many messages.

        No entry says so, so this is for a node that is alone, and before it goes on.
        """
        self._schedules.lose(is_lost)
        return sum(self._channels.touch(queue.number).lose(is_lost) for queue in self._channels)

    def sessions(self) -> Iterator[bytes]:
        """The sessions that wait, hold messages or are active, in no promised order; ask again after the next `apply`."""
        return self._claims.sessions()

    def holds(self, session: bytes) -> bool:
        """True when the session waits, holds messages or is active: it must be closed when it ends."""
        return self._claims.holds(session)

    def waits(self, session: bytes) -> bool:
        """True when a receive of the session waits: the session does not expire."""
        return bool(self._claims.waiters(session))

    def channels(self) -> list[str]:
        """The names of all channels, sorted."""
        return self._channels.names()

    def page(self, search: str, after: str, count_max: int) -> tuple[list[str], str | None]:
        """The names of some channels, sorted, and the one to go on behind (`Channels.page`)."""
        return self._channels.page(search, after, count_max)

    def stored(self, header: BatchHeader) -> Published | None:
        """The result of an earlier attempt to send this batch, if it is kept: what `apply` would answer. Changes nothing."""
        queue = self._channels.named(header.channel)
        return stored(queue, header) if queue is not None else None

    def handed_over(self, channel: str, receipts: Iterable[Receipt], headers: Sequence[BatchHeader]) -> HandedOver | None:
        """The same for a hand-over."""
        return handed_over(self._channels, channel, receipts, headers)

    def stored_all(self, headers: Sequence[BatchHeader]) -> PublishedAll | None:
        """The same for batches that were sent to several channels at once."""
        return stored_all(self._channels, headers)

    def stats(self, channel: str) -> QueueStats | None:
        """The counters of a channel, None when nobody has used it."""
        queue = self._channels.named(channel)
        return None if queue is None else queue.stats()

    def channel(self, name: str) -> Queue | None:
        """A channel, to be looked at only; None when there is none."""
        return self._channels.named(name)

    def store(self, name: str) -> EventsStore | None:
        """An events store, to be looked at only; None when there is none."""
        queue = self._channels.named(name)
        return queue if isinstance(queue, EventsStore) else None

    def consumers(self, store: str) -> list[StoreConsumer]:
        """The durable consumers of an events store, by name, to be looked at only."""
        found = self.store(store)
        return [] if found is None else sorted(found.consumers.values(), key=lambda consumer: consumer.name)

    def creates_on_use(self, name: str) -> bool:
        """Whether using a channel of that name that is not there makes it."""
        return self._channels.defaults.creates_on_use(name)

    def schedules(self) -> Iterator[Schedule]:
        """All schedules, by name, to be looked at only."""
        return iter(self._schedules)

    def defaults(self) -> Iterator[tuple[str, Said]]:
        """What is said of settings by patterns of names, by pattern."""
        return iter(self._defaults)

    @property
    def routes(self) -> Routes:
        """The route tables, to be looked at only."""
        return self._routes

    @property
    def bindings(self) -> Bindings:
        """What feeds queues beside their senders, to be looked at only."""
        return self._channels.bindings

    # --- storing ------------------------------------------------------------------------------------------------------

    def changes(self) -> list[tuple[bytes, bytes | None]]:
        """The keys that changed since the last call, ascending, with their values (None: deleted).

        They belong to `applied_index` as it is now; the caller stores both or stops. Costs what changed, not what there is.
        """
        changed: list[tuple[bytes, bytes | None]] = []
        meta = self._meta()
        if meta != self._stored_meta:
            self._stored_meta = meta
            changed.append((snapshot.META_KEY, meta))
        roster = snapshot.write_roster(self._roster)
        if roster != self._stored_roster:
            self._stored_roster = roster
            changed.append((snapshot.ROSTER_KEY, roster))
        for queue in self._channels.take_touched():
            changed += snapshot.queue_changes(queue)
        changed += [change for rules in self._rules.values() for change in rules.changes()]
        changed.sort()
        return changed

    def items(self) -> list[tuple[bytes, bytes]]:
        """Everything that a store would hold if all changes were in it, ascending: the canonical form of the state."""
        found = [(snapshot.META_KEY, self._meta()), (snapshot.ROSTER_KEY, snapshot.write_roster(self._roster))]
        for queue in self._channels:
            found += snapshot.queue_items(queue)
        found += [item for rules in self._rules.values() for item in rules.items()]
        found.sort()
        return found

    def describe(self, key: bytes) -> str:
        """What a key of the state is of, in words. Raises `Corruption` for what is no key."""
        number, what = snapshot.describe(key)
        if not number:
            return what
        queue = self._channels.numbered(number)
        name = "unknown" if queue is None else repr(queue.name)
        return f"{what} of channel {name}" if what else f"channel {name}"

    def digest(self) -> bytes:
        """SHA-256 of `applied_index` and `items`: equal on all replicas at an equal index."""
        return digest_of(self._applied_index, self.items())

    @classmethod
    def restore(cls, applied_index: int, items: Iterable[tuple[bytes, bytes]], limits: MachineLimits | None = None) -> Self:
        """The machine whose changes, all of them up to `applied_index`, made the store hold `items`.

        `items` come in the order of their keys. Raises `Corruption` when they cannot be such a store.
        """
        state = cls(limits)
        state._applied_index = applied_index
        key = b""
        try:
            for key, value in items:
                state._restore_item(key, value)
            indexes = [index for queue in state._channels for index in snapshot.finish(queue)]
            for index in sorted([*indexes, *(schedule.index for schedule in state._schedules)]):
                state._channels.entries.add(index)
        except snapshot.UNREADABLE as error:
            raise Corruption(f"the state has a value, up to key {key.hex()!r}, that cannot be read") from error
        state._channels.take_touched()
        if state._stored_meta is not None:
            state._channels.next_number = state._numbers_end
        return state

    def _restore_item(self, key: bytes, value: bytes) -> None:
        if key == snapshot.META_KEY:
            version = snapshot.read_version(value)  # before all else: only this version's value has a known shape
            if version != self.VERSION:
                raise Corruption(f"the state is of machine version {version}, this is version {self.VERSION}")
            meta = snapshot.read_meta(value)
            self._stored_meta = value
            self._now_unix_ns = meta.now_unix_ns
            self._trimmed_index = meta.trimmed_index
            self._claims.next_order = meta.next_order
            self._numbers_end = meta.next_number
            return
        if self._stored_meta is None:
            raise Corruption(f"the state has key {key.hex()!r} and no meta record before it")
        if key == snapshot.ROSTER_KEY:
            self._stored_roster, self._roster = value, snapshot.read_roster(value)
            return
        if snapshot.is_rule(key):
            self._rules[key[0]].restore(key, value)
            return
        number = snapshot.number_of(key)
        header = snapshot.read_channel(key, value)
        queue = self._channels.numbered(number)
        if header is not None and self._channels.next_number <= number < self._numbers_end:
            snapshot.restore_channel(self._channels.add(number, header.name, header.incarnation), header)
        elif header is None and queue is not None:
            snapshot.restore_part(queue, key, value)
        else:
            raise Corruption(f"the state has key {key.hex()!r} for a channel that is missing or out of order")

    def _meta(self) -> bytes:
        numbers = self._claims.next_order, self._trimmed_index, self._channels.next_number
        return snapshot.write_meta(snapshot.Meta(self.VERSION, self._now_unix_ns, *numbers))
