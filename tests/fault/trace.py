"""Reads what strace saw of a node, and proves from it that confirms followed the disk.

`parse` understands the output of `STRACE`: one file for all threads of a process, times on the machine's wall clock, data in
hexadecimal. A call's times bracket the real ones: it began after `begin` and had ended before `end`, whichever node it is of.
`unproven` answers only "was it on a majority's disk before the confirm left", for messages that carry a token of their own.
Source: the shared reference on Raft, section 6.7, checker 10.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from zmqbroker.wire.frames import MAGIC, PROTOCOL_VERSION, Reply

__all__ = ["STRACE", "Call", "Publish", "confirm_header", "parse", "proofs", "unproven"]

_SENDS = ("sendto", "sendmsg")
_WRITES = ("pwritev2", "pwritev", "pwrite64", "writev", "write")
_SYNCS = ("fdatasync", "fsync")

#: strace as the tracer of a node that stays the child of whoever started it (-D), so that signals reach the node.
STRACE = (
    "strace", "-D", "-f", "--seccomp-bpf", "-ttt", "-T", "-xx", "-s", "1024",
    "-e", f"trace={','.join((*_SYNCS, *_WRITES, *_SENDS))}",
)  # fmt: skip

#: Times are cut to microseconds: an end is moved by one for itself and one for the duration, so that it is not too early.
_RESOLUTION_S = 2e-6

_LINE = re.compile(r"(?P<thread>\d+) +(?P<time>\d+\.\d+) (?P<rest>.*)")
_RESUMED = re.compile(r"<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)")
_UNFINISHED = " <unfinished ...>"
_CALL = re.compile(r"(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)[^<]*<(?P<duration>\d+\.\d+)>")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(slots=True, frozen=True)
class Call:
    """One system call that returned."""

    name: str
    begin: float  # not after the call began; seconds since 1970
    end: float  # not before it returned
    descriptor: int
    data: bytes  # what it wrote or sent, cut where strace cut it
    result: int


@dataclass(slots=True, frozen=True)
class Publish:
    """A message that was sent alone, and confirmed."""

    request_id: int
    token: bytes  # bytes of its body that are nowhere else
    sent: float  # not after the client sent it; seconds since 1970


def parse(lines: Iterable[str]) -> list[Call]:
    """The calls of one trace, in the order in which they ended. Lines about signals and exits are passed over."""
    calls: list[Call] = []
    unfinished: dict[str, tuple[float, str]] = {}  # thread -> when its call began, and its text so far
    for line in lines:
        if (match := _LINE.match(line)) is None:
            continue
        thread, time, rest = match["thread"], float(match["time"]), match["rest"].rstrip()
        if rest.endswith(_UNFINISHED):
            unfinished[thread] = time, rest.removesuffix(_UNFINISHED)
            continue
        begin, end = time, None
        if resumed := _RESUMED.match(rest):
            if thread not in unfinished:
                continue  # it began before the tracer was there
            begin, text = unfinished.pop(thread)
            end, rest = time, text + resumed["rest"]
        if call := _CALL.match(rest):
            calls.append(_call(call, begin, (end if end is not None else begin + float(call["duration"])) + _RESOLUTION_S))
    return calls


def _call(match: re.Match[str], begin: float, end: float) -> Call:
    first, _, _ = match["arguments"].partition(",")
    data = b"".join(bytes.fromhex(text.replace("\\x", "")) for text in _TEXT.findall(match["arguments"]))
    return Call(match["name"], begin, end, int(first), data, int(match["result"]))


def confirm_header(request_id: int) -> bytes:
    """The first bytes of the SENT that answers a request (PROTOCOL §2)."""
    return MAGIC + bytes((PROTOCOL_VERSION, Reply.SENT)) + request_id.to_bytes(8, "little")


def proofs(publish: Publish, traces: Mapping[str, Sequence[Call]], leader: str) -> set[str] | None:
    """The nodes that had the message on disk before the leader began to send its confirm; None without such a confirm."""
    header = confirm_header(publish.request_id)
    confirms = [call.begin for call in traces[leader] if call.name in _SENDS and header in call.data]
    if not confirms:
        return None
    return {name for name, calls in traces.items() if _synced(publish, calls, min(confirms))}


def _synced(publish: Publish, calls: Sequence[Call], confirm: float) -> bool:
    """Whether a sync of the file with the message began after the message was in the file and ended before the confirm."""
    written = {
        call.descriptor: call.end
        for call in reversed(calls)
        if call.name in _WRITES and call.result > 0 and publish.token in call.data and call.begin >= publish.sent
    }
    return any(
        call.name in _SYNCS and call.result == 0 and written.get(call.descriptor, confirm) <= call.begin and call.end <= confirm
        for call in calls
    )


def unproven(publishes: Iterable[Publish], traces: Mapping[str, Sequence[Call]], leader: str, majority: int) -> list[str]:
    """One sentence per confirm that was sent before a majority had synced its message."""
    faults = []
    for publish in publishes:
        found = proofs(publish, traces, leader)
        if found is None:
            faults.append(f"request {publish.request_id}: {leader} sent no confirm")
        elif len(found) < majority:
            faults.append(f"request {publish.request_id}: only {sorted(found)} had synced it before its confirm was sent")
    return faults
