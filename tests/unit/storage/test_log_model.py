"""Random work on a segment log against a plain list: appends, overwrites, hard states, trims, reopens, outstanding jobs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.storage.support import Model, append, holds, open_log
from zmqbroker.raft.messages import HardState, StorageAppend
from zmqbroker.storage.segment_job import SegmentJob
from zmqbroker.storage.segment_log import SegmentLog

_PAYLOADS = st.lists(
    st.one_of(st.binary(max_size=40), st.integers(0, 3000).map(bytes), st.integers(1, 3000).map(lambda size: b"\x01" * size)),
    min_size=1,
    max_size=4,
)


class LogMachine(RuleBasedStateMachine):
    """Two groups on one log; jobs complete when the machine says so."""

    @initialize(sync=st.booleans(), cache=st.sampled_from([0, 2000, 1 << 20]))
    def start(self, sync: bool, cache: int) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.sync, self.cache = sync, cache
        self.prepared, self.shown = Model(), Model()
        self.outstanding: list[tuple[SegmentJob, list[StorageAppend]]] = []
        self.trimmed = {1: 0, 2: 0}
        self.term = 1
        self.log = self._open()

    def _open(self) -> SegmentLog:
        return open_log(Path(self.directory.name), sync=self.sync, cache_bytes_max=self.cache)

    def _last(self, group: int) -> int:
        model = self.prepared.groups.get(group)
        return len(model.entries) if model else 0

    def _submit(self, work: StorageAppend) -> None:
        self.outstanding.append((self.log.prepare([work]), [work]))
        self.prepared.apply([work])

    @rule(group=st.sampled_from([1, 2]), payloads=_PAYLOADS, must_sync=st.booleans())
    def add(self, group: int, payloads: list[bytes], must_sync: bool) -> None:
        self._submit(append(self._last(group) + 1, *payloads, term=self.term, group=group, must_sync=must_sync))

    @rule(group=st.sampled_from([1, 2]), payloads=_PAYLOADS, back=st.integers(1, 6))
    def replace(self, group: int, payloads: list[bytes], back: int) -> None:
        self.term += 1
        first = max(self._last(group) + 1 - back, self.trimmed[group] + 1)
        state = HardState(self.term, back, self.trimmed[group])
        self._submit(append(first, *payloads, term=self.term, group=group, state=state))

    @rule(count=st.integers(1, 5))
    def finish(self, count: int) -> None:
        batch, self.outstanding = self.outstanding[:count], self.outstanding[count:]
        for job, _ in batch:
            job.write()
        if any(job.must_sync for job, _ in batch):
            batch[-1][0].sync()
        for job, works in batch:
            self.log.complete(job)
            self.shown.apply(works)

    @rule(group=st.sampled_from([1, 2]), keep=st.integers(0, 5), housekeep=st.booleans())
    def trim(self, group: int, keep: int, housekeep: bool) -> None:
        self.finish(len(self.outstanding))
        index = max(self._last(group) - keep, self.trimmed[group])
        self.trimmed[group] = index
        self.log.trim(group, index)
        assert self.log.view(group).first_index() <= index + 1
        if housekeep:
            self.log.housekeep()

    @rule()
    def reopen(self) -> None:
        self.finish(len(self.outstanding))
        size = self.log.size_bytes
        self.log.close()
        self.log = self._open()
        assert self.log.size_bytes <= size

    @invariant()
    def shows_the_model(self) -> None:
        assert holds(self.log, self.shown.groups)

    def teardown(self) -> None:
        self.log.close()
        self.directory.cleanup()


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
