#include "engine/build/arch.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "comm/base/buf.h"
#include "comm/base/mem.h"
#include "engine/build/quant.h"

static const struct sk_names hf_llama = {
    .prefix = "model.",
    .embed = "embed_tokens",
    .head = "lm_head",
    .final_norm = "norm",
    .attn_norm = "layers.%u.input_layernorm",
    .q = "layers.%u.self_attn.q_proj",
    .k = "layers.%u.self_attn.k_proj",
    .v = "layers.%u.self_attn.v_proj",
    .q_norm = "layers.%u.self_attn.q_norm",
    .k_norm = "layers.%u.self_attn.k_norm",
    .o = "layers.%u.self_attn.o_proj",
    .ffn_norm = "layers.%u.post_attention_layernorm",
    .gate = "layers.%u.mlp.gate_proj",
    .up = "layers.%u.mlp.up_proj",
    .down = "layers.%u.mlp.down_proj",
};

static const struct sk_names hf_gpt2 = {
    .prefix = "transformer.",
    .embed = "wte",
    .pos_embed = "wpe",
    .head = "lm_head",
    .final_norm = "ln_f",
    .attn_norm = "h.%u.ln_1",
    .qkv = "h.%u.attn.c_attn",
    .o = "h.%u.attn.c_proj",
    .ffn_norm = "h.%u.ln_2",
    .up = "h.%u.mlp.c_fc",
    .down = "h.%u.mlp.c_proj",
};

static const struct sk_names gguf_split = {
    .prefix = "",
    .embed = "token_embd",
    .head = "output",
    .final_norm = "output_norm",
    .attn_norm = "blk.%u.attn_norm",
    .q = "blk.%u.attn_q",
    .k = "blk.%u.attn_k",
    .v = "blk.%u.attn_v",
    .q_norm = "blk.%u.attn_q_norm",
    .k_norm = "blk.%u.attn_k_norm",
    .o = "blk.%u.attn_output",
    .ffn_norm = "blk.%u.ffn_norm",
    .gate = "blk.%u.ffn_gate",
    .up = "blk.%u.ffn_up",
    .down = "blk.%u.ffn_down",
};

static const struct sk_names gguf_fused = {
    .prefix = "",
    .embed = "token_embd",
    .pos_embed = "position_embd",
    .head = "output",
    .final_norm = "output_norm",
    .attn_norm = "blk.%u.attn_norm",
    .qkv = "blk.%u.attn_qkv",
    .o = "blk.%u.attn_output",
    .ffn_norm = "blk.%u.ffn_norm",
    .up = "blk.%u.ffn_up",
    .down = "blk.%u.ffn_down",
};

