"""A node's data, opened and judged: whether it may be trusted is decided here, before anything votes on it.

An ephemeral volume whose machine died, a damaged file, or a store that killed the process twice: where other members have the
data too it is not opened, and the node is to rejoin (`recovering` says why). A node that is alone keeps what its checksums
prove after the death of its machine, and refuses damage otherwise. The rules are in docs/STORAGE.md §1.
"""

from __future__ import annotations

import faulthandler
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from zmqbroker.broker import Machine
from zmqbroker.config import NodeConfig
from zmqbroker.errors import Corruption, DataDirectoryError, NoRoom, StorageError
from zmqbroker.server.desk import DATA_GROUP
from zmqbroker.server.formation import Former
from zmqbroker.server.salvage import lose_what_the_log_lost
from zmqbroker.storage.crashes import CRASHES_MAX, CRASHES_NAME, count_crashes, forget_crashes, watch_crashes
from zmqbroker.storage.directory import DataDirectory
from zmqbroker.storage.disk import lacks_room
from zmqbroker.storage.distrust import Cause, delete_stale, disposable, stale_names
from zmqbroker.storage.drop_behind import DropBehind
from zmqbroker.storage.identity import NEEDED_NAMES
from zmqbroker.storage.interfaces import LogStore, StateStore
from zmqbroker.storage.lmdb_state import LmdbState
from zmqbroker.storage.memory import MemoryLog, MemoryState
from zmqbroker.storage.run_record import RUN_NAME, RunRecord, boot_id, next_run, read_run, sync_tree, write_run
from zmqbroker.storage.segment_log import SegmentLog

__all__ = ["NodeData", "moment"]

log = logging.getLogger("zmqbroker")


