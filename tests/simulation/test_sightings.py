"""The verdict on channels with rules can fail: each thing that must not happen, told to it by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.fault.history import Outcome, Send
from tests.simulation.message_ledger import MessageLedger
from tests.simulation.sightings import AckSeen, Seen, Sightings
from tests.simulation.tracked import Tracked

ONE, TWO = ("p", 1), ("p", 2)


def seen_well() -> tuple[Sightings, MessageLedger]:
    """Two messages that were confirmed; the first was delivered twice and acked, the second waits."""
    ledger, seen = MessageLedger(lambda invariant, text, node: None), Sightings()
    for sequence in (1, 2):
        ledger.places["c", sequence] = Tracked((1, 16, sequence - 1), "c", sequence, 0, 0)
        seen.sends["c"].append(Send("p", sequence, Outcome.CONFIRMED, sequence * 10, sequence * 10 + 5, sequence))
    first = ledger.places["c", 1]
    first.ended, first.acked_under = "acked", 200
    seen.seen += [Seen(ONE, "c", 100), Seen(ONE, "c", 200)]
    seen.acks.append(AckSeen(ONE, "c", 1, 200))
    return seen, ledger


def test_verdict_of_what_is_right_finds_nothing() -> None:
    seen, ledger = seen_well()
    assert list(seen.faults(ledger)) == []


@pytest.mark.parametrize("how", ["expired", "dropped"])
def test_verdict_of_an_ack_that_found_its_message_over_finds_nothing(how: str) -> None:
    seen, ledger = seen_well()
    first = ledger.places["c", 1]
    first.ended, first.acked_under = how, 0
    seen.acks[0] = AckSeen(ONE, "c", 1, 100)
    assert list(seen.faults(ledger)) == []


def _confirm_other(seen: Sightings, ledger: MessageLedger, **values: int) -> None:
    send = seen.sends["c"].pop()
    fields = {"invoke_ns": send.invoke_ns, "complete_ns": send.complete_ns, "sequence": send.sequence, **values}
    seen.sends["c"].append(Send("p", 2, Outcome.CONFIRMED, **fields))


BREAKS: list[tuple[str, Callable[[Sightings, MessageLedger], object]]] = [
    ("that nobody sent", lambda seen, ledger: seen.seen.append(Seen(("q", 1), "c", 1))),
    ("was refused for good", lambda seen, ledger: seen.sends["c"].append(Send("q", 1, Outcome.REFUSED, 1, 2))),
    ("was never delivered", lambda seen, ledger: ledger.places.pop(("c", 2))),
    ("acked and never delivered", lambda seen, ledger: seen.seen.clear()),
    ("after its ack", lambda seen, ledger: seen.seen.append(Seen(ONE, "c.dead", 300))),
    ("has several messages", lambda seen, ledger: _confirm_other(seen, ledger, sequence=1)),
    ("order in which it sent", lambda seen, ledger: _confirm_other(seen, ledger, sequence=1)),
]


@pytest.mark.parametrize(("said", "break_it"), BREAKS)
def test_verdict_names_what_is_wrong(said: str, break_it: Callable[[Sightings, MessageLedger], object]) -> None:
    seen, ledger = seen_well()
    if "refused" in said:
        seen.seen.append(Seen(("q", 1), "c", 1))
    break_it(seen, ledger)
    assert any(said in fault for fault in seen.faults(ledger))
