/* What ext/_store.pyx uses of LMDB 0.9's C interface, as its manual has it. The functions are not linked: they are found, when
   the module is imported, in the library that py-lmdb has loaded. The structures' layouts are part of that interface. */
#ifndef ZMQBROKER_LMDB_API_H
#define ZMQBROKER_LMDB_API_H

#include <stddef.h>
#include <sys/types.h>

typedef struct { size_t mv_size; void *mv_data; } zb_val;
typedef struct {
    unsigned int ms_psize, ms_depth;
    size_t ms_branch_pages, ms_leaf_pages, ms_overflow_pages, ms_entries;
} zb_stat;
typedef struct {
    void *me_mapaddr;
    size_t me_mapsize, me_last_pgno, me_last_txnid;
    unsigned int me_maxreaders, me_numreaders;
} zb_envinfo;

/* Environments, transactions and cursors are LMDB's own affair: they are void * here. */
typedef struct {
    char *(*version)(int *major, int *minor, int *patch);
    char *(*strerror)(int code);
    int (*env_create)(void **env);
    int (*env_set_mapsize)(void *env, size_t size);
    int (*env_open)(void *env, const char *path, unsigned int flags, mode_t mode);
    void (*env_close)(void *env);
    int (*env_stat)(void *env, zb_stat *stat);
    int (*env_info)(void *env, zb_envinfo *info);
    int (*reader_check)(void *env, int *dead);
    int (*txn_begin)(void *env, void *parent, unsigned int flags, void **txn);
    int (*txn_commit)(void *txn);
    void (*txn_abort)(void *txn);
    int (*dbi_open)(void *txn, const char *name, unsigned int flags, unsigned int *dbi);
    int (*get)(void *txn, unsigned int dbi, zb_val *key, zb_val *data);
    int (*put)(void *txn, unsigned int dbi, zb_val *key, zb_val *data, unsigned int flags);
    int (*del)(void *txn, unsigned int dbi, zb_val *key, zb_val *data);
    int (*cursor_open)(void *txn, unsigned int dbi, void **cursor);
    void (*cursor_close)(void *cursor);
    int (*cursor_get)(void *cursor, zb_val *key, zb_val *data, int operation);
    int (*cursor_del)(void *cursor, unsigned int flags);
} zb_lmdb;

static zb_lmdb mdb;

/* Names of the functions, in the order of the table. */
static const char *const zb_lmdb_names[] = {
    "version", "strerror", "env_create", "env_set_mapsize", "env_open", "env_close", "env_stat", "env_info", "reader_check",
    "txn_begin", "txn_commit", "txn_abort", "dbi_open", "get", "put", "del", "cursor_open", "cursor_close", "cursor_get",
    "cursor_del",
};
enum { ZB_LMDB_COUNT = sizeof zb_lmdb_names / sizeof *zb_lmdb_names };
_Static_assert(sizeof(zb_lmdb) == ZB_LMDB_COUNT * sizeof(void (*)(void)), "a name for every function");

static void zb_lmdb_set(int number, void *function) { ((void **)&mdb)[number] = function; }

#endif
