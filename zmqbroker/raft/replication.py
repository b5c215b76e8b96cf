"""AppendEntries, heartbeats and the commit index, on both sides.

A leader commits only entries of its own term, by majority, and counts itself like any other voter: after its own log has them
durably. A follower cuts its log only where it differs from the leader's. A heartbeat never carries a commit index beyond what
the follower is known to hold. Source: Raft §5.3, §5.4.2; etcd/raft for pipelining and flow control.
"""

from __future__ import annotations

from zmqbroker.errors import Busy, Compacted
from zmqbroker.raft.log import payload_bytes
from zmqbroker.raft.messages import Entry, Message, MessageType
from zmqbroker.raft.progress import Progress, ProgressState
from zmqbroker.raft.quorum import committed_index
from zmqbroker.raft.state import RaftState

__all__ = [
    "BUSY_RETRY_MS",
    "broadcast_append",
    "broadcast_heartbeat",
    "handle_append_entries",
    "handle_append_response",
    "handle_heartbeat",
    "handle_heartbeat_response",
    "propose",
    "start_term",
]

#: Hint to a refused proposer: a few round trips and syncs, after which a healthy majority has committed a good part.
BUSY_RETRY_MS = 10


def start_term(state: RaftState) -> None:
    """Append the empty entry that lets a new leader commit what earlier terms left (Raft §8)."""
    _append(state, b"")


def propose(state: RaftState, data: bytes) -> int:
    """Append `data` at the leader and send it; its index. Raises `Busy` when too much is uncommitted."""
    uncommitted = state.uncommitted_bytes + len(data)
    # With nothing under way an entry of any size is admitted, or it never could be.
    if state.uncommitted_bytes and data and uncommitted > state.config.uncommitted_bytes_max:
        limit = state.config.uncommitted_bytes_max
        raise Busy(f"{uncommitted} bytes would be uncommitted, the limit is {limit}", retry_ms=BUSY_RETRY_MS)
    index = _append(state, data)
    broadcast_append(state)
    return index


def _append(state: RaftState, data: bytes) -> int:
    entry = Entry(state.log.last_index + 1, state.term, data)
    state.log.append((entry,))
    state.uncommitted_bytes += len(data)
    # Delivered back when the entry is durable here.
    state.send(Message(MessageType.APPEND_ENTRIES_RESPONSE, to=state.id, index=entry.index))
    return entry.index


def broadcast_append(state: RaftState) -> None:
    """Send to every follower that may be sent to, at least the commit index."""
    for voter in state.voters:
        if voter != state.id:
            _maybe_send_append(state, voter, send_if_empty=True)


def broadcast_heartbeat(state: RaftState) -> None:
    """Send a heartbeat to every follower."""
    for voter in state.voters:
        if voter != state.id:
            progress = state.progress[voter]
            # Beyond match_index the follower may hold another leader's entries.
            commit = min(progress.match_index, state.log.commit_index)
            state.send(Message(MessageType.HEARTBEAT, to=voter, commit=commit))
            progress.sent_commit = commit


def _maybe_send_append(state: RaftState, to: int, *, send_if_empty: bool) -> bool:
    """Send the next entries; False when nothing was sent."""
    progress = state.progress[to]
    if progress.paused:
        return False
    log = state.log
    assert progress.match_index < progress.next_index <= log.last_index + 1
    index = progress.next_index - 1
    entries: tuple[Entry, ...] = ()
    try:
        log_term = log.term(index)
        # A full window still sends an empty message after a heartbeat's response: all that fill it may have been lost, and
        # only an answer can tell.
        if progress.state is not ProgressState.REPLICATE or not progress.inflights.full:
            entries = log.entries(index + 1, log.last_index + 1, state.config.message_bytes_max)
    except Compacted:
        _give_up(state, to, progress)
        return False
    if not entries and not send_if_empty:
        return False
    message = Message(MessageType.APPEND_ENTRIES, to=to, index=index, log_term=log_term, entries=entries)
    message.commit = log.commit_index
    state.send(message)
    progress.sent_entries(len(entries), payload_bytes(entries))
    progress.sent_commit = message.commit
    return True


