"""The batch frame of some parcels: their bodies, compressed where that is wanted and helps, and the columns they need."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TypeVar

from zmqbroker.client.parcel import Parcel
from zmqbroker.wire.codec import encode_batch
from zmqbroker.wire.columns import NO_TREATMENT, add_columns
from zmqbroker.wire.compression import compress_bodies, mark_compressed

__all__ = ["batch_frame"]

Value = TypeVar("Value")


def batch_frame(channel: str, parcels: Sequence[Parcel], producer: int, base_sequence: int, *, compress: bool) -> bytes:
    """One frame with the messages of all parcels, in order; there is at least one parcel."""
    bodies = parcels[0].bodies if len(parcels) == 1 else list(chain.from_iterable(parcel.bodies for parcel in parcels))
    packed = compress_bodies(bodies) if compress else None
    if packed is not None:
        bodies = packed
    ids = _column([(parcel.ids, parcel.count) for parcel in parcels], b"")
    headers = _column([(parcel.headers, parcel.count) for parcel in parcels], b"")
    frame = encode_batch(channel.encode(), bodies, producer, base_sequence, ids, headers)
    if packed is not None:
        frame = mark_compressed(frame)
    treatments = _column([(parcel.treatments, parcel.count) for parcel in parcels], NO_TREATMENT)
    return frame if treatments is None else add_columns(frame, sum(map(len, bodies)), treatments)


def _column(parts: list[tuple[list[Value] | None, int]], nothing: Value) -> list[Value] | None:
    """A column of a batch from those of its parcels, each with the number of its messages; None when it holds nothing."""
    if not any(values for values, _ in parts):
        return None
    return [value for values, count in parts for value in (*(values or ()), *[nothing] * (count - len(values or ())))]
