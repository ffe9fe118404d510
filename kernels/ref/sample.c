#include "kernels/ref/sample.h"

#include <math.h>
#include <string.h>

#include "comm/base/rng.h"
#include "kernels/ref/fmath.h"
#include "kernels/ref/ref.h"

static float max_z(const struct sk_cand *c, uint32_t n)
{
    float max = -INFINITY;
    for (uint32_t i = 0; i < n; i++)
        max = c[i].z > max ? c[i].z : max;
    return max;
}

/* The whole number nearest to x >= 0, ties to even. */
static float whole(float x)
{
    return x < 0x1p23f ? x + 0x1p23f - 0x1p23f : x;
}

/* e^-d * SK_CAND_UNIT, to the nearest whole number. 2^x, x = k + f, |f| <= 1/2, by the
 * polynomial of fifth degree that is best for 2^f. */
float sk_sample_weight(float d)
{
    const float x = d * -0x1.715476p+0f, y = x > -40 ? x : -40;
    const float k = y - 0x1.8p23f + 0x1.8p23f, f = y - k;
    const uint32_t bits = (uint32_t)((int32_t)k + 127) << 23;
    float scale, p = 0x1.23a6p-10f;
    memcpy(&scale, &bits, sizeof scale);
    p = p * f + 0x1.3cbea8p-7f;
    p = p * f + 0x1.c74322p-5f;
    p = p * f + 0x1.ebfa4ep-3f;
    p = p * f + 0x1.62e39ep-1f;
    p = p * f + 1;
    return x > -40 ? whole(p * scale * SK_CAND_UNIT) : 0;
}

static double mass(const struct sk_cand *c, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += c[i].w;
    return sum;
}

float sk_sample_spread(float w, float d)
{
    return w > 0 ? whole(w * d) : 0;
}

static double spread(const struct sk_cand *c, uint32_t n, float max)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += sk_sample_spread(c[i].w, max - c[i].z);
    return sum;
}

/* NaN counts as equal: then ids decide, and a partition of NaN still halves. */
static bool before(const struct sk_cand *a, const struct sk_cand *b)
{
    return a->key > b->key || (!(a->key < b->key) && a->id < b->id);
}

static void swap(struct sk_cand *a, struct sk_cand *b)
{
    struct sk_cand t = *a;
    *a = *b;
    *b = t;
}

/* Puts what is before a pivot in front of it and returns the pivot's place. */
static uint32_t partition(struct sk_cand *c, uint32_t lo, uint32_t hi)
{
    struct sk_cand *a = &c[lo], *b = &c[lo + (hi - lo) / 2], *last = &c[hi - 1];
    struct sk_cand *median = before(a, b) == before(b, last) ? b : before(b, a) == before(a, last) ? a : last;
    swap(median, last);
    for (uint32_t i = lo; i < hi - 1; i++) {
        if (before(&c[i], last))
            swap(&c[i], &c[lo++]);
    }
    swap(&c[lo], last);
    return lo;
}

/* Keeps the first candidates by falling key, ties by rising id: as few as reach n_keep in number or `need` in weight,
 * but one at least. A quickselect (Hoare, 1961) that turns by weight as well as by rank: what is kept need not be
 * sorted, and the tail of a vocabulary must not be. [0, lo) are kept and not enough, [0, hi) are enough. */
static uint32_t keep_first(struct sk_cand *c, uint32_t n, uint32_t n_keep, double need)
{
    uint32_t lo = 0, hi = n;
    double sum = 0;
    need = need > 1 ? need : 1;
    while (hi > lo + 1) {
        uint32_t mid = partition(c, lo, hi);
        double part = mass(c + lo, mid - lo);
        if (mid > 0 && (mid >= n_keep || sum + part >= need)) {
            hi = mid;
        } else if (mid + 1 >= n_keep || sum + part + c[mid].w >= need) {
            hi = mid + 1;
            break;
        } else {
            sum += part + c[mid].w;
            lo = mid + 1;
        }
    }
    return hi;
}

/* Keeps what weighs at least `floor`, and what weighs most whatever it weighs. */
static uint32_t keep_above(struct sk_cand *c, uint32_t n, float floor)
{
    float most = 0;
    uint32_t n_kept = 0;
    for (uint32_t i = 0; i < n; i++)
        most = c[i].w > most ? c[i].w : most;
    for (uint32_t i = 0; i < n; i++) {
        if (c[i].w >= (floor < most ? floor : most))
            c[n_kept++] = c[i];
    }
    return n_kept;
}

/* Locally typical sampling (Meister et al., 2022): by how near a token's surprise is to the entropy. Both are taken
 * less the surprise of the most probable. */
static uint32_t keep_typical(struct sk_cand *c, uint32_t n, float p, float max)
{
    const double total = mass(c, n);
    const float typical = (float)(spread(c, n, max) / total);
    for (uint32_t i = 0; i < n; i++)
        c[i].key = -fabsf(max - c[i].z - typical);
    return keep_first(c, n, n, p * total);
}

