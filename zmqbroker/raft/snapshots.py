"""Installing a leader's snapshot at a follower, and what became of one at the leader.

A snapshot replaces the log and the state of a follower that needs entries the leader has dropped. One that tells nothing new is
answered and ignored; where the log already reaches it, only the commit index moves. Source: Raft §7; etcd/raft.
"""

from __future__ import annotations

from zmqbroker.raft.messages import Message, MessageType, Role, Snapshot
from zmqbroker.raft.progress import ProgressState
from zmqbroker.raft.state import RaftState

__all__ = ["handle_install_snapshot", "report_snapshot"]


def handle_install_snapshot(state: RaftState, message: Message) -> None:
    """Begin to install, or not; the answer leaves when that is durable."""
    snapshot = message.snapshot
    assert snapshot is not None, "belief has refused it"
    answer = Message(MessageType.APPEND_ENTRIES_RESPONSE, to=message.sender)
    if _restore(state, snapshot):
        text = "INFO %x [commit: %d] restored snapshot [index: %d, term: %d]"
        answer.index = state.log.last_index
    else:
        text = "INFO %x [commit: %d] ignored snapshot [index: %d, term: %d]"
        answer.index = state.log.commit_index
    state.trace(text, state.id, state.log.commit_index, snapshot.index, snapshot.term)
    state.send(answer)


def _restore(state: RaftState, snapshot: Snapshot) -> bool:
    log = state.log
    if snapshot.index <= log.commit_index:
        return False
    assert state.role is Role.FOLLOWER
    if state.id not in snapshot.membership.all_nodes:
        text = "WARN %x attempted to restore snapshot but it is not in the ConfState %s; should never happen"
        state.trace(text, state.id, snapshot.membership)
        return False
    if log.term_or_none(snapshot.index) == snapshot.term:
        text = "INFO %x [commit: %d, lastindex: %d, lastterm: %d] fast-forwarded commit to snapshot [index: %d, term: %d]"
        state.trace(text, state.id, log.commit_index, log.last_index, log.last_term, snapshot.index, snapshot.term)
        log.commit_to(snapshot.index)
        return False
    log.restore(snapshot)
    state.set_membership(snapshot.membership, frozenset(snapshot.membership.all_nodes))
    text = "INFO %x [commit: %d, lastindex: %d, lastterm: %d] restored snapshot [index: %d, term: %d]"
    state.trace(text, state.id, log.commit_index, log.last_index, log.last_term, snapshot.index, snapshot.term)
    return True


def report_snapshot(state: RaftState, node: int, *, ok: bool) -> None:
    """At the leader: the bytes of the snapshot under way to `node` have arrived, or never will."""
    progress = state.progress.get(node)
    if state.role is not Role.LEADER or progress is None or progress.state is not ProgressState.SNAPSHOT:
        return
    if not ok:
        progress.pending_snapshot = 0
    progress.become_probe()
    outcome = "succeeded" if ok else "failed"
    text = "DEBUG %x snapshot %s, resumed sending replication messages to %x [%s]"
    state.trace(text, state.id, outcome, node, progress)
    # Sent to again when it answers, or with the next heartbeat: it may still be at work.
    progress.pause()
