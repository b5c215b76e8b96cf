"""Members and leadership through the client: what is sent, what comes back, and that it is tried again at the leader."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.client.fakes import FakeBroker, busy
from tests.unit.client.servers import FakeServer, run
from zmqbroker.client import Client
from zmqbroker.errors import InvalidRequest, NodeNotFound
from zmqbroker.wire.requests import ChangeMembers, Transfer

ROW = {"id": 4, "name": "n4", "voter": False, "joining": True}


def asked(server: FakeServer) -> list[ChangeMembers | Transfer]:
    """The wishes that a node has seen."""
    return [request for request in server.node.seen if isinstance(request, ChangeMembers | Transfer)]


def test_cluster_every_wish_travels_and_is_answered() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        server.node.changed_members = [ROW]
        assert (await client.cluster.info())["node"]["name"] == server.endpoint
        assert await client.cluster.add("n4") == [ROW]
        assert await client.cluster.add("n4", learner=True) == [ROW]
        assert await client.cluster.replace("n2") == [ROW]
        assert await client.cluster.replace("n2", "n5") == [ROW]
        assert await client.cluster.remove("n3") == [ROW]
        assert await client.cluster.transfer("n3") == "n3"
        assert await client.cluster.transfer() == "n2"

    assert asked(run(test)) == [
        ChangeMembers("add", "n4"),
        ChangeMembers("add", "n4", learner=True),
        ChangeMembers("replace", "n2"),
        ChangeMembers("replace", "n2", "n5"),
        ChangeMembers("remove", "n3"),
        Transfer("n3"),
        Transfer(),
    ]


def test_cluster_wish_that_is_refused_for_now_is_asked_again() -> None:
    async def test(client: Client, server: FakeServer) -> None:
        server.node.refusals = [busy(1), busy(1)]
        await client.cluster.remove("n3")

    assert asked(run(test)) == [ChangeMembers("remove", "n3")] * 3


@pytest.mark.parametrize("error", [NodeNotFound("no such node"), InvalidRequest("no")])
def test_cluster_wish_that_is_refused_for_good_raises(error: NodeNotFound | InvalidRequest) -> None:
    async def test(client: Client, server: FakeServer) -> None:
        server.node.refusals = [error]
        with pytest.raises(type(error), match=str(error)):
            await client.cluster.add("n4")

    assert len(asked(run(test))) == 1


def test_cluster_wish_goes_to_the_leader() -> None:
    broker = FakeBroker()
    with FakeServer(broker) as leader, FakeServer(broker) as follower:
        follower.node.leader = leader.endpoint

        async def main() -> None:
            async with Client(follower.endpoint) as client:
                assert await client.cluster.transfer() == "n2"

        asyncio.run(main())
        assert asked(leader) == [Transfer()]
