/* GGUF files, versions 2 and 3, little-endian (ggml docs/gguf.md): metadata and tensor table, mapped and
 * bounds-checked. */
#ifndef SK_BUILD_GGUF_H
#define SK_BUILD_GGUF_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/err.h"
#include "engine/build/src.h"

/* Kinds of metadata values, as numbered in the file. */
enum sk_gguf_kind {
    SK_GGUF_U8,
    SK_GGUF_I8,
    SK_GGUF_U16,
    SK_GGUF_I16,
    SK_GGUF_U32,
    SK_GGUF_I32,
    SK_GGUF_F32,
    SK_GGUF_BOOL,
    SK_GGUF_STR,
    SK_GGUF_ARRAY,
    SK_GGUF_U64,
    SK_GGUF_I64,
    SK_GGUF_F64,
    SK_GGUF_KIND_COUNT
};

enum { SK_GGUF_MAX_KEYS = 65536 };

struct sk_gguf;

bool sk_gguf_is(const char *path); /* a regular file that begins with the magic? */
/* -SK_ENOENT, -SK_EIO, -SK_EFORMAT, -SK_EUNSUP (another version, big-endian), -SK_ENOMEM; the message names the file.
 */
int sk_gguf_open(const char *path, struct sk_gguf **ret, struct sk_err *err);
/* Over bytes that outlive it (fuzzing, tests). */
int sk_gguf_open_mem(const void *p, size_t n, struct sk_gguf **ret, struct sk_err *err);
void sk_gguf_close(struct sk_gguf *g); /* NULL is allowed */

const struct sk_src *sk_gguf_src(const struct sk_gguf *g); /* the tensors; dims outermost first */

/* Metadata by key. An absent key leaves the results untouched and returns 0 (as comm/base/json.h does); a value of
 * another type is -SK_ETYPE, one that does not fit is -SK_ERANGE; err->param is the key. */
bool sk_gguf_has(const struct sk_gguf *g, const char *key);
int sk_gguf_u32(const struct sk_gguf *g, const char *key, uint32_t *ret, struct sk_err *err); /* any integer kind */
int sk_gguf_f32(const struct sk_gguf *g, const char *key, float *ret, struct sk_err *err);    /* F32 or F64 */
int sk_gguf_bool(const struct sk_gguf *g, const char *key, bool *ret, struct sk_err *err);
/* Borrowed bytes, not NUL-terminated, any content. */
int sk_gguf_str(const struct sk_gguf *g, const char *key, const char **ret, size_t *ret_n, struct sk_err *err);

/* An array of scalars or strings (arrays of arrays are refused at open). */
struct sk_gguf_array {
    enum sk_gguf_kind kind;
    uint64_t n;
    const uint8_t *data;     /* the first element in the file */
    const uint64_t *offsets; /* strings only: element i's length word lies at data + offsets[i] */
};
/* As above: absent leaves *ret untouched. */
int sk_gguf_array(const struct sk_gguf *g, const char *key, struct sk_gguf_array *ret, struct sk_err *err);
/* Element i < a->n of an array of that kind; -SK_ETYPE where the kind differs, -SK_ERANGE where i or the value does not
 * fit. */
int sk_gguf_at_str(const struct sk_gguf_array *a, uint64_t i, const char **ret, size_t *ret_n);
int sk_gguf_at_i32(const struct sk_gguf_array *a, uint64_t i, int32_t *ret); /* any integer kind */
int sk_gguf_at_f32(const struct sk_gguf_array *a, uint64_t i, float *ret);

#endif
