"""What the state machine answered, as reply codes and fields (docs/PROTOCOL.md §3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zmqbroker.commands import (
    Acked,
    Audited,
    BindingChanged,
    Changed,
    ChannelChanged,
    Closed,
    ConsumerOpened,
    Counted,
    DefaultsChanged,
    HandedOver,
    Origin,
    Peeked,
    Piece,
    ProducerOpened,
    Published,
    PublishedAll,
    Result,
    Roster,
    RouteChanged,
    ScheduleChanged,
)
from zmqbroker.errors import MalformedFrame, RequestError
from zmqbroker.server.membership import membership_of
from zmqbroker.wire import codec
from zmqbroker.wire.columns import read_groups
from zmqbroker.wire.frames import Reply, error_fields
from zmqbroker.wire.headers import NO_HEADERS, MessageHeaders, decode_message_headers

__all__ = ["PLAIN_COUNT_MAX", "headers_of", "messages_reply", "result_reply", "roster_rows"]

#: Messages in one reply of the plain form: their headers, of 65,535 bytes each, come in its header frame, which has at most
#: 80 MiB, and `max_bytes` counts bodies only.
PLAIN_COUNT_MAX = 1024

ReadEntry = Callable[[int], bytes]


def result_reply(result: Result, confirm: str) -> tuple[Reply, dict[str, Any]]:
    """Code and fields for a result that is neither a refusal nor a waiting receive."""
    match result:
        case Published():
            fields = {
                "sequence": result.first_sequence,
                "count": result.count,
                "time_unix_ns": result.time_unix_ns,
                "duplicate": result.duplicate,
                "confirm": confirm,
            }
            return Reply.SENT, fields | ({"duplicates": result.duplicates} if result.duplicates else {})
        case PublishedAll():
            return Reply.ROUTED, {"results": [_routed(name, one) for name, one in result.results], "confirm": confirm}
        case Counted():
            goes_on = {"next": result.next} if result.next else {}
            return Reply.DONE, {"count": result.count, **goes_on, "confirm": confirm}
        case ChannelChanged() | DefaultsChanged() | ScheduleChanged() | RouteChanged() | BindingChanged():
            return Reply.CHANGED, {**_changed(result), "changed": result.changed, "confirm": confirm}
        case Acked():
            return Reply.ACKED, {"count": result.count, "confirm": confirm}
        case HandedOver():
            done = {"count": result.count, "sent": [list(sent) for sent in result.sent], "time_unix_ns": result.time_unix_ns}
            return Reply.HANDED_OVER, {**done, "duplicate": result.duplicate, "confirm": confirm}
        case ProducerOpened():
            return Reply.PRODUCER, {"last_sequence": result.last_sequence}
        case ConsumerOpened():
            extent = {"position": result.position, "first": result.first, "last": result.last}
            return Reply.CONSUMER, {**extent, "created": result.created, "confirm": confirm}
        case Closed():
            return Reply.CLOSED, {"returned": result.returned}
        case Audited():
            return Reply.AUDITED, {"index": result.index}
        case Roster():
            return Reply.MEMBERS, {"index": result.index, "members": roster_rows(result)}
        case _:
            raise AssertionError(f"no client waits for {result!r}")


def _changed(result: Changed) -> dict[str, str]:
    """What has changed, by its kind."""
    match result:
        case ChannelChanged():
            return {"channel": result.channel}
        case DefaultsChanged():
            return {"pattern": result.pattern}
        case ScheduleChanged():
            return {"schedule": result.name}
        case RouteChanged():
            return {"route": result.name}
        case BindingChanged():
            return {"binding": result.source}


def _routed(destination: str, result: Published | RequestError) -> dict[str, Any]:
    """What became of a message at one stored destination."""
    if isinstance(result, RequestError):
        return {"destination": destination, **error_fields(result)}
    stored = {"sequence": result.first_sequence, "count": result.count, "time_unix_ns": result.time_unix_ns}
    duplicates = {"duplicates": result.duplicates} if result.duplicates else {}
    return {"destination": destination, **stored, "duplicate": result.duplicate, **duplicates}


def roster_rows(roster: Roster) -> list[dict[str, Any]]:
    """The members for people: id, name, what it is, and whose place it takes."""
    membership = membership_of(roster)
    names = {member.id: member.name for member in roster.members}
    return [
        {
            "id": member.id,
            "name": member.name,
            "uid": member.uid.hex(),
            "peer": member.peer,
            "voter": membership.is_voter(member.id),
            "joining": member.voter and not membership.is_voter(member.id),
            "replaces": names.get(member.replaces),
        }
        for member in roster.members
    ]


def messages_reply(
    found: Sequence[Piece], read: ReadEntry, *, plain: bool, size_max: int | None = None
) -> tuple[dict[str, Any], list[bytes]]:
    """Fields and body frames of the MESSAGES reply; `read` gives the payload of an entry.

    With `size_max` the first pieces whose batch frames have no more bytes than that together, or the first one alone.
    """
    frames: list[bytes] = []
    room = size_max
    for piece in found:
        frame = _batch(piece, read)
        if room is not None:
            room -= len(frame)
            if room < 0 and frames:
                break
        frames.append(frame)
    told = found[: len(frames)]
    return _plain(told, frames) if plain else ({"pieces": [_row(piece) for piece in told]}, frames)


def _row(piece: Piece) -> list[Any]:
    receipt = piece.receipt
    row: list[Any] = [receipt.assigning, receipt.first, receipt.last, piece.delivery_count, piece.time_unix_ns]
    if isinstance(piece, Peeked):
        return [*row, None if piece.origin is None else _origin(piece.origin, 0), _state(piece)]
    return row if piece.origin is None else [*row, _origin(piece.origin, 0)]


def _state(piece: Piece) -> dict[str, Any]:
    """Of messages that were only looked at: whether they are ready, and when they will be."""
    if not isinstance(piece, Peeked):
        return {}
    return {"state": piece.state, **({"due_unix_ns": piece.due_unix_ns} if piece.due_unix_ns else {})}


def _origin(origin: Origin, offset: int) -> dict[str, Any]:
    return {
        "channel": origin.channel,
        "sequence": origin.sequence + offset,
        "delivery_count": origin.delivery_count,
        "reason": origin.reason,
    }


def _batch(piece: Piece, read: ReadEntry) -> bytes:
    high = piece.low + piece.receipt.last - piece.receipt.first + 1
    return codec.slice_batch(read(piece.index), piece.position, piece.size, piece.low, high)


def _plain(pieces: Sequence[Piece], frames: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
    messages: list[dict[str, Any]] = []
    bodies: list[bytes] = []
    for piece, frame in zip(pieces, frames, strict=True):
        contents = codec.decode_batch(frame)
        groups = read_groups(frame, contents.header)
        for number, body in enumerate(contents.bodies):
            headers = headers_of(contents.headers[number]) if contents.headers else NO_HEADERS
            origin = {"origin": _origin(piece.origin, number)} if piece.origin is not None else {}
            compressed = {"compressed": True} if contents.header.flags & 1 else {}
            sender = {"client_id": headers.client_id, "trace": headers.trace}
            group = {"group": groups[number]} if groups and groups[number] else {}
            messages.append(
                {
                    "sequence": piece.receipt.first + number,
                    "assigning": piece.receipt.assigning,
                    "delivery_count": piece.delivery_count,
                    "time_unix_ns": piece.time_unix_ns,
                    "id": contents.ids[number].decode() if contents.ids else "",
                    "metadata": headers.metadata or "",
                    "tags": dict(headers.tags or {}),
                    **origin,
                    **compressed,
                    **{name: value for name, value in sender.items() if value},
                    **group,
                    **_state(piece),
                }
            )
            bodies.append(bytes(body))
    return {"messages": messages}, bodies


def headers_of(packed: bytes) -> MessageHeaders:
    """A producer's headers, which the broker never checked: what cannot be read counts as none."""
    try:
        return decode_message_headers(packed)
    except MalformedFrame:
        return NO_HEADERS
