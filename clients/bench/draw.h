/* Random numbers of a benchmark: streams that a seed, a purpose and a number name, so that the load is the same at
 * every run whatever the timing. */
#ifndef SK_DRAW_H
#define SK_DRAW_H
#include <stdint.h>

enum sk_draw_what { SK_DRAW_GAP, SK_DRAW_ASK, SK_DRAW_PREFIX, SK_DRAW_KEEP };

struct sk_draw {
    uint64_t seed;
    uint32_t what, n; /* which stream, and numbers drawn so far */
    uint64_t index;
};

void sk_draw_init(struct sk_draw *d, uint64_t seed, enum sk_draw_what what, uint64_t index);
uint64_t sk_draw_bits(struct sk_draw *d);
double sk_draw_uniform(struct sk_draw *d);             /* open interval (0, 1) */
uint64_t sk_draw_below(struct sk_draw *d, uint64_t n); /* 0..n-1, n > 0 (Lemire 2019 without its last, unfelt step) */
double sk_draw_exp(struct sk_draw *d);                 /* mean 1 */
double sk_draw_normal(struct sk_draw *d);              /* mean 0, deviation 1 (Box and Muller 1958) */
double sk_draw_gamma(struct sk_draw *d, double shape); /* mean `shape`, scale 1 (Marsaglia and Tsang 2000) */

#endif
