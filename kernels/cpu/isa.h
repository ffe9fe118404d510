/* Instruction set levels of the x86 backend. A level is a bundle: the CPU and the operating system offer all of it and
 * all of the levels below. */
#ifndef SK_ISA_H
#define SK_ISA_H
#include "comm/base/err.h"

enum sk_isa {
    SK_ISA_NONE,        /* below the lowest level */
    SK_ISA_AVX512,      /* AVX-512 F, BW, DQ, VL; FMA, F16C, AVX2 */
    SK_ISA_AVX512_VNNI, /* VPDPBUSD: four int8 products added to an int32 */
    SK_ISA_AVX512_BF16, /* VDPBF16PS; no kernel rounds activations to bf16 for it so far: bits are those of VNNI */
    SK_ISA_COUNT
};

const char *sk_isa_name(enum sk_isa isa); /* "none", "avx512", "avx512-vnni", "avx512-bf16" */
/* The level of this machine: CPUID, and the register state that the system saves (XGETBV). */
enum sk_isa sk_isa_detect(void);
/* The level to use where `have` is there and a person asks for `want` (NULL or "": the highest). Only lowering is
 * possible: -SK_EINVAL for an unknown name or one above `have`; the message lists what may be said. -SK_EUNSUP where
 * `have` or `want` is none. */
int sk_isa_choose(enum sk_isa have, const char *want, enum sk_isa *ret, struct sk_err *err);

#endif
