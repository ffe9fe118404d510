#include "engine/build/bake.h"
#include <math.h>
#include <pthread.h>
#include <string.h>
#include "comm/base/mem.h"

enum { MAX_THREADS = 64 };

/* Row `out` of the recipe cannot be made: says which of the checkpoint's rows it was to come from. */
static int not_finite(const struct sk_recipe *r, uint32_t out, struct sk_err *err)
{
    uint32_t row = out;
    const struct sk_recipe_part *part = sk_recipe_row(r, out, &row);

    return sk_err_set(err, SK_EFORMAT, r->name, "tensor %s, row %u: a weight is infinite, not a number or too large",
                      part ? part->t->name : r->name, row);
}

int sk_bake_vector(const struct sk_recipe *r, float *data, struct sk_err *err)
{
    if (r->values)
        memcpy(data, r->values, r->n_out * sizeof *data);
    for (uint32_t i = 0; i < r->n_part; i++) {
        const struct sk_src_tensor *t = r->parts[i].t;
        float *whole = sk_malloc(t->dims[0] * sizeof *whole);
        if (!whole)
            return sk_err_set(err, SK_ENOMEM, r->name, "out of memory");
        sk_quant_read(t->type, t->data, t->dims[0], whole);
        for (uint32_t out = 0, row; out < r->n_out; out++)
            if (sk_recipe_row(r, out, &row) == &r->parts[i])
                data[out] = whole[row];
        sk_free(whole);
    }
    for (uint32_t i = 0; i < r->n_out; i++)
        if (!isfinite(data[i]))
            return not_finite(r, i, err);
    return 0;
}

/* One thread's share: panels [first, last). */
struct share {
    const struct sk_recipe *r;
    const struct sk_quant_choice *c;
    const struct sk_pack *p;
    void *data;
    uint32_t first, last;
    float *packed_row, *src_row; /* n_in and src_in floats */
    struct sk_block *blocks;     /* n_in / 32 */
    pthread_t thread;
    int rc;
    uint32_t bad_row;
};

/* Is every value finite, also once it is rounded to `dtype`? */
static bool all_finite(const float *x, uint32_t n, enum sk_dtype dtype)
{
    /* The bits of the least number that becomes infinite; blocks have scales, looked at by themselves. */
    uint32_t limit = dtype == SK_BF16 ? 0x7f7f8000 : dtype == SK_F16 ? 0x477ff000 : 0x7f800000, worst = 0;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        u &= 0x7fffffff;
        worst = u > worst ? u : worst;
    }
    return worst < limit;
}

static bool blocks_finite(const struct sk_block *b, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if ((b[i].d & 0x7c00) == 0x7c00 || (b[i].m & 0x7c00) == 0x7c00)
            return false;
    return true;
}

/* Row `row` of the source as floats. */
static void read_row(const struct sk_recipe_part *part, uint32_t row, uint32_t n, float *ret)
{
    const struct sk_src_tensor *t = part->t;
    uint64_t bytes;

    if (part->transposed) {
        uint64_t size = t->type == SK_SRC_F32 ? 4 : 2; /* such files have no quantised types */
        for (uint64_t i = 0; i < n; i++)
            sk_quant_read(t->type, t->data + (i * t->dims[1] + row) * size, 1, &ret[i]);
        return;
    }
    sk_assert(sk_src_type_bytes(t->type, n, &bytes) == 0); /* whole blocks: seen when the file was opened */
    sk_quant_read(t->type, t->data + row * bytes, n, ret);
}

