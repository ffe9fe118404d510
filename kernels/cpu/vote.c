/* A rank's part in the rounds of struct sk_op_vote: kernels/ref/ballot.c on vectors of candidates, and says the same. A
 * row is one item. Most rows are down to few candidates after the first round; what is left of them lies in the room
 * from round to round. */
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/sample.h"
#include "kernels/ref/vote.h"

struct job {
    struct sk_cpu *cpu;
    const struct sk_op_vote *op;
};

struct room {
    struct sk_vote_row row; /* first, as kernels/ref has it */
    struct sk_cpu_room r;
    float guessed; /* logits below it may wrongly be missing; -INFINITY: none is */
};

static size_t room_bytes(uint32_t n_vocab)
{
    const size_t bytes = ((sizeof(struct room) + 63) & ~(size_t)63) + sk_cpu_sample_bytes(n_vocab);
    const size_t ballot = sk_ballot_bytes(n_vocab);
    return ((bytes > ballot ? bytes : ballot) + 63) & ~(size_t)63;
}

static const struct sk_samp *samp_of(const struct sk_op_vote *op, uint32_t r)
{
    return (const struct sk_samp *)sk_cpu_ptr(op->logits->samp) + r;
}

static void take(const struct sk_ktab *t, const struct sk_op_vote *op, uint32_t r, bool guess, struct room *room)
{
    const struct sk_logits_span row = sk_vote_logits(op, r, false);
    char *arrays = (char *)room + ((sizeof *room + 63) & ~(size_t)63);
    room->r = sk_cpu_room(arrays, row.n);
    room->r.c.max = room->row.max;
    room->guessed = sk_cpu_shortlist(t, samp_of(op, r), &row, op->n_rank, guess, &room->r);
}

/* What is before the cut, and ties while what came before them does not reach it. `few` are those that share all digits
 * but the last. */
static void cut(const struct sk_ktab *t, const float *key, struct room *room)
{
    const struct sk_vote_cut *at = &room->row.cut;
    const struct sk_keys *few = &room->r.few;
    struct sk_cands *c = &room->r.c;
    const float limit = sk_vote_key(at->order);
    double sum = at->above, last_w = 0;

    for (uint32_t i = 0; i < few->n; i++) {
        last_w = few->key[i] == limit ? few->w[i] : last_w;
        sum += few->key[i] == limit ? few->w[i] : 0;
    }
    if (at->above >= at->need) {
        t->keep(c, key, sk_vote_key(at->order - 1), c->n); /* the next larger one: no tie is kept */
    } else if (sum - last_w < at->need) {
        t->keep(c, key, limit, c->n);
    } else {
        uint32_t last = 0;
        sum = at->above;
        for (uint32_t i = 0; sum < at->need; i++) {
            last = key[i] == limit ? i : last;
            sum += key[i] == limit ? (at->count ? 1 : c->w[i]) : 0;
        }
        t->keep(c, key, limit, last);
    }
    room->r.mass = -1;
}

static void keep_above(const struct sk_ktab *t, float floor, struct room *room)
{
    struct sk_cands *c = &room->r.c;
    sk_cpu_mass(t, &room->r); /* there are weights */
    t->keep(c, c->w, floor, c->n);
    room->r.mass = -1;
}

static void act(const struct sk_ktab *t, const struct sk_op_vote *op, uint32_t r, const struct sk_vote_todo *todo,
                struct room *room)
{
    if (todo->take || todo->retake)
        take(t, op, r, todo->take, room);
    if (todo->cut)
        cut(t, op->heard_round < SK_VOTE_TYPICAL ? room->r.c.z : room->r.key, room);
    if (todo->floor > 0)
        keep_above(t, todo->floor, room);
}

/* --- what is said --- */

static void set_typical_keys(struct room *room)
{
    const struct sk_cands *c = &room->r.c;
    for (uint32_t i = 0; i < c->n; i++)
        room->r.key[i] = -fabsf(c->max - c->z[i] - room->row.typical);
}

/* The candidates' keys at the first digits; 1 for each weight where they are counted. max: the best possible key. */
struct keys {
    struct sk_keys all;
    float max;
    bool count;
};

static struct keys keys_of(const struct room *room, enum sk_vote_round first)
{
    const struct sk_cands *c = &room->r.c;
    const bool typical = first == SK_VOTE_TYPICAL;
    return (struct keys){{typical ? room->r.key : c->z, c->w, c->n}, typical ? 0 : c->max, first == SK_VOTE_TOP_K};
}

/* Digit 0: adds up all; returns the sum. Neighbours are often of one bucket: they go to copies of it, since an addition
 * must not wait for the one before. */
