#include "engine/build/ggconf.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_KEY = 128 };

/* "llama" and "block_count" -> "llama.block_count" */
static const char *key_of(const struct sk_hparams *hp, const char *name, char *buf)
{
    snprintf(buf, MAX_KEY, "%s.%s", hp->arch->gguf_arch, name);
    return buf;
}

static int get_u32(const struct sk_gguf *g, const struct sk_hparams *hp, const char *name, uint32_t *ret,
                   struct sk_err *err)
{
    char key[MAX_KEY];

    return sk_gguf_u32(g, key_of(hp, name, key), ret, err);
}

static int get_f32(const struct sk_gguf *g, const struct sk_hparams *hp, const char *name, double *ret,
                   struct sk_err *err)
{
    char key[MAX_KEY];
    float x = (float)*ret;
    int rc = sk_gguf_f32(g, key_of(hp, name, key), &x, err);

    if (rc)
        return rc;
    if (!isfinite(x))
        return sk_err_set(err, SK_ERANGE, key, "GGUF metadata %s is not a finite number", key);
    if (sk_gguf_has(g, key))
        *ret = (double)x;
    return 0;
}

/* A size that must be there. */
static int need_u32(const struct sk_gguf *g, const struct sk_hparams *hp, const char *name, uint32_t *ret,
                    struct sk_err *err)
{
    char key[MAX_KEY];

    if (!sk_gguf_has(g, key_of(hp, name, key)))
        return sk_err_set(err, SK_EFORMAT, key, "GGUF metadata lacks %s", key);
    return sk_gguf_u32(g, key, ret, err);
}

/* Words: by metadata, else as many as the tokenizer or the embedding has. */
static int read_vocab(const struct sk_gguf *g, struct sk_hparams *hp, struct sk_err *err)
{
    struct sk_gguf_array words = {0};
    const struct sk_src_tensor *embed = sk_src_find(sk_gguf_src(g), "token_embd.weight");
    int rc = sk_gguf_array(g, "tokenizer.ggml.tokens", &words, err);

    if (rc || (rc = get_u32(g, hp, "vocab_size", &hp->desc.n_vocab, err)))
        return rc;
    /* The embedding's rows are what there is; some converters' vocab_size leaves out the padding. */
    if (embed && embed->n_dim == 2 && embed->dims[0] <= UINT32_MAX)
        hp->desc.n_vocab = (uint32_t)embed->dims[0];
    else if (!hp->desc.n_vocab && words.n <= UINT32_MAX)
        hp->desc.n_vocab = (uint32_t)words.n;
    return 0;
}

static int read_sizes(const struct sk_gguf *g, struct sk_hparams *hp, struct sk_err *err)
{
    struct sk_desc *d = &hp->desc;
    uint32_t value_dim = 0, n_expert = 0, window = 0, rope_dim = 0;
    int rc;

    if ((rc = need_u32(g, hp, "block_count", &d->n_layer, err)) ||
        (rc = need_u32(g, hp, "embedding_length", &d->n_embd, err)) ||
        (rc = need_u32(g, hp, "attention.head_count", &d->n_head, err)) ||
        (rc = need_u32(g, hp, "feed_forward_length", &d->n_ffn, err)) ||
        (rc = need_u32(g, hp, "context_length", &d->max_len, err)) ||
        (rc = get_u32(g, hp, "attention.head_count_kv", &d->n_kv_head, err)) ||
        (rc = get_u32(g, hp, "attention.key_length", &d->head_dim, err)) ||
        (rc = get_u32(g, hp, "attention.value_length", &value_dim, err)) ||
        (rc = get_u32(g, hp, "attention.sliding_window", &window, err)) ||
        (rc = get_u32(g, hp, "rope.dimension_count", &rope_dim, err)) ||
        (rc = get_u32(g, hp, "expert_count", &n_expert, err)) || (rc = read_vocab(g, hp, err)))
        return rc;
    if (n_expert)
        return sk_err_set(err, SK_EUNSUP, "expert_count",
                          "models with a mixture of experts (%u here) are not supported", n_expert);
    if (d->n_layer > SK_MAX_LAYERS)
        return sk_err_set(err, SK_ERANGE, "block_count", "%u layers, at most %d are possible", d->n_layer,
                          SK_MAX_LAYERS);
    if (!d->n_kv_head)
        d->n_kv_head = d->n_head;
    if (!d->head_dim && d->n_head)
        d->head_dim = d->n_embd / d->n_head;
    if (value_dim && value_dim != d->head_dim)
        return sk_err_set(err, SK_EUNSUP, "attention.value_length", "keys of %u and values of %u dimensions",
                          d->head_dim, value_dim);
    if (rope_dim && rope_dim != d->head_dim && !d->pos_embed)
        return sk_err_set(err, SK_EUNSUP, "rope.dimension_count", "only %u of %u dimensions turn: not supported",
                          rope_dim, d->head_dim);
    for (uint32_t i = 0; i < d->n_layer; i++)
        d->layers[i].window = window;
    return 0;
}

