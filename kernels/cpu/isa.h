/* Instruction set levels of the x86 backend. A level is a bundle: the CPU and the operating system offer all of it and
 * all of the levels that it builds on. */
#ifndef SK_ISA_H
#define SK_ISA_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/base/err.h"

/* Each level builds on the one above it; but AVX2_VNNI is a branch of its own: no other builds on it. */
enum sk_isa {
    SK_ISA_NONE,        /* below the lowest level */
    SK_ISA_AVX2,        /* AVX2, FMA, F16C */
    SK_ISA_AVX2_VNNI,   /* VPDPBUSD of 256 bits in VEX coding (AVX-VNNI) */
    SK_ISA_AVX512,      /* AVX-512 F, BW, DQ, VL */
    SK_ISA_AVX512_VNNI, /* VPDPBUSD: four int8 products added to an int32 */
    SK_ISA_AVX512_BF16, /* VDPBF16PS: two bf16 products added to an f32 */
    SK_ISA_AMX,         /* tiles, bf16 and int8 */
    SK_ISA_COUNT
};

/* Does `isa` offer what `level` asks for? */
static inline bool sk_isa_has(enum sk_isa isa, enum sk_isa level)
{
    return isa == level || (level < isa && level != SK_ISA_AVX2_VNNI);
}
/* "none", "avx2", "avx2-vnni", "avx512", "avx512-vnni", "avx512-bf16", "amx" */
const char *sk_isa_name(enum sk_isa isa);

/* All levels of this machine, bit 1 << isa each: CPUID, and the register state that the system saves (XGETBV). For AMX
 * it asks the system for the state of the tiles, which Linux grants to a process and all its threads. */
uint32_t sk_isa_detect(void);
/* The level to use where those of `have` are there and a person asks for `want` (NULL or "": the highest). -SK_EINVAL
 * for an unknown name or one that is not in `have`; the message lists what may be said. -SK_EUNSUP where `have` is
 * empty or `want` is "none". */
int sk_isa_choose(uint32_t have, const char *want, enum sk_isa *ret, struct sk_err *err);

#endif
