"""Sizes, durations and instants as people read and write them. Scripts get the exact numbers under --json."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import click

from zmqbroker.wire.frames import U64_MAX

__all__ = ["duration_text", "exact_size_text", "instant", "instant_text", "plain_text", "size_text"]

_SIZES = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_DURATIONS_MS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"), (1, "ms"))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def size_text(size: int) -> str:
    """Bytes in the largest unit that they fill, with one digit behind the point, rounded down."""
    for unit, name in _SIZES:
        if size >= unit:
            return f"{size * 10 // unit / 10:.1f} {name}"
    return f"{size} B"


def exact_size_text(size: int) -> str:
    """Bytes in the largest unit of which they are a whole number; nothing is rounded."""
    for unit, name in _SIZES:
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size:,} B"


def duration_text(duration_ms: int) -> str:
    """Milliseconds in days, hours, minutes and so on; nothing is rounded."""
    parts, rest = [], duration_ms
    for unit, name in _DURATIONS_MS:
        count, rest = divmod(rest, unit)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts) or "0 ms"


def instant_text(time_unix_ns: int) -> str:
    """Date and time to the second, UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time_unix_ns // 1_000_000_000))


def plain_text(text: str) -> str:
    """Somebody's text for a terminal: as it is, or in the Python notation when it holds what is not to be printed."""
    return text if text.isprintable() else repr(text)


def instant(text: str) -> int:
    """The type of an option: ISO 8601, UTC unless it says otherwise, or nanoseconds since 1970; the value is the latter."""
    time_unix_ns = _read_instant(text)
    if time_unix_ns is None or not 0 <= time_unix_ns <= U64_MAX:
        raise click.BadParameter(f"{text!r} is no instant such as 2026-01-31T12:00:00Z, nor nanoseconds since 1970")
    return time_unix_ns


def _read_instant(text: str) -> int | None:
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1_000
