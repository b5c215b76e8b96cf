"""The clients of docs/examples in Node, C and Java, with each other and with Python, through three nodes.

A language whose toolchain is missing is skipped; `make deps-full` installs all three.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import zmq

import zmqbroker
from tests.integration.wild import unique_channel
from tests.processes import Cluster, Node, cluster, free_ports, wait_until
from tests.raw import Answer
from zmqbroker.wire.frames import Reply, Request, decode_header, encode_header

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
FILES = {"node": EXAMPLES / "node/client.mjs", "c": EXAMPLES / "c/client.c", "java": EXAMPLES / "java/Client.java"}
LANGUAGES = sorted(FILES)
JARS = [Path("/usr/share/java/jeromq.jar"), Path("/usr/share/java/msgpack-core.jar")]
LINES_MAX = 149

BODIES = ["hello", "grüße – 漢字 🐇", "", "two words"]
#: More than an example takes to give up.
TIMEOUT_S = 60
#: Bodies and arguments are UTF-8 wherever the tests run.
ENVIRONMENT = {**os.environ, "LC_ALL": "C.UTF-8"}

Command = list[str]


def missing(language: str, what: str) -> None:
    """Skip: part of a toolchain is not here."""
    pytest.skip(f"the {language} example needs {what}: make deps-full installs it")


def built(language: str, command: Command) -> None:
    """Run a compiler; it must say nothing."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=ENVIRONMENT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), f"{language}: {done.stderr}"


def node_command(_directory: Path) -> Command:
    """Node takes the file as it is."""
    if not shutil.which("node"):
        missing("Node", "node")
    if not (EXAMPLES / "node/node_modules/zeromq").is_dir():
        missing("Node", "the npm packages zeromq and @msgpack/msgpack")
    return ["node", str(FILES["node"])]


def msgpack_name() -> str:
    """What pkg-config calls msgpack for C here; empty when CZMQ or msgpack is missing."""
    found = (name for name in ("msgpack-c", "msgpack") if not subprocess.call(["pkg-config", "--exists", "libczmq", name]))
    return next(found, "")


def c_command(directory: Path) -> Command:
    """Compile the C example."""
    if not shutil.which("cc") or not shutil.which("pkg-config") or not msgpack_name():
        missing("C", "a C compiler, pkg-config, CZMQ and msgpack")
    words = subprocess.check_output(["pkg-config", "--cflags", "--libs", "libczmq", msgpack_name()], text=True).split()
    program = str(directory / "client")
    built("C", ["cc", "-Wall", "-Wextra", "-Werror", "-o", program, str(FILES["c"]), *words])
    return [program]


def java_command(directory: Path) -> Command:
    """Compile the Java example."""
    if not shutil.which("javac") or not all(jar.exists() for jar in JARS):
        missing("Java", "javac, JeroMQ and msgpack")
    jars = ":".join(map(str, JARS))
    built("Java", ["javac", "-cp", jars, "-d", str(directory), str(FILES["java"])])
    return ["java", "-cp", f"{jars}:{directory}", "Client"]


COMMANDS: dict[str, Callable[[Path], Command]] = {"node": node_command, "c": c_command, "java": java_command}

Commands = Callable[[str], Command]


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """The words that begin a run of an example, built once; skips where its toolchain is missing."""
    return cache(lambda language: COMMANDS[language](tmp_path_factory.mktemp(language)))


def address(*nodes: Node) -> str:
    """HOST:PORT of nodes, as the examples take them."""
    return ",".join(node.endpoint.removeprefix("tcp://") for node in nodes)


def followers(running: Cluster) -> list[Node]:
    """Those that do not lead at this moment."""
    leader = running.leader()
    return [node for node in running.nodes.values() if node is not leader]


def run(command: Sequence[str]) -> list[str]:
    """The lines that a run prints; it must end well and say nothing else."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=ENVIRONMENT)
    assert (done.returncode, done.stderr) == (0, ""), f"{command}: {done.returncode} {done.stdout} {done.stderr}"
    return done.stdout.splitlines()


def refused(command: Sequence[str]) -> tuple[int, str, str]:
    """Exit status, output and errors of a run that must not end well."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=ENVIRONMENT)
    return done.returncode, done.stdout, done.stderr


