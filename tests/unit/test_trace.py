"""The reader of strace output, and the proof that a confirm followed the disk."""

from __future__ import annotations

import pytest

from tests.fault.trace import Call, Publish, confirm_header, parse, proofs, unproven

TOKEN = b"token-1"
PUBLISH = Publish(7, TOKEN, 100.0)


def hexadecimal(data: bytes) -> str:
    """Data as strace -xx shows it."""
    return "".join(f"\\x{byte:02x}" for byte in data)


def test_parse_whole_line_gives_the_call() -> None:
    (call,) = parse([f'12 100.500000 pwrite64(9, "{hexadecimal(b"ab")}", 2, 4096) = 2 <0.250000>\n'])
    assert (call.name, call.begin, call.descriptor, call.data, call.result) == ("pwrite64", 100.5, 9, b"ab", 2)
    assert 100.75 < call.end < 100.7501


def test_parse_vector_joins_its_parts() -> None:
    parts = f'{{iov_base="{hexadecimal(b"ab")}", iov_len=2}}, {{iov_base="{hexadecimal(b"cd")}"..., iov_len=900}}'
    (call,) = parse([f"12 100.5 pwritev(9, [{parts}], 2, 0) = 902 <0.1>"])
    assert (call.descriptor, call.data, call.result) == (9, b"abcd", 902)


def test_parse_interrupted_call_is_joined_with_its_end() -> None:
    lines = [
        "12 100.000000 fdatasync(9 <unfinished ...>",
        f'13 100.100000 sendto(4, "{hexadecimal(b"x")}", 1, 0, NULL, 0) = 1 <0.000010>',
        "12 100.300000 <... fdatasync resumed>) = 0 <0.300000>",
    ]
    send, sync = parse(lines)
    assert (send.name, send.descriptor) == ("sendto", 4)
    assert (sync.name, sync.begin, sync.descriptor, sync.data, sync.result) == ("fdatasync", 100.0, 9, b"", 0)
    assert 100.3 < sync.end < 100.3001


def test_parse_failed_call_keeps_its_result() -> None:
    (call,) = parse(["7     100.0 fdatasync(9) = -1 EIO (Input/output error) <0.000010>"])
    assert call.result == -1


@pytest.mark.parametrize(
    "line",
    [
        "12 100.0 --- SIGCONT {si_signo=SIGCONT} ---",
        "12 100.0 +++ exited with 0 +++",
        "strace: Process 12 attached",
        "12 100.0 <... fdatasync resumed>) = 0 <0.1>",
        "12 100.0 write(1, <unfinished ...>) = ?",
    ],
)
def test_parse_other_lines_are_passed_over(line: str) -> None:
    assert parse([line]) == []


def write(end: float, descriptor: int = 9, data: bytes = TOKEN, begin: float | None = None) -> Call:
    """A write of the message that has ended."""
    return Call("pwritev", end - 0.01 if begin is None else begin, end, descriptor, b"head" + data, 30)


def synced(begin: float, end: float, descriptor: int = 9, result: int = 0) -> Call:
    """A sync."""
    return Call("fdatasync", begin, end, descriptor, b"", result)


def confirm(begin: float, request_id: int = 7) -> Call:
    """The send of a confirm, behind another message in the same buffer."""
    return Call("sendto", begin, begin + 0.01, 4, b"\0\x10" + confirm_header(request_id) + b"\x80", 40)


GOOD = [write(101.0), synced(101.1, 101.2)]


def test_proofs_synced_everywhere_names_all() -> None:
    traces = {"one": [*GOOD, confirm(102.0)], "two": GOOD, "three": GOOD}
    assert proofs(PUBLISH, traces, "one") == {"one", "two", "three"}
    assert unproven([PUBLISH], traces, "one", 2) == []


@pytest.mark.parametrize(
    ("calls", "why"),
    [
        ([write(101.0)], "never synced"),
        ([synced(100.5, 100.6), write(101.0)], "synced before it was written"),
        ([write(101.0), synced(100.9, 101.2)], "the sync began while the write was under way"),
        ([write(101.0), synced(101.5, 102.1)], "the sync ended after the confirm began"),
        ([write(101.0), synced(101.1, 101.2, descriptor=10)], "another file was synced"),
        ([write(101.0), synced(101.1, 101.2, result=-1)], "the sync failed"),
        ([write(101.0, data=b"token-2"), synced(101.1, 101.2)], "another message was written"),
        ([write(99.5), synced(101.1, 101.2)], "written before it was sent"),
        ([synced(101.1, 101.2)], "never written"),
    ],
)
def test_unproven_confirm_without_majority_is_named(calls: list[Call], why: str) -> None:
    traces = {"one": [*GOOD, confirm(102.0)], "two": calls, "three": []}
    assert proofs(PUBLISH, traces, "one") == {"one"}, why
    (fault,) = unproven([PUBLISH], traces, "one", 2)
    assert "['one']" in fault


def test_unproven_first_of_several_confirms_counts() -> None:
    traces = {"one": [confirm(100.5), *GOOD, confirm(102.0)], "two": GOOD}
    assert proofs(PUBLISH, traces, "one") == set()


def test_unproven_confirm_of_another_request_is_none() -> None:
    traces = {"one": [*GOOD, confirm(102.0, request_id=8)], "two": GOOD}
    assert proofs(PUBLISH, traces, "one") is None
    assert unproven([PUBLISH], traces, "one", 2) == ["request 7: one sent no confirm"]


def test_unproven_message_written_twice_counts_the_first_write() -> None:
    calls = [write(101.0), synced(101.1, 101.2), write(101.5)]
    assert proofs(PUBLISH, {"one": [*calls, confirm(102.0)]}, "one") == {"one"}
