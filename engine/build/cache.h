/* Engine directories made on demand, kept in DIR (sk_dir_cache) under a key of what they were made from:
 *   DIR/KEY/        an engine directory, with a file `source` more: the dtype, a newline, the source's real path, a
 * newline DIR/KEY.lock    while it is being made */
#ifndef SK_BUILD_CACHE_H
#define SK_BUILD_CACHE_H
#include <stddef.h>
#include <stdio.h>
#include "comm/base/err.h"
#include "engine/build/build.h"

enum { SK_CACHE_KEY = 33 };

/* 32 hexadecimal digits over real path, size, mtime and inode of all files that a build reads, the dtype and the
 * format's version. -SK_ENOENT, -SK_EFORMAT as sk_build_detect. */
int sk_cache_key(const char *src, const char *dtype, char ret[SK_CACHE_KEY], struct sk_err *err);
/* The engine directory of c->src, built if it is not there. Waits for another process that is making it. */
int sk_cache_get(const struct sk_build_conf *c, const char *dir, char *ret_path, size_t n, struct sk_err *err);
/* A line for each engine directory: key, dtype, megabytes, name, source. A cache that does not exist is empty. */
int sk_cache_list(const char *dir, FILE *f, struct sk_err *err);
/* Removes engine directories that no build would find again, and what killed builds left. Writes what it removed. */
int sk_cache_prune(const char *dir, FILE *f, struct sk_err *err);

#endif
