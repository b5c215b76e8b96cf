"""What a leader tells one follower, as a function of a seed: entries, votes, other leaders, and now and then a snapshot.

The follower is member 3 of a cluster of three; members 1 and 2 lead in turn. `Script` keeps a state machine of its own, so it
knows the state after every entry and the body of each. What it makes a follower do: fill segments, be told that the log may be
trimmed, finish messages whose bodies have moved, replace entries that were never committed, vote, and install a snapshot
beside a log that ends before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import count, islice
from random import Random

from zmqbroker.broker import Machine
from zmqbroker.commands import Ack, Delivery, Member, Receive, ReceiveKey, Trim
from zmqbroker.raft import Membership
from zmqbroker.raft.messages import FORCED_ELECTION, Entry, Message, MessageType
from zmqbroker.server.desk import DATA_GROUP
from zmqbroker.server.membership import founding
from zmqbroker.server.snapshot_transfer import Chunk
from zmqbroker.storage.snapshot_file import SnapshotHead, SnapshotWriter
from zmqbroker.wire import codec
from zmqbroker.wire.entries import EntryBuilder, decode_entry

__all__ = ["FOLLOWER", "MEMBERS", "Script", "Step"]

MEMBERS = tuple(Member(number, f"n{number}", bytes([number]) * 16, f"127.0.0.1:{number}") for number in (1, 2, 3))
FOLLOWER = MEMBERS[2]

_VOTERS = Membership(tuple(member.id for member in MEMBERS))
_SESSION, _CHANNEL = b"s" * 16, "c"
_START_NS, _STEP_NS = 1_700_000_000_000_000_000, 1_000_000
#: Several entries in a sector, some sectors, some pages.
_BODY_SIZES = (20, 300, 3000, 9000)
_CHUNK_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that the follower is told, and what it must answer before the next."""

    message: Message | None = None
    chunks: tuple[Chunk, ...] = ()  # of a snapshot, in place of a message
    reached: int = 0  # index that the answer to entries, or to a snapshot, confirms
    commit: int = 0  # what is committed as far as the follower has heard
    restarts: bool = False  # in place of a message: the process ends without a word and starts again
    flush: str = ""  # "after" the step, "beside" it, or not at all


