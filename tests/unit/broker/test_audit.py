"""Audits: checksums of the state as one entry left it, equal where the state is, different in the very key that differs."""

from __future__ import annotations

import struct
import zlib
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.broker.builders import BOB, MILLISECOND, START, Node, publish, receive
from zmqbroker.broker import BUCKETS, Audit, Machine
from zmqbroker.broker.audit import digest_of
from zmqbroker.broker.snapshot import META_KEY, ROSTER_KEY, describe
from zmqbroker.commands import Audited, OpenProducer, TakeAudit
from zmqbroker.errors import Corruption

ITEMS = st.dictionaries(st.binary(min_size=1, max_size=4), st.binary(max_size=4), max_size=30)


def checksums(audit: Audit) -> list[int]:
    return list(struct.unpack(f">{BUCKETS}I", audit.bucket_checksums()))


@settings(deadline=None)
@given(ITEMS, st.binary(min_size=1, max_size=4), st.none() | st.binary(max_size=4))
def test_audit_of_two_states_differs_in_the_bucket_of_the_key_that_differs(
    items: dict[bytes, bytes], key: bytes, value: bytes | None
) -> None:
    other = {**items}
    other.pop(key, None)
    if value is not None:
        other[key] = value
    one, two = Audit.of(9, sorted(items.items())), Audit.of(9, sorted(other.items()))
    assert (one.digest == two.digest) == (items == other)
    differing = [number for number, (a, b) in enumerate(zip(checksums(one), checksums(two), strict=True)) if a != b]
    assert differing == ([zlib.crc32(key) % BUCKETS] if items != other else [])


def test_audit_has_every_key_once_with_the_checksum_of_its_value() -> None:
    items = [(struct.pack(">H", number), b"value %d" % number) for number in range(2000)]
    audit = Audit.of(9, items)
    assert sorted(key for bucket in audit.buckets for key in bucket) == [key for key, _ in items]
    for bucket in audit.buckets:
        assert list(bucket) == sorted(bucket)
    key, value = items[77]
    assert audit.buckets[zlib.crc32(key) % BUCKETS][key] == zlib.crc32(value)


def test_audit_bytes_are_those_of_the_protocol() -> None:
    audit = Audit.of(9, [(b"k", b"value")])
    sized = b"".join(len(part).to_bytes(8, "big") + part for part in (b"k", b"value"))
    assert audit.digest == sha256((9).to_bytes(8, "big") + sized).digest()
    expected = [0] * BUCKETS
    expected[zlib.crc32(b"k") % BUCKETS] = zlib.crc32(b"k" + zlib.crc32(b"value").to_bytes(4, "big"))
    assert checksums(audit) == expected


@pytest.mark.parametrize(
    ("index", "items"), [(8, [(b"ab", b"c")]), (9, [(b"a", b"bc")]), (9, [(b"ab", b""), (b"c", b"")]), (9, [])]
)
def test_digest_tells_states_and_indexes_apart(index: int, items: list[tuple[bytes, bytes]]) -> None:
    assert digest_of(index, items) != digest_of(9, [(b"ab", b"c")])


def test_machine_keeps_the_state_as_the_whole_entry_leaves_it() -> None:
    node = Node()
    node.entry(publish(3))
    assert node.machine.audit is None
    applied = node.entry(publish(1), TakeAudit(), publish(2, channel="d"))
    assert applied.results[1] == Audited(2)
    audit = node.machine.audit
    assert audit is not None
    assert audit == Audit.of(2, node.machine.items())
    assert audit.digest == node.machine.digest()
    node.entry(publish(1))
    assert node.machine.audit is audit, "it stays while the state goes on"
    assert node.result(TakeAudit()) == Audited(4)
    assert node.machine.audit == Audit.of(4, node.machine.items())


def test_machine_two_audits_of_one_entry_are_one() -> None:
    node = Node()
    assert node.entry(TakeAudit(), TakeAudit()).results == [Audited(1), Audited(1)]
    assert node.machine.audit == Audit.of(1, node.machine.items())


def test_audit_changes_nothing_and_is_no_part_of_the_state() -> None:
    node, other = Node(), Node()
    for each in (node, other):
        each.entry(publish(3))
    node.entry(TakeAudit())
    other.entry()
    assert node.machine.digest() == other.machine.digest()
    assert Machine.restore(2, node.machine.items()).audit is None


def test_audits_of_replicas_are_equal_whether_restored_or_not() -> None:
    node = Node()
    node.entry(publish(3), OpenProducer("c", 7), publish(2, producer=7, base=1))
    node.entry(receive(2))
    restored = Machine.restore(2, node.machine.items())
    node.entry(TakeAudit())
    restored.apply(3, START, [TakeAudit()])
    assert node.machine.audit == restored.audit


def test_describe_names_the_kind_of_every_key_and_its_channel() -> None:
    node = Node()
    node.entry(OpenProducer("orders", 7), publish(2, channel="orders", producer=7, base=1))
    node.entry(receive(1, channel="orders"))
    node.entry(receive(9, channel="orders", session=BOB, request=2, count_min=9, wait_ms=1000), after_ms=200)
    named = sorted({node.machine.describe(key) for key, _ in node.machine.items()})
    assert named == [
        "assignment 1 of channel 'orders'",
        "batch 1 of channel 'orders'",
        "channel 'orders'",
        "producer 7 of channel 'orders'",
        "ready range 2 of channel 'orders'",
        "the members",
        "the time and counters",
        "waiting receive 2 of channel 'orders'",
    ]
    assert node.now_unix_ns == START + 200 * MILLISECOND


def test_describe_a_key_of_a_channel_that_is_not_there() -> None:
    assert Machine().describe(bytes.fromhex("0100000005")) == "channel unknown"


def test_describe_what_belongs_to_no_channel() -> None:
    assert (describe(META_KEY), describe(ROSTER_KEY)) == ((0, "the time and counters"), (0, "the members"))


@pytest.mark.parametrize("key", [b"", b"\0\0", b"\x07\0", b"\x08\0\0\0\1", b"\1\0\0\0", b"\2\0\0\0\1"])
def test_describe_what_is_no_key_is_corruption(key: bytes) -> None:
    with pytest.raises(Corruption, match="unknown key"):
        describe(key)
