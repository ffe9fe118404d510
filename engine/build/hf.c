#include "engine/build/hf.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "comm/base/json.h"

enum { MAX_CONFIG = 4 << 20 };

static bool is_null(const struct cJSON *c, const char *key)
{
    const struct cJSON *v = sk_json_get(c, key);

    return v && sk_json_type(v) == SK_JSON_NULL;
}

/* A size under one of two names; `*ret` holds the default. An explicit null is 0: "as usual". */
static int get_size(const struct cJSON *c, const char *key, const char *alias, uint32_t *ret, struct sk_err *err)
{
    int64_t v = *ret;
    const char *name = alias && !sk_json_get(c, key) ? alias : key;
    int rc = sk_json_get_int(c, name, 0, UINT32_MAX, &v, err);

    if (!rc)
        *ret = is_null(c, name) ? 0 : (uint32_t)v;
    return rc;
}

/* An object, NULL where it is absent or null. */
static int get_object(const struct cJSON *c, const char *key, const struct cJSON **ret, struct sk_err *err)
{
    const struct cJSON *v = sk_json_get(c, key);

    if (sk_json_type(v) != SK_JSON_OBJECT && sk_json_type(v) != SK_JSON_NULL)
        return sk_err_set(err, SK_ETYPE, key, "%s is %s, must be an object", key, sk_json_typename(v));
    *ret = sk_json_type(v) == SK_JSON_OBJECT ? v : NULL;
    return 0;
}

static int read_sizes(const struct cJSON *c, const struct sk_arch_defaults *def, struct sk_desc *d, struct sk_err *err)
{
    int rc;

    *d = (struct sk_desc){.n_vocab = def->n_vocab,
                          .n_embd = def->n_embd,
                          .n_ffn = def->n_ffn,
                          .n_layer = def->n_layer,
                          .n_head = def->n_head,
                          .n_kv_head = def->n_kv_head,
                          .head_dim = def->head_dim,
                          .max_len = def->max_len,
                          .tied = def->tied};
    if ((rc = get_size(c, "vocab_size", NULL, &d->n_vocab, err)) ||
        (rc = get_size(c, "hidden_size", "n_embd", &d->n_embd, err)) ||
        (rc = get_size(c, "intermediate_size", "n_inner", &d->n_ffn, err)) ||
        (rc = get_size(c, "num_hidden_layers", "n_layer", &d->n_layer, err)) ||
        (rc = get_size(c, "num_attention_heads", "n_head", &d->n_head, err)) ||
        (rc = get_size(c, "num_key_value_heads", NULL, &d->n_kv_head, err)) ||
        (rc = get_size(c, "head_dim", NULL, &d->head_dim, err)) ||
        (rc = get_size(c, "max_position_embeddings", "n_positions", &d->max_len, err)) ||
        (rc = sk_json_get_bool(c, "tie_word_embeddings", &d->tied, err)))
        return rc;
    if (d->n_layer > SK_MAX_LAYERS)
        return sk_err_set(err, SK_ERANGE, "num_hidden_layers", "%u layers, at most %d are possible", d->n_layer,
                          SK_MAX_LAYERS);
    if (!d->n_kv_head)
        d->n_kv_head = d->n_head;
    if (!d->head_dim && d->n_head)
        d->head_dim = d->n_embd / d->n_head;
    if (!d->n_ffn && d->n_embd < UINT32_MAX / 4)
        d->n_ffn = 4 * d->n_embd;
    return 0;
}

static int read_act(const struct cJSON *c, struct sk_desc *d, struct sk_err *err)
{
    static const struct {
        const char *name;
        enum sk_act act;
    } acts[] = {{"silu", SK_ACT_SILU},
                {"swish", SK_ACT_SILU},
                {"gelu_new", SK_ACT_GELU_TANH},
                {"gelu_pytorch_tanh", SK_ACT_GELU_TANH},
                {"gelu_fast", SK_ACT_GELU_TANH},
                {"gelu", SK_ACT_GELU_ERF},
                {"relu", SK_ACT_RELU}};
    const char *name = NULL, *key = sk_json_get(c, "hidden_act") ? "hidden_act" : "activation_function";
    int rc = sk_json_get_str(c, key, &name, err);

    if (rc || !name)
        return rc;
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++) {
        if (!strcmp(name, acts[i].name)) {
            d->act = acts[i].act;
            return 0;
        }
    }
    return sk_err_set(err, SK_EUNSUP, key, "activation '%s' is not supported", name);
}

