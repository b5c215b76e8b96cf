"""Audits through the client: what is asked, and of whom."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from zmqbroker.client.cluster import Cluster
from zmqbroker.client.driver import Driver
from zmqbroker.client.exchange import Exchange
from zmqbroker.client.table import PlainRequest
from zmqbroker.wire.requests import AnyRequest, AuditRequest


class Answers:
    """A driver that answers everything alike."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.asked: list[tuple[AnyRequest, int]] = []

    async def submit(self, request: AnyRequest, timeout_ms: int) -> Any:
        """Note the request."""
        self.asked.append((request, timeout_ms))
        return SimpleNamespace(fields=self.fields)


def test_audit_taken_is_its_index() -> None:
    driver = Answers({"index": 70})
    assert asyncio.run(Cluster(cast(Driver, driver), 900).audit()) == 70
    assert driver.asked == [(AuditRequest(), 900)]


@pytest.mark.parametrize(
    ("request_", "anywhere"), [(AuditRequest(), False), (AuditRequest(70), True), (AuditRequest(70, 0), True)]
)
def test_audit_is_taken_at_the_leader_and_asked_for_anywhere(request_: AuditRequest, anywhere: bool) -> None:
    plain = PlainRequest(Exchange(1, [b""], "a request"), request_, 1, 10**12)
    assert plain.anywhere is anywhere
