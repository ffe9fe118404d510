#include "kernels/cpu/ktab.h"

static const struct {
    enum sk_isa isa;
    void (*fill)(struct sk_ktab *t);
} files[] = {
    /* rising order of isa */
    {SK_ISA_AVX512, sk_gemm_f_avx512}, {SK_ISA_AVX512, sk_gemm_q_avx512}, {SK_ISA_AVX512, sk_vec_avx512},
    {SK_ISA_AVX512, sk_attn_avx512},   {SK_ISA_AVX512, sk_logits_avx512}, {SK_ISA_AVX512_VNNI, sk_gemm_q_vnni},
};

void sk_ktab_put_gemm(struct sk_ktab *t, enum sk_dtype dtype, const struct sk_gemm_kernel *kernel)
{
    for (int c = 0; c < SK_CLASS_COUNT; c++)
        t->gemm[c][dtype] = kernel;
}

void sk_ktab_fill(struct sk_ktab *t, enum sk_isa isa)
{
    for (unsigned i = 0; i < sizeof files / sizeof *files; i++)
        if (sk_isa_has(isa, files[i].isa))
            files[i].fill(t);
}
