#include "tests/unit/engine/build/naive.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "comm/base/err.h"

struct run {
    const struct sk_desc *d;
    const struct sk_weights *w;
    size_t n;
    uint32_t layer;
};

static const struct sk_dir_entry *find(const struct run *r, const char *format)
{
    char name[SK_DIR_NAME_MAX];

    snprintf(name, sizeof name, format, r->layer);
    return sk_weights_find(r->w, name);
}

static const float *vector(const struct run *r, const char *format)
{
    const struct sk_dir_entry *e = find(r, format);

    return e ? sk_weights_data(r->w, e) : NULL;
}

static void read_row(const struct run *r, const struct sk_dir_entry *e, uint32_t row, float *ret)
{
    struct sk_pack p;

    sk_assert(sk_pack_layout(&p, (enum sk_dtype)e->dtype, e->n_out, e->n_in, e->slab_k) == 0);
    sk_pack_get_row(&p, sk_weights_data(r->w, e), row, ret);
}

/* y[n][n_out] = x[n][n_in] W^T (+ bias) */
static float *linear(const struct run *r, const char *format, const char *bias_format, const float *x)
{
    const struct sk_dir_entry *e = find(r, format);
    const float *bias = bias_format ? vector(r, bias_format) : NULL;

    sk_assert(e);
    float *y = malloc(r->n * e->n_out * sizeof *y), *w = malloc(e->n_in * sizeof *w);
    for (uint32_t out = 0; out < e->n_out; out++) {
        read_row(r, e, out, w);
        for (size_t t = 0; t < r->n; t++) {
            double sum = bias ? (double)bias[out] : 0;
            for (uint32_t i = 0; i < e->n_in; i++)
                sum += (double)w[i] * (double)x[t * e->n_in + i];
            y[t * e->n_out + out] = (float)sum;
        }
    }
    free(w);
    return y;
}

static void norm_row(enum sk_norm kind, const float *x, uint32_t n, const float *w, const float *bias, float eps,
                     float *y)
{
    double mean = 0, square = 0;

    for (uint32_t i = 0; i < n && kind == SK_NORM_LAYER; i++)
        mean += (double)x[i] / n;
    for (uint32_t i = 0; i < n; i++)
        square += ((double)x[i] - mean) * ((double)x[i] - mean) / n;
    for (uint32_t i = 0; i < n; i++)
        y[i] =
            (float)(((double)x[i] - mean) / sqrt(square + (double)eps) * (double)w[i] + (bias ? (double)bias[i] : 0));
}

static float *norm(const struct run *r, const char *format, const char *bias_format, const float *x)
{
    uint32_t n = r->d->n_embd;
    float *y = malloc(r->n * n * sizeof *y);

    for (size_t t = 0; t < r->n; t++)
        norm_row(r->d->norm, x + t * n, n, vector(r, format), vector(r, bias_format), r->d->norm_eps, y + t * n);
    return y;
}

static void turn(const struct run *r, float *head, size_t pos)
{
    const struct sk_rope *rope = &r->d->ropes[0];
    const float *inv_freq = vector(r, "rope.0");

    for (uint32_t i = 0; i < rope->dim / 2; i++) {
        uint32_t a = rope->interleaved ? 2 * i : i, b = rope->interleaved ? 2 * i + 1 : i + rope->dim / 2;
        double angle = (double)((float)pos * inv_freq[i]), c = cos(angle) * (double)rope->mscale,
               s = sin(angle) * (double)rope->mscale, x = (double)head[a], y = (double)head[b];
        head[a] = (float)(x * c - y * s);
        head[b] = (float)(y * c + x * s);
    }
}

static float *attend(const struct run *r, const float *qkv)
{
    const struct sk_desc *d = r->d;
    uint32_t hs = sk_desc_head_stride(d), width = (d->n_head + 2 * d->n_kv_head) * hs;
    float *out = calloc(r->n * d->n_head * hs, sizeof *out);
    double *p = malloc(r->n * sizeof *p);

    for (size_t t = 0; t < r->n; t++) {
        for (uint32_t h = 0; h < d->n_head; h++) {
            uint32_t kv = d->n_head + h / (d->n_head / d->n_kv_head), window = d->layers[r->layer].window;
            size_t first = window && t + 1 > window ? t + 1 - window : 0;
            double max = -INFINITY, sum = 0;
            for (size_t s = first; s <= t; s++) {
                p[s] = 0;
                for (uint32_t i = 0; i < d->head_dim; i++)
                    p[s] += (double)qkv[t * width + h * hs + i] * (double)qkv[s * width + kv * hs + i];
                p[s] *= (double)d->attn_scale;
                max = fmax(max, p[s]);
            }
            for (size_t s = first; s <= t; s++)
                sum += p[s] = exp(p[s] - max);
            for (size_t s = first; s <= t; s++)
                for (uint32_t i = 0; i < hs; i++)
                    out[(t * d->n_head + h) * hs + i] +=
                        (float)(p[s] / sum * (double)qkv[s * width + (kv + d->n_kv_head) * hs + i]);
        }
    }
    free(p);
    return out;
}