class Script:
    """So many steps. `entries` and `digests` tell what came of them."""

    def __init__(self, seed: int, steps: int) -> None:
        self._random = Random(seed)
        self._machine = Machine()
        self._machine.found(founding(MEMBERS))
        self._held: list[Delivery] = []  # received and not acked
        self._requests = count(1)
        self._term, self._sent, self._commit = 1, 0, 0
        self._log: list[Entry] = []  # the leader's
        self.entries: dict[int, Entry] = {}  # those that are committed in the end
        self.digests = {0: self._machine.digest()}  # by index: of the state after that entry
        self._begin_term()
        self.steps = [*islice(self._steps(steps), steps), self._append()]

    # --- entries -----------------------------------------------------------------------------------------------------

    def _begin_term(self) -> None:
        self._add(b"")

    def _add(self, data: bytes) -> None:
        self._log.append(Entry(len(self._log) + 1, self._term, data))

    def _payload(self) -> bytes:
        """The commands of one pass."""
        builder, random = EntryBuilder(), self._random
        kinds = random.choices(("publish", "receive", "ack", "trim"), (6, 3, 3, 2), k=random.choice((1, 1, 1, 3)))
        for kind in kinds:
            if kind == "receive":
                key = ReceiveKey(_SESSION, 0, next(self._requests))
                builder.add(Receive(key, _CHANNEL, count_max=random.choice((1, 4)), visibility_ms=3_600_000))
            elif kind == "ack" and self._held:
                delivery = self._held.pop(random.randrange(len(self._held)))
                builder.add(Ack(_SESSION, _CHANNEL, tuple(piece.receipt for piece in delivery.pieces)))
            elif kind == "trim":
                builder.add(Trim(min(self._commit, self._sent)))
            else:
                bodies = [self._body() for _ in range(random.choice((1, 1, 4)))]
                builder.add_publish(codec.encode_batch(_CHANNEL.encode(), bodies, 0, 0))
        return builder.build(_START_NS + len(self._log) * _STEP_NS)

    def _body(self) -> bytes:
        size = self._random.choice(_BODY_SIZES)
        return bytes(size) if self._random.random() < 0.2 else self._random.randbytes(size)

    def _commit_up_to(self, index: int) -> None:
        for entry in self._log[self._commit : index]:
            decoded = decode_entry(entry.data) if entry.data else None
            stamp, commands = (decoded.time_unix_ns, decoded.commands) if decoded is not None else (0, ())
            self._held += self._machine.apply(entry.index, stamp, commands).deliveries
            self.entries[entry.index], self.digests[entry.index] = entry, self._machine.digest()
        self._commit = max(self._commit, index)

    # --- steps -------------------------------------------------------------------------------------------------------

    def _steps(self, total: int) -> Iterator[Step]:
        random = self._random
        yield self._append()
        for number in count(1):
            kind = random.random()
            if number in (total // 3, 2 * total // 3) or kind < 0.03:
                yield from self._install()
            elif number == total // 2:
                yield Step(restarts=True, commit=self._commit)
            elif kind < 0.1:
                yield self._vote()
            elif kind < 0.15:
                yield from self._replace()
            else:
                yield self._append(random.choice((1, 1, 2, 5)))

    def _append(self, added: int = 0) -> Step:
        """More entries; what the follower confirmed before is committed."""
        for _ in range(added):
            self._add(self._payload())
        self._commit_up_to(self._sent if self._random.random() < 0.8 else self._commit)
        previous, entries = self._sent, tuple(self._log[self._sent :])
        self._sent = len(self._log)
        message = self._message(MessageType.APPEND_ENTRIES, index=previous, log_term=self._term_at(previous))
        message.commit, message.entries = self._commit, entries
        return Step(message, reached=self._sent, commit=self._commit, flush=self._flush())

    def _vote(self) -> Step:
        """Leadership is handed to the other one, which holds all that there is; it needs the follower's vote."""
        self._term += 1
        message = self._message(MessageType.REQUEST_VOTE, index=self._sent, log_term=self._term_at(self._sent))
        message.context = FORCED_ELECTION
        self._begin_term()
        return Step(message, commit=self._commit, flush=self._flush())

    def _replace(self) -> Iterator[Step]:
        """A leader dies with entries that the follower alone has made durable; the next one has others at their place."""
        yield self._append(2)
        self._lose()
        self._term += 1
        self._begin_term()
        yield self._append(self._random.choice((0, 3)))

    def _lose(self) -> None:
        """What is not committed is gone, but for the follower's copy."""
        del self._log[self._commit :]
        self._sent = self._commit

    def _install(self) -> Iterator[Step]:
        """The follower has missed some entries, and the leader does not have them any more.

        It may not have heard of the leader's term, and hold entries that were never committed, even beyond the snapshot.
        """
        fate = self._random.choice(("same leader", "next leader", "other entries"))
        if fate == "other entries":
            yield self._append(4)
            self._lose()
        if fate != "same leader":
            self._term += 1
            self._begin_term()
        for _ in range(self._random.randint(1, 8)):
            self._add(self._payload())
            self._commit_up_to(len(self._log))
        index = self._sent = self._commit
        file = BytesIO()
        membership = self._machine.roster.membership
        writer = SnapshotWriter(file, SnapshotHead(DATA_GROUP, index, self._term_at(index), membership))
        for item in self._machine.items():
            writer.item(*item)
        for live in self._machine.live_indexes():
            writer.body(live, self.entries[live].data)
        writer.finish()
        data, id = file.getvalue(), self._random.randbytes(16)
        chunks = tuple(
            Chunk(id, DATA_GROUP, self._term, len(data), offset, data[offset : offset + _CHUNK_BYTES])
            for offset in range(0, len(data), _CHUNK_BYTES)
        )
        yield Step(chunks=chunks, reached=index, commit=index, flush=self._flush())

    def _flush(self) -> str:
        return self._random.choice(("after", "beside", "", ""))

    @property
    def leader(self) -> Member:
        """Who leads now."""
        return MEMBERS[self._term % 2]

    def _term_at(self, index: int) -> int:
        return self._log[index - 1].term if index else 0

    def _message(self, kind: MessageType, *, index: int, log_term: int) -> Message:
        message = Message(kind, to=FOLLOWER.id, sender=self.leader.id, group=DATA_GROUP, term=self._term)
        message.index, message.log_term = index, log_term
        return message
