"""A node's data directory: made, checked, locked, and known by its identity.

    LOCK            flock of the node that uses the directory, with its pid
    identity.json   see identity.py
    ballast         see ballast.py
    run.json        see run_record.py
    recovering.json see distrust.py; there only while the data is not to be trusted
    crashes         see crashes.py
    log/            the segment log
    state/          the LMDB environment of applied state
    bodies/         the LMDB environment of the bodies that left the log
    stale-UID/      what was moved aside

It refuses file systems on which locks, mmap or fsync cannot be trusted, a directory that another process uses, and one that
belongs to another node, cluster, volume mode or owner. Invariant: nothing in the directory is read or written without the lock.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from zmqbroker.commands import Member
from zmqbroker.errors import Corruption, DataDirectoryError, NoRoom, StorageError
from zmqbroker.storage.ballast import give_up_ballast, keep_ballast, room_to_start
from zmqbroker.storage.disk import OS_DISK, lacks_room
from zmqbroker.storage.distrust import Cause, Distrust, forget_note, new_note, read_note, set_aside
from zmqbroker.storage.identity import Identity, claim_identity, read_identity, write_identity

__all__ = ["UNSAFE_FILE_SYSTEMS", "DataDirectory", "file_system_type", "raise_file_limit"]

#: statfs types (statfs(2)) on which LMDB and flock cannot be trusted.
UNSAFE_FILE_SYSTEMS = {
    0x6969: "NFS",
    0xFF534D42: "CIFS",
    0x517B: "SMB",
    0xFE534D42: "SMB2",
    0x65735546: "FUSE",
    0x01021997: "9p",
}

_STATFS_SIZE = 256  # struct statfs is 120 bytes on 64-bit Linux; f_type comes first
_UID_SIZE = 16


def file_system_type(path: Path) -> int:
    """The statfs type of the file system of `path`. Raises OSError."""
    buffer = ctypes.create_string_buffer(_STATFS_SIZE)
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(path), buffer) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one; returns the limit that is now in force."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class DataDirectory:
    """An open, locked data directory with the identity that it belongs to. Made by `DataDirectory.open`."""

    def __init__(self, path: Path, lock: int, identity: Identity, note: Distrust | None = None) -> None:
        self.path = path
        self.identity = identity  # as it is stored; where it is damaged, what the configuration says of it
        self.note = note  # why the data is not to be trusted; None: it is
        self._lock = lock  # descriptor that holds the flock; -1 once closed

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        name: str,
        volume: str,
        cluster_name: str,
        owner: str,
        allow_network_file_system: bool = False,
        clustered: bool = False,
        type_of: Callable[[Path], int] = file_system_type,
    ) -> DataDirectory:
        """Make, check and lock `path`, and give a new directory its identity, with a fresh node uid.

        Raises DataDirectoryError when the directory cannot be trusted, is in use or is not for this configuration, NoRoom when
        its disk is too full to start on, and Corruption when its identity is damaged, or missing beside data; of a node that
        is `clustered`, which others can give its data again, that is noted instead.
        """
        place = Path(path)
        wanted = Identity(node_uid=os.urandom(_UID_SIZE), name=name, volume=volume, cluster_name=cluster_name, owner=owner)
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            kind = UNSAFE_FILE_SYSTEMS.get(type_of(place))
            if kind is not None and not allow_network_file_system:
                raise DataDirectoryError(f"{place}: is on {kind}, which cannot be trusted with a broker's data")
            OS_DISK.sync_directory(place.parent)
            with ExitStack() as stack:
                lock = _take_lock(place)
                stack.callback(os.close, lock)
                room_to_start(place)
                identity, note = _claim(place, wanted, clustered)
                stack.pop_all()
        except OSError as error:
            if lacks_room(error):
                raise NoRoom(f"{place}: the disk is full: {error}") from error
            raise DataDirectoryError(f"{place}: cannot be used as a data directory: {error}") from error
        return cls(place, lock, identity, note)

    def save_formation(
        self, cluster_uid: bytes, founders: tuple[Member, ...], members_index: int, members: tuple[Member, ...]
    ) -> None:
        """Store that the node belongs to a formed cluster, and the newest members known; durable when this returns.

        Data that is not to be trusted is moved aside: the members count the node in under its new uid. Raises
        DataDirectoryError.
        """
        identity = replace(
            self.identity, cluster_uid=cluster_uid, founders=founders, members_index=members_index, members=members
        )
        try:
            if self.note is None:
                self._write(identity)
            else:
                identity = replace(identity, node_uid=self.note.node_uid)
                set_aside(self.path, self.note, identity)
        except OSError as error:
            raise DataDirectoryError(f"{self.path}: the identity cannot be stored: {error}") from error
        self.identity, self.note = identity, None

    @property
    def shared(self) -> bool:
        """Whether other members of a formed cluster may have what is here."""
        return self.identity.cluster_uid is not None and len(self.identity.members) > 1

    @property
    def node_uid(self) -> bytes:
        """What the node is called: from the moment that its data is not trusted, by another uid than before."""
        return self.note.node_uid if self.note is not None else self.identity.node_uid

    def distrust(self, cause: Cause, reason: str) -> bool:
        """Note that the data is not to be trusted; False, and nothing is noted, where nobody else has it.

        Durable when this returns. What was noted first stays. Raises StorageError.
        """
        if self.note is None and not self.shared:
            return False
        if self.note is None:
            try:
                self.note = new_note(self.path, cause, reason, self.identity.node_uid, time.time_ns())
            except OSError as error:
                raise StorageError(f"{self.path}: that the data is {cause} cannot be noted: {error}") from error
        return True

    def _write(self, identity: Identity) -> None:
        try:
            write_identity(self.path, identity)
        except OSError as error:
            if not lacks_room(error):
                raise
            give_up_ballast(self.path)
            write_identity(self.path, identity)

    def give_up_ballast(self) -> None:
        """Free the room that is kept for the next start, for who needs it now. Raises DataDirectoryError."""
        try:
            give_up_ballast(self.path)
        except OSError as error:
            raise DataDirectoryError(f"{self.path}: cannot be used as a data directory: {error}") from error

    def keep_ballast(self) -> None:
        """Have room for the next start, as far as there is any; to be called again and again. Raises DataDirectoryError."""
        try:
            keep_ballast(self.path)
        except OSError as error:
            raise DataDirectoryError(f"{self.path}: cannot be used as a data directory: {error}") from error

    def close(self) -> None:
        """Give up the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _claim(place: Path, wanted: Identity, clustered: bool) -> tuple[Identity, Distrust | None]:
    """The identity and the note of a directory. Raises as `DataDirectory.open`, and OSError."""
    note = None
    try:
        note = read_note(place)
        identity = claim_identity(place, wanted)
    except Corruption as error:
        if not clustered:
            raise
        identity, old_uid = _stand_in(place, wanted)
        return identity, note or new_note(place, Cause.DAMAGED, str(error), old_uid, time.time_ns())
    if note is not None and identity.node_uid == note.node_uid:
        forget_note(place, note)  # all was moved, and the process died before it was told
        note = None
    return identity, note


def _stand_in(place: Path, wanted: Identity) -> tuple[Identity, bytes | None]:
    """The identity of a directory where it, or the note, cannot be read, and the node's old uid if that is known."""
    try:
        identity = read_identity(place)
    except Corruption:
        identity = None
    return (wanted, None) if identity is None else (identity, identity.node_uid)


def _take_lock(path: Path) -> int:
    """flock the directory's LOCK file and leave the pid in it. Raises DataDirectoryError or OSError."""
    descriptor = os.open(path / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise DataDirectoryError(f"{path}: in use by another node (pid {holder})") from error
    try:
        # Over the old one, and as long: that takes no room on a full disk.
        os.pwrite(descriptor, f"{os.getpid():<15}\n".encode(), 0)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
