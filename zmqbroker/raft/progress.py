"""What a leader knows of one follower's log, and how much it may send it.

A follower, voter or learner, is probed (one message with entries per answer or heartbeat) until the leader knows where the logs
meet; then it is replicated to: messages follow each other without waiting, in a window bounded by count and by bytes. One that
needs entries which the log has dropped is sent a snapshot, and nothing else until that has arrived. Invariant: match_index <
next_index. Source: Raft §5.3, thesis §10.2.1, and etcd/raft's tracker for the flow control.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import NamedTuple

__all__ = ["Inflights", "Progress", "ProgressState", "ProgressStatus"]


class ProgressState(IntEnum):
    """How a leader sends to a follower."""

    PROBE = 0
    REPLICATE = 1
    SNAPSHOT = 2


_STATE_NAMES = {
    ProgressState.PROBE: "StateProbe",
    ProgressState.REPLICATE: "StateReplicate",
    ProgressState.SNAPSHOT: "StateSnapshot",
}


class ProgressStatus(NamedTuple):
    """A follower as its leader sees it, for status pages."""

    match_index: int
    next_index: int
    state: ProgressState
    recent_active: bool
    learner: bool


class Inflights:
    """The unanswered messages with entries: last index and payload bytes of each, oldest first."""

    __slots__ = ("_bytes_max", "_messages", "_messages_max", "bytes")

    def __init__(self, messages_max: int, bytes_max: int) -> None:
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._messages: deque[tuple[int, int]] = deque()  # at most messages_max
        self.bytes = 0  # sum of the second items of _messages

    @property
    def count(self) -> int:
        """Messages under way."""
        return len(self._messages)

    @property
    def full(self) -> bool:
        """True when no more may be sent. The message that reaches the bytes is still sent, so one of any size always is."""
        return len(self._messages) >= self._messages_max or self.bytes >= self._bytes_max

    def add(self, last_index: int, size: int) -> None:
        """Note a message that ends at `last_index`; indexes rise from call to call."""
        assert not self.full, "a full window takes no more messages"
        self._messages.append((last_index, size))
        self.bytes += size

    def free_to(self, index: int) -> None:
        """Forget the messages that end at or below `index`."""
        while self._messages and self._messages[0][0] <= index:
            self.bytes -= self._messages.popleft()[1]

    def clear(self) -> None:
        """Forget all."""
        self._messages.clear()
        self.bytes = 0


class Progress:
    """One node's replication state at the leader."""

    __slots__ = (
        "_held_back",
        "inflights",
        "learner",
        "match_index",
        "next_index",
        "pending_snapshot",
        "recent_active",
        "sent_commit",
        "state",
    )

    def __init__(self, *, match_index: int, next_index: int, inflights: Inflights, learner: bool = False) -> None:
        self.match_index = match_index  # highest index known to be durable there
        self.next_index = next_index  # first index not sent yet; above match_index
        self.state = ProgressState.PROBE
        self.recent_active = False  # heard from since the last CheckQuorum
        self._held_back = False  # nothing is sent until an answer or a heartbeat's response
        self.learner = learner
        self.pending_snapshot = 0  # index of the snapshot under way; 0 but in SNAPSHOT
        self.sent_commit = 0  # highest commit index sent
        self.inflights = inflights  # empty while probing

    @property
    def paused(self) -> bool:
        """True when nothing is sent, until an answer or a heartbeat's response, or the end of a snapshot."""
        return self._held_back or self.state is ProgressState.SNAPSHOT

    def pause(self) -> None:
        """Send nothing until an answer or a heartbeat's response."""
        self._held_back = True

    def resume(self) -> None:
        """Send again, unless a snapshot is under way."""
        self._held_back = False

    def become_probe(self) -> None:
        """Find out anew where the logs meet, from the last known match or the snapshot under way on."""
        snapshot = self.pending_snapshot
        self._change(ProgressState.PROBE)
        self.next_index = max(self.next_index, snapshot + 1)
        # Commit indexes sent with appends that were refused or lost did not arrive.
        self.sent_commit = min(self.sent_commit, self.next_index - 1)

    def become_snapshot(self, index: int) -> None:
        """A snapshot of the state after `index` is under way."""
        self._change(ProgressState.SNAPSHOT)
        self.pending_snapshot = index
        self.next_index = index + 1
        self.sent_commit = index

    def become_replicate(self) -> None:
        """The logs meet at match_index: stream from there."""
        self._change(ProgressState.REPLICATE)

    def _change(self, state: ProgressState) -> None:
        self.state = state
        self._held_back = False
        self.pending_snapshot = 0
        self.inflights.clear()
        self.next_index = self.match_index + 1

    def sent_entries(self, count: int, size: int) -> None:
        """Note an AppendEntries with `count` entries and `size` bytes of payload, from next_index on."""
        if self.state is ProgressState.REPLICATE:
            if count:
                self.next_index += count
                self.inflights.add(self.next_index - 1, size)
            # With a full window even an empty message is a probe: the next one waits for an answer.
            self._held_back = self.inflights.full
        elif count:
            self._held_back = True

    def can_bump_commit(self, commit_index: int) -> bool:
        """True when sending `commit_index` may tell the follower of a commit that it was not told of yet."""
        return self.sent_commit < min(commit_index, self.next_index - 1)

    def maybe_update(self, index: int) -> bool:
        """Note that everything up to `index` is durable there; False when that is old news."""
        if index <= self.match_index:
            return False
        self.match_index = index
        self.next_index = max(self.next_index, index + 1)
        self._held_back = False
        return True

    def maybe_decrease(self, rejected: int, match_hint: int) -> bool:
        """Step back after a refusal of prev_log_index `rejected`; False when the refusal is a stale one."""
        if self.state is ProgressState.REPLICATE:
            if rejected <= self.match_index:
                return False
            self.next_index = self.match_index + 1
        else:
            # A probing leader sends one message at a time: any other answer is late.
            if self.next_index - 1 != rejected:
                return False
            self.next_index = max(min(rejected, match_hint + 1), self.match_index + 1)
            self._held_back = False
        self.sent_commit = min(self.sent_commit, self.next_index - 1)
        return True

    def status(self) -> ProgressStatus:
        """A copy for status pages."""
        return ProgressStatus(self.match_index, self.next_index, self.state, self.recent_active, self.learner)

    def __str__(self) -> str:
        text = f"{_STATE_NAMES[self.state]} match={self.match_index} next={self.next_index}"
        if self.learner:
            text += " learner"
        if self.paused:
            text += " paused"
        if self.pending_snapshot:
            text += f" pendingSnap={self.pending_snapshot}"
        if not self.recent_active:
            text += " inactive"
        if self.inflights.count:
            text += f" inflight={self.inflights.count}" + ("[full]" if self.inflights.full else "")
        return text
