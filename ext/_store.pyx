# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""An engine that calls LMDB's C functions itself: the twin of zmqbroker/storage/_store_py.py, without the GIL.

A transaction, or one look at a bounded slice, is one section without the GIL: begin, all puts and deletes with their
checksums, commit; what is read is copied to memory of our own before the transaction ends, and becomes Python objects after.
So a busy event loop is waited for once a transaction, where py-lmdb waits after every call.

The functions are those of the LMDB 0.9 that py-lmdb has in it (lmdb_api.h). A release without them is an ImportError, and the
twin serves. Flags are py-lmdb's: MDB_NOTLS, no MDB_WRITEMAP. Source: docs/STORAGE.md §8.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy

import os
import sys

import lmdb

from checksum cimport zb_crc, zb_crc32, zb_crc32_fill, zb_crc_choose, zb_load32, zb_load64, zb_store32, zb_store64
from lmdb_api cimport ZB_LMDB_COUNT, mdb, zb_envinfo, zb_lmdb_names, zb_lmdb_set, zb_stat, zb_val

from zmqbroker.storage.engine import CORRUPTED, HEAD_SIZE_MAX, MISPLACED, BadValue, EngineError, OpenFiles, Tallied

__all__ = ["open_engine"]

cdef extern from "dlfcn.h":
    void *dlopen(const char *path, int mode)
    void *dlsym(void *library, const char *name)
    int RTLD_LAZY
    int RTLD_NOLOAD

cdef enum:
    # lmdb.h
    MDB_NOSYNC = 0x10000
    MDB_RDONLY = 0x20000
    MDB_NOTLS = 0x200000
    MDB_NOLOCK = 0x400000
    MDB_RESERVE = 0x10000
    MDB_FIRST = 0
    MDB_NEXT = 8
    MDB_SET_RANGE = 17
    MDB_NOTFOUND = -30798
    # ours, above every errno
    BAD_VALUE = 1 << 20
    MISPLACED_KEY = 1 << 21
    CRC_SIZE = 4
    TALLY_SIZE = 16
    HEAD_SIZE = 64
    ENOMEM = 12


def find_functions(module):
    """Take LMDB's functions from the library that is py-lmdb's compiled `module`. Raises ImportError, and takes none then."""
    if module is None:
        raise ImportError("py-lmdb has no compiled module loaded")
    cdef void *library = dlopen(os.fsencode(module.__file__), RTLD_LAZY | RTLD_NOLOAD)
    if library == NULL:
        raise ImportError(f"{module.__file__} is not what the dynamic linker has loaded")
    cdef void *functions[ZB_LMDB_COUNT]
    cdef int number, major, minor, patch
    for number in range(ZB_LMDB_COUNT):
        name = b"mdb09_" + zb_lmdb_names[number]
        functions[number] = dlsym(library, name)
        if functions[number] == NULL:
            raise ImportError(f"{module.__file__} has no function {name.decode()}")
    for number in range(ZB_LMDB_COUNT):
        zb_lmdb_set(number, functions[number])
    mdb.version(&major, &minor, &patch)
    if (major, minor) != (0, 9):
        raise ImportError(f"{module.__file__} is LMDB {major}.{minor}, not 0.9")


find_functions(sys.modules.get("lmdb.cpython"))
zb_crc_choose()
zb_crc32_fill()
assert HEAD_SIZE_MAX == HEAD_SIZE

cdef struct Outcome:
    int code             # 0, LMDB's own (negative), the operating system's, or ours
    const char *what     # the function that said so

cdef struct Bytes:
    const unsigned char *data
    size_t size

cdef struct Put:
    Bytes key
    Bytes value
    bint deletes

cdef struct Copied:
    # Records one after the other: size of key u32, size of value u32, key, value.
    unsigned char *data
    size_t used
    size_t size
    size_t count
    size_t value_bytes
    uint64_t digest      # of the records, when they are tallied


cdef inline Bytes bytes_of(object value) except *:
    cdef Bytes result
    if not isinstance(value, bytes):
        raise TypeError(f"bytes are stored, not {type(value).__name__}")
    result.data = <const unsigned char *>PyBytes_AS_STRING(value)
    result.size = PyBytes_GET_SIZE(value)
    return result


cdef inline zb_val val_of(Bytes value) noexcept nogil:
    cdef zb_val result
    result.mv_size = value.size
    result.mv_data = <void *>value.data
    return result


cdef inline bint begins_with(zb_val *key, Bytes prefix) noexcept nogil:
    return key.mv_size >= prefix.size and memcmp(key.mv_data, prefix.data, prefix.size) == 0


cdef inline uint32_t checksum(const unsigned char *key, size_t key_size, const unsigned char *value, size_t size) noexcept nogil:
    return zb_crc(zb_crc(0xFFFFFFFFU, key, key_size), value, size) ^ 0xFFFFFFFFU