@contextmanager
def started(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A run that goes on beside the test."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=10)


@pytest.mark.parametrize("language", LANGUAGES)
def test_example_is_one_short_file(language: str) -> None:
    lines = FILES[language].read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LINES_MAX
    assert max(map(len, lines)) <= 128


@pytest.mark.parametrize(("sender", "receiver"), list(product(LANGUAGES, LANGUAGES)))
def test_example_receives_and_acks_what_an_example_sent(trio: Cluster, commands: Commands, sender: str, receiver: str) -> None:
    channel, (one, other) = unique_channel("examples"), followers(trio)
    assert run([*commands(sender), "send", address(one), channel, *BODIES]) == ["1", "2", "3", "4"]
    assert run([*commands(receiver), "receive", address(other), channel, str(len(BODIES))]) == BODIES
    with zmqbroker.SyncClient(trio.url) as client:
        stats = client.queue(channel).stats()
    assert (stats["depth"], stats["acked"], stats["redelivered"]) == (0, len(BODIES), 0)


@pytest.mark.parametrize("language", LANGUAGES)
def test_python_receives_what_an_example_sent(trio: Cluster, commands: Commands, language: str) -> None:
    channel = unique_channel("examples")
    run([*commands(language), "send", address(trio.leader()), channel, *BODIES])
    with zmqbroker.SyncClient(trio.url) as client:
        messages = client.queue(channel).receive(max=10, wait_ms=5000)
    assert [(message.body.decode(), message.delivery_count) for message in messages] == [(body, 1) for body in BODIES]


@pytest.mark.parametrize("language", LANGUAGES)
def test_example_receives_what_python_sent_and_leaves_the_rest(trio: Cluster, commands: Commands, language: str) -> None:
    channel = unique_channel("examples")
    with zmqbroker.SyncClient(trio.url) as client:
        queue = client.queue(channel)
        for body in [*BODIES, "left"]:
            queue.send(body.encode())
        assert run([*commands(language), "receive", address(trio.leader()), channel, str(len(BODIES))]) == BODIES
        (left,) = queue.receive(max=10, wait_ms=5000)
        assert (left.body, left.delivery_count) == (b"left", 1)


@pytest.mark.parametrize("language", LANGUAGES)
def test_example_that_is_refused_names_the_error(trio: Cluster, commands: Commands, language: str) -> None:
    for verb in ("send", "receive"):
        status, said, errors = refused([*commands(language), verb, address(trio.leader()), "no name", "1"])
        assert (status, said) == (1, "")
        assert errors.startswith("INVALID_CHANNEL: channel name 'no name' holds white space")
        assert errors.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["send", "127.0.0.1:1", "orders"], ["receive", "127.0.0.1:1", "orders", "0"]])
@pytest.mark.parametrize("language", LANGUAGES)
def test_example_used_wrongly_says_how_to_use_it(commands: Commands, language: str, words: list[str]) -> None:
    status, said, errors = refused([*commands(language), *words])
    assert (status, said) == (2, "")
    assert errors.startswith("usage: ")


@pytest.mark.parametrize("language", LANGUAGES)
def test_example_goes_to_the_next_node_when_nobody_answers(trio: Cluster, commands: Commands, language: str) -> None:
    channel = unique_channel("examples")
    nobody = "127.0.0.1:1"
    assert run([*commands(language), "send", f"{nobody},{address(trio.leader())},{nobody}", channel, "x"]) == ["1"]