static int read_floats(const struct cJSON *c, struct sk_desc *d, struct sk_err *err)
{
    double eps = (double)d->norm_eps;
    bool scaled = true, by_layer = false;
    int rc = sk_json_get_num(c, d->norm == SK_NORM_RMS ? "rms_norm_eps" : "layer_norm_epsilon", 0, 1, &eps, err);

    if (rc || (rc = sk_json_get_bool(c, "scale_attn_weights", &scaled, err)) ||
        (rc = sk_json_get_bool(c, "scale_attn_by_inverse_layer_idx", &by_layer, err)))
        return rc;
    if (by_layer)
        return sk_err_set(err, SK_EUNSUP, "scale_attn_by_inverse_layer_idx",
                          "scale_attn_by_inverse_layer_idx is not supported");
    d->norm_eps = (float)eps;
    d->attn_scale = scaled ? (float)(1 / sqrt(d->head_dim)) : 1;
    return 0;
}

/* Which layers look back only sliding_window positions: those that layer_types says, or those from max_window_layers
 * on. */
static int read_windows(const struct cJSON *c, const struct sk_arch *arch, struct sk_desc *d, struct sk_err *err)
{
    const struct cJSON *types = sk_json_get(c, "layer_types");
    uint32_t window = arch->def.window, first = 28;
    bool use = arch->window_always;
    int rc = get_size(c, "sliding_window", NULL, &window, err);

    if (rc || !arch->def.window || (rc = get_size(c, "max_window_layers", NULL, &first, err)) ||
        (!use && (rc = sk_json_get_bool(c, "use_sliding_window", &use, err))) || !use)
        return rc;
    if (sk_json_type(types) == SK_JSON_ARRAY && !arch->window_always) {
        uint32_t i = 0;
        if (sk_json_len(types) != d->n_layer)
            return sk_err_set(err, SK_EFORMAT, "layer_types", "layer_types has %zu entries for %u layers",
                              sk_json_len(types), d->n_layer);
        for (const struct cJSON *v = sk_json_first(types); v; v = sk_json_next(v), i++) {
            const char *s = sk_json_str(v);
            bool sliding = s && !strcmp(s, "sliding_attention");
            if (!sliding && (!s || strcmp(s, "full_attention")))
                return sk_err_set(err, SK_EUNSUP, "layer_types", "layer type '%s' is not supported", s ? s : "?");
            d->layers[i].window = sliding ? window : 0;
        }
        return 0;
    }
    for (uint32_t i = 0; i < d->n_layer; i++)
        d->layers[i].window = arch->window_always || i >= first ? window : 0;
    return 0;
}

static int read_scaling(const struct cJSON *s, struct sk_freq_conf *f, struct sk_err *err)
{
    static const struct {
        const char *name;
        enum sk_freq_kind kind;
    } kinds[] = {{"default", SK_FREQ_NONE},
                 {"dynamic", SK_FREQ_NONE},
                 {"linear", SK_FREQ_LINEAR},
                 {"llama3", SK_FREQ_LLAMA3},
                 {"yarn", SK_FREQ_YARN}};
    const char *type = "default";
    bool truncate = true;
    size_t i = 0, n = sizeof kinds / sizeof *kinds;
    int rc;

    if ((rc = sk_json_get_str(s, "type", &type, err)) || (rc = sk_json_get_str(s, "rope_type", &type, err)))
        return rc;
    while (i < n && strcmp(type, kinds[i].name))
        i++;
    if (i == n)
        return sk_err_set(err, SK_EUNSUP, "rope_type",
                          "rope scaling '%s' is not supported (default, linear, dynamic, llama3 and yarn are)", type);
    f->kind = kinds[i].kind;
    const struct {
        const char *key;
        double *ret;
    } nums[] = {{"rope_theta", &f->theta},
                {"factor", &f->factor},
                {"original_max_position_embeddings", &f->orig_len},
                {"low_freq_factor", &f->low_freq},
                {"high_freq_factor", &f->high_freq},
                {"beta_fast", &f->beta_fast},
                {"beta_slow", &f->beta_slow},
                {"attention_factor", &f->attn_factor},
                {"mscale", &f->mscale},
                {"mscale_all_dim", &f->mscale_all_dim}};
    for (i = 0; i < sizeof nums / sizeof *nums; i++)
        if ((rc = sk_json_get_num(s, nums[i].key, 0, 1e12, nums[i].ret, err)))
            return rc;
    rc = sk_json_get_bool(s, "truncate", &truncate, err);
    f->no_truncate = !truncate;
    return rc;
}

