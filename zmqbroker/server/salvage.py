"""What is left of a group when the machine of a node that is alone has died, and its store is ahead of its log.

The store has brought to the disk what the log has not: the state of messages whose bodies are lost. They are finished, and
everything else stays: sequences, acks, producers, and the messages whose bodies the log, or the store, still holds. It is
stored like a snapshot that was installed and not yet followed by the log; `opening.align` does the rest.
Source: docs/STORAGE.md §1.
"""

from __future__ import annotations

from zmqbroker.broker import Machine, snapshot
from zmqbroker.storage.interfaces import LogStore, StateStore

__all__ = ["lose_what_the_log_lost"]


def lose_what_the_log_lost(number: int, log: LogStore, state: StateStore) -> int:
    """Finish the messages that have no body any more; returns how many.

    Raises Corruption or StorageError; nothing is changed then.
    """
    view, applied_index = log.view(number), state.applied_index(number)
    low, high = view.first_index(), view.last_index()
    assert applied_index > high, (applied_index, high)
    machine = Machine.restore(applied_index, state.load(number))
    stored = {index: state.body(number, index) or b"" for index in state.body_indexes(number)}
    lost = machine.lose(lambda index: index not in stored and not low <= index <= high)
    items = machine.items()
    live = sorted({index for key, value in items if (index := snapshot.entry_index(key, value)) is not None})
    bodies = ((index, stored[index] if index in stored else log.read(number, index)) for index in live)
    state.install(number, applied_index, max(view.hard_state().term, 1), items, bodies)
    return lost
