#include "tests/unit/engine/fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/base/mem.h"
#include "comm/base/rng.h"

#define PAGE 4096

void fixture_desc(struct sk_desc *ret)
{
    *ret = (struct sk_desc){
        .n_vocab = 96,
        .n_embd = 64,
        .n_layer = 2,
        .n_head = 4,
        .n_kv_head = 2,
        .head_dim = 16,
        .n_ffn = 64,
        .max_len = 256,
        .norm = SK_NORM_RMS,
        .norm_eps = 1e-5f,
        .act = SK_ACT_SILU,
        .gated = true,
        .attn_scale = 0.25f,
        .n_rope = 1,
        .ropes = {{.dim = 16, .mscale = 1}},
    };
}

/* Two passes over the same list of tensors: the first has no memory and counts, the second fills. */
struct maker {
    const struct sk_desc *d;
    enum sk_dtype dtype;
    uint64_t seed, offset;
    uint8_t *base; /* NULL in the counting pass */
    struct sk_dir_entry *entry;
    uint32_t n;
};

static float uniform(const struct maker *m, uint32_t row, uint32_t col)
{
    return 2 * sk_rng_uniform(m->seed, m->n, row, col) - 1;
}

static struct sk_dir_entry *add(struct maker *m, const char *name, const struct sk_dir_entry *e)
{
    if (m->entry) {
        m->entry[m->n] = *e;
        snprintf(m->entry[m->n].name, sizeof e->name, "%s", name);
        m->entry[m->n].offset = m->offset;
    }
    m->offset = (m->offset + e->bytes + PAGE - 1) / PAGE * PAGE;
    return m->entry ? &m->entry[m->n] : NULL;
}

static void vector(struct maker *m, const char *name, uint32_t n, float mean, float spread)
{
    struct sk_dir_entry e = {.dtype = SK_F32,
                             .pack = SK_PACK_PLAIN,
                             .n_out = n,
                             .n_in = 1,
                             .slab_k = 1,
                             .bytes = SK_ALIGN16(n) * sizeof(float)};
    add(m, name, &e);
    if (m->base) {
        float *v = (float *)(m->base + m->entry[m->n].offset);
        for (uint32_t i = 0; i < n; i++)
            v[i] = mean + spread * uniform(m, 0, i);
    }
    m->n++;
}

static void put_row(const struct sk_pack *p, void *data, uint32_t out, const float *row)
{
    if (sk_pack_unit(p->dtype) < SK_QBLOCK) {
        sk_pack_put_row(p, data, out, row);
        return;
    }
    struct sk_block block[64];
    sk_assert(p->n_in / SK_QBLOCK <= 64);
    for (uint32_t i = 0; i < p->n_in / SK_QBLOCK; i++)
        sk_block_quant(p->dtype, row + i * SK_QBLOCK, &block[i]);
    sk_pack_put_blocks(p, data, out, block);
}

struct matrix {
    const char *name;
    uint32_t n_out, n_in, slab_k;
    enum sk_split split;
    float scale; /* values lie in +-scale */
    /* Padding: of every `unit` rows or columns only the first `used` are not zero; unit 0 = no padding. */
    uint32_t out_unit, out_used, in_unit, in_used;
};

static void matrix(struct maker *m, enum sk_dtype dtype, const struct matrix *x)
{
    uint32_t slab_k = x->slab_k && x->n_in % x->slab_k == 0 ? x->slab_k : x->n_in;
    struct sk_pack p;
    sk_assert(sk_pack_layout(&p, dtype, x->n_out, x->n_in, slab_k) == 0);
    struct sk_dir_entry e = {.dtype = dtype,
                             .pack = SK_PACK_X86_1,
                             .split = x->split,
                             .cut_unit = x->split == SK_SPLIT_IN ? slab_k : SK_PANEL,
                             .n_out = x->n_out,
                             .n_in = x->n_in,
                             .slab_k = slab_k,
                             .bytes = p.bytes};
    add(m, x->name, &e);
    if (m->base) {
        float *row = sk_malloc(x->n_in * sizeof *row);
        sk_assert(row);
        for (uint32_t o = 0; o < x->n_out; o++) {
            for (uint32_t i = 0; i < x->n_in; i++) {
                bool pad =
                    (x->out_unit && o % x->out_unit >= x->out_used) || (x->in_unit && i % x->in_unit >= x->in_used);
                row[i] = pad ? 0 : x->scale * uniform(m, o, i);
            }
            put_row(&p, m->base + m->entry[m->n].offset, o, row);
        }
        sk_free(row);
    }
    m->n++;
}

static void norm(struct maker *m, const char *name)
{
    char bias[SK_DIR_NAME_MAX];
    snprintf(bias, sizeof bias, "%s.bias", name);
    vector(m, name, m->d->n_embd, 1, 0.2f);
    if (m->d->norm == SK_NORM_LAYER)
        vector(m, bias, m->d->n_embd, 0, 0.1f);
}

static uint32_t head_slab(enum sk_dtype dtype, uint32_t hs)
{
    return hs % (uint32_t)sk_pack_unit(dtype) ? hs * 2 : hs; /* hs is a multiple of 16, the unit at most 32 */
}

static const char *name_of(char name[SK_DIR_NAME_MAX], uint32_t l, const char *what)
{
    snprintf(name, SK_DIR_NAME_MAX, "layer.%u.%s", l, what);
    return name;
}

