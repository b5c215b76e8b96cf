"""Events on three real nodes: who gets them, who misses them, and what a lost node changes."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import zmqbroker
from bench.events import our_round
from tests.integration.test_cli import COMMAND, run
from tests.integration.wild import Wild, unique_channel
from tests.processes import Cluster, wait_until
from zmqbroker.cli.exits import Exit
from zmqbroker.client import Event, SyncEventsSubscription
from zmqbroker.wire import codec
from zmqbroker.wire.frames import Reply, Request

PATIENCE_S = 15.0


@contextmanager
def client_at(cluster: Cluster, number: int, **options: str) -> Iterator[zmqbroker.SyncClient]:
    """A client whose home is one certain node."""
    with zmqbroker.SyncClient(list(cluster.nodes.values())[number].endpoint, **options) as client:
        yield client


@contextmanager
def clients(cluster: Cluster) -> Iterator[list[zmqbroker.SyncClient]]:
    """One client at each node."""
    with ExitStack() as stack:
        yield [stack.enter_context(client_at(cluster, number)) for number in range(len(cluster.nodes))]


def until_known(client: zmqbroker.SyncClient, name: str, subscribers: int) -> None:
    """Publish until the node knows so many subscribers of a name; nobody is to care for these."""

    def known() -> bool:
        result = client.events(name).publish(b"warm", confirm=True)
        return result is not None and result.subscribers == subscribers

    wait_until(known, PATIENCE_S, f"{subscribers} subscribers of {name}")


def take(subscription: SyncEventsSubscription) -> Sequence[Event]:
    """What came; something must come."""
    events = subscription.take(wait_ms=int(1000 * PATIENCE_S))
    assert events, "nothing came"
    return events


def bodies(subscription: SyncEventsSubscription, last: bytes) -> list[bytes]:
    """What came, up to a last body; without what `until_known` sent."""
    found: list[bytes] = []
    while not found or found[-1] != last:
        found += [event.body for event in take(subscription)]
    return [body for body in found if body != b"warm"]


def test_events_reach_every_subscriber_on_every_node_with_all_they_carry(trio: Cluster) -> None:
    name = unique_channel()
    with clients(trio) as those, client_at(trio, 0, client_id="till-3") as publisher, ExitStack() as stack:
        subscriptions = [stack.enter_context(client.events(name).subscribe()) for client in those for _ in range(2)]
        until_known(publisher, name, 6)
        began_ns = time.time_ns()
        publisher.events(name).publish(b"one", id="i", metadata="m", tags={"k": "v"}, trace="t")
        publisher.events(name).publish(b"last")
        for subscription in subscriptions:
            events: list[Event] = []
            while not events or events[-1].body != b"last":
                events += take(subscription)
            event = next(event for event in events if event.body == b"one")
            told = (event.channel, event.id, event.metadata, dict(event.tags), event.client_id, event.trace)
            assert told == (name, "i", "m", {"k": "v"}, "till-3", "t")
            assert abs(event.time_unix_ns - began_ns) < 60_000_000_000
            assert subscription.missed == 0


def test_events_wildcards_match_by_tokens(trio: Cluster) -> None:
    root = unique_channel()
    with clients(trio) as (one, two, _), ExitStack() as stack:
        star = stack.enter_context(two.events(f"{root}.*.new").subscribe())
        tail = stack.enter_context(two.events(f"{root}.>").subscribe())
        until_known(one, f"{root}.known.new", 2)
        for token in ("eu.new", "eu.old", "eu.new.1", "us.new"):
            one.events(f"{root}.{token}").publish(token.encode())
        one.events(root).publish(b"nobody's")
        one.events(f"{root}.z.new").publish(b"last")
        assert bodies(star, b"last") == [b"eu.new", b"us.new", b"last"]
        assert bodies(tail, b"last") == [b"eu.new", b"eu.old", b"eu.new.1", b"us.new", b"last"]


def test_events_group_gives_each_event_to_one_member_wherever_it_is(trio: Cluster) -> None:
    name = unique_channel()
    with clients(trio) as those, ExitStack() as stack:
        members = [stack.enter_context(client.events(name).subscribe(group="workers")) for client in those]
        everyone = stack.enter_context(those[0].events(name).subscribe())
        until_known(those[1], name, 2)
        known: set[int] = set()  # a group counts as one subscriber, however many of its members are known

        def all_known() -> bool:
            those[1].events(name).publish(b"warm")
            known.update(place for place, member in enumerate(members) if member.take(wait_ms=20))
            return len(known) == len(members)

        wait_until(all_known, PATIENCE_S, "every member has had an event")
        sent = [b"%d" % number for number in range(300)]
        for body in sent:
            those[1].events(name).publish(body)
        assert bodies(everyone, sent[-1]) == sent
        got: list[list[bytes]] = [[] for _ in members]
        for place, member in enumerate(members):
            while len(got[place]) < 100:
                got[place] += [event.body for event in take(member) if event.body != b"warm"]
        assert [len(some) for some in got] == [100, 100, 100]
        assert Counter(body for some in got for body in some) == Counter(sent)


def test_events_slow_consumer_is_counted_and_told_and_holds_up_nobody(trio: Cluster) -> None:
    name = unique_channel()
    with clients(trio) as (one, two, three), ExitStack() as stack:
        slow = stack.enter_context(two.events(name).subscribe(credit=10))
        fast = stack.enter_context(three.events(name).subscribe(credit=10_000))
        until_known(one, name, 2)
        before = len(take(slow))
        sent = [b"%d" % number for number in range(500)]
        for body in sent:
            one.events(name).publish(body)
        assert bodies(fast, sent[-1]) == sent
        came: list[bytes] = [event.body for event in take(slow)]
        wait_until(lambda: slow.missed, PATIENCE_S, "word of what was missed")
        assert before
        while len(came) + slow.missed < len(sent):
            one.events(name).publish(b"more")
            came += [event.body for event in take(slow)]
        info = trio.info("node-2")
        assert info is not None
        assert info["counters"]["events_missed"] >= slow.missed > 0
        assert fast.missed == 0


def test_events_without_subscribers_go_nowhere_and_through_no_log(trio: Cluster) -> None:
    with client_at(trio, 0) as client:
        name = unique_channel()

        def last_index() -> int:
            return int(client.info()["groups"][0]["last_index"])

        before = last_index()
        for _ in range(100):
            assert client.events(name).publish(b"lost", confirm=True) == (0, 0)
        assert last_index() - before < 50  # ticks at most


def test_events_by_send_and_plain_for_simple_clients(trio: Cluster) -> None:
    name = unique_channel()
    endpoints = [node.endpoint for node in trio.nodes.values()]
    with Wild(endpoints[0]) as sender, Wild(endpoints[1]) as subscriber:
        subscriber.send(Request.SUBSCRIBE, {"subscription": 7, "pattern": name, "plain": True})
        assert subscriber.next_answer().command == Reply.SUBSCRIBED

        def reached() -> bool:
            sender.send(Request.SEND, {"channel": f"events:{name}", "metadata": "m"}, [b"hello"])
            return bool(sender.next_answer().fields["subscribers"] == 1)

        wait_until(reached, PATIENCE_S, "the subscriber is known")
        event = subscriber.next_answer()
        assert (event.command, event.request_id, event.bodies) == (Reply.EVENTS, 0, [b"hello"])
        assert event.fields["messages"] == [{"channel": name, "id": "", "metadata": "m", "tags": {}}]


def test_events_bad_requests_are_refused_by_name_and_the_node_goes_on(trio: Cluster) -> None:
    with Wild(next(iter(trio.nodes.values())).endpoint) as wild:
        for fields, code in (
            ({"subscription": 1, "pattern": "a.>.b"}, "INVALID_CHANNEL"),
            ({"subscription": 1, "pattern": "a", "credit": 0}, "INVALID_REQUEST"),
            ({"subscription": 1, "pattern": "a*", "kind": "commands"}, "INVALID_CHANNEL"),
        ):
            wild.send(Request.SUBSCRIBE, fields)
            assert wild.next_answer().code == code
        wild.send(Request.PUBLISH, {}, [b"no batch"])
        assert wild.next_answer().code == "MALFORMED_FRAME"
        wild.send(Request.PUBLISH, {}, [codec.encode_batch(b"a.*", [b""])])
        assert wild.next_answer().code == "INVALID_CHANNEL"
        wild.send(Request.GRANT, {"subscription": 9, "credit": 1, "credit_bytes": 1})
        assert wild.next_answer().code == "INVALID_REQUEST"
        wild.send(Request.PUBLISH, {"confirm": True}, [codec.encode_batch(b"a", [b""])])
        assert wild.next_answer().command == Reply.PUBLISHED


def command(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return run(*arguments, url=list(cluster.nodes.values())[-1].endpoint, data=b"")


def test_events_on_the_command_line(trio: Cluster) -> None:
    name = unique_channel()
    with client_at(trio, 0) as client, client.events(name).subscribe() as subscription:
        until_known(client, name, 1)

        def told() -> bool:
            done = command(trio, "events", "publish", name, "one", "two", "--metadata", "m", "--json")
            fields = json.loads(done.stdout)
            assert (done.returncode, fields["name"], fields["count"]) == (Exit.DONE, name, 2)
            return (fields["nodes"], fields["subscribers"]) == (1, 1)

        wait_until(told, PATIENCE_S, "the subscriber is known")
        assert bodies(subscription, b"two")[-2:] == [b"one", b"two"]
        done = command(trio, "events", "publish", name, "three")
        assert done.stdout.decode() == f"{name}: 1 event to 1 subscriber on 1 node\n"
    nothing = command(trio, "events", "subscribe", f"{name}.>", "--wait-ms", "100")
    assert (nothing.returncode, nothing.stdout) == (Exit.NOTHING_THERE, b"")
    assert command(trio, "events", "subscribe", ">.a").returncode == Exit.REFUSED
    assert command(trio, "events", "publish", "a.*", "x").returncode == Exit.REFUSED
    assert command(trio, "events", "publish", "a", "x", "y", "--id", "i").returncode == Exit.USAGE


def test_events_command_line_prints_what_comes(trio: Cluster) -> None:
    name = unique_channel()
    words: Sequence[str] = ("events", "subscribe", f"{name}.*", "--count", "2", "--json")
    with client_at(trio, 0) as client:
        listener = subprocess.Popen(
            [*COMMAND, *words, "--url", list(trio.nodes.values())[1].endpoint],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with listener:
            until_known(client, f"{name}.a", 1)
            client.events(f"{name}.a").publish(b"last", tags={"k": "v"})
            out, _ = listener.communicate(timeout=PATIENCE_S)
    rows = [json.loads(line) for line in out.splitlines()]
    assert listener.returncode == Exit.DONE
    assert [row["name"] for row in rows] == [f"{name}.a"] * 2


def test_events_go_on_when_a_node_is_killed_and_subscribers_move(trio: Cluster) -> None:
    name, third = unique_channel(), list(trio.nodes.values())[2]
    with clients(trio) as (one, two, _), zmqbroker.SyncClient(f"{third.endpoint}") as mover, ExitStack() as stack:
        here = stack.enter_context(two.events(name).subscribe())
        moves = stack.enter_context(mover.events(name).subscribe())
        grouped = stack.enter_context(mover.events(name).subscribe(group="g"))
        until_known(one, name, 3)
        third.kill()
        try:
            sent = [b"%d" % number for number in range(50)]
            for body in sent:
                one.events(name).publish(body)
            assert bodies(here, sent[-1]) == sent
            came: dict[SyncEventsSubscription, set[bytes]] = {moves: set(), grouped: set()}

            def moved() -> bool:
                one.events(name).publish(b"moved")
                for subscription, found in came.items():
                    found |= {event.body for event in subscription.take(wait_ms=50)}
                return all(b"moved" in found for found in came.values())

            wait_until(moved, PATIENCE_S, "both subscriptions of the mover are at another node")
        finally:
            third.start()
            wait_until(lambda: trio.caught_up(third), 30, "the node is back")


def test_events_confirm_tells_nodes_and_subscribers(trio: Cluster) -> None:
    name = unique_channel()
    with clients(trio) as (one, two, _), two.events(name).subscribe(), two.events(name).subscribe(group="g"):
        until_known(one, name, 2)
        assert one.events(name).publish(b"x", confirm=True) == (1, 2)


def test_events_benchmark_counts_what_every_subscriber_gets(trio: Cluster) -> None:
    for batch in (1, 500):
        assert our_round(trio, 1000, 10, 4, batch)["deliveries_per_s"] > 0  # it raises when one is lost
