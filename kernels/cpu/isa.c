#include "kernels/cpu/isa.h"

#include <cpuid.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/kernels.h"

static const char *const names[SK_ISA_COUNT] = {"none",        "avx2",        "avx2-vnni", "avx512",
                                                "avx512-vnni", "avx512-bf16", "amx"};

const char *sk_isa_name(enum sk_isa isa)
{
    return names[isa];
}

/* Bits of CPUID leaves; Intel SDM volume 2A, table 3-8. */
enum { FMA = 1 << 12, OSXSAVE = 1 << 27, F16C = 1 << 29 };                         /* 1: ecx */
enum { AVX2 = 1 << 5, AVX512F = 1 << 16, AVX512DQ = 1 << 17, AVX512BW = 1 << 30 }; /* 7.0: ebx */
static const uint32_t AVX512VL = 1u << 31;                                         /* 7.0: ebx */
enum { AVX512_VNNI = 1 << 11 };                                                    /* 7.0: ecx */
enum { AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24, AMX_INT8 = 1 << 25 };               /* 7.0: edx */
enum { AVX_VNNI = 1 << 4, AVX512_BF16 = 1 << 5 };                                  /* 7.1: eax */
/* What the system saves: XMM and YMM; opmask, upper halves of ZMM0-15, ZMM16-31; tiles and their configuration. */
enum { XCR0_AVX = 0x6, XCR0_AVX512 = 0xe0, XCR0_AMX = 0x60000 };
/* linux/arch/x86/include/uapi/asm/prctl.h; the tiles' data is state component 18. */
enum { REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };

/* What CPUID and XGETBV say. */
struct cpu {
    uint32_t ecx1, ebx7, ecx7, edx7, eax71, xcr0;
};

static bool all(uint32_t bits, uint32_t of)
{
    return (bits & of) == of;
}

static struct cpu read_cpu(void)
{
    struct cpu c = {0};
    uint32_t a, b, d, high;

    __get_cpuid(1, &a, &b, &c.ecx1, &d);
    if (__get_cpuid_count(7, 0, &a, &c.ebx7, &c.ecx7, &c.edx7) && a >= 1)
        __get_cpuid_count(7, 1, &c.eax71, &b, &d, &high);
    if (all(c.ecx1, OSXSAVE))
        __asm__("xgetbv" : "=a"(c.xcr0), "=d"(high) : "c"(0));
    return c;
}

static bool offers(const struct cpu *c, enum sk_isa isa)
{
    switch (isa) {
    case SK_ISA_AVX2:
        return all(c->xcr0, XCR0_AVX) && all(c->ecx1, FMA | F16C) && all(c->ebx7, AVX2);
    case SK_ISA_AVX2_VNNI:
        return all(c->eax71, AVX_VNNI);
    case SK_ISA_AVX512:
        return all(c->xcr0, XCR0_AVX512) && all(c->ebx7, AVX512F | AVX512DQ | AVX512BW | AVX512VL);
    case SK_ISA_AVX512_VNNI:
        return all(c->ecx7, AVX512_VNNI);
    case SK_ISA_AVX512_BF16:
        return all(c->eax71, AVX512_BF16);
    case SK_ISA_AMX:
        return all(c->xcr0, XCR0_AMX) && all(c->edx7, AMX_BF16 | AMX_TILE | AMX_INT8) &&
               syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XTILEDATA) == 0;
    default:
        return true;
    }
}

uint32_t sk_isa_detect(void)
{
    const struct cpu c = read_cpu();
    uint32_t have = 0;

    for (enum sk_isa isa = SK_ISA_AVX2; isa < SK_ISA_COUNT; isa++) {
        uint32_t needs = 0;
        for (enum sk_isa below = SK_ISA_AVX2; below < isa; below++)
            needs |= (uint32_t)sk_isa_has(isa, below) << below;
        if (all(have, needs) && offers(&c, isa))
            have |= 1u << isa;
    }
    return have;
}

int sk_isa_choose(uint32_t have, const char *want, enum sk_isa *ret, struct sk_err *err)
{
    const bool any = want == NULL || want[0] == '\0';
    char known[128] = "";

    if (have == 0)
        return sk_err_set(err, SK_EUNSUP, NULL, "this CPU has no AVX2, FMA and F16C");
    if (!any && strcmp(want, names[SK_ISA_NONE]) == 0)
        return sk_err_set(err, SK_EUNSUP, "SKEIN_ISA", "SKEIN_ISA=none switches the SIMD backend off");
    for (enum sk_isa isa = SK_ISA_COUNT - 1; isa > SK_ISA_NONE; isa--) {
        if (!(have >> isa & 1))
            continue;
        if (any || strcmp(want, names[isa]) == 0) {
            *ret = isa;
            return 0;
        }
        const size_t n = strlen(known);
        snprintf(known + n, sizeof known - n, ", %s", names[isa]);
    }
    return sk_err_set(err, SK_EINVAL, "SKEIN_ISA", "\"%s\" is not a level of this CPU; its levels are none%s", want,
                      known);
}

/* Leaves 80000002 to 80000004 are the 48 characters of the name, with blanks around it in places. */
void sk_cpu_model(char ret[SK_CPU_MODEL])
{
    uint32_t r[13] = {0};
    char *name = (char *)r;

    for (unsigned i = 0; i < 3; i++)
        if (!__get_cpuid(0x80000002 + i, &r[4 * i], &r[4 * i + 1], &r[4 * i + 2], &r[4 * i + 3]))
            name = "unknown";
    while (*name == ' ')
        name++;
    size_t n = strlen(name);
    while (n > 0 && name[n - 1] == ' ')
        n--;
    for (size_t i = 0; i < n; i++) /* it goes into files */
        ret[i] = name[i] < ' ' || name[i] > '~' || name[i] == '"' || name[i] == '\\' ? '?' : name[i];
    ret[n] = '\0';
}
