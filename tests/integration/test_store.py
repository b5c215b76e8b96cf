"""Events stores on three nodes: one test for each row of the feature table; `docs/GUARANTEES.md` links them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain

import pytest

import zmqbroker
from tests.integration.wild import unique_channel
from tests.processes import Cluster
from tests.raw import Raw
from zmqbroker.client import DurableSubscription, Gap, Message, Store, StoredEvent
from zmqbroker.errors import ChannelNotFound, ConsumerTaken, InvalidRequest, PositionGone, Unsupported
from zmqbroker.wire.frames import Reply, Request

PATIENCE_S = 30


def on_store(nodes: Cluster, play: Callable[[zmqbroker.Client, Store], Awaitable[None]]) -> None:
    """Run a play with a client and a store of its own."""

    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S), zmqbroker.Client(nodes.url) as client:
            await play(client, client.store(unique_channel("store")))

    asyncio.run(main())


async def fill(store: Store, count: int, first: int = 1, batch: int = 4096) -> None:
    """Publish events whose bodies are their sequences, so many in a batch."""
    async with store.producer(batch_messages=batch) as producer:
        for number in range(first, first + count):
            await producer.send(b"%d" % number)


def numbers(events: Sequence[StoredEvent | Message]) -> list[int]:
    """Sequences, which are what the bodies say."""
    assert all(event.body == b"%d" % event.sequence for event in events)
    return [event.sequence for event in events]


async def take_all(events: DurableSubscription) -> None:
    """Take all that comes."""
    while await events.take():
        pass


async def first_of(store: Store, count: int, **options: object) -> list[int]:
    """The first events of a subscription."""
    found: list[StoredEvent | Message] = []
    async with store.subscribe(**options) as events:  # type: ignore[call-overload]
        async for event in events:
            found.append(event)
            if len(found) == count:
                break
    return numbers(found)


def test_store_confirms_an_event_that_a_majority_has_and_gives_it_to_any_number_of_subscriptions(trio: Cluster) -> None:
    async def play(client: zmqbroker.Client, store: Store) -> None:
        readers = [store.subscribe(start="first") for _ in range(5)]
        for reader in readers:
            await reader.__aenter__()
        assert (await store.publish(b"1")).confirm == "quorum"
        await fill(store, 99, 2)
        for reader in readers:
            found: list[StoredEvent] = []
            while len(found) < 100:
                found += await reader.take()
            assert numbers(found) == list(range(1, 101))
            await reader.close()

    on_store(trio, play)


def test_store_is_read_from_new_first_last_a_sequence_a_time_and_a_time_before_now(trio: Cluster) -> None:
    async def play(client: zmqbroker.Client, store: Store) -> None:
        await fill(store, 5)
        await asyncio.sleep(1.1)
        between_ns = (await store.publish(b"6")).time_unix_ns
        await fill(store, 2, 7)
        starts: list[tuple[dict[str, object], list[int]]] = [
            ({"start": "first"}, [1, 2, 3]),
            ({"start": "last"}, [8, 9, 10]),
            ({"sequence": 4}, [4, 5, 6]),
            ({"time_unix_ns": between_ns}, [6, 7, 8]),
            ({"time_delta_ms": 1_000}, [6, 7, 8]),
            ({"start": "new"}, [9, 10, 11]),
        ]
        reading = [asyncio.create_task(first_of(store, 3, **start)) for start, _ in starts]
        reading += [asyncio.create_task(first_of(store, 3, consumer=f"c{at}", **start)) for at, (start, _) in enumerate(starts)]
        for _ in range(1000):
            if len(await store.consumers()) == len(starts):
                break
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)  # those that read without a name have no trace at the broker
        await fill(store, 3, 9)
        found = await asyncio.gather(*reading)
        assert found == [expected for _, expected in starts] * 2

    on_store(trio, play)


def test_store_gives_an_event_by_its_sequence_and_the_last_one_of_a_key(trio: Cluster) -> None:
    async def play(client: zmqbroker.Client, store: Store) -> None:
        await client.channels.create(store.channel, keep_latest=True)
        for number, key in enumerate(("a", "b", "a", "", "b", "c"), 1):
            await store.publish(b"%d" % number, key=key)
        assert [(event.sequence, event.key) for event in await store.read(10)] == [(3, "a"), (4, ""), (5, "b"), (6, "c")]
        fifth, newest, of_a = await store.get(5), await store.last(), await store.last(key="a")
        assert fifth is not None
        assert newest is not None
        assert of_a is not None
        assert numbers([fifth, newest, of_a]) == [5, 6, 3]
        assert (await store.get(2), await store.get(7), await store.last(key="d")) == (None, None, None)

    on_store(trio, play)


def test_store_without_an_index_of_keys_refuses_to_look_for_one(trio: Cluster) -> None:
    async def play(client: zmqbroker.Client, store: Store) -> None:
        await store.publish(b"1", key="a")
        with pytest.raises(InvalidRequest, match="keep_latest is false"):
            await store.last(key="a")

    on_store(trio, play)


def test_store_keeps_events_by_age_count_and_bytes(trio: Cluster) -> None:
    async def play(client: zmqbroker.Client, store: Store) -> None:
        by_bytes, by_age = client.store(unique_channel("store")), client.store(unique_channel("store"))
        await client.channels.create(store.channel, max_messages=3)
        await client.channels.create(by_bytes.channel, max_bytes=400)
        await client.channels.create(by_age.channel, max_age_ms=300)
        for number in range(1, 11):
            for each in (store, by_bytes, by_age):
                await each.publish(b"%d" % number)
        assert numbers(await store.read(10)) == [8, 9, 10]
        kept = numbers(await by_bytes.read(10))
        assert 1 <= len(kept) < 10
        assert kept[-1] == 10
        for _ in range(1000):
            if not await by_age.read(10):
                break
            await asyncio.sleep(0.02)
        with pytest.raises(PositionGone) as gone:
            await store.get(7)
        assert gone.value.first == 8
        assert await by_age.publish(b"11")
        with pytest.raises(PositionGone) as gone:
            await by_age.read(sequence=10)
        assert gone.value.first == 11

    on_store(trio, play)


def test_reader_is_told_what_retention_took_before_it_came(trio: Cluster) -> None:
    async def play(client: zmqbroker.Client, store: Store) -> None:
        await client.channels.create(store.channel, max_messages=3)
        await fill(store, 10, batch=1)
        gaps: list[Gap] = []
        async with store.subscribe(sequence=2, on_gap=gaps.append) as events:
            found = [await anext(aiter(events))]
        assert (numbers(found), gaps) == ([8], [Gap(2, 8)])
        async with store.subscribe(sequence=2) as events:
            with pytest.raises(PositionGone) as gone:
                await events.take()
            assert gone.value.first == 8
            assert numbers(list(await events.take())) == [8, 9, 10]

    on_store(trio, play)


def test_durable_consumer_goes_on_behind_its_last_ack_automatic_or_explicit(trio: Cluster) -> None:
    async def play(client: zmqbroker.Client, store: Store) -> None:
        await fill(store, 20)
        async with store.subscribe(consumer="billing", start="first", ack="explicit") as events:
            async for event in events:
                if event.sequence > 7:
                    break
                await event.ack()
        assert await first_of(store, 5, consumer="billing", start="last") == [8, 9, 10, 11, 12]
        assert await first_of(store, 3, consumer="billing") == [12, 13, 14]  # 12 was not acked: nobody asked for the next one
        (info,) = await store.consumers()
        assert (info.name, info.position, info.missed) == ("billing", 14, 0)
        assert numbers(await store.read(1)) == [1]  # acks are the consumer's, the store keeps all

    on_store(trio, play)


def test_exclusive_consumer_is_taken_over_by_its_newest_reader(trio: Cluster) -> None:
    async def play(client: zmqbroker.Client, store: Store) -> None:
        await fill(store, 10)
        async with (
            store.subscribe(consumer="billing", start="first", ack="explicit", credit=1) as before,
            zmqbroker.Client(trio.url) as other,
        ):
            (event,) = await before.take()
            async with other.store(store.name).subscribe(consumer="billing", ack="explicit") as after:
                found = list(await after.take())
                assert found[0].sequence == 1
                with pytest.raises(ConsumerTaken):
                    await event.ack()
                with pytest.raises(ConsumerTaken):
                    await take_all(before)

    on_store(trio, play)


def test_group_shares_one_position_without_loss(trio: Cluster) -> None:
    async def play(client: zmqbroker.Client, store: Store) -> None:
        found: list[list[int]] = [[] for _ in range(3)]

        async def member(number: int) -> None:
            async with zmqbroker.Client(trio.url) as own:
                async for event in own.store(store.name).subscribe(group="workers", start="first", credit=8):
                    found[number].append(event.sequence)

        members = [asyncio.create_task(member(number)) for number in range(3)]
        await fill(store, 500)
        for _ in range(2000):
            if sum(map(len, found)) == 500:
                break
            await asyncio.sleep(0.01)
        for task in members:
            task.cancel()
        await asyncio.gather(*members, return_exceptions=True)
        assert sorted(chain.from_iterable(found)) == list(range(1, 501))
        assert all(found)

    on_store(trio, play)


def test_consumer_is_reset_listed_and_deleted(trio: Cluster) -> None:
    async def play(client: zmqbroker.Client, store: Store) -> None:
        await fill(store, 10)
        assert await first_of(store, 10, consumer="billing", start="first") == list(range(1, 11))
        assert (await store.reset("billing", sequence=4)).position == 4
        assert await first_of(store, 2, consumer="billing") == [4, 5]
        assert (await store.reset("billing", start="new")).position == 11
        await store.reset("billing")
        assert [(info.name, info.position, info.unread) for info in await store.consumers()] == [("billing", 1, 10)]
        await store.delete_consumer("billing")
        assert await store.consumers() == []
        with pytest.raises(ChannelNotFound):
            await store.reset("billing")

    on_store(trio, play)


def test_reader_that_is_behind_gets_so_many_events_a_second(trio: Cluster) -> None:
    async def play(client: zmqbroker.Client, store: Store) -> None:
        await fill(store, 400)
        for options in ({}, {"consumer": "slow"}):
            began = time.monotonic()
            assert await first_of(store, 400, start="first", rate_limit=400, **options) == list(range(1, 401))
            assert time.monotonic() - began > 0.5  # never sooner, however slow this machine is

    on_store(trio, play)


def test_any_node_answers_reads_and_passes_on_those_that_want_the_leaders_word(trio: Cluster) -> None:
    async def play(client: zmqbroker.Client, store: Store) -> None:
        await fill(store, 3)
        wanted = {"channel": store.channel, "start": "sequence", "value": 4, "wait_ms": 20_000, "plain": True}
        raws = [Raw(node.endpoint) for node in trio.nodes.values()]
        try:
            waiting = [(raw, raw.send(Request.READ, wanted)) for raw in raws]
            waiting += [(raw, raw.send(Request.READ, {**wanted, "forward": True})) for raw in raws]
            await asyncio.sleep(0.2)
            await fill(store, 1, 4)
            for raw in raws:
                found = await asyncio.to_thread(raw.receive_all, [number for own, number in waiting if own is raw], 15)
                assert len(found) == 2
                for answer in found.values():
                    assert (answer.command, answer.bodies) == (Reply.EVENTS_READ, [b"4"])
                    assert [answer.fields[name] for name in ("next", "first", "last")] == [5, 1, 4]
        finally:
            for raw in raws:
                raw.close()

    on_store(trio, play)


def test_old_events_are_read_from_the_log_and_from_lmdb(trio: Cluster) -> None:
    async def play(client: zmqbroker.Client, store: Store) -> None:
        body = bytes(60_000)
        async with store.producer() as producer:
            for _ in range(1500):  # 90 MB: more than a log keeps in memory
                await producer.send(body)
        found = 0
        async with store.subscribe(start="first") as events:
            async for event in events:
                found += 1
                assert event.sequence == found
                if found == 1500:
                    break

    on_store(trio, play)


def test_store_is_not_received_from_and_a_consumer_is_not_sent_to(trio: Cluster) -> None:
    async def play(client: zmqbroker.Client, store: Store) -> None:
        await fill(store, 1)
        with pytest.raises(Unsupported):
            await client.queue(store.channel).receive()
        await first_of(store, 1, consumer="billing", start="first")
        with pytest.raises(Unsupported):
            await store.consumer("billing").send(b"x")

    on_store(trio, play)


def test_sync_client_has_the_same_names(trio: Cluster) -> None:
    with zmqbroker.SyncClient(trio.url) as client:
        store = client.store(unique_channel("store"))
        assert store.publish(b"1", key="a", tags={"k": "v"}).sequence == 1
        with store.producer() as producer:
            producer.send(b"2").result()
        with store.subscribe(start="first") as readable:
            assert [event.body for _, event in zip(range(2), readable, strict=False)] == [b"1", b"2"]
        with store.subscribe(consumer="billing", start="first") as durable:
            event = next(iter(durable))
            assert (event.sequence, event.key) == (1, "a")
        with store.subscribe(group="workers", start="first", ack="explicit") as durable:
            events = iter(durable)
            next(events).ack()
        assert [info.name for info in store.consumers()] == ["billing", "workers"]
        assert store.reset("billing", start="last").position == 2
        last, second = store.last(), store.get(2)
        assert last is not None
        assert second is not None
        assert last.sequence == second.sequence == 2
        assert [event.sequence for event in store.read(5, start="first")] == [1, 2]
        assert store.consumer("billing").stats()["position"] == 2
        store.delete_consumer("workers")
        assert store.channel == f"events_store:{store.name}"


def test_reader_of_a_store_that_was_deleted_and_made_anew_is_told(trio: Cluster) -> None:
    async def play(client: zmqbroker.Client, store: Store) -> None:
        await fill(store, 5)
        async with store.subscribe(sequence=5) as events:
            assert numbers(list(await events.take())) == [5]
            await client.channels.delete(store.channel)
            await fill(store, 7)
            with pytest.raises(PositionGone) as gone:
                await events.take()
            assert gone.value.first == 1
            assert numbers(list(await events.take()))[0] == 1

    on_store(trio, play)


def test_drained_client_ends_its_subscriptions_and_has_acked_what_was_handled(trio: Cluster) -> None:
    async def play(client: zmqbroker.Client, store: Store) -> None:
        await fill(store, 20)
        found: dict[str, list[int]] = {"": [], "billing": []}

        async def follow(own: zmqbroker.Client, name: str) -> None:
            named = {"consumer": name} if name else {}
            events = own.store(store.name).subscribe(start="first", **named)  # type: ignore[call-overload]
            async for event in events:
                found[name].append(event.sequence)
                await asyncio.sleep(0.01)

        async with zmqbroker.Client(trio.url) as own:
            following = [asyncio.create_task(follow(own, name)) for name in found]
            for _ in range(1000):
                if all(found.values()):
                    break
                await asyncio.sleep(0.01)
            await own.drain()
            await asyncio.gather(*following)
        assert all(0 < len(events) < 20 for events in found.values())
        (info,) = await store.consumers()
        assert info.position == len(found["billing"]) + 1

    on_store(trio, play)


def test_start_that_is_gone_is_refused_with_the_first_that_is_there(trio: Cluster) -> None:
    async def play(client: zmqbroker.Client, store: Store) -> None:
        await client.channels.create(store.channel, max_messages=3)
        await fill(store, 10, batch=1)
        for attempt in (store.subscribe(consumer="late", sequence=2).open(), _reset(store)):
            with pytest.raises(PositionGone) as gone:
                await attempt
            assert gone.value.first == 8

    on_store(trio, play)


async def _reset(store: Store) -> None:
    await store.subscribe(consumer="there").open()
    await store.reset("there", sequence=2)
