"""Seeds that once found a bug, each with what it was; they run with every `make sim`.

A seed stands for its bug only as long as nothing before it in the run changes, so each bug has a test of its own as well. They
stay here because a run that went wrong once is a good run to repeat.
"""

from __future__ import annotations

__all__ = ["PINNED"]

PINNED: dict[int, str] = {
    3: "a candidate led before its own vote was durable (election.handle_vote_response)",
    119: "a segment header was read with one read, which may give less (Segment.open)",
    3009: "a leader that was removed stopped leading at once, and two voters became one that did not know it",
    3019: "the same, after many changes",
    3151: "the same, with a longer log at those who were removed than at those who were left",
    2000795: "the last voter had lost in a power cut that it is one, and those who knew it had left (election.tell_commit)",
    1000690: "a move of bodies began after a snapshot had emptied the log (StateFlusher._flush_group, and its twin here)",
    3087: "works of two terms durable at once: an answer of the earlier term was taken for a lie (the simulator's)",
    1000218: "a receipt of what a send had pushed out in the same entry was taken for one that nobody holds (the simulator's)",
    3000296: "an ack that found its message expired was taken for one that had ended it (the simulator's)",
    3193: "a snapshot that came while another was being installed (the simulator's)",
}