/* THE table. */
/* clang-format off */
static const struct sk_arch archs[] = {
    {.name = "llama", .title = "Llama 1-3, SmolLM, TinyLlama",
     .hf_type = "llama", .gguf_arch = "llama", .hf = &hf_llama, .gguf = &gguf_split,
     .norm = SK_NORM_RMS, .act = SK_ACT_SILU, .gated = true,
     .qkv_bias = SK_BIAS_CONFIG, .o_bias = SK_BIAS_CONFIG, .gguf_rotary = true,
     .def = {.n_vocab = 32000, .n_embd = 4096, .n_ffn = 11008, .n_layer = 32, .n_head = 32, .max_len = 2048,
             .eps = 1e-6f}},
    {.name = "mistral", .title = "Mistral", /* in GGUF it is a llama */
     .hf_type = "mistral", .hf = &hf_llama,
     .norm = SK_NORM_RMS, .act = SK_ACT_SILU, .gated = true, .window_always = true,
     .def = {.n_vocab = 32000, .n_embd = 4096, .n_ffn = 14336, .n_layer = 32, .n_head = 32, .n_kv_head = 8,
             .max_len = 131072, .window = 4096, .eps = 1e-6f}},
    {.name = "qwen2", .title = "Qwen 2, Qwen 2.5",
     .hf_type = "qwen2", .gguf_arch = "qwen2", .hf = &hf_llama, .gguf = &gguf_split,
     .norm = SK_NORM_RMS, .act = SK_ACT_SILU, .gated = true, .qkv_bias = SK_BIAS_ALWAYS,
     .def = {.n_vocab = 151936, .n_embd = 4096, .n_ffn = 22016, .n_layer = 32, .n_head = 32, .n_kv_head = 32,
             .max_len = 32768, .window = 4096, .eps = 1e-6f}},
    {.name = "qwen3", .title = "Qwen 3",
     .hf_type = "qwen3", .gguf_arch = "qwen3", .hf = &hf_llama, .gguf = &gguf_split,
     .norm = SK_NORM_RMS, .act = SK_ACT_SILU, .gated = true, .qk_norm = true,
     .qkv_bias = SK_BIAS_CONFIG, .o_bias = SK_BIAS_CONFIG,
     .def = {.n_vocab = 151936, .n_embd = 4096, .n_ffn = 22016, .n_layer = 32, .n_head = 32, .n_kv_head = 32,
             .head_dim = 128, .max_len = 32768, .window = 4096, .eps = 1e-6f}},
    {.name = "gpt2", .title = "GPT-2",
     .hf_type = "gpt2", .gguf_arch = "gpt2", .hf = &hf_gpt2, .gguf = &gguf_fused,
     .norm = SK_NORM_LAYER, .act = SK_ACT_GELU_TANH, .pos_embed = true,
     .qkv_bias = SK_BIAS_ALWAYS, .o_bias = SK_BIAS_ALWAYS, .mlp_bias = true, .hf_transposed = true,
     .def = {.n_vocab = 50257, .n_embd = 768, .n_layer = 12, .n_head = 12, .max_len = 1024, .eps = 1e-5f,
             .tied = true}},
};
/* clang-format on */
enum { N_ARCH = sizeof archs / sizeof *archs };

static int unknown(const char *what, const char *name, size_t n, struct sk_err *err)
{
    struct sk_buf known;

    sk_buf_init(&known, 1024);
    for (int i = 0; i < N_ARCH; i++)
        sk_buf_fmt(&known, "%s%s (%s)", i ? ", " : "", archs[i].name, archs[i].title);
    int rc = sk_err_set(err, SK_EUNSUP, what, "models of architecture '%.*s' are not supported; known ones: %s",
                        (int)(n < 64 ? n : 64), name, known.p ? known.p : "");
    sk_buf_done(&known);
    return rc;
}

int sk_arch_find_hf(const char *model_type, const struct sk_arch **ret, struct sk_err *err)
{
    for (int i = 0; i < N_ARCH; i++) {
        if (archs[i].hf_type && !strcmp(archs[i].hf_type, model_type)) {
            *ret = &archs[i];
            return 0;
        }
    }
    return unknown("model_type", model_type, strlen(model_type), err);
}

int sk_arch_find_gguf(const char *name, size_t n, const struct sk_arch **ret, struct sk_err *err)
{
    for (int i = 0; i < N_ARCH; i++) {
        const char *a = archs[i].gguf_arch;
        if (a && strlen(a) == n && !memcmp(a, name, n)) {
            *ret = &archs[i];
            return 0;
        }
    }
    return unknown("general.architecture", name, n, err);
}

/* What the functions below share while they list the recipes. */
struct lister {
    const struct sk_hparams *hp;
    const struct sk_desc *d;
    const struct sk_names *names;
    const struct sk_src *src;
    struct sk_recipes *out;
    uint32_t layer;
    struct sk_err *err;
    int rc; /* sticky: once it is not 0, nothing more is listed */
};

static const struct sk_src_tensor *find(struct lister *l, const char *stem, const char *suffix)
{
    char name[SK_SRC_MAX_NAME], relative[SK_SRC_MAX_NAME];
    const struct sk_src_tensor *t;

    int n = snprintf(relative, sizeof relative, stem, l->layer);
    snprintf(relative + n, sizeof relative - (size_t)n, "%s", suffix);
    snprintf(name, sizeof name, "%s%s", stem == l->names->head ? "" : l->names->prefix, relative);
    if ((t = sk_src_find(l->src, name)) || (t = sk_src_find(l->src, relative)))
        return t;
    l->rc = sk_err_set(l->err, SK_EFORMAT, NULL, "tensor %s is missing", name);
    return NULL;
}

