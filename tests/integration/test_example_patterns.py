"""The Node.js example of events, stores, calls and routes, with Python both ways, through three nodes.

It is skipped where Node or its packages are missing, like those of queues.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import zmqbroker
from tests.conformance.test_golden_frames import GOLDEN
from tests.integration.test_calls import call_when_known, responding
from tests.integration.test_examples import EXAMPLES, LINES_MAX, TIMEOUT_S, Scripted, followers, node_command, scripted, started
from tests.integration.test_examples import address as place_of
from tests.integration.test_examples import refused as run_refused
from tests.integration.test_examples import run as run_well
from tests.integration.wild import unique_channel
from tests.processes import Cluster, Node, cluster, wait_until
from tests.raw import Raw
from zmqbroker.client import Request as Called
from zmqbroker.errors import NoResponder
from zmqbroker.wire.frames import Reply, Request, decode_header, encode_header

PATTERNS = EXAMPLES / "node/patterns.mjs"
BODIES = ["hello", "grüße – 漢字 🐇", "", "two words"]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words that begin a run; skips without Node or its packages."""
    return [*node_command(tmp_path_factory.mktemp("node"))[:-1], str(PATTERNS)]


@pytest.fixture
def client(trio: Cluster) -> Iterator[zmqbroker.SyncClient]:
    with zmqbroker.SyncClient(trio.url) as made:
        yield made


def words(command: list[str], what: str, place: str | Node, *rest: str) -> list[str]:
    """A run of `noun verb` at a place."""
    return [*command, *what.split(), place if isinstance(place, str) else place_of(place), *rest]


def ended(process: subprocess.Popen[str]) -> list[str]:
    """The lines of a run that must end well and say nothing else."""
    said, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, errors) == (0, "")
    return said.splitlines()


def publish_to(events: zmqbroker.client.SyncEvents, body: bytes, subscribers: int = 1) -> None:
    """Publish when so many subscribers are known, and not before."""

    def published() -> bool:
        result = events.publish(body, confirm=True)
        assert result is not None
        return result.subscribers >= subscribers

    wait_until(published, 20, "the subscription is known")


def test_patterns_are_one_short_file_that_imports_zeromq_and_msgpack_alone() -> None:
    text = PATTERNS.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES_MAX
    assert max(map(len, text.splitlines())) <= 128
    found = set(re.findall(r'from "([^"]+)"', text))
    assert {name for name in found if not name.startswith("node:")} == {"zeromq", "@msgpack/msgpack"}


# --- events ----------------------------------------------------------------------------------------------------------


def test_python_hears_events_that_node_publishes_at_another_node(trio: Cluster, command: list[str]) -> None:
    name, (one, other) = unique_channel(), followers(trio)
    with (
        zmqbroker.SyncClient(other.endpoint) as client,
        zmqbroker.SyncClient(one.endpoint) as beside,
        client.events(f"{name}.*").subscribe(group="workers") as heard,
    ):
        publish_to(beside.events(f"{name}.first"), b"known")
        assert run_well(words(command, "events publish", one, f"{name}.new", *BODIES)) == ["1"] * len(BODIES)
        events: list[Any] = []
        while len(events) <= len(BODIES):
            events += heard.take(10_000)
        assert [(event.channel, event.body.decode()) for event in events[1:]] == [(f"{name}.new", body) for body in BODIES]


def test_node_hears_events_that_python_publishes_at_another_node(trio: Cluster, command: list[str]) -> None:
    name, (one, other) = unique_channel(), followers(trio)
    with (
        zmqbroker.SyncClient(other.endpoint) as client,
        started(words(command, "events subscribe", one, f"{name}.*.new", "5", "workers")) as process,
    ):
        events = client.events(f"{name}.eu.new")
        publish_to(events, b"known")
        for body in BODIES:
            events.publish(body.encode())
        assert ended(process) == ["known", *BODIES]


# --- stores ----------------------------------------------------------------------------------------------------------


def test_python_reads_what_node_stored_and_node_what_python_stored(
    trio: Cluster, command: list[str], client: zmqbroker.SyncClient
) -> None:
    name, (one, other) = unique_channel(), followers(trio)
    store = client.store(name)
    assert run_well(words(command, "store publish", one, name, *BODIES)) == ["1", "2", "3", "4"]
    assert [event.body.decode() for event in store.read(10, start="first")] == BODIES
    store.publish(b"from Python", key="k")
    assert run_well(words(command, "store read", other, name, "5")) == [*BODIES, "from Python"]
    with started(words(command, "store read", other, name, "6")) as waiting:
        store.publish(b"later")
        assert ended(waiting)[-1] == "later"


