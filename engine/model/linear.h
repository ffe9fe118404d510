/* Linear layers, y = W x + b with W [out][in], as Megatron-LM cuts them over the ranks of a group (Shoeybi et al. 2019,
 * section 3):
 *
 *   replicated   every rank holds all of it
 *   column       a rank holds a span of the outputs; nothing is exchanged
 *   merged       two matrices of equal width in one, gate and up: the same span of each
 *   QKV          a span of query heads, and the KV heads that those need
 *   row          a rank holds a span of the inputs; partial sums are added over the ranks, the bias once
 *
 * Widths are in floats of a padded activation row (head stride, ffn stride). */
#ifndef SK_LINEAR_H
#define SK_LINEAR_H
#include "comm/group/group.h"
#include "engine/model/bind.h"

enum { SK_LINEAR_MAX_PARTS = 3 };

struct sk_linear_part {
    struct sk_mat mat;
    struct sk_dev bias; /* a == 0: none */
    uint32_t col;       /* first column of its outputs in the rank's output row */
};
struct sk_linear { /* of this rank; borrows from the sk_bind that made it */
    uint32_t n_part, n_in, n_out;
    struct sk_linear_part part[SK_LINEAR_MAX_PARTS];
};

/* Binding; the bias is tensor NAME.bias, absent = none. Errors as in bind.h. */
int sk_linear_replicated(struct sk_linear *l, struct sk_bind *b, const struct sk_bind_want *want, struct sk_err *err);
int sk_linear_column(struct sk_linear *l, struct sk_bind *b, const struct sk_bind_want *want, struct sk_span out,
                     struct sk_err *err);
int sk_linear_merged(struct sk_linear *l, struct sk_bind *b, const struct sk_bind_want *want, struct sk_span out,
                     struct sk_err *err);
int sk_linear_qkv(struct sk_linear *l, struct sk_bind *b, const struct sk_desc *d, const struct sk_shard *s,
                  const char *name, struct sk_err *err);
/* The bias goes to rank 0, whose partial sum carries it. */
int sk_linear_row(struct sk_linear *l, struct sk_bind *b, const struct sk_bind_want *want, struct sk_span in,
                  uint32_t rank, struct sk_err *err);

struct sk_linear_io {
    struct sk_dev out, x;
    uint32_t ld_out, ld_x, n_row, n_prompt_row;
    struct sk_op_pre pre; /* what makes x of the rows that are at x */
};
/* out = W x + b */
void sk_linear_run(const struct sk_linear *l, struct sk_backend *be, const struct sk_linear_io *io);
/* Row linear and residual: out += sum over ranks of W x, + b. `partial` is scratch like out, touched only where the
 * backend and the group do not do it in one. 0 or -SK_EIO. */
int sk_linear_reduce(const struct sk_linear *l, struct sk_backend *be, const struct sk_linear_io *io,
                     struct sk_group *g, struct sk_dev partial);

/* What a gather needs: the outputs of each rank, in order and together all of them, and scratch for pieces as wide as
 * the widest of these, rounded up to 16. */
struct sk_linear_pieces {
    const struct sk_span *span; /* [size] */
    struct sk_dev part, all;    /* f32 [n_row][ld]; [size][n_row][ld] */
    uint32_t ld;
};
/* Column linear of which every rank gets all outputs: out = W x + b. 0 or -SK_EIO. */
int sk_linear_gather(const struct sk_linear *l, struct sk_backend *be, const struct sk_linear_io *io,
                     struct sk_group *g, const struct sk_linear_pieces *p);

#endif
