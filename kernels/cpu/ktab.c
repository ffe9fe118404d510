#include "kernels/cpu/ktab.h"

static const struct {
    enum sk_isa isa;
    void (*fill)(struct sk_ktab *t);
} files[] = {
    /* rising order of isa */
    {SK_ISA_AVX512, sk_gemm_f_avx512}, {SK_ISA_AVX512, sk_gemm_q_avx512}, {SK_ISA_AVX512, sk_vec_avx512},
    {SK_ISA_AVX512, sk_attn_avx512},   {SK_ISA_AVX512, sk_logits_avx512}, {SK_ISA_AVX512_VNNI, sk_gemm_q_vnni},
};

void sk_ktab_fill(struct sk_ktab *t, enum sk_isa isa)
{
    for (unsigned i = 0; i < sizeof files / sizeof *files; i++)
        if (files[i].isa <= isa)
            files[i].fill(t);
}
