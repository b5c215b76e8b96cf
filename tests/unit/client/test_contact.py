"""What is no node for this client is told at once, and what may become one is waited for."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.unit.client.servers import FakeServer
from tests.unit.client.simulation import MS, Simulation
from zmqbroker.client import Client
from zmqbroker.client import connection as connection_module
from zmqbroker.client.contact import Contact, Trouble
from zmqbroker.client.pipeline import PipelineSettings
from zmqbroker.errors import (
    Busy,
    DeadlineExceeded,
    InvalidRequest,
    MalformedFrame,
    RemoteProtocolError,
    RequestError,
    UnsupportedVersion,
)
from zmqbroker.wire.requests import CloseRequest

A, B = "tcp://a:1", "tcp://b:1"
FOREVER_NS = 2**63
OTHER_VERSION = struct.pack("<2sBBQ", b"ZB", 2, 0x81, 1)


def waiting(simulation: Simulation) -> None:
    """A plain request and a message that wait for a node."""
    simulation.submit(CloseRequest(), "close")
    simulation.send(simulation.session.pipeline("q", PipelineSettings()), "message")


def failures(simulation: Simulation) -> list[RequestError | RemoteProtocolError]:
    """What both ended with."""
    return [simulation.result("close"), simulation.result("message")]


# --- when ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", list(Trouble))
def test_contact_what_no_node_does_is_final_and_what_a_node_may_do_is_not(trouble: Trouble) -> None:
    contact = Contact((A,))
    contact.failed(A, trouble, 10)
    moment = {Trouble.CLOSED: 3_000_000_010, Trouble.MUTE: 3_000_000_010, Trouble.STRANGE: 250_000_010}
    waited_out = (Trouble.UNKNOWN, Trouble.UNREACHABLE, Trouble.LOST)
    assert contact.due_ns == moment.get(trouble, 10) if trouble not in waited_out else contact.due_ns >= FOREVER_NS
    assert contact.text() == f"{A}: {trouble.value}"


def test_contact_one_endpoint_that_may_become_a_node_is_waited_for() -> None:
    contact = Contact((A, B))
    contact.failed(A, Trouble.FOREIGN, 10)
    assert contact.due_ns >= FOREVER_NS
    contact.failed(B, Trouble.UNREACHABLE, 20)
    assert contact.due_ns >= FOREVER_NS
    contact.failed(B, Trouble.FOREIGN, 30)
    assert contact.due_ns == 30
    contact.welcomed(B)
    assert contact.due_ns >= FOREVER_NS
    contact.failed(B, Trouble.FOREIGN, 40)
    assert contact.due_ns >= FOREVER_NS, "who has once been welcome is patient"


def test_contact_trouble_that_goes_on_began_when_it_began() -> None:
    contact = Contact((A,))
    contact.failed(A, Trouble.CLOSED, 10)
    contact.failed(A, Trouble.CLOSED, 2_000_000_000)
    assert contact.due_ns == 3_000_000_010
    contact.failed(A, Trouble.MUTE, 2_000_000_000)
    assert contact.due_ns == 5_000_000_000


def test_contact_error_is_that_of_the_node_that_refused_and_names_all_endpoints() -> None:
    contact = Contact((A, B))
    contact.failed(A, Trouble.STRANGE, 10)
    assert isinstance(contact.error(), RemoteProtocolError)
    contact.refused(B, UnsupportedVersion("version 1 is not spoken here", minimum=2, maximum=2), 10)
    error = contact.error()
    assert isinstance(error, UnsupportedVersion)
    assert (error.fields, error.outcome_unknown) == ({"minimum": 2, "maximum": 2}, False)
    assert str(error) == f"{A}: {Trouble.STRANGE.value}; {B}: version 1 is not spoken here"
    assert contact.error() is not error


def test_contact_tells_of_some_endpoints_and_forgets_the_oldest() -> None:
    contact = Contact((A,))
    for number in range(40):
        contact.failed(f"e{number}", Trouble.LOST, number)
    assert contact.text() == "e8: the connection broke; e9: the connection broke; e10: the connection broke; and 29 more"


# --- in a session -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [UnsupportedVersion("no", minimum=2, maximum=2), InvalidRequest("client_id is too long")])
def test_session_refused_for_good_ends_what_waits_at_once(refusal: RequestError) -> None:
    simulation = Simulation(2)
    for node in simulation.nodes.values():
        node.hello_errors += [refusal] * 20
    waiting(simulation)
    simulation.run(300)
    for error in failures(simulation):
        assert type(error) is type(refusal)
        assert "tcp://10.0.0.2:5590: " in str(error)


def test_session_whose_node_is_busy_is_patient() -> None:
    simulation = Simulation(1)
    simulation.nodes[simulation.endpoints[0]].hello_errors += [Busy("a moment")] * 3
    waiting(simulation)
    simulation.run(5_000)
    assert simulation.result("message").sequence == 1


@pytest.mark.parametrize(
    ("frame", "kind", "text"),
    [
        (OTHER_VERSION, UnsupportedVersion, "protocol version 2 is not spoken here, version 1 is"),
        (b"200 OK", RemoteProtocolError, "answers HELLO with what is no frame of zmqbroker"),
    ],
)
def test_session_answered_in_another_language_ends_what_waits_at_once(frame: bytes, kind: type[Exception], text: str) -> None:
    simulation = Simulation(1)
    waiting(simulation)
    simulation.hung.add(simulation.endpoints[0])
    simulation.run(10)
    simulation.session.received(simulation.endpoints[0], [frame], simulation.now_ns)
    simulation.run(260)
    for error in failures(simulation):
        assert isinstance(error, kind)
        assert text in str(error)


def test_session_whose_node_says_nothing_ends_what_waits_after_a_moment() -> None:
    simulation = Simulation(1)
    simulation.hung.add(simulation.endpoints[0])
    waiting(simulation)
    simulation.run(2_900)
    assert not simulation.ended()
    simulation.run(200)
    assert all(isinstance(error, RemoteProtocolError) for error in failures(simulation))
    simulation.submit(CloseRequest(), "at once")
    assert isinstance(simulation.result("at once"), RemoteProtocolError)
    simulation.hung.clear()
    simulation.cut(simulation.endpoints[0])
    simulation.run(200)
    simulation.submit(CloseRequest(), "later")
    simulation.run(10)
    assert simulation.result("later").fields == {"returned": 0}


def test_session_that_was_welcome_once_is_patient_with_all_that_follows() -> None:
    simulation = Simulation(1)
    simulation.run(20)
    simulation.kill(simulation.endpoints[0])
    waiting(simulation)
    simulation.session.lost(simulation.endpoints[0], simulation.now_ns, Trouble.FOREIGN)
    simulation.run(5_000)
    assert not simulation.ended()
    simulation.down.clear()
    simulation.run(200)
    assert simulation.result("message").sequence == 1


def test_session_deadline_says_what_kept_the_request() -> None:
    simulation = Simulation(1)
    simulation.kill(simulation.endpoints[0])
    simulation.submit(CloseRequest(), "close", timeout_ms=100)
    simulation.session.lost(simulation.endpoints[0], simulation.now_ns, Trouble.UNREACHABLE)
    simulation.run(5)
    simulation.session.lost(simulation.endpoints[0], simulation.now_ns, Trouble.UNKNOWN)
    simulation.now_ns += 200 * MS
    simulation.session.tick(simulation.now_ns)
    simulation.completions += simulation.session.take_completions()
    error = simulation.result("close")
    assert isinstance(error, DeadlineExceeded)
    assert str(error).endswith("was not sent in time: tcp://10.0.0.1:5590: nobody knows a host of that name")


# --- with sockets -------------------------------------------------------------------------------------------------------


@contextmanager
def listener(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Something that is no node: `serve` gets each connection."""
    held: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                held.append(server.accept()[0])
            except OSError:
                return
            serve(held[-1])

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in held:
                connection.close()


