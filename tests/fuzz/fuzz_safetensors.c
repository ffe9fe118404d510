/* The bytes of a safetensors file -> tensor table. */
#include <stddef.h>
#include <stdint.h>
#include "engine/build/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

volatile unsigned sk_fuzz_sink; /* what is read must not be optimised away */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct sk_src s;
    struct sk_err err;

    sk_src_init(&s);
    if (!sk_safetensors_parse(&s, data, n, &err) && !sk_src_seal(&s, &err))
        for (uint32_t i = 0; i < s.n_tensor; i++)
            sk_fuzz_sink += s.tensors[i].data[0] + s.tensors[i].data[s.tensors[i].bytes - 1];
    sk_src_done(&s);
    return 0;
}
