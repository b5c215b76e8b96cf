"""What is told of channels: counters and settings of one, or a row for each of many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from zmqbroker.cli.output import emit_table
from zmqbroker.cli.readable import instant_text, plain_text, size_text
from zmqbroker.cli.settings import full_settings, setting_text

if TYPE_CHECKING:
    from zmqbroker.client import Client

__all__ = ["exact", "list_channels", "show_channels", "show_counters", "show_settings"]


async def list_channels(search: str, client: Client) -> list[dict[str, Any]]:
    """The channels with a text in their names, as CHANNEL tells of each."""
    return [row async for row in client.channels.list(search)]


def exact(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A channel for scripts: as the broker tells it, with all settings."""
    return {**fields, "settings": full_settings(fields.get("settings", {}))}


def show_counters(fields: Mapping[str, Any]) -> None:
    """Print every counter of a channel, those that are sizes and instants as people read them."""
    rows = [_counter(fields, name) for name in fields if name != "settings"]
    emit_table(("counter", "value"), rows)


def _counter(fields: Mapping[str, Any], name: str) -> tuple[str, str]:
    value = fields[name]
    if isinstance(value, int) and name.endswith("_bytes"):
        return name.removesuffix("_bytes"), size_text(value)
    if isinstance(value, int) and name == "oldest_unix_ns":
        return "oldest (UTC)", _oldest(value)
    if name == "active":
        return name, active_text(value)
    return name, rate_text(fields, name)


def rate_text(fields: Mapping[str, Any], name: str) -> str:
    """A counter or a rate; "-" for a rate that the node cannot tell, as nobody has asked it before."""
    is_unknown = name.endswith("_per_s") and not fields.get("rate_window_ms")
    return "-" if is_unknown else plain_text(str(fields.get(name, "-")))


def active_text(active: object) -> str:
    """The consumer that gets all messages of a channel, "-" where there is none."""
    if not isinstance(active, dict):
        return "-"
    who = active.get("client_id") or f"session {active.get('session')}"
    return plain_text(f"{who}, consumer {active.get('consumer')}")


def show_settings(fields: Mapping[str, Any]) -> None:
    """Print every setting of a channel, "-" for "no such rule"."""
    settings = full_settings(fields.get("settings", {}))
    emit_table(("setting", "value"), [(name, setting_text(name, value)) for name, value in settings.items()])


def show_channels(found: Iterable[Mapping[str, Any]]) -> None:
    """Print a row for each channel."""
    emit_table(
        ("channel", "ready", "in flight", "delayed", "dead-lettered", "size", "oldest (UTC)"),
        [
            (
                plain_text(row["channel"]),
                row["ready"],
                row["in_flight"],
                row["delayed"],
                row["dead_lettered"],
                size_text(row["size_bytes"]),
                _oldest(row["oldest_unix_ns"]),
            )
            for row in found
        ],
        unbroken=("size", "oldest (UTC)"),
    )


def _oldest(time_unix_ns: int) -> str:
    return instant_text(time_unix_ns) if time_unix_ns else "-"