@pytest.mark.parametrize(
    ("serve", "trouble"),
    [
        (lambda connection: None, Trouble.SILENT),
        (lambda connection: connection.sendall(b"SSH-2.0-OpenSSH\r\n"), Trouble.SILENT),
        (lambda connection: connection.sendall(b"\xff" * 64), Trouble.FOREIGN),
    ],
)
def test_client_of_a_port_that_is_no_node_is_told_so_at_once(
    serve: Callable[[socket.socket], None], trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert connection_module._HANDSHAKE_S < 1, "the error comes within a second"
    monkeypatch.setattr(connection_module, "_HANDSHAKE_S", 0.1)

    async def main(endpoint: str) -> None:
        async with Client(endpoint) as client:
            queue = client.queue("q")
            for action in (queue.send(b"x"), queue.receive(), client.info(), client.channels.create("q")):
                with pytest.raises(RemoteProtocolError, match=f"^no node of zmqbroker: {endpoint}: {trouble.value}$"):
                    await action

    with listener(serve) as endpoint:
        asyncio.run(main(endpoint))


def test_client_of_a_port_that_ends_connections_and_is_a_node_later_finds_it() -> None:
    async def main(gate: str, server: FakeServer) -> None:
        async with Client(gate) as client:
            assert (await client.queue("q").send(b"x")).sequence == 1

    with FakeServer() as server:
        host, port = server.endpoint.removeprefix("tcp://").split(":")
        seen: list[socket.socket] = []
        passed_on: list[socket.socket] = []

        def serve(connection: socket.socket) -> None:
            """A proxy whose node is there from the third connection on."""
            seen.append(connection)
            if len(seen) < 3:
                connection.close()
                return
            behind = socket.create_connection((host, int(port)))
            passed_on.append(behind)
            for source, target in ((connection, behind), (behind, connection)):
                threading.Thread(target=_pass_on, args=(source, target), daemon=True).start()

        with listener(serve) as gate:
            asyncio.run(main(gate, server))
        for behind in passed_on:
            behind.close()
    assert len(seen) >= 3


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            target.sendall(data)
    except OSError:
        pass


def test_contact_of_a_frame_that_is_cut_is_strange() -> None:
    contact = Contact((A,))
    contact.unreadable(A, MalformedFrame("too short"), 5)
    assert (contact.due_ns, contact.text()) == (250_000_005, f"{A}: {Trouble.STRANGE.value}")