def test_node_and_python_go_on_where_the_other_stopped_as_one_durable_consumer(
    trio: Cluster, command: list[str], client: zmqbroker.SyncClient
) -> None:
    name, (one, other) = unique_channel(), followers(trio)
    store = client.store(name)
    for body in ("1", "2", "3", "4"):
        store.publish(body.encode())
    assert run_well(words(command, "store subscribe", one, name, "2", "billing")) == ["1", "2"]
    with store.subscribe(consumer="billing", ack="explicit") as events:
        for event in events:
            assert event.body == b"3"
            event.ack()
            break
    assert run_well(words(command, "store subscribe", other, name, "1", "billing")) == ["4"]
    assert [(consumer.name, consumer.position) for consumer in store.consumers()] == [("billing", 5)]


# --- commands and queries ------------------------------------------------------------------------------------------------


def answered(command: zmqbroker.client.SyncCommand, body: bytes, **options: Any) -> zmqbroker.Answer:
    """Call as soon as somebody responds."""

    def answer() -> zmqbroker.Answer | None:
        try:
            return command.call(body, **options)
        except NoResponder:
            return None

    found = wait_until(answer, 20, "a responder")
    assert isinstance(found, zmqbroker.Answer)
    return found


@pytest.mark.parametrize("noun", ["command", "query"])
def test_node_answers_what_python_calls_and_leaves_the_calls_behind_it_to_others(
    trio: Cluster, command: list[str], noun: str
) -> None:
    name, (one, other) = unique_channel(), followers(trio)
    with (
        zmqbroker.SyncClient(other.endpoint) as client,
        started(words(command, f"{noun} respond", one, name, "3")) as process,
    ):
        calls = client.command(name) if noun == "command" else client.query(name)
        answers = [answered(calls, b"web-1"), *(calls.call(body.encode()) for body in ("grüße", ""))]
        assert [answer.body.decode() for answer in answers] == ["WEB-1", "GRÜSSE", ""]
        with pytest.raises(NoResponder) as caught:
            calls.call(b"one more")
        assert not caught.value.outcome_unknown
        assert ended(process) == ["web-1", "grüße", ""]


async def price(request: Called) -> AsyncIterator[bytes] | bytes | zmqbroker.Answer:
    """What the responder of the next test says."""
    if request.body == b"parts":
        return parts()
    if request.body == b"fails":
        return zmqbroker.Answer(b"", error="no such price")
    return b"1.08 for " + request.body


async def parts() -> AsyncIterator[bytes]:
    """An answer in parts."""
    for part in (b"one", b"two"):
        yield part


@pytest.mark.parametrize("noun", ["command", "query"])
def test_node_calls_what_python_answers(trio: Cluster, command: list[str], noun: str) -> None:
    name, (one, other) = unique_channel(), followers(trio)

    def called(*rest: str) -> list[str]:
        return run_well(words(command, f"{noun} call", one, name, *rest))

    async def test() -> None:
        async with zmqbroker.Client(other.endpoint) as there, zmqbroker.Client(one.endpoint) as here:
            calls, asked = (x.command(name) if noun == "command" else x.query(name) for x in (there, here))
            async with responding(calls, price):
                await call_when_known(asked, b"")
                assert await asyncio.to_thread(called, "grüße") == ["1.08 for grüße"]
                failing = words(command, f"{noun} call", one, name, "fails")
                assert await asyncio.to_thread(run_refused, failing) == (1, "", "the responder says: no such price\n")
                if noun == "query":
                    assert await asyncio.to_thread(called, "eur", "key") == ["1.08 for eur"]
                    assert await asyncio.to_thread(called, "eur", "key") == ["1.08 for eur", "(from the cache)"]

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(bounded())


# --- routes --------------------------------------------------------------------------------------------------------------


