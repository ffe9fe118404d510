/* The rounds of struct sk_op_vote, for backends whose memory is the host's: what ranks say, and what follows from what
 * all have said. A backend keeps candidates as it likes, does what struct sk_vote_todo asks for, and fills the
 * messages. As in sample.h, each function is one row's work. */
#ifndef SK_REF_VOTE_H
#define SK_REF_VOTE_H
#include <string.h>
#include "kernels/ref/sample.h"

/* Messages: what one rank says of one row. */
struct sk_vote_max {
    float z; /* -INFINITY: nothing can be drawn here */
    uint32_t zero;
};
struct sk_vote_digit {
    double weight[SK_VOTE_BUCKETS]; /* by rising distance (digit 0), by falling key (the others) */
    double n_whole; /* digit 0: buckets below this one hold all that is here; the rest of the row's weight
                       may lie in the last one */
};
struct sk_vote_sum {
    double mass, spread;
    float most; /* largest weight */
    uint32_t zero;
};
struct sk_vote_draw {
    int32_t id; /* -1: has nothing to say */
    float v;    /* z + noise; GREEDY: the logit; -INFINITY: nothing can be drawn here */
    float raw;  /* the id's raw logit */
    uint32_t zero;
};
struct sk_vote_rank {
    double sum_exp; /* of raw logits less the largest here */
    float max;
    uint32_t n_greater, n_top, zero;
    struct {
        int32_t id;
        float raw;
    } top[SK_MAX_TOP];
};

/* A threshold on keys: the candidates that come first by falling key, ties by rising id, and reach `need` in weight. */
struct sk_vote_cut {
    double need;
    double above;    /* weight that comes before what is left; in the end, the ties of lower ranks too */
    uint32_t coarse; /* digit 0: only candidates of that distance are left; SK_VOTE_ANY: all of them */
    uint32_t order;  /* the digits 1.. found so far: in the end sk_vote_order of the key */
    bool all;        /* there is not so much: all are kept */
    bool count;      /* each weighs 1 (top_k) */
};
enum { SK_VOTE_ANY = SK_VOTE_BUCKETS };

/* What is known of a row between its rounds, the same on all ranks but for the ties of lower ranks. */
struct sk_vote_row {
    float max;     /* the largest z */
    float typical; /* surprise, less that of the most probable */
    float raw;     /* raw logit of the token */
    struct sk_vote_cut cut;
};

/* What a backend does with its candidates before it says anything; in this order. */
struct sk_vote_todo {
    bool take;   /* begin with the candidates of this row, weights relative to `max` */
    bool retake; /* the cut's digit 0 told nothing: take again, leaving out only what can never be kept */
    bool cut;    /* keep what comes before the cut, and ties in the order of ids until it is reached */
    float floor; /* keep what weighs at least as much; 0: all */
};

static inline bool sk_vote_takes_part(const struct sk_samp *s, enum sk_vote_round round)
{
    return round != SK_VOTE_NONE && (sk_vote_rounds(s) >> round & 1) != 0;
}
/* Digit of a threshold that the round is about, *ret_first the round of its digit 0; -1: of none. */
int sk_vote_digit_of(enum sk_vote_round round, enum sk_vote_round *ret_first);
/* Takes in what all have said of row r in op->heard_round, in which the row took part. At DRAW and RANK it writes token
 * and result. */
struct sk_vote_todo sk_vote_hear(const struct sk_op_vote *op, uint32_t r, struct sk_vote_row *row);
/* Where this rank's message about row r goes. */
void *sk_vote_said(const struct sk_op_vote *op, uint32_t r);
/* The message of round DRAW: `id` is the best that this rank has, -1 that nothing can be drawn here; not looked at for
 * TARGET. */
void sk_vote_say_draw(const struct sk_op_vote *op, uint32_t r, int32_t id);
/* Row r, raw or processed. */
struct sk_logits_span sk_vote_logits(const struct sk_op_vote *op, uint32_t r, bool raw);

/* Bucket of digit 0 by the distance from the best possible key, >= 0; far ones and NaN share the last. */
static inline uint32_t sk_vote_bucket(float distance)
{
    const float x = distance * 16, last = SK_VOTE_BUCKETS - 1;
    return (uint32_t)(int32_t)(x < last ? x : last);
}
/* Rises as the key falls; equal for equal keys. Digits 1.. are its bytes, highest first. Floats are compared as
 * integers: magnitudes have the order of their bits, and + 0 makes -0 the 0 that it equals. */
static inline uint32_t sk_vote_order(float key)
{
    const float k = key + 0.0f;
    uint32_t bits;
    memcpy(&bits, &k, sizeof bits);
    return bits >> 31 ? bits : bits ^ 0x7fffffff;
}
static inline float sk_vote_key(uint32_t order)
{
    const uint32_t bits = order >> 31 ? order : order ^ 0x7fffffff;
    float key;
    memcpy(&key, &bits, sizeof key);
    return key;
}
/* Is a candidate left when digit `digit` is to be found, and in which bucket of it? -1: no. */
static inline int sk_vote_left(const struct sk_vote_cut *cut, int digit, float distance, float key)
{
    const uint32_t bucket = sk_vote_bucket(distance), order = sk_vote_order(key);
    if (digit == 0)
        return (int)bucket;
    const bool left = (cut->coarse == SK_VOTE_ANY || bucket == cut->coarse) &&
                      (digit == 1 || order >> (40 - 8 * digit) == cut->order);
    return left ? (int)(order >> (32 - 8 * digit) & 255) : -1;
}

/* A rank's part in plain C, over struct sk_cand. room: sk_ballot_bytes, 8-byte aligned, kept; it begins with the struct
 * sk_vote_row. */
size_t sk_ballot_bytes(uint32_t n_vocab);
void sk_ballot_do(const struct sk_op_vote *op, uint32_t r, const struct sk_vote_todo *todo, void *room);
void sk_ballot_say(const struct sk_op_vote *op, uint32_t r, void *room);

#endif
