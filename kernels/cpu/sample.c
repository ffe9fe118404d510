/* Few tokens of a vocabulary can be drawn: a bound that is cheap to find and never too high leaves the others out, then
 * the filters of kernels/ref/sample.c go over the rest, each as a threshold on a key. */
#include "kernels/cpu/sample.h"

#include <math.h>

#include "kernels/ref/fmath.h"
#include "kernels/ref/sample.h"

enum {
    N_ARRAY = 6,  /* of struct sk_cpu_room */
    SAMPLE = 2048 /* logits that speak for a large vocabulary */
};

static size_t array_floats(uint32_t n_vocab)
{
    return SK_ALIGN16((size_t)n_vocab) + SK_CAND_PAD;
}

size_t sk_cpu_sample_bytes(uint32_t n_vocab)
{
    return N_ARRAY * array_floats(n_vocab) * sizeof(float);
}

struct sk_cpu_room sk_cpu_room(void *mem, uint32_t n_vocab)
{
    const size_t n = array_floats(n_vocab);
    float *at = mem;
    return (struct sk_cpu_room){
        .c = {.id = mem, .z = at + n, .w = at + 2 * n}, .key = at + 3 * n, .few = {.key = at + 4 * n, .w = at + 5 * n}};
}

struct threshold {
    float key;
    double missing; /* weight that is needed of those of that very key */
};

/* A key near the one at which the weights, by falling key, reach `share` of their sum, by a sample; on the side of it
 * that makes the larger part fall out if the sample is right. */
static float pivot_of(const struct sk_keys *k, double share)
{
    enum { N = 32 };
    float key[N], w[N];
    double sum = 0;

    for (uint32_t i = 0; i < N; i++) {
        const uint32_t from = (uint32_t)((uint64_t)k->n * (2 * i + 1) / (2 * N));
        uint32_t at = i;
        for (; at > 0 && key[at - 1] < k->key[from]; at--) {
            key[at] = key[at - 1];
            w[at] = w[at - 1];
        }
        key[at] = k->key[from];
        w[at] = k->w[from];
        sum += w[at];
    }
    sum *= share;
    uint32_t reached = 0;
    while (reached < N - 1 && (sum -= w[reached]) > 0)
        reached++;
    return key[reached > N / 2 ? reached - N / 8 : reached + N / 16];
}

/* Where the weights, by falling key, reach `need` > 0. Returns how many have that very key; 0 if `need` is not reached.
 * A quickselect (Hoare, 1961) by weight, which leaves `left` as it is. mass: of all of them, roughly. */
static uint32_t find(const struct sk_ktab *t, struct sk_cpu_room *room, struct sk_keys left, double need, double mass,
                     struct threshold *ret)
{
    while (left.n > 0) {
        const float pivot = pivot_of(&left, need / mass);
        const struct sk_cand_split part = t->split(&left, pivot);
        const bool above = part.above >= need;

        if (!above && part.above + part.equal >= need) {
            *ret = (struct threshold){pivot, need - part.above};
            return part.n_equal;
        }
        need -= above ? 0 : part.above + part.equal;
        mass = above ? part.above : mass - part.above - part.equal;
        t->narrow(&left, pivot, above, &room->few);
        left = room->few;
    }
    return 0;
}

/* Keeps the first candidates by falling key, ties by rising id: as few as reach `need` in `weight`, one at least; all
 * if they do not reach it. */
static void keep_first(const struct sk_ktab *t, struct sk_cpu_room *room, float *key, float *weight, double need,
                       double mass)
{
    struct threshold at;
    uint32_t last = room->c.n - 1;
    const uint32_t n_tie = find(t, room, (struct sk_keys){key, weight, room->c.n}, need > 1 ? need : 1, mass, &at);

    if (n_tie == 0)
        return;
    for (uint32_t i = 0; n_tie > 1 && i < last; i++) {
        at.missing -= key[i] == at.key ? weight[i] : 0;
        last = at.missing > 0 ? last : i;
    }
    t->keep(&room->c, key, at.key, last);
    room->mass = -1;
}