/* Is `t` what the description calls for? rows x cols, or rows alone for a vector. */
static void check_shape(struct lister *l, const struct sk_src_tensor *t, uint64_t rows, uint64_t cols, bool transposed)
{
    struct sk_src_tensor want = {.n_dim = cols ? 2 : 1, .dims = {transposed ? cols : rows, transposed ? rows : cols}};
    char has[128], should[128];

    if (t->n_dim != want.n_dim || t->dims[0] != want.dims[0] || (want.n_dim == 2 && t->dims[1] != want.dims[1]))
        l->rc = sk_err_set(l->err, SK_EFORMAT, NULL, "tensor %s has shape %s, the configuration calls for %s", t->name,
                           sk_src_shape(t, has, sizeof has), sk_src_shape(&want, should, sizeof should));
    else if (!sk_src_type_readable(t->type))
        l->rc = sk_err_set(l->err, SK_EUNSUP, NULL,
                           "tensor %s is of type %s, which is not supported (F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are)",
                           t->name, sk_src_type_name(t->type));
}

static struct sk_recipe *add(struct lister *l, const char *name, uint32_t n_out, uint32_t n_in)
{
    struct sk_recipes *s = l->out;

    if (s->n == s->cap) {
        uint32_t cap = s->cap ? s->cap * 2 : 64;
        struct sk_recipe *list = sk_realloc(s->list, cap * sizeof *list);
        if (!list) {
            l->rc = sk_err_set(l->err, SK_ENOMEM, NULL, "out of memory");
            return NULL;
        }
        s->list = list;
        s->cap = cap;
    }
    struct sk_recipe *r = &s->list[s->n++];
    *r = (struct sk_recipe){
        .n_out = n_out, .n_in = n_in, .cut_unit = 1, .src_in = n_in, .in_run = n_in, .in_stride = n_in};
    snprintf(r->name, sizeof r->name, name, l->layer);
    return r;
}

/* Adds n_row rows of stem + suffix, from row `first` of its `total`, in runs of `run`, to the recipe's next free rows.
 */
static void add_part(struct lister *l, struct sk_recipe *r, const char *stem, const char *suffix,
                     const struct sk_recipe_part *shape, uint32_t total)
{
    const struct sk_src_tensor *t = find(l, stem, suffix);

    if (!t)
        return;
    check_shape(l, t, total, r->vector ? 0 : r->src_in, shape->transposed);
    struct sk_recipe_part *p = &r->parts[r->n_part];
    *p = *shape;
    p->t = t;
    if (r->n_part++) {
        const struct sk_recipe_part *before = p - 1;
        p->out_at = before->out_at + before->n_row / before->run * before->stride;
    }
}

/* A vector that is one tensor: of `n` numbers in runs of `run` that come to lie `stride` apart. */
static void add_vector(struct lister *l, const char *name, const char *stem, const char *suffix, uint32_t n)
{
    struct sk_recipe *r = l->rc ? NULL : add(l, name, n, 1);

    if (!r)
        return;
    r->vector = true;
    add_part(l, r, stem, suffix, &(struct sk_recipe_part){.n_row = n, .run = n, .stride = n}, n);
}

static void add_norm(struct lister *l, const char *name, const char *bias_name, const char *stem)
{
    add_vector(l, name, stem, ".weight", l->d->n_embd);
    if (l->d->norm == SK_NORM_LAYER)
        add_vector(l, bias_name, stem, ".bias", l->d->n_embd);
}

/* Words or positions: a row for each. NULL on failure. */
static struct sk_recipe *add_table(struct lister *l, const char *name, const char *stem, uint32_t n_row)
{
    struct sk_recipe *r = l->rc ? NULL : add(l, name, n_row, l->d->n_embd);

    if (!r)
        return NULL;
    r->lookup = true;
    r->split = SK_SPLIT_OUT;
    r->cut_unit = SK_PANEL < n_row ? SK_PANEL : n_row;
    add_part(l, r, stem, ".weight", &(struct sk_recipe_part){.n_row = n_row, .run = n_row, .stride = n_row}, n_row);
    return l->rc ? NULL : r;
}