def _give_up(state: RaftState, to: int, progress: Progress) -> None:
    """The follower needs entries that the log has dropped: keep it probing, one attempt per heartbeat."""
    text = "WARN %x cannot send to %x: the log no longer holds index %d"
    state.trace(text, state.id, to, progress.next_index - 1)
    state.compacted_probes += 1
    progress.become_probe()
    progress.paused = True


def handle_append_entries(state: RaftState, message: Message) -> None:
    """Take a leader's entries and answer; the answer leaves when they are durable."""
    answer = Message(MessageType.APPEND_ENTRIES_RESPONSE, to=message.sender)
    if message.index < state.log.commit_index:
        # A late message: what is committed is matched.
        answer.index = state.log.commit_index
        state.send(answer)
        return
    matched = state.log.maybe_append(message.index, message.log_term, message.entries, message.commit)
    if matched is not None:
        answer.index = matched
        state.send(answer)
        return
    text = "DEBUG %x [logterm: %d, index: %d] rejected MsgApp [logterm: %d, index: %d] from %x"
    found = state.log.term_or_none(message.index) or 0
    state.trace(text, state.id, found, message.index, message.log_term, message.index, message.sender)
    hint = min(message.index, state.log.last_index)
    answer.index = message.index
    answer.reject = True
    answer.reject_hint, answer.log_term = state.log.find_conflict_by_term(hint, message.log_term)
    state.send(answer)


def handle_append_response(state: RaftState, message: Message) -> None:
    """Learn at the leader what a voter, itself included, holds."""
    progress = state.progress[message.sender]
    progress.recent_active = True
    if message.reject:
        _handle_reject(state, message, progress)
        return
    assert message.index <= state.log.last_index, f"{message.sender} holds more of this term than its leader"
    # The same match again still tells that a probed follower can be replicated to.
    probed = progress.state is ProgressState.PROBE
    if not progress.maybe_update(message.index) and not (probed and progress.match_index == message.index):
        return
    if probed:
        progress.become_replicate()
    else:
        progress.inflights.free_to(message.index)
    remote = message.sender != state.id
    if _maybe_commit(state):
        broadcast_append(state)
    elif remote and progress.can_bump_commit(state.log.commit_index):
        # The next heartbeat would tell it too, but later.
        _maybe_send_append(state, message.sender, send_if_empty=True)
    if remote:
        # One answer may have freed room for several messages. Ends: each sends entries, or nothing is left, or it is full.
        while _maybe_send_append(state, message.sender, send_if_empty=False):
            pass


def _maybe_commit(state: RaftState) -> bool:
    index = committed_index([state.progress[voter].match_index for voter in state.voters])
    return state.log.maybe_commit(index, state.term)


def _handle_reject(state: RaftState, message: Message, progress: Progress) -> None:
    text = "DEBUG %x received MsgAppResp(rejected, hint: (index %d, term %d)) from %x for index %d"
    state.trace(text, state.id, message.reject_hint, message.log_term, message.sender, message.index)
    hint = message.reject_hint
    if message.log_term > 0:
        # The follower searched its log for our term; searching ours for its term skips the rest of a differing term.
        hint, _ = state.log.find_conflict_by_term(hint, message.log_term)
    if progress.maybe_decrease(message.index, hint):
        if progress.state is ProgressState.REPLICATE:
            progress.become_probe()
        _maybe_send_append(state, message.sender, send_if_empty=True)


def handle_heartbeat(state: RaftState, message: Message) -> None:
    """Commit what the leader says is committed and held here, and answer at once: it promises nothing about the disk."""
    state.log.commit_to(message.commit)
    state.send(Message(MessageType.HEARTBEAT_RESPONSE, to=message.sender, context=message.context))


def handle_heartbeat_response(state: RaftState, message: Message) -> None:
    """A voter is there: try again what a pause held back."""
    progress = state.progress[message.sender]
    progress.recent_active = True
    progress.paused = False
    if progress.match_index < state.log.last_index or progress.state is ProgressState.PROBE:
        _maybe_send_append(state, message.sender, send_if_empty=True)