double sk_cpu_mass(const struct sk_ktab *t, struct sk_cpu_room *room)
{
    if (room->mass < 0)
        room->mass = t->weigh(&room->c);
    return room->mass;
}

static void keep_top_k(const struct sk_ktab *t, struct sk_cpu_room *room, uint32_t k)
{
    if (k >= room->c.n)
        return;
    for (uint32_t i = 0; i < room->c.n; i++)
        room->c.w[i] = 1;
    keep_first(t, room, room->c.z, room->c.w, k, room->c.n);
}

static void keep_top_p(const struct sk_ktab *t, struct sk_cpu_room *room, float p)
{
    const double mass = sk_cpu_mass(t, room);
    keep_first(t, room, room->c.z, room->c.w, p * mass, mass);
}

/* What weighs at least `floor`, and what weighs most whatever it weighs. */
static void keep_above(const struct sk_ktab *t, struct sk_cpu_room *room, float floor)
{
    sk_cpu_mass(t, room); /* there are weights */
    const float most = t->max(room->c.w, room->c.n);
    t->keep(&room->c, room->c.w, floor < most ? floor : most, room->c.n);
    room->mass = -1;
}

static void keep_typical(const struct sk_ktab *t, struct sk_cpu_room *room, float p)
{
    const struct sk_cands *c = &room->c;
    const double mass = sk_cpu_mass(t, room);
    const float typical = (float)(t->spread(c) / mass);

    for (uint32_t i = 0; i < c->n; i++)
        room->key[i] = -fabsf(c->max - c->z[i] - typical);
    keep_first(t, room, room->key, c->w, p * mass, mass);
}

static void keep_eta(const struct sk_ktab *t, struct sk_cpu_room *room, float eta)
{
    const double mass = sk_cpu_mass(t, room);
    keep_above(t, room, sk_sample_eta_floor(eta, mass, t->spread(&room->c)));
}

/* Do filters look at the weights of all that top_k and top_p leave? */
static bool weighs_the_rest(const struct sk_samp *s)
{
    return s->typical_p < 1 || s->epsilon_cutoff > 0 || s->eta_cutoff > 0;
}

/* The logarithm of a weight below which no filter keeps a token, or no noise lifts it to the best. What a filter leaves
 * may be cut short by the noise only if none after it adds it up. */
static float least_log_weight(const struct sk_samp *s, uint32_t n_vocab)
{
    float share = 0, least = -INFINITY;

    if (s->top_k > 0)
        share = 0;
    else if (s->top_p < 1) /* n tokens below (1 - top_p) / n weigh less than 1 - top_p together */
        share = (1 - s->top_p) / (float)n_vocab;
    else if (s->min_p > 0)
        share = s->min_p;
    else if (s->typical_p == 1)
        share = s->epsilon_cutoff;
    share -= 1 / SK_CAND_UNIT; /* weights are rounded */
    if (share > 0)
        least = sk_fm_log(share) - 0.01f;
    if (!weighs_the_rest(s) && (s->top_k == 0 || s->top_p == 1))
        least = fmaxf(least, SK_GUMBEL_MIN - SK_GUMBEL_MAX);
    return least;
}

/* A limit that at least k logits of the row exceed, and not many more; -INFINITY where the parts do not tell. By
 * bisection below the largest; the largest logits of k parts are k logits. */