/* Hewitt et al., "Truncation sampling as language model desmoothing", 2022. */
float sk_sample_eta_floor(float eta, double mass_, double spread_)
{
    const float entropy = sk_fm_log((float)(mass_ / SK_CAND_UNIT)) + (float)(spread_ / mass_);
    const float soft = sqrtf(eta) * sk_fm_exp(-entropy);
    return (float)((double)(eta < soft ? eta : soft) * mass_);
}

uint32_t sk_sample_filter(const struct sk_samp *s, const float *row, uint32_t n_vocab, struct sk_cand *cand)
{
    uint32_t n = 0;
    for (uint32_t id = 0; id < n_vocab; id++) {
        float z = row[id] / s->temperature;
        cand[n] = (struct sk_cand){.id = (int32_t)id, .z = z, .key = z};
        n += z > -INFINITY; /* no for NaN */
    }
    if (s->top_k > 0 && (uint32_t)s->top_k < n)
        n = keep_first(cand, n, (uint32_t)s->top_k, INFINITY);

    const float max = max_z(cand, n);
    for (uint32_t i = 0; i < n; i++)
        cand[i].w = sk_sample_weight(max - cand[i].z);
    if (s->top_p < 1)
        n = keep_first(cand, n, n, s->top_p * mass(cand, n));
    if (s->min_p > 0)
        n = keep_above(cand, n, s->min_p * SK_CAND_UNIT);
    if (s->typical_p < 1)
        n = keep_typical(cand, n, s->typical_p, max);
    if (s->epsilon_cutoff > 0)
        n = keep_above(cand, n, (float)(s->epsilon_cutoff * mass(cand, n)));
    if (s->eta_cutoff > 0)
        n = keep_above(cand, n, sk_sample_eta_floor(s->eta_cutoff, mass(cand, n), spread(cand, n, max)));
    return n;
}

void sk_sample_gumbel(const struct sk_samp *s, uint32_t quad, float ret_g[4])
{
    const uint32_t key[2] = {(uint32_t)s->seed, (uint32_t)(s->seed >> 32)};
    const uint32_t ctr[4] = {quad, s->pos, s->choice, 0};
    uint32_t word[4];
    sk_philox(key, ctr, word);
    for (int i = 0; i < 4; i++)
        ret_g[i] = -sk_fm_log(-sk_fm_log(((float)(int32_t)(word[i] >> 9) + 0.5f) * 0x1p-23f));
}

/* Gumbel-max (Maddison et al., "A* sampling", 2014). A candidate that even the largest noise would not lift to the best
 * so far needs none. */
int32_t sk_sample_draw(const struct sk_samp *s, const struct sk_cand *c, uint32_t n)
{
    const float max = max_z(c, n);
    float best = max + SK_GUMBEL_MIN, g[4];
    int32_t id = -1;
    uint32_t quad = UINT32_MAX;
    for (uint32_t i = 0; i < n; i++) {
        if (c[i].z + SK_GUMBEL_MAX < best)
            continue;
        if ((uint32_t)c[i].id / 4 != quad) {
            quad = (uint32_t)c[i].id / 4;
            sk_sample_gumbel(s, quad, g);
        }
        float v = c[i].z + g[c[i].id % 4];
        if (v > best || (v == best && (id < 0 || c[i].id < id))) {
            best = v;
            id = c[i].id;
        }
    }
    return id < 0 ? 0 : id;
}

static int32_t argmax(const float *row, uint32_t n)
{
    float max = -INFINITY;
    int32_t id = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (row[i] > max) {
            max = row[i];
            id = (int32_t)i;
        }
    }
    return id;
}

int32_t sk_sample_row(const struct sk_samp *s, const float *row, uint32_t n_vocab, struct sk_cand *cand)
{
    if (s->flags & SK_SAMP_GREEDY)
        return argmax(row, n_vocab);
    return sk_sample_draw(s, cand, sk_sample_filter(s, row, n_vocab, cand));
}

void sk_ref_sample(struct sk_backend *be, const struct sk_op_logits *op)
{
    const struct sk_samp *samp = sk_ref_ptr(op->samp);
    struct sk_result_row *result = sk_ref_ptr(op->result);
    struct sk_cand *cand = sk_ref_scratch(be, op->n_vocab * sizeof *cand);
    if (cand == NULL)
        return;
    for (uint32_t r = 0; r < op->n_row; r++) {
        const struct sk_samp *s = &samp[r];
        const float *row =
            (const float *)sk_ref_ptr(s->flags & SK_SAMP_PROCESS ? op->work : op->logits) + (size_t)r * op->ld;
        int32_t *token = (int32_t *)sk_ref_ptr(op->token) + (size_t)s->slot * op->max_len + s->pos;
        if (!(s->flags & SK_SAMP_TARGET))
            *token = sk_sample_row(s, row, op->n_vocab, cand);
        result[r] = (struct sk_result_row){.id = *token};
    }
}
