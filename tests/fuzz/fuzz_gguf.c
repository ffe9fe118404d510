/* GGUF bytes -> metadata, tensor table, description, recipes. */
#include <stddef.h>
#include <stdint.h>
#include "engine/build/arch.h"
#include "engine/build/ggconf.h"
#include "engine/build/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

volatile unsigned sk_fuzz_sink; /* what is read must not be optimised away */

/* Reads every element of an array, so that a wrong bound is seen. */
static unsigned touch(const struct sk_gguf *g, const char *key)
{
    struct sk_gguf_array a = {0};
    unsigned sum = 0;

    if (sk_gguf_array(g, key, &a, NULL))
        return 0;
    for (uint64_t i = 0; i < a.n; i++) {
        const char *s;
        size_t len;
        int32_t x;
        float f;
        if (!sk_gguf_at_str(&a, i, &s, &len) && len)
            sum += (unsigned)s[0] + (unsigned)s[len - 1];
        if (!sk_gguf_at_i32(&a, i, &x))
            sum += (unsigned)x;
        if (!sk_gguf_at_f32(&a, i, &f))
            sum += f > 0;
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct sk_gguf *g;
    struct sk_hparams hp;
    struct sk_recipes recipes;
    struct sk_err err;

    if (sk_gguf_open_mem(data, n, &g, &err))
        return 0;
    sk_fuzz_sink +=
        touch(g, "tokenizer.ggml.tokens") + touch(g, "tokenizer.ggml.scores") + touch(g, "tokenizer.ggml.merges");
    const struct sk_src *src = sk_gguf_src(g);
    for (uint32_t i = 0; i < src->n_tensor; i++)
        if (src->tensors[i].bytes)
            sk_fuzz_sink += src->tensors[i].data[0] + src->tensors[i].data[src->tensors[i].bytes - 1];
    if (!sk_ggconf_read(g, &hp, &err) && !sk_arch_finish(&hp, src, &recipes, &err))
        sk_recipes_done(&recipes);
    sk_gguf_close(g);
    return 0;
}