static void add_qkv(struct lister *l, const char *name, const char *suffix, bool vector)
{
    const struct sk_desc *d = l->d;
    const struct sk_names *names = l->names;
    uint32_t hs = sk_desc_head_stride(d), n_q = d->n_head * d->head_dim, n_kv = d->n_kv_head * d->head_dim;
    struct sk_recipe *r = l->rc ? NULL : add(l, name, (d->n_head + 2 * d->n_kv_head) * hs, vector ? 1 : d->n_embd);

    if (!r)
        return;
    r->vector = vector;
    r->split = SK_SPLIT_OUT;
    r->cut_unit = hs;
    struct sk_recipe_part p = {.run = d->head_dim,
                               .stride = hs,
                               .transposed = !vector && !l->hp->gguf && l->hp->arch->hf_transposed,
                               .rotary = l->hp->gguf && l->hp->arch->gguf_rotary};
    const char *stems[SK_RECIPE_PARTS] = {names->q, names->k, names->v};
    for (int i = 0; i < SK_RECIPE_PARTS && !l->rc; i++) {
        p.n_row = i ? n_kv : n_q;
        p.rotary = p.rotary && i < 2;
        if (names->qkv) {
            add_part(l, r, names->qkv, suffix, &p, n_q + 2 * n_kv);
            p.first += p.n_row;
        } else {
            add_part(l, r, stems[i], suffix, &p, p.n_row);
        }
    }
}

/* o and down: split by input columns, which lie in runs (heads, or all of the inner row) with padding between. */
static void add_row_split(struct lister *l, const char *name, const char *stem, uint32_t n_run, uint32_t run)
{
    uint32_t n_embd = l->d->n_embd, stride = (uint32_t)SK_ALIGN16(run);
    struct sk_recipe *r = l->rc ? NULL : add(l, name, n_embd, n_run * stride);

    if (!r)
        return;
    r->split = SK_SPLIT_IN;
    r->cut_unit = n_run > 1 ? stride : 1;
    r->n_cut = l->d->n_head; /* each has a query head at least */
    r->src_in = n_run * run;
    r->in_run = run;
    r->in_stride = stride;
    add_part(
        l, r, stem, ".weight",
        &(struct sk_recipe_part){
            .n_row = n_embd, .run = n_embd, .stride = n_embd, .transposed = !l->hp->gguf && l->hp->arch->hf_transposed},
        n_embd);
}

/* gate and up, or up alone: rows padded to the stride of the inner row. */
static void add_inner(struct lister *l, const char *name, const char *suffix, bool vector)
{
    const struct sk_desc *d = l->d;
    uint32_t fs = sk_desc_ffn_stride(d);
    struct sk_recipe *r = l->rc ? NULL : add(l, name, d->gated ? 2 * fs : fs, vector ? 1 : d->n_embd);

    if (!r)
        return;
    r->vector = vector;
    r->split = SK_SPLIT_OUT;
    r->cut_unit = SK_PANEL;
    struct sk_recipe_part p = {.n_row = d->n_ffn,
                               .run = d->n_ffn,
                               .stride = fs,
                               .transposed = !vector && !l->hp->gguf && l->hp->arch->hf_transposed};
    if (d->gated)
        add_part(l, r, l->names->gate, suffix, &p, d->n_ffn);
    if (!l->rc)
        add_part(l, r, l->names->up, suffix, &p, d->n_ffn);
}

static void add_layer(struct lister *l)
{
    const struct sk_desc *d = l->d;
    const struct sk_names *names = l->names;

    add_norm(l, "layer.%u.attn_norm", "layer.%u.attn_norm.bias", names->attn_norm);
    add_qkv(l, "layer.%u.qkv", ".weight", false);
    if (l->hp->qkv_bias)
        add_qkv(l, "layer.%u.qkv.bias", ".bias", true);
    if (d->qk_norm) {
        add_vector(l, "layer.%u.q_norm", names->q_norm, ".weight", d->head_dim);
        add_vector(l, "layer.%u.k_norm", names->k_norm, ".weight", d->head_dim);
    }
    add_row_split(l, "layer.%u.o", names->o, d->n_head, d->head_dim);
    if (l->hp->o_bias)
        add_vector(l, "layer.%u.o.bias", names->o, ".bias", d->n_embd);
    add_norm(l, "layer.%u.ffn_norm", "layer.%u.ffn_norm.bias", names->ffn_norm);
    add_inner(l, d->gated ? "layer.%u.gate_up" : "layer.%u.up", ".weight", false);
    if (l->hp->arch->mlp_bias)
        add_inner(l, "layer.%u.up.bias", ".bias", true);
    add_row_split(l, "layer.%u.down", names->down, 1, d->n_ffn);
    if (l->hp->arch->mlp_bias)
        add_vector(l, "layer.%u.down.bias", names->down, ".bias", d->n_embd);
}

