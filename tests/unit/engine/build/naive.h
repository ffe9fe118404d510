/* A decoder written straight from comm/dir/desc.h and dir.h, over weights read back row by row: what an engine
 * directory means, independent of kernels. For tests only; slow. */
#ifndef SK_TEST_NAIVE_H
#define SK_TEST_NAIVE_H
#include <stddef.h>
#include <stdint.h>
#include "comm/dir/dir.h"

/* Logits [n_vocab] at the last of n positions. */
void sk_naive_logits(const struct sk_desc *d, const struct sk_weights *w, const int32_t *ids, size_t n, float *ret);

#endif
