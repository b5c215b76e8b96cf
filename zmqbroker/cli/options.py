"""Options that several commands share, and the way from a command to a client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

if TYPE_CHECKING:
    from zmqbroker.client import Client
    from zmqbroker.wire.requests import AnyRequest

__all__ = [
    "Ask",
    "CommandContext",
    "Connect",
    "ask_lazily",
    "connect_lazily",
    "json_option",
    "timeout_option",
    "together",
    "url_option",
]

#: Ends a request for which the command has no option of its own.
TIMEOUT_MS = 30_000

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Result = TypeVar("_Result")


class Connect(Protocol):
    """The way to make a client."""

    def __call__(self, url: str, timeout_ms: int = TIMEOUT_MS) -> Client:
        """A client for the nodes at `url`, whose requests end after `timeout_ms`."""
        ...


def connect_lazily(url: str, timeout_ms: int = TIMEOUT_MS) -> Client:
    """Make a client; the module is loaded now, so that `--help` does not wait for ZeroMQ."""
    from zmqbroker.client import Client

    return Client(url, client_id="zmqbroker command line", timeout_ms=timeout_ms)


class Ask(Protocol):
    """The way to ask one node, and no other in its place."""

    def __call__(self, endpoint: str, request: AnyRequest, timeout_ms: int) -> dict[str, Any]:
        """The fields of the answer of the node at `endpoint`. Raises RequestError or DeadlineExceeded."""
        ...


def ask_lazily(endpoint: str, request: AnyRequest, timeout_ms: int) -> dict[str, Any]:
    """Ask over a connection of its own; the module is loaded now."""
    from zmqbroker.client.node import NodeConnection

    with NodeConnection(endpoint) as node:
        return node.ask(request, timeout_ms).fields


@dataclass(frozen=True)
class CommandContext:
    """What commands get from outside: the ways to the nodes."""

    connect: Connect = connect_lazily
    ask: Ask = ask_lazily

    def run(self, url: str, timeout_ms: int, job: Callable[[Client], Awaitable[_Result]]) -> _Result:
        """Do one thing with a client of its own, in an event loop of its own."""

        async def connected() -> _Result:
            async with self.connect(url, timeout_ms) as client:
                return await job(client)

        return asyncio.run(connected())


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
