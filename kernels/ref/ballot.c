/* What one rank says of its logits, in plain loops: the filters of sample.c, each cut in two where it needs to know of
 * all candidates. */
#include <math.h>
#include <string.h>

#include "kernels/ref/ref.h"
#include "kernels/ref/vote.h"

struct room {
    struct sk_vote_row row;
    uint32_t n;
    struct sk_cand cand[]; /* in rising order of id */
};

size_t sk_ballot_bytes(uint32_t n_vocab)
{
    return (sizeof(struct room) + n_vocab * sizeof(struct sk_cand) + 63) & ~(size_t)63;
}

static const struct sk_samp *samp_of(const struct sk_op_vote *op, uint32_t r)
{
    return (const struct sk_samp *)sk_ref_ptr(op->logits->samp) + r;
}

static void take(struct room *room, struct sk_logits_span row, float temperature)
{
    room->n = 0;
    for (uint32_t i = 0; i < row.n; i++) {
        const float z = row.x[i] / temperature;
        room->cand[room->n] = (struct sk_cand){
            .id = (int32_t)(row.first + i), .z = z, .w = sk_sample_weight(room->row.max - z), .key = z};
        room->n += z > -INFINITY; /* no for NaN */
    }
}

static void cut(struct room *room)
{
    const struct sk_vote_cut *at = &room->row.cut;
    double sum = at->above;
    uint32_t n = 0;
    for (uint32_t i = 0; i < room->n; i++) {
        const struct sk_cand c = room->cand[i];
        const uint32_t order = sk_vote_order(c.key);
        const bool tie = order == at->order && sum < at->need;
        sum += tie ? (at->count ? 1 : c.w) : 0;
        if (tie || order < at->order)
            room->cand[n++] = c;
    }
    room->n = n;
}

static void keep_above(struct room *room, float floor)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < room->n; i++) {
        if (room->cand[i].w >= floor)
            room->cand[n++] = room->cand[i];
    }
    room->n = n;
}

void sk_ballot_do(const struct sk_op_vote *op, uint32_t r, const struct sk_vote_todo *todo, void *mem)
{
    struct room *room = mem;
    if (todo->take || todo->retake)
        take(room, sk_vote_logits(op, r, false), samp_of(op, r)->temperature);
    if (todo->cut)
        cut(room);
    if (todo->floor > 0)
        keep_above(room, todo->floor);
}

static struct sk_vote_max say_max(struct sk_logits_span row, float temperature)
{
    struct sk_vote_max ret = {.z = -INFINITY};
    for (uint32_t i = 0; i < row.n; i++) {
        const float z = row.x[i] / temperature;
        ret.z = z > ret.z ? z : ret.z;
    }
    return ret;
}

/* Digit 0 goes by the distance from the best possible key. */
static void say_digit(struct room *room, enum sk_vote_round first, int digit, struct sk_vote_digit *ret)
{
    const bool typical = first == SK_VOTE_TYPICAL;
    memset(ret, 0, sizeof *ret);
    ret->n_whole = SK_VOTE_BUCKETS;
    for (uint32_t i = 0; i < room->n; i++) {
        struct sk_cand *c = &room->cand[i];
        const float surprise = room->row.max - c->z;
        if (typical && digit == 0)
            c->key = -fabsf(surprise - room->row.typical);
        const int bucket = sk_vote_left(&room->row.cut, digit, typical ? -c->key : surprise, c->key);
        if (bucket >= 0)
            ret->weight[bucket] += first == SK_VOTE_TOP_K ? 1 : c->w;
    }
}

static struct sk_vote_sum say_sum(const struct room *room)
{
    struct sk_vote_sum ret = {0};
    for (uint32_t i = 0; i < room->n; i++) {
        const struct sk_cand *c = &room->cand[i];
        ret.mass += c->w;
        ret.spread += sk_sample_spread(c->w, room->row.max - c->z);
        ret.most = c->w > ret.most ? c->w : ret.most;
    }
    return ret;
}

static int32_t greatest(struct sk_logits_span row)
{
    float max = -INFINITY;
    int32_t id = -1;
    for (uint32_t i = 0; i < row.n; i++) {
        if (row.x[i] > max) {
            max = row.x[i];
            id = (int32_t)(row.first + i);
        }
    }
    return id;
}

static void say_draw(const struct sk_op_vote *op, uint32_t r, struct room *room)
{
    const struct sk_samp *s = samp_of(op, r);
    const struct sk_logits_span row = sk_vote_logits(op, r, false);
    if (s->flags & (SK_SAMP_GREEDY | SK_SAMP_TARGET)) {
        sk_vote_say_draw(op, r, greatest(row));
        return;
    }
    if (!sk_vote_takes_part(s, SK_VOTE_MAX))
        take(room, row, s->temperature);
    sk_vote_say_draw(op, r, room->n > 0 ? sk_sample_draw(s, room->cand, room->n) : -1);
}

static void say_rank(const struct sk_op_vote *op, uint32_t r, float raw, struct sk_vote_rank *ret)
{
    const struct sk_logits_span row = sk_vote_logits(op, r, true);
    const uint32_t n_top = samp_of(op, r)->n_top;
    uint32_t at[SK_MAX_TOP];
    *ret = (struct sk_vote_rank){.max = -INFINITY};
    for (uint32_t i = 0; i < row.n; i++) {
        ret->max = row.x[i] > ret->max ? row.x[i] : ret->max;
        ret->n_greater += row.x[i] > raw;
    }
    ret->sum_exp = sk_topn_sum_exp(row.x, row.n, ret->max);
    ret->n_top = sk_topn_largest(row.x, row.n, n_top < SK_MAX_TOP ? n_top : SK_MAX_TOP, at);
    for (uint32_t i = 0; i < ret->n_top; i++) {
        ret->top[i].id = (int32_t)(row.first + at[i]);
        ret->top[i].raw = row.x[at[i]];
    }
}

void sk_ballot_say(const struct sk_op_vote *op, uint32_t r, void *mem)
{
    struct room *room = mem;
    enum sk_vote_round first;
    const int digit = sk_vote_digit_of(op->said_round, &first);

    if (digit >= 0) {
        say_digit(room, first, digit, sk_vote_said(op, r));
        return;
    }
    switch (op->said_round) {
    case SK_VOTE_MAX:
        *(struct sk_vote_max *)sk_vote_said(op, r) = say_max(sk_vote_logits(op, r, false), samp_of(op, r)->temperature);
        break;
    case SK_VOTE_DRAW:
        say_draw(op, r, room);
        break;
    case SK_VOTE_RANK:
        say_rank(op, r, room->row.raw, sk_vote_said(op, r));
        break;
    default:
        *(struct sk_vote_sum *)sk_vote_said(op, r) = say_sum(room);
        break;
    }
}

uint64_t sk_ref_vote_bytes(const struct sk_backend *be, uint32_t n_row, uint32_t n_vocab)
{
    return n_row * (uint64_t)sk_ballot_bytes(n_vocab);
}

void sk_ref_vote(struct sk_backend *be, const struct sk_op_vote *op)
{
    for (uint32_t r = 0; r < op->logits->n_row; r++) {
        struct room *room = (void *)((char *)sk_ref_ptr(op->room) + r * sk_ballot_bytes(op->logits->n_vocab));
        if (sk_vote_takes_part(samp_of(op, r), op->heard_round)) {
            const struct sk_vote_todo todo = sk_vote_hear(op, r, &room->row);
            sk_ballot_do(op, r, &todo, room);
        }
        if (sk_vote_takes_part(samp_of(op, r), op->said_round))
            sk_ballot_say(op, r, room);
    }
}