def test_node_sends_to_a_queue_events_a_store_and_a_route_at_once(
    trio: Cluster, command: list[str], client: zmqbroker.SyncClient
) -> None:
    name = unique_channel()
    client.routes.set(name, f"{name}.audit")
    to = f"{name};events:{name};events_store:{name};routes:{name}"
    assert run_well(words(command, "route send", followers(trio)[0], to, "a", "b")) == [
        line
        for number in "12"
        for line in (f"{name} {number}", f"events:{name} 0", f"events_store:{name} {number}", f"{name}.audit {number}")
    ]
    assert [message.body for message in client.queue(f"{name}.audit").receive(10)] == [b"a", b"b"]
    assert [event.body for event in client.store(name).read(10, start="first")] == [b"a", b"b"]


def test_node_tells_the_result_of_each_destination_that_refused(
    trio: Cluster, command: list[str], client: zmqbroker.SyncClient
) -> None:
    name = unique_channel()
    client.channels.create(name, max_messages=1)
    client.queue(name).send(b"full")
    status, said, errors = run_refused(words(command, "route send", trio.leader(), f"{name};{name}.other", "x"))
    assert (status, said.splitlines(), errors) == (1, [f"{name} CHANNEL_FULL", f"{name}.other CHANNEL_FULL"], "")


def test_repeat_of_a_send_to_events_alone_is_published_again_as_protocol_warns(trio: Cluster) -> None:
    name = unique_channel()
    to = {"to": f"events:{name}", "producer": 5}
    with Raw(trio.leader().endpoint) as raw:
        raw.ask(Request.SUBSCRIBE, {"subscription": 1, "pattern": name, "plain": True})
        raw.ask(Request.OPEN_PRODUCER, to)
        sent = [raw.send(Request.SEND, {**to, "sequence": 1}, [b"x"], request_id=7) for _ in range(2)]
        came = [raw.receive(10_000) for _ in range(4)]
    assert sent == [7, 7]
    assert sorted(Reply(answer.command).name for answer in came if answer is not None) == ["EVENTS"] * 2 + ["ROUTED"] * 2


# --- errors, and nodes that die ------------------------------------------------------------------------------------------

REFUSED = [
    ("events publish", "a.*", "INVALID_CHANNEL"),
    ("events subscribe", "a b", "INVALID_CHANNEL"),
    ("store publish", "a b", "INVALID_CHANNEL"),
    ("store read", "a b", "INVALID_CHANNEL"),
    ("store subscribe", "a", "INVALID_CHANNEL"),  # its consumer has no name
    ("command call", "nobody", "NO_RESPONDER"),
    ("query call", "nobody", "NO_RESPONDER"),
    ("command respond", "a.>", "INVALID_CHANNEL"),
    ("query respond", "a b", "INVALID_CHANNEL"),
    ("route send", "routes:none", "ROUTE_NOT_FOUND"),
    ("route send", "a;;b", "INVALID_"),
]


@pytest.mark.parametrize(("what", "name", "code"), REFUSED)
def test_pattern_that_is_refused_names_the_error(trio: Cluster, command: list[str], what: str, name: str, code: str) -> None:
    status, said, errors = run_refused(words(command, what, trio.leader(), name, "1"))
    assert (status, said, errors.count("\n")) == (1, "", 1)
    assert errors.startswith(code)


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["events", "send", "127.0.0.1:1", "a", "b"],
        ["store", "read", "127.0.0.1:1", "a", "0"],
        ["route", "send", "x", "a", "b"],
    ],
)
def test_pattern_used_wrongly_says_how_to_use_it(command: list[str], wrong: list[str]) -> None:
    status, said, errors = run_refused([*command, *wrong])
    assert (status, said) == (2, "")
    assert errors.startswith("usage, ")


def test_node_subscribes_again_elsewhere_when_its_node_is_killed(tmp_path: Path, command: list[str]) -> None:
    name = unique_channel()
    with cluster(tmp_path) as running:
        leader, (one, other) = running.leader(), followers(running)
        both = f"{place_of(one)},{place_of(other)}"
        with (
            zmqbroker.SyncClient(leader.endpoint) as client,
            started(words(command, "events subscribe", both, name, "2")) as hears,
            started(words(command, "command respond", both, name, "2")) as responds,
        ):
            publish_to(client.events(name), b"before")
            assert answered(client.command(name), b"before").body == b"BEFORE"
            one.kill()
            wait_until(lambda: realtime(running, other) == 2, 20, "both have subscribed again")
            publish_to(client.events(name), b"after")
            assert answered(client.command(name), b"after").body == b"AFTER"
            assert [ended(hears), ended(responds)] == [["before", "after"]] * 2


