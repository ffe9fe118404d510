#include "comm/base/clock.h"

#include <stdatomic.h>
#include <time.h>

static atomic_uint_fast64_t held_us; /* 0: the real clock */

uint64_t sk_clock_us(void)
{
    return sk_clock_ns() / 1000;
}

uint64_t sk_clock_ns(void)
{
    uint64_t us = atomic_load_explicit(&held_us, memory_order_relaxed);
    if (us)
        return us * 1000;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

int64_t sk_clock_unix(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec;
}

void sk_clock_set(uint64_t us)
{
    atomic_store_explicit(&held_us, us, memory_order_relaxed);
}
