"""Commands and queries on three nodes, with both clients and with bare sockets.

The first tests are the rows of the feature table; `docs/GUARANTEES.md` links them.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import zmq

import zmqbroker
from bench.calls import CHANNEL, answering, call, responder
from tests.integration.wild import unique_channel
from tests.processes import Cluster, wait_until
from tests.raw import Answer as Reply
from tests.raw import Raw
from zmqbroker.cli.app import run as main
from zmqbroker.cli.exits import Exit
from zmqbroker.client import Command, Request
from zmqbroker.errors import DeadlineExceeded, LocalProtocolError, NoResponder, RequestError, UnknownCall
from zmqbroker.wire.frames import Reply as Code
from zmqbroker.wire.frames import Request as Ask
from zmqbroker.wire.frames import encode_header

WAIT_MS = 10_000


def node_url(trio: Cluster, place: int) -> str:
    """A URL of one node only."""
    node = list(trio.nodes.values())[place]
    return f"zmqbroker://{node.endpoint.removeprefix('tcp://')}"


@asynccontextmanager
async def responding(command: Command, handler: Any, **options: Any) -> AsyncIterator[None]:
    """A responder that answers until the end; other nodes know of it."""
    task = asyncio.create_task(command.respond(handler, **options))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def call_when_known(command: Command, body: bytes, **options: Any) -> zmqbroker.Answer:
    """Call until the responder is known at the caller's node."""
    for _ in range(200):
        try:
            return await command.call(body, timeout_ms=WAIT_MS, **options)
        except NoResponder:
            await asyncio.sleep(0.02)
    raise AssertionError("no responder is known")


