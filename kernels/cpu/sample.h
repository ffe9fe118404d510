/* A token from a row of processed logits: kernels/ref's sk_sample_row, bit for bit, on vectors of candidates. */
#ifndef SK_CPU_SAMPLE_H
#define SK_CPU_SAMPLE_H
#include "kernels/cpu/ktab.h"

/* Bytes that one row of n_vocab logits needs to work in. */
size_t sk_cpu_sample_bytes(uint32_t n_vocab);
/* room: sk_cpu_sample_bytes, aligned as sk_malloc does. s is not SK_SAMP_TARGET. O(n_vocab). */
int32_t sk_cpu_sample_row(const struct sk_ktab *t, const struct sk_samp *s, const float *row, uint32_t n_vocab,
                          void *room);

#endif
