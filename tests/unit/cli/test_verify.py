"""`zmqbroker cluster verify`: equal, different in a key that is named, not all there, and audits that came to nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import TracebackType
from typing import Any, cast

import pytest

from tests.unit.broker.builders import START, publish
from zmqbroker.broker import Machine
from zmqbroker.cli.app import run
from zmqbroker.cli.exits import Exit
from zmqbroker.cli.options import CommandContext, Connect
from zmqbroker.commands import Command, DeleteChannel, TakeAudit
from zmqbroker.errors import BrokerError, DeadlineExceeded, InvalidRequest, NoMajority
from zmqbroker.wire.requests import AnyRequest, AuditRequest, Info

URL = "tcp://127.0.0.1:5590"
#: Keys of one answer: few, so that there are pages.
PAGE = 2


class FakeNodes:
    """Nodes with real machines; an audit is taken by all of them at once."""

    def __init__(self, *names: str) -> None:
        self.members = [
            {"id": number, "name": name, "client": f"tcp://h{number}:5590"} for number, name in enumerate(names, start=1)
        ]
        self.machines = {str(member["client"]): Machine() for member in self.members}
        self.index = 0
        self.audits = 0  # that were taken
        self.pages = 0  # that were asked for
        self.down: set[str] = set()  # endpoints
        self.replaced = 0  # audits that give way to another one before they are asked for
        self.failure: BrokerError | None = None  # of taking one
        self.open_clients = 0

    def publish(self, *channels: str, at: int | None = None, elsewhere: Sequence[Command] = ()) -> None:
        """One entry at every node; at one of them (by number) alone, the others get an entry of `elsewhere`."""
        self.index += 1
        for number, machine in enumerate(self.machines.values(), start=1):
            here = [publish(channel=channel) for channel in channels]
            machine.apply(self.index, START, here if at in (None, number) else list(elsewhere))

    def publish_only(self, channel: str, at: int) -> None:
        """A channel that one node has, and the others had: their counters are the same."""
        self.publish(channel, at=at, elsewhere=[publish(channel=channel), DeleteChannel(channel)])

    def take(self) -> int:
        """Take an audit."""
        self.index += 1
        self.audits += 1
        for machine in self.machines.values():
            machine.apply(self.index, START, [TakeAudit()])
        return self.index

    @property
    def context(self) -> CommandContext:
        """What to give to `app.run`."""
        return CommandContext(connect=cast(Connect, lambda url, timeout_ms: FakeClient(self, url)), ask=self.ask)

    def ask(self, endpoint: str, request: AnyRequest, timeout_ms: int) -> dict[str, Any]:
        """What one node says, or kept."""
        if endpoint in self.down:
            raise DeadlineExceeded("no answer")
        if isinstance(request, Info):
            return {"members": self.members}
        assert isinstance(request, AuditRequest), request
        machine = self.machines[endpoint]
        audit = machine.audit
        if audit is None or audit.index != request.index:
            raise InvalidRequest(f"keeps no audit of index {request.index}")
        name = next(member["name"] for member in self.members if member["client"] == endpoint)
        fields = {"index": request.index, "node": name, "digest": audit.digest}
        if request.bucket is None:
            return {**fields, "buckets": audit.bucket_checksums()}
        self.pages += 1
        keys = [key for key in audit.buckets[request.bucket] if key > request.after]
        items = [[key, audit.buckets[request.bucket][key], machine.describe(key)] for key in keys[:PAGE]]
        return {**fields, "items": items, "more": len(keys) > PAGE}

    def run(self, *arguments: str) -> int:
        """Run the command."""
        status = run(["cluster", "verify", "--url", URL, *arguments], self.context)
        assert self.open_clients == 0
        return status


class FakeClient:
    """A client of one of them, or of all."""

    def __init__(self, nodes: FakeNodes, url: str) -> None:
        self._nodes, self._url = nodes, url

    @property
    def cluster(self) -> FakeClient:
        """Itself."""
        return self

    async def audit(self) -> int:
        """Take an audit at the leader."""
        assert self._url == URL
        if self._nodes.failure is not None:
            raise self._nodes.failure
        index = self._nodes.take()
        if self._nodes.replaced:
            self._nodes.replaced -= 1
            self._nodes.take()
        return index

    async def info(self) -> dict[str, Any]:
        """NODE, as far as it is used."""
        return {"members": self._nodes.members}

    async def __aenter__(self) -> FakeClient:
        self._nodes.open_clients += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._nodes.open_clients -= 1


@pytest.fixture
def nodes() -> FakeNodes:
    made = FakeNodes("n1", "n2", "n3")
    made.publish("orders", "bills")
    return made


def test_verify_equal_nodes_says_where_and_with_what_digest(nodes: FakeNodes, capsys: pytest.CaptureFixture[str]) -> None:
    assert nodes.run() == Exit.DONE
    digest = nodes.machines["tcp://h1:5590"].digest().hex()
    assert capsys.readouterr().out.splitlines() == ["3 nodes have equal state at index 2: n1, n2, n3", f"digest {digest}"]
    assert nodes.pages == 0


def test_verify_as_json(nodes: FakeNodes, capsys: pytest.CaptureFixture[str]) -> None:
    nodes.down.add("tcp://h2:5590")
    assert nodes.run("--json") == Exit.UNREACHABLE
    told = json.loads(capsys.readouterr().out)
    digest = nodes.machines["tcp://h1:5590"].digest().hex()
    assert told == {"index": 2, "digest": digest, "nodes": ["n1", "n3"], "unreachable": ["n2"]}


def test_verify_different_nodes_names_the_first_key_in_words(nodes: FakeNodes, capsys: pytest.CaptureFixture[str]) -> None:
    nodes.publish("orders", at=2)
    assert nodes.run() == Exit.DAMAGED
    told = capsys.readouterr()
    assert "n1 and n2 differ at index 3: channel 'orders' (and in" in told.err
    assert told.out == ""


def test_verify_key_that_only_one_node_has_is_said_to_be_there(nodes: FakeNodes, capsys: pytest.CaptureFixture[str]) -> None:
    nodes.publish_only("extra", at=3)
    assert nodes.run() == Exit.DAMAGED
    told = capsys.readouterr().err
    # The first key in the order of the state is the meta record, which counts assignments and channels: it is equal.
    assert "n1 and n3 differ at index 3: channel 'extra', only on n3 (and in 2 other places)" in told


def test_verify_key_that_the_first_node_alone_has(nodes: FakeNodes, capsys: pytest.CaptureFixture[str]) -> None:
    nodes.publish_only("extra", at=1)
    assert nodes.run() == Exit.DAMAGED
    assert "n1 and n2 differ at index 3: channel 'extra', only on n1" in capsys.readouterr().err


def test_verify_difference_is_found_on_a_later_page(nodes: FakeNodes, capsys: pytest.CaptureFixture[str]) -> None:
    nodes.publish(*(f"many-{number}" for number in range(800)))
    nodes.publish("many-799", at=2)
    assert nodes.run() == Exit.DAMAGED
    assert "differ at index 4: channel 'many-799'" in capsys.readouterr().err
    assert nodes.pages > 2 * 4


def test_verify_digests_that_differ_alone_are_told(
    nodes: FakeNodes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zmqbroker.broker.audit._checksum", lambda _: 0)
    nodes.publish("orders", at=2)
    assert nodes.run() == Exit.DAMAGED
    assert "the digests differ, the checksums of all keys do not" in capsys.readouterr().err


def test_verify_without_one_node_ends_with_status_3_and_names_it(nodes: FakeNodes, capsys: pytest.CaptureFixture[str]) -> None:
    nodes.down.add("tcp://h3:5590")
    assert nodes.run() == Exit.UNREACHABLE
    told = capsys.readouterr()
    assert told.out.startswith("2 nodes have equal state at index 2: n1, n2\n")
    assert told.err == "zmqbroker: not compared, because they do not answer: n3 (no answer)\n"


def test_verify_member_whose_endpoint_is_unknown_is_not_compared(nodes: FakeNodes, capsys: pytest.CaptureFixture[str]) -> None:
    nodes.members[0]["client"] = ""
    assert nodes.run() == Exit.UNREACHABLE
    assert capsys.readouterr().err.endswith("they do not answer: n1 (its endpoint is not known)\n")


def test_verify_another_node_at_a_members_endpoint_is_not_compared(
    nodes: FakeNodes, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes.members[1] = {**nodes.members[1], "client": "tcp://h1:5590"}
    assert nodes.run() == Exit.UNREACHABLE
    assert capsys.readouterr().err.endswith("they do not answer: n2 (n1 is there in its place)\n")


def test_verify_without_any_node_has_no_majority(nodes: FakeNodes, capsys: pytest.CaptureFixture[str]) -> None:
    nodes.down.update(nodes.machines)
    assert nodes.run() == Exit.UNREACHABLE
    assert "no member answered" in capsys.readouterr().err


def test_verify_without_a_leader_has_no_majority(nodes: FakeNodes) -> None:
    nodes.failure = NoMajority("2 of 3 nodes must be up")
    assert nodes.run() == Exit.UNREACHABLE


@pytest.mark.parametrize(("replaced", "status"), [(1, Exit.DONE), (2, Exit.DONE), (3, Exit.REFUSED)])
def test_verify_audit_that_gave_way_to_another_one_is_taken_again(nodes: FakeNodes, replaced: int, status: Exit) -> None:
    nodes.replaced = replaced
    assert nodes.run() == status
    assert nodes.audits == 2 * replaced + (status == Exit.DONE)


def test_verify_node_and_the_one_that_replaces_it_under_its_name_are_both_compared(
    capsys: pytest.CaptureFixture[str],
) -> None:
    nodes = FakeNodes("n1", "n2", "n2")
    nodes.publish("orders")
    assert nodes.run() == Exit.DONE
    assert capsys.readouterr().out.startswith("3 nodes have equal state at index 2: n1, n2 (2), n2 (3)\n")
    nodes.publish("orders", at=3)
    assert nodes.run() == Exit.DAMAGED
    assert "n1 and n2 (3) differ" in capsys.readouterr().err
