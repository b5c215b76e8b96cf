"""Options that several commands share, and the way from a command to a client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zmqbroker.errors import DeadlineExceeded

if TYPE_CHECKING:
    from zmqbroker.client import Client

__all__ = ["CommandContext", "connect_lazily", "json_option", "timeout_option", "together", "url_option", "within"]

_Result = TypeVar("_Result")
_Function = TypeVar("_Function", bound=Callable[..., Any])


def connect_lazily(url: str) -> Client:
    """Make a client; the module is loaded now, so that `--help` does not wait for ZeroMQ."""
    from zmqbroker.client import Client

    return Client(url)


@dataclass(frozen=True)
class CommandContext:
    """What commands get from outside: the way to make a client for a URL."""

    connect: Callable[[str], Client] = connect_lazily


def url_option(function: _Function) -> _Function:
    """Add --url."""
    return click.option(
        "--url",
        envvar="ZMQBROKER_URL",
        default="zmqbroker://127.0.0.1",
        show_default=True,
        help="Where the nodes are: tcp://host:port, ipc:///path or zmqbroker://h1,h2,h3.  [env: ZMQBROKER_URL]",
    )(function)


def json_option(function: _Function) -> _Function:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts instead of tables.")(function)


def timeout_option(default_ms: int) -> Callable[[_Function], _Function]:
    """Make the decorator that adds --timeout-ms."""
    return click.option(
        "--timeout-ms",
        type=click.IntRange(1, 3_600_000),
        default=default_ms,
        show_default=True,
        help="How long to wait for an answer.",
    )


async def together(*jobs: Coroutine[Any, Any, Any]) -> None:
    """Run all jobs until they are done; when one fails, the others are cancelled and its error is raised."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def within(timeout_ms: int, what: str, action: Awaitable[_Result]) -> _Result:
    """Await `action`; DeadlineExceeded naming `what` when it takes longer than `timeout_ms`."""
    try:
        return await asyncio.wait_for(action, timeout_ms / 1000)
    except TimeoutError as error:
        raise DeadlineExceeded(f"no answer from {what} within {timeout_ms} ms") from error