/* All of a head's dimensions must turn. */
static int check_turning(const struct cJSON *c, struct sk_err *err)
{
    double part = 1;
    int rc = sk_json_get_num(c, "partial_rotary_factor", 0, 1, &part, err);

    if (!rc && part != 1)
        rc = sk_err_set(err, SK_EUNSUP, "partial_rotary_factor", "partial_rotary_factor %g is not supported", part);
    return rc;
}

static int read_rope(const struct cJSON *c, struct sk_hparams *hp, struct sk_err *err)
{
    struct sk_freq_conf *f = &hp->rope;
    const struct cJSON *scaling, *parameters;
    int rc;

    if ((rc = get_object(c, "rope_scaling", &scaling, err)) ||
        (rc = get_object(c, "rope_parameters", &parameters, err)) || (rc = check_turning(c, err)) ||
        (rc = check_turning(parameters, err)))
        return rc;
    *f = (struct sk_freq_conf){.theta = 10000, .beta_fast = 32, .beta_slow = 1};
    if ((rc = sk_json_get_num(c, "rope_theta", 1, 1e12, &f->theta, err)) ||
        (rc = sk_json_get_num(c, "original_max_position_embeddings", 1, 1e9, &f->orig_len, err)) ||
        (rc = read_scaling(parameters ? parameters : scaling, f, err)) || f->kind != SK_FREQ_YARN)
        return rc;
    /* YaRN's factor may be left to the two lengths; and configurations often give the length before stretching. */
    if (!f->factor && f->orig_len > 0)
        f->factor = hp->desc.max_len / f->orig_len;
    double stretched = f->factor * (f->orig_len > 0 ? f->orig_len : hp->desc.max_len);
    if (!f->orig_len)
        f->orig_len = hp->desc.max_len;
    if (stretched > hp->desc.max_len && stretched < 1e9)
        hp->desc.max_len = (uint32_t)stretched;
    return 0;
}

/* eos_token_id: an id or a list of them. */
static int read_eos(const struct cJSON *c, struct sk_hparams *hp, struct sk_err *err)
{
    const struct cJSON *v = sk_json_get(c, "eos_token_id");
    bool list = sk_json_type(v) == SK_JSON_ARRAY;

    if (!v || sk_json_type(v) == SK_JSON_NULL)
        return 0;
    hp->n_eos = 0;
    for (v = list ? sk_json_first(v) : v; v; v = list ? sk_json_next(v) : NULL) {
        int64_t id;
        if (!sk_json_is_int(v, &id) || id < 0 || id >= hp->desc.n_vocab || hp->n_eos == SK_DIR_MAX_EOS)
            return sk_err_set(err, SK_ERANGE, "eos_token_id",
                              "eos_token_id must be ids below vocab_size, at most %d of them", SK_DIR_MAX_EOS);
        hp->eos[hp->n_eos++] = (int32_t)id;
    }
    return 0;
}

static int read_generation(const struct cJSON *g, struct sk_gen_defaults *d, struct sk_err *err)
{
    int64_t top_k = -1, ngram = -1;
    bool sample = false;
    int rc;

    *d = (struct sk_gen_defaults){NAN, NAN, NAN, NAN, NAN, NAN, NAN, -1, -1, -1};
    const struct {
        const char *key;
        float *ret;
    } nums[] = {{"temperature", &d->temperature},
                {"top_p", &d->top_p},
                {"min_p", &d->min_p},
                {"typical_p", &d->typical_p},
                {"repetition_penalty", &d->repetition_penalty},
                {"eta_cutoff", &d->eta_cutoff},
                {"epsilon_cutoff", &d->epsilon_cutoff}};
    for (size_t i = 0; i < sizeof nums / sizeof *nums; i++) {
        double x = NAN;
        if ((rc = sk_json_get_num(g, nums[i].key, 0, 1000, &x, err)))
            return rc;
        *nums[i].ret = (float)x;
    }
    if ((rc = sk_json_get_int(g, "top_k", 0, INT32_MAX, &top_k, err)) ||
        (rc = sk_json_get_int(g, "no_repeat_ngram_size", 0, INT32_MAX, &ngram, err)) ||
        (rc = sk_json_get_bool(g, "do_sample", &sample, err)))
        return rc;
    d->top_k = (int32_t)top_k;
    d->no_repeat_ngram = (int32_t)ngram;
    if (sk_json_type(sk_json_get(g, "do_sample")) == SK_JSON_BOOL)
        d->do_sample = sample;
    return 0;
}