def realtime(running: Cluster, node: Node) -> int:
    """How many subscriptions a node's clients have."""
    info = running.info(node.name)
    return info["realtime"]["subscriptions"] if info else 0


# --- bytes ---------------------------------------------------------------------------------------------------------------


def golden(name: str, **fields: Any) -> tuple[bytes, list[bytes]]:
    """The header and the bodies of the first golden frame of a name that has these fields."""
    found = next(item for item in GOLDEN["client"] if item["name"] == name and fields.items() <= item["fields"].items())
    return bytes.fromhex(found["header"]), [bytes.fromhex(body) for body in found["bodies"]]


def written(head: bytes) -> bytes:
    """The header as this project's own codec writes what it says: in the shortest form, in the order in which it came."""
    return encode_header(*decode_header(head))


def closed(node: Scripted) -> None:
    """Let a run end."""
    node.answer(node.take(Request.CLOSE)[1].request_id, Reply.CLOSED, {"returned": 0})


def test_node_calls_once_and_reads_an_answer_in_parts(command: list[str]) -> None:
    with scripted() as (place, node), started(words(command, "query call", place, "price", "eur")) as process:
        node.take(Request.HELLO)
        node.answer(node.take(Request.PING)[1].request_id, Reply.PONG, {})
        head, call = node.take(Request.CALL)
        fields = {"kind": "queries", "channel": "price", "timeout_ms": 10_000}
        assert (head, call.bodies) == (encode_header(Request.CALL, call.request_id, fields), [b"eur"])
        node.answer(call.request_id + 1, Reply.ANSWER, {}, b"to nobody's call")
        for part, last in ((1, False), (2, True)):
            node.answer(call.request_id, Reply.ANSWER, {"part": part, "last": last}, b"%d" % part)
        closed(node)
        assert ended(process) == ["1", "2"]


def test_node_does_not_repeat_a_call_whose_outcome_is_unknown(command: list[str]) -> None:
    gone = {"code": "NO_RESPONDER", "message": "they have gone", "retryable": True, "outcome_unknown": True}
    with scripted() as (place, node), started(words(command, "command call", place, "job", "x")) as process:
        node.take(Request.HELLO)
        node.answer(node.take(Request.PING)[1].request_id, Reply.PONG, {})
        node.answer(node.take(Request.CALL)[1].request_id, Reply.ERROR, gone)
        closed(node)
        assert process.communicate(timeout=TIMEOUT_S) == ("", "NO_RESPONDER: they have gone\n")
    assert process.returncode == 1


def test_node_answers_a_golden_call_with_the_golden_bytes(command: list[str]) -> None:
    with scripted() as (place, node), started(words(command, "query respond", place, "price", "1", "g")) as process:
        node.take(Request.HELLO)
        head, subscribed = node.take(Request.SUBSCRIBE)
        assert (head, subscribed.fields["group"], subscribed.fields["credit"]) == (written(head), "g", 1)
        header, bodies = golden("CALLED")
        node.push(header, *bodies)  # ahead of SUBSCRIBED, and of a CANCELLED that says nothing
        node.push(encode_header(Reply.CANCELLED, 0, {}))
        node.answer(subscribed.request_id, Reply.SUBSCRIBED, {"subscription": 1})
        assert node.take(Request.UNSUBSCRIBE)[1].fields == {"subscription": 1}
        head, answer = node.take(Request.RESPOND)
        expected = bytearray(golden("RESPOND", call=2**61 + 5)[0])
        expected[4:12] = head[4:12]  # the request id, which is a client's own
        assert (head, answer.bodies) == (bytes(expected), [b"HELLO"])
        closed(node)
        assert ended(process) == ["hello"]


