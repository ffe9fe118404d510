/* What the sampling ops are told of each result row (struct sk_samp), from the parameters of its slot. */
#ifndef SK_MODEL_SAMPLE_H
#define SK_MODEL_SAMPLE_H
#include "engine/model/slot.h"

/* The row that draws the token at `pos` of a slot; `want` is the run's (SK_RUN_MIN_TOKENS). */
void sk_sample_fill_draw(const struct sk_slots *s, uint32_t slot, uint32_t pos, uint32_t want, struct sk_samp *ret);
/* The row that asks for the log-prob of prompt token `pos`. */
void sk_sample_fill_target(const struct sk_slots *s, uint32_t slot, uint32_t pos, struct sk_samp *ret);

#endif
