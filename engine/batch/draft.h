/* Speculative decoding: which sequences of a step draft, and how many tokens. What is drafted comes from lookup.h; a
 * draft row is one more row of a decode run, and whatever is drafted, the tokens drawn are the same (engine/model/
 * step.c says why): these decisions are about time only.
 *
 * A draft row takes time and brings a token with the probability that it and all before it are right. It is added as
 * long as it brings more tokens for its time than the step without it: so a lone sequence, whose row costs little
 * beside the weights that are read anyway, drafts far, and in a large batch, where each row costs its share, nobody
 * does. What a row takes is the cost model's word (cost.h), how likely it is right the sequence's own record; one whose
 * drafts fail asks for longer matches, then stops, and tries again after a while, which doubles. Where all steps were
 * of one size the model cannot tell rows from steps: then a few drafts are made, ever more rarely, whatever they are
 * said to take. */
#ifndef SK_DRAFT_H
#define SK_DRAFT_H
#include <stdbool.h>
#include <stdint.h>

enum {
    SK_DRAFT_MAX = 32,       /* tokens of one draft */
    SK_DRAFT_MAX_WAIT = 64,  /* steps of a sequence between two tries */
    SK_DRAFT_MAX_GAP = 1024, /* steps between two that find out what rows take */
    SK_DRAFT_ROW_PART = 4    /* draft rows take at most a quarter of a step's */
};

struct sk_draft_conf {
    uint32_t max; /* tokens of one draft, <= SK_DRAFT_MAX; 0 = nothing is drafted */
    bool always;  /* as many as there are, whatever they take and however often they fail: for tests */
};

/* A sequence's record. */
struct sk_draft_pace {
    float rate;      /* share of drafted tokens that were right, the older the less; 0 = nothing was drafted yet */
    uint32_t n_miss; /* drafts in a row of which no token was right */
    uint32_t wait;   /* steps until it drafts again */
};
/* Of all sequences: when rows were drafted to find out what they take. */
struct sk_draft_probe {
    uint64_t next_step;
    uint32_t gap; /* steps from one to the next */
};

/* How likely is a drafted token right, when those before it are? */
float sk_draft_rate(const struct sk_draft_pace *p);
/* Of n drafted tokens the first n_right were right. */
void sk_draft_learn(struct sk_draft_pace *p, uint32_t n, uint32_t n_right);

struct sk_loop;
/* Between the decisions of a step and its plan: lengthens its decode runs by drafts (in sk_seq.draft), as far as rows
 * and blocks are left over. Blocks that they need are taken. */
void sk_draft_extend(struct sk_loop *l);

#endif
