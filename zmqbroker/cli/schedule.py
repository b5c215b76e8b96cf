"""`zmqbroker schedule`: messages that the cluster sends again and again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from zmqbroker.cli.options import CommandContext, json_option, timeout_option, url_option
from zmqbroker.cli.output import emit_json, emit_line, emit_table, note
from zmqbroker.cli.readable import duration_text, instant_text, plain_text

if TYPE_CHECKING:
    from zmqbroker.client import Client

__all__ = ["schedule"]

_TIMEOUT_MS = 30_000


@click.group()
def schedule() -> None:
    """Have messages sent again and again, by the cluster itself."""


@schedule.command()
@click.argument("name")
@click.argument("channel")
@click.argument("text")
@click.option("--cron", default="", metavar="FIELDS", help='When, in UTC: minute, hour, day, month, week day: "0 3 * * *".')
@click.option("--every-ms", default=0, metavar="N", help="Or every so many milliseconds, at least 1000.")
@click.option("--delay-ms", default=0, metavar="N", help="With --every-ms: the first time so long after now.")
@click.option("--times", default=0, metavar="N", help="How often at most; 0: any number.")
@click.option("--id", default="", help="Id of each message.")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def create(
    context: CommandContext,
    /,
    name: str,
    channel: str,
    text: str,
    url: str,
    timeout_ms: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Have TEXT sent to CHANNEL again and again, as the schedule NAME.

    One that is there and says the same is fine; with another one the command is refused and names what differs.
    """
    body = text.encode(errors="surrogateescape")
    created = context.run(url, timeout_ms, lambda client: client.schedules.create(name, channel, body, **options))
    if as_json:
        emit_json({"schedule": name, "created": created})
    else:
        emit_line(f"{plain_text(name)}: {'created' if created else 'it is there already, and says the same'}")


@schedule.command()
@click.argument("name")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def delete(context: CommandContext, name: str, url: str, timeout_ms: int, as_json: bool) -> None:
    """Delete the schedule NAME; the messages that it has sent stay."""
    context.run(url, timeout_ms, lambda client: client.schedules.delete(name))
    if as_json:
        emit_json({"schedule": name, "deleted": True})
    else:
        emit_line(f"{plain_text(name)}: deleted")


@schedule.command(name="list")
@click.option("--search", default="", metavar="TEXT", help="Only schedules with this text in their names.")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def list_(context: CommandContext, search: str, url: str, timeout_ms: int, as_json: bool) -> None:
    """List all schedules, with what they have sent and when they send next."""
    found = context.run(url, timeout_ms, partial(_found, search))
    if as_json:
        emit_json(found)
    elif found:
        _show(found)
    else:
        note("zmqbroker: no schedules" + (f" with {search!r} in their names" if search else ""))


async def _found(search: str, client: Client) -> list[dict[str, Any]]:
    return [row async for row in client.schedules.list(search)]


def _show(found: Iterable[Mapping[str, Any]]) -> None:
    rows = [
        (
            plain_text(row["name"]),
            plain_text(row["channel"]),
            _when(row["plan"]),
            "ended" if row["next_unix_ns"] is None else instant_text(row["next_unix_ns"]),
            "-" if row["times_left"] is None else row["times_left"],
            row["stored"],
            row["skipped"],
        )
        for row in found
    ]
    emit_table(("schedule", "channel", "when", "next (UTC)", "left", "sent", "skipped"), rows, unbroken=("when", "next (UTC)"))


def _when(plan: Mapping[str, Any]) -> str:
    return plain_text(plan["cron"]) if "cron" in plan else f"every {duration_text(plan.get('every_ms', 0))}"
