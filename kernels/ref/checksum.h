/* The checksum of 32-bit words w[0], w[1], ...: the sum of w[i] * sk_checksum_factor(i) in 64 bits. A factor is odd:
 * one changed word always shows. In 2^31 words no two factors are the same: two that changed places do, too. */
#ifndef SK_CHECKSUM_H
#define SK_CHECKSUM_H
#include <stdint.h>

#define SK_CHECKSUM_STEP 0x3c6ef362u /* from one factor to the next: twice an odd number */

static inline uint32_t sk_checksum_factor(uint64_t i)
{
    return (uint32_t)i * SK_CHECKSUM_STEP + 1;
}

#endif
