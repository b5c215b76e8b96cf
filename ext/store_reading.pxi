# Part of ext/_store.pyx: one bounded look at an environment, without the GIL.

cdef int copy(Copied *copied, zb_val *key, const unsigned char *value, size_t size) noexcept nogil:
    """Append a record; 0, or ENOMEM."""
    cdef size_t needed = copied.used + 8 + key.mv_size + size
    cdef unsigned char *data
    if needed > copied.size:
        data = <unsigned char *>realloc(copied.data, max(needed, 2 * copied.size))
        if data == NULL:
            return ENOMEM
        copied.data, copied.size = data, max(needed, 2 * copied.size)
    data = copied.data + copied.used
    zb_store32(data, key.mv_size)
    zb_store32(data + 4, size)
    memcpy(data + 8, key.mv_data, key.mv_size)
    memcpy(data + 8 + key.mv_size, value, size)
    copied.used = needed
    copied.count += 1
    copied.value_bytes += size
    return 0


cdef Outcome bad_value(Copied *copied, zb_val *key) noexcept nogil:
    """Name the key of a value that is damaged: it alone is copied then."""
    copied.used = copied.count = 0
    cdef int full = copy(copied, key, NULL, 0)
    return outcome(full if full else BAD_VALUE, b"malloc")


cdef Outcome read_one(void *txn, unsigned int dbi, Bytes wanted, Copied *copied) noexcept nogil:
    cdef zb_val key = val_of(wanted), stored
    cdef int code = mdb.get(txn, dbi, &key, &stored)
    if code == MDB_NOTFOUND:
        return outcome(0, b"")
    if code:
        return outcome(code, b"mdb_get")
    if not is_good(&key, &stored):
        return bad_value(copied, &key)
    return outcome(copy(copied, &key, <const unsigned char *>stored.mv_data + CRC_SIZE, stored.mv_size - CRC_SIZE), b"malloc")


cdef int place_after(void *cursor, Bytes after, zb_val *key, zb_val *stored) noexcept nogil:
    """Place the cursor at the first key that is greater than `after`; what LMDB says."""
    if after.size == 0:
        return mdb.cursor_get(cursor, key, stored, MDB_FIRST)
    key[0] = val_of(after)
    cdef int code = mdb.cursor_get(cursor, key, stored, MDB_SET_RANGE)
    if code == 0 and key.mv_size == after.size and memcmp(key.mv_data, after.data, after.size) == 0:
        code = mdb.cursor_get(cursor, key, stored, MDB_NEXT)
    return code


cdef struct Range:
    Bytes prefix
    Bytes after
    size_t count_max
    size_t bytes_max
    bint values      # False: keys only
    bint tallied     # a tally is made of the values; of the keys, the last one is copied


cdef Outcome add(void *txn, unsigned int dbi, zb_val *key, zb_val *stored, Copied *copied) noexcept nogil:
    """Add a record, whose value is good, to the tally, if its key is found from the root."""
    cdef zb_val name = key[0], found
    cdef int code = mdb.get(txn, dbi, &name, &found)
    if code == MDB_NOTFOUND or (code == 0 and found.mv_data != stored.mv_data):
        return outcome(MISPLACED_KEY, b"")
    if code:
        return outcome(code, b"mdb_get")
    cdef size_t size = stored.mv_size - CRC_SIZE, count = copied.count
    copied.digest += record_hash(key_of(key), <const unsigned char *>stored.mv_data + CRC_SIZE, size)
    copied.used = 0
    code = copy(copied, key, NULL, 0)
    copied.count, copied.value_bytes = count + 1, copied.value_bytes + size
    return outcome(code, b"malloc")


cdef Outcome read_range(void *txn, unsigned int dbi, void *cursor, Range *wanted, Copied *copied) noexcept nogil:
    cdef zb_val key, stored
    cdef Outcome result = outcome(0, b"")
    cdef int code
    if wanted.count_max == 0 or (wanted.values and wanted.bytes_max == 0):
        return result
    code = place_after(cursor, wanted.after, &key, &stored)
    while code == 0 and begins_with(&key, wanted.prefix):
        if not wanted.values:
            result = outcome(copy(copied, &key, NULL, 0), b"malloc")
        elif not is_good(&key, &stored):
            result = bad_value(copied, &key)
        elif wanted.tallied:
            result = add(txn, dbi, &key, &stored, copied)
        else:
            result = outcome(
                copy(copied, &key, <const unsigned char *>stored.mv_data + CRC_SIZE, stored.mv_size - CRC_SIZE), b"malloc"
            )
        if result.code:
            return result
        if copied.count == wanted.count_max or (wanted.values and copied.value_bytes >= wanted.bytes_max):
            return result
        code = mdb.cursor_get(cursor, &key, &stored, MDB_NEXT)
    return outcome(0 if code == MDB_NOTFOUND else code, b"mdb_cursor_get")


cdef Outcome look(void *env, unsigned int dbi, Bytes *one, Range *many, Copied *copied) noexcept nogil:
    """One read transaction: the value of the key `one`, or where that is NULL the records of `many`."""
    cdef void *txn
    cdef void *cursor
    cdef int code = mdb.txn_begin(env, NULL, MDB_RDONLY, &txn)
    cdef Outcome result
    if code:
        return outcome(code, b"mdb_txn_begin")
    if one != NULL:
        result = read_one(txn, dbi, one[0], copied)
    else:
        code = mdb.cursor_open(txn, dbi, &cursor)
        if code:
            result = outcome(code, b"mdb_cursor_open")
        else:
            result = read_range(txn, dbi, cursor, many, copied)
            mdb.cursor_close(cursor)
    mdb.txn_abort(txn)
    return result