def test_node_shows_golden_events_grants_more_and_subscribes_again_when_nobody_answers(command: list[str]) -> None:
    with scripted() as (place, node), started(words(command, "events subscribe", place, "orders", "2")) as process:
        sessions = [node.take(Request.HELLO)[1].fields["session"]]
        head, subscribed = node.take(Request.SUBSCRIBE)
        assert head == written(head)
        node.answer(subscribed.request_id, Reply.SUBSCRIBED, {"subscription": 1})
        header, bodies = golden("EVENTS", subscription=2)  # in the plain form
        node.push(header, *bodies)
        granted = node.take(Request.GRANT)[1].fields
        assert granted == {"subscription": 1, "credit": 1001, "credit_bytes": (16 << 20) + 5}
        node.push(*golden("EVENTS", subscription=1, missed=5)[:1])  # which says nothing but that
        node.take(Request.GRANT)
        assert node.take(Request.SUBSCRIBE)[1].fields == subscribed.fields  # which nobody answers
        sessions.append(node.take(Request.HELLO)[1].fields["session"])
        again = node.take(Request.SUBSCRIBE)[1]
        assert again.fields == subscribed.fields
        node.answer(again.request_id, Reply.SUBSCRIBED, {"subscription": 1})
        node.push(header, *bodies)
        node.take(Request.UNSUBSCRIBE)
        assert node.take(Request.GRANT)[1].fields == granted  # credit is counted anew
        closed(node)
        said, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, said, errors) == (0, "hello\nhello\n", "missed until now: 5\n")
    assert sessions == [sessions[0]] * 2


def test_node_takes_its_session_along_when_its_connection_breaks_and_the_node_is_back_at_once(command: list[str]) -> None:
    sessions = []
    with ExitStack() as stack:
        with scripted() as (place, node):
            process = stack.enter_context(started(words(command, "events subscribe", place, "orders", "1")))
            sessions.append(node.take(Request.HELLO)[1].fields["session"])
            node.answer(node.take(Request.SUBSCRIBE)[1].request_id, Reply.SUBSCRIBED, {"subscription": 1})
        with scripted(place) as (_, node):
            sessions.append(node.take(Request.HELLO)[1].fields["session"])
            node.answer(node.take(Request.SUBSCRIBE)[1].request_id, Reply.SUBSCRIBED, {"subscription": 1})
            header, bodies = golden("EVENTS", subscription=2)
            node.push(header, *bodies)
            node.take(Request.UNSUBSCRIBE)
            node.take(Request.GRANT)
            closed(node)
            assert ended(process) == ["hello"]
    assert sessions == [sessions[0]] * 2


def test_node_repeats_a_send_to_destinations_and_shows_golden_results(command: list[str]) -> None:
    to = "orders;events:orders.new;events_store:orders"
    with scripted() as (place, node), started(words(command, "route send", place, to, "x")) as process:
        node.take(Request.HELLO)
        head, opening = node.take(Request.OPEN_PRODUCER)
        assert (head, opening.fields["to"]) == (written(head), to)
        node.answer(opening.request_id, Reply.PRODUCER, {"last_sequence": 0})
        head, send = node.take(Request.SEND)
        fields = {"to": to, "producer": opening.fields["producer"], "sequence": 1, "forward": True}
        assert (head, send.bodies) == (encode_header(Request.SEND, send.request_id, fields), [b"x"])
        busy = {"code": "BUSY", "message": "not now", "retryable": True, "outcome_unknown": False, "retry_ms": 10}
        node.answer(send.request_id, Reply.ERROR, busy)
        node.take(Request.HELLO)
        assert node.take(Request.SEND) == (head, send)
        node.answer(send.request_id, Reply.ROUTED, decode_header(golden("ROUTED", confirm="quorum")[0])[2])
        closed(node)
        assert ended(process) == ["orders 1", "events:orders.new 2", "events_store:orders 9"]


def test_node_reads_on_from_where_the_last_answer_ended_in_the_same_store(command: list[str]) -> None:
    with scripted() as (place, node), started(words(command, "store read", place, "orders", "2")) as process:
        node.take(Request.HELLO)
        head, first = node.take(Request.READ)
        fields = {"channel": "events_store:orders", "start": "first", "max": 2, "plain": True, "forward": True}
        assert (head, first.fields) == (written(head), fields)
        told = {"first": 2**33, "last": 2**33 + 1, "incarnation": 2**40}
        node.answer(first.request_id, Reply.EVENTS_READ, {"messages": [{}], "next": 2**33 + 1, **told}, b"one")
        head, second = node.take(Request.READ)
        onwards = {"start": "sequence", "value": 2**33 + 1, "incarnation": 2**40, "wait_ms": 1000}
        assert (head, second.fields) == (written(head), {**fields, **onwards, "max": 1})
        node.answer(second.request_id, Reply.EVENTS_READ, {"messages": [{}], "next": 2**33 + 2, **told}, b"two")
        closed(node)
        assert ended(process) == ["one", "two"]