@pytest.mark.long  # it waits for as long as the examples do
def test_example_gets_less_than_it_waits_for_and_ends_with_status_1(trio: Cluster, commands: Commands) -> None:
    waiting = []
    for language in LANGUAGES:
        try:
            command = commands(language)
        except pytest.skip.Exception:
            continue
        channel = unique_channel("examples")
        run([*command, "send", address(trio.leader()), channel, "only"])
        waiting.append([*command, "receive", address(trio.leader()), channel, "2"])
    if not waiting:
        missing("Node, C and Java", "their toolchains")
    # They wait their 30 s side by side.
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for command in waiting]
    try:
        ended = [(*process.communicate(timeout=TIMEOUT_S), process.returncode) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait(10)
    assert ended == [("only\n", "not all messages came within 30 s\n", 1)] * len(waiting)


def waits(running: Cluster, channel: str) -> bool:
    """Whether somebody has received one message and waits for the next one."""
    with zmqbroker.SyncClient(running.url) as client:
        stats = client.queue(channel).stats()
    return bool(stats["acked"] == 1 and stats["waiting_receives"] == 1)


@pytest.mark.parametrize("language", LANGUAGES)
def test_example_goes_on_when_the_leader_is_killed(tmp_path: Path, commands: Commands, language: str) -> None:
    command, channel = commands(language), unique_channel("examples")
    with cluster(tmp_path) as running:
        leader = running.leader()
        # The receiver begins at the leader itself, the senders ask followers.
        everywhere, one, other = [address(leader, *followers(running)), *map(address, followers(running))]
        assert run([*command, "send", one, channel, "before"]) == ["1"]
        with started([*command, "receive", everywhere, channel, "3"]) as receiver:
            wait_until(lambda: waits(running, channel), 20, "the first message is acked and the next one is waited for")
            leader.kill()
            assert run([*command, "send", one, channel, "after"]) == ["2"]
            assert run([*command, "send", other, channel, "at last"]) == ["3"]
            said, errors = receiver.communicate(timeout=TIMEOUT_S)
        assert (receiver.returncode, said, errors) == (0, "before\nafter\nat last\n", "")


class Scripted:
    """A node that answers as a test tells it to."""

    def __init__(self, router: zmq.Socket[bytes]) -> None:
        self._router = router
        self._client = b""

    def take(self, expected: Request) -> tuple[bytes, Answer]:
        """The next request, as the bytes of its header and read."""
        assert self._router.poll(10_000), f"no {expected.name}"
        self._client, head, *bodies = self._router.recv_multipart()
        request = Answer(*decode_header(head), bodies)
        assert request.command == expected
        return head, request

    def answer(self, request_id: int, command: Reply, fields: dict[str, object], *bodies: bytes) -> None:
        """Answer the client whose request was the last one."""
        self.push(encode_header(command, request_id, fields), *bodies)

    def push(self, *sent: bytes) -> None:
        """Send that client these very frames."""
        self._router.send_multipart([self._client, *sent])


@contextmanager
def scripted(place: str = "") -> Iterator[tuple[str, Scripted]]:
    """Such a node, and its HOST:PORT, which is a new one unless it is said."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.setsockopt(zmq.LINGER, 0)
        place = place or f"127.0.0.1:{free_ports(1)[0]}"
        router.bind(f"tcp://{place}")
        yield place, Scripted(router)


@pytest.mark.parametrize("language", LANGUAGES)
def test_example_repeats_the_same_request_in_the_same_session(commands: Commands, language: str) -> None:
    busy = {"code": "BUSY", "message": "not now", "retryable": True, "outcome_unknown": False, "retry_ms": 10}
    with scripted() as (place, node), started([*commands(language), "send", place, "orders", "x"]) as process:
        sessions = [node.take(Request.HELLO)[1].fields["session"]]
        _, opening = node.take(Request.OPEN_PRODUCER)
        node.answer(opening.request_id + 1000, Reply.ERROR, {**busy, "retryable": False})  # to nobody's request
        node.answer(opening.request_id, Reply.PRODUCER, {"last_sequence": 0})
        attempts = [node.take(Request.SEND)]  # which gets no answer
        sessions.append(node.take(Request.HELLO)[1].fields["session"])
        attempts.append(node.take(Request.SEND))
        node.answer(attempts[0][1].request_id, Reply.ERROR, busy)
        sessions.append(node.take(Request.HELLO)[1].fields["session"])
        attempts.append(node.take(Request.SEND))
        node.answer(attempts[0][1].request_id, Reply.SENT, {"sequence": 2**53 + 1, "count": 1})
        node.answer(node.take(Request.CLOSE)[1].request_id, Reply.CLOSED, {"returned": 0})
        said, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, said, errors) == (0, f"{2**53 + 1}\n", "")
    assert attempts[0] == attempts[1] == attempts[2]
    assert (attempts[0][1].fields["producer"], attempts[0][1].bodies) == (opening.fields["producer"], [b"x"])
    assert sessions == [sessions[0]] * 3
    assert len(sessions[0]) == 16
