#include "engine/model/linear.h"

#include <stdio.h>

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

static int bind_bias(struct sk_bind *b, const struct sk_bind_want *want, struct sk_span span, struct sk_dev *ret,
                     struct sk_err *err)
{
    char name[SK_DIR_NAME_MAX];
    snprintf(name, sizeof name, "%s.bias", want->name);
    return sk_bind_part(b, name, want->n_out, span, ret, err);
}

/* Does `p` go on in memory where `last` ends, weights and bias? Spans that were copied one after the other do. */
static bool goes_on(const struct sk_linear_part *last, const struct sk_linear_part *p)
{
    const struct sk_pack *k = &last->mat.pack;
    uint64_t bias = last->bias.a ? last->bias.a + k->n_out * sizeof(float) : 0;
    return k->n_slab == 1 && k->n_out % SK_PANEL == 0 && last->mat.data.a + k->bytes == p->mat.data.a &&
           bias == p->bias.a;
}

static void add_part(struct sk_linear *l, const struct sk_linear_part *p)
{
    struct sk_linear_part *last = l->n_part ? &l->part[l->n_part - 1] : NULL;
    if (last && goes_on(last, p)) {
        last->mat.pack.n_out += p->mat.pack.n_out;
        last->mat.pack.n_panel += p->mat.pack.n_panel;
        last->mat.pack.bytes += p->mat.pack.bytes;
        last->mat.pack.slab_stride = last->mat.pack.bytes;
    } else {
        l->part[l->n_part++] = *p;
    }
    l->n_out += p->mat.pack.n_out;
}

/* A linear of the output rows in span[0..n), side by side. */
static int bind_spans(struct sk_linear *l, struct sk_bind *b, const struct sk_bind_want *want, struct sk_span *span,
                      uint32_t n, struct sk_err *err)
{
    struct sk_linear r = {.n_in = want->n_in};
    struct sk_linear_part part[SK_LINEAR_MAX_PARTS] = {0};
    int rc = 0;
    n = join(span, n);
    for (uint32_t i = 0; !rc && i < n; i++)
        rc = sk_bind_rows(b, want, span[i], &part[i].mat, err);
    for (uint32_t i = 0; !rc && i < n; i++)
        rc = bind_bias(b, want, span[i], &part[i].bias, err);
    for (uint32_t i = 0; !rc && i < n; i++) {
        part[i].col = r.n_out;
        add_part(&r, &part[i]);
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
        rc = bind_bias(b, want, (struct sk_span){0, want->n_out}, &r.part[0].bias, err);
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

    if (be->linear_reduce && g->window && g->window->max >= io->ld_out) {
        op.add = true;
        return be->linear_reduce(be, &op, g);
    }
    size_t n = (size_t)io->n_row * io->ld_out;
    op.out = partial;
    be->linear(be, &op);
    int rc = g->all_reduce(g, be, partial.a, n);
    if (!rc)
        be->add(be, io->out, partial, n);
    return rc;
}

int sk_linear_gather(const struct sk_linear *l, struct sk_backend *be, const struct sk_linear_io *io,
                     struct sk_group *g, const struct sk_linear_pieces *p)
{
    struct sk_linear_io mine = *io;
    mine.out = p->part;
    mine.ld_out = p->ld;
    sk_linear_run(l, be, &mine);
    int rc = g->all_gather(g, be, p->all.a, p->part.a, (size_t)io->n_row * p->ld);
    for (uint32_t i = 0; !rc && i < (uint32_t)g->size; i++) {
        const struct sk_span *span = &p->span[i];
        for (uint64_t row = 0; row < io->n_row; row++)
            be->copy(be, sk_dev_at(io->out, (row * io->ld_out + span->first) * sizeof(float)),
                     sk_dev_at(p->all, (i * io->n_row + row) * p->ld * sizeof(float)),
                     SK_ALIGN16(span->n) * sizeof(float));
    }
    return rc;
}
