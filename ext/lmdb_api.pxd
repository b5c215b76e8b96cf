"""What lmdb_api.h has; see there."""

cdef extern from "lmdb_api.h":
    ctypedef struct zb_val:
        size_t mv_size
        void *mv_data

    ctypedef struct zb_stat:
        unsigned int ms_psize
        size_t ms_branch_pages
        size_t ms_leaf_pages
        size_t ms_overflow_pages

    ctypedef struct zb_envinfo:
        size_t me_last_pgno

    ctypedef struct zb_lmdb:
        char *(*version)(int *major, int *minor, int *patch) noexcept nogil
        char *(*strerror)(int code) noexcept nogil
        int (*env_create)(void **env) noexcept nogil
        int (*env_set_mapsize)(void *env, size_t size) noexcept nogil
        int (*env_open)(void *env, const char *path, unsigned int flags, unsigned int mode) noexcept nogil
        void (*env_close)(void *env) noexcept nogil
        int (*env_stat)(void *env, zb_stat *stat) noexcept nogil
        int (*env_info)(void *env, zb_envinfo *info) noexcept nogil
        int (*reader_check)(void *env, int *dead) noexcept nogil
        int (*txn_begin)(void *env, void *parent, unsigned int flags, void **txn) noexcept nogil
        int (*txn_commit)(void *txn) noexcept nogil
        void (*txn_abort)(void *txn) noexcept nogil
        int (*dbi_open)(void *txn, const char *name, unsigned int flags, unsigned int *dbi) noexcept nogil
        int (*get)(void *txn, unsigned int dbi, zb_val *key, zb_val *data) noexcept nogil
        int (*put)(void *txn, unsigned int dbi, zb_val *key, zb_val *data, unsigned int flags) noexcept nogil
        int (*remove "del")(void *txn, unsigned int dbi, zb_val *key, zb_val *data) noexcept nogil
        int (*cursor_open)(void *txn, unsigned int dbi, void **cursor) noexcept nogil
        void (*cursor_close)(void *cursor) noexcept nogil
        int (*cursor_get)(void *cursor, zb_val *key, zb_val *data, int operation) noexcept nogil
        int (*cursor_del)(void *cursor, unsigned int flags) noexcept nogil

    zb_lmdb mdb
    const char **zb_lmdb_names
    enum: ZB_LMDB_COUNT
    void zb_lmdb_set(int number, void *function)