/* GGUF has the factors of Llama 3's scaling as a tensor. */
static int read_factors(const struct sk_src *src, uint32_t n, float *factors, const float **ret, struct sk_err *err)
{
    const struct sk_src_tensor *t = sk_src_find(src, "rope_freqs.weight");

    if (!t)
        return 0;
    if (t->n_dim != 1 || t->dims[0] != n || t->type != SK_SRC_F32)
        return sk_err_set(err, SK_EFORMAT, NULL, "tensor rope_freqs.weight must be %u numbers of type F32", n);
    sk_quant_read(t->type, t->data, n, factors);
    *ret = factors;
    return 0;
}

static int add_ropes(struct lister *l, struct sk_hparams *hp)
{
    struct sk_desc *d = &hp->desc;
    struct sk_rope *rope = &d->ropes[0];
    uint32_t n = d->head_dim / 2;
    float *inv_freq = sk_calloc(2 * (size_t)n + 1, sizeof *inv_freq); /* then the factors */
    int rc;

    l->out->inv_freq = inv_freq;
    if (!inv_freq)
        return sk_err_set(l->err, SK_ENOMEM, NULL, "out of memory");
    if (d->head_dim % 2)
        return sk_err_set(l->err, SK_EFORMAT, "head_dim", "head_dim %u is odd: heads cannot turn", d->head_dim);
    *rope = (struct sk_rope){.dim = d->head_dim};
    d->n_rope = 1;
    if ((hp->gguf && (rc = read_factors(l->src, n, inv_freq + n, &hp->rope.factors, l->err))) ||
        (rc = sk_freq_fill(&hp->rope, rope->dim, d->max_len, inv_freq, &rope->mscale, l->err)))
        return rc;
    hp->rope.factors = NULL;
    struct sk_recipe *r = add(l, "rope.0", n, 1);
    if (!r)
        return l->rc;
    r->vector = true;
    r->values = inv_freq;
    return 0;
}

static int list_all(struct sk_hparams *hp, struct lister *l)
{
    const struct sk_desc *d = &hp->desc;
    int rc;

    if (!d->pos_embed && (rc = add_ropes(l, hp)))
        return rc;
    if ((rc = sk_desc_check(&hp->desc, l->err)))
        return rc;
    add_table(l, "embed", l->names->embed, d->n_vocab);
    struct sk_recipe *pos = d->pos_embed ? add_table(l, "pos_embed", l->names->pos_embed, d->max_len) : NULL;
    if (pos) {
        pos->exact = true;
        pos->split = SK_SPLIT_NONE;
    }
    for (l->layer = 0; l->layer < d->n_layer && !l->rc; l->layer++)
        add_layer(l);
    add_norm(l, "final_norm", "final_norm.bias", l->names->final_norm);
    if (!d->tied)
        add_table(l, "head", l->names->head, d->n_vocab);
    return l->rc;
}

int sk_arch_finish(struct sk_hparams *hp, const struct sk_src *src, struct sk_recipes *ret, struct sk_err *err)
{
    struct sk_recipes out = {0};
    struct lister l = {.hp = hp,
                       .d = &hp->desc,
                       .names = hp->gguf ? hp->arch->gguf : hp->arch->hf,
                       .src = src,
                       .out = &out,
                       .err = err};

    /* A window that spans everything is none: fewer kinds of layers. */
    for (uint32_t i = 0; i < hp->desc.n_layer && i < SK_MAX_LAYERS; i++)
        if (hp->desc.layers[i].window >= hp->desc.max_len)
            hp->desc.layers[i].window = 0;
    int rc = sk_desc_check(&hp->desc, err); /* sizes first: the rest computes with them */
    if (!rc)
        rc = list_all(hp, &l);
    if (rc)
        sk_recipes_done(&out);
    else
        *ret = out;
    return rc;
}
