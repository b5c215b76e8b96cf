# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The log's writer as a thread that needs no interpreter: the twin of zmqbroker/storage/_log_py.py.

A job that is one write to an open file (`WriteJob.plain`) is written and synced without the interpreter's lock, so a busy loop
delays no write and no write delays the loop. Everything else a job may have to do (begin a segment, make spares) is done by
the job itself, in Python, on the same thread and in the same order.

Invariants: what was written without the lock is synced before Python goes on, so the files' own state never lacks a write; a
job's buffers are Python's bytes, which the job keeps alive until it is handed back; the mutex is never held while the
interpreter's lock is waited for. Source: docs/STORAGE.md §7.
"""

import os
import threading

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport EINTR, EIO, ETIMEDOUT, errno
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free

from zmqbroker.errors import NoRoom

__all__ = ["LogWriter"]

cdef extern from "<time.h>" nogil:
    ctypedef int clockid_t
    ctypedef long time_t
    struct timespec:
        time_t tv_sec
        long tv_nsec
    clockid_t CLOCK_MONOTONIC
    int clock_gettime(clockid_t clock, timespec *found)

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    ctypedef struct pthread_condattr_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_condattr_init(pthread_condattr_t *attributes)
    int pthread_condattr_setclock(pthread_condattr_t *attributes, clockid_t clock)
    int pthread_condattr_destroy(pthread_condattr_t *attributes)
    int pthread_cond_init(pthread_cond_t *condition, pthread_condattr_t *attributes)
    int pthread_cond_destroy(pthread_cond_t *condition)
    int pthread_cond_signal(pthread_cond_t *condition)
    int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)
    int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, timespec *until)

cdef extern from "<sys/types.h>" nogil:
    ctypedef int64_t off_t

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t pwritev(int descriptor, iovec *buffers, int count, off_t offset)

cdef extern from "<unistd.h>" nogil:
    int fdatasync(int descriptor)

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd_write(int descriptor, uint64_t value)
    int eventfd_read(int descriptor, uint64_t *value)

cdef enum:
    BUFFERS_MAX = 1024  # IOV_MAX of Linux
    NANOSECONDS = 1000000000

# What became of a step: done, refused for want of room, or failed for good.
cdef enum:
    DONE
    NO_ROOM
    FAILED

ctypedef struct Job:
    PyObject *job  # a reference, given up when the job is handed back
    Job *next
    iovec *buffers  # none of them empty
    int count
    int descriptor  # -1: the job does its writing itself
    off_t offset
    bint must_sync
    bint synced  # with it everything before it


cdef int write_all(Job *job) noexcept nogil:
    """Write a job's buffers, however little one call takes. Returns 0 or the error's number; the buffers are used up."""
    cdef iovec *buffers = job.buffers
    cdef int count = job.count
    cdef off_t offset = job.offset
    cdef ssize_t written
    while count > 0:
        written = pwritev(job.descriptor, buffers, min(count, <int>BUFFERS_MAX), offset)
        if written < 0:
            if errno == EINTR:
                continue
            return errno
        if written == 0:
            return EIO  # nothing was taken and nothing said: to go on would be to go on for ever
        offset += written
        while count > 0 and <size_t>written >= buffers.iov_len:
            written -= <ssize_t>buffers.iov_len
            buffers += 1
            count -= 1
        if written > 0:
            buffers.iov_base = <char *>buffers.iov_base + written
            buffers.iov_len -= <size_t>written
    return 0


cdef int sync_data(int descriptor) noexcept nogil:
    """Returns 0 or the error's number. Only an interrupted call is made again: after an error pages may look clean."""
    while fdatasync(descriptor) != 0:
        if errno != EINTR:
            return errno
    return 0


