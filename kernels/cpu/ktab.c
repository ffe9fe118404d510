#include "kernels/cpu/ktab.h"

#include <string.h>

static const struct {
    enum sk_isa isa;
    void (*fill)(struct sk_ktab *t);
} files[] = {
    /* rising order of isa */
    {SK_ISA_AVX2, sk_gemm_f_avx2},
    {SK_ISA_AVX2, sk_gemm_q_avx2},
    {SK_ISA_AVX2, sk_vec_avx2},
    {SK_ISA_AVX2, sk_attn_avx2},
    {SK_ISA_AVX2, sk_kv_avx2},
    {SK_ISA_AVX2, sk_logits_avx2},
    {SK_ISA_AVX2, sk_sample_avx2},
    {SK_ISA_AVX2_VNNI, sk_gemm_q_avxvnni},
    {SK_ISA_AVX512, sk_gemm_f_avx512},
    {SK_ISA_AVX512, sk_gemm_q_avx512},
    {SK_ISA_AVX512, sk_vec_avx512},
    {SK_ISA_AVX512, sk_attn_avx512},
    {SK_ISA_AVX512, sk_kv_avx512},
    {SK_ISA_AVX512, sk_logits_avx512},
    {SK_ISA_AVX512, sk_sample_avx512},
    {SK_ISA_AVX512_VNNI, sk_gemm_q_vnni},
    {SK_ISA_AVX512_BF16, sk_gemm_f_bf16},
    {SK_ISA_AVX512_BF16, sk_attn_bf16},
    {SK_ISA_AMX, sk_attn_amx},
    {SK_ISA_AMX, sk_gemm_q_amx},
    {SK_ISA_AMX, sk_gemm_f_amx}, /* the latter has the prompt class of q8, q4, q4s */
};

void sk_ktab_put_gemm(struct sk_ktab *t, enum sk_dtype dtype, const struct sk_gemm_kernel *kernel)
{
    for (int c = 0; c < SK_CLASS_COUNT; c++)
        t->gemm[c][dtype] = kernel;
}

void sk_ktab_put_attn(struct sk_ktab *t, enum sk_dtype dtype, sk_attn_fn fn)
{
    for (int c = 0; c < SK_CLASS_COUNT; c++)
        t->attn[c][dtype] = fn;
}

void sk_ktab_fill(struct sk_ktab *t, enum sk_isa isa)
{
    for (unsigned i = 0; i < sizeof files / sizeof *files; i++)
        if (sk_isa_has(isa, files[i].isa))
            files[i].fill(t);
}

bool sk_ktab_classes_equal(const struct sk_ktab *t)
{
    return memcmp(t->gemm[SK_CLASS_PROMPT], t->gemm[SK_CLASS_DECODE], sizeof t->gemm[0]) == 0 &&
           memcmp(t->attn[SK_CLASS_PROMPT], t->attn[SK_CLASS_DECODE], sizeof t->attn[0]) == 0;
}
