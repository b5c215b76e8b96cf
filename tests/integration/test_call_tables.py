"""Calls by the table on three nodes: bare sockets, and the Python clients, which use tables by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import zmqbroker
from tests.integration.test_calls import call_when_known, next_push, node_of, node_url, responding, run
from tests.integration.wild import unique_channel
from tests.processes import Cluster, wait_until
from tests.raw import Raw
from zmqbroker.client import Request
from zmqbroker.errors import NoResponder
from zmqbroker.wire.call_tables import (
    decode_answer_table,
    decode_called_table,
    encode_call_table,
    encode_respond_table,
)
from zmqbroker.wire.frames import Reply as Code
from zmqbroker.wire.frames import Request as Ask

WAIT_MS = 10_000
CALLS = encode_call_table([(1001, 0, b"a"), (1002, 5000, b"b"), (1003, 0, b"")])


@contextmanager
def responders(trio: Cluster, name: str, *subscriptions: dict[str, Any]) -> Iterator[list[Raw]]:
    """Responders, the first one at the second node, known at the first node."""
    raws = []
    try:
        for place, fields in enumerate(subscriptions, 1):
            raws.append(Raw(node_of(trio, place)))
            told = {"subscription": 1, "kind": "commands", "pattern": name} | fields
            assert raws[-1].ask(Ask.SUBSCRIBE, told).command == Code.SUBSCRIBED
        with Raw(node_of(trio, 0)) as probe:
            wanted = {"kind": "commands", "channel": name, "timeout_ms": 1}
            for raw in raws:
                wait_until(lambda: probe.ask(Ask.CALL, wanted, [b""]).code == "DEADLINE_EXCEEDED", 20, "a responder is known")
                while raw.receive(100) is not None:
                    pass
        yield raws
    finally:
        for raw in raws:
            raw.close()


def test_calls_of_bare_sockets_travel_as_tables(trio: Cluster) -> None:
    name = unique_channel()
    with responders(trio, name, {"tables": True}) as (responder,), Raw(node_of(trio, 0)) as caller:
        caller.send(Ask.CALL_TABLE, {"kind": "commands", "channel": name, "metadata": "m"}, [CALLS])
        called = next_push(responder)
        assert (called.command, called.fields) == (Code.CALLED_TABLE, {"subscription": 1})
        rows = decode_called_table(called.bodies[0])
        assert [row[4] for row in rows] == [b"a", b"b", b""]
        assert [row[2] > 5000 for row in rows] == [True, False, True]
        responder.send(Ask.RESPOND_TABLE, {}, [encode_respond_table([(row[0], row[4] + b"!") for row in rows])])
        answer = caller.receive(WAIT_MS)
        while answer is not None and answer.command == Code.CANCELLED:  # a probe, which says nothing
            answer = caller.receive(WAIT_MS)
        assert answer is not None
        assert answer.command == Code.ANSWER_TABLE
        answers = decode_answer_table(answer.bodies[0])
        assert answers == [(1001, b"\x80", b"a!"), (1002, b"\x80", b"b!"), (1003, b"\x80", b"!")]
        late = responder.ask(Ask.RESPOND_TABLE, {}, [encode_respond_table([(rows[0][0], b"late")])])
        assert late.code == "UNKNOWN_CALL"


def test_simple_responders_get_the_calls_of_a_table_one_by_one(trio: Cluster) -> None:
    name = unique_channel()
    with responders(trio, name, {}) as (responder,), Raw(node_of(trio, 0)) as caller:
        caller.send(Ask.CALL_TABLE, {"kind": "commands", "channel": name}, [CALLS])
        for body in (b"a", b"b", b""):
            called = next_push(responder)
            assert (called.command, called.bodies) == (Code.CALLED, [body])


def test_tables_that_are_wrong_are_refused_by_name_and_the_node_goes_on(trio: Cluster) -> None:
    good = {"kind": "queries", "channel": unique_channel()}
    cases: list[tuple[Ask, dict[str, Any], list[bytes], str, str]] = [
        (Ask.CALL_TABLE, {**good, "kind": "events"}, [CALLS], "INVALID_REQUEST", "field kind is 'events'"),
        (Ask.CALL_TABLE, {"kind": "queries"}, [CALLS], "INVALID_REQUEST", "field channel is missing"),
        (Ask.CALL_TABLE, {**good, "timeout_ms": 0}, [CALLS], "INVALID_REQUEST", "field timeout_ms is 0"),
        (Ask.CALL_TABLE, {**good, "id": "a"}, [CALLS], "INVALID_REQUEST", "field id is 'a': it belongs to one call"),
        (Ask.CALL_TABLE, {**good, "cache_key": "k"}, [CALLS], "INVALID_REQUEST", "field cache_key is 'k': it belongs"),
        (Ask.CALL_TABLE, good, [], "MALFORMED_FRAME", "CALL_TABLE has 0 body frames, it must have 1"),
        (Ask.CALL_TABLE, good, [CALLS, b""], "MALFORMED_FRAME", "CALL_TABLE has 2 body frames, it must have 1"),
        (Ask.CALL_TABLE, good, [CALLS[:-1]], "MALFORMED_FRAME", "the rows of a table tell of 58 bytes, it has 57"),
        (Ask.CALL_TABLE, good, [b""], "MALFORMED_FRAME", "a table of 0 bytes is shorter than 8"),
        (Ask.CALL_TABLE, good, [bytes(8)], "MALFORMED_FRAME", "a table has 0 rows, allowed is 1 to 1000"),
        (Ask.RESPOND_TABLE, {}, [], "MALFORMED_FRAME", "RESPOND_TABLE has 0 body frames"),
        (Ask.RESPOND_TABLE, {}, [b"?"], "MALFORMED_FRAME", "a table of 1 bytes is shorter than 8"),
        (Ask.RESPOND_TABLE, {}, [encode_respond_table([(5, b"")])], "UNKNOWN_CALL", "1 of 1 rows name calls"),
        (Ask.SUBSCRIBE, {"subscription": 1, "pattern": "a", "tables": 1}, [], "INVALID_REQUEST", "field tables must be true"),
    ]
    with Raw(node_of(trio, 0)) as raw:
        for command, fields, bodies, code, fault in cases:
            answer = raw.ask(command, fields, bodies)
            assert (answer.code, fault in answer.fields["message"]) == (code, True), (command, fields.keys(), answer.fields)
        raw.send(Ask.CALL_TABLE, good, [CALLS])
        refused = [next_push(raw) for _ in range(3)]
        assert [(each.request_id, each.code) for each in refused] == [(at, "NO_RESPONDER") for at in (1001, 1002, 1003)]
        assert raw.ask(Ask.PING).command == Code.PONG


def test_clients_get_the_right_answer_to_each_of_many_calls_at_once(trio: Cluster) -> None:
    name = unique_channel()

    async def test() -> None:
        async def answer(request: Request) -> bytes | zmqbroker.Answer:
            if request.body.endswith(b"7"):
                raise ValueError(request.body.decode())
            return zmqbroker.Answer(request.body, metadata="m") if request.body.endswith(b"5") else request.body

        async with zmqbroker.Client(node_url(trio, 0)) as caller, zmqbroker.Client(node_url(trio, 1)) as other:
            command = caller.command(name)
            async with responding(other.command(name), answer, concurrency=50):
                await call_when_known(command, b"0")
                bodies = [b"%d" % number for number in range(300)]
                answers = await asyncio.gather(*[command.call(body, timeout_ms=WAIT_MS) for body in bodies])
            for body, found in zip(bodies, answers, strict=True):
                if body.endswith(b"7"):
                    assert found.error == f"ValueError: {body.decode()}"
                else:
                    assert (found.body, found.metadata) == (body, "m" if body.endswith(b"5") else None)

    run(test)


def test_clients_hear_of_each_call_that_nobody_answers(trio: Cluster) -> None:
    async def test() -> None:
        async with zmqbroker.Client(node_url(trio, 0)) as caller:
            calls = [caller.command(unique_channel()).call(b"x") for _ in range(2)]
            command = caller.command(unique_channel())
            found = await asyncio.gather(*calls, *[command.call(b"x") for _ in range(20)], return_exceptions=True)
            assert [type(each) for each in found] == [NoResponder] * 22

    run(test)
