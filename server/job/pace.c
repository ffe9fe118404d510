#include "server/job/pace.h"

#include <math.h>

#define MEMORY_US   1e6  /* of work that a mean is over */
#define ENDS_US     1e7  /* likewise, for ends of sequences, which are rare */
#define MEMORY_TOK  4096 /* likewise, of prompt tokens looked up */
#define DOUBT       0.9
#define LEAST_SHARE 0.05 /* of a step's time that its rows take at least, whatever base_us says */

static void blend(double *mean, double value, double weight)
{
    *mean += (value - *mean) * weight;
}

/* A row of a prompt and one of an answer are alike to the model. Intervals with many rows in a step tell what a row
 * costs, those with few what a step does; each takes the other as known. */
static void take_rows(struct sk_pace *p, double busy_us, double n_step, double n_row, double weight)
{
    double us = (busy_us - n_step * p->base_us) / n_row, least_us = LEAST_SHARE * busy_us / n_row;
    blend(&p->row_us, us > least_us ? us : least_us, p->has_row ? weight : 1);
    p->has_row = true;
}

static void take_steps(struct sk_pace *p, double busy_us, double n_step, double n_row, double weight)
{
    double us = (busy_us - n_row * p->row_us) / n_step;
    blend(&p->base_us, us > 0 ? us : 0, p->has_step ? weight : 1);
    p->has_step = true;
}

void sk_pace_take(struct sk_pace *p, const struct sk_wire_stats *delta, uint32_t n_end)
{
    double busy_us = (double)delta->busy_us, n_step = (double)delta->steps;
    double n_row = (double)delta->prompt_tok + (double)delta->decode_tok, looked = (double)delta->cache_query_tok;
    if (looked > 0)
        blend(&p->cached, (double)delta->cache_hit_tok / looked, looked / (looked + MEMORY_TOK));
    if (busy_us <= 0 || n_step <= 0 || n_row <= 0)
        return;
    double weight = busy_us / (busy_us + MEMORY_US);
    double keep = ENDS_US / (busy_us + ENDS_US);
    p->n_end = p->n_end * keep + n_end;
    p->end_us = p->end_us * keep + busy_us;
    if (delta->prompt_tok > delta->decode_tok)
        take_rows(p, busy_us, n_step, n_row, weight);
    else
        take_steps(p, busy_us, n_step, n_row, weight);
}

bool sk_pace_is_known(const struct sk_pace *p)
{
    return p->has_row && p->has_step;
}

double sk_pace_step_us(const struct sk_pace *p, uint32_t n_row)
{
    return p->base_us + p->row_us * n_row;
}

double sk_pace_fill_us(const struct sk_pace *p, double n_tok, uint32_t n_row, uint32_t max_step_tok, double itl_us)
{
    double others_us = sk_pace_step_us(p, n_row), room = max_step_tok > n_row ? max_step_tok - n_row : 1;
    if (n_row > 0) {
        double us = itl_us > 0 ? itl_us : fmax(2 * others_us, SK_PACE_LEAST_TARGET_US);
        room = fmin(room, fmax((us - others_us) / p->row_us, SK_PACE_LEAST_CHUNK));
    }
    return n_tok * p->row_us + ceil(n_tok / room) * others_us;
}

double sk_pace_drain_us(const struct sk_pace *p, double n)
{
    return p->n_end > 0 ? n * p->end_us / p->n_end : 0;
}

void sk_pace_doubt(struct sk_pace *p)
{
    p->base_us *= DOUBT;
    p->row_us *= DOUBT;
    p->end_us *= DOUBT;
}
