"""AppendEntries, heartbeats and the commit index, on both sides.

A leader commits only entries of its own term, by majority, and counts itself like any other voter: after its own log has them
durably. A follower cuts its log only where it differs from the leader's. A heartbeat never carries a commit index beyond what
the follower is known to hold. Source: Raft §5.3, §5.4.2; etcd/raft for pipelining and flow control.
"""

from __future__ import annotations

from collections.abc import Sequence

from zmqbroker.errors import Compacted
from zmqbroker.raft.log import payload_bytes
from zmqbroker.raft.messages import Entry, EntryType, Message, MessageType, Role
from zmqbroker.raft.progress import Progress, ProgressState
from zmqbroker.raft.quorum import committed_index
from zmqbroker.raft.state import RaftState

__all__ = [
    "Payload",
    "append",
    "broadcast_append",
    "broadcast_heartbeat",
    "fits",
    "handle_append_entries",
    "handle_append_response",
    "handle_heartbeat",
    "handle_heartbeat_response",
    "maybe_commit",
    "report_unreachable",
    "send_append",
    "start_term",
    "tell_commit",
]

#: What becomes an entry when it has an index and a term: type, data, and the data's crc32c if that is known.
Payload = tuple[EntryType, bytes, int | None]


def start_term(state: RaftState) -> None:
    """Append the empty entry that lets a new leader commit what earlier terms left (Raft §8)."""
    append(state, ((EntryType.NORMAL, b"", None),))


def fits(state: RaftState, size_bytes: int) -> bool:
    """Whether so many bytes of payload may be appended now."""
    # With nothing under way an entry of any size is admitted, or it never could be; empty ones always are.
    return not (state.uncommitted_bytes and size_bytes) or (
        state.uncommitted_bytes + size_bytes <= state.config.uncommitted_bytes_max
    )


def append(state: RaftState, payloads: Sequence[Payload]) -> int:
    """Append entries at the leader; the last one's index. The caller has asked `fits` and broadcasts."""
    first = state.log.last_index + 1
    entries = tuple(Entry(first + n, state.term, data, kind, crc) for n, (kind, data, crc) in enumerate(payloads))
    state.log.append(entries)
    state.uncommitted_bytes += payload_bytes(entries)
    # Delivered back when the entries are durable here.
    state.send(Message(MessageType.APPEND_ENTRIES_RESPONSE, to=state.id, index=entries[-1].index))
    return entries[-1].index


def broadcast_append(state: RaftState) -> None:
    """Send to every follower that may be sent to, at least the commit index."""
    for node in state.others:
        send_append(state, node, send_if_empty=True)


def broadcast_heartbeat(state: RaftState) -> None:
    """Send a heartbeat to every follower; it also asks for the reads that came so far."""
    state.reads.round_due = False
    for node in state.others:
        progress = state.progress[node]
        # Beyond match_index the follower may hold another leader's entries.
        commit = min(progress.match_index, state.log.commit_index)
        state.send(Message(MessageType.HEARTBEAT, to=node, commit=commit, context=state.reads.round))
        progress.sent_commit = commit


def send_append(state: RaftState, to: int, *, send_if_empty: bool) -> bool:
    """Send the next entries, or a snapshot where the log no longer has them; False when nothing was sent."""
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
        return _send_snapshot(state, to, progress)
    if not entries and not send_if_empty:
        return False
    message = Message(MessageType.APPEND_ENTRIES, to=to, index=index, log_term=log_term, entries=entries)
    message.commit = log.commit_index
    state.send(message)
    progress.sent_entries(len(entries), payload_bytes(entries))
    progress.sent_commit = message.commit
    return True


def _send_snapshot(state: RaftState, to: int, progress: Progress) -> bool:
    """The follower needs entries that the log has dropped. To one that does not answer nothing is sent: it would be in vain."""
    if not progress.recent_active:
        state.trace("DEBUG ignore sending snapshot to %x since it is not recently active", to)
        return False
    snapshot = state.log.snapshot()
    if snapshot is None or to not in snapshot.membership.all_nodes:
        # A state of before `to` came would be refused there, and the leader would wait for it in vain.
        text = "DEBUG %x failed to send snapshot to %x because snapshot is temporarily unavailable"
        state.trace(text, state.id, to)
        state.compacted_probes += 1
        return False
    text = "DEBUG %x [firstindex: %d, commit: %d] sent snapshot[index: %d, term: %d] to %x [%s]"
    mine = (state.id, state.log.first_index, state.log.commit_index)
    state.trace(text, *mine, snapshot.index, snapshot.term, to, progress)
    progress.become_snapshot(snapshot.index)
    state.trace("DEBUG %x paused sending replication messages to %x [%s]", state.id, to, progress)
    state.send(Message(MessageType.INSTALL_SNAPSHOT, to=to, snapshot=snapshot))
    return True


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


