#include "kernels/cpu/isa.h"

#include <cpuid.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static const char *const names[SK_ISA_COUNT] = {"none", "avx2", "avx2-vnni", "avx512", "avx512-vnni", "avx512-bf16", "amx"};

const char *sk_isa_name(enum sk_isa isa)
{
    return names[isa];
}

/* Bits of CPUID leaves; Intel SDM volume 2A, table 3-8. */
enum { OSXSAVE = 1 << 27, FMA = 1 << 12, F16C = 1 << 29 };                         /* 1: ecx */
enum { AVX2 = 1 << 5, AVX512F = 1 << 16, AVX512DQ = 1 << 17, AVX512BW = 1 << 30 }; /* 7.0: ebx */
static const unsigned AVX512VL = 1u << 31;                                         /* 7.0: ebx */
enum { AVX512_VNNI = 1 << 11 };                                                    /* 7.0: ecx */
enum { AVX512_BF16 = 1 << 5 };                                                     /* 7.1: eax */
enum { XCR0_AVX512 = 0xe6 }; /* the system saves XMM, YMM, opmask, upper halves of ZMM0-15, ZMM16-31 */

static bool all(unsigned bits, unsigned of)
{
    return (bits & of) == of;
}

static uint32_t xcr0(void)
{
    uint32_t lo, hi;
    __asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo;
}

enum sk_isa sk_isa_detect(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !all(c, OSXSAVE | FMA | F16C) || !all(xcr0(), XCR0_AVX512))
        return SK_ISA_NONE;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !all(b, AVX2 | AVX512F | AVX512DQ | AVX512BW | AVX512VL))
        return SK_ISA_NONE;
    if (!all(c, AVX512_VNNI))
        return SK_ISA_AVX512;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !all(a, AVX512_BF16))
        return SK_ISA_AVX512_VNNI;
    return SK_ISA_AVX512_BF16;
}

int sk_isa_choose(enum sk_isa have, const char *want, enum sk_isa *ret, struct sk_err *err)
{
    char known[128] = "";

    if (have == SK_ISA_NONE)
        return sk_err_set(err, SK_EUNSUP, NULL, "this CPU has no AVX-512 (F, BW, DQ, VL)");
    if (want == NULL || want[0] == '\0') {
        *ret = have;
        return 0;
    }
    if (strcmp(want, names[SK_ISA_NONE]) == 0)
        return sk_err_set(err, SK_EUNSUP, "SKEIN_ISA", "SKEIN_ISA=none switches the SIMD backend off");
    for (enum sk_isa i = SK_ISA_AVX512; i <= have; i++) {
        if (strcmp(want, names[i]) == 0) {
            *ret = i;
            return 0;
        }
        size_t n = strlen(known);
        snprintf(known + n, sizeof known - n, "%s%s", n > 0 ? ", " : "", names[i]);
    }
    return sk_err_set(err, SK_EINVAL, "SKEIN_ISA", "\"%s\" is not a level of this CPU; its levels are none, %s", want, known);
}
