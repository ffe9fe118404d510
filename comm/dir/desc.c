#include "comm/dir/desc.h"

#include <math.h>
#include <string.h>

#include "comm/base/json.h"

static const char *const norm_names[] = {"rms", "layer"};
static const char *const act_names[] = {"silu", "gelu_tanh", "gelu_erf", "relu"};
enum { N_NORM = sizeof norm_names / sizeof *norm_names, N_ACT = sizeof act_names / sizeof *act_names };

/* Sizes that a description may have: the bounds within which nothing that is computed from them overflows. */
static const struct size_row {
    const char *name;
    size_t at;
    uint32_t max;
} sizes[] = {
    {"n_vocab", offsetof(struct sk_desc, n_vocab), 1 << 24},
    {"n_embd", offsetof(struct sk_desc, n_embd), 1 << 17},
    {"n_layer", offsetof(struct sk_desc, n_layer), SK_MAX_LAYERS},
    {"n_head", offsetof(struct sk_desc, n_head), 1 << 12},
    {"n_kv_head", offsetof(struct sk_desc, n_kv_head), 1 << 12},
    {"head_dim", offsetof(struct sk_desc, head_dim), 1 << 12},
    {"n_ffn", offsetof(struct sk_desc, n_ffn), 1 << 20},
    {"max_len", offsetof(struct sk_desc, max_len), 1 << 24},
};
enum { N_SIZE = sizeof sizes / sizeof *sizes };

static const struct flag_row {
    const char *name;
    size_t at;
} flags[] = {
    {"gated", offsetof(struct sk_desc, gated)},
    {"qk_norm", offsetof(struct sk_desc, qk_norm)},
    {"pos_embed", offsetof(struct sk_desc, pos_embed)},
    {"tied", offsetof(struct sk_desc, tied)},
};
enum { N_FLAG = sizeof flags / sizeof *flags };

static uint32_t size_of(const struct sk_desc *d, const struct size_row *r)
{
    return *(const uint32_t *)((const char *)d + r->at);
}

static bool flag_of(const struct sk_desc *d, const struct flag_row *r)
{
    return *(const bool *)((const char *)d + r->at);
}

static int check_ropes(const struct sk_desc *d, struct sk_err *err)
{
    if (d->n_rope > SK_MAX_ROPES)
        return sk_err_set(err, SK_EFORMAT, "n_rope", "%u rope tables, at most %d are possible", d->n_rope,
                          SK_MAX_ROPES);
    if (d->pos_embed && d->n_rope)
        return sk_err_set(err, SK_EFORMAT, "n_rope", "learned positions and rotary ones exclude each other");
    for (uint32_t i = 0; i < d->n_rope; i++) {
        const struct sk_rope *r = &d->ropes[i];
        if (!r->dim || r->dim % 2 || r->dim > d->head_dim)
            return sk_err_set(err, SK_EFORMAT, "rope", "rope turns %u of %u dimensions: must be even and at least 2",
                              r->dim, d->head_dim);
        if (!isfinite(r->mscale) || r->mscale <= 0)
            return sk_err_set(err, SK_EFORMAT, "rope", "rope scale %g must be positive", (double)r->mscale);
    }
    for (uint32_t i = 0; i < d->n_layer; i++)
        if (d->layers[i].rope >= (d->n_rope ? d->n_rope : 1))
            return sk_err_set(err, SK_EFORMAT, "rope", "layer %u uses rope table %u of %u", i, d->layers[i].rope,
                              d->n_rope);
    return 0;
}

static int derive_groups(struct sk_desc *d, struct sk_err *err)
{
    d->n_group = 0;
    for (uint32_t i = 0; i < d->n_layer; i++) {
        uint32_t g = 0;
        while (g < d->n_group && d->group_window[g] != d->layers[i].window)
            g++;
        if (g == SK_MAX_GROUPS)
            return sk_err_set(err, SK_EFORMAT, "window", "more than %d different attention windows", SK_MAX_GROUPS);
        if (g == d->n_group)
            d->group_window[d->n_group++] = d->layers[i].window;
        d->layer_group[i] = (uint8_t)g;
    }
    return 0;
}

int sk_desc_check(struct sk_desc *d, struct sk_err *err)
{
    for (int i = 0; i < N_SIZE; i++) {
        uint32_t n = size_of(d, &sizes[i]);
        if (!n || n > sizes[i].max)
            return sk_err_set(err, SK_EFORMAT, sizes[i].name, "%s is %u, must be between 1 and %u", sizes[i].name, n,
                              sizes[i].max);
    }
    if (d->n_head % d->n_kv_head)
        return sk_err_set(err, SK_EFORMAT, "n_kv_head", "%u query heads are not a multiple of %u key/value heads",
                          d->n_head, d->n_kv_head);
    if (!isfinite(d->norm_eps) || d->norm_eps < 0)
        return sk_err_set(err, SK_EFORMAT, "norm_eps", "norm_eps is %g, must not be negative", (double)d->norm_eps);
    if (!isfinite(d->attn_scale) || d->attn_scale <= 0)
        return sk_err_set(err, SK_EFORMAT, "attn_scale", "attn_scale is %g, must be positive", (double)d->attn_scale);
    if ((unsigned)d->norm >= N_NORM || (unsigned)d->act >= N_ACT)
        return sk_err_set(err, SK_EFORMAT, "norm", "unknown norm or activation");
    int rc = check_ropes(d, err);
    return rc ? rc : derive_groups(d, err);
}

