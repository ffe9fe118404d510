/* What a step takes: a model of its time, linear in its work and fitted to the steps that were done.
 *
 *   us = STEP + PROMPT_ROW * rows + PROMPT_PAIR * pairs      of the prompt class
 *             + DECODE_ROW * rows + DECODE_PAIR * pairs      of the decode class
 *
 * A pair is one row that attends to one position (a window is not seen: what it saves makes pairs cheaper). The
 * scheduler sizes chunks with it (sched.h). Numbers only: no clock, no memory of its own. Owner: leader. */
#ifndef SK_COST_H
#define SK_COST_H
#include <stdbool.h>
#include <stdint.h>

enum sk_cost_term {
    SK_COST_PROMPT_ROW,
    SK_COST_PROMPT_PAIR,
    SK_COST_DECODE_ROW,
    SK_COST_DECODE_PAIR,
    SK_COST_STEP,
    SK_COST_TERMS
};

/* How much of each there is in a step; n[SK_COST_STEP] is 1. */
struct sk_cost_work {
    double n[SK_COST_TERMS];
};
/* What each takes; never negative. spread: how much longer than that most steps with prompt rows take at the most, from
 * 1 (as foreseen) to SK_COST_MAX_SPREAD. */
struct sk_cost_rate {
    double us[SK_COST_TERMS], spread;
};
enum { SK_COST_MAX_SPREAD = 2 };

/* Sums of the least squares over the steps of one kind, the older the less. */
struct sk_cost_memory {
    double a[SK_COST_TERMS][SK_COST_TERMS], b[SK_COST_TERMS];
    uint32_t n; /* steps */
};
struct sk_cost {
    struct sk_cost_rate rate;
    struct sk_cost_memory memory[2]; /* steps without and with rows of the prompt class: neither forgets the other */
};

struct sk_cost_work sk_cost_no_work(void); /* a step of no rows */
/* Adds rows pos .. pos + n - 1 of one class. */
void sk_cost_add(struct sk_cost_work *w, bool prompt_class, uint32_t pos, uint32_t n);

/* prompt_row_us: a first guess, which counts until there is a step to learn from. */
void sk_cost_init(struct sk_cost *c, double prompt_row_us);
/* A step of this work took so long. */
void sk_cost_learn(struct sk_cost *c, const struct sk_cost_work *w, double us);
/* What the step will take. */
double sk_cost_us(const struct sk_cost_rate *r, const struct sk_cost_work *w);
/* Rows of one class from position pos on that take at most `us` beside the rest of their step; at most max. */
uint32_t sk_cost_rows(const struct sk_cost_rate *r, bool prompt_class, uint32_t pos, double us, uint32_t max);

#endif
