"""One subscription of a client of this node, and how much it may be sent.

Credit is granted in absolute numbers, so a grant that comes twice, or late, changes nothing. A batch is cut where the credit in
messages ends; the credit in bytes may be exceeded by the last batch. What finds no credit is missed: counted, told, and never
kept. Source: docs/PROTOCOL.md §3, SUBSCRIBE.
"""

from __future__ import annotations

from zmqbroker.commands import Want

__all__ = ["Subscription"]


class Subscription:
    """What a client asked for, and what it has had. Compared by identity."""

    __slots__ = (
        *("owner", "number", "want", "plain", "tables", "delimiter"),
        *("granted_count", "granted_bytes", "taken_count", "taken_bytes", "missed", "told_missed", "head"),
    )

    def __init__(
        self,
        owner: bytes,
        number: int,
        want: Want,
        granted_count: int,
        granted_bytes: int,
        *,
        plain: bool = False,
        tables: bool = False,
        delimiter: bool = False,
    ) -> None:
        self.owner = owner  # routing id of the connection that it ends with
        self.number = number  # the client's name for it, unique among those of the connection
        self.want = want
        self.plain = plain  # it gets messages one by one instead of batch frames
        self.tables = tables  # it takes calls as tables, too
        self.delimiter = delimiter  # an empty frame comes before what it is sent
        self.granted_count, self.granted_bytes = granted_count, granted_bytes  # ever; they only grow
        self.taken_count, self.taken_bytes = 0, 0  # ever
        self.missed = 0  # messages ever that found no credit, or no room on their way to the client
        self.told_missed = 0  # as many of them as the client was told of
        self.head: bytes | None = None  # what comes before the next batch as long as `missed` stays; the shell's

    @property
    def room(self) -> int:
        """Messages that it may be sent now."""
        return self.granted_count - self.taken_count if self.taken_bytes < self.granted_bytes else 0

    def take(self, count: int) -> int:
        """Send it the first of `count` messages: returns how many it may have; the others are missed."""
        taken = min(count, self.room)
        self.taken_count += taken
        self.missed += count - taken
        return taken

    def charge(self, size: int) -> None:
        """What it takes is sent in body frames of so many bytes."""
        self.taken_bytes += size

    def give_back(self, count: int, size: int) -> None:
        """What was taken could not be sent: it is missed, and the credit is there again."""
        self.taken_count -= count
        self.taken_bytes -= size
        self.missed += count

    def grant(self, count: int, size: int) -> None:
        """It may have had so many messages and bytes, ever."""
        self.granted_count, self.granted_bytes = max(self.granted_count, count), max(self.granted_bytes, size)
