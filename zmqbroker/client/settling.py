"""What the holder of messages does with them besides to ack, in requests of a bounded size.

A receipt is refused as a whole when one of its messages is not held any more. So a range that is refused is asked for once more
as single messages, and only those that are really stale are named to the caller. One request at a time: messages that go behind
all others, or to another channel, get there in their order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from zmqbroker.client.receipts import covered, portions, singles, stale_of
from zmqbroker.client.session import Answer
from zmqbroker.commands import Receipt, Settle
from zmqbroker.errors import StaleReceipt
from zmqbroker.wire.requests import RECEIPTS_MAX, SettleRequest

__all__ = ["settle"]

Submit = Callable[[SettleRequest], asyncio.Future[Answer]]
Make = Callable[[tuple[Receipt, ...]], Settle]


async def settle(submit: Submit, make: Make, receipts: Iterable[Receipt]) -> None:
    """Do what `make` makes of receipts. Raises StaleReceipt, when all else is done, naming what was not held any more."""
    refusal: StaleReceipt | None = None
    stale: list[Receipt] = []
    total, unknown = 0, False
    for portion in portions(receipts, RECEIPTS_MAX):
        total += sum(receipt.last - receipt.first + 1 for receipt in portion)
        asked = portion
        while (error := await _refused(submit, make(tuple(asked)))) is not None:
            refusal, unknown = error, unknown or error.outcome_unknown
            named = stale_of(error)
            ranges = any(receipt.last > receipt.first for receipt in asked)
            asked = [single for single in singles(asked) if covered(single, named)]
            if not ranges or not asked:
                stale += asked
                break
    if refusal is not None and stale:
        fields = [[single.assigning, single.first, single.last] for single in stale]
        raise StaleReceipt(refusal.message, outcome_unknown=unknown, stale=fields, count=total - len(stale))


async def _refused(submit: Submit, command: Settle) -> StaleReceipt | None:
    try:
        await submit(SettleRequest(command))
    except StaleReceipt as error:
        return error
    return None