static double act(enum sk_act kind, double x)
{
    switch (kind) {
    case SK_ACT_SILU:
        return x / (1 + exp(-x));
    case SK_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case SK_ACT_GELU_ERF:
        return 0.5 * x * (1 + erf(x * 0.7071067811865476));
    default:
        return x > 0 ? x : 0;
    }
}

static void add(float *x, float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
    free(y);
}

static void attention_block(const struct run *r, float *x)
{
    const struct sk_desc *d = r->d;
    uint32_t hs = sk_desc_head_stride(d), width = (d->n_head + 2 * d->n_kv_head) * hs;
    float *h = norm(r, "layer.%u.attn_norm", "layer.%u.attn_norm.bias", x);
    float *qkv = linear(r, "layer.%u.qkv", "layer.%u.qkv.bias", h);

    for (size_t t = 0; t < r->n; t++) {
        for (uint32_t i = 0; i < d->n_head + d->n_kv_head; i++) {
            float *head = qkv + t * width + i * hs;
            const char *name = i < d->n_head ? "layer.%u.q_norm" : "layer.%u.k_norm";
            if (d->qk_norm)
                norm_row(SK_NORM_RMS, head, d->head_dim, vector(r, name), NULL, d->norm_eps, head);
            if (d->n_rope)
                turn(r, head, t);
        }
    }
    float *a = attend(r, qkv);
    add(x, linear(r, "layer.%u.o", "layer.%u.o.bias", a), r->n * d->n_embd);
    free(a);
    free(qkv);
    free(h);
}

static void mlp_block(const struct run *r, float *x)
{
    const struct sk_desc *d = r->d;
    uint32_t fs = sk_desc_ffn_stride(d), width = d->gated ? 2 * fs : fs;
    float *h = norm(r, "layer.%u.ffn_norm", "layer.%u.ffn_norm.bias", x), *a = malloc(r->n * fs * sizeof *a);
    float *up = linear(r, d->gated ? "layer.%u.gate_up" : "layer.%u.up", "layer.%u.up.bias", h);

    for (size_t t = 0; t < r->n; t++)
        for (uint32_t i = 0; i < fs; i++)
            a[t * fs + i] =
                (float)(act(d->act, (double)up[t * width + i]) * (d->gated ? (double)up[t * width + fs + i] : 1));
    add(x, linear(r, "layer.%u.down", "layer.%u.down.bias", a), r->n * d->n_embd);
    free(a);
    free(up);
    free(h);
}

void sk_naive_logits(const struct sk_desc *d, const struct sk_weights *w, const int32_t *ids, size_t n, float *ret)
{
    struct run r = {.d = d, .w = w, .n = n};
    float *x = malloc(n * d->n_embd * sizeof *x), *pos = malloc(d->n_embd * sizeof *pos);

    for (size_t t = 0; t < n; t++) {
        read_row(&r, find(&r, "embed"), (uint32_t)ids[t], x + t * d->n_embd);
        for (uint32_t i = 0; d->pos_embed && i < d->n_embd; i++) {
            if (i == 0)
                read_row(&r, find(&r, "pos_embed"), (uint32_t)t, pos);
            x[t * d->n_embd + i] += pos[i];
        }
    }
    for (r.layer = 0; r.layer < d->n_layer; r.layer++) {
        attention_block(&r, x);
        mlp_block(&r, x);
    }
    float *h = norm(&r, "final_norm", "final_norm.bias", x);
    r.n = 1;
    float *logits = linear(&r, d->tied ? "embed" : "head", NULL, h + (n - 1) * d->n_embd);
    memcpy(ret, logits, d->n_vocab * sizeof *ret);
    free(logits);
    free(h);
    free(pos);
    free(x);
}
