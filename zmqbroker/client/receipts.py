"""Receipts in numbers: joined, cut into requests, one by one, and those that a refusal names."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from zmqbroker.commands import Receipt
from zmqbroker.errors import RemoteProtocolError, StaleReceipt

__all__ = ["covered", "merge", "portions", "singles", "stale_of"]


def merge(receipts: Iterable[Receipt]) -> tuple[Receipt, ...]:
    """The fewest receipts that name the same messages."""
    merged: list[Receipt] = []
    for receipt in sorted(receipts):
        last = merged[-1] if merged else None
        if last is not None and last.assigning == receipt.assigning and receipt.first <= last.last + 1:
            merged[-1] = Receipt(last.assigning, last.first, max(last.last, receipt.last))
        else:
            merged.append(receipt)
    return tuple(merged)


def portions(receipts: Iterable[Receipt], count_max: int) -> Iterator[list[Receipt]]:
    """The same messages in the same order, at most `count_max` of them at a time."""
    portion: list[Receipt] = []
    room = count_max
    for receipt in receipts:
        first = receipt.first
        while first <= receipt.last:
            end = min(receipt.last, first + room - 1)
            portion.append(Receipt(receipt.assigning, first, end))
            room -= end - first + 1
            first = end + 1
            if room == 0:
                yield portion
                portion, room = [], count_max
    if portion:
        yield portion


def singles(receipts: Iterable[Receipt]) -> Iterator[Receipt]:
    """A receipt for each message."""
    for receipt in receipts:
        for sequence in range(receipt.first, receipt.last + 1):
            yield Receipt(receipt.assigning, sequence, sequence)


def stale_of(error: StaleReceipt) -> list[Receipt]:
    """The receipts that an error names, in order. Raises RemoteProtocolError when it does not name any."""
    value = error.fields.get("stale")
    if not isinstance(value, list) or not value or not all(map(_is_receipt, value)):
        raise RemoteProtocolError(f"STALE_RECEIPT without its receipts: {error}")
    return sorted(Receipt(*item) for item in value)


def _is_receipt(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(part) is int for part in value)


def covered(single: Receipt, receipts: list[Receipt]) -> bool:
    """Whether one of these receipts, in order and disjoint, names a message."""
    wanted = (single.assigning, single.first)
    position = bisect_right(receipts, wanted, key=lambda receipt: (receipt.assigning, receipt.first)) - 1
    return position >= 0 and receipts[position].assigning == single.assigning and single.last <= receipts[position].last