static void layer(struct maker *m, uint32_t l)
{
    const struct sk_desc *d = m->d;
    uint32_t hs = sk_desc_head_stride(d), fs = sk_desc_ffn_stride(d);
    float in = sqrtf(3.0f / (float)d->n_embd); /* keeps the variance of the rows */
    char name[SK_DIR_NAME_MAX];

    norm(m, name_of(name, l, "attn_norm"));
    struct matrix qkv = {name_of(name, l, "qkv"),
                         .n_out = (d->n_head + 2 * d->n_kv_head) * hs,
                         .n_in = d->n_embd,
                         .out_unit = hs,
                         .out_used = d->head_dim,
                         .split = SK_SPLIT_OUT,
                         .scale = in};
    matrix(m, m->dtype, &qkv);
    struct matrix o = {
        name_of(name, l, "o"), .n_out = d->n_embd,     .n_in = d->n_head * hs, .slab_k = head_slab(m->dtype, hs),
        .in_unit = hs,         .in_used = d->head_dim, .split = SK_SPLIT_IN,   .scale = 0.5f * in};
    matrix(m, m->dtype, &o);
    if (d->qk_norm) {
        vector(m, name_of(name, l, "q_norm"), d->head_dim, 1, 0.2f);
        vector(m, name_of(name, l, "k_norm"), d->head_dim, 1, 0.2f);
    }

    norm(m, name_of(name, l, "ffn_norm"));
    struct matrix up = {name_of(name, l, d->gated ? "gate_up" : "up"),
                        .n_out = (d->gated ? 2 : 1) * fs,
                        .n_in = d->n_embd,
                        .out_unit = fs,
                        .out_used = d->n_ffn,
                        .split = SK_SPLIT_OUT,
                        .scale = in};
    matrix(m, m->dtype, &up);
    struct matrix down = {
        name_of(name, l, "down"), .n_out = d->n_embd,   .n_in = fs,        .slab_k = 32, .in_unit = fs,
        .in_used = d->n_ffn,      .split = SK_SPLIT_IN, .scale = 0.5f * in};
    matrix(m, m->dtype, &down);
    if (d->norm == SK_NORM_LAYER) { /* the families with LayerNorm have biases everywhere */
        vector(m, name_of(name, l, "o.bias"), d->n_embd, 0, 0.1f);
        vector(m, name_of(name, l, "down.bias"), d->n_embd, 0, 0.1f);
        if (!d->gated)
            vector(m, name_of(name, l, "up.bias"), fs, 0, 0.1f);
    }
}

static void ropes(struct maker *m)
{
    for (uint32_t i = 0; i < m->d->n_rope; i++) {
        char name[SK_DIR_NAME_MAX];
        uint32_t n = m->d->ropes[i].dim / 2;
        snprintf(name, sizeof name, "rope.%u", i);
        vector(m, name, n, 0, 0);
        if (!m->base)
            continue;
        float *freq = (float *)(m->base + m->entry[m->n - 1].offset);
        for (uint32_t j = 0; j < n; j++)
            freq[j] = powf(10000, -(float)j / (float)n);
    }
}

static void make(struct maker *m)
{
    const struct sk_desc *d = m->d;
    m->n = 0;
    m->offset = 0;
    float head = 2 / sqrtf((float)d->n_embd);
    matrix(m, m->dtype,
           &(struct matrix){"embed", .n_out = d->n_vocab, .n_in = d->n_embd, .split = SK_SPLIT_OUT,
                            .scale = d->tied ? head : 1});
    if (!d->tied)
        matrix(m, m->dtype,
               &(struct matrix){"head", .n_out = d->n_vocab, .n_in = d->n_embd, .split = SK_SPLIT_OUT, .scale = head});
    if (d->pos_embed)
        matrix(m, SK_F32, &(struct matrix){"pos_embed", .n_out = d->max_len, .n_in = d->n_embd, .scale = 0.1f});
    for (uint32_t l = 0; l < d->n_layer; l++)
        layer(m, l);
    norm(m, "final_norm");
    ropes(m);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct sk_dir_entry *)a)->name, ((const struct sk_dir_entry *)b)->name);
}

void fixture_open(struct fixture *f, const struct sk_desc *desc, enum sk_dtype dtype, uint64_t seed)
{
    *f = (struct fixture){
        .dir = {.name = "fixture", .digest = "00000000000000000000000000000000", .n_eos = 1, .eos = {2}, .bos = 1}};
    f->dir.desc = *desc;
    struct sk_err err;
    sk_assert(sk_desc_check(&f->dir.desc, &err) == 0);
    f->dir.gen = (struct sk_gen_defaults){.temperature = NAN,
                                          .top_p = NAN,
                                          .min_p = NAN,
                                          .typical_p = NAN,
                                          .repetition_penalty = NAN,
                                          .eta_cutoff = NAN,
                                          .epsilon_cutoff = NAN,
                                          .top_k = -1,
                                          .no_repeat_ngram = -1,
                                          .do_sample = -1};
    for (int i = 0; i < SK_SELFTEST_TOKENS; i++)
        f->dir.selftest_ids[i] = (7 * i + 3) % (int)desc->n_vocab;

    struct maker m = {.d = &f->dir.desc, .dtype = dtype, .seed = seed};
    make(&m);
    f->block = sk_calloc(1, m.offset + PAGE);
    f->entry = sk_calloc(m.n, sizeof *f->entry);
    sk_assert(f->block && f->entry);
    m.base = (uint8_t *)(((uintptr_t)f->block + PAGE - 1) / PAGE * PAGE);
    m.entry = f->entry;
    make(&m);
    qsort(f->entry, m.n, sizeof *f->entry, by_name);
    f->w = (struct sk_weights){.base = m.base, .bytes = m.offset, .n_tensor = m.n, .tensors = f->entry};
}

void fixture_close(struct fixture *f)
{
    sk_free(f->block);
    sk_free(f->entry);
}
