"""One request and what is known of its outcome, however often it is sent.

Every attempt is in one of three states: open (no answer yet), refused (the node said that it did nothing), or lost (the
connection went, or the request was sent again before an answer came). A lost attempt may have taken effect, so from then on
the outcome is unknown until a reply says otherwise. That record decides which error ends a request at its deadline.
It keeps the request id and the bytes the same for all attempts (PROTOCOL §2, "Retries"), and sends nothing itself.
"""

from __future__ import annotations

from zmqbroker.errors import DeadlineExceeded, NoMajority, RequestError
from zmqbroker.wire.batch import Buffer

__all__ = ["Exchange", "not_sent", "with_outcome"]


def with_outcome(error: RequestError, outcome_unknown: bool) -> RequestError:
    """A new error like `error`: several waiters must not raise, and add tracebacks to, the same object."""
    return type(error)(error.message, outcome_unknown=outcome_unknown, **error.fields)


class Exchange:
    """The attempts of one request."""

    __slots__ = ("_lost", "endpoint", "frames", "last_error", "open", "request_id", "sent_ns", "what")

    def __init__(self, request_id: int, frames: list[Buffer], what: str) -> None:
        self.request_id = request_id
        self.frames = frames  # the same bytes for every attempt
        self.what = what  # names the request in errors
        self.endpoint: str | None = None  # where the latest attempt went
        self.open = False  # whether the latest attempt still waits for its answer
        self.sent_ns = 0  # when the latest attempt was sent
        self.last_error: RequestError | None = None  # the latest refusal
        self._lost = False  # whether some attempt may have taken effect unseen

    @property
    def may_have_happened(self) -> bool:
        """Whether some attempt may have taken effect, or may yet do so."""
        return self._lost or self.open

    @property
    def repeated(self) -> bool:
        """Whether an attempt before the latest may have taken effect: then a refusal may be about what that one did."""
        return self._lost

    def sent(self, endpoint: str, now_ns: int) -> None:
        """Another attempt went out."""
        self._lost = self._lost or self.open
        self.endpoint, self.open, self.sent_ns = endpoint, True, now_ns

    def lost(self) -> None:
        """The connection of the latest attempt is gone."""
        self._lost = self._lost or self.open
        self.open = False

    def refused(self, endpoint: str, error: RequestError) -> bool:
        """`endpoint` answered with an error; True when that ends the latest attempt, False when it is about an earlier one."""
        self.last_error = error
        if endpoint != self.endpoint or not self.open:
            return False
        self.open = False
        self._lost = self._lost or error.outcome_unknown
        return True

    def expired(self, obstacle: RequestError | str | None = None) -> RequestError:
        """The error that ends the request at its deadline.

        A refusal ends it as itself when nothing can have happened; NO_MAJORITY as the last answer in any case, because it
        says why. Otherwise the outcome is unknown, or nothing was ever sent because of an `obstacle`: no node could be
        reached, or none would have this client.
        """
        unknown, last = self.may_have_happened, self.last_error
        if last is not None and (not unknown or isinstance(last, NoMajority)):
            return with_outcome(last, unknown)
        if unknown:
            return DeadlineExceeded(f"no answer to {self.what} in time: it may or may not have taken effect")
        return not_sent(self.what, obstacle)


def not_sent(what: str, obstacle: RequestError | str | None) -> RequestError:
    """The error of a request that was never sent, so that it certainly did not happen; `obstacle` is what a node or we say."""
    if isinstance(obstacle, RequestError):
        return with_outcome(obstacle, False)
    why = obstacle or "no node could be reached, or none took it"
    return DeadlineExceeded(f"{what} was not sent in time: {why}", outcome_unknown=False)
