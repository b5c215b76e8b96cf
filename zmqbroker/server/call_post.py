"""What commands and queries want sent, gathered during a pass: messages to clients, and one frame for each node and kind.

Answers that a full link refuses are kept and tried again, up to a bound; calls are not, since their callers can be told.
Source: docs/PROTOCOL.md §8, CALL.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from zmqbroker.realtime.answering import Push
from zmqbroker.wire.call_frames import PeerAnswer, PeerCall, answer_frame, encode_answers, encode_calls, encode_cancels
from zmqbroker.wire.call_tables import ANSWER_TABLE_HEADER, ROWS_MAX, encode_answer_table
from zmqbroker.wire.peer import PeerKind

if TYPE_CHECKING:
    from zmqbroker.server.realtime import Realtime
    from zmqbroker.server.sockets import ClientPort

__all__ = ["CallPost", "is_gone", "random_number"]

#: Answers that are kept for one node that cannot be reached, or whose link is full, beside what the link itself keeps; what
#: comes beyond is lost, and their calls end at their deadlines.
KEPT_COUNT_MAX, KEPT_BYTES_MAX = 10_000, 16 << 20

#: A whole answer: its call's request id, its items, its body.
AnswerParts = tuple[int, bytes, bytes]


class CallPost:
    """The outboxes of one node."""

    def __init__(self, realtime: Realtime, port: ClientPort) -> None:
        self._realtime, self._port = realtime, port
        self._messages: list[Sequence[bytes]] = []  # to clients: routing id, frames …
        self._pushes: dict[int, Sequence[Push]] = {}  # place among them -> the calls that it gives
        self._rows: dict[bytes, tuple[list[bytes], list[AnswerParts]]] = {}  # by routing id: the way, answers for a table
        self._calls: dict[bytes, list[PeerCall]] = {}  # by node
        self._answers: dict[bytes, list[PeerAnswer]] = {}
        self._cancels: dict[bytes, list[int]] = {}
        self._kept_bytes: dict[bytes, int] = {}  # of answers to nodes that took none when they were last tried
        self._trying = False  # whether these are tried again

    def to_client(self, message: Sequence[bytes], pushes: Sequence[Push] = ()) -> None:
        """Send a client a message, its routing id first."""
        if pushes:
            self._pushes[len(self._messages)] = pushes
        self._messages.append(message)

    def answer_in_table(self, way: list[bytes], row: AnswerParts) -> None:
        """Send a client a whole answer, together with others."""
        known = self._rows.get(way[0])
        if known is None:
            self._rows[way[0]] = way, [row]
        else:
            known[1].append(row)

    def call(self, node: bytes, call: PeerCall) -> None:
        """Ask another node."""
        self._calls.setdefault(node, []).append(call)

    def answer(self, node: bytes, answer: PeerAnswer) -> None:
        """Answer another node."""
        answers = self._answers.setdefault(node, [])
        if node in self._kept_bytes:
            size = self._kept_bytes[node] + len(answer.body) + len(answer.items)
            if len(answers) >= KEPT_COUNT_MAX or size > KEPT_BYTES_MAX:
                self.count("answers_lost")
                return
            self._kept_bytes[node] = size
        answers.append(answer)

    def cancel(self, node: bytes, number: int) -> None:
        """Tell another node that a call is over."""
        self._cancels.setdefault(node, []).append(number)

    def count(self, what: str, count: int = 1) -> None:
        """Add to a counter that INFO tells."""
        self._realtime.count(what, count)

    def forget(self, node: bytes) -> None:
        """A node is gone."""
        self._answers.pop(node, None)
        self._kept_bytes.pop(node, None)
        self._cancels.pop(node, None)

    def send_to_clients(self) -> list[tuple[bytes, int, Sequence[Push]]]:
        """Send what is for clients; of each that is refused the routing id, the error's number, and the calls that it gives."""
        self._make_tables()
        if not self._messages:
            return []
        messages, pushes = self._messages, self._pushes
        self._messages, self._pushes = [], {}
        refused = self._port.offer_all(messages)
        unreached = {place for place, _ in refused}
        for place, given in pushes.items():
            if place not in unreached:
                for _, _, asked in given:
                    asked.delivered()
        return [(messages[place][0], fault, pushes.get(place, ())) for place, fault in refused]

    def _make_tables(self) -> None:
        """Make messages of the answers that go in tables; a single one is an ANSWER."""
        for way, rows in self._rows.values():
            for start in range(0, len(rows), ROWS_MAX):
                cut = rows[start : start + ROWS_MAX]
                if len(cut) == 1:
                    request_id, items, body = cut[0]
                    self._messages.append([*way, answer_frame(request_id, items, 1, last=True), body])
                else:
                    self._messages.append([*way, ANSWER_TABLE_HEADER, encode_answer_table(cut)])
        self._rows.clear()

    def send_calls(self) -> list[tuple[bytes, list[PeerCall]]]:
        """Ask other nodes; those that cannot be asked now, with what they should have been."""
        unsent = []
        while self._calls:
            node, calls = self._calls.popitem()
            table, bodies = encode_calls(calls)
            if not self._realtime.tell(PeerKind.CALL, node, {"table": table}, bodies):
                unsent.append((node, calls))
        return unsent

    def send_to_nodes(self) -> None:
        """Send other nodes all the rest, which can wait when it cannot be sent now."""
        trying, self._trying = self._trying, False
        for node in [node for node in self._answers if trying or node not in self._kept_bytes]:
            answers = self._answers[node]
            table, bodies = encode_answers(answers)
            if self._realtime.tell(PeerKind.ANSWER, node, {"table": table}, bodies):
                del self._answers[node]
                self._kept_bytes.pop(node, None)
            elif node not in self._kept_bytes:
                self._kept_bytes[node], self._answers[node] = 0, []
                for answer in answers:
                    self.answer(node, answer)
        while self._cancels:
            node, numbers = self._cancels.popitem()
            self._realtime.tell(PeerKind.CANCEL, node, {"table": encode_cancels(numbers)})  # unsent: the deadline ends it there

    def try_again(self) -> None:
        """What could not be sent before may be sent now."""
        self._trying = True


def random_number() -> int:
    """Where numbers of calls begin: those of one run of a node are no other run's, nor another node's. 62 bits."""
    return int.from_bytes(os.urandom(8)) >> 2


def is_gone(fault: int) -> bool:
    """Whether a client that was refused a message is gone, and not only over its bound."""
    return fault == errno.EHOSTUNREACH