cdef int64_t now_ns() noexcept nogil:
    """The monotonic clock, as time.monotonic_ns() has it."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec * NANOSECONDS + now.tv_nsec


cdef class LogWriter:
    """See the twin for what it promises and who may call what."""

    cdef pthread_mutex_t _lock  # guards everything down to `_failure`
    cdef pthread_cond_t _wake
    cdef Job *_queue
    cdef Job *_queue_end
    cdef Job *_done
    cdef Job *_done_end
    cdef bint _closing
    cdef bint _out_of_room
    cdef int64_t _done_written_ns
    cdef int _error  # number of the failed call's error; 0: none
    cdef object _failure  # what Python raised; None: nothing
    cdef int _dirty  # the thread's own: descriptor of what it has written and not synced; -1: none
    cdef int64_t _retry_ns
    cdef bint _told_out_of_room, _told_failure, _closed  # the caller's own
    cdef object _finished, _on_failure, _housekeep, _on_room, _thread
    cdef readonly int descriptor
    """Readable when `collect` has something to hand back; valid until `close`."""
    cdef readonly int64_t written_ns
    """When the last of the jobs that `collect` handed over had been written and not yet synced, by the monotonic clock."""

    def __cinit__(self):
        cdef pthread_condattr_t attributes
        self.descriptor = self._dirty = -1
        pthread_mutex_init(&self._lock, NULL)
        pthread_condattr_init(&attributes)
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        pthread_cond_init(&self._wake, &attributes)
        pthread_condattr_destroy(&attributes)

    def __init__(self, finished, on_failure, housekeep, on_room, *, retry_s):
        self._finished, self._on_failure, self._housekeep, self._on_room = finished, on_failure, housekeep, on_room
        self._retry_ns = int(retry_s * NANOSECONDS)
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._work, name="log-writer")
        self._thread.start()

    def __dealloc__(self):
        forget(self._queue)
        forget(self._done)
        pthread_cond_destroy(&self._wake)
        pthread_mutex_destroy(&self._lock)

    # --- the caller's thread -----------------------------------------------------------------------------------------

    def submit(self, job):
        """Queue a job; never waits for the disk. After a failure the job is kept and never run."""
        assert not self._closed, "submit after close"
        cdef Job *made = make(job)
        pthread_mutex_lock(&self._lock)
        if self._queue == NULL:
            self._queue = made
        else:
            self._queue_end.next = made
        self._queue_end = made
        pthread_cond_signal(&self._wake)
        pthread_mutex_unlock(&self._lock)

    def collect(self):
        """Tell what has happened since the last call."""
        cdef uint64_t ignored
        cdef Job *done
        cdef bint out_of_room
        cdef int error
        eventfd_read(self.descriptor, &ignored)
        pthread_mutex_lock(&self._lock)
        done, self._done, self._done_end = self._done, NULL, NULL
        out_of_room, error = self._out_of_room, self._error
        failure, self.written_ns = self._failure, self._done_written_ns
        pthread_mutex_unlock(&self._lock)
        if done != NULL:
            self._finished(handed_back(done))
        if out_of_room != self._told_out_of_room:
            self._told_out_of_room = out_of_room
            self._on_room(out_of_room)
        if (error or failure is not None) and not self._told_failure:
            self._told_failure = True
            self._on_failure(OSError(error, os.strerror(error)) if failure is None else failure)

    def close(self):
        """Run what is queued, end the thread and tell what has happened. What finds no room is dropped."""
        self._closed = True
        pthread_mutex_lock(&self._lock)
        self._closing = True
        pthread_cond_signal(&self._wake)
        pthread_mutex_unlock(&self._lock)
        self._thread.join()
        self.collect()
        os.close(self.descriptor)

    # --- its own thread ----------------------------------------------------------------------------------------------

    def _work(self):
        with nogil:
            self._serve()

    cdef void _serve(self) noexcept nogil:
        cdef Job *jobs
        while True:
            jobs = self._take()
            if jobs == NULL or not self._run(jobs):
                return

    cdef Job *_take(self) noexcept nogil:
        """Everything queued, waiting for the first; NULL when the thread is to end."""
        cdef timespec until
        cdef Job *jobs
        pthread_mutex_lock(&self._lock)
        if self._out_of_room:
            clock_gettime(CLOCK_MONOTONIC, &until)
            until.tv_sec += (until.tv_nsec + self._retry_ns) // NANOSECONDS
            until.tv_nsec = (until.tv_nsec + self._retry_ns) % NANOSECONDS
            while not self._closing and pthread_cond_timedwait(&self._wake, &self._lock, &until) != ETIMEDOUT:
                pass
        while self._queue == NULL and not self._closing:
            pthread_cond_wait(&self._wake, &self._lock)
        if self._out_of_room and self._closing:
            jobs = NULL  # what waits for room is dropped
        else:
            jobs, self._queue, self._queue_end = self._queue, NULL, NULL
        pthread_mutex_unlock(&self._lock)
        return jobs

    cdef bint _run(self, Job *jobs) noexcept nogil:
        """Write jobs in order until one finds no room, sync once and hand them back; False after a failure."""
        cdef Job *job = jobs
        cdef Job *last = NULL
        cdef bint must_sync = False
        cdef bint entered_python = False
        cdef int outcome = DONE
        cdef int64_t written_ns
        while job != NULL:
            entered_python = entered_python or job.descriptor < 0
            outcome = self._write(job)
            if outcome != DONE:
                break
            must_sync = must_sync or job.must_sync
            last, job = job, job.next
        written_ns = now_ns()
        if outcome != FAILED and must_sync and not self._sync(last, entered_python):
            outcome = FAILED
        self._hand_back(jobs, last, outcome, written_ns)
        if entered_python and outcome == DONE:
            outcome = self._keep_house()
        return outcome != FAILED

    cdef int _write(self, Job *job) noexcept nogil:
        cdef int error
        if job.descriptor < 0:
            if self._dirty >= 0 and not self._sync_own(self._dirty):
                return FAILED
            return self._write_in_python(job.job)
        error = write_all(job)
        if error:
            self._fail(error)
            return FAILED
        self._dirty = job.descriptor
        return DONE

    cdef bint _sync(self, Job *last, bint entered_python) noexcept nogil:
        """Make everything up to `last` durable; False after a failure.

        Each side syncs what it wrote itself: a job that Python ran may have written nothing, and then it syncs nothing.
        """
        if not entered_python:
            last.synced = self._sync_own(last.descriptor)
            return last.synced
        if self._dirty >= 0 and not self._sync_own(self._dirty):
            return False
        return self._sync_in_python(last.job)

    cdef bint _sync_own(self, int descriptor) noexcept nogil:
        cdef int error = sync_data(descriptor)
        if error:
            self._fail(error)
            return False
        self._dirty = -1
        return True

    cdef void _hand_back(self, Job *jobs, Job *last, int outcome, int64_t written_ns) noexcept nogil:
        """Jobs up to `last` are done; the others stay first in the queue."""
        cdef Job *rest = jobs
        cdef Job *end
        pthread_mutex_lock(&self._lock)
        if last != NULL and outcome != FAILED:
            rest, last.next = last.next, NULL
            if self._done == NULL:
                self._done = jobs
            else:
                self._done_end.next = jobs
            self._done_end = last
            self._done_written_ns = written_ns
        if rest != NULL:
            end = rest
            while end.next != NULL:
                end = end.next
            end.next = self._queue
            if self._queue == NULL:
                self._queue_end = end
            self._queue = rest
        self._out_of_room = outcome == NO_ROOM
        pthread_mutex_unlock(&self._lock)
        eventfd_write(self.descriptor, 1)

    cdef void _fail(self, int error) noexcept nogil:
        pthread_mutex_lock(&self._lock)
        self._error = error
        pthread_mutex_unlock(&self._lock)

    cdef int _write_in_python(self, PyObject *job) noexcept with gil:
        try:
            (<object>job).write()
        except NoRoom:
            return NO_ROOM
        except Exception as error:
            self._failure = error
            return FAILED
        return DONE

    cdef bint _sync_in_python(self, PyObject *job) noexcept with gil:
        try:
            (<object>job).sync()
        except Exception as error:
            self._failure = error
            return False
        return True

    cdef int _keep_house(self) noexcept with gil:
        try:
            self._housekeep()
        except Exception as error:
            self._failure = error
            eventfd_write(self.descriptor, 1)
            return FAILED
        return DONE


cdef Job *make(object job) except NULL:
    """What the thread needs of a job."""
    cdef Job *made = <Job *>calloc(1, sizeof(Job))
    if made == NULL:
        raise MemoryError
    made.descriptor = -1
    made.must_sync = job.must_sync
    try:
        plain = job.plain()
        if plain is not None:
            descriptor, offset, buffers = plain
            fill(made, buffers)
            made.offset = offset
            made.descriptor = descriptor
    except BaseException:
        free(made.buffers)
        free(made)
        raise
    made.job = <PyObject *>job
    Py_INCREF(job)
    return made


cdef int fill(Job *made, list buffers) except -1:
    """Point a job's vector at its buffers: bytes, which the job holds and nobody can change."""
    cdef int count = 0
    made.buffers = <iovec *>calloc(max(len(buffers), 1), sizeof(iovec))
    if made.buffers == NULL:
        raise MemoryError
    for buffer in buffers:
        if not PyBytes_Check(buffer):
            raise TypeError(f"a plain write is made of bytes, not of {type(buffer).__name__}")
        if PyBytes_GET_SIZE(buffer):
            made.buffers[count].iov_base = PyBytes_AS_STRING(buffer)
            made.buffers[count].iov_len = <size_t>PyBytes_GET_SIZE(buffer)
            count += 1
    made.count = count
    return 0


cdef list handed_back(Job *jobs):
    """The jobs as Python knows them, in order; what the thread needed of them is freed."""
    cdef Job *following
    found = []
    while jobs != NULL:
        job = <object>jobs.job
        if jobs.synced:
            job.mark_synced()
        found.append(job)
        following = jobs.next
        Py_DECREF(job)
        free(jobs.buffers)
        free(jobs)
        jobs = following
    return found


cdef int forget(Job *jobs) noexcept:
    """Free jobs that nobody will ask for."""
    cdef Job *following
    while jobs != NULL:
        following = jobs.next
        Py_DECREF(<object>jobs.job)
        free(jobs.buffers)
        free(jobs)
        jobs = following
    return 0
