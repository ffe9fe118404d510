/* Tensors of an engine directory: found by name, checked once, handed to the backend whole or as this rank's shard. A
 * column split is a range of output rows (panels of the pack), a row split a range of inputs (slabs): both are spans of
 * the file, and no other part of it is brought into memory. Errors name the tensor. */
#ifndef SK_BIND_H
#define SK_BIND_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/base/err.h"
#include "comm/dir/dir.h"
#include "engine/model/shard.h"
#include "kernels/kernels.h"

struct sk_bind_piece {
    const struct sk_dir_entry *entry;
    uint64_t at, bytes; /* of the tensor */
    struct sk_dev dev;
};
struct sk_bind { /* what the backend was given, until done; w and be are borrowed */
    const struct sk_weights *w;
    struct sk_weights *source; /* the same; NULL: pieces are counted, and their addresses mean nothing */
    struct sk_backend *be;
    struct sk_bind_piece *piece; /* each once, however often it was asked for */
    uint32_t n_piece, max_piece;
    uint64_t bytes; /* of all pieces */
};

/* A matrix by name and the shape that it must have. */
struct sk_bind_want {
    const char *name;
    uint32_t n_out, n_in;
};

int sk_bind_init(struct sk_bind *b, struct sk_weights *w, struct sk_backend *be); /* -SK_ENOMEM */
int sk_bind_count(struct sk_bind *b, const struct sk_weights *w); /* binds nothing: for the memory plan. -SK_ENOMEM */
void sk_bind_done(struct sk_bind *b);                             /* gives up what was brought, too */

/* All below: -SK_EFORMAT when absent or of another shape, -SK_EIO, -SK_ENOMEM when memory or the backend cannot hold
 * it. */
int sk_bind_vector(struct sk_bind *b, const char *name, uint32_t n, struct sk_dev *ret, struct sk_err *err);
/* Values `part` of a vector of n, from a multiple of 16 on; an absent tensor gives a == 0. */
int sk_bind_part(struct sk_bind *b, const char *name, uint32_t n, struct sk_span part, struct sk_dev *ret,
                 struct sk_err *err);
/* Rows `rows` of the matrix; first is a multiple of 16, and so is n unless they are the last rows. */
int sk_bind_rows(struct sk_bind *b, const struct sk_bind_want *want, struct sk_span rows, struct sk_mat *ret,
                 struct sk_err *err);
/* Inputs `cols` of the matrix, in whole slabs. */
int sk_bind_cols(struct sk_bind *b, const struct sk_bind_want *want, struct sk_span cols, struct sk_mat *ret,
                 struct sk_err *err);
/* slab_k of a matrix: the unit of a row split. */
int sk_bind_slab(const struct sk_bind *b, const struct sk_bind_want *want, uint32_t *ret, struct sk_err *err);
/* A vector as the host sees it: for tables that are computed at load. */
int sk_bind_host(const struct sk_bind *b, const char *name, uint32_t n, const float **ret, struct sk_err *err);

#endif