def handle_append_response(state: RaftState, message: Message) -> bool:
    """Learn at the leader what a member, itself included, holds; False when that is nothing new."""
    progress = state.progress[message.sender]
    progress.recent_active = True
    if message.reject:
        _handle_reject(state, message, progress)
        return False
    # The same match again still tells that a probed follower can be replicated to.
    probed = progress.state is ProgressState.PROBE
    if not progress.maybe_update(message.index) and not (probed and progress.match_index == message.index):
        return False
    _stream(state, message, progress)
    remote = message.sender != state.id
    moved = maybe_commit(state)
    if not _waits_for_tick(state):
        if moved:
            broadcast_append(state)
        elif remote and progress.can_bump_commit(state.log.commit_index):
            # The next heartbeat would tell it too, but later.
            send_append(state, message.sender, send_if_empty=True)
    if remote:
        # One answer may have freed room for several messages. Ends: each sends entries, or nothing is left, or it is full.
        while progress.next_index <= state.log.last_index and send_append(state, message.sender, send_if_empty=False):
            pass
    return True


def _waits_for_tick(state: RaftState) -> bool:
    """Whether followers hear of a commit with the next entries, or at the next tick.

    Nobody waits for what a follower knows to be committed, and to tell it at once doubles the messages of a client that sends
    one thing at a time. A change of members is told at once: a leader that it removes is gone at the next tick.
    """
    return state.config.commit_at_tick and state.pending_change_index <= state.log.applied_index


def tell_commit(state: RaftState) -> None:
    """Tell those followers what is committed that no message has told yet."""
    for node in state.others:
        if state.progress[node].can_bump_commit(state.log.commit_index):
            send_append(state, node, send_if_empty=True)


def _stream(state: RaftState, message: Message, progress: Progress) -> None:
    """Where the logs meet is known: entries may follow each other."""
    if progress.state is ProgressState.PROBE:
        progress.become_replicate()
    elif progress.state is ProgressState.REPLICATE:
        progress.inflights.free_to(message.index)
    elif progress.match_index + 1 >= state.log.first_index:
        # Any snapshot, or none, brought it so far that the log can go on from there.
        text = "DEBUG %x recovered from needing snapshot, resumed sending replication messages to %x [%s]"
        state.trace(text, state.id, message.sender, progress)
        progress.become_probe()
        progress.become_replicate()


def maybe_commit(state: RaftState) -> bool:
    """Commit what a majority holds, if it is of this term; True when that moved the commit index."""
    match_indexes = {node: progress.match_index for node, progress in state.progress.items()}
    return state.log.maybe_commit(committed_index(match_indexes, state.membership), state.term)


def _handle_reject(state: RaftState, message: Message, progress: Progress) -> None:
    text = "DEBUG %x received MsgAppResp(rejected, hint: (index %d, term %d)) from %x for index %d"
    state.trace(text, state.id, message.reject_hint, message.log_term, message.sender, message.index)
    hint = message.reject_hint
    if message.log_term > 0:
        # The follower searched its log for our term; searching ours for its term skips the rest of a differing term.
        hint, _ = state.log.find_conflict_by_term(hint, message.log_term)
    if progress.maybe_decrease(message.index, hint):
        state.trace("DEBUG %x decreased progress of %x to [%s]", state.id, message.sender, progress)
        if progress.state is ProgressState.REPLICATE:
            progress.become_probe()
        send_append(state, message.sender, send_if_empty=True)


def handle_heartbeat(state: RaftState, message: Message) -> None:
    """Commit what the leader says is committed and held here, and answer at once: it promises nothing about the disk."""
    state.log.commit_to(message.commit)
    state.send(Message(MessageType.HEARTBEAT_RESPONSE, to=message.sender, context=message.context))


def handle_heartbeat_response(state: RaftState, message: Message) -> None:
    """A member is there: try again what a pause held back."""
    progress = state.progress[message.sender]
    progress.recent_active = True
    progress.resume()
    if progress.match_index < state.log.last_index or progress.state is ProgressState.PROBE:
        send_append(state, message.sender, send_if_empty=True)


def report_unreachable(state: RaftState, node: int) -> None:
    """At the leader: what is under way to `node` may be lost, so find out anew where the logs meet."""
    progress = state.progress.get(node)
    if state.role is not Role.LEADER:
        return
    if progress is None:
        state.trace("DEBUG %x no progress available for %x", state.id, node)
        return
    if progress.state is ProgressState.REPLICATE:
        progress.become_probe()
    state.trace("DEBUG %x failed to send message to %x because it is unreachable [%s]", state.id, node, progress)