/* What changes the arithmetic and is not in the description. */
static int refuse(const struct cJSON *c, struct sk_err *err)
{
    static const char *const flags[] = {"mlp_bias", "add_cross_attention"};

    if (sk_json_type(sk_json_get(c, "quantization_config")) == SK_JSON_OBJECT) {
        const char *method = sk_json_str(sk_json_at(c, "quantization_config.quant_method"));
        return sk_err_set(err, SK_EUNSUP, "quantization_config",
                          "checkpoints quantised with '%s' are not supported; take the original one or a GGUF file",
                          method ? method : "?");
    }
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        bool on = false;
        int rc = sk_json_get_bool(c, flags[i], &on, err);
        if (rc)
            return rc;
        if (on)
            return sk_err_set(err, SK_EUNSUP, flags[i], "%s is not supported", flags[i]);
    }
    return 0;
}

int sk_hf_parse(const struct cJSON *config, const struct cJSON *generation, struct sk_hparams *ret, struct sk_err *err)
{
    struct sk_hparams hp = {0};
    const char *type = NULL;
    bool bias = false;
    int rc;

    if (sk_json_type(config) != SK_JSON_OBJECT)
        return sk_err_set(err, SK_EFORMAT, NULL, "config.json is %s, must be an object", sk_json_typename(config));
    if (generation && sk_json_type(generation) != SK_JSON_OBJECT)
        return sk_err_set(err, SK_EFORMAT, NULL, "generation_config.json is %s, must be an object",
                          sk_json_typename(generation));
    if ((rc = sk_json_get_str(config, "model_type", &type, err)))
        return rc;
    if (!type)
        return sk_err_set(err, SK_EFORMAT, "model_type", "config.json has no model_type");
    if ((rc = sk_arch_find_hf(type, &hp.arch, err)) || (rc = refuse(config, err)) ||
        (rc = read_sizes(config, &hp.arch->def, &hp.desc, err)))
        return rc;
    hp.desc.norm = hp.arch->norm;
    hp.desc.norm_eps = hp.arch->def.eps;
    hp.desc.act = hp.arch->act;
    hp.desc.gated = hp.arch->gated;
    hp.desc.qk_norm = hp.arch->qk_norm;
    hp.desc.pos_embed = hp.arch->pos_embed;
    if ((rc = read_act(config, &hp.desc, err)) || (rc = read_floats(config, &hp.desc, err)) ||
        (rc = read_windows(config, hp.arch, &hp.desc, err)) || (rc = read_rope(config, &hp, err)) ||
        (rc = sk_json_get_bool(config, "attention_bias", &bias, err)) || (rc = read_eos(config, &hp, err)) ||
        (rc = read_eos(generation, &hp, err)) || (rc = read_generation(generation, &hp.gen, err)))
        return rc;
    hp.qkv_bias = hp.arch->qkv_bias == SK_BIAS_ALWAYS || (hp.arch->qkv_bias == SK_BIAS_CONFIG && bias);
    hp.o_bias = hp.arch->o_bias == SK_BIAS_ALWAYS || (hp.arch->o_bias == SK_BIAS_CONFIG && bias);
    *ret = hp;
    return 0;
}

int sk_hf_read(const char *dir, struct sk_hparams *ret, struct sk_err *err)
{
    struct cJSON *config = NULL, *generation = NULL;
    struct sk_err why;
    char path[1280];
    int rc;

    if (snprintf(path, sizeof path, "%s/config.json", dir) >= (int)sizeof path)
        return sk_err_set(err, SK_EINVAL, NULL, "path is too long: %.200s...", dir);
    if ((rc = sk_json_load(path, MAX_CONFIG, &config, err)))
        goto out;
    snprintf(path, sizeof path, "%.1200s/generation_config.json", dir);
    rc = sk_json_load(path, MAX_CONFIG, &generation, err);
    if (rc && rc != -SK_ENOENT)
        goto out;
    if ((rc = sk_hf_parse(config, generation, ret, &why)))
        sk_err_set(err, -rc, why.param, "%.180s: %.260s", dir, why.msg);
out:
    sk_json_free(config);
    sk_json_free(generation);
    return rc;
}