static double say_coarse(const struct keys *k, double *weight)
{
    enum { N_COPY = 4 };
    double part[N_COPY][SK_VOTE_BUCKETS] = {0}, sum = 0;

    for (uint32_t i = 0; i < k->all.n; i++)
        part[i % N_COPY][sk_vote_bucket(k->max - k->all.key[i])] += k->count ? 1 : k->all.w[i];
    for (uint32_t b = 0; b < SK_VOTE_BUCKETS; b++) {
        weight[b] = part[0][b] + part[1][b] + part[2][b] + part[3][b];
        sum += weight[b];
    }
    return sum;
}

/* Most of what is not in the bucket of digit 0 goes by comparing keys. */
static void narrow(const struct sk_ktab *t, const struct keys *k, uint32_t bucket, struct sk_keys *few)
{
    const float margin = (fabsf(k->max) + 16) * 0x1p-20f;
    const float low = k->max - (float)(bucket + 1) / 16 - margin, high = k->max - (float)bucket / 16 + margin;

    t->narrow(&k->all, bucket < SK_VOTE_BUCKETS - 1 ? low : -INFINITY, true, few);
    if (bucket < SK_VOTE_ANY)
        t->narrow(few, high, false, few);
}

/* Digits 1..: adds up the keys that are left, and leaves them in `few`. */
static void say_digit(const struct sk_vote_cut *cut, const struct keys *k, int digit, struct sk_keys *few,
                      double *weight)
{
    const uint32_t n = few->n;

    memset(weight, 0, SK_VOTE_BUCKETS * sizeof *weight);
    few->n = 0;
    for (uint32_t i = 0; i < n; i++) {
        const float key = few->key[i], w = k->count ? 1 : few->w[i];
        const int bucket = sk_vote_left(cut, digit, k->max - key, key);
        if (bucket < 0)
            continue;
        few->key[few->n] = key;
        few->w[few->n++] = w;
        weight[bucket] += w;
    }
}

static void say_threshold(const struct sk_ktab *t, const struct sk_samp *s, enum sk_vote_round first, int digit,
                          struct room *room, struct sk_vote_digit *ret)
{
    const struct sk_vote_cut *cut = &room->row.cut;

    if (digit > 0) {
        const struct keys k = keys_of(room, first);
        if (digit == 1)
            narrow(t, &k, cut->coarse, &room->r.few);
        say_digit(cut, &k, digit, &room->r.few, ret->weight);
        return;
    }
    if (first == SK_VOTE_TYPICAL)
        set_typical_keys(room);
    const double mass = first == SK_VOTE_TOP_K ? 0 : sk_cpu_mass(t, &room->r); /* and there are weights */
    const struct keys k = keys_of(room, first);
    const double sum = say_coarse(&k, ret->weight);
    const bool guessed = room->guessed > -INFINITY && first == SK_VOTE_TOP_P;
    ret->weight[SK_VOTE_BUCKETS - 1] += k.count ? 0 : mass - sum; /* of those that were left out */
    ret->n_whole = guessed ? sk_vote_bucket(room->r.c.max - room->guessed / s->temperature) : SK_VOTE_BUCKETS;
}

static struct sk_vote_sum say_sum(const struct sk_ktab *t, struct room *room)
{
    const struct sk_cands *c = &room->r.c;
    const double mass = sk_cpu_mass(t, &room->r);
    return (struct sk_vote_sum){.mass = mass, .spread = t->spread(c), .most = c->n > 0 ? t->max(c->w, c->n) : 0};
}

static int32_t greatest(const struct sk_ktab *t, const struct sk_logits_span *row)
{
    const uint32_t at = t->argmax(row->x, row->n);
    return row->n > 0 && row->x[at] > -INFINITY ? (int32_t)(row->first + at) : -1;
}

static int32_t drawn(const struct sk_ktab *t, const struct sk_samp *s, const struct room *room)
{
    const struct sk_cands *c = &room->r.c;
    return c->n > 0 ? t->draw(c, t->max(c->z, c->n), s) : -1;
}

static void say_draw(const struct sk_ktab *t, const struct sk_op_vote *op, uint32_t r, struct room *room)
{
    const struct sk_samp *s = samp_of(op, r);
    const struct sk_logits_span row = sk_vote_logits(op, r, false);

    if (s->flags & SK_SAMP_TARGET) {
        sk_vote_say_draw(op, r, -1);
    } else if (s->flags & SK_SAMP_GREEDY) {
        sk_vote_say_draw(op, r, greatest(t, &row));
    } else if (sk_vote_takes_part(s, SK_VOTE_MAX)) {
        sk_vote_say_draw(op, r, drawn(t, s, room));
    } else {
        room->row.max = t->max(row.x, row.n) / s->temperature;
        if (!(fabsf(room->row.max) < SK_CPU_MAX_Z)) {
            sk_ballot_say(op, r, room);
            return;
        }
        take(t, op, r, true, room);
        sk_vote_say_draw(op, r, drawn(t, s, room));
    }
}

