/* The tensors of a checkpoint as they lie in its files: what gguf.c and safetensors.c give to arch.c and quant.c. */
#ifndef SK_BUILD_SRC_H
#define SK_BUILD_SRC_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/err.h"
#include "comm/base/mem.h"

enum { SK_SRC_MAX_TENSORS = 65536, SK_SRC_MAX_NAME = 256, SK_SRC_MAX_DIMS = 4, SK_SRC_MAX_FILES = 4096 };

/* Element types, numbered as in GGUF; those without a name here are known by name and size only. */
enum sk_src_type {
    SK_SRC_F32 = 0,
    SK_SRC_F16 = 1,
    SK_SRC_Q4_0 = 2,
    SK_SRC_Q4_1 = 3,
    SK_SRC_Q8_0 = 8,
    SK_SRC_BF16 = 30,
    SK_SRC_N_GGUF = 64 /* from here on: types of safetensors that GGUF lacks */
};

/* NULL: no such type. */
const char *sk_src_type_name(uint32_t type);
bool sk_src_type_readable(uint32_t type); /* can quant.c read its values? */
/* The type of that name among those without blocks, as safetensors has them. */
bool sk_src_type_find(const char *name, uint32_t *ret);
/* Bytes of n values, n a multiple of the type's block. -SK_EFORMAT: unknown type, not whole blocks, overflow. */
int sk_src_type_bytes(uint32_t type, uint64_t n, uint64_t *ret_bytes);

struct sk_src_tensor {
    const char *name; /* owned by the sk_src */
    uint32_t type;
    uint32_t n_dim;
    uint64_t dims[SK_SRC_MAX_DIMS]; /* outermost first: [out, in] */
    const uint8_t *data;            /* into a mapped file; no alignment is promised */
    uint64_t bytes;
};

/* Read-only mapping of a regular file; an empty file is an error. */
struct sk_src_map {
    const uint8_t *p;
    size_t n;
};
int sk_src_map(const char *path, struct sk_src_map *ret, struct sk_err *err);
void sk_src_unmap(struct sk_src_map *m);

struct sk_src {
    struct sk_arena arena;    /* names */
    struct sk_src_map *files; /* what data points into */
    uint32_t n_file;
    struct sk_src_tensor *tensors; /* sorted by name after sk_src_seal */
    uint32_t n_tensor, cap;
};

void sk_src_init(struct sk_src *s);
void sk_src_done(struct sk_src *s); /* unmaps the files */
/* Takes the mapping over on success. */
int sk_src_add_file(struct sk_src *s, struct sk_src_map *m, struct sk_err *err);
/* Adds a copy of `t` with its own copy of name[0..n_name). -SK_ETOOBIG, -SK_EFORMAT (bad name), -SK_ENOMEM. */
int sk_src_add(struct sk_src *s, const struct sk_src_tensor *t, const char *name, size_t n_name, struct sk_err *err);
/* Sorts by name; refuses duplicate names and data that overlaps. Nothing may be added afterwards. */
int sk_src_seal(struct sk_src *s, struct sk_err *err);
const struct sk_src_tensor *sk_src_find(const struct sk_src *s, const char *name); /* NULL = absent */
/* "[320, 64]" */
const char *sk_src_shape(const struct sk_src_tensor *t, char *buf, size_t n);

#endif
