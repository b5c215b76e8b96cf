"""Plain SENDs by the thousand: each gets its own answer, in order, whatever else is sent between them."""

from __future__ import annotations

import pytest
import zmq

from tests.integration.wild import Wild, counters, only_node, serves, unique_channel
from tests.processes import Cluster
from tests.raw import Answer, new_request_id
from zmqbroker.wire.frames import Reply, Request, encode_header

MANY = 3000


def answers(client: Wild, numbers: list[int]) -> list[Answer]:
    """The next answers, which must be those of these requests, in this order."""
    found = [client.next_answer() for _ in numbers]
    assert [answer.request_id for answer in found] == numbers
    return found


def test_plain_sends_of_several_clients_are_each_confirmed_in_their_order(trio: Cluster) -> None:
    endpoint, channels = trio.leader().endpoint, [unique_channel(), unique_channel()]
    with Wild(endpoint) as one, Wild(endpoint) as other:
        sent = {
            client: [client.send(Request.SEND, {"channel": channels[0]}, [b"%d" % n]) for n in range(MANY)]
            for client in (one, other)
        }
        between = [one.send(Request.SEND, {"channel": channels[n % 2], "forward": True}, [b"x"]) for n in range(100)]
        sequences = []
        for client, numbers in sent.items():
            found = answers(client, numbers)
            assert {(answer.command, answer.fields["count"], answer.fields["confirm"]) for answer in found} == {
                (Reply.SENT, 1, "quorum")
            }
            sequences.append([answer.fields["sequence"] for answer in found])
            assert sequences[-1] == sorted(set(sequences[-1])), "each client's messages keep their order"
        late = {answer.request_id: answer.fields["sequence"] for answer in (one.next_answer() for _ in between)}
        last = [late[number] for number in between]
        assert sorted(sequences[0] + sequences[1] + last[::2]) == list(range(1, 2 * MANY + 51))
        assert last[1::2] == list(range(1, 51)), "the other channel has its own numbers"
        received = one.ask(Request.RECEIVE, {"channel": channels[0], "max": 10, "plain": True, "wait_ms": 10_000})
        assert [message["sequence"] for message in received.fields["messages"]] == list(range(1, 11))


def test_requests_among_plain_sends_are_served_where_they_stand(trio: Cluster) -> None:
    channel = {"channel": unique_channel()}
    too_large, odd = bytes(trio_limit(trio) + 1), {**channel, "id": "named"}
    with Wild(trio.leader().endpoint) as client:
        numbers = [
            client.send(Request.SEND, channel, [b"1"]),
            client.send(Request.SEND, odd, [b"2"]),
            client.send(Request.SEND, channel, [b"3"]),
            client.send(Request.SEND, channel, [too_large]),
            client.send(Request.SEND, {"channel": "a b"}, [b"refused"]),
            client.send(Request.SEND, channel, [b"4"]),
        ]
        found = {answer.request_id: answer for answer in (client.next_answer() for _ in numbers)}
        sequences = [found[number].fields.get("sequence") for number in numbers]
        assert sequences == [1, 2, 3, None, None, 4]
        assert [found[number].code for number in numbers[3:5]] == ["MESSAGE_TOO_LARGE", "INVALID_CHANNEL"]


def trio_limit(trio: Cluster) -> int:
    """Bytes of the largest message."""
    with Wild(trio.leader().endpoint) as client:
        return int(client.ask(Request.HELLO).fields["message_bytes_max"])


def test_req_socket_gets_its_delimiter_back(trio: Cluster) -> None:
    with Wild(trio.leader().endpoint, zmq.REQ) as client:
        for expected in (1, 2, 3):
            number = new_request_id()
            client.send_frames([encode_header(Request.SEND, number, {"channel": f"req.{trio.leader().name}"}), b"x"])
            answer = client.next_answer()
            assert (answer.request_id, answer.fields["sequence"]) == (number, expected)


def test_plain_sends_are_counted_one_by_one(solo: Cluster) -> None:
    node = only_node(solo)
    before, channel = counters(node), {"channel": unique_channel()}
    with Wild(node.endpoint) as client:
        numbers = [client.send(Request.SEND, channel, [b"x"]) for _ in range(MANY)]
        assert {answer.command for answer in answers(client, numbers)} == {Reply.SENT}
    assert counters(node)["messages_in"] == before.get("messages_in", 0) + MANY
    assert serves(node)


@pytest.mark.parametrize("which", ["leader", "follower"])
def test_confirm_explains_itself_when_it_is_asked(trio: Cluster, which: str) -> None:
    leader = trio.leader()
    node = leader if which == "leader" else next(node for node in trio.nodes.values() if node is not leader)
    fields = {"channel": unique_channel(), "explain": True, "forward": True}
    with Wild(node.endpoint) as client:
        explained = client.ask(Request.SEND, fields, [b"why so slow"]).fields["explain"]
        assert list(explained) == ["proposed", "logged", "quorum", "applied", "sent"]
        assert 0 <= explained["proposed"] <= explained["quorum"] <= explained["applied"] <= explained["sent"] < 60_000_000
        assert explained["proposed"] <= explained["logged"]
        del fields["explain"]
        assert "explain" not in client.ask(Request.SEND, fields, [b"never mind"]).fields