static int read_rope(const struct sk_gguf *g, struct sk_hparams *hp, struct sk_err *err)
{
    static const struct {
        const char *name;
        enum sk_freq_kind kind;
    } kinds[] = {{"none", SK_FREQ_NONE}, {"linear", SK_FREQ_LINEAR}, {"yarn", SK_FREQ_YARN}};
    struct sk_freq_conf *f = &hp->rope;
    const char *type = "none";
    size_t n = 4, i = 0;
    uint32_t orig_len = 0;
    char key[MAX_KEY];
    double linear = 0;
    int rc;

    *f = (struct sk_freq_conf){.theta = 10000, .beta_fast = 32, .beta_slow = 1};
    if ((rc = get_f32(g, hp, "rope.freq_base", &f->theta, err)) ||
        (rc = get_f32(g, hp, "rope.scale_linear", &linear, err)) ||
        (rc = sk_gguf_str(g, key_of(hp, "rope.scaling.type", key), &type, &n, err)) ||
        (rc = get_f32(g, hp, "rope.scaling.factor", &f->factor, err)) ||
        (rc = get_f32(g, hp, "rope.scaling.attn_factor", &f->attn_factor, err)) ||
        (rc = get_f32(g, hp, "rope.scaling.yarn_beta_fast", &f->beta_fast, err)) ||
        (rc = get_f32(g, hp, "rope.scaling.yarn_beta_slow", &f->beta_slow, err)) ||
        (rc = get_u32(g, hp, "rope.scaling.original_context_length", &orig_len, err)))
        return rc;
    while (i < sizeof kinds / sizeof *kinds && (strlen(kinds[i].name) != n || memcmp(kinds[i].name, type, n)))
        i++;
    if (i == sizeof kinds / sizeof *kinds)
        return sk_err_set(err, SK_EUNSUP, key, "rope scaling '%.*s' is not supported (none, linear and yarn are)",
                          (int)(n < 40 ? n : 40), type);
    f->kind = kinds[i].kind;
    f->orig_len = orig_len;
    if (f->kind == SK_FREQ_NONE && linear > 1) {
        f->kind = SK_FREQ_LINEAR;
        f->factor = linear;
    }
    if (f->kind == SK_FREQ_YARN && f->factor * orig_len > hp->desc.max_len && f->factor * orig_len < 1e9)
        hp->desc.max_len = (uint32_t)(f->factor * orig_len);
    return 0;
}

/* The end of text and, for chat models that have another, of a turn. */
static int read_eos(const struct sk_gguf *g, struct sk_hparams *hp, struct sk_err *err)
{
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"};

    for (int i = 0; i < 2; i++) {
        uint32_t id = UINT32_MAX;
        int rc = sk_gguf_u32(g, keys[i], &id, err);
        if (rc)
            return rc;
        if (id == UINT32_MAX || (hp->n_eos && hp->eos[0] == (int32_t)id))
            continue;
        if (id >= hp->desc.n_vocab)
            return sk_err_set(err, SK_ERANGE, keys[i], "GGUF metadata %s is %u, the vocabulary has %u words", keys[i],
                              id, hp->desc.n_vocab);
        hp->eos[hp->n_eos++] = (int32_t)id;
    }
    return 0;
}

int sk_ggconf_read(const struct sk_gguf *g, struct sk_hparams *ret, struct sk_err *err)
{
    struct sk_hparams hp = {.gguf = true};
    uint32_t n_split = 1;
    const char *arch = NULL;
    size_t n_arch = 0;
    double eps, scale = 0;
    int rc;

    if ((rc = sk_gguf_str(g, "general.architecture", &arch, &n_arch, err)) ||
        (rc = sk_gguf_u32(g, "split.count", &n_split, err)))
        return rc;
    if (n_split > 1)
        return sk_err_set(err, SK_EUNSUP, "split.count",
                          "this is one of %u files of a split model: merge them first (llama-gguf-split --merge)",
                          n_split);
    if (!arch)
        return sk_err_set(err, SK_EFORMAT, "general.architecture", "GGUF metadata lacks general.architecture");
    if ((rc = sk_arch_find_gguf(arch, n_arch, &hp.arch, err)))
        return rc;
    hp.desc.norm = hp.arch->norm;
    hp.desc.act = hp.arch->act;
    hp.desc.gated = hp.arch->gated;
    hp.desc.qk_norm = hp.arch->qk_norm;
    hp.desc.pos_embed = hp.arch->pos_embed;
    eps = (double)hp.arch->def.eps;
    if ((rc = read_sizes(g, &hp, err)) || (rc = read_rope(g, &hp, err)) || (rc = read_eos(g, &hp, err)) ||
        (rc = get_f32(
             g, &hp, hp.arch->norm == SK_NORM_RMS ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon",
             &eps, err)) ||
        (rc = get_f32(g, &hp, "attention.scale", &scale, err)))
        return rc;
    hp.desc.norm_eps = (float)eps;
    hp.desc.attn_scale = scale > 0 ? (float)scale : (float)(1 / sqrt(hp.desc.head_dim));
    const struct sk_src *src = sk_gguf_src(g);
    hp.desc.tied = !sk_src_find(src, "output.weight");
    hp.qkv_bias = hp.arch->qkv_bias == SK_BIAS_ALWAYS || sk_src_find(src, "blk.0.attn_q.bias");
    hp.o_bias = hp.arch->o_bias == SK_BIAS_ALWAYS || sk_src_find(src, "blk.0.attn_output.bias");
    hp.gen = (struct sk_gen_defaults){NAN, NAN, NAN, NAN, NAN, NAN, NAN, -1, -1, -1};
    *ret = hp;
    return 0;
}