int sk_desc_print(const struct sk_desc *d, struct sk_buf *b)
{
    sk_buf_char(b, '{');
    for (int i = 0; i < N_SIZE; i++)
        sk_buf_fmt(b, "\"%s\":%u,", sizes[i].name, size_of(d, &sizes[i]));
    for (int i = 0; i < N_FLAG; i++)
        sk_buf_fmt(b, "\"%s\":%s,", flags[i].name, flag_of(d, &flags[i]) ? "true" : "false");
    sk_buf_fmt(b, "\"norm\":\"%s\",\"act\":\"%s\",\"norm_eps\":", norm_names[d->norm], act_names[d->act]);
    sk_json_put_num(b, (double)d->norm_eps);
    sk_buf_str(b, ",\"attn_scale\":");
    sk_json_put_num(b, (double)d->attn_scale);
    sk_buf_str(b, ",\"ropes\":[");
    for (uint32_t i = 0; i < d->n_rope; i++) {
        sk_buf_fmt(b, "%s{\"dim\":%u,\"interleaved\":%s,\"mscale\":", i ? "," : "", d->ropes[i].dim,
                   d->ropes[i].interleaved ? "true" : "false");
        sk_json_put_num(b, (double)d->ropes[i].mscale);
        sk_buf_char(b, '}');
    }
    sk_buf_str(b, "],\"layers\":[");
    for (uint32_t i = 0; i < d->n_layer; i++)
        sk_buf_fmt(b, "%s{\"window\":%u,\"rope\":%u}", i ? "," : "", d->layers[i].window, d->layers[i].rope);
    return sk_buf_str(b, "]}");
}

static int missing(const char *key, struct sk_err *err)
{
    return sk_err_set(err, SK_EFORMAT, key, "the description lacks %s", key);
}

static int parse_u32(const struct cJSON *v, const char *key, uint32_t max, uint32_t *ret, struct sk_err *err)
{
    int64_t n = -1;
    int rc = sk_json_get_int(v, key, 0, max, &n, err);

    if (rc)
        return rc;
    if (n < 0)
        return missing(key, err);
    *ret = (uint32_t)n;
    return 0;
}

static int parse_float(const struct cJSON *v, const char *key, float *ret, struct sk_err *err)
{
    double x = NAN;
    int rc = sk_json_get_num(v, key, -3e38, 3e38, &x, err);

    if (rc)
        return rc;
    if (isnan(x))
        return missing(key, err);
    *ret = (float)x;
    return 0;
}

/* The index of a word among names[0..n). */
static int parse_word(const struct cJSON *v, const char *key, const char *const *names, int n, struct sk_err *err)
{
    const char *s = NULL;
    int rc = sk_json_get_str(v, key, &s, err);

    if (rc)
        return rc;
    if (!s)
        return missing(key, err);
    for (int i = 0; i < n; i++)
        if (!strcmp(s, names[i]))
            return i;
    return sk_err_set(err, SK_EFORMAT, key, "unknown %s: %s", key, s);
}

static int parse_ropes(const struct cJSON *list, struct sk_desc *d, struct sk_err *err)
{
    if (sk_json_len(list) > SK_MAX_ROPES)
        return sk_err_set(err, SK_EFORMAT, "ropes", "more than %d rope tables", SK_MAX_ROPES);
    for (const struct cJSON *v = sk_json_first(list); v; v = sk_json_next(v)) {
        struct sk_rope *r = &d->ropes[d->n_rope++];
        int rc = parse_u32(v, "dim", 1 << 12, &r->dim, err);
        if (!rc)
            rc = sk_json_get_bool(v, "interleaved", &r->interleaved, err);
        if (!rc)
            rc = parse_float(v, "mscale", &r->mscale, err);
        if (rc)
            return rc;
    }
    return 0;
}

static int parse_layers(const struct cJSON *list, struct sk_desc *d, struct sk_err *err)
{
    struct sk_desc_layer *l = d->layers;

    if (sk_json_len(list) != d->n_layer || d->n_layer > SK_MAX_LAYERS)
        return sk_err_set(err, SK_EFORMAT, "layers", "%zu entries in layers, n_layer is %u", sk_json_len(list),
                          d->n_layer);
    for (const struct cJSON *v = sk_json_first(list); v; v = sk_json_next(v), l++) {
        int rc = parse_u32(v, "window", INT32_MAX, &l->window, err);
        if (!rc)
            rc = parse_u32(v, "rope", SK_MAX_ROPES - 1, &l->rope, err);
        if (rc)
            return rc;
    }
    return 0;
}

