"""Handing over against real nodes: through the clients, through every node, and with everything that is wrong about it."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

import zmqbroker
from tests.integration.conftest import MESSAGE_BYTES_MAX
from tests.integration.wild import Wild, batch, only_node, serves, unique_channel
from tests.processes import Cluster
from tests.raw import Answer, Raw, new_request_id
from tests.unit.wire.test_hand_overs import RANGES
from zmqbroker.errors import ChannelFull, MessageTooLarge, StaleReceipt
from zmqbroker.wire.frames import Reply, Request

HAND_OVER = Request.HAND_OVER


# --- through the clients ---------------------------------------------------------------------------------------------


def test_handed_over_messages_are_acked_and_others_sent_in_one_step(trio: Cluster) -> None:
    name = unique_channel("{hand}")
    with zmqbroker.SyncClient(trio.url) as client:
        orders, paid, audit = (client.queue(f"{name}.{what}") for what in ("orders", "paid", "audit"))
        for number in range(3):
            orders.send(b"%d" % number)
        first, *others = orders.receive(3)
        assert first.ack_and_send(paid.name, b"0 paid", id="a", tags={"k": "v"}).sequence == 1
        with orders.transaction(*others) as step:
            for message in others:
                step.send(paid.name, message.body + b" paid")
            step.send(audit.name, b"two", delay_ms=3_600_000)
        assert [(result.sequence, result.duplicate) for result in step.results] == [(2, False), (3, False), (1, False)]
        assert (orders.stats()["depth"], orders.stats()["acked"], audit.stats()["delayed"]) == (0, 3, 1)
        got = paid.receive(9)
        assert [(message.body, message.id, message.tags) for message in got] == [
            (b"0 paid", "a", {"k": "v"}),
            (b"1 paid", "", {}),
            (b"2 paid", "", {}),
        ]
        with pytest.raises(StaleReceipt):
            first.ack_and_send(paid.name, b"again")
        assert paid.stats()["last_sequence"] == 3


def test_hand_over_that_is_refused_leaves_the_message_with_its_holder(trio: Cluster) -> None:
    name, bounded = unique_channel(), unique_channel("bounded")

    async def main() -> None:
        async with zmqbroker.Client(trio.url) as client:
            await client.channels.create(bounded, max_messages=1)
            orders = client.queue(name)
            await orders.send(b"1")
            (message,) = await orders.receive()
            step = orders.transaction(message, timeout_ms=2_000)
            for _ in range(2):
                step.send(bounded, b"x")
            step.send(f"{name}.new", b"x")
            with pytest.raises(ChannelFull) as caught:
                await step.commit()
            assert not caught.value.outcome_unknown
            assert (await client.queue(f"{name}.new").stats())["last_sequence"] == 0
            assert (await orders.stats())["in_flight"] == 1
            assert (await message.ack_and_send(bounded, b"x")).sequence == 1

    asyncio.run(main())


def test_hand_over_of_many_bytes_is_taken_up_to_the_limit_and_read_back(solo: Cluster) -> None:
    with zmqbroker.SyncClient(only_node(solo).endpoint) as client:
        orders, paid = client.queue(unique_channel()), client.queue(unique_channel())
        orders.send(b"1")
        (message,) = orders.receive()
        body = bytes(MESSAGE_BYTES_MAX)
        step = orders.transaction(message)
        for _ in range(17):
            step.send(paid.name, body)
        with pytest.raises(MessageTooLarge):
            step.commit()
        with orders.transaction(message) as step:
            for _ in range(16):
                step.send(paid.name, body)
        assert [len(message.body) for message in paid.receive(99, max_bytes=2 << 20)] == [MESSAGE_BYTES_MAX] * 16


# --- through every node ----------------------------------------------------------------------------------------------


def held(raw: Raw, channel: str, *bodies: bytes) -> list[list[int]]:
    """The receipts of messages that were just sent and are held."""
    assert raw.ask(Request.SEND_BATCH, {"forward": True}, [batch(channel, *bodies)]).command == Reply.SENT
    fields = {"channel": channel, "max": len(bodies), "wait_ms": 5_000, "forward": True}
    return [piece[:3] for piece in raw.ask(Request.RECEIVE, fields).fields["pieces"]]


def depth(raw: Raw, channel: str) -> int:
    found: int = raw.ask(Request.STATS, {"channel": channel, "forward": True}).fields["depth"]
    return found


def test_hand_over_repeated_through_every_node_is_done_once_and_answered_alike(trio: Cluster) -> None:
    orders, paid, audit = (unique_channel(what) for what in ("orders", "paid", "audit"))
    session, producer, request_id = os.urandom(16), new_request_id() | 1, new_request_id()
    raws = [Raw(node.endpoint) for node in trio.nodes.values()]
    try:
        for raw in raws:
            raw.ask(Request.HELLO, {"session": session})
        for channel in (paid, audit):
            raws[0].ask(Request.OPEN_PRODUCER, {"channel": channel, "producer": producer, "forward": True})
        receipts = held(raws[0], orders, b"1", b"2")
        frames = [batch(paid, b"a", b"b", producer=producer, base=1), batch(audit, b"c", producer=producer, base=1)]
        asked = {"channel": orders, "receipts": receipts, "forward": True}
        answers = [raw.ask(HAND_OVER, asked, frames, request_id=request_id).fields for raw in (*raws, *raws)]
        assert (answers[0]["count"], answers[0]["sent"], answers[0]["duplicate"]) == (2, [[paid, 1, 2], [audit, 1, 1]], False)
        assert answers[1:] == [{**answers[0], "duplicate": True}] * 5
        assert [depth(raws[0], channel) for channel in (orders, paid, audit)] == [0, 2, 1]
        again = raws[1].ask(HAND_OVER, asked, [batch(paid, b"d", producer=producer, base=3)])
        assert (again.code, again.fields["stale"], again.fields["count"]) == ("STALE_RECEIPT", receipts, 0)
    finally:
        for raw in raws:
            raw.close()


def test_hand_over_without_producers_is_done_once_too(trio: Cluster) -> None:
    orders, paid = unique_channel(), unique_channel()
    with Raw(trio.leader().endpoint) as raw:
        asked = {"channel": orders, "receipts": held(raw, orders, b"1")}
        first, second = (raw.ask(HAND_OVER, asked, [batch(paid, b"x")], request_id=5) for _ in range(2))
        assert (first.command, second.code) == (Reply.HANDED_OVER, "STALE_RECEIPT")
        assert depth(raw, paid) == 1


# --- what is wrong ---------------------------------------------------------------------------------------------------


def test_hand_over_with_anything_wrong_is_named_and_changes_nothing(solo: Cluster) -> None:
    node, orders, paid = only_node(solo), unique_channel("orders"), unique_channel("paid")
    with Wild(node.endpoint) as wild:
        receipts = held(wild, orders, b"1", b"2")
        good, (span,) = batch(paid, b"x"), receipts

        def ask(frames: list[bytes], **fields: Any) -> Answer:
            return wild.ask(HAND_OVER, {"channel": orders, "receipts": receipts, **fields}, frames)

        wrong: list[tuple[Answer, str, str]] = [
            *((ask([good], **fields), "INVALID_REQUEST", said) for fields, said in RANGES),
            (ask([good], channel="a b"), "INVALID_CHANNEL", "'a b'"),
            (ask([good], channel=unique_channel()), "CHANNEL_NOT_FOUND", "no channel is called"),
            (ask([]), "MALFORMED_FRAME", "HAND_OVER has 0 body frames, it must have 1 to 64"),
            (ask([good] * 65), "MALFORMED_FRAME", "HAND_OVER has 65 body frames, it must have 1 to 64"),
            (ask([good, b"nonsense"]), "MALFORMED_FRAME", "8 bytes"),
            (ask([good, good[:-1] + b"y"]), "CHECKSUM_MISMATCH", "crc32c"),
            (ask([good, batch("a b", b"x")]), "INVALID_CHANNEL", "'a b'"),
            (ask([good, batch("_sys.x", b"x")]), "INVALID_CHANNEL", "'_sys.x'"),
            (ask([good, batch(paid, bytes(MESSAGE_BYTES_MAX + 1))]), "MESSAGE_TOO_LARGE", f"{MESSAGE_BYTES_MAX + 1} bytes"),
            (ask([batch(paid, *[bytes(MESSAGE_BYTES_MAX)] * 9)] * 2), "MESSAGE_TOO_LARGE", "the batches of a hand-over have"),
            (ask([good, batch(paid, b"x", producer=5, base=1)]), "INVALID_REQUEST", "some batches of a hand-over"),
            (ask([batch(paid, b"x", producer=5, base=1)]), "UNKNOWN_PRODUCER", "producer 5 is not open"),
            (ask([good], receipts=[span, span]), "INVALID_REQUEST", "name message 1 twice"),
            (ask([good], receipts=[[*span[:2], 3]]), "STALE_RECEIPT", "are not held"),
            (ask([good], receipts=[[span[0] + 1, *span[1:]]]), "STALE_RECEIPT", "are not held"),
        ]
        for answer, code, said in wrong:
            assert (answer.code, said in answer.fields["message"]) == (code, True), (answer.fields, code, said)
        with Raw(node.endpoint) as other:
            stolen = other.ask(HAND_OVER, {"channel": orders, "receipts": receipts}, [good])
            assert stolen.code == "STALE_RECEIPT"
        assert wild.ask(Request.STATS, {"channel": paid}).code == "CHANNEL_NOT_FOUND"
        assert wild.ask(Request.STATS, {"channel": orders}).fields["in_flight"] == 2
        assert ask([good] * 64).fields["sent"] == [[paid, number, 1] for number in range(1, 65)]
    assert serves(node)
