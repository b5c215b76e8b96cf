"""The payload of a Raft entry: a time stamp and commands, as the leader builds it and every node applies it.

Publish commands carry the producer's batch frame as it came, hand-overs and PublishAll several of them; the others are small
msgpack arrays. Writing checks what reading will check, so that nothing is replicated which a node could not apply. An empty
payload (a new leader's first entry) is no entry in this sense and is refused. Source: docs/PROTOCOL.md §9.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from zmqbroker.commands import ANY_INCARNATION, Command, CreateSchedule, NewSchedule, Publish
from zmqbroker.errors import LocalProtocolError, MalformedFrame, UnsupportedVersion
from zmqbroker.wire import codec
from zmqbroker.wire.columns import read_ids, read_runs
from zmqbroker.wire.command_shapes import SHAPE_OF_TYPE, SHAPES, SmallCommand, fits, is_u64
from zmqbroker.wire.frames import pack, shown, unpack
from zmqbroker.wire.hand_overs import HAND_OVER, HandOverFrames, hand_over_head, read_hand_over
from zmqbroker.wire.publish_all import PUBLISH_ALL, PublishAllFrames, publish_all_head, read_publish_all

__all__ = ["COMMANDS_MAX", "ENTRY_FORMAT", "MACHINE_VERSION", "Addable", "DecodedEntry", "EntryBuilder", "decode_entry"]

ENTRY_FORMAT = 1
MACHINE_VERSION = 4
#: A receipt has 16 bits for the ordinal of a command in its entry.
COMMANDS_MAX = 65_535

#: Every command but Publish, as it is written.
Addable = SmallCommand | HandOverFrames | PublishAllFrames

#: format, machine version, number of commands, time_unix_ns
_ENTRY = struct.Struct("<HHIQ")
#: size of the payload, type, flags, zeros
_COMMAND = struct.Struct("<IBB2s")
_U64 = struct.Struct("<Q")
#: Of a batch frame: its crc32c, and where it is.
_CHECKSUM, _CHECKSUM_AT = struct.Struct("<I"), 4
_ZEROS = bytes(2)
_PUBLISH = 1
#: Flag of a Publish: its payload has the expected sequence behind the incarnation.
_EXPECTS = 1


class DecodedEntry(NamedTuple):
    """An entry taken apart; a `Publish` says where in the payload its batch frame is."""

    machine_version: int
    time_unix_ns: int
    commands: tuple[Command, ...]


# --- writing ---------------------------------------------------------------------------------------------------------


class EntryBuilder:
    """Gathers commands for one entry. Add at most `COMMANDS_MAX`, then `build` once."""

    def __init__(self) -> None:
        self._parts: list[bytes] = [b""]  # the first will be the entry's head
        self._frames: list[int] = []  # positions of batch frames in _parts
        self._count = 0
        self._size_bytes = _ENTRY.size
        self.data_crc = 0  # crc32c of what `build` has made; 0 before

    @property
    def count(self) -> int:
        """Number of commands so far; the next one's ordinal in the entry."""
        return self._count

    @property
    def size_bytes(self) -> int:
        """Bytes that `build` would make now."""
        return self._size_bytes

    def add_publish(self, batch: bytes, incarnation: int = ANY_INCARNATION, expected_sequence: int | None = None) -> None:
        """Append a batch frame that `codec.read_batch` accepted, checksum included; it is kept as it is.

        Raises LocalProtocolError when full.
        """
        if not is_u64(incarnation):
            raise LocalProtocolError(f"incarnation {incarnation!r} is not a u64")
        if expected_sequence is None:
            self._append(_PUBLISH, 0, _U64.pack(incarnation), batch)
        elif is_u64(expected_sequence):
            self._append(_PUBLISH, _EXPECTS, _U64.pack(incarnation), _U64.pack(expected_sequence), batch)
        else:
            raise LocalProtocolError(f"expected sequence {expected_sequence!r} is not a u64")
        self._frames.append(len(self._parts) - 1)

    def add(self, command: Addable) -> None:
        """Append any other command; frames of several batches are such as `add_publish` takes.

        Raises LocalProtocolError when full, or when a value is out of its range.
        """
        if isinstance(command, HandOverFrames | PublishAllFrames):
            if isinstance(command, HandOverFrames):
                self._append(HAND_OVER, 0, hand_over_head(command), *command.frames)
            else:
                self._append(PUBLISH_ALL, 0, publish_all_head(command), *command.frames)
            self._frames += range(len(self._parts) - len(command.frames), len(self._parts))
            return
        shape = SHAPES[type(command)]
        items = shape.items(command)
        if not fits(shape, items):
            raise LocalProtocolError(f"a value of this command is out of its range: {shown(command)}")
        self._append(shape.type, 0, pack(items, type(command).__name__) if items else b"")

    def _append(self, kind: int, flags: int, *payload: bytes) -> None:
        if self._count == COMMANDS_MAX:
            raise LocalProtocolError(f"an entry has at most {COMMANDS_MAX} commands")
        size = sum(map(len, payload))
        self._parts += (_COMMAND.pack(size, kind, flags, _ZEROS), *payload)
        self._count += 1
        self._size_bytes += _COMMAND.size + size

    def build(self, time_unix_ns: int) -> bytes:
        """The payload with the leader's stamp. Raises LocalProtocolError when nothing was added, or for a stamp before 1970."""
        if not self._count or not is_u64(time_unix_ns):
            raise LocalProtocolError(f"an entry of {self._count} commands at {time_unix_ns} ns is not replicated")
        self._parts[0] = _ENTRY.pack(ENTRY_FORMAT, MACHINE_VERSION, self._count, time_unix_ns)
        data, self.data_crc = codec.join_parts(self._parts, self._frames)
        return data


