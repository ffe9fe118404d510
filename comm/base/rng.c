#include "comm/base/rng.h"

#include <errno.h>
#include <sys/random.h>

#include "comm/base/err.h"

void sk_philox(const uint32_t key[2], const uint32_t ctr[4], uint32_t out[4])
{
    uint32_t k0 = key[0], k1 = key[1];
    uint32_t c0 = ctr[0], c1 = ctr[1], c2 = ctr[2], c3 = ctr[3];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53 * c0;
        uint64_t p1 = (uint64_t)0xCD9E8D57 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9; /* golden ratio */
        k1 += 0xBB67AE85; /* sqrt(3) - 1 */
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

float sk_rng_uniform(uint64_t seed, uint32_t choice, uint32_t pos, uint32_t token)
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    const uint32_t ctr[4] = {token / 4, pos, choice, 0};
    uint32_t out[4];
    sk_philox(key, ctr, out);
    /* One bit more and bits + 0.5 would round up to 2^24: a 1, whose Gumbel noise is infinite. */
    return ((float)(out[token % 4] >> 9) + 0.5f) * 0x1p-23f;
}

uint64_t sk_rng_seed(void)
{
    uint64_t seed = 0;
    while (seed == 0) {
        ssize_t n = getrandom(&seed, sizeof seed, 0);
        sk_assert(n == sizeof seed || (n < 0 && errno == EINTR)); /* up to 256 bytes come whole */
        if (n < 0)
            seed = 0;
    }
    return seed;
}
