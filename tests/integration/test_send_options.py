"""What a send may ask of the broker, through three nodes: duplicates by id, an expected sequence, no confirm.

`docs/GUARANTEES.md` links these tests row by row. The last ones kill the leader.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import zmqbroker
from tests.integration.wild import Wild, batch, counters, unique_channel
from tests.processes import Cluster, Node, wait_until
from tests.raw import Answer, Raw
from zmqbroker.errors import SequenceMismatch
from zmqbroker.wire import codec
from zmqbroker.wire.frames import Reply, Request

WINDOW_MS = 600_000
SEND, SEND_BATCH = Request.SEND, Request.SEND_BATCH


@pytest.fixture
def client(trio: Cluster) -> Iterator[zmqbroker.SyncClient]:
    with zmqbroker.SyncClient(trio.url) as made:
        yield made


@pytest.fixture
def seeing(client: zmqbroker.SyncClient) -> zmqbroker.SyncQueue:
    """A queue that sees duplicates."""
    name = unique_channel()
    client.channels.create(name, dedup_window_ms=WINDOW_MS)
    return client.queue(name)


def bodies(queue: zmqbroker.SyncQueue) -> list[bytes]:
    """What can be received now; it is acked."""
    messages = queue.receive(1000)
    queue.ack(messages)
    return [message.body for message in messages]


def follower(trio: Cluster) -> Node:
    """A node that does not lead."""
    leader = trio.leader()
    return next(node for node in trio.nodes.values() if node is not leader)


# --- duplicates --------------------------------------------------------------------------------------------------------


def test_message_whose_id_was_sent_within_the_window_is_not_stored_again(seeing: zmqbroker.SyncQueue) -> None:
    first = seeing.send(b"one", id="a")
    again = seeing.send(b"other body", id="a")
    assert (first.sequence, first.duplicate_of) == (1, 0)
    assert (again.sequence, again.duplicate_of, again.duplicate) == (2, 1, False)
    assert bodies(seeing) == [b"one"]
    assert seeing.send(b"after its ack", id="a").duplicate_of == 1
    assert [seeing.send(b"no id").duplicate_of for _ in range(2)] == [0, 0]
    stats = seeing.stats()
    assert (stats["depth"], stats["deduplicated"], stats["last_sequence"]) == (2, 2, 5)


def test_duplicates_are_found_within_a_batch_and_told_message_by_message(seeing: zmqbroker.SyncQueue) -> None:
    with seeing.producer() as producer:
        confirms = [producer.send(b"%d" % number, id=id) for number, id in enumerate(["a", "b", "a", "c", "b", "a"])]
    first = confirms[0].result().sequence
    assert [confirm.result().duplicate_of for confirm in confirms] == [0, 0, first, 0, first + 1, first]
    assert bodies(seeing) == [b"0", b"1", b"3"]


def test_id_may_be_sent_again_when_its_window_is_over(client: zmqbroker.SyncClient) -> None:
    name = unique_channel()
    client.channels.create(name, dedup_window_ms=50)
    queue = client.queue(name)
    queue.send(b"x", id="a")
    # Nothing else is sent meanwhile: the ids go by themselves.
    wait_until(lambda: queue.send(b"x", id="a").duplicate_of == 0, 10, "the window to end")
    assert queue.stats()["depth"] == 2


def test_channel_without_a_window_stores_every_message(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    assert [queue.send(b"x", id="a").duplicate_of for _ in range(3)] == [0, 0, 0]
    assert queue.stats()["depth"] == 3


def test_moved_message_is_no_duplicate(client: zmqbroker.SyncClient, seeing: zmqbroker.SyncQueue) -> None:
    dead = client.queue(unique_channel())
    seeing.send(b"x", id="a")
    seeing.receive()[0].requeue(dead.name)
    assert dead.redrive(to=seeing.name) == 1
    assert bodies(seeing) == [b"x"]


# --- an expected sequence ------------------------------------------------------------------------------------------------


def test_send_behind_an_expected_sequence_is_stored_or_named(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    assert queue.send(b"one", expected_sequence=0).sequence == 1
    with pytest.raises(SequenceMismatch, match="is 1 and not 0") as caught:
        queue.send(b"two", expected_sequence=0)
    assert (caught.value.expected, caught.value.last_sequence, caught.value.outcome_unknown) == (0, 1, False)
    assert queue.send(b"two", expected_sequence=caught.value.last_sequence).sequence == 2
    assert bodies(queue) == [b"one", b"two"]
    with pytest.raises(SequenceMismatch):
        queue.send(b"three", expected_sequence=0)  # gone messages count


def test_of_many_that_expect_the_same_sequence_one_is_stored(trio: Cluster) -> None:
    fields = {"channel": unique_channel(), "expected_sequence": 0, "forward": True}
    with Wild(follower(trio).endpoint) as one, Wild(trio.leader().endpoint) as other:
        for wild in (one, other):
            for _ in range(20):
                wild.send(SEND, fields, [b"x"])
        answers = [wild.next_answer() for wild in (one, other) for _ in range(20)]
    assert sorted(answer.code or "SENT" for answer in answers) == ["SENT"] + ["SEQUENCE_MISMATCH"] * 39
    refusal = next(answer for answer in answers if answer.code)
    assert (refusal.fields["expected"], refusal.fields["last_sequence"], refusal.fields["retryable"]) == (0, 1, False)


def test_batch_behind_an_expected_sequence_is_stored_as_a_whole_or_not_at_all(trio: Cluster) -> None:
    name = unique_channel()
    with Wild(trio.leader().endpoint) as wild:
        refused = wild.ask(SEND_BATCH, {"expected_sequence": 1}, [batch(name, b"a", b"b")])
        assert (refused.code, refused.fields["last_sequence"]) == ("SEQUENCE_MISMATCH", 0)
        assert wild.ask(Request.STATS, {"channel": name}).code == "CHANNEL_NOT_FOUND", "a refusal makes no channel"
        assert wild.ask(SEND_BATCH, {"expected_sequence": 0}, [batch(name, b"a", b"b")]).fields["count"] == 2


# --- no confirm ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["leader", "follower"])
def test_send_without_a_confirm_is_stored_and_not_answered(trio: Cluster, which: str) -> None:
    name = unique_channel()
    node = trio.leader() if which == "leader" else follower(trio)
    with Wild(node.endpoint) as wild, Raw(trio.leader().endpoint) as leader:
        for number in range(50):
            wild.send(SEND, {"channel": name, "forward": True, "confirm": "none"}, [b"%d" % number])
            wild.send(SEND_BATCH, {"forward": True, "confirm": "none"}, [batch(name, b"a", b"b")])
        answer = wild.ask(Request.STATS, {"channel": name, "forward": True})
        assert answer.command in (Reply.CHANNEL, Reply.ERROR), "the first answer is that of the first request that has one"
        wait_until(lambda: depth(leader, name) == 150, 10, "the messages to be stored")
        assert wild.receive(100) is None


def depth(raw: Raw, channel: str) -> int:
    """Live messages of a channel."""
    return int(raw.ask(Request.STATS, {"channel": channel, "forward": True}).fields.get("depth", 0))


def test_refusal_of_a_send_without_a_confirm_is_counted_and_nothing_else(trio: Cluster) -> None:
    leader, name = trio.leader(), unique_channel()
    before = counters(leader)
    with Wild(leader.endpoint) as wild:
        for _ in range(3):
            wild.send(SEND, {"channel": name, "expected_sequence": 9, "confirm": "none"}, [b"x"])
        wrong = wild.ask(SEND, {"channel": name, "confirm": "some"}, [b"x"])
        assert (wrong.code, wrong.fields["message"]) == (
            "INVALID_REQUEST",
            "field confirm is 'some', it must be one of quorum, none",
        )
        assert wild.ask(Request.STATS, {"channel": name}).code == "CHANNEL_NOT_FOUND"
    after = counters(leader)
    for counter in ("refused_sequence_mismatch", "sends_refused_unanswered"):
        assert after[counter] == before.get(counter, 0) + 3


def test_client_that_wants_no_confirm_gets_none_and_goes_on(client: zmqbroker.SyncClient) -> None:
    queue = client.queue(unique_channel())
    for number in range(100):
        queue.send(b"%d" % number, confirm="none")
    wait_until(lambda: queue.send(b"last").sequence >= 101, 10, "the others to be stored")
    assert [body for body in bodies(queue) if body != b"last"] == [b"%d" % number for number in range(100)]


# --- with a leader that dies ---------------------------------------------------------------------------------------------


def test_send_repeated_by_id_at_the_next_leader_is_a_duplicate(client: zmqbroker.SyncClient, trio: Cluster) -> None:
    name = unique_channel()
    client.channels.create(name, dedup_window_ms=WINDOW_MS)
    named = codec.encode_batch(name.encode(), [b"1", b"2", b"3"], 0, 0, [b"a", b"b", b"c"])
    opened, numbered = {"channel": name, "producer": 5}, {"channel": name, "producer": 5, "sequence": 1, "id": "b"}
    killed = trio.leader()
    with Wild(killed.endpoint) as wild:
        assert wild.ask(SEND_BATCH, {}, [named]).fields["sequence"] == 1
        wild.ask(Request.OPEN_PRODUCER, opened)
        first = wild.ask(SEND, {**numbered, "expected_sequence": 3}, [b"2"])
        assert (first.fields["sequence"], first.fields["duplicates"]) == (4, [[0, 2]])
    killed.kill()
    try:
        with Wild(trio.leader().endpoint) as wild:
            again = repeat(wild, SEND_BATCH, {}, [named])
            assert (again.fields["sequence"], again.fields["duplicate"]) == (5, False)
            assert again.fields["duplicates"] == [[0, 1], [1, 2], [2, 3]]
            # The repeat of a producer is answered as the first time, whatever it expected and whatever was sent since.
            told = repeat(wild, SEND, {**numbered, "expected_sequence": 3}, [b"2"])
            assert told.fields == {**first.fields, "duplicate": True}
            assert wild.ask(Request.STATS, {"channel": name, "forward": True}).fields["depth"] == 3
    finally:
        killed.start()
    wait_until(lambda: trio.caught_up(killed), 30, "the killed node to catch up")
    wait_until(lambda: stats_of(killed, name) == stats_of(trio.leader(), name), 10, "the restarted node to agree")


def repeat(wild: Wild, request: Request, fields: dict[str, Any], frames: list[bytes]) -> Answer:
    """Ask until the node leads."""
    return wait_until(lambda: answered(wild.ask(request, fields, frames)), 15, "an answer of the leader")  # type: ignore[no-any-return]


def answered(answer: Answer) -> Answer | None:
    """The answer, if it is SENT."""
    return answer if answer.command == Reply.SENT else None


def stats_of(node: Node, channel: str) -> dict[str, Any]:
    """What the node itself tells of a channel."""
    with Raw(node.endpoint) as raw:
        fields = raw.ask(Request.STATS, {"channel": channel}).fields
    return {name: fields.get(name) for name in ("depth", "deduplicated", "last_sequence")}


def test_ids_outlive_the_death_of_all_nodes(client: zmqbroker.SyncClient, trio: Cluster) -> None:
    name = unique_channel()
    client.channels.create(name, dedup_window_ms=WINDOW_MS)
    client.queue(name).send(b"x", id="a")
    for node in trio.nodes.values():
        node.kill()
    for node in trio.nodes.values():
        node.start()
    with zmqbroker.SyncClient(trio.url) as other:
        assert other.queue(name).send(b"x", id="a").duplicate_of == 1
        assert other.queue(name).stats()["depth"] == 1
