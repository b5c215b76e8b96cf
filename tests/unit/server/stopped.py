"""The data directory of a node that was stopped, made without running one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.unit.broker.builders import START, receive
from tests.unit.server.harness import batch
from tests.unit.storage.support import run
from zmqbroker.broker import Machine
from zmqbroker.commands import Ack, Delivery, Member
from zmqbroker.raft.messages import Entry, EntryType, HardState, StorageAppend
from zmqbroker.server.membership import founding
from zmqbroker.storage import DataDirectory, LmdbState, SegmentLog
from zmqbroker.storage.identity import write_identity
from zmqbroker.wire.command_shapes import SmallCommand
from zmqbroker.wire.entries import EntryBuilder, decode_entry

MEMBERS = tuple(Member(number, f"n{number}", bytes([number]) * 16, f"h{number}:1") for number in (1, 2, 3))
TERM = 2

__all__ = ["MEMBERS", "TERM", "Stopped", "spoil"]


class Stopped:
    """Node n1 of three: every entry goes into its log and its machine, and with `flush` into its store."""

    def __init__(self, path: Path, *, formed: bool = True) -> None:
        self.path = path
        directory = DataDirectory.open(path, name="n1", volume="persistent", cluster_name="old", owner="serve")
        directory.close()
        if formed:
            known = {"cluster_uid": b"u" * 16, "founders": MEMBERS, "members": MEMBERS}
            write_identity(path, replace(directory.identity, node_uid=MEMBERS[0].uid, **known))  # type: ignore[arg-type]
        self.machine = Machine()
        self.machine.found(founding(MEMBERS))
        self.log = SegmentLog.open(path / "log", sync=True, segment_bytes=64 << 10, cache_bytes_max=0)
        self.state = LmdbState.open(path / "state", sync=True)
        self.index = 0
        if formed:
            self.append(b"")

    def append(self, payload: bytes, kind: EntryType = EntryType.NORMAL, *, commit: int | None = None) -> list[Delivery]:
        """One more entry; it is known to be committed with the next one, or when `commit` says so."""
        self.index += 1
        state = HardState(TERM, 1, self.index - 1 if commit is None else commit)
        run(self.log, StorageAppend(1, (Entry(self.index, TERM, payload, kind),), state, must_sync=True))
        if kind is not EntryType.NORMAL:
            return []
        commands = decode_entry(payload).commands if payload else ()
        return self.machine.apply(self.index, START + self.index, commands).deliveries

    def publish(self, *bodies: bytes, commit: int | None = None) -> int:
        """An entry with one batch; its index."""
        builder = EntryBuilder()
        builder.add_publish(batch(*bodies))
        self.append(builder.build(START + self.index + 1), commit=commit)
        return self.index

    def command(self, command: SmallCommand) -> list[Delivery]:
        """An entry with one command."""
        builder = EntryBuilder()
        builder.add(command)
        return self.append(builder.build(START + self.index + 1))

    def finish(self, count: int) -> None:
        """Receive and ack so many messages."""
        (delivery,) = self.command(receive(count))
        receipts = tuple(piece.receipt for piece in delivery.pieces)
        self.command(Ack(delivery.key.session, delivery.channel, receipts))

    def flush(self) -> None:
        """Bring all that was applied to the store."""
        self.state.commit(1, self.machine.applied_index, self.machine.changes())

    def close(self) -> Path:
        """The node ends; its directory."""
        self.log.close()
        self.state.close()
        return self.path


def spoil(path: Path, marker: bytes) -> None:
    """Flip a bit in every copy of some bytes in the store of a directory."""
    count = 0
    for file in path.rglob("data.mdb"):
        data = file.read_bytes()
        count += data.count(marker)
        file.write_bytes(data.replace(marker, bytes([marker[0] ^ 1]) + marker[1:]))
    assert count, marker
