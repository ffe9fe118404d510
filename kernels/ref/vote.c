#include "kernels/ref/vote.h"

#include <math.h>

#include "kernels/ref/ref.h"

static uint32_t cut_rounds(enum sk_vote_round first)
{
    return ((1u << SK_VOTE_DIGITS) - 1) << first;
}

uint32_t sk_vote_rounds(const struct sk_samp *s)
{
    uint32_t filters = 0;
    if (!(s->flags & (SK_SAMP_GREEDY | SK_SAMP_TARGET))) {
        filters |= s->top_k > 0 ? cut_rounds(SK_VOTE_TOP_K) : 0;
        filters |= s->top_p < 1 ? cut_rounds(SK_VOTE_TOP_P) : 0;
        filters |= s->typical_p < 1 ? 1u << SK_VOTE_TYPICAL_SUM | cut_rounds(SK_VOTE_TYPICAL) : 0;
        filters |= s->epsilon_cutoff > 0 ? 1u << SK_VOTE_EPSILON_SUM : 0;
        filters |= s->eta_cutoff > 0 ? 1u << SK_VOTE_ETA_SUM : 0;
        filters |= filters != 0 || s->min_p > 0 ? 1u << SK_VOTE_MAX : 0;
    }
    return filters | 1u << SK_VOTE_DRAW | (s->flags & SK_SAMP_LOGPROB ? 1u << SK_VOTE_RANK : 0);
}

int sk_vote_digit_of(enum sk_vote_round round, enum sk_vote_round *ret_first)
{
    static const enum sk_vote_round cuts[] = {SK_VOTE_TOP_K, SK_VOTE_TOP_P, SK_VOTE_TYPICAL};
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        if (round >= cuts[i] && round < cuts[i] + SK_VOTE_DIGITS) {
            *ret_first = cuts[i];
            return (int)(round - cuts[i]);
        }
    }
    return -1;
}

static size_t message_bytes(enum sk_vote_round round)
{
    switch (round) {
    case SK_VOTE_MAX:
        return sizeof(struct sk_vote_max);
    case SK_VOTE_TYPICAL_SUM:
    case SK_VOTE_EPSILON_SUM:
    case SK_VOTE_ETA_SUM:
        return sizeof(struct sk_vote_sum);
    case SK_VOTE_DRAW:
        return sizeof(struct sk_vote_draw);
    case SK_VOTE_RANK:
        return sizeof(struct sk_vote_rank);
    case SK_VOTE_NONE:
        return 0;
    default:
        return sizeof(struct sk_vote_digit);
    }
}

uint32_t sk_vote_words(enum sk_vote_round round)
{
    return (uint32_t)(message_bytes(round) / sizeof(uint32_t));
}

static const void *heard_from(const struct sk_op_vote *op, uint32_t rank, uint32_t r)
{
    const size_t at = (size_t)rank * op->logits->n_row + r;
    return (const char *)sk_ref_ptr(op->heard) + at * message_bytes(op->heard_round);
}

void *sk_vote_said(const struct sk_op_vote *op, uint32_t r)
{
    return (char *)sk_ref_ptr(op->said) + r * message_bytes(op->said_round);
}

struct sk_logits_span sk_vote_logits(const struct sk_op_vote *op, uint32_t r, bool raw)
{
    const struct sk_op_logits *l = op->logits;
    const struct sk_samp *s = (const struct sk_samp *)sk_ref_ptr(l->samp) + r;
    float *rows = sk_ref_ptr(s->flags & SK_SAMP_PROCESS && !raw ? l->work : l->logits);
    return (struct sk_logits_span){rows + (size_t)r * l->ld, l->first, l->n_vocab};
}

void sk_vote_say_draw(const struct sk_op_vote *op, uint32_t r, int32_t id)
{
    const struct sk_op_logits *l = op->logits;
    const struct sk_samp *s = (const struct sk_samp *)sk_ref_ptr(l->samp) + r;
    const struct sk_logits_span row = sk_vote_logits(op, r, false), raw = sk_vote_logits(op, r, true);
    struct sk_vote_draw *ret = sk_vote_said(op, r);
    const bool target = s->flags & SK_SAMP_TARGET, none = id < 0 && !target;
    if (target)
        id = ((const int32_t *)sk_ref_ptr(l->token))[(size_t)s->slot * l->max_len + s->pos];
    const uint32_t at = none ? 0 : (uint32_t)id - row.first;

    if (at >= row.n) {
        *ret = (struct sk_vote_draw){.id = -1};
        return;
    }
    *ret = (struct sk_vote_draw){.id = (int32_t)(row.first + at), .v = none ? -INFINITY : row.x[at], .raw = raw.x[at]};
    if (!none && !(s->flags & (SK_SAMP_GREEDY | SK_SAMP_TARGET))) {
        float g[4];
        sk_sample_gumbel(s, (uint32_t)id / 4, g);
        ret->v = row.x[at] / s->temperature + g[id % 4];
    }
}

