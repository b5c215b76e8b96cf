"""Fetching a backup from one node: chunk by chunk, each checked, and from where it was when a connection broke.

The node is the first of the URL that answers, or the one that is named. Before it begins, every member is asked how far it
knows the log to be committed; the backup holds at least that, and so all that was confirmed before, as long as whoever leads
answers. Files belong to the caller. Source: docs/PROTOCOL.md §3, BACKUP.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from zmqbroker.client.node import NodeConnection
from zmqbroker.client.url import parse_url
from zmqbroker.errors import DeadlineExceeded, NodeNotFound, RemoteProtocolError, RequestError
from zmqbroker.wire import codec
from zmqbroker.wire.operator_requests import BACKUP_ID_SIZE
from zmqbroker.wire.requests import BackupRequest, Info

__all__ = ["Chunk", "fetch_backup"]

#: A member that is there answers at once.
_THERE_MS = 1_000
#: A chunk that does not fit its checksum is asked for again, so often.
_ATTEMPTS = 3

Connect = Callable[[str], NodeConnection]


@dataclass(slots=True, frozen=True)
class Chunk:
    """The next bytes of a backup."""

    node: str  # that made it
    index: int  # of the last log entry that is in it
    size: int  # bytes of the whole
    data: bytes


def fetch_backup(url: str, node: str, timeout_ms: int, connect: Connect = NodeConnection) -> Iterator[Chunk]:
    """The bytes of a backup of the node named `node`, or of any when that is empty, from its beginning to its end.

    `timeout_ms` is how long each answer may take, the first one while the node makes the backup. Raises ConfigError on a
    bad URL, NodeNotFound, other RequestErrors, and RemoteProtocolError for bytes that are wrong again and again.
    """
    endpoint, index = _choose(url, node, timeout_ms, connect)
    id = os.urandom(BACKUP_ID_SIZE)
    with connect(endpoint) as connection:
        offset, size = 0, 1
        while offset < size:
            chunk = _chunk(connection, BackupRequest(id, offset, index), timeout_ms)
            offset, size = offset + len(chunk.data), chunk.size
            yield chunk
        with suppress(RequestError):  # a courtesy: the node drops it by itself, only later
            connection.ask(BackupRequest(id, size), _THERE_MS)


def _chunk(connection: NodeConnection, request: BackupRequest, timeout_ms: int) -> Chunk:
    for _ in range(_ATTEMPTS):
        fields, bodies = connection.ask(request, timeout_ms)
        numbers = [fields.get(name) for name in ("offset", "size", "index")]
        if len(bodies) == 1 and numbers[0] == request.offset and all(type(number) is int for number in numbers):
            data, size = bytes(bodies[0]), int(fields["size"])
            if codec.crc32c(data) == fields.get("crc32c") and 0 < len(data) <= size - request.offset:
                return Chunk(str(fields.get("node")), int(fields["index"]), size, data)
    raise RemoteProtocolError(f"{connection.endpoint} sends bytes from {request.offset} on that do not fit their checksum")


def _choose(url: str, node: str, timeout_ms: int, connect: Connect) -> tuple[str, int]:
    """Whom to take the backup from, and what index it has to reach."""
    endpoint, told = _first_answer(parse_url(url).endpoints, timeout_ms, connect)
    answers = [(endpoint, told)]
    for member in told["members"]:
        if member["client"] and member["name"] != told["node"]["name"]:
            with suppress(RequestError), connect(member["client"]) as connection:
                answers.append((member["client"], connection.ask(Info(), _THERE_MS).fields))
    index = max((group["commit_index"] for _, fields in answers for group in fields["groups"]), default=0)
    if not node:
        return endpoint, index
    for place, fields in answers:
        if fields["node"]["name"] == node:
            return place, index
    names = ", ".join(member["name"] for member in told["members"])
    raise NodeNotFound(f"no node {node!r} answers; the members are {names}")


def _first_answer(endpoints: tuple[str, ...], timeout_ms: int, connect: Connect) -> tuple[str, dict[str, Any]]:
    """The first of the endpoints that answers, and what it says."""
    each_ms = timeout_ms if len(endpoints) == 1 else min(timeout_ms, 2 * _THERE_MS)
    for endpoint in endpoints:
        with suppress(DeadlineExceeded), connect(endpoint) as connection:
            return endpoint, connection.ask(Info(), each_ms).fields
    raise DeadlineExceeded(f"no node answers at {', '.join(endpoints)}", outcome_unknown=False)
