/* A token from a row of processed logits: kernels/ref's sk_sample_row, bit for bit, on vectors of candidates. */
#ifndef SK_CPU_SAMPLE_H
#define SK_CPU_SAMPLE_H
#include "kernels/cpu/ktab.h"
#include "kernels/ref/sample.h"

/* What one row needs to work in. */
struct sk_cpu_room {
    struct sk_cands c;
    double mass;        /* sum of their weights; negative where the weights are still to be found */
    float *key;         /* of each candidate */
    struct sk_keys few; /* those among which a threshold is still looked for */
};
/* Bytes of its arrays for n_vocab logits. */
size_t sk_cpu_sample_bytes(uint32_t n_vocab);
/* mem: sk_cpu_sample_bytes, aligned as sk_malloc does. */
struct sk_cpu_room sk_cpu_room(void *mem, uint32_t n_vocab);

/* s is not SK_SAMP_TARGET. O(n). */
int32_t sk_cpu_sample_row(const struct sk_ktab *t, const struct sk_samp *s, const struct sk_logits_span *row,
                          void *mem);

/* Takes the candidates that can matter of a row that is one of n_rank spans of the vocabulary, and the weight of all
 * that the first filter wants to know of. room->c.max: the largest z of all spans. guess: where top_p is the first
 * filter, leave out what a sample says will not be kept, too. Returns the logit below which that may have been wrong,
 * -INFINITY if nothing was guessed. */
float sk_cpu_shortlist(const struct sk_ktab *t, const struct sk_samp *s, const struct sk_logits_span *row,
                       uint32_t n_rank, bool guess, struct sk_cpu_room *room);
/* The sum of the candidates' weights, which are there afterwards. */
double sk_cpu_mass(const struct sk_ktab *t, struct sk_cpu_room *room);

/* The largest z that the kernels can do with: beyond it (or without any) kernels/ref does the row. */
#define SK_CPU_MAX_Z 0x1p60f

#endif
