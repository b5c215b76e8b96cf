"""How nodes tell each other what their clients want: changes as they come, and the whole when it is asked for.

Every change has the next version. Whoever misses one, or hears a node of another run, is behind and asks for the whole, which
comes in pieces. Once in a while each node says at which version it is, so that a loss does not stay. What is told are counts,
never differences, so that a repeat changes nothing. Source: docs/PROTOCOL.md §8, INTEREST.
"""

from __future__ import annotations

from zmqbroker.commands import Announcement, Want

__all__ = ["ROWS_MAX", "Neighbour", "OwnInterest"]

#: Wants in one announcement: patterns and groups of 255 bytes each make half a megabyte, usual ones 30 KB.
ROWS_MAX = 1000

Rows = list[tuple[Want, int]]


class OwnInterest:
    """What this node's clients want, and which of it the others were not told yet."""

    def __init__(self, run: bytes) -> None:
        self.run = run
        self.version = 0  # of what was announced
        self._counts: dict[Want, int] = {}  # from 1
        self._changes: dict[Want, int] = {}  # since the last announcement; 0: nobody any more

    def put(self, want: Want, count: int) -> None:
        """So many of this node's subscriptions want this now."""
        self._changes[want] = count
        if count:
            self._counts[want] = count
        else:
            self._counts.pop(want, None)

    def take_changes(self) -> list[Announcement]:
        """What changed since this was last asked, to be told to all others; nothing when nothing did."""
        rows = list(self._changes.items())
        self._changes.clear()
        found = []
        for part in _parts(rows):
            self.version += 1
            found.append(Announcement(self.run, self.version, part))
        return found

    def stand(self, *, ask: bool = False) -> Announcement:
        """Where this node's interest stands."""
        return Announcement(self.run, self.version, ask=ask)

    def whole(self) -> list[Announcement]:
        """All of it, after what `take_changes` gave."""
        parts = _parts(list(self._counts.items())) or [()]
        return [Announcement(self.run, self.version, part, number, len(parts)) for number, part in enumerate(parts)]


def _parts(rows: Rows) -> list[tuple[tuple[Want, int], ...]]:
    return [tuple(rows[start : start + ROWS_MAX]) for start in range(0, len(rows), ROWS_MAX)]


class Neighbour:
    """What another node has told."""

    def __init__(self) -> None:
        self.counts: dict[Want, int] = {}  # from 1
        self.behind = True  # something of it is not known
        self.heard_ns = 0  # by this node's monotonic clock
        self._run = b""
        self._version = 0  # of `counts`
        self._pieces: Rows = []  # of a whole on its way
        self._next_piece = 0

    def hear(self, told: Announcement, now_ns: int) -> Rows:
        """What is different now: absolute counts, 0 for what is not wanted any more."""
        self.heard_ns = now_ns
        if told.run != self._run:
            changes: Rows = [(want, 0) for want in self.counts]
            self.counts, self._run, self._version, self._next_piece, self.behind = {}, told.run, 0, 0, True
            return [*changes, *self._take(told)]
        return self._take(told)

    def _take(self, told: Announcement) -> Rows:
        if told.pieces:
            return self._take_piece(told)
        if not told.rows:
            self.behind = self.behind or told.version != self._version
            return []
        if told.version != self._version + 1:
            self.behind = self.behind or told.version > self._version + 1
            return []
        self._version = told.version
        return self._put(list(told.rows))

    def _take_piece(self, told: Announcement) -> Rows:
        """Pieces count only in their order, all of one version."""
        if told.piece == 0:
            self._pieces, self._next_piece = [], 0
        if told.piece != self._next_piece:
            return []
        self._pieces += told.rows
        self._next_piece += 1
        if self._next_piece < told.pieces:
            return []
        whole = dict(self._pieces)
        gone: Rows = [(want, 0) for want in self.counts if want not in whole]
        self._pieces, self._next_piece, self._version, self.behind = [], 0, told.version, False
        return self._put([*gone, *whole.items()])

    def _put(self, rows: Rows) -> Rows:
        changes = [(want, count) for want, count in rows if self.counts.get(want, 0) != count]
        for want, count in changes:
            if count:
                self.counts[want] = count
            else:
                self.counts.pop(want, None)
        return changes
