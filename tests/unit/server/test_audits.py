"""AUDIT at a node: taken through the log, told of while it is kept, and then page by page."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.unit.broker.builders import START, publish
from zmqbroker.broker import BUCKETS, Machine
from zmqbroker.commands import Audited, TakeAudit
from zmqbroker.config import NodeConfig
from zmqbroker.errors import Busy, InvalidRequest
from zmqbroker.server import operators
from zmqbroker.server.group import Group
from zmqbroker.server.node import Node
from zmqbroker.server.operators import audit_fields
from zmqbroker.server.replies import result_reply
from zmqbroker.wire.frames import Reply
from zmqbroker.wire.requests import AuditRequest

NODE = cast(Node, SimpleNamespace(config=NodeConfig.for_test()))


def group(*, channels: int = 3) -> Group:
    """A group whose audit was taken at index 2."""
    machine = Machine()
    machine.apply(1, START, [publish(channel=f"c{number}") for number in range(channels)])
    machine.apply(2, START, [TakeAudit()])
    machine.apply(3, START, [publish(channel="later")])
    return cast(Group, SimpleNamespace(machine=machine))


def test_audit_is_answered_with_its_index() -> None:
    assert result_reply(Audited(7), "quorum") == (Reply.AUDITED, {"index": 7})


def test_audit_kept_is_told_with_digest_and_bucket_checksums() -> None:
    kept = group()
    audit = kept.machine.audit
    assert audit is not None
    expected = {"index": 2, "node": "node-1", "digest": audit.digest, "buckets": audit.bucket_checksums()}
    assert audit_fields(NODE, kept, AuditRequest(2)) == expected
    assert len(audit.bucket_checksums()) == 4 * BUCKETS


def test_audit_of_an_index_that_is_not_applied_yet_is_asked_again() -> None:
    with pytest.raises(Busy, match="node-1 has applied 3 and not yet 4") as caught:
        audit_fields(NODE, group(), AuditRequest(4))
    assert caught.value.retry_ms > 0


@pytest.mark.parametrize("index", [1, 3])
def test_audit_of_another_index_is_not_kept(index: int) -> None:
    with pytest.raises(InvalidRequest, match=f"node-1 keeps no audit of index {index}"):
        audit_fields(NODE, group(), AuditRequest(index))


def test_audit_at_a_node_that_keeps_none_is_refused() -> None:
    machine = Machine()
    machine.apply(9, START, ())
    with pytest.raises(InvalidRequest, match="keeps no audit of index 2"):
        audit_fields(NODE, cast(Group, SimpleNamespace(machine=machine)), AuditRequest(2))


def pages(kept: Group, bucket: int) -> list[list[Any]]:
    """The items of a bucket, page by page."""
    found: list[list[Any]] = []
    after, more = b"", True
    while more:
        fields = audit_fields(NODE, kept, AuditRequest(2, bucket, after))
        assert (fields["index"], fields["node"]) == (2, "node-1")
        found.append(fields["items"])
        after, more = max((item[0] for item in fields["items"]), default=b""), fields["more"]
    return found


def test_audit_buckets_are_listed_page_by_page_with_every_key_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "AUDIT_KEYS_MAX", 2)
    kept = group(channels=300)
    audit = kept.machine.audit
    assert audit is not None
    several = 0
    listed: dict[bytes, int] = {}
    for bucket in range(BUCKETS):
        found = pages(kept, bucket)
        assert max(map(len, found)) <= 2
        several += len(found) > 2
        for key, checksum, what in (item for page in found for item in page):
            assert key not in listed
            listed[key] = checksum
            assert what == kept.machine.describe(key)
    assert listed == {key: checksum for bucket in audit.buckets for key, checksum in bucket.items()}
    assert several
