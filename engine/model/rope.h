/* Rotary embeddings (Su et al. 2021, RoFormer): the table of cos and sin that attention reads. Frequency scaling
 * (llama3, YaRN, linear) is folded into the stored inverse frequencies by skein-build. */
#ifndef SK_MODEL_ROPE_H
#define SK_MODEL_ROPE_H
#include "comm/dir/desc.h"
#include "kernels/kernels.h"

/* Bytes of the table: [max_len][dim / 2] pairs (cos, sin) of f32. */
uint64_t sk_rope_bytes(const struct sk_rope *rope, uint32_t max_len);
/* Fills `table` (of that size, in backend memory). The angle is the float32 product position * inverse frequency, as in
 * transformers: at position 10,000 its rounding is what the reference has too. -SK_ENOMEM. */
int sk_rope_fill(const struct sk_rope *rope, const float *inv_freq, uint32_t max_len, struct sk_backend *be,
                 struct sk_dev table);

#endif