def run(test: Callable[[], Any]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(bounded())


# --- rows of the feature table ---------------------------------------------------------------------------------------


def test_commands_and_queries_go_to_all_responders_without_a_group_and_one_of_each_group_and_the_first_answer_wins(
    trio: Cluster,
) -> None:
    name = unique_channel()
    with subscribed(trio, name, ("", "", "g", "g", "g")) as responders, Raw(node_of(trio, 0)) as caller:
        seen = dict.fromkeys(range(5), 0)
        for turn in range(6):
            request_id = caller.send(Ask.CALL, {"kind": "commands", "channel": name}, [b"%d" % turn])
            given = collect(responders, 3)
            assert {0, 1} < set(given)
            for number in given:
                seen[number] += 1
            first = sorted(given)[turn % 3]
            responders[first].send(Ask.RESPOND, {"call": given[first].fields["call"]}, [b"from %d" % first])
            answer = caller.receive(WAIT_MS)
            assert answer is not None
            assert (answer.request_id, answer.bodies) == (request_id, [b"from %d" % first])
            for number in set(given) - {first}:
                over = next_push(responders[number])
                assert (over.command, over.fields["call"]) == (Code.CANCELLED, given[number].fields["call"])
                late = responders[number].ask(Ask.RESPOND, {"call": given[number].fields["call"]}, [b"late"])
                assert late.code == "UNKNOWN_CALL"
        assert [seen[number] for number in (2, 3, 4)] == [2, 2, 2], "each member of a group in turn"


def test_call_without_a_responder_is_answered_at_once_and_by_name(trio: Cluster) -> None:
    name = unique_channel()
    with (
        zmqbroker.SyncClient(trio.url) as client,
        pytest.raises(NoResponder, match=f"^commands '{name}': nobody answers on that channel now$") as caught,
    ):
        client.command(name).call(b"x", timeout_ms=3_600_000)
    assert not caught.value.outcome_unknown


def test_command_and_query_replies_keep_body_metadata_and_tags_and_say_who_asked(trio: Cluster) -> None:
    async def test() -> None:
        async with (
            zmqbroker.Client(node_url(trio, 0), client_id="asks") as caller,
            zmqbroker.Client(node_url(trio, 1), client_id="knows") as responder,
        ):
            for kind in ("command", "query"):
                name = unique_channel()
                seen: list[Request] = []

                async def handler(request: Request, seen: list[Request] = seen) -> zmqbroker.Answer:
                    seen.append(request)
                    return zmqbroker.Answer(request.body.upper(), "meta", {"a": "b"}, executed=False)

                async with responding(getattr(responder, kind)(name), handler):
                    answer = await call_when_known(
                        getattr(caller, kind)(name), b"body", id="i-1", metadata="m", tags={"k": "v"}, trace="t"
                    )
                assert answer == zmqbroker.Answer(b"BODY", "meta", {"a": "b"}, executed=False)
                request = seen[0]
                assert (request.channel, request.id, request.metadata, dict(request.tags)) == (name, "i-1", "m", {"k": "v"})
                assert (request.client_id, request.trace) == ("asks", "t")

    run(test)


def test_answers_may_come_in_parts(trio: Cluster) -> None:
    async def test() -> None:
        async with zmqbroker.Client(node_url(trio, 0)) as caller, zmqbroker.Client(node_url(trio, 2)) as responder:
            name = unique_channel()

            async def handler(request: Request) -> AsyncIterator[bytes]:
                for number in range(5):
                    yield b"%d" % number

            async with responding(responder.query(name), handler):
                whole = await call_when_known(caller.query(name), b"")
                parts = [part async for part in caller.query(name).stream(b"")]
            assert whole.body == b"01234"
            assert [(part.body, part.part, part.last) for part in parts] == [(b"%d" % n, n + 1, False) for n in range(5)]

    run(test)


def test_query_answers_are_kept_under_a_key_for_a_while_with_hit_flag_and_stats(trio: Cluster) -> None:
    name = unique_channel()
    with subscribed(trio, name, ("",), kind="queries") as (responder,), Raw(node_of(trio, 0)) as caller:
        fields = {"kind": "queries", "channel": name, "cache_key": "eur", "cache_ttl_ms": 400}

        def ask(expected: bytes, said: dict[str, Any] = {}, **more: Any) -> Reply:  # noqa: B006
            caller.send(Ask.CALL, fields | more, [b""])
            answer_next(responder, expected, **said)
            found = caller.receive(WAIT_MS)
            assert found is not None
            return found

        assert ask(b"failed", {"error": "no"}).fields == {"error": "no"}
        assert ask(b"1.08", {"metadata": "m"}).fields == {"metadata": "m"}
        hit = caller.ask(Ask.CALL, fields, [b""])
        assert (hit.fields, hit.bodies) == ({"metadata": "m", "cache_hit": True}, [b"1.08"])
        assert ask(b"other", cache_key="usd").bodies == [b"other"]
        stats = caller.ask(Ask.CACHE_STATS, {"channel": name}).fields
        assert (stats["hits"], stats["misses"], stats["answers"]) == (1, 3, 2)
        wait_until(lambda: not caller_hits(caller, responder, fields), 10, "the answer is too old")


def test_deadline_travels_with_the_call_and_is_visible_to_its_responder(trio: Cluster) -> None:
    name = unique_channel()
    with subscribed(trio, name, ("",)) as (responder,), Raw(node_of(trio, 0)) as caller:
        until_ns = time.time_ns() + 5_000_000_000
        caller.send(Ask.CALL, {"kind": "commands", "channel": name, "deadline_unix_ns": until_ns}, [b""])
        call = next_push(responder)
        assert call.fields["deadline_unix_ns"] == until_ns
        assert 0 < call.fields["remaining_ms"] <= 5_001
        late = caller.ask(Ask.CALL, {"kind": "commands", "channel": name, "deadline_unix_ns": 1}, [b""])
        assert (late.code, late.fields["outcome_unknown"]) == ("DEADLINE_EXCEEDED", False)
        short = caller.ask(Ask.CALL, {"kind": "commands", "channel": name, "timeout_ms": 200}, [b""])
        assert (short.code, short.fields["outcome_unknown"]) == ("DEADLINE_EXCEEDED", True)
        given, over = next_push(responder), next_push(responder)
        assert (over.command, over.fields["call"]) == (Code.CANCELLED, given.fields["call"])


def test_call_is_cancelled_when_its_caller_goes_or_gives_it_up(trio: Cluster) -> None:
    name = unique_channel()
    with subscribed(trio, name, ("",)) as (responder,):
        with Raw(node_of(trio, 0)) as caller:
            request_id = caller.send(Ask.CALL, {"kind": "commands", "channel": name, "timeout_ms": 60_000}, [b"given up"])
            first = next_push(responder)
            caller.send(Ask.CANCEL, {"call": request_id})
            assert next_push(responder).fields["call"] == first.fields["call"]
            caller.send(Ask.CALL, {"kind": "commands", "channel": name, "timeout_ms": 60_000}, [b"gone"])
            second = next_push(responder)
        over = next_push(responder)
        assert (over.command, over.fields["call"]) == (Code.CANCELLED, second.fields["call"])
        assert responder.ask(Ask.RESPOND, {"call": second.fields["call"]}, [b""]).code == "UNKNOWN_CALL"


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_handler_that_raises_answers_with_its_error(trio: Cluster) -> None:
    async def test() -> None:
        async with zmqbroker.Client(node_url(trio, 0)) as caller, zmqbroker.Client(node_url(trio, 1)) as responder:
            name = unique_channel()

            def handler(request: Request) -> Any:
                if request.body == b"type":
                    return 5
                raise ValueError("x" * 4000 + "ж" * 100)

            async with responding(responder.command(name), handler):
                answer = await call_when_known(caller.command(name), b"")
                wrong = await caller.command(name).call(b"type")
            assert answer.error.startswith("ValueError: xxx")
            assert len(answer.error.encode()) <= 4096
            assert (answer.body, answer.executed) == (b"", False)
            assert wrong.error == "LocalProtocolError: an answer must be bytes, an Answer or None, not int"

    run(test)


def test_request_answered_twice_or_late_is_refused_by_name(trio: Cluster) -> None:
    async def test() -> None:
        async with zmqbroker.Client(node_url(trio, 0)) as caller, zmqbroker.Client(node_url(trio, 1)) as responder:
            name = unique_channel()
            async with responder.command(name).requests(concurrency=1) as requests:
                calling = asyncio.create_task(call_when_known(caller.command(name), b"one"))
                request = await anext(requests)
                assert request.remaining_ms > 0
                await request.answer(b"done")
                with pytest.raises(UnknownCall, match="was answered already"):
                    await request.answer(b"again")
                assert (await calling).body == b"done"
                given_up = asyncio.create_task(caller.command(name).call(b"two", timeout_ms=60_000))
                request = await anext(requests)
                given_up.cancel()
                await request.wait_cancelled()
                assert request.cancelled
                with pytest.raises(UnknownCall, match="its caller waits no longer"):
                    await request.answer(b"late")
                with pytest.raises(DeadlineExceeded) as caught:
                    await caller.command(name).call(b"three", timeout_ms=100)
                assert caught.value.outcome_unknown
                stopped = asyncio.create_task(caller.command(name).call(b"four", timeout_ms=60_000))
                await asyncio.sleep(0.2)
            assert (await stopped).error == "the responder has stopped"

    run(test)


def test_responder_that_is_cancelled_answers_what_it_has_with_an_error(trio: Cluster) -> None:
    async def test() -> None:
        async with zmqbroker.Client(node_url(trio, 0)) as caller, zmqbroker.Client(node_url(trio, 1)) as responder:
            name, begun = unique_channel(), asyncio.Event()

            async def handler(request: Request) -> None:
                if request.body == b"stay":
                    begun.set()
                    await asyncio.Event().wait()

            async with responding(responder.command(name), handler, concurrency=2):
                await call_when_known(caller.command(name), b"")
                calls = [asyncio.create_task(caller.command(name).call(b"stay", timeout_ms=60_000)) for _ in range(2)]
                await begun.wait()
            assert [(await call).error for call in calls] == ["the responder has stopped"] * 2

    run(test)


def test_call_under_way_on_a_connection_that_breaks_has_an_unknown_outcome_and_is_not_repeated(trio: Cluster) -> None:
    async def test() -> None:
        async with zmqbroker.Client(node_url(trio, 0)) as caller, zmqbroker.Client(node_url(trio, 1)) as responder:
            name = unique_channel()
            async with responder.command(name).requests() as requests:
                first = asyncio.create_task(call_when_known(caller.command(name), b"first"))
                await (await anext(requests)).answer(b"done")
                await first
                calling = asyncio.create_task(caller.command(name).call(b"second", timeout_ms=30_000))
                request = await anext(requests)
                home = caller._running().home
                assert home._connection is not None
                home._connection.close()
                home._lost()
                with pytest.raises(DeadlineExceeded, match="connection broke") as caught:
                    await calling
                assert caught.value.outcome_unknown
                await request.wait_cancelled()
                assert (await asyncio.gather(caller.command(name).call(b"third"), answer_one(requests)))[0].body == b"third"

    run(test)


async def answer_one(requests: Any) -> None:
    request = await anext(requests)
    await request.answer(request.body)


def test_no_responder_gets_more_calls_than_its_credit_and_none_is_lost(trio: Cluster) -> None:
    async def test() -> None:
        async with zmqbroker.Client(node_url(trio, 0)) as caller, zmqbroker.Client(node_url(trio, 1)) as responder:
            name, at_work, most = unique_channel(), 0, 0

            async def handler(request: Request) -> bytes:
                nonlocal at_work, most
                at_work += 1
                most = max(most, at_work)
                await asyncio.sleep(0.002)
                at_work -= 1
                return request.body

            async with responding(responder.command(name), handler, concurrency=3):
                await call_when_known(caller.command(name), b"")
                answers = await asyncio.gather(*(caller.command(name).call(b"%d" % n) for n in range(200)))
            assert [answer.body for answer in answers] == [b"%d" % n for n in range(200)]
            assert most == 3

    run(test)


def test_client_has_no_more_calls_under_way_than_a_node_takes(trio: Cluster) -> None:
    async def test() -> None:
        async with zmqbroker.Client(node_url(trio, 0)) as caller, zmqbroker.Client(node_url(trio, 1)) as responder:
            command, held = caller.command(unique_channel()), asyncio.Event()

            async def handler(request: Request) -> None:
                if request.body:
                    await held.wait()

            async with responding(responder.command(command.name), handler, concurrency=2000):
                await call_when_known(command, b"")
                calls = [asyncio.create_task(command.call(b"wait", timeout_ms=60_000)) for _ in range(1500)]
                await asyncio.sleep(0.1)
                with pytest.raises(DeadlineExceeded, match="too many calls of this client are under way") as caught:
                    await command.call(b"late", timeout_ms=50)
                assert not caught.value.outcome_unknown
                held.set()
                assert {answer.error for answer in await asyncio.gather(*calls)} == {""}
                parts = [part.body for part in [part async for part in command.stream(b"")]]
                assert parts == [b""]

    run(test)


def test_simple_clients_call_with_a_req_socket(trio: Cluster) -> None:
    name = unique_channel()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with subscribed(trio, name, ("",)) as (responder,), context.socket(zmq.REQ) as req:
        req.setsockopt(zmq.LINGER, 0)
        req.connect(node_of(trio, 2))
        for turn in range(3):
            req.send_multipart([encode_header(Ask.CALL, turn + 1, {"kind": "commands", "channel": name}), b"%d" % turn])
            call = next_push(responder)
            responder.send(Ask.RESPOND, {"call": call.fields["call"]}, call.bodies)
            assert req.poll(WAIT_MS)
            header, body = req.recv_multipart()
            assert (header[3], body) == (Code.ANSWER, b"%d" % turn)
    context.term()


def test_calls_and_answers_that_are_wrong_are_refused_by_name_and_the_node_goes_on(trio: Cluster) -> None:
    good = {"kind": "queries", "channel": unique_channel()}
    cases: list[tuple[Ask, dict[str, Any], list[bytes], str, str]] = [
        (Ask.CALL, {**good, "kind": "events"}, [b""], "INVALID_REQUEST", "field kind is 'events'"),
        (Ask.CALL, {"kind": "queries"}, [b""], "INVALID_REQUEST", "field channel is missing"),
        (Ask.CALL, {**good, "channel": "a.*"}, [b""], "INVALID_CHANNEL", "holds '*'"),
        (Ask.CALL, {**good, "timeout_ms": 0}, [b""], "INVALID_REQUEST", "field timeout_ms is 0"),
        (Ask.CALL, {**good, "cache_key": "k"}, [b""], "INVALID_REQUEST", "field cache_key is 'k' and cache_ttl_ms is 0"),
        (Ask.CALL, {**good, "tags": {"a": 1}}, [b""], "INVALID_REQUEST", "field tags"),
        (Ask.CALL, good, [], "MALFORMED_FRAME", "CALL has 0 body frames, it must have 1"),
        (Ask.CALL, good, [b"", b""], "MALFORMED_FRAME", "CALL has 2 body frames, it must have 1"),
        (Ask.CALL, good, [b"x" * ((4 << 20) + 1)], "MESSAGE_TOO_LARGE", "a message has 4194305 bytes"),
        (Ask.CALL, {**good, "metadata": "x" * 65_536}, [b""], "INVALID_REQUEST", "field metadata has 65536 bytes"),
        (Ask.RESPOND, {}, [b""], "INVALID_REQUEST", "field call is missing"),
        (Ask.RESPOND, {"call": 5}, [b""], "UNKNOWN_CALL", "field call is 5, which this connection was not given"),
        (Ask.RESPOND, {"call": 2**63}, [b""], "UNKNOWN_CALL", "which this connection was not given"),
        (Ask.RESPOND, {"call": 5, "last": 1}, [b""], "INVALID_REQUEST", "field last must be true or false"),
        (Ask.RESPOND, {"call": 5}, [b"x" * ((4 << 20) + 1)], "MESSAGE_TOO_LARGE", "a message has 4194305 bytes"),
        (Ask.RESPOND, {"call": 5}, [], "MALFORMED_FRAME", "RESPOND has 0 body frames"),
        (Ask.CANCEL, {"call": "x"}, [], "INVALID_REQUEST", "field call must be an integer"),
        (Ask.CACHE_STATS, {"channel": "a b"}, [], "INVALID_CHANNEL", "white space"),
        (Ask.SUBSCRIBE, {"subscription": 1, "kind": "queries", "pattern": "a.*"}, [], "INVALID_CHANNEL", "wildcard"),
    ]
    with Raw(node_of(trio, 0)) as raw:
        for command, fields, bodies, code, fault in cases:
            answer = raw.ask(command, fields, bodies)
            assert (answer.code, fault in answer.fields["message"]) == (code, True), (command, fields.keys(), answer.fields)
        raw.send(Ask.CANCEL, {"call": 99})
        assert raw.ask(Ask.PING).command == Code.PONG


def test_client_refuses_what_a_node_would_before_it_is_sent(trio: Cluster) -> None:
    with zmqbroker.SyncClient(node_url(trio, 0)) as client:
        command, query = client.command("svc"), client.query("svc")
        for wrong in (
            lambda: client.command("a.*"),
            lambda: client.query("commands:a"),
            lambda: command.call("text"),  # type: ignore[arg-type]
            lambda: command.call(b"", timeout_ms=0),
            lambda: command.call(b"", tags={"a": 1}),
            lambda: query.call(b"", cache_key="k"),
            lambda: command.requests(concurrency=0),
        ):
            with pytest.raises((RequestError, LocalProtocolError)):
                wrong()


# --- the client for threads ------------------------------------------------------------------------------------------


def test_threads_call_stream_and_respond(trio: Cluster) -> None:
    with zmqbroker.SyncClient(node_url(trio, 0)) as caller, zmqbroker.SyncClient(node_url(trio, 1)) as responder:
        name, other = unique_channel(), unique_channel()
        thread = threading.Thread(target=responder.query(name).respond, args=(lambda request: request.body[::-1],))
        thread.start()
        wait_until(lambda: answers(lambda: caller.query(name).call(b"abc").body == b"cba"), 20, "an answer")

        def in_parts() -> None:
            with responder.command(other).requests() as requests:
                for request in requests:
                    request.send_part(b"one")
                    request.answer(b"two", metadata="m")

        second = threading.Thread(target=in_parts)
        second.start()
        wait_until(lambda: answers(lambda: caller.command(other).call(b"").body == b"onetwo"), 20, "an answer")
        assert [part.body for part in caller.command(other).stream(b"")] == [b"one", b"two"]
        responder.drain(1000)
        thread.join(10)
        second.join(10)
        assert not thread.is_alive()


def answers(call: Callable[[], bool]) -> bool:
    try:
        return call()
    except NoResponder:
        return False


def test_benchmark_of_calls_gets_an_answer_to_each(trio: Cluster) -> None:
    with answering(responder, node_of(trio, 1)), Raw(node_of(trio, 0)) as raw:
        wait_until(lambda: raw.ask(Ask.CALL, {"kind": "commands", "channel": CHANNEL}, [b""]).command == Code.ANSWER, 20, "one")
        _, took_ns = call(node_of(trio, 0), 100, 8, b"x" * 128)
    assert len(took_ns) == 100


# --- the command line ------------------------------------------------------------------------------------------------


CommandLine = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command_line(trio: Cluster, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs one command to its end, always at the same node, which keeps its own answers: status, output, errors."""

    def ran(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return main([*words, "--url", node_url(trio, 0)]), *capsys.readouterr()

    return ran


@contextmanager
def answering_by_command_line(trio: Cluster, *words: str) -> Iterator[None]:
    """A responder of the command line that is known at every node."""
    kind, name = words[0], words[2]
    with subprocess.Popen([sys.executable, "-m", "zmqbroker", *words, "--url", trio.url], stderr=subprocess.PIPE) as process:
        try:
            with zmqbroker.SyncClient(trio.url) as client:
                asked = client.command(name) if kind == "command" else client.query(name)
                wait_until(lambda: answers(lambda: bool(asked.call(b"?"))), 20, "an answer")
            yield
        finally:
            process.terminate()  # not SIGINT, which is ignored where a shell has started the tests in the background


def test_commands_and_queries_on_the_command_line(trio: Cluster, command_line: CommandLine) -> None:
    name, upper = unique_channel(), unique_channel()
    with answering_by_command_line(trio, "command", "respond", name, "--echo"):
        status, out, errors = command_line("command", "call", name, "hello", "--json")
        assert status == Exit.DONE, errors
        told = json.loads(out)
        assert (told["body"], told["executed"], told["error"]) == ("hello", True, "")
    with answering_by_command_line(trio, "query", "respond", upper, "--exec", "tr a-z A-Z"):
        for hit in (False, True):
            told = json.loads(
                command_line("query", "call", upper, "abc", "--cache-key", "k", "--cache-ttl-ms", "60000", "--json")[1]
            )
            assert (told["body"], told["cache_hit"]) == ("ABC", hit)
        assert command_line("query", "call", upper, "abc", "--stream")[1] == "ABC\n"
    assert command_line("command", "call", name, "x")[0] == Exit.NOTHING_THERE
    assert command_line("query", "call", upper, "--cache-key", "k")[0] == Exit.USAGE
    assert command_line("command", "respond", name)[0] == Exit.USAGE
    for program, said in (
        ("/no/such/program x", "is '/no/such/program x', which is no program here"),
        ("'", "No closing quotation"),
    ):
        status, _, errors = command_line("command", "respond", name, "--exec", program)
        assert (status, said in errors) == (Exit.USAGE, True), errors


def test_command_line_tells_what_went_wrong_at_the_responder(trio: Cluster, command_line: CommandLine) -> None:
    name = unique_channel()
    with answering_by_command_line(trio, "command", "respond", name, "--exec", "ls /no/such/place"):
        status, _, errors = command_line("command", "call", name, "x")
    assert status == Exit.REFUSED
    assert "ProgramFailed: ls ended with status 2: ls: cannot access" in errors


# --- helpers on bare sockets -----------------------------------------------------------------------------------------


def node_of(trio: Cluster, place: int) -> str:
    """The endpoint of a node."""
    return list(trio.nodes.values())[place % 3].endpoint


def next_push(raw: Raw) -> Reply:
    """The next message that says something."""
    while True:
        found = raw.receive(WAIT_MS)
        assert found is not None, "nothing came"
        if found.fields:
            return found


def answer_next(responder: Raw, body: bytes, **said: Any) -> None:
    responder.send(Ask.RESPOND, {"call": next_push(responder).fields["call"], **said}, [body])


def caller_hits(caller: Raw, responder: Raw, fields: dict[str, Any]) -> bool:
    """Whether a query is answered from what is kept."""
    request_id = caller.send(Ask.CALL, fields, [b""])
    answer = caller.receive(200)
    if answer is not None:
        return True
    answer_next(responder, b"fresh")
    answer = caller.receive(WAIT_MS)
    assert answer is not None
    assert (answer.request_id, answer.bodies) == (request_id, [b"fresh"])
    return False


def collect(responders: list[Raw], count: int) -> dict[int, Reply]:
    """What came to so many of these: by place."""
    poller = zmq.Poller()
    found: dict[int, Reply] = {}
    for raw in responders:
        poller.register(raw._socket, zmq.POLLIN)
    places = {raw._socket: place for place, raw in enumerate(responders)}
    while len(found) < count:
        ready = poller.poll(WAIT_MS)
        assert ready, f"only {sorted(found)} got the call"
        for socket, _ in ready:
            push = responders[places[socket]].receive(0)
            if push is not None and push.fields:
                found[places[socket]] = push
    return found


@contextmanager
def subscribed(
    trio: Cluster, name: str, groups: tuple[str, ...], kind: str = "commands", credit: int = 100
) -> Iterator[list[Raw]]:
    """A bare responder for each of these groups, one node after the other; the first node knows of all."""
    responders = [Raw(node_of(trio, place + 1)) for place in range(len(groups))]
    try:
        for raw, group in zip(responders, groups, strict=True):
            fields = {"subscription": 1, "pattern": name, "kind": kind, "group": group, "credit": credit}
            assert raw.ask(Ask.SUBSCRIBE, fields).command == Code.SUBSCRIBED
        with Raw(node_of(trio, 0)) as caller:
            wanted = groups.count("") + len({group for group in groups if group})
            wait_until(lambda: reached(caller, responders, name, kind) == wanted, 20, f"{wanted} responders")
        yield responders
    finally:
        for raw in responders:
            raw.close()


def reached(caller: Raw, responders: list[Raw], name: str, kind: str) -> int:
    """How many get a call, which is given up at once."""
    request_id = caller.send(Ask.CALL, {"kind": kind, "channel": name}, [b"?"])
    count = 0
    for raw in responders:
        while (push := raw.receive(100)) is not None:
            count += push.command == Code.CALLED
            if push.command == Code.CALLED:
                break
    caller.send(Ask.CANCEL, {"call": request_id})
    for raw in responders:
        while raw.receive(50) is not None:
            pass
    while caller.receive(0) is not None:
        pass
    return count