cdef inline bint is_good(zb_val *key, zb_val *stored) noexcept nogil:
    cdef const unsigned char *data = <const unsigned char *>stored.mv_data
    if stored.mv_size < CRC_SIZE:
        return False
    return zb_load32(data) == checksum(
        <const unsigned char *>key.mv_data, key.mv_size, data + CRC_SIZE, stored.mv_size - CRC_SIZE
    )


cdef inline Outcome outcome(int code, const char *what) noexcept nogil:
    cdef Outcome result
    result.code = code
    result.what = what
    return result


cdef inline uint64_t record_hash(Bytes key, const unsigned char *value, size_t size) noexcept nogil:
    """See zmqbroker/storage/record_hash.py."""
    cdef uint64_t mixed = <uint64_t>checksum(key.data, key.size, value, size) << 32
    mixed |= zb_crc32(zb_crc32(0xFFFFFFFFU, key.data, key.size), value, size) ^ 0xFFFFFFFFU
    mixed = (mixed ^ mixed >> 33) * <uint64_t>0xFF51AFD7ED558CCDU
    mixed = (mixed ^ mixed >> 33) * <uint64_t>0xC4CEB9FE1A85EC53U
    return mixed ^ mixed >> 33


cdef inline Bytes key_of(zb_val *key) noexcept nogil:
    cdef Bytes result
    result.data = <const unsigned char *>key.mv_data
    result.size = key.mv_size
    return result


cdef object failed(Outcome result):
    """The exception for what was not done."""
    if result.code == MISPLACED_KEY:
        return EngineError(CORRUPTED, MISPLACED)
    what = (<bytes>result.what).decode()
    return EngineError(result.code, f"{what}: {(<bytes>mdb.strerror(result.code)).decode()}")


include "store_reading.pxi"
include "store_writing.pxi"


# --- with the GIL ----------------------------------------------------------------------------------------------------

cdef class Changes:
    """One slice of changes as C sees it; it holds on to the bytes."""

    cdef tuple held
    cdef Put *puts
    cdef size_t count

    def __cinit__(self, changes):
        cdef size_t number = 0
        self.held = tuple([(key, value) for key, value in changes])
        self.count = len(self.held)
        self.puts = <Put *>malloc((self.count + 1) * sizeof(Put))
        if self.puts == NULL:
            raise MemoryError
        for key, value in self.held:
            self.puts[number].key = bytes_of(key)
            self.puts[number].deletes = value is None
            self.puts[number].value = bytes_of(b"" if value is None else value)
            number += 1

    def __dealloc__(self):
        free(self.puts)


cdef list records(Copied *copied, bint values):
    """What was copied, as keys, or as pairs of key and value."""
    cdef list found = []
    cdef const unsigned char *at = copied.data
    cdef size_t number, key_size, size
    for number in range(copied.count):
        key_size, size = zb_load32(at), zb_load32(at + 4)
        key = PyBytes_FromStringAndSize(<const char *>at + 8, key_size)
        found.append((key, PyBytes_FromStringAndSize(<const char *>at + 8 + key_size, size)) if values else key)
        at += 8 + key_size + size
    return found


cdef object tallied(Copied *copied):
    """What was added up, and the last key."""
    cdef size_t count = copied.count
    copied.count = 1 if count else 0
    return Tallied((records(copied, False) or [b""])[0], count, copied.digest)


