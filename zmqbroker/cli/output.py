"""What commands print: tables for people, JSON for scripts, notes on standard error.

Standard output carries the result alone, so that a script may read it; colours and progress bars appear on a terminal only.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["body_fields", "body_text", "emit_json", "emit_line", "emit_table", "note", "on_terminal"]

#: Wide enough that no table is cut when it goes into a file or a pipe.
_WIDTH_WITHOUT_TERMINAL = 240


def on_terminal() -> bool:
    """Whether a person is looking at standard output."""
    return sys.stdout.isatty()


def emit_json(value: Any) -> None:
    """Print one JSON document on one line; bytes are not allowed in it."""
    click.echo(json.dumps(value, ensure_ascii=False, separators=(", ", ": ")))


def emit_line(text: str) -> None:
    """Print one line of the result."""
    click.echo(text)


def emit_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, unbroken: Collection[str] = ()) -> None:
    """Print a table; numbers stand on the right, and nothing in a cell is taken for markup.

    Where it is wider than the terminal cells go on in the next line, but those of the columns `unbroken`, which must be narrow.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    kept = [list(row) for row in rows]
    for number, column in enumerate(columns):
        numeric = bool(kept) and all(isinstance(row[number], int) for row in kept)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=column in unbroken)
    for row in kept:
        table.add_row(*(Text(str(cell)) for cell in row))
    Console(file=sys.stdout, width=None if on_terminal() else _WIDTH_WITHOUT_TERMINAL).print(table)


def note(text: str) -> None:
    """Tell a person something on standard error that is not part of the result."""
    click.echo(text, err=True)


def body_text(body: bytes) -> str:
    """A body for a table: its text, or the Python notation of bytes that are none."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return repr(body)
    return text if text.isprintable() else repr(text)


def body_fields(body: bytes) -> dict[str, str]:
    """A body for JSON: `body` when it is text, `body_base64` when it is not."""
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}
