"""Fetching a backup: from whom, from which index on, chunk by chunk, and what is wrong with some of them."""

from __future__ import annotations

from types import TracebackType
from typing import Any, cast

import pytest

from tests.unit.cli.fakes import node_fields
from zmqbroker.checksum import crc32c
from zmqbroker.client.backup import Connect, fetch_backup
from zmqbroker.client.node import NodeConnection
from zmqbroker.client.session import Answer
from zmqbroker.errors import DeadlineExceeded, InvalidRequest, NodeNotFound, RemoteProtocolError
from zmqbroker.wire.requests import AnyRequest, BackupRequest, Info

DATA = bytes(range(256)) * 10
CHUNK = 1000
URL = "zmqbroker://127.0.0.1:5590,127.0.0.1:5593,127.0.0.1:5596"


class Nodes:
    """Three nodes that have a backup of DATA each."""

    def __init__(self) -> None:
        names = ["node-1", "node-2", "node-3"]
        self.infos = {f"tcp://127.0.0.1:{5590 + 3 * number}": node_fields(name, names) for number, name in enumerate(names)}
        self.asked: list[tuple[str, BackupRequest]] = []
        self.wrong: list[dict[str, Any]] = []  # taken from its end: what is wrong with the next chunks
        self.open = 0

    def connect(self, endpoint: str) -> NodeConnection:
        """The way to one of them."""
        return cast(NodeConnection, Connection(self, endpoint))

    def fetch(self, url: str = URL, node: str = "") -> bytes:
        """The whole backup."""
        found = b""
        for chunk in fetch_backup(url, node, 5_000, cast(Connect, self.connect)):
            assert (chunk.size, chunk.index) == (len(DATA), 44)
            found += chunk.data
        return found


class Connection:
    """A connection to one node."""

    def __init__(self, nodes: Nodes, endpoint: str) -> None:
        self._nodes, self.endpoint = nodes, endpoint

    def ask(self, request: AnyRequest, timeout_ms: int) -> Answer:
        """Answer from memory."""
        if self.endpoint not in self._nodes.infos:
            raise DeadlineExceeded("no answer", outcome_unknown=True)
        if isinstance(request, Info):
            return Answer(self._nodes.infos[self.endpoint], [])
        assert isinstance(request, BackupRequest)
        self._nodes.asked.append((self.endpoint, request))
        if request.offset == len(DATA) and request.index == 0:
            raise InvalidRequest("the node has dropped it already")
        data = DATA[request.offset : request.offset + CHUNK]
        fields = {"size": len(DATA), "offset": request.offset, "crc32c": crc32c(data), "index": 44, "node": "n"}
        changes = self._nodes.wrong.pop() if self._nodes.wrong else {}
        return Answer({**fields, **changes}, changes.get("bodies", [data]))

    def __enter__(self) -> Connection:
        self._nodes.open += 1
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._nodes.open -= 1


def test_backup_comes_from_the_first_node_up_to_the_highest_commit_of_all() -> None:
    nodes = Nodes()
    nodes.infos["tcp://127.0.0.1:5593"]["groups"][0]["commit_index"] = 43
    assert nodes.fetch() == DATA
    places, requests = zip(*nodes.asked, strict=True)
    assert set(places) == {"tcp://127.0.0.1:5590"}
    assert len({request.id for request in requests}) == 1
    assert [(request.offset, request.index) for request in requests] == [(0, 43), (1000, 43), (2000, 43), (2560, 0)]
    assert nodes.open == 0


def test_backup_comes_from_the_node_that_is_named() -> None:
    nodes = Nodes()
    assert nodes.fetch(node="node-3") == DATA
    assert {place for place, _ in nodes.asked} == {"tcp://127.0.0.1:5596"}


def test_backup_comes_from_whoever_answers() -> None:
    nodes = Nodes()
    del nodes.infos["tcp://127.0.0.1:5590"]
    assert nodes.fetch() == DATA
    assert {place for place, _ in nodes.asked} == {"tcp://127.0.0.1:5593"}
    with pytest.raises(NodeNotFound, match="no node 'node-1' answers; the members are node-1, node-2, node-3"):
        nodes.fetch(node="node-1")


@pytest.mark.parametrize("url", [URL, "tcp://127.0.0.1:5590"])
def test_nobody_answers_is_an_error(url: str) -> None:
    nodes = Nodes()
    nodes.infos.clear()
    with pytest.raises(DeadlineExceeded, match=r"no node answers at tcp://127\.0\.0\.1:5590"):
        nodes.fetch(url)


def test_node_of_no_cluster_yet_is_asked_for_what_it_has() -> None:
    nodes = Nodes()
    for fields in nodes.infos.values():
        fields["groups"] = []
        fields["members"][1]["client"] = ""  # not known yet
    assert nodes.fetch() == DATA
    assert nodes.asked[0][1].index == 0


WRONG: list[dict[str, Any]] = [
    {"crc32c": 1},
    {"offset": 7},
    {"size": None},
    {"size": 999},
    {"index": "44"},
    {"bodies": []},
    {"bodies": [b""], "crc32c": 0},
]


@pytest.mark.parametrize("changes", WRONG)
def test_chunk_that_is_wrong_is_asked_for_again(changes: dict[str, Any]) -> None:
    nodes = Nodes()
    nodes.wrong = [changes] * 2
    assert nodes.fetch() == DATA
    assert [request.offset for _, request in nodes.asked] == [0, 0, 0, 1000, 2000, 2560]


@pytest.mark.parametrize("changes", WRONG)
def test_chunk_that_stays_wrong_ends_the_backup(changes: dict[str, Any]) -> None:
    nodes = Nodes()
    nodes.wrong = [changes] * 3
    with pytest.raises(RemoteProtocolError, match="sends bytes from 0 on that do not fit"):
        nodes.fetch()
    assert nodes.open == 0
