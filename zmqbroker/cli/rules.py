"""How commands tell of rules: of one that was changed, and of all there are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

from zmqbroker.cli.output import emit_json, emit_line, emit_table, note
from zmqbroker.cli.readable import plain_text

if TYPE_CHECKING:
    from zmqbroker.client import Client

__all__ = ["all_of", "searched", "show_rules", "tell_rule"]


def searched(search: str) -> str:
    """What is said of a search, behind what there is none of."""
    return f" with {search!r} in them" if search else ""


def all_of(listed: Callable[[Client], AsyncIterator[dict[str, Any]]]) -> Callable[[Client], Any]:
    """What gathers a list of the client's."""

    async def found(client: Client) -> list[dict[str, Any]]:
        return [row async for row in listed(client)]

    return found


def tell_rule(as_json: bool, fields: dict[str, Any], name: str, text: str) -> None:
    """Tell what was done with one."""
    if as_json:
        emit_json(fields)
    else:
        emit_line(f"{plain_text(name)}: {text}")


def show_rules(as_json: bool, found: list[dict[str, Any]], columns: Mapping[str, str], nothing: str) -> None:
    """Tell of all of them; `columns` are headings with the fields under them."""
    if as_json:
        emit_json(found)
    elif found:
        rows = [tuple(_cell(row[field]) for field in columns.values()) for row in found]
        emit_table(tuple(columns), rows)
    else:
        note(f"zmqbroker: {nothing}")


def _cell(value: object) -> object:
    return plain_text(value) if isinstance(value, str) else value
