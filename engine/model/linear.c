#include "engine/model/linear.h"

#include <stdio.h>

static struct sk_span even_split(uint32_t n, uint32_t unit, uint32_t rank, uint32_t size)
{
    uint32_t n_unit = n / unit, base = n_unit / size, more = n_unit % size;
    uint32_t first = rank * base + (rank < more ? rank : more);
    return (struct sk_span){first * unit, (base + (rank < more)) * unit};
}

int sk_shard_init(struct sk_shard *s, const struct sk_desc *d, const struct sk_group *g, struct sk_shard_units unit,
                  struct sk_err *err)
{
    uint32_t ratio = d->n_head / d->n_kv_head, rank = (uint32_t)g->rank, size = (uint32_t)g->size;
    uint32_t fs = sk_desc_ffn_stride(d);
    if (d->n_head % unit.head || fs % unit.ffn || d->n_head / unit.head < size || fs / unit.ffn < size)
        return sk_err_set(err, SK_EUNSUP, NULL,
                          "%u heads and %u MLP columns, in units of %u and %u, cannot be cut over %u ranks", d->n_head,
                          fs, unit.head, unit.ffn, size);

    struct sk_shard r = {.rank = rank, .size = size};
    r.head = even_split(d->n_head, unit.head, rank, size);
    r.ffn = even_split(fs, unit.ffn, rank, size);
    uint32_t last = r.head.first + r.head.n - 1;
    r.kv_head.first = r.head.first / ratio;
    r.kv_head.n = last / ratio - r.kv_head.first + 1;

    uint32_t local_ratio = r.head.n / r.kv_head.n;
    bool even = r.head.n % r.kv_head.n == 0;
    for (uint32_t h = 0; even && h < r.head.n; h++)
        even = (r.head.first + h) / ratio - r.kv_head.first == h / local_ratio;
    if (!even)
        return sk_err_set(err, SK_EUNSUP, NULL,
                          "query heads %u..%u do not lie evenly over KV heads %u..%u on rank %u of %u", r.head.first,
                          last, r.kv_head.first, last / ratio, rank, size);
    *s = r;
    return 0;
}

/* Spans that touch become one part: a group of one runs every linear as one GEMM. */
static uint32_t join(struct sk_span *span, uint32_t n)
{
    uint32_t last = 0;
    for (uint32_t i = 1; i < n; i++) {
        if (span[last].first + span[last].n == span[i].first)
            span[last].n += span[i].n;
        else
            span[++last] = span[i];
    }
    return last + 1;
}

static int bind_bias(struct sk_bind *b, const struct sk_bind_want *want, struct sk_dev *ret, struct sk_err *err)
{
    char name[SK_DIR_NAME_MAX];
    snprintf(name, sizeof name, "%s.bias", want->name);
    return sk_bind_optional(b, name, want->n_out, ret, err);
}

/* A linear of the output rows in span[0..n), side by side. */
static int bind_spans(struct sk_linear *l, struct sk_bind *b, const struct sk_bind_want *want, struct sk_span *span,
                      uint32_t n, struct sk_err *err)
{
    struct sk_linear r = {.n_in = want->n_in, .n_part = join(span, n)};
    struct sk_dev bias;
    int rc = bind_bias(b, want, &bias, err);
    for (uint32_t i = 0; !rc && i < r.n_part; i++) {
        struct sk_linear_part *p = &r.part[i];
        rc = sk_bind_rows(b, want, span[i], &p->mat, err);
        p->col = r.n_out;
        if (bias.a)
            p->bias = sk_dev_at(bias, span[i].first * sizeof(float));
        r.n_out += span[i].n;
    }
    if (!rc)
        *l = r;
    return rc;
}

int sk_linear_replicated(struct sk_linear *l, struct sk_bind *b, const struct sk_bind_want *want, struct sk_err *err)
{
    return bind_spans(l, b, want, &(struct sk_span){0, want->n_out}, 1, err);
}

int sk_linear_column(struct sk_linear *l, struct sk_bind *b, const struct sk_bind_want *want, struct sk_span out,
                     struct sk_err *err)
{
    return bind_spans(l, b, want, &out, 1, err);
}

int sk_linear_merged(struct sk_linear *l, struct sk_bind *b, const struct sk_bind_want *want, struct sk_span out,
                     struct sk_err *err)
{
    struct sk_span span[2] = {out, {want->n_out / 2 + out.first, out.n}};
    return bind_spans(l, b, want, span, 2, err);
}

int sk_linear_qkv(struct sk_linear *l, struct sk_bind *b, const struct sk_desc *d, const struct sk_shard *s,
                  const char *name, struct sk_err *err)
{
    uint32_t hs = sk_desc_head_stride(d), k = d->n_head * hs, v = k + d->n_kv_head * hs;
    struct sk_span kv = {s->kv_head.first * hs, s->kv_head.n * hs};
    struct sk_span span[3] = {{s->head.first * hs, s->head.n * hs}, {k + kv.first, kv.n}, {v + kv.first, kv.n}};
    struct sk_bind_want want = {name, v + d->n_kv_head * hs, d->n_embd};
    return bind_spans(l, b, &want, span, 3, err);
}

int sk_linear_row(struct sk_linear *l, struct sk_bind *b, const struct sk_bind_want *want, struct sk_span in,
                  uint32_t rank, struct sk_err *err)
{
    struct sk_linear r = {.n_part = 1, .n_in = in.n, .n_out = want->n_out};
    int rc = sk_bind_cols(b, want, in, &r.part[0].mat, err);
    if (!rc && rank == 0)
        rc = bind_bias(b, want, &r.part[0].bias, err);
    if (!rc)
        *l = r;
    return rc;
}

static struct sk_op_linear op_of(const struct sk_linear_part *p, const struct sk_linear_io *io)
{
    return (struct sk_op_linear){.out = sk_dev_at(io->out, p->col * sizeof(float)),
                                 .x = io->x,
                                 .bias = p->bias,
                                 .ld_out = io->ld_out,
                                 .ld_x = io->ld_x,
                                 .pre = io->pre,
                                 .mat = &p->mat,
                                 .n_row = io->n_row,
                                 .n_prompt_row = io->n_prompt_row};
}

void sk_linear_run(const struct sk_linear *l, struct sk_backend *be, const struct sk_linear_io *io)
{
    for (uint32_t i = 0; i < l->n_part; i++) {
        struct sk_op_linear op = op_of(&l->part[i], io);
        be->linear(be, &op);
    }
}

int sk_linear_reduce(const struct sk_linear *l, struct sk_backend *be, const struct sk_linear_io *io,
                     struct sk_group *g, struct sk_dev partial)
{
    struct sk_op_linear op = op_of(&l->part[0], io);
    if (g->size == 1) {
        op.add = true;
        be->linear(be, &op);
        return 0;
    }

    size_t n = (size_t)io->n_row * io->ld_out;
    int rc = 0;
    op.out = partial;
    if (be->linear_reduce) {
        be->linear_reduce(be, &op, g);
    } else {
        be->linear(be, &op);
        rc = g->all_reduce(g, be, partial.a, n);
    }
    if (!rc)
        be->add(be, io->out, partial, n);
    return rc;
}