static bool put_floats(struct share *s, const struct sk_recipe_part *part, uint32_t out, uint32_t row)
{
    const struct sk_recipe *r = s->r;
    uint32_t n_block = r->n_in / SK_QBLOCK;

    read_row(part, row, r->src_in, s->src_row);
    for (uint32_t from = 0, to = 0; from < r->src_in; from += r->in_run, to += r->in_stride)
        memcpy(s->packed_row + to, s->src_row + from, r->in_run * sizeof(float));
    if (!all_finite(s->packed_row, r->n_in, s->p->dtype))
        return false;
    if (!sk_dtype_in_blocks(s->p->dtype)) {
        sk_pack_put_row(s->p, s->data, out, s->packed_row);
        return true;
    }
    for (uint32_t b = 0; b < n_block; b++)
        sk_block_quant(s->p->dtype, s->packed_row + b * SK_QBLOCK, &s->blocks[b]);
    if (!blocks_finite(s->blocks, n_block))
        return false;
    sk_pack_put_blocks(s->p, s->data, out, s->blocks);
    return true;
}

static bool put_blocks(struct share *s, const struct sk_recipe_part *part, uint32_t out, uint32_t row)
{
    uint32_t n_block = s->r->n_in / SK_QBLOCK;
    uint64_t bytes;

    sk_assert(sk_src_type_bytes(part->t->type, s->r->n_in, &bytes) == 0);
    sk_quant_blocks(part->t->type, s->p->dtype, part->t->data + row * bytes, n_block, s->blocks);
    if (!blocks_finite(s->blocks, n_block))
        return false;
    sk_pack_put_blocks(s->p, s->data, out, s->blocks);
    return true;
}

static void *work(void *arg)
{
    struct share *s = arg;
    uint32_t end = s->last * SK_PANEL < s->p->n_out ? s->last * SK_PANEL : s->p->n_out;

    for (uint32_t out = s->first * SK_PANEL; out < end; out++) {
        uint32_t row;
        const struct sk_recipe_part *part = sk_recipe_row(s->r, out, &row);
        if (part && !(s->c->blocks ? put_blocks : put_floats)(s, part, out, row)) {
            s->rc = -SK_EFORMAT;
            s->bad_row = out;
            break;
        }
    }
    return NULL;
}

static int share_init(struct share *s)
{
    /* Padding columns stay zero from row to row: only the runs between them are written. */
    s->packed_row = sk_calloc(s->r->n_in, sizeof(float));
    s->src_row = sk_malloc(s->r->src_in * sizeof(float));
    s->blocks = sk_malloc((s->r->n_in / SK_QBLOCK + 1) * sizeof *s->blocks);
    return s->packed_row && s->src_row && s->blocks ? 0 : -SK_ENOMEM;
}

int sk_bake_matrix(const struct sk_recipe *r, const struct sk_quant_choice *c, const struct sk_pack *p, void *data,
                   unsigned n_thread, struct sk_err *err)
{
    struct share shares[MAX_THREADS] = {0};
    unsigned n = n_thread < MAX_THREADS ? n_thread : MAX_THREADS, n_started = 1;
    int rc = 0;

    n = n > p->n_panel ? p->n_panel : n ? n : 1;
    for (unsigned i = 0; i < n && !rc; i++) {
        shares[i] = (struct share){.r = r,
                                   .c = c,
                                   .p = p,
                                   .data = data,
                                   .first = (uint32_t)((uint64_t)p->n_panel * i / n),
                                   .last = (uint32_t)((uint64_t)p->n_panel * (i + 1) / n)};
        if ((rc = share_init(&shares[i])))
            sk_err_set(err, SK_ENOMEM, r->name, "out of memory");
    }
    if (rc)
        goto out;
    while (n_started < n && !pthread_create(&shares[n_started].thread, NULL, work, &shares[n_started]))
        n_started++;
    for (unsigned i = 0; i < n; i++) { /* this thread's share, and those that no thread could be had for */
        if (i == 0 || i >= n_started)
            work(&shares[i]);
        else
            pthread_join(shares[i].thread, NULL);
    }
    for (unsigned i = 0; i < n && !rc; i++)
        if (shares[i].rc)
            rc = not_finite(r, shares[i].bad_row, err);
out:
    for (unsigned i = 0; i < n; i++) {
        sk_free(shares[i].packed_row);
        sk_free(shares[i].src_row);
        sk_free(shares[i].blocks);
    }
    return rc;
}