def moment(unix_ns: int) -> str:
    """An instant as people write it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_ns // 1_000_000_000))


class NodeData:
    """What a node keeps, open. `close` it in any case."""

    def __init__(self, config: NodeConfig, owner: str, boot: Callable[[], str] = boot_id) -> None:
        """Open all that may be trusted.

        Raises DataDirectoryError, StorageError, and Corruption where nobody else has the data.
        """
        self._config = config
        self._sync = config.cluster.volume == "persistent"
        self._run: RunRecord | None = None  # as it is stored; None while the data is not trusted
        self._crashes = 0
        self.log: LogStore = MemoryLog()
        self.state: StateStore = MemoryState()
        self.housekeep: Callable[[], None] = lambda: None
        self._files = ExitStack()  # what is open, in the order in which it was opened
        self.directory = self._open_directory(owner)
        self._place = self.directory.path
        try:
            self.stale = stale_names(self._place)  # the directories that were moved aside
            self._open(boot())
        except OSError as error:
            self._close_files()
            kind = NoRoom if lacks_room(error) else StorageError
            raise kind(f"{self._place}: cannot be opened: {error}") from error
        except StorageError:
            self._close_files()
            raise

    def _open_directory(self, owner: str) -> DataDirectory:
        config = self._config
        return DataDirectory.open(
            config.node.data_dir,
            name=config.node.name,
            volume=config.cluster.volume,
            cluster_name=config.cluster.name,
            owner=owner,
            allow_network_file_system=config.storage.allow_network_file_system,
            clustered=config.size > 1,
        )

    # --- judging -----------------------------------------------------------------------------------------------------

    def _open(self, boot: str) -> None:
        if self.directory.note is not None:
            return
        previous = self._previous(boot)
        formed = self.directory.identity.cluster_uid is not None
        died = formed and not self._sync and previous is not None and previous.died_before(boot)
        if died and previous is not None and self.directory.distrust(Cause.DIED, self._death_of(previous)):
            return
        if self._broken():
            return
        record = next_run(previous, boot, time.time_ns(), lossy=died)
        if not died:
            self._begin(record)  # before anything is written: the mark of a clean stop is gone
        try:
            if formed and not died:
                self._look_for_data()
            self._watch()
            self._open_log(salvage=died)
            self._open_state(salvage=died)
        except Corruption as error:
            if not self.distrust(error):
                raise
            self._files.close()
            self.log, self.state, self._run = MemoryLog(), MemoryState(), None
            return
        if died:
            self._begin(record)  # not before: a start that did not get so far has to be repeated like this
            log.warning("the machine died: this node may have lost writes since %s", moment(record.lost_since_unix_ns or 0))

    def _previous(self, boot: str) -> RunRecord | None:
        """The last run. One whose record is damaged counts as one that the machine did not survive."""
        try:
            return read_run(self._place)
        except Corruption as error:
            if self._sync:
                return None
            log.error("damaged: %s", error)
            began_ns = (self._place / RUN_NAME).stat().st_mtime_ns
            return RunRecord(boot_id=f"not {boot}", clean=False, durable_unix_ns=began_ns)

    def _death_of(self, previous: RunRecord) -> str:
        since = moment(previous.durable_unix_ns)
        return f"{self._place}: the machine died after an unclean end, and what was written since {since} may be gone"

    def _broken(self) -> bool:
        """Whether the store has killed the process too often to be opened again. Raises Corruption where nobody else has it."""
        self._crashes = count_crashes(self._place)
        if self._crashes < CRASHES_MAX:
            return False
        reason = (
            f"{self._place / 'state'}: the process died {self._crashes} times while it was in use; {CRASHES_NAME} says where"
        )
        if not self.directory.distrust(Cause.DAMAGED, reason):
            raise Corruption(f"{reason} (delete that file to try again)")
        return True

    def _look_for_data(self) -> None:
        """A member without its log would vote as if it had promised nothing. Raises Corruption."""
        for name in NEEDED_NAMES:
            if not (self._place / name).is_dir():
                raise Corruption(f"{self._place / name}: is missing, but the node is a member of a cluster")

    def _begin(self, record: RunRecord) -> None:
        write_run(self._place, record)
        self._run = record

    def distrust(self, error: Corruption) -> bool:
        """Note that the data is damaged; False where nobody else has it. Raises StorageError."""
        reason = str(error)
        if str(self._place) not in reason:
            reason = f"{self._place / 'state'}: {reason}"
        return self.directory.distrust(Cause.DAMAGED, reason)

    # --- opening -----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        self._files.callback(watch_crashes(self._place).close)
        self._files.callback(faulthandler.disable)

    def _open_log(self, *, salvage: bool) -> None:
        storage = self._config.storage
        behind = DropBehind(storage.page_cache_bytes // storage.segment_bytes)
        self._files.callback(behind.close)
        opened = SegmentLog.open(
            self._place / "log",
            sync=self._sync,
            segment_bytes=storage.segment_bytes,
            reserve_segments=storage.reserve_segments,
            cache_bytes_max=storage.cache_bytes_max,
            salvage=salvage,
            on_left=behind.left,
        )
        self._files.callback(opened.close)
        self.log, self.housekeep = opened, opened.housekeep

    def _open_state(self, *, salvage: bool) -> None:
        place = self._place / "state"
        if salvage:
            self._salvage_state(place)
        opened = LmdbState.open(place, sync=self._sync)
        self._files.callback(opened.close)
        self.state = opened

    def _salvage_state(self, place: Path) -> None:
        """Let store and log fit each other after the death of the machine. Raises Corruption where they cannot."""
        first_index = self.log.view(DATA_GROUP).first_index()
        try:
            fits = not self._crashes and self._fit(place)
        except StorageError as error:
            log.error("damaged: %s", error)
            fits = False
        if not fits and first_index > 1:
            raise Corruption(f"{place}: does not fit what is left of the log, which begins at index {first_index}")
        if not fits:
            self._put_by()

    def _fit(self, place: Path) -> bool:
        """Whether the store is whole and the log goes on from it, or is made to. Raises StorageError."""
        view = self.log.view(DATA_GROUP)
        with ExitStack() as stack:
            state = LmdbState.open(place, sync=self._sync)
            stack.callback(state.close)
            applied_index = state.applied_index(DATA_GROUP)
            Machine.restore(applied_index, state.load(DATA_GROUP))
            for index in state.body_indexes(DATA_GROUP):
                state.body(DATA_GROUP, index)
            if applied_index > view.last_index():
                lost = lose_what_the_log_lost(DATA_GROUP, self.log, state)
                log.warning(
                    "the log ends at index %d, the store at %d: %d messages are lost", view.last_index(), applied_index, lost
                )
            return applied_index >= view.first_index() - 1

    def _put_by(self) -> None:
        """The whole log is there, and makes the state anew: the stored one is moved aside."""
        target = self._place / f"stale-{self.directory.identity.node_uid.hex()}"
        delete_stale(self._place, [target.name] if target.exists() else [])
        target.mkdir()
        for name in ("state", "bodies"):
            if (self._place / name).exists():
                (self._place / name).rename(target / name)
        self.stale = stale_names(self._place)

    # --- while the node runs -----------------------------------------------------------------------------------------

    @property
    def former(self) -> Former | None:
        """What is known of the node whose data is not to be trusted; None where it is."""
        note, identity = self.directory.note, self.directory.identity
        return None if note is None else Former(note.reason, identity.cluster_uid or b"", identity.members)

    @property
    def lost_since_unix_ns(self) -> int | None:
        """Since when writes may be lost that this node, which is alone, has confirmed; None: none are."""
        return self._run.lost_since_unix_ns if self._run is not None else None

    def proven(self) -> None:
        """The store was read and written: forget earlier deaths of the process. Raises StorageError."""
        try:
            forget_crashes(self._place)
        except OSError as error:
            raise StorageError(f"{self._place / CRASHES_NAME}: cannot be emptied: {error}") from error

    def tidy(self) -> None:
        """This node votes: delete what was moved aside and is of no use any more. For any thread; raises nothing."""
        try:
            names = disposable(self._place)
            delete_stale(self._place, names)
            self.stale = stale_names(self._place)
        except (OSError, DataDirectoryError) as error:
            log.warning("%s: what was moved aside cannot be deleted: %s", self._place, error)
            return
        for name in names:
            log.info("deleted %s: this node votes again", name)

    def close(self, *, orderly: bool) -> None:
        """Close everything; after an orderly stop leave the mark that all is durable. Raises StorageError."""
        try:
            self._files.close()
            if orderly and self._run is not None and self.directory.note is None:
                self._mark(self._run)
        finally:
            self.directory.close()

    def _close_files(self) -> None:
        self._files.close()
        self.directory.close()

    def _mark(self, run: RunRecord) -> None:
        try:
            for name in NEEDED_NAMES:
                sync_tree(self._place / name)
            write_run(self._place, replace(run, clean=True, durable_unix_ns=time.time_ns()))
        except OSError as error:
            raise StorageError(f"{self._place}: cannot be made durable: {error}") from error
