"""When a leader tells the group that the log may be trimmed, and how far.

Every member holds the log up to the index it says; one that stays away, answers and stores nothing, or says that its disk is
short, holds it back only so far, and gets a snapshot when it goes on. Decisions only: the index travels in a Trim command, each
node drops what it no longer needs itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from zmqbroker.raft import ProgressState, RaftCore

__all__ = ["Trimming"]

#: The leader says it after each such stretch of indexes, or so many bytes of log (`trim_bytes`).
TRIM_INDEXES = 4096
#: A member is away when for so many ticks, 10 s by default, it was not heard of, or took nothing of what it lacks. It holds the
#: log back by WINDOW_MARKS, each of them `trim_bytes` of log.
AWAY_TICKS, WINDOW_MARKS = 500, 16


class Trimming:
    """One group's, at one node."""

    def __init__(self, trim_bytes: int) -> None:
        self._trim_bytes = trim_bytes
        self._marks: deque[int] = deque()  # ascending, untrimmed indexes that deserve a Trim; one per trim_bytes of log
        self._unmarked_bytes = 0  # payloads applied since the last mark
        self._proposed = 0  # highest index proposed in a Trim
        self._ticks = 0
        self._led_tick = 0  # when the last leadership began
        self._heard: dict[int, int] = {}  # member -> tick of its last message in this leadership
        self._reached: dict[
            int, tuple[int, int]
        ] = {}  # member -> its match index, and the last tick at which nothing was amiss

    def begin(self, applied_index: int, trimmed_index: int) -> None:
        """This node leads now: it goes on with what earlier leaders left."""
        self._proposed = trimmed_index
        self._marks.append(applied_index)
        self._led_tick = self._ticks
        self._heard.clear()
        self._reached.clear()

    def heard(self, member: int) -> None:
        """A member spoke."""
        self._heard[member] = self._ticks

    def applied(self, index: int, size: int, trimmed_index: int) -> None:
        """An entry with a payload of `size` bytes was applied: remember where the log has grown enough to be worth a Trim."""
        self._unmarked_bytes += size
        if self._unmarked_bytes >= self._trim_bytes:
            self._unmarked_bytes = 0
            self._marks.append(index)
        while self._marks and self._marks[0] <= trimmed_index:
            self._marks.popleft()

    def reset(self) -> None:
        """A snapshot has replaced log and state."""
        self._marks.clear()
        self._unmarked_bytes = 0

    def tick(self, core: RaftCore, short: Collection[int] = ()) -> int | None:
        """A tick has passed; at a leader, the index to be said now, if there is one. `short`: whose disks are."""
        self._ticks += 1
        self._follow(core)
        held = core.matched_by_all(self._away(core, short) if len(self._marks) > WINDOW_MARKS else ())
        marked = any(self._proposed < mark <= held for mark in self._marks)
        if not marked and held < self._proposed + TRIM_INDEXES:
            return None
        self._proposed = held
        return held

    def _follow(self, core: RaftCore) -> None:
        for member, status in core.progress().items():
            reached, _ = self._reached.get(member, (-1, 0))
            # What a snapshot brings comes at once, in the end.
            complete = status.match_index >= core.last_index or status.state is ProgressState.SNAPSHOT
            if complete or status.match_index != reached:
                self._reached[member] = status.match_index, self._ticks

    def _away(self, core: RaftCore, short: Collection[int]) -> set[int]:
        heard, since = self._heard, self._ticks - AWAY_TICKS
        silent = {member for member in core.progress() if heard.get(member, self._led_tick) < since}
        stuck = {member for member, (_, tick) in self._reached.items() if tick < since}
        return silent.union(stuck, short) - {core.id}
