/* How fast an engine is, from its STATS: a step takes base_us and row_us for each of its rows. Means over about
 * the last second of its work; what is not measured yet is 0. Private to server/job. Owner: loop thread. */
#ifndef SK_PACE_H
#define SK_PACE_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/wire/wire.h"

struct sk_pace {
    double base_us, row_us;
    double n_end, end_us; /* sequences that ended in so much work */
    double cached;        /* share of prompt tokens that the prefix cache has, 0 to 1 */
    bool has_step, has_row;
};

/* What the engine did in between two STATS (counters only), in which n_end sequences ended. */
void sk_pace_take(struct sk_pace *p, const struct sk_wire_stats *delta, uint32_t n_end);
bool sk_pace_is_known(const struct sk_pace *p);
double sk_pace_step_us(const struct sk_pace *p, uint32_t n_row);
/* Until n_tok prompt tokens are computed, max_step_tok in a step, beside n_row rows of others. */
double sk_pace_fill_us(const struct sk_pace *p, double n_tok, uint32_t n_row, uint32_t max_step_tok);
/* Until n sequences have ended; 0 while not measured. */
double sk_pace_drain_us(const struct sk_pace *p, double n);
/* Nobody is let in by what is believed, so nothing new would ever be measured: believe it less. */
void sk_pace_doubt(struct sk_pace *p);

#endif
