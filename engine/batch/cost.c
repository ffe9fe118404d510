#include "engine/batch/cost.h"

#include <math.h>

#define KEEP      (1 - 1.0 / 64) /* of what is remembered, with each step */
#define FORGOTTEN 1e-100         /* sums below it say nothing: they lose digits to the end of double's range */
#define MAX_RATIO 2.0            /* a step counts as at most so far from what was foreseen, and at least 1 / that */
/* The spread rises with a step beyond it and falls with the others: it settles where one of twenty is beyond. */
#define RISE 0.019
#define FALL 0.001

enum {
    N_SWEEPS = 16,
    N_TRUSTED = 8 /* steps of a kind, before its forecasts say what an outlier is */
};

struct sk_cost_work sk_cost_no_work(void)
{
    return (struct sk_cost_work){.n = {[SK_COST_STEP] = 1}};
}

static double pairs(uint32_t pos, uint32_t n)
{
    return (double)n * pos + 0.5 * n * (n + 1.0);
}

void sk_cost_add(struct sk_cost_work *w, bool prompt_class, uint32_t pos, uint32_t n)
{
    w->n[prompt_class ? SK_COST_PROMPT_ROW : SK_COST_DECODE_ROW] += n;
    w->n[prompt_class ? SK_COST_PROMPT_PAIR : SK_COST_DECODE_PAIR] += pairs(pos, n);
}

void sk_cost_init(struct sk_cost *c, double prompt_row_us)
{
    *c = (struct sk_cost){.rate = {.us = {[SK_COST_PROMPT_ROW] = prompt_row_us}, .spread = 1}};
}

double sk_cost_us(const struct sk_cost_rate *r, const struct sk_cost_work *w)
{
    double us = 0;
    for (int i = 0; i < SK_COST_TERMS; i++)
        us += r->us[i] * w->n[i];
    return us;
}

/* Errors are relative, so that short steps count as much as long ones. */
static void remember(struct sk_cost_memory *m, const struct sk_cost_work *w, double us)
{
    for (int i = 0; i < SK_COST_TERMS; i++) {
        for (int k = 0; k < SK_COST_TERMS; k++)
            m->a[i][k] = KEEP * m->a[i][k] + w->n[i] * w->n[k] / (us * us);
        m->b[i] = KEEP * m->b[i] + w->n[i] / us;
    }
    m->n++;
}

/* Non-negative least squares by coordinate descent (Franc, Hlavac, Navara, CAIP 2005) from the rates so far: where the
 * steps leave several answers open (all have had 32 decode rows), that stays which is nearest. From nothing, rows come
 * before the step itself: so a first forecast says rather too much than too little of larger ones. */
static void fit(struct sk_cost *c)
{
    const struct sk_cost_memory *m = c->memory;
    double *us = c->rate.us;
    for (int sweep = 0; sweep < N_SWEEPS; sweep++)
        for (int i = 0; i < SK_COST_TERMS; i++) {
            double rest = m[0].b[i] + m[1].b[i], own = m[0].a[i][i] + m[1].a[i][i];
            if (own < FORGOTTEN)
                continue; /* or not met yet */
            for (int k = 0; k < SK_COST_TERMS; k++)
                rest -= k == i ? 0 : (m[0].a[i][k] + m[1].a[i][k]) * us[k];
            us[i] = fmax(rest / own, 0);
        }
}

/* Neighbours on the machine take the CPU away now and then: one such step must not tell the next ones' size. A machine
 * that has become slower is believed step by step. */
void sk_cost_learn(struct sk_cost *c, const struct sk_cost_work *w, double us)
{
    bool has_prompt = w->n[SK_COST_PROMPT_ROW] > 0;
    struct sk_cost_memory *m = &c->memory[has_prompt];
    double foreseen = sk_cost_us(&c->rate, w), *spread = &c->rate.spread;
    us = fmax(us, 1);
    if (m->n >= N_TRUSTED && foreseen > 0) {
        if (has_prompt)
            *spread = fmin(fmax(*spread + (us > *spread * foreseen ? RISE : -FALL), 1), SK_COST_MAX_SPREAD);
        us = fmin(fmax(us, foreseen / MAX_RATIO), foreseen * MAX_RATIO);
    }
    remember(m, w, us);
    fit(c);
}

/* n * row + pair * (n * pos + n * (n + 1) / 2) = us, solved for n in the form that bears pair = 0. */
uint32_t sk_cost_rows(const struct sk_cost_rate *r, bool prompt_class, uint32_t pos, double us, uint32_t max)
{
    double row = r->us[prompt_class ? SK_COST_PROMPT_ROW : SK_COST_DECODE_ROW];
    double pair = r->us[prompt_class ? SK_COST_PROMPT_PAIR : SK_COST_DECODE_PAIR];
    if (us <= 0)
        return 0;
    double first = row + pair * (pos + 0.5);
    double n = 2 * us / (first + sqrt(first * first + 2 * pair * us));
    return n < max ? (uint32_t)n : max; /* 1 / 0 = infinity: rows that take no time */
}