static float reached_by(const struct sk_ktab *t, const float *row, uint32_t n, uint32_t k)
{
    float part[SK_PART_MAX];
    t->part_max(row, n, part);
    float high = t->max(part, SK_PART_MAX), low = high - 64;

    if (t->count_above(part, SK_PART_MAX, low) < k)
        return -INFINITY;
    for (int i = 0; i < 14; i++) {
        const float middle = (low + high) / 2;
        if (t->count_above(part, SK_PART_MAX, middle) >= k)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* A logit below which no token of a large vocabulary is likely to be in top_p: by a sample, those below it weigh half
 * as much as all that may be left out here. A single heavy token in the sample must not make the others look light. */
static float likely_limit(const struct sk_ktab *t, const struct sk_samp *s, const struct sk_logits_span *row,
                          uint32_t n_rank, struct sk_cpu_room *room)
{
    const struct sk_cands *c = &room->c;
    const double scale = (double)SAMPLE / row->n;
    double mass = 0, trimmed = 0;
    struct threshold at;

    t->take(row->x + (row->n - SAMPLE) / 2, SAMPLE, s->temperature, -INFINITY, &room->c, &mass);
    for (uint32_t i = 0; i < c->n; i++)
        trimmed += fminf(c->w[i], SK_CAND_UNIT / 16);
    const double spare = (1 - s->top_p) / 2 * fmax(trimmed, scale * SK_CAND_UNIT / n_rank);
    if (c->n == 0)
        return -INFINITY;
    if (mass <= spare)
        return t->max(c->z, c->n) * s->temperature;
    return find(t, room, (struct sk_keys){c->z, c->w, c->n}, mass - spare, mass, &at) > 0 ? at.key * s->temperature
                                                                                          : -INFINITY;
}

float sk_cpu_shortlist(const struct sk_ktab *t, const struct sk_samp *s, const struct sk_logits_span *row,
                       uint32_t n_rank, bool guess, struct sk_cpu_room *room)
{
    const float max = room->c.max * s->temperature; /* a rounding away from the largest logit */
    const float least = s->temperature * least_log_weight(s, n_rank * row->n) - fabsf(max) * 0x1p-20f;
    const float limit = max + least;
    const bool top_p = s->top_k == 0 && s->top_p < 1;
    const bool weigh = top_p || (s->top_k == 0 && s->min_p == 0 && weighs_the_rest(s));
    float likely = -INFINITY;

    room->c.first = (int32_t)row->first;
    if (s->top_k > 0 && s->top_k <= SK_PART_MAX)
        likely = reached_by(t, row->x, row->n, (uint32_t)s->top_k);
    else if (top_p && guess && row->n > 8 * SAMPLE)
        likely = likely_limit(t, s, row, n_rank, room);
    room->mass = -1;
    t->take(row->x, row->n, s->temperature, fmaxf(limit, likely), &room->c, weigh ? &room->mass : NULL);
    return top_p && likely > limit ? likely : -INFINITY;
}

static void filter(const struct sk_ktab *t, const struct sk_samp *s, struct sk_cpu_room *room)
{
    if (s->top_k > 0)
        keep_top_k(t, room, (uint32_t)s->top_k);
    if (s->top_p < 1)
        keep_top_p(t, room, s->top_p);
    if (s->min_p > 0)
        keep_above(t, room, s->min_p * SK_CAND_UNIT);
    if (s->typical_p < 1)
        keep_typical(t, room, s->typical_p);
    if (s->epsilon_cutoff > 0)
        keep_above(t, room, (float)(s->epsilon_cutoff * sk_cpu_mass(t, room)));
    if (s->eta_cutoff > 0)
        keep_eta(t, room, s->eta_cutoff);
}

int32_t sk_cpu_sample_row(const struct sk_ktab *t, const struct sk_samp *s, const struct sk_logits_span *row, void *mem)
{
    struct sk_cpu_room room = sk_cpu_room(mem, row->n);

    if (s->flags & SK_SAMP_GREEDY)
        return (int32_t)t->argmax(row->x, row->n);
    room.c.max = t->max(row->x, row->n) / s->temperature;
    if (!(fabsf(room.c.max) < SK_CPU_MAX_Z)) /* nothing to draw from, or no logits at all: as slow as rare */
        return sk_sample_row(s, row->x, row->n, mem);
    const bool guessed = sk_cpu_shortlist(t, s, row, 1, true, &room) > -INFINITY;
    if (guessed && t->weigh(&room.c) < s->top_p * room.mass)
        sk_cpu_shortlist(t, s, row, 1, false, &room);
    filter(t, s, &room);
    return t->draw(&room.c, t->max(room.c.z, room.c.n), s);
}