cdef class NativeEngine:
    """See `Engine` in zmqbroker/storage/engine.py."""

    cdef void *env
    cdef unsigned int dbi
    cdef int active      # calls under way, changed with the GIL only: the environment must outlive them
    cdef object files

    def __cinit__(self, path, *, bint sync, size_t map_size, bint read_only):
        self.env, self.active = NULL, 0
        self.files = OpenFiles()
        self.files.claim(path)
        try:
            self.open(os.fsencode(path), sync, map_size, read_only)
            self.files.claim(path)
        except BaseException:
            self.close()
            raise

    cdef object open(self, bytes path, bint sync, size_t map_size, bint read_only):
        cdef const char *name = path
        cdef unsigned int flags = MDB_NOTLS
        cdef void *txn
        cdef int dead
        cdef Outcome result
        if read_only:
            flags |= MDB_RDONLY | MDB_NOLOCK
        if not sync:
            flags |= MDB_NOSYNC
        self.check(outcome(mdb.env_create(&self.env), b"mdb_env_create"))
        if not read_only:
            self.check(outcome(mdb.env_set_mapsize(self.env, map_size), b"mdb_env_set_mapsize"))
        with nogil:
            result = outcome(mdb.env_open(self.env, name, flags, 0o600), name)
            if result.code == 0:
                result = outcome(mdb.txn_begin(self.env, NULL, MDB_RDONLY, &txn), b"mdb_txn_begin")
                if result.code == 0:
                    result = outcome(mdb.dbi_open(txn, NULL, 0, &self.dbi), b"mdb_dbi_open")
                    mdb.txn_abort(txn)
            if result.code == 0 and not read_only:
                result = outcome(mdb.reader_check(self.env, &dead), b"mdb_reader_check")
        self.check(result)

    cdef int check(self, Outcome result) except -1:
        if result.code:
            raise failed(result)
        return 0

    cdef int check_open(self) except -1:
        if self.env == NULL:
            raise EngineError(0, "the environment is closed")
        return 0

    cdef object read(self, Bytes *one, Range *many, bint values):
        cdef Copied copied
        cdef Outcome result
        copied.data, copied.used, copied.size = NULL, 0, 0
        copied.count, copied.value_bytes, copied.digest = 0, 0, 0
        self.check_open()
        self.active += 1
        with nogil:
            result = look(self.env, self.dbi, one, many, &copied)
        self.active -= 1
        try:
            if result.code == BAD_VALUE:
                raise BadValue(records(&copied, False)[0])
            self.check(result)
            if many != NULL and many.tallied:
                return tallied(&copied)
            return records(&copied, values)
        finally:
            free(copied.data)

    def get(self, key):
        """See `Engine`."""
        cdef Bytes wanted = bytes_of(key)
        for _, value in self.read(&wanted, NULL, True):
            return value
        return None

    cdef object read_many(self, prefix, after, size_t count_max, size_t bytes_max, bint values, bint tallied):
        cdef Range wanted
        wanted.prefix, wanted.after = bytes_of(prefix), bytes_of(after)
        wanted.count_max, wanted.bytes_max, wanted.values, wanted.tallied = count_max, bytes_max, values, tallied
        return self.read(NULL, &wanted, values)

    def slice(self, prefix, after, count_max, bytes_max):
        """See `Engine`."""
        return self.read_many(prefix, after, count_max, bytes_max, True, False)

    def keys(self, prefix, after, count_max):
        """See `Engine`."""
        return self.read_many(prefix, after, count_max, 0, False, False)

    def tally(self, prefix, after, count_max, bytes_max):
        """See `Engine`."""
        return self.read_many(prefix, after, count_max, bytes_max, True, True)

    def apply(self, slices, cleared=None, tallied=None):
        """See `Engine`. One section without the GIL for every slice, the first begins and the last commits."""
        cdef Work work
        self.check_open()
        self.active += 1
        work.env, work.dbi, work.txn, work.clears = self.env, self.dbi, NULL, cleared is not None
        try:
            work.prefix = bytes_of(cleared or b"")
            work.tallies = tallied is not None
            key, head = tallied or (b"", b"")
            if len(head) > HEAD_SIZE:
                raise ValueError(f"a tally has a head of {len(head)} bytes; {HEAD_SIZE} are allowed")
            work.tally, work.head = bytes_of(key), bytes_of(head)
            waiting = iter(slices)
            upcoming = next(waiting, ())
            while upcoming is not None:
                changes, upcoming = upcoming, next(waiting, None)
                self.advance(&work, Changes(changes), upcoming is None)
        finally:
            if work.txn != NULL:
                mdb.txn_abort(work.txn)
            self.active -= 1

    cdef int advance(self, Work *work, Changes changes, bint last) except -1:
        cdef Outcome result
        with nogil:
            result = advance(work, changes.puts, changes.count, last)
        if result.code == BAD_VALUE:
            raise BadValue(PyBytes_FromStringAndSize(<const char *>work.bad.data, work.bad.size))
        return self.check(result)

    def usage(self):
        """See `Engine`."""
        cdef zb_stat stat
        cdef zb_envinfo info
        self.check_open()
        self.check(outcome(mdb.env_stat(self.env, &stat), b"mdb_env_stat"))
        self.check(outcome(mdb.env_info(self.env, &info), b"mdb_env_info"))
        return stat.ms_psize, stat.ms_branch_pages + stat.ms_leaf_pages + stat.ms_overflow_pages, info.me_last_pgno + 1

    def close(self):
        """See `Engine`."""
        cdef void *env = self.env
        assert self.active == 0, "an environment in use is not closed"
        self.env = NULL
        if env != NULL:
            with nogil:
                mdb.env_close(env)
        self.files.release()

    def __dealloc__(self):
        if self.env != NULL:
            mdb.env_close(self.env)


def open_engine(path, *, sync, map_size, read_only):
    """Open the environment in the directory `path`; see the Python twin."""
    return NativeEngine(path, sync=sync, map_size=map_size, read_only=read_only)
