"""`zmqbroker command` and `zmqbroker query`: call, and respond."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import shutil
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import click

from zmqbroker.cli.exits import Exit
from zmqbroker.cli.options import CommandContext, json_option, timeout_option, url_option
from zmqbroker.cli.output import body_fields, body_text, emit_json, emit_line, note
from zmqbroker.cli.queue_send import read_tags
from zmqbroker.cli.readable import plain_text

if TYPE_CHECKING:
    from zmqbroker.client import Answer, Client, Command, Query, Request

__all__ = ["command", "query"]

#: Milliseconds that a caller waits unless it says otherwise.
_TIMEOUT_MS = 10_000
#: Bytes of what a failed command said that go into the error.
_SAID_MAX = 1000

Handler = Callable[["Request"], Coroutine[Any, Any, bytes]]


@click.group()
def command() -> None:
    """Call commands, which somebody executes and answers, and respond to them."""


@click.group()
def query() -> None:
    """Call queries, whose answers may be kept for a while, and respond to them."""


_CALL_OPTIONS = (
    click.argument("name"),
    click.argument("body", default=""),
    click.option("--id", default="", help="An id of your own."),
    click.option("--metadata", help="A text that goes with it."),
    click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="A tag; may be repeated."),
    click.option("--stream", is_flag=True, help="Print each part of the answer as it comes."),
    url_option,
    timeout_option(_TIMEOUT_MS),
    json_option,
    click.pass_obj,
)
_CACHE_OPTIONS = (
    click.option("--cache-key", default="", help="An answer that is kept under this key will do; with --cache-ttl-ms."),
    click.option("--cache-ttl-ms", type=click.IntRange(0, 86_400_000), default=0, help="Keep the answer so long."),
)
_RESPOND_OPTIONS = (
    click.argument("name"),
    click.option("--echo", is_flag=True, help="Answer with what came."),
    click.option("--exec", "program", metavar="CMD", help="Answer with what CMD prints, which gets the body as its input."),
    click.option("--group", default="", help="Of all responders of this group one gets each call."),
    click.option("--concurrency", type=click.IntRange(1, 1000), default=16, show_default=True, help="Calls at a time."),
    click.option("--count", type=click.IntRange(1), help="End after so many calls."),
    url_option,
    click.pass_obj,
)


def _call(context: CommandContext, name: str, body: str, asked: Callable[[Client], Command], **given: Any) -> int:
    options = {"id": given["id"], "metadata": given["metadata"], "tags": read_tags(given["tags"])}
    options["timeout_ms"] = given["timeout_ms"]
    if bool(given.get("cache_key")) != bool(given.get("cache_ttl_ms")):
        raise click.UsageError("--cache-key and --cache-ttl-ms are given together")
    if given.get("cache_key"):
        options |= {"cache_key": given["cache_key"], "cache_ttl_ms": given["cache_ttl_ms"]}
    data = body.encode("utf-8", "surrogateescape")

    async def call(client: Client) -> str:
        if not given["stream"]:
            return _show(await asked(client).call(data, **options), as_json=given["as_json"])
        error = ""
        async for part in asked(client).stream(data, **options):
            error = _show(part, as_json=given["as_json"])
        return error

    error = context.run(given["url"], given["timeout_ms"], call)
    if error:
        note(f"zmqbroker: the responder of {plain_text(name)} failed: {plain_text(error)}")
    return Exit.REFUSED if error else Exit.DONE


def _show(answer: Answer, *, as_json: bool) -> str:
    """Print an answer, or a part of one; what its responder says went wrong."""
    if as_json:
        said = {"executed": answer.executed, "error": answer.error, "cache_hit": answer.cache_hit}
        place = {"part": answer.part, "last": answer.last}
        emit_json({**said, **place, "metadata": answer.metadata, "tags": dict(answer.tags), **body_fields(answer.body)})
    elif answer.body or not answer.error:
        emit_line(body_text(answer.body))
    sys.stdout.flush()
    return answer.error


def _respond(context: CommandContext, name: str, asked: Callable[[Client], Command], **given: Any) -> None:
    if given["echo"] == bool(given["program"]):
        raise click.UsageError("say either --echo or --exec CMD")
    handler = _run(_words(given["program"])) if given["program"] else _echo

    async def respond(client: Client) -> None:
        responder = asked(client)
        await client.info()  # a node that cannot be reached is told before anything is promised
        served = 0
        enough = asyncio.Event()

        async def counted(request: Request) -> bytes:
            nonlocal served
            served += 1
            if served == given["count"]:
                enough.set()
            return await handler(request)

        working = asyncio.create_task(responder.respond(counted, group=given["group"], concurrency=given["concurrency"]))
        note(f"zmqbroker: responding on {plain_text(name)}")
        waiting = asyncio.create_task(enough.wait())
        await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if enough.is_set():
            await client.drain(_TIMEOUT_MS)
        await working

    context.run(given["url"], _TIMEOUT_MS, respond)


def _words(program: str) -> list[str]:
    """The words of a command line, whose first one can be executed. Raises UsageError."""
    try:
        words = shlex.split(program)
    except ValueError as error:
        raise click.UsageError(f"--exec is {program!r}: {error}") from error
    if not words or shutil.which(words[0]) is None:
        raise click.UsageError(f"--exec is {program!r}, which is no program here")
    return words


async def _echo(request: Request) -> bytes:
    return request.body


def _run(words: list[str]) -> Handler:
    async def handler(request: Request) -> bytes:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, stderr=pipe)
        try:
            out, said = await process.communicate(request.body)
        finally:
            with contextlib.suppress(ProcessLookupError):  # it has ended, but for a caller that waits no longer
                process.kill()
        if process.returncode:
            words_said = said[:_SAID_MAX].decode(errors="replace").strip()
            raise ProgramFailed(f"{words[0]} ended with status {process.returncode}: {words_said}")
        return out

    return handler


class ProgramFailed(Exception):
    """The program that should answer ended with an error."""


def _decorated(function: Callable[..., Any], options: tuple[Any, ...]) -> Callable[..., Any]:
    for option in reversed(options):
        function = option(function)
    return function


def _call_command(context: CommandContext, name: str, body: str, **given: Any) -> int:
    """Call NAME with BODY and print the answer. Ends with status 1 when the responder failed, 4 when there is none."""
    return _call(context, name, body, lambda client: client.command(name), **given)


def _call_query(context: CommandContext, name: str, body: str, **given: Any) -> int:
    """Ask NAME with BODY and print the answer. Ends with status 1 when the responder failed, 4 when there is none."""

    def asked(client: Client) -> Query:
        return client.query(name)

    return _call(context, name, body, asked, **given)


def _respond_command(context: CommandContext, name: str, **given: Any) -> None:
    """Answer commands on NAME until Ctrl-C, with what came or with what a program prints."""
    _respond(context, name, lambda client: client.command(name), **given)


def _respond_query(context: CommandContext, name: str, **given: Any) -> None:
    """Answer queries on NAME until Ctrl-C, with what came or with what a program prints."""
    _respond(context, name, lambda client: client.query(name), **given)


command.command("call")(_decorated(_call_command, _CALL_OPTIONS))
command.command("respond")(_decorated(_respond_command, _RESPOND_OPTIONS))
query.command("call")(_decorated(_call_query, (*_CALL_OPTIONS[:-1], *_CACHE_OPTIONS, _CALL_OPTIONS[-1])))
query.command("respond")(_decorated(_respond_query, _RESPOND_OPTIONS))
