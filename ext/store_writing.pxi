# Part of ext/_store.pyx: one transaction of changes, without the GIL.

cdef Outcome clear(void *txn, unsigned int dbi, Bytes prefix) noexcept nogil:
    cdef void *cursor
    cdef zb_val key = val_of(prefix), stored
    cdef Outcome result = outcome(mdb.cursor_open(txn, dbi, &cursor), b"mdb_cursor_open")
    if result.code:
        return result
    result = outcome(mdb.cursor_get(cursor, &key, &stored, MDB_SET_RANGE if prefix.size else MDB_FIRST), b"mdb_cursor_get")
    while result.code == 0 and begins_with(&key, prefix):
        result = outcome(mdb.cursor_del(cursor, 0), b"mdb_cursor_del")
        if result.code == 0:  # a deletion leaves the cursor in front of the next one
            result = outcome(mdb.cursor_get(cursor, &key, &stored, MDB_NEXT), b"mdb_cursor_get")
    mdb.cursor_close(cursor)
    return outcome(0, b"") if result.code == MDB_NOTFOUND else result


cdef Outcome store(void *txn, unsigned int dbi, Bytes name, Bytes value) noexcept nogil:
    """Put a value behind its checksum, written where LMDB will have it."""
    cdef zb_val key = val_of(name), stored
    cdef unsigned char *data
    stored.mv_size = CRC_SIZE + value.size
    cdef int code = mdb.put(txn, dbi, &key, &stored, MDB_RESERVE)
    if code == 0:
        data = <unsigned char *>stored.mv_data
        zb_store32(data, checksum(name.data, name.size, value.data, value.size))
        memcpy(data + CRC_SIZE, value.data, value.size)
    return outcome(code, b"mdb_put")


cdef struct Work:
    # One transaction, from its first slice of changes to its last.
    void *env
    unsigned int dbi
    void *txn        # NULL before it was begun, and when it has ended
    bint clears
    Bytes prefix     # what it clears
    bint tallies
    Bytes tally      # the key of the tally
    Bytes head       # the first bytes of its value
    uint64_t count
    uint64_t digest
    Bytes bad        # the key of a value that was found to be damaged


cdef Outcome damaged(Work *work, Bytes key) noexcept nogil:
    work.bad = key
    return outcome(BAD_VALUE, b"")


cdef Outcome begin_tally(Work *work) noexcept nogil:
    """Take the tally as it is stored."""
    cdef zb_val key = val_of(work.tally), stored
    cdef const unsigned char *at
    cdef int code = mdb.get(work.txn, work.dbi, &key, &stored)
    work.count = work.digest = 0
    if code == MDB_NOTFOUND:
        return outcome(0, b"")
    if code:
        return outcome(code, b"mdb_get")
    if not is_good(&key, &stored) or stored.mv_size != CRC_SIZE + work.head.size + TALLY_SIZE:
        return damaged(work, work.tally)
    at = <const unsigned char *>stored.mv_data + CRC_SIZE + work.head.size
    work.count, work.digest = zb_load64(at), zb_load64(at + 8)
    return outcome(0, b"")


cdef Outcome end_tally(Work *work) noexcept nogil:
    """Put the tally as the changes have left it."""
    cdef unsigned char data[HEAD_SIZE + TALLY_SIZE]
    cdef Bytes value
    memcpy(data, work.head.data, work.head.size)
    zb_store64(data + work.head.size, work.count)
    zb_store64(data + work.head.size + 8, work.digest)
    value.data, value.size = data, work.head.size + TALLY_SIZE
    return store(work.txn, work.dbi, work.tally, value)


cdef Outcome note(Work *work, Put *put) noexcept nogil:
    """A key gets another value: take the one that it has out of the tally, and the new one in."""
    cdef zb_val key = val_of(put.key), stored
    cdef int code
    if put.key.size <= work.tally.size or not begins_with(&key, work.tally):
        return outcome(0, b"")
    code = mdb.get(work.txn, work.dbi, &key, &stored)
    if code == 0:
        if not is_good(&key, &stored):
            return damaged(work, put.key)
        work.count -= 1
        work.digest -= record_hash(put.key, <const unsigned char *>stored.mv_data + CRC_SIZE, stored.mv_size - CRC_SIZE)
    elif code != MDB_NOTFOUND:
        return outcome(code, b"mdb_get")
    if not put.deletes:
        work.count += 1
        work.digest += record_hash(put.key, put.value.data, put.value.size)
    return outcome(0, b"")


cdef Outcome change(Work *work, Put *put) noexcept nogil:
    cdef zb_val key
    cdef int code
    cdef Outcome result
    if work.tallies:
        result = note(work, put)
        if result.code:
            return result
    if not put.deletes:
        return store(work.txn, work.dbi, put.key, put.value)
    key = val_of(put.key)
    code = mdb.remove(work.txn, work.dbi, &key, NULL)
    return outcome(0 if code == MDB_NOTFOUND else code, b"mdb_del")


cdef Outcome begin(Work *work) noexcept nogil:
    cdef Outcome result = outcome(mdb.txn_begin(work.env, NULL, 0, &work.txn), b"mdb_txn_begin")
    if result.code:
        work.txn = NULL
        return result
    if work.clears:
        result = clear(work.txn, work.dbi, work.prefix)
    if result.code == 0 and work.tallies:
        result = begin_tally(work)
    return result


cdef Outcome commit(Work *work) noexcept nogil:
    cdef void *txn = work.txn
    work.txn = NULL  # whether it succeeds or not
    return outcome(mdb.txn_commit(txn), b"mdb_txn_commit")


cdef Outcome advance(Work *work, Put *puts, size_t count, bint last) noexcept nogil:
    """Begin if it has not begun, make these changes, and commit if they are the last."""
    cdef Outcome result = outcome(0, b"")
    cdef size_t number
    if work.txn == NULL:
        result = begin(work)
    for number in range(count):
        if result.code:
            break
        result = change(work, &puts[number])
    if last and result.code == 0 and work.tallies:
        result = end_tally(work)
    if last and result.code == 0:
        result = commit(work)
    if result.code and work.txn != NULL:
        mdb.txn_abort(work.txn)
        work.txn = NULL
    return result