/* --- what follows from what was said --- */

static double need_of(const struct sk_op_vote *op, uint32_t r, const struct sk_samp *s)
{
    if (op->heard_round == SK_VOTE_TOP_K)
        return s->top_k;
    double mass = 0;
    for (uint32_t rank = 0; rank < op->n_rank; rank++) {
        const struct sk_vote_digit *m = heard_from(op, rank, r);
        for (uint32_t b = 0; b < SK_VOTE_BUCKETS; b++)
            mass += m->weight[b];
    }
    const double need = (op->heard_round == SK_VOTE_TOP_P ? s->top_p : s->typical_p) * mass;
    return need > 1 ? need : 1;
}

/* Goes on to the bucket in which `need` is reached; returns it, SK_VOTE_BUCKETS if it is in none. */
static uint32_t hear_buckets(const struct sk_op_vote *op, uint32_t r, struct sk_vote_cut *cut)
{
    for (uint32_t b = 0; b < SK_VOTE_BUCKETS; b++) {
        double sum = cut->above;
        for (uint32_t rank = 0; rank < op->n_rank; rank++)
            sum += ((const struct sk_vote_digit *)heard_from(op, rank, r))->weight[b];
        if (sum >= cut->need)
            return b;
        cut->above = sum;
    }
    cut->all = true;
    return SK_VOTE_BUCKETS;
}

/* Returns false if some rank had left out what the bucket should have. */
static bool hear_coarse(const struct sk_op_vote *op, uint32_t r, const struct sk_samp *s, struct sk_vote_cut *cut)
{
    *cut = (struct sk_vote_cut){.need = need_of(op, r, s), .count = op->heard_round == SK_VOTE_TOP_K};
    cut->coarse = hear_buckets(op, r, cut);
    for (uint32_t rank = 0; rank < op->n_rank && !cut->all; rank++) {
        if (cut->coarse >= ((const struct sk_vote_digit *)heard_from(op, rank, r))->n_whole) {
            cut->coarse = SK_VOTE_ANY;
            cut->above = 0;
            return false;
        }
    }
    return true;
}

static void hear_digit(const struct sk_op_vote *op, uint32_t r, struct sk_vote_cut *cut)
{
    if (!cut->all)
        cut->order = cut->order << 8 | (hear_buckets(op, r, cut) & 255);
}

/* Ties go to the lowest ids, and those are in the ranks before this one. */
static void leave_ties(const struct sk_op_vote *op, uint32_t r, struct sk_vote_cut *cut)
{
    for (uint32_t rank = 0; rank < op->rank; rank++)
        cut->above += ((const struct sk_vote_digit *)heard_from(op, rank, r))->weight[cut->order & 255];
}

static struct sk_vote_sum hear_sum(const struct sk_op_vote *op, uint32_t r)
{
    struct sk_vote_sum sum = {0};
    for (uint32_t rank = 0; rank < op->n_rank; rank++) {
        const struct sk_vote_sum *m = heard_from(op, rank, r);
        sum.mass += m->mass;
        sum.spread += m->spread;
        sum.most = m->most > sum.most ? m->most : sum.most;
    }
    return sum;
}

static float hear_max(const struct sk_op_vote *op, uint32_t r)
{
    float max = -INFINITY;
    for (uint32_t rank = 0; rank < op->n_rank; rank++) {
        const struct sk_vote_max *m = heard_from(op, rank, r);
        max = m->z > max ? m->z : max;
    }
    return max;
}

/* The first rank with an id stands for token 0, which is taken where all are barred. */
static void hear_draw(const struct sk_op_vote *op, uint32_t r, const struct sk_samp *s, struct sk_vote_row *row)
{
    const struct sk_op_logits *l = op->logits;
    int32_t *token = (int32_t *)sk_ref_ptr(l->token) + (size_t)s->slot * l->max_len + s->pos;
    const struct sk_vote_draw *best = heard_from(op, 0, r);
    for (uint32_t rank = 1; rank < op->n_rank; rank++) {
        const struct sk_vote_draw *m = heard_from(op, rank, r);
        if (m->id >= 0 && (best->id < 0 || m->v > best->v))
            best = m;
    }
    if (!(s->flags & SK_SAMP_TARGET))
        *token = best->id;
    row->raw = best->raw;
    ((struct sk_result_row *)sk_ref_ptr(l->result))[r] = (struct sk_result_row){.id = *token};
}

/* Puts an alternative in its place; those of a rank come in the order in which that rank lists them, so only a greater
 * logit passes one that is there. */