int sk_desc_parse(const struct cJSON *v, struct sk_desc *ret, struct sk_err *err)
{
    struct sk_desc d = {0};
    int rc;

    if (sk_json_type(v) != SK_JSON_OBJECT)
        return sk_err_set(err, SK_EFORMAT, "description", "the description is %s, must be an object",
                          sk_json_typename(v));
    for (int i = 0; i < N_SIZE; i++)
        if ((rc = parse_u32(v, sizes[i].name, sizes[i].max, (uint32_t *)((char *)&d + sizes[i].at), err)))
            return rc;
    for (int i = 0; i < N_FLAG; i++)
        if ((rc = sk_json_get_bool(v, flags[i].name, (bool *)((char *)&d + flags[i].at), err)))
            return rc;
    if ((rc = parse_word(v, "norm", norm_names, N_NORM, err)) < 0)
        return rc;
    d.norm = (enum sk_norm)rc;
    if ((rc = parse_word(v, "act", act_names, N_ACT, err)) < 0)
        return rc;
    d.act = (enum sk_act)rc;
    if ((rc = parse_float(v, "norm_eps", &d.norm_eps, err)) ||
        (rc = parse_float(v, "attn_scale", &d.attn_scale, err)) ||
        (rc = parse_ropes(sk_json_get(v, "ropes"), &d, err)) ||
        (rc = parse_layers(sk_json_get(v, "layers"), &d, err)) || (rc = sk_desc_check(&d, err)))
        return rc;
    *ret = d;
    return 0;
}

/* "all positions", or the windows with the layers that have them. */
static void explain_windows(const struct sk_desc *d, struct sk_buf *b)
{
    for (uint32_t g = 0; g < d->n_group; g++) {
        sk_buf_str(b, g ? "; " : "");
        if (d->group_window[g])
            sk_buf_fmt(b, "the last %u positions", d->group_window[g]);
        else
            sk_buf_str(b, "all positions");
        if (d->n_group == 1)
            return;
        sk_buf_str(b, " in layers");
        for (uint32_t i = 0; i < d->n_layer; i++) {
            if (d->layer_group[i] != g)
                continue;
            uint32_t last = i;
            while (last + 1 < d->n_layer && d->layer_group[last + 1] == g)
                last++;
            sk_buf_fmt(b, last > i ? " %u-%u" : " %u", i, last);
            i = last;
        }
    }
}

static void explain_attention(const struct sk_desc *d, const char *norm, struct sk_buf *b)
{
    sk_buf_fmt(b, "    h = %s(x) * attn_norm%s\n", norm, d->norm == SK_NORM_LAYER ? " + bias" : "");
    sk_buf_fmt(b, "    q, k, v = qkv(h)  # %u query heads, %u key/value heads, %u wide\n", d->n_head, d->n_kv_head,
               d->head_dim);
    if (d->qk_norm)
        sk_buf_str(b, "    q, k = rms_norm(q) * q_norm, rms_norm(k) * k_norm  # per head\n");
    for (uint32_t i = 0; i < d->n_rope; i++) {
        const struct sk_rope *r = &d->ropes[i];
        sk_buf_fmt(b, "    q, k = rope.%u(q, k, position)  # %u of %u dimensions, pairs %s", i, r->dim, d->head_dim,
                   r->interleaved ? "(2i, 2i + 1)" : "");
        if (!r->interleaved)
            sk_buf_fmt(b, "(i, i + %u)", r->dim / 2);
        if (r->mscale != 1)
            sk_buf_fmt(b, ", times %g", (double)r->mscale);
        sk_buf_char(b, '\n');
    }
    sk_buf_fmt(b, "    a = softmax(%.6g * q k^T) v  # ", (double)d->attn_scale);
    explain_windows(d, b);
    sk_buf_str(b, "\n    x = x + o(a)\n");
}

int sk_desc_explain(const struct sk_desc *d, struct sk_buf *b)
{
    const char *norm = d->norm == SK_NORM_RMS ? "rms_norm" : "layer_norm", *act = act_names[d->act];
    const char *bias = d->norm == SK_NORM_LAYER ? " + bias" : "";

    sk_buf_fmt(b, "# %u layers, %u wide, %u words, up to %u positions; norms with eps = %g\n", d->n_layer, d->n_embd,
               d->n_vocab, d->max_len, (double)d->norm_eps);
    sk_buf_fmt(b, "x = embed[token]%s\n", d->pos_embed ? " + pos_embed[position]" : "");
    sk_buf_fmt(b, "for layer in 0 .. %u:\n", d->n_layer - 1);
    explain_attention(d, norm, b);
    sk_buf_fmt(b, "    h = %s(x) * ffn_norm%s\n", norm, bias);
    if (d->gated)
        sk_buf_fmt(b, "    x = x + down(%s(gate(h)) * up(h))  # %u wide\n", act, d->n_ffn);
    else
        sk_buf_fmt(b, "    x = x + down(%s(up(h)))  # %u wide\n", act, d->n_ffn);
    sk_buf_fmt(b, "x = %s(x) * final_norm%s\n", norm, bias);
    return sk_buf_fmt(b, "logits = %s(x)\n", d->tied ? "embed^T" : "head");
}