# --- reading ---------------------------------------------------------------------------------------------------------


def decode_entry(data: bytes) -> DecodedEntry:
    """The commands in a payload, in order. The checksums of its batch frames are not verified: the log's record has one.

    Raises MalformedFrame, or UnsupportedVersion for a format or machine version that this node does not know.
    """
    if len(data) < _ENTRY.size:
        raise MalformedFrame(f"an entry of {len(data)} bytes is shorter than {_ENTRY.size}")
    entry_format, machine_version, count, time_unix_ns = _ENTRY.unpack_from(data)
    if entry_format != ENTRY_FORMAT:
        raise UnsupportedVersion(f"entry format {entry_format} is not known", minimum=ENTRY_FORMAT, maximum=ENTRY_FORMAT)
    if machine_version != MACHINE_VERSION:
        raise UnsupportedVersion(
            f"machine version {machine_version} is not known", minimum=MACHINE_VERSION, maximum=MACHINE_VERSION
        )
    if not 1 <= count <= COMMANDS_MAX:
        raise MalformedFrame(f"an entry says that it has {count} commands, allowed is 1 to {COMMANDS_MAX}")
    commands: list[Command] = []
    position = _ENTRY.size
    for _ in range(count):
        command, position = _decode_command(data, position)
        commands.append(command)
    if position != len(data):
        raise MalformedFrame(f"commands of an entry end at offset {position}, it has {len(data)} bytes")
    return DecodedEntry(machine_version, time_unix_ns, tuple(commands))


def _decode_command(data: bytes, position: int) -> tuple[Command, int]:
    start = position + _COMMAND.size
    if start > len(data):
        raise MalformedFrame(f"an entry of {len(data)} bytes is cut at offset {position}")
    size, kind, flags, zeros = _COMMAND.unpack_from(data, position)
    end = start + size
    if zeros != _ZEROS or flags > (kind == _PUBLISH) or end > len(data):
        raise MalformedFrame(f"a command of {size} bytes at offset {position} does not fit an entry of {len(data)} bytes")
    if kind == _PUBLISH:
        return _decode_publish(data, start, size, expects=flags == _EXPECTS), end
    if kind == HAND_OVER:
        return read_hand_over(data, start, size), end
    if kind == PUBLISH_ALL:
        return read_publish_all(data, start, size), end
    if kind not in SHAPE_OF_TYPE:
        raise MalformedFrame(f"command type {kind} at offset {position} is not known")
    name, shape = SHAPE_OF_TYPE[kind]
    items = unpack(data[start:end], name) if shape.checks else list(data[start:end])
    if not fits(shape, items):
        raise MalformedFrame(f"{name} at offset {position} has wrong values: {shown(items)}")
    command = shape.command(*items)
    return (_placed(command, data, end) if isinstance(command, NewSchedule) else command), end


def _placed(schedule: NewSchedule, data: bytes, end: int) -> CreateSchedule:
    """The schedule whose batch frame ends at data[end]: msgpack has bytes as they are, and they are its last item."""
    size = len(schedule.frame)
    position = end - size
    header = codec.read_batch(data, position, size, verify=False)
    message = Publish(header, position, size, runs=read_runs(data, position, header))
    (checksum,) = _CHECKSUM.unpack_from(data, position + _CHECKSUM_AT)
    return CreateSchedule(schedule.name, schedule.plan, message, checksum)


def _decode_publish(data: bytes, start: int, size: int, *, expects: bool) -> Publish:
    head_size = 2 * _U64.size if expects else _U64.size
    if size < head_size:
        raise MalformedFrame(f"Publish at offset {start} has {size} bytes, fewer than {head_size}")
    (incarnation,) = _U64.unpack_from(data, start)
    (expected,) = _U64.unpack_from(data, start + _U64.size) if expects else (None,)
    position, batch_size = start + head_size, size - head_size
    header = codec.read_batch(data, position, batch_size, verify=False)
    if not header.columns:  # as a rule
        return Publish(header, position, batch_size, incarnation, expected_sequence=expected)
    runs, ids = read_runs(data, position, header), read_ids(data, position, header)
    return Publish(header, position, batch_size, incarnation, runs, ids, expected)
