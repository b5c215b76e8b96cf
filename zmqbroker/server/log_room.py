"""How large a leader's log may get before sends are refused.

Twice its budget: bodies that wait move to the store above one budget, so it gets there only when that cannot keep up, a member
holds it back, or the volume is full. While a follower is brought up by a snapshot the log cannot shrink: what is published
while that is made, sent and installed is what the follower needs next. So the snapshot's size counts as budget meanwhile, and
publishing goes on as long as the snapshot moves at half the rate of what is published. Afterwards the room is given back byte
by byte with what is taken, so that no send stops for it, and a follower that never gets there holds the log to twice its budget
again. A node whose disk is short lends nothing.
"""

from __future__ import annotations

__all__ = ["LOG_OVERRUN", "LogRoom"]

#: Sends are refused when the log is so many times its budget.
LOG_OVERRUN = 2
#: Of what is taken this part is given back: publishes go on at three quarters of the pace at which the log can be emptied.
GIVEN_BACK_PART = 4


class LogRoom:
    """What is lent beyond twice the budget. No clock: it is counted in bytes."""

    def __init__(self, budget_bytes: int) -> None:
        self._base_bytes = LOG_OVERRUN * budget_bytes
        self._lent_bytes = 0

    @property
    def limit_bytes(self) -> int:
        """Size of the log that no send may exceed."""
        return self._base_bytes + self._lent_bytes

    def begin(self, used_bytes: int) -> None:
        """This node leads from now on: a log that grew for an earlier leader's snapshot shrinks by and by, too."""
        self._lent_bytes = max(self._lent_bytes, used_bytes - self._base_bytes)

    def tick(self, snapshot_bytes: int, *, short: bool) -> None:
        """A snapshot of so many bytes is being made, as far as it is, or sent; 0 for none. `short`: this disk is."""
        self._lent_bytes = 0 if short else max(self._lent_bytes, LOG_OVERRUN * snapshot_bytes)

    def taken(self, size_bytes: int) -> None:
        """So much was published."""
        self._lent_bytes = max(self._lent_bytes - size_bytes // GIVEN_BACK_PART, 0)