static void say_rank(const struct sk_ktab *t, const struct sk_op_vote *op, uint32_t r, float raw,
                     struct sk_vote_rank *ret)
{
    const struct sk_logits_span row = sk_vote_logits(op, r, true);
    const uint32_t n_top = samp_of(op, r)->n_top;
    int32_t at[SK_MAX_TOP];

    *ret = (struct sk_vote_rank){.max = t->max(row.x, row.n)};
    ret->n_greater = t->count_above(row.x, row.n, raw);
    ret->sum_exp = t->sum_exp(row.x, row.n, ret->max);
    ret->n_top = t->top(row.x, row.n, n_top < SK_MAX_TOP ? n_top : SK_MAX_TOP, at);
    for (uint32_t i = 0; i < ret->n_top; i++) {
        ret->top[i].id = (int32_t)row.first + at[i];
        ret->top[i].raw = row.x[at[i]];
    }
}

static void say(const struct sk_ktab *t, const struct sk_op_vote *op, uint32_t r, struct room *room)
{
    const struct sk_logits_span row = sk_vote_logits(op, r, false);
    enum sk_vote_round first;
    const int digit = sk_vote_digit_of(op->said_round, &first);

    if (digit >= 0) {
        if (digit == 0 || !room->row.cut.all)
            say_threshold(t, samp_of(op, r), first, digit, room, sk_vote_said(op, r));
        return;
    }
    switch (op->said_round) {
    case SK_VOTE_MAX:
        *(struct sk_vote_max *)sk_vote_said(op, r) =
            (struct sk_vote_max){.z = t->max(row.x, row.n) / samp_of(op, r)->temperature};
        break;
    case SK_VOTE_DRAW:
        say_draw(t, op, r, room);
        break;
    case SK_VOTE_RANK:
        say_rank(t, op, r, room->row.raw, sk_vote_said(op, r));
        break;
    default:
        *(struct sk_vote_sum *)sk_vote_said(op, r) = say_sum(t, room);
        break;
    }
}

/* Are there logits in the row that the kernels cannot do with? Known once the largest is. */
static bool extreme(const struct sk_op_vote *op, uint32_t r, const struct room *room)
{
    return sk_vote_takes_part(samp_of(op, r), SK_VOTE_MAX) && op->said_round != SK_VOTE_MAX &&
           op->said_round != SK_VOTE_RANK && !(fabsf(room->row.max) < SK_CPU_MAX_Z);
}

static void vote_item(void *ctx, uint32_t r, int worker)
{
    const struct job *job = ctx;
    const struct sk_op_vote *op = job->op;
    const struct sk_ktab *t = &job->cpu->k;
    const struct sk_samp *s = samp_of(op, r);
    struct room *room = (void *)((char *)sk_cpu_ptr(op->room) + r * room_bytes(op->logits->n_vocab));
    struct sk_vote_todo todo = {0};

    if (sk_vote_takes_part(s, op->heard_round))
        todo = sk_vote_hear(op, r, &room->row);
    const bool says = sk_vote_takes_part(s, op->said_round);
    if (extreme(op, r, room)) {
        sk_ballot_do(op, r, &todo, room);
        if (says)
            sk_ballot_say(op, r, room);
    } else {
        act(t, op, r, &todo, room);
        if (says)
            say(t, op, r, room);
    }
}

void sk_cpu_vote(struct sk_backend *be, const struct sk_op_vote *op)
{
    const struct sk_op_logits *l = op->logits;
    const bool all = op->heard_round == SK_VOTE_MAX || op->said_round == SK_VOTE_MAX ||
                     op->said_round == SK_VOTE_DRAW || op->said_round == SK_VOTE_RANK; /* logits are looked at */
    struct job job = {.cpu = be->ctx, .op = op};
    sk_cpu_run(be->ctx, l->n_row, (uint64_t)l->n_row * (all ? l->n_vocab : SK_VOTE_BUCKETS), vote_item, &job);
}

uint64_t sk_cpu_vote_bytes(const struct sk_backend *be, uint32_t n_row, uint32_t n_vocab)
{
    return n_row * (uint64_t)room_bytes(n_vocab);
}