static uint32_t insert(struct sk_result_row *ret, uint32_t n, uint32_t n_top, int32_t id, float raw)
{
    if (n == n_top && (n == 0 || !(raw > ret->top[n - 1].logprob)))
        return n;
    uint32_t at = n < n_top ? n++ : n - 1;
    for (; at > 0 && raw > ret->top[at - 1].logprob; at--)
        ret->top[at] = ret->top[at - 1];
    ret->top[at].id = id;
    ret->top[at].logprob = raw;
    return n;
}

static double log_sum_exp(const struct sk_op_vote *op, uint32_t r)
{
    float max = -INFINITY;
    double sum = 0;
    for (uint32_t rank = 0; rank < op->n_rank; rank++) {
        const struct sk_vote_rank *m = heard_from(op, rank, r);
        max = m->max > max ? m->max : max;
    }
    for (uint32_t rank = 0; rank < op->n_rank; rank++) {
        const struct sk_vote_rank *m = heard_from(op, rank, r);
        sum += m->max > -INFINITY ? m->sum_exp * exp((double)m->max - max) : 0;
    }
    return max + log(sum);
}

static void hear_rank(const struct sk_op_vote *op, uint32_t r, const struct sk_samp *s, const struct sk_vote_row *row)
{
    struct sk_result_row *ret = (struct sk_result_row *)sk_ref_ptr(op->logits->result) + r;
    const uint32_t n_top = s->n_top < SK_MAX_TOP ? s->n_top : SK_MAX_TOP;
    const double lse = log_sum_exp(op, r);
    uint32_t n_greater = 0, n = 0;
    for (uint32_t rank = 0; rank < op->n_rank; rank++) {
        const struct sk_vote_rank *m = heard_from(op, rank, r);
        n_greater += m->n_greater;
        for (uint32_t i = 0; i < m->n_top; i++)
            n = insert(ret, n, n_top, m->top[i].id, m->top[i].raw);
    }
    ret->logprob = (float)(row->raw - lse);
    ret->rank = (int32_t)n_greater + 1;
    ret->n_top = n;
    for (uint32_t i = 0; i < n; i++)
        ret->top[i].logprob = (float)(ret->top[i].logprob - lse);
}

/* The round after which top_k and top_p have been, and min_p's turn comes: what weighs most is still there. */
static enum sk_vote_round before_min_p(const struct sk_samp *s)
{
    return s->top_p < 1   ? SK_VOTE_TOP_P + SK_VOTE_DIGITS - 1
           : s->top_k > 0 ? SK_VOTE_TOP_K + SK_VOTE_DIGITS - 1
                          : SK_VOTE_MAX;
}

static float least(float floor, float most)
{
    return floor < most ? floor : most; /* most, where floor is not a number */
}

struct sk_vote_todo sk_vote_hear(const struct sk_op_vote *op, uint32_t r, struct sk_vote_row *row)
{
    const struct sk_samp *s = (const struct sk_samp *)sk_ref_ptr(op->logits->samp) + r;
    struct sk_vote_todo todo = {0};
    enum sk_vote_round first;
    struct sk_vote_sum sum;
    const int digit = sk_vote_digit_of(op->heard_round, &first);

    if (digit == 0) {
        todo.retake = !hear_coarse(op, r, s, &row->cut);
    } else if (digit > 0) {
        hear_digit(op, r, &row->cut);
        todo.cut = digit == SK_VOTE_DIGITS - 1 && !row->cut.all;
        if (todo.cut)
            leave_ties(op, r, &row->cut);
    }
    switch (op->heard_round) {
    case SK_VOTE_MAX:
        row->max = hear_max(op, r);
        todo.take = true;
        break;
    case SK_VOTE_TYPICAL_SUM:
        sum = hear_sum(op, r);
        row->typical = (float)(sum.spread / sum.mass);
        break;
    case SK_VOTE_EPSILON_SUM:
        sum = hear_sum(op, r);
        todo.floor = least((float)(s->epsilon_cutoff * sum.mass), sum.most);
        break;
    case SK_VOTE_ETA_SUM:
        sum = hear_sum(op, r);
        todo.floor = least(sk_sample_eta_floor(s->eta_cutoff, sum.mass, sum.spread), sum.most);
        break;
    case SK_VOTE_DRAW:
        hear_draw(op, r, s, row);
        break;
    case SK_VOTE_RANK:
        hear_rank(op, r, s, row);
        break;
    default:
        break;
    }
    if (s->min_p > 0 && op->heard_round == before_min_p(s) && row->max < INFINITY)
        todo.floor = least(s->min_p * SK_CAND_UNIT, SK_CAND_UNIT);
    return todo;
}
