/* Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as
 * 1, 2, 3", SC 2011). No state: the same key and counter give the same bits on every backend. */
#ifndef SK_RNG_H
#define SK_RNG_H
#include <stddef.h>
#include <stdint.h>

void sk_philox(const uint32_t key[2], const uint32_t ctr[4], uint32_t out[4]);

/* Uniform in the open interval (0, 1) for (seed, choice, position, token id): the top 23 bits of a word,
 * (bits + 0.5) * 2^-23, which a float holds exactly. key = seed, low word first; counter = {token id / 4, position,
 * choice, 0}; the word is number token id % 4 of the output. */
float sk_rng_uniform(uint64_t seed, uint32_t choice, uint32_t pos, uint32_t token);

uint64_t sk_rng_seed(void); /* fresh, from the kernel; never 0 */

#endif
