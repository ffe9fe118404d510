/* What mock_engine tells a load generator, in a file that both map (SKEIN_MOCK_TIMES): when each step's frame was
 * handed to the daemon, and with which step the sequence of a given seed began. So the k-th token of the request with
 * seed s was emitted at emitted_ns[(first_step[s] + k) % MOCK_MAX_STEPS]. */
#ifndef MOCK_TIMES_H
#define MOCK_TIMES_H
#include <stdint.h>

enum { MOCK_MAX_STEPS = 1 << 16, MOCK_MAX_SEEDS = 1 << 17 };

struct mock_times {
    _Atomic uint64_t emitted_ns[MOCK_MAX_STEPS]; /* sk_clock_ns */
    _Atomic uint64_t first_step[MOCK_MAX_SEEDS]; /* 0 = none */
};

#endif
