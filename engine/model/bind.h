/* Tensors of an engine directory: found by name, checked once, handed to the backend whole or as this rank's shard. A
 * column split is a range of output rows (panels of the pack), a row split a range of inputs (slabs): both are address
 * arithmetic, no byte is moved. Errors name the tensor. */
#ifndef SK_BIND_H
#define SK_BIND_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/base/err.h"
#include "comm/dir/dir.h"
#include "kernels/kernels.h"

struct sk_bind_piece {
    struct sk_dev dev;
    uint64_t bytes;
};
struct sk_bind { /* what the backend was given, until done; w and be are borrowed */
    const struct sk_weights *w;
    struct sk_backend *be;
    struct sk_bind_piece *piece;
    uint32_t n_piece, max_piece;
};

/* A matrix by name and the shape that it must have. */
struct sk_bind_want {
    const char *name;
    uint32_t n_out, n_in;
};
struct sk_span {
    uint32_t first, n;
};

int sk_bind_init(struct sk_bind *b, const struct sk_weights *w, struct sk_backend *be); /* -SK_ENOMEM */
void sk_bind_done(struct sk_bind *b);

/* All below: -SK_EFORMAT when absent or of another shape, -SK_ENOMEM when the backend cannot hold it. */
int sk_bind_vector(struct sk_bind *b, const char *name, uint32_t n, struct sk_dev *ret, struct sk_err *err);
/* As vector, but an absent tensor gives a == 0. */
int sk_bind_optional(struct sk_bind *b, const char *name, uint32_t n, struct sk_dev *ret, struct sk_err *err);
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
