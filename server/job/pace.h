/* How fast an engine is, from its STATS: a step takes base_us and row_us for each of its rows. Means over about
 * the last second of its work; what is not measured yet is 0. Private to server/job. Owner: loop thread. */
#ifndef SK_PACE_H
#define SK_PACE_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/wire/wire.h"

/* As the engine sizes chunks of prompts beside answers: engine/batch/sched.h. */
enum { SK_PACE_LEAST_CHUNK = 32, SK_PACE_LEAST_TARGET_US = 25000 };

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
/* Until n_tok prompt tokens are computed beside n_row rows of others: with these, max_step_tok in a step, and no more
 * than let it end within itl_us (0 = automatic). */
double sk_pace_fill_us(const struct sk_pace *p, double n_tok, uint32_t n_row, uint32_t max_step_tok, double itl_us);
/* Until n sequences have ended; 0 while not measured. */
double sk_pace_drain_us(const struct sk_pace *p, double n);
/* Nobody is let in by what is believed, so nothing new would ever be measured: believe it less. */
void sk_pace_doubt(struct sk_pace *p);

#endif
