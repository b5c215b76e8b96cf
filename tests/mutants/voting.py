"""Defects of elections."""

from __future__ import annotations

from functools import partial

import pytest

from tests.simulation import node
from zmqbroker.raft import RaftConfig
from zmqbroker.raft.log import RaftLog
from zmqbroker.raft.messages import HardState, Message, MessageType
from zmqbroker.raft.state import RaftState
from zmqbroker.storage import segment_log
from zmqbroker.storage.record import Record, record_of_hard_state

__all__ = [
    "campaign_before_durable",
    "count_too_few",
    "forget_stored_vote",
    "keep_vote_of_earlier_term",
    "length_before_term",
    "vote_before_disk",
    "vote_for_any_log",
]


def answer_before_disk(patch: pytest.MonkeyPatch, kind: MessageType) -> None:
    """Let answers of one kind to other nodes leave before what they promise is durable."""
    send = RaftState.send

    def sent(state: RaftState, message: Message) -> None:
        send(state, message)
        if message.type is kind and message.to != state.id:
            state.messages.append(state.messages_after_append.pop())

    patch.setattr(RaftState, "send", sent)


def vote_before_disk(patch: pytest.MonkeyPatch) -> None:
    """M1."""
    answer_before_disk(patch, MessageType.REQUEST_VOTE_RESPONSE)


def keep_vote_of_earlier_term(patch: pytest.MonkeyPatch) -> None:
    """M2a: no vote for anybody else in any later term."""
    reset = RaftState._reset

    def kept(state: RaftState, term: int) -> None:
        vote = state.vote
        reset(state, term)
        state.vote = vote

    patch.setattr(RaftState, "_reset", kept)


def forget_stored_vote(patch: pytest.MonkeyPatch) -> None:
    """M2b: the log writes the term and not the vote."""

    def record(group: int, state: HardState) -> Record:
        return record_of_hard_state(group, HardState(state.term, 0, state.commit))

    patch.setattr(segment_log, "record_of_hard_state", record)


def length_before_term(patch: pytest.MonkeyPatch) -> None:
    """M6."""

    def is_up_to_date(log: RaftLog, index: int, term: int) -> bool:
        return (index, term) >= (log.last_index, log.last_term)

    patch.setattr(RaftLog, "is_up_to_date", is_up_to_date)


def vote_for_any_log(patch: pytest.MonkeyPatch) -> None:
    """A vote goes to whoever asks, however old the log."""
    patch.setattr(RaftLog, "is_up_to_date", lambda log, index, term: True)


def count_too_few(patch: pytest.MonkeyPatch) -> None:
    """M10."""
    patch.setattr("zmqbroker.raft.quorum.majority", lambda count: max(count // 2, 1))


def campaign_before_durable(patch: pytest.MonkeyPatch) -> None:
    """As the reference does."""
    patch.setattr(node, "RaftConfig", partial(RaftConfig, campaign_before_durable=True))


def keep_commit_to_oneself(patch: pytest.MonkeyPatch) -> None:
    """Who may not campaign says nothing when the leader is gone."""
    patch.setattr("zmqbroker.raft.election.tell_commit", lambda state: None)
